//! The promises, checked after every operation and every turn.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use uplink_core::Core;
use uplink_core::event::{Closing, Outcome, Output};
use uplink_core::own::{Lookup, Op, OwnRoute, RuleForm, TABLE_TRIAL};
use uplink_core::plan::current_pin;
use uplink_core::policy::Mode;
use uplink_core::snapshot::{Address, Family, Hop, LinkIndex, Prefix, Route, Snapshot, TABLE_MAIN, protocol};
use uplink_core::status::{Aside, Cause, Health, Notice, PathRulesState, PathStatus, Reason};
use uplink_core::time::Instant;

use super::bench::{Bench, Elected};
use super::kernel::Kernel;
use super::lookup::{NoWay, Packet};

/// More turns than this in one second are a spin.
const TURNS_PER_SECOND: u32 = 400;

/// What failed is tried again within this time, and a gateway that was found is followed.
const UNFINISHED_FOR: Duration = Duration::from_secs(120);

/// The falls of this time double the wait, which is no longer.
const LOOKED_BACK: Duration = Duration::from_secs(600);

/// Counts the core's turns.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    second: u64,
    count: u32,
    pub(crate) total: u64,
}

impl Turns {
    pub(crate) fn count(&mut self, now: Instant) {
        let second = now.as_nanos() / 1_000_000_000;
        self.count = if second == self.second { self.count + 1 } else { 0 };
        (self.second, self.total) = (second, self.total + 1);
        assert!(self.count < TURNS_PER_SECOND, "{now}: the core spins");
    }
}

/// How often a path was left because it fell.
#[derive(Debug, Default)]
pub(crate) struct Falls {
    at: Vec<Instant>,
    /// It was not taken since.
    returning: bool,
}

impl Falls {
    /// The least time that must pass after the last fall: `return_after`, doubled by each further one of the
    /// last ten minutes, and no longer than those unless the operator's own wait is.
    fn wait(&self, now: Instant, return_after: Duration) -> Duration {
        let recent = self.at.iter().filter(|at| now.since(**at) < LOOKED_BACK).count();
        let doubled = return_after.saturating_mul(1 << recent.saturating_sub(1).min(16));
        doubled.min(LOOKED_BACK.max(return_after))
    }
}

/// Where lookups go while operations of one plan are carried out.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    moved: bool,
}

impl Ways {
    /// However many operations a plan has, lookups move once: from where they went to where they should.
    pub(crate) fn follow(&mut self, now: Instant, before: &Kernel, after: &Kernel, op: &Op) {
        let [old, new] = [before, after].map(|kernel| kernel.default_ways(op.family()));
        // Whoever has rules of his own may have his say on the way.
        if by_their_rules(after, op.family()).is_some_and(|theirs| new.first() == theirs.as_ref().ok()) {
            return;
        }
        // In IPv6 the hops of a pin over several go one by one.
        let moves = new.is_empty() != old.is_empty() || new.iter().any(|hop| !old.contains(hop));
        assert!(!moves || !self.moved, "{now}: {op} is the second to move lookups: {old:?}, now {new:?}");
        self.moved |= moves;
    }
}

/// The core never asks to be called at a moment that has passed.
pub(crate) fn deadline_advances(core: &Core, now: Instant) {
    assert!(core.deadline() > now, "{now}: the next deadline {} has passed", core.deadline());
}

/// Nothing is written unless something happened since the last time: somebody else changed something, a
/// decision changed, an operation failed, a gateway was found, or the process begins or ends.
pub(crate) fn writes_for_a_reason(bench: &Bench, outputs: &[Output]) {
    let writes = outputs.iter().any(|output| matches!(output, Output::Apply(_)));
    let news = |output: &Output| match output {
        Output::Notice(notice) => !matches!(notice, Notice::Wrote { .. }),
        Output::Ask(_)
        | Output::Watch { .. }
        | Output::Unwatch { .. }
        | Output::Apply(_)
        | Output::CloseSockets(_)
        | Output::Ready
        | Output::Remember => false,
    };
    let unfinished = bench.unfinished.is_some_and(|since| bench.now.since(since) < UNFINISHED_FOR);
    let reason = bench.reason || unfinished || outputs.iter().any(news);
    assert!(reason || !writes, "{}: written for no reason: {outputs:#?}", bench.now);
}

/// A pin that leads where it should, with all that it should say, and lies below the foreign routes that were
/// seen is not laid anew, whatever happens above it.
fn stays_below(bench: &Bench, route: &OwnRoute) {
    let (now, family) = (bench.now, route.family());
    let lowest = foreign_defaults(&bench.seen, family).map(|route| route.metric).min();
    let needless = |pin: &&OwnRoute| {
        pin.table() == TABLE_MAIN
            && (pin.legs(), pin.attributes()) == (route.legs(), route.attributes())
            && lowest.is_none_or(|lowest| pin.metric() < lowest)
    };
    let stands = current_pin(&bench.seen, family).filter(|pin| needless(&pin));
    assert!(stands.is_none(), "{now}: {route:?} is needless, there is {stands:?}");
}

/// Sockets are closed only of an uplink that is not elected, for the sake of others that are.
pub(crate) fn closes_what_was_left(bench: &Bench, closing: &Closing) {
    let Closing { uplink, family, addresses, elected } = closing;
    let status = bench.family(*family);
    assert_eq!(bench.policy.mode, Mode::Steer, "{}: {closing:?} although we only observe", bench.now);
    assert!(!status.elected.is_empty() && !status.elected.contains(uplink), "{}: {closing:?}", bench.now);
    assert!(!addresses.is_empty() && !elected.is_empty(), "{}: {closing:?}", bench.now);
}

/// One operation of ours: nothing foreign changes, no lookup breaks, no pin stands above a foreign
/// route of the main table that was seen.
pub(crate) fn operation(bench: &Bench, before: &Kernel, op: &Op, outcome: &Outcome) {
    let (now, after) = (bench.now, &bench.kernel);
    assert_eq!(bench.policy.mode, Mode::Steer, "{now}: {op} although we only observe");
    assert_eq!(before.foreign(), after.foreign(), "{now}: {op} changed what is not ours");
    let family = op.family();
    // A default route that refuses, or a special one, is somebody's wish: what was above it goes.
    let meant = matches!(after.without_us().default_way(family), Err(NoWay::Refused | NoWay::Opaque));
    let seen = foreign_defaults(&bench.seen, family).eq(foreign_defaults(&before.snapshot(), family));
    let lost = before.default_way(family).is_ok() && after.default_way(family).is_err();
    if lost && seen && !meant && !bench.stopping {
        let works = working(bench, family);
        assert!(works.is_empty(), "{now}: {op} left no way although {works:?} work");
    }
    if let (Op::AddRoute(route), Outcome::Done) = (op, outcome)
        && route.table() == TABLE_MAIN
    {
        let lowest = foreign_defaults(&bench.seen, family).map(|route| route.metric).min();
        assert!(lowest.is_none_or(|lowest| route.metric() < lowest), "{now}: {op} is not below all others");
        stays_below(bench, route);
    }
}

/// Where connections are tracked no source rule leads to an uplink that has no mark, as far as nobody else
/// writes between two of our operations.
pub(crate) fn sends_no_answer_astray(bench: &Bench, op: &Op, outcome: &Outcome) {
    let (now, after) = (bench.now, &bench.kernel);
    if let (Op::AddRule(rule), Outcome::Done) = (op, outcome)
        && let RuleForm::Source { to: Lookup::Uplink(link), .. } = rule.form()
        && after.tracked
        && bench.seen.tracking.in_use
    {
        // What somebody took away is missed a moment later.
        let marked = [&after.tables, &bench.seen.tracking.tables]
            .into_iter()
            .flatten()
            .any(|table| table.family == op.family() && table.of(link).is_some());
        assert!(marked, "{now}: {op} would send answers of translated connections astray");
    }
}

/// Wherever a packet had a way without us, it has one with us.
pub(crate) fn we_break_nothing(bench: &Bench) {
    let without = bench.kernel.without_us();
    for family in Family::ALL {
        let (ours, theirs) = (bench.kernel.default_way(family), without.default_way(family));
        assert!(theirs.is_err() || ours.is_ok(), "{}: {family}: {theirs:?} without us, {ours:?}", bench.now);
    }
    // What is sent from an address of ours, or belongs to a connection that came in by an uplink.
    let marks =
        bench.kernel.tables.iter().flat_map(|table| table.uplinks.iter().map(|marked| marked.mark.value));
    for mark in marks.chain([0]) {
        for Address { prefix: Prefix { address: from, .. }, .. } in &bench.kernel.addresses {
            let to = match Family::of(*from) {
                Family::Ipv4 => IpAddr::from([198, 51, 100, 7]),
                Family::Ipv6 => IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7]),
            };
            let packet = Packet { to, from: Some(*from), mark, bound: None };
            let (ours, theirs) = (bench.kernel.lookup(packet), without.lookup(packet));
            assert!(theirs.is_err() || ours.is_ok(), "{}: {packet:?}: {theirs:?}, {ours:?}", bench.now);
        }
    }
}

/// Once all is seen: where rules of others lead elsewhere than the main table does, it is there.
pub(crate) fn their_rules_have_their_say(bench: &Bench) {
    for state in bench.status().map(|status| status.families).unwrap_or_default() {
        let family = state.family;
        let Some(theirs) = by_their_rules(&bench.kernel, family) else { continue };
        let ours = bench.kernel.default_way(family);
        // While nothing is decided, or its path is broken, what stands stays as it is.
        let up = |name: &String| bench.path(name, family).is_some_and(|path| path.health == Health::Up);
        let decided = !state.elected.is_empty() && state.elected.iter().all(up);
        let agrees = state.aside.is_some() || !decided || ours == theirs;
        assert!(agrees, "{}: {family}: their rules lead to {theirs:?}, ours to {ours:?}", bench.now);
    }
}

/// Where rules of others lead, if that is elsewhere than the main table does.
fn by_their_rules(kernel: &Kernel, family: Family) -> Option<Result<Hop, NoWay>> {
    let without = kernel.without_us();
    let theirs = without.default_way(family);
    (without.without_their_rules().default_way(family) != theirs).then_some(theirs)
}

/// A silent path is left only for one that answered a question asked after the last sign of life of
/// what is left; nothing is ever taken that is known to be cut. Of several that stay or are taken, one
/// must have answered.
pub(crate) fn moved_to_something_proven(bench: &Bench, elected: &Elected) {
    let (now, family) = (bench.now, elected.family);
    let joined = elected.now.iter().filter(|name| !elected.before.contains(name));
    for name in joined {
        assert!(
            interface_of(bench, name).is_some(),
            "{now}: {family}: elected {name}, which has no interface"
        );
    }
    let to: Vec<LinkIndex> = elected.now.iter().filter_map(|name| interface_of(bench, name)).collect();
    // What has no gateway, address or link any more is not left for its silence.
    let asked = |name: &String| {
        let lost = |health| matches!(health, Health::Down(Cause::Link | Cause::Address));
        bench.path(name, family).is_some_and(|path| path.gateway.is_some() && !lost(path.health))
    };
    let left = elected.before.iter().filter(|name| !elected.now.contains(name) && asked(name));
    let left: Vec<LinkIndex> = left.filter_map(|name| interface_of(bench, name)).collect();
    let silent = match elected.reason {
        Reason::Fell(Cause::Gateway | Cause::Upstream)
        | Reason::MemberFell(Cause::Gateway | Cause::Upstream)
        | Reason::FirstToAnswer => true,
        Reason::Fell(Cause::Link | Cause::Address | Cause::Refused | Cause::Shared)
        | Reason::MemberFell(Cause::Link | Cause::Address | Cause::Refused | Cause::Shared)
        | Reason::MemberJoined
        | Reason::First
        | Reason::Gone
        | Reason::Preferred
        | Reason::NothingWorks
        | Reason::TakenOver
        | Reason::Waiting => false,
    };
    let heard = |link: LinkIndex| bench.world.heard.get(&(link, family));
    for from in left.into_iter().filter(|_| silent) {
        let last_sign = heard(from).map_or(Instant::BOOT, |heard| heard.at);
        // For the core, time stands still while the loop does not run.
        if now.since(last_sign.max(bench.woke)) >= bench.policy.patience {
            let proved =
                |to: &LinkIndex| heard(*to).is_some_and(|heard| heard.asked >= last_sign && heard.at <= now);
            let to_names = &elected.now;
            assert!(to.iter().any(proved), "{now}: {family}: moved to {to_names:?}, not known to be better");
        }
    }
}

/// Who fell is taken again from a path that works after a while of answers only. Mind: this notes who
/// fell.
pub(crate) fn comes_back_damped(bench: &mut Bench, elected: &Elected) {
    let (now, family) = (bench.now, elected.family);
    let links = |names: &[String], but: &[String]| -> Vec<LinkIndex> {
        let names = names.iter().filter(|name| !but.contains(name));
        names.filter_map(|name| interface_of(bench, name)).collect()
    };
    let (joined, left) = (links(&elected.now, &elected.before), links(&elected.before, &elected.now));
    for link in joined {
        let Some(falls) = bench.fallen.get_mut(&(link, family)) else { continue };
        let returns = std::mem::take(&mut falls.returning);
        if let (Reason::Preferred | Reason::MemberJoined, true) = (elected.reason, returns) {
            let after = now.since(falls.at.last().copied().unwrap_or(Instant::BOOT));
            let wait = falls.wait(now, bench.policy.return_after);
            assert!(
                after >= wait,
                "{now}: {family}: {link:?} is back after {after:?}, not {wait:?}: {falls:?}"
            );
        }
    }
    if let Reason::Fell(_) | Reason::MemberFell(_) | Reason::FirstToAnswer = elected.reason {
        for link in left {
            let falls = bench.fallen.entry((link, family)).or_default();
            falls.at.push(now);
            falls.returning = true;
        }
    }
}

/// Once all is seen, lookups go where the election says, but for what rules of others and dead neighbours
/// make of it.
pub(crate) fn table_agrees(bench: &Bench) {
    let Some(status) = bench.status().filter(|status| status.mode == Mode::Steer) else { return };
    for state in status.families {
        let elected = state.elected;
        let path = |name: &String| {
            let path = bench.path(name, state.family).filter(|path| path.health == Health::Up)?;
            Some(Hop { link: interface_of(bench, name)?, gateway: path.gateway })
        };
        let Some(wanted) = elected.iter().map(path).collect::<Option<BTreeSet<Hop>>>() else { continue };
        if wanted.is_empty() || state.aside.is_some() {
            continue;
        }
        let mut kernel = bench.kernel.without_their_rules();
        kernel.failed.clear();
        let ways: BTreeSet<Hop> = kernel.default_ways(state.family).into_iter().collect();
        assert_eq!(ways, wanted, "{}: {}: elected {elected:?}", bench.now, state.family);
    }
}

/// Once all is seen: by whose gateway the kernel takes no route is left while another works, and keeps
/// nothing else from being laid.
pub(crate) fn refused_hops_are_done_without(bench: &Bench) {
    let Some(status) = bench.status().filter(|status| status.mode == Mode::Steer) else { return };
    let kernel = &bench.kernel;
    for state in status.families {
        let family = state.family;
        let health = |name: &String| bench.path(name, family).map(|path| path.health);
        let refused = |name: &String| health(name) == Some(Health::Down(Cause::Refused));
        if !state.elected.is_empty() && state.elected.iter().all(refused) {
            let works = working(bench, family);
            assert!(works.is_empty(), "{}: {family}: refused is elected though {works:?} work", bench.now);
        }
        let reaches = |link| !kernel.unreachable.contains(&link);
        let elected_reach = state.elected.iter().all(|name| interface_of(bench, name).is_some_and(reaches));
        let last = bench.operations.iter().rfind(|(_, op, outcome)| {
            op.family() == family && matches!(outcome, Outcome::Refused(_)) && !is_trial(op)
        });
        let for_a_hop = last.is_some_and(|(_, op, _)| match op {
            Op::AddRoute(route) => route.legs().iter().any(|leg| !reaches(leg.hop.link)),
            _ => false,
        });
        let held = state.aside == Some(Aside::Rejected) && elected_reach && for_a_hop;
        assert!(!held, "{}: {family}: held back for a hop that is not wanted: {last:?}", bench.now);
    }
}

/// Whether it only asks whether the kernel takes a hop.
fn is_trial(op: &Op) -> bool {
    matches!(op, Op::AddRoute(route) | Op::DeleteRoute(route) if route.table() == TABLE_TRIAL)
}

/// Once all is seen: what came in by a path that works, or is sent from its address, leaves by that path, as
/// far as nothing is refused or held back.
pub(crate) fn path_rules_agree(bench: &Bench) {
    let Some(status) = bench.status().filter(|status| status.mode == Mode::Steer) else { return };
    let kernel = bench.kernel.without_their_rules();
    let refuses = kernel.refuse_rules.is_some()
        || !kernel.refuse_tables.is_empty()
        || !kernel.unreachable.is_empty()
        || kernel.refuse_marks.is_some();
    for state in status.families.iter().filter(|state| !state.elected.is_empty() && !refuses) {
        if !matches!(state.path_rules, PathRulesState::Connections | PathRulesState::Sources) {
            continue;
        }
        let to = match state.family {
            Family::Ipv4 => IpAddr::from([198, 51, 100, 7]),
            Family::Ipv6 => IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7]),
        };
        for uplink in &status.uplinks {
            let up = |path: &&PathStatus| path.family == state.family && path.health == Health::Up;
            let Some(path) = uplink.paths.iter().find(up) else { continue };
            let Some(link) = interface_of(bench, &uplink.name) else { continue };
            let hop = Ok(Hop { link, gateway: path.gateway });
            let about = format!("{}: {} {}: {path:?}", bench.now, uplink.name, state.family);
            // What was refused a moment ago is tried again a moment later.
            let waits = bench.unfinished.is_some_and(|since| bench.now.since(since) < UNFINISHED_FOR);
            let Some(rules) = &path.path_rules else {
                assert!(waits, "{about} has no path rules");
                continue;
            };
            assert_eq!(rules.mark.is_some(), state.path_rules == PathRulesState::Connections, "{about}");
            let marked = rules.mark.map(|mark| Packet { to, from: None, mark: mark.value, bound: None });
            let sent =
                rules.sources.iter().map(|from| Packet { to, from: Some(*from), mark: 0, bound: None });
            for packet in marked.into_iter().chain(sent) {
                // A default route of `main` that refuses is not passed over by our rules.
                let led = kernel.lookup(packet);
                assert!(led == Err(NoWay::Refused) || led == hop, "{about}: {packet:?}: {led:?}");
            }
            let all_bits = rules.mark.map(|mark| mark.mask).into_iter();
            for (mark, from) in all_bits.flat_map(|bits| rules.sources.iter().map(move |from| (bits, from))) {
                let without_us = kernel.lookup(Packet { to, from: None, mark: 0, bound: None });
                let led = kernel.lookup(Packet { to, from: Some(*from), mark, bound: None });
                assert_eq!(led, without_us, "{about}: from {from} with mark {mark:#x}");
            }
        }
    }
}

/// After a stop the host is as without us; that `src_valid_mark` is set is nobody else's doing here.
pub(crate) fn nothing_is_left(bench: &Bench) {
    let known = bench.kernel.links.values().filter(|link| !bench.orphaned.contains(&link.index));
    let set = known.filter(|link| link.src_valid_mark).count();
    assert!(set == 0 && !bench.kernel.has_ours(), "{}: a stop left {:#?}", bench.now, bench.kernel);
}

/// At most `most` changes of mind per family since `since`.
pub(crate) fn no_flap(bench: &Bench, since: Instant, most: usize) {
    for family in Family::ALL {
        let moves: Vec<&Elected> =
            bench.elections.iter().filter(|e| e.family == family && e.at >= since).collect();
        assert!(moves.len() <= most, "{family}: {} moves since {since}: {moves:#?}", moves.len());
    }
}

/// The paths that the core itself takes to be up.
fn working(bench: &Bench, family: Family) -> Vec<String> {
    let uplinks = bench.status().map(|status| status.uplinks).unwrap_or_default();
    let works = uplinks
        .into_iter()
        .filter(|uplink| uplink.paths.iter().any(|path| path.family == family && path.health == Health::Up));
    works.map(|uplink| uplink.name).collect()
}

fn foreign_defaults(seen: &Snapshot, family: Family) -> impl Iterator<Item = &Route> {
    seen.routes.iter().filter(move |route| {
        route.family == family
            && route.table == TABLE_MAIN
            && route.is_default()
            && route.tos == 0
            && route.protocol != protocol::UPLINKD
    })
}

fn interface_of(bench: &Bench, uplink: &str) -> Option<LinkIndex> {
    let uplinks = bench.status()?.uplinks;
    let name = uplinks.into_iter().find(|candidate| candidate.name == uplink)?.interface?;
    // Its name may have changed since the core was told.
    bench.seen.links.values().find(|link| link.name == name).map(|link| link.index)
}
