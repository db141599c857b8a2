//! The core: inputs and the time go in; outputs and the next deadline come out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::contest::Contest;
use crate::discover::{
    Hints, Led, Path, PathKey, Uplink, Way, discover, foreign_defaults, led, own_defaults, renamed,
};
use crate::elect::{Candidate, Election, Move, Terms};
use crate::event::{Answer, Input, Outcome, Output};
use crate::judge::{Comeback, Desk, Judge, Limits, Pace, Standing, TargetWay};
use crate::memory::{Known, Memory, Remembered};
use crate::own::{Op, OwnRoute, OwnRule, RuleForm, probe_table};
use crate::plan::{current_pin, has_room_below, plain_metric};
use crate::policy::{Mode, Policy};
use crate::snapshot::{Family, Hop, LinkIndex, Prefix, Snapshot};
use crate::status::{Aside, Cause, Change, GatewaySource, Notice, Obstacle, PathRulesState, Reason};
use crate::time::Instant;
use crate::undone::Undone;

mod close;
mod refusals;
mod show;
mod tell;
mod wakefulness;
mod write;

use close::Sockets;
use refusals::Refusals;
use wakefulness::Wakefulness;
use write::Applying;

/// No turn follows another by itself sooner than this.
const AT_ONCE: Duration = Duration::from_millis(1);

/// An uplink that works in one family gets its address and gateway in the other within so many times
/// patience, or has none there.
const FAMILY_COMES: u32 = 5;

/// Who gives an interface its address lays the default route that belongs to it within this. Some look
/// whether there is one already, and take a pin for theirs.
const OTHERS_FIRST: Duration = Duration::from_secs(1);

/// Of the paths that are gone, so many that fell are remembered, the last to fall first: whoever makes ever
/// new interfaces costs no more memory than this.
const GONE_MAX: usize = 64;

/// What a process begins with.
#[derive(Debug, Clone)]
pub struct Start {
    /// The configuration.
    pub policy: Policy,
    /// What the process before left, if anything.
    pub memory: Memory,
    /// The kernel's `boot_id`.
    pub boot_id: String,
    /// A number of this machine, always the same: spreads a rack's coming back over time.
    pub machine: u64,
    /// The moment.
    pub now: Instant,
}

/// Judges, elects, plans. It does nothing itself: see [`Output`].
#[derive(Debug)]
pub struct Core {
    policy: Policy,
    /// What is wrong with the configuration that was read since.
    misconfigured: Option<String>,
    limits: Limits,
    boot_id: String,
    /// The process before had decided.
    decided_before: bool,
    clock: Wakefulness,
    /// The end of the wait for a tier-1 port, in real time: somebody waits for READY. None once that was
    /// told, in this process or before.
    boot_until: Option<Instant>,
    ready: bool,
    snapshot: Option<Snapshot>,
    stale: bool,
    uplinks: Vec<Uplink>,
    /// The interfaces that the uplinks lead through, or led through last: those that there are, and those
    /// that are gone and have a judge.
    led: Led,
    judges: BTreeMap<PathKey, Judge>,
    /// The gateways that worked last, of the uplinks that there are.
    gateways: BTreeMap<PathKey, Known>,
    /// Paths that begin with a gateway that only memory names, and from when on they may.
    waiting: BTreeMap<PathKey, Instant>,
    families: [FamilyState; 2],
    /// The interfaces whose `src_valid_mark` we set.
    checks_set: BTreeSet<LinkIndex>,
    sockets: Sockets,
    desk: Desk,
    outputs: VecDeque<Output>,
    changes: VecDeque<Change>,
    applying: Applying,
    /// Once we are asked to end: so often what is ours was removed.
    stopping: Option<usize>,
}

/// How path rules are, where something keeps them from standing, and who does so.
type Hindered = (PathRulesState, Option<Obstacle>);

/// What a family has decided and done.
#[derive(Debug)]
struct FamilyState {
    family: Family,
    election: Election,
    /// Since when that is elected: real time, for people.
    since: Instant,
    contest: Contest,
    /// The same for the ways of probes to targets: what goes wrong there must not keep the pin.
    ways: Contest,
    /// The same for path rules.
    paths: Contest,
    /// The hops that the kernel refuses.
    refusals: Refusals,
    /// Connections cannot be marked: what was said to our nftables table when it was last laid.
    unmarked: Option<Outcome>,
    /// What is safe only with what the kernel refuses, or another takes away, was removed until we try again.
    withdrawn: bool,
    /// The same for the pin's rule.
    unruled: bool,
    /// The paths that path rules were wanted for last: interface, addresses, whether only kept.
    wish: Vec<(LinkIndex, Vec<Prefix>, bool)>,
    aside: Option<Aside>,
    /// What keeps path rules from standing, as it was told last.
    hindered: Option<Hindered>,
    /// The lowest metric with room below that a foreign default route was seen with.
    lowest: Option<u32>,
    /// The metric of the best foreign default route when that last was one that nobody meant.
    plain: Option<u32>,
    /// A metric of the main table that was taken by something that we do not see.
    taken: Option<u32>,
    /// The pin that this process laid last.
    laid: Option<OwnRoute>,
    /// The operations that would have been written last, while nothing is written.
    dry: Vec<Op>,
}

impl Core {
    /// A core that has seen nothing yet; give it an [`Input::Snapshot`] first.
    #[must_use]
    pub fn new(start: Start) -> Self {
        let same_boot = !start.boot_id.is_empty() && start.memory.boot_id == start.boot_id;
        let memory = if same_boot { start.memory } else { Memory::default() };
        let key = |path: &Remembered| PathKey { uplink: path.uplink.clone(), family: path.family };
        let known =
            |path: &Remembered| Some((key(path), path.gateway.clone().filter(|known| known.mac.is_some())?));
        let gateways = memory.paths.iter().filter_map(known).collect();
        let judges =
            memory.paths.iter().map(|path| (key(path), Judge::remembered(path, start.now))).collect();
        let led = memory.paths.iter().map(|path| (path.uplink.clone(), path.link)).collect();
        let boot_until = (!memory.ready).then(|| start.now + start.policy.boot_wait);
        let spread = u32::try_from(start.machine % 1024).unwrap_or(0);
        Self {
            limits: limits(&start.policy, spread),
            policy: start.policy,
            misconfigured: None,
            boot_id: start.boot_id,
            decided_before: memory.ready,
            clock: Wakefulness { asleep: Duration::ZERO, deadline: Instant::NEVER },
            boot_until,
            ready: false,
            snapshot: None,
            stale: true,
            uplinks: Vec::new(),
            led,
            judges,
            gateways,
            waiting: BTreeMap::new(),
            families: Family::ALL.map(|family| FamilyState {
                family,
                election: Election::new(Vec::new()),
                since: start.now,
                contest: Contest::default(),
                ways: Contest::default(),
                paths: Contest::default(),
                refusals: Refusals::default(),
                unmarked: None,
                withdrawn: false,
                unruled: false,
                wish: Vec::new(),
                aside: None,
                hindered: None,
                lowest: None,
                plain: None,
                taken: None,
                laid: None,
                dry: Vec::new(),
            }),
            checks_set: BTreeSet::new(),
            sockets: Sockets::default(),
            desk: Desk::new(start.machine ^ start.now.as_nanos()),
            outputs: VecDeque::new(),
            changes: VecDeque::new(),
            applying: Applying::No,
            stopping: None,
        }
    }

    /// Takes in what happened and decides anew.
    pub fn handle(&mut self, input: Input, now: Instant) {
        self.handle_all([input], now);
    }

    /// Takes in everything that happened, then decides once: no verdict is given on a path whose
    /// answer waits behind another input.
    pub fn handle_all(&mut self, inputs: impl IntoIterator<Item = Input>, now: Instant) {
        let now = self.wake(now);
        for input in inputs {
            self.take_in(input, now);
        }
        self.advance(now);
    }

    /// When to call [`Core::handle`] with [`Input::Deadline`] if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.clock.deadline
    }

    /// The next thing to be done outside.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What the next process should know.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let keys: BTreeSet<&PathKey> = self.judges.keys().chain(self.gateways.keys()).collect();
        let paths = keys.into_iter().filter_map(|key| {
            let gateway = self.gateways.get(key).filter(|known| known.mac.is_some()).cloned();
            let comeback = self.judges.get(key).map(Judge::comeback);
            let falls = comeback.map(Comeback::falls).unwrap_or_default();
            (gateway.is_some() || !falls.is_empty()).then(|| Remembered {
                uplink: key.uplink.clone(),
                family: key.family,
                link: self.led.get(&key.uplink).copied().flatten(),
                falls: falls.iter().map(|fall| self.clock.real(*fall)).collect(),
                returning: comeback.is_some_and(Comeback::returning),
                gateway,
            })
        });
        // Who ends without a trace has decided nothing for the next.
        let ready = self.ready && self.stopping.is_none();
        Memory { boot_id: self.boot_id.clone(), ready, paths: paths.collect() }
    }

    /// Notices whether we come late, and tells the awake time.
    fn wake(&mut self, real: Instant) -> Instant {
        let late = real.since(self.clock.deadline);
        if late > self.policy.patience / 16 {
            self.clock.asleep += late;
            // Short of a probe's own limit, every answer still waits to be read: time stood still, and
            // that is all. To void the questions then would cost a busy machine its patience.
            if late >= self.policy.patience / 4 {
                self.judges.values_mut().for_each(Judge::void);
                let now = self.clock.awake(real);
                self.tell(Notice::Asleep(late), now);
            }
        }
        self.clock.awake(real)
    }

    fn take_in(&mut self, input: Input, now: Instant) {
        match input {
            Input::Snapshot(snapshot) => self.look(*snapshot, now),
            Input::Answer(answer) => self.answered(answer, now),
            Input::Unsent(id) => self.judges.values_mut().for_each(|judge| judge.unsent(id)),
            Input::Forwarded { link, family, at } => self.forwarded(link, family, at, now),
            Input::Applied(outcomes) => self.applied(&outcomes, now),
            Input::Closed { closing, sockets } => self.closed(closing, sockets, now),
            Input::CannotClose(errno) => self.cannot_close(errno, now),
            Input::Undone(undone) => self.undone(undone, now),
            Input::Policy(policy) => {
                self.limits = limits(&policy, self.limits.spread);
                self.policy = *policy;
                self.misconfigured = None;
                self.stale = true;
                for state in &mut self.families {
                    state.begin_anew();
                    state.refusals = Refusals::default();
                }
                self.sockets = Sockets::default();
            }
            Input::Misconfigured(mistake) => self.misconfigured = Some(mistake),
            Input::Deadline => {}
            Input::Stop => self.stopping = self.stopping.or(Some(0)),
        }
    }

    fn look(&mut self, snapshot: Snapshot, now: Instant) {
        let first = self.snapshot.is_none();
        if self.applying == Applying::Looking {
            self.applying = Applying::No;
        } else if self.snapshot.as_ref() != Some(&snapshot) {
            for state in &mut self.families {
                state.contest.changed(now);
                state.ways.changed(now);
                state.paths.changed(now);
                state.refusals.changed(now);
            }
        }
        self.snapshot = Some(snapshot);
        self.stale = true;
        if first {
            self.rediscover(now);
            self.take_over(now);
        }
    }

    fn undone(&mut self, undone: Undone, now: Instant) {
        let state = self.families.iter_mut().find(|state| state.family == undone.family);
        state.into_iter().for_each(|state| state.part(undone.how.part()).undone(undone.clone(), now));
    }

    fn answered(&mut self, answer: Answer, now: Instant) {
        let at = self.clock.awake(answer.at);
        let limits = self.limits;
        self.judges.values_mut().any(|judge| judge.answered(answer, at, now, limits));
    }

    fn forwarded(&mut self, link: LinkIndex, family: Family, at: Instant, now: Instant) {
        let at = self.clock.awake(at).min(now);
        let (limits, judges) = (self.limits, self.judges.iter_mut().filter(|(key, _)| key.family == family));
        for (_, judge) in judges {
            if matches!(judge.way(), Way::Gateway { link: through, .. } if *through == link) {
                judge.forwarded(at, limits);
            }
        }
    }

    /// One turn round: discover, judge, elect, plan.
    fn advance(&mut self, now: Instant) {
        if self.snapshot.is_none() {
            return;
        }
        self.note_gateways();
        if self.stale || self.waiting.values().any(|until| *until <= now) {
            self.rediscover(now);
        }
        self.judge(now);
        if self.change_gateways(now) {
            self.judge(now);
        }
        self.elect(now);
        self.tell_health(now);
        self.tell_ready(now);
        self.write(now);
        self.tell_path_rules(now);
        self.close_sockets(now);
        self.send_wishes();
        let deadline = self.next_deadline(now);
        self.clock.deadline = if deadline == Instant::NEVER { deadline } else { self.clock.real(deadline) };
    }

    fn rediscover(&mut self, now: Instant) {
        self.rediscover_by(&self.hints(), now);
    }

    fn rediscover_by(&mut self, hints: &Hints, now: Instant) {
        let Some(snapshot) = &self.snapshot else { return };
        self.stale = false;
        let mut uplinks = discover(snapshot, &self.policy, hints);
        self.waiting = self.waiting(&uplinks, now);
        for uplink in &mut uplinks {
            for path in &mut uplink.paths {
                let key = PathKey { uplink: uplink.name.clone(), family: path.family };
                if self.waiting.contains_key(&key) {
                    path.lose_gateway();
                }
            }
        }
        for state in &mut self.families {
            let metrics = foreign_defaults(snapshot, state.family).map(|route| route.metric);
            state.lowest = state.lowest.into_iter().chain(metrics.filter(|m| has_room_below(*m))).min();
            state.plain = plain_metric(snapshot, &self.policy, state.family).or(state.plain);
            state.mark_refused(snapshot, &mut uplinks);
        }
        self.desk.retain(|link| snapshot.links.contains_key(&link));
        let before = std::mem::replace(&mut self.uplinks, uplinks);
        self.rename();
        self.gateways.retain(|key, _| self.uplinks.iter().any(|uplink| uplink.name == key.uplink));
        self.tell_uplinks(&before, now);
        let mut vanished: Vec<PathKey> = self.judges.keys().cloned().collect();
        for (key, path) in paths(&self.uplinks) {
            vanished.retain(|other| *other != key);
            let targets = target_way(self.snapshot.as_ref(), path, self.policy.mode);
            let judge = self.judges.entry(key).or_insert_with(Judge::new);
            judge.discovered(path, targets, now, &mut self.desk);
        }
        for key in vanished {
            self.judges.get_mut(&key).into_iter().for_each(|judge| judge.vanished(&mut self.desk));
        }
        self.forget(now);
    }

    /// What is gone and never fell leaves nothing to remember, nor does what fell so long ago, or so many
    /// others after it, that it is damped no more. What is elected falls right now.
    fn forget(&mut self, now: Instant) {
        let here = paths(&self.uplinks).map(|(key, _)| key);
        let mut kept: BTreeSet<PathKey> = here.chain(self.elected()).collect();
        let damped = |(key, judge): (&PathKey, &Judge)| {
            let until = judge.comeback().damped_until(self.limits).filter(|until| *until > now)?;
            (!kept.contains(key)).then(|| (until, key.clone()))
        };
        let mut gone: Vec<(Instant, PathKey)> = self.judges.iter().filter_map(damped).collect();
        gone.sort_by(|a, b| b.cmp(a));
        kept.extend(gone.into_iter().take(GONE_MAX).map(|(_, key)| key));
        self.judges.retain(|key, _| kept.contains(key));
        let names: BTreeSet<&String> = self.uplinks.iter().map(|uplink| &uplink.name).collect();
        self.led.retain(|name, _| names.contains(name) || kept.iter().any(|key| key.uplink == *name));
    }

    /// Paths that had no gateway, for which memory has one, and where no pin leads there: until when they
    /// go without.
    fn waiting(&self, uplinks: &[Uplink], now: Instant) -> BTreeMap<PathKey, Instant> {
        let pins = self.pins();
        let had = |key: &PathKey| paths(&self.uplinks).any(|(k, path)| k == *key && path.hop.is_some());
        let waiting = paths(uplinks).filter_map(|(key, path)| {
            let pinned = || path.hop.clone().is_some_and(|hop| pins.contains(&(key.family, hop)));
            let begins = path.learned == Some(GatewaySource::Memory) && !had(&key) && !pinned();
            let until = self.waiting.get(&key).copied().unwrap_or(now + OTHERS_FIRST);
            (begins && until > now).then_some((key, until))
        });
        waiting.collect()
    }

    /// What works and may be gone from the kernel's table for the moment of a renewal.
    fn hints(&self) -> Hints {
        let link = |key: PathKey| self.uplinks.iter().find(|uplink| uplink.name == key.uplink)?.link;
        let elected: Vec<LinkIndex> = if self.uplinks.is_empty() {
            self.pins().into_iter().map(|(_, hop)| hop.link).collect()
        } else {
            self.elected().filter_map(link).collect()
        };
        Hints { gateways: self.gateways.clone(), elected, in_use: self.in_use() }
    }

    /// Where the pins lead: at the beginning, those that were left.
    fn pins(&self) -> Vec<(Family, Hop)> {
        let pin = |family| Some((family, current_pin(self.snapshot.as_ref()?, family)?));
        let hops = |(family, pin): (Family, OwnRoute)| -> Vec<(Family, Hop)> {
            pin.legs().iter().map(|leg| (family, leg.hop.clone())).collect()
        };
        Family::ALL.into_iter().filter_map(pin).flat_map(hops).collect()
    }

    /// Remembers the gateways that answered.
    fn note_gateways(&mut self) {
        let mut news = false;
        for (key, path) in paths(&self.uplinks) {
            match path.learned {
                // Only a router withdraws what it advertised, and it does so on purpose.
                Some(GatewaySource::Advertisement) => news |= self.gateways.remove(&key).is_some(),
                // It is remembered as it was when somebody named it.
                Some(GatewaySource::Memory) | None => {}
                Some(_) => {
                    let judge = self.judges.get(&key).filter(|judge| judge.last_answer().is_some());
                    let known = judge.and_then(|judge| known(path, judge, self.gateways.get(&key)));
                    if let Some(known) = known.filter(|known| self.gateways.get(&key) != Some(known)) {
                        news |= known.mac.is_some();
                        self.gateways.insert(key, known);
                    }
                }
            }
        }
        if news {
            self.outputs.push_back(Output::Remember);
        }
    }

    /// The gateways that paths go by and that have answered; at the beginning, those of the pins that were
    /// left. One that is known by neither gives way to whatever is preferred.
    fn in_use(&self) -> Vec<(Family, Hop)> {
        let pins = self.pins();
        if self.uplinks.is_empty() {
            return pins;
        }
        let used = paths(&self.uplinks).filter_map(|(key, path)| {
            let unproven = self.judges.get(&key).is_some_and(Judge::is_unproven);
            let used = (key.family, path.hop.clone()?);
            (!unproven || pins.contains(&used)).then_some(used)
        });
        used.collect()
    }

    /// Lets paths go on by another of their gateways where that is better. Tells whether any does.
    fn change_gateways(&mut self, now: Instant) -> bool {
        let change = |(key, judge): (&PathKey, &Judge)| {
            let instead = judge.gateway_instead(now, self.limits)?;
            let Way::Gateway { link, gateway, .. } = *judge.way() else { return None };
            let (uplink, family, health) = (key.uplink.clone(), key.family, judge.standing().health());
            let notice = Notice::LeavesGateway { uplink, family, gateway, health };
            Some((family, Hop { link, gateway: Some(instead) }, notice))
        };
        let changes: Vec<_> = self.judges.iter().filter_map(change).collect();
        if changes.is_empty() {
            return false;
        }
        let mut hints = self.hints();
        for (family, hop, notice) in changes {
            hints.in_use.retain(|(its, used)| (*its, used.link) != (family, hop.link));
            hints.in_use.push((family, hop));
            self.tell(notice, now);
        }
        self.rediscover_by(&hints, now);
        true
    }

    /// What is known of a path stays with it when it is called otherwise.
    fn rename(&mut self) {
        let now = led(&self.uplinks);
        let names = renamed(&self.led, &now);
        let new_name = |old: &str| names.iter().find(|(name, _)| name == old).map(|(_, new)| new.clone());
        let before = std::mem::take(&mut self.led).into_iter();
        self.led = before.map(|(name, link)| (new_name(&name).unwrap_or(name), link)).collect();
        for (name, link) in now {
            let last = self.led.entry(name).or_default();
            *last = link.or(*last);
        }
        let (moved, stayed): (Vec<_>, Vec<_>) = std::mem::take(&mut self.judges)
            .into_iter()
            .partition(|(key, _)| new_name(&key.uplink).is_some());
        self.judges.extend(stayed);
        // What was kept under the new name was another's.
        self.judges.extend(moved.into_iter().filter_map(|(PathKey { uplink, family }, judge)| {
            Some((PathKey { uplink: new_name(&uplink)?, family }, judge))
        }));
        let gateways = std::mem::take(&mut self.gateways);
        self.gateways = gateways
            .into_iter()
            .map(|(key, known)| {
                let uplink = new_name(&key.uplink).unwrap_or(key.uplink);
                (PathKey { uplink, ..key }, known)
            })
            .collect();
        for state in &mut self.families {
            state.election.rename(new_name);
        }
        if !names.is_empty() {
            self.outputs.push_back(Output::Remember);
        }
    }

    /// The elected paths.
    fn elected(&self) -> impl Iterator<Item = PathKey> {
        self.families.iter().flat_map(|state| {
            let key = |uplink: &String| PathKey { uplink: uplink.clone(), family: state.family };
            state.election.elected().iter().map(key)
        })
    }

    /// What the process before decided stands as the kernel has it: by the pin that it left, or, if
    /// it had decided, by the foreign route that made a pin needless.
    fn take_over(&mut self, now: Instant) {
        let Some(snapshot) = &self.snapshot else { return };
        for state in &mut self.families {
            let family = state.family;
            let pin = current_pin(snapshot, family).map(|pin| pin.legs().clone());
            let foreign = || Some(foreign_defaults(snapshot, family).next()?.single_hop()?.clone().into());
            let Some(legs) = (if self.decided_before { pin.or_else(foreign) } else { pin }) else { continue };
            let leads = |path: &Path| path.hop.as_ref().is_some_and(|hop| legs.lead_to(hop));
            let led_to = paths(&self.uplinks).filter(|(key, path)| key.family == family && leads(path));
            let elected: Vec<String> = led_to.map(|(key, _)| key.uplink).collect();
            if !elected.is_empty() {
                state.election = Election::new(elected);
                state.since = self.clock.real(now);
            }
        }
    }

    fn judge(&mut self, now: Instant) {
        let turns: Vec<(PathKey, Pace, bool)> = self
            .judges
            .iter()
            .map(|(key, judge)| {
                let (pace, doubt) = self.pace(key, judge);
                (key.clone(), pace, doubt)
            })
            .collect();
        for (key, pace, doubt) in turns {
            if let Some(judge) = self.judges.get_mut(&key) {
                judge.advance(now, pace, doubt, self.limits, &mut self.desk);
            }
        }
    }

    /// How urgently a path is asked now, and whether its targets are asked because those of the
    /// elected path are in doubt.
    fn pace(&self, key: &PathKey, judge: &Judge) -> (Pace, bool) {
        let election = &self.family(key.family).election;
        let others = || self.elected_judges(key.family).filter(|(uplink, _)| **uplink != key.uplink);
        let doubt = election.shared() || others().any(|(_, judge)| judge.doubts_upstream());
        let undecided =
            judge.standing() == Standing::Unknown || election.elected().is_empty() || election.shared();
        if election.is_elected(&key.uplink) || undecided {
            return (Pace::Quick, doubt);
        }
        let suspected = others().any(|(_, judge)| judge.suspected().is_some());
        let hopeless = matches!(judge.standing(), Standing::Silent | Standing::Broken(_));
        (if suspected && !hopeless { Pace::Rival } else { Pace::Standby }, doubt)
    }

    fn elect(&mut self, now: Instant) {
        let terms = Terms {
            now,
            patience: self.policy.patience,
            preempt: self.policy.preempt,
            within_tier: self.policy.within_tier,
            boot_until: self.boot_until(),
        };
        let worked = |since| now.since(since) >= terms.patience * FAMILY_COMES;
        for family in Family::ALL {
            let candidates: Vec<Candidate<'_>> = self
                .uplinks
                .iter()
                .flat_map(|uplink| uplink.paths.iter().map(move |path| (uplink, path)))
                .filter(|(_, path)| path.family == family)
                .filter_map(|(uplink, path)| {
                    let key = PathKey { uplink: uplink.name.clone(), family };
                    let judge = self.judges.get(&key)?;
                    Some(Candidate {
                        uplink: &uplink.name,
                        preference: path.preference,
                        judge,
                        foreign_only: path.foreign_only,
                        awaited: uplink.expected && !lacks_family(&self.judges, &key, path, worked),
                        eligible_at: judge.eligible_at(self.limits),
                    })
                })
                .collect();
            let shared = self.families.iter().any(|s| s.family == family && s.election.shared());
            let moved = self.families.iter_mut().find(|state| state.family == family).and_then(|state| {
                let moved = state.election.decide(&candidates, terms);
                if moved.is_some() {
                    state.since = self.clock.real(now);
                    state.begin_anew();
                }
                moved
            });
            if shared && !self.family(family).election.shared() {
                // Who is silent on his own account is shown so: ask, lest it is his turn in a second only.
                let judges = self.judges.iter_mut().filter(|(key, _)| key.family == family);
                judges.for_each(|(_, judge)| judge.ask_at_once());
            }
            if let Some(moved) = moved {
                self.moved(family, moved, now);
            }
        }
    }

    fn moved(&mut self, family: Family, moved: Move, now: Instant) {
        let Move { before, now: elected, reason } = moved;
        let fell =
            matches!(reason, Reason::Fell(_) | Reason::MemberFell(_) | Reason::Gone | Reason::FirstToAnswer);
        for (key, judge) in self.judges.iter_mut().filter(|(key, _)| key.family == family) {
            match (before.contains(&key.uplink), elected.contains(&key.uplink)) {
                (true, false) if fell => {
                    judge.comeback_mut().fall(now);
                    self.sockets.left(key, judge.standing(), self.policy.patience, now);
                }
                (false, true) => judge.comeback_mut().taken(),
                (true, false) | (true, true) | (false, false) => {}
            }
        }
        self.tell(Notice::Elected { family, before, now: elected, reason }, now);
        self.outputs.push_back(Output::Remember);
    }

    /// READY is told when every family that has a default route or a gateway is decided, at the
    /// latest when the wait is over.
    fn tell_ready(&mut self, now: Instant) {
        if self.ready {
            return;
        }
        let waited = self.boot_until().is_none_or(|until| now >= until);
        let in_use = |family| paths(&self.uplinks).any(|(key, _)| key.family == family);
        let mut used = self.families.iter().filter(|state| in_use(state.family)).peekable();
        let decided = used.peek().is_some() && used.all(|state| !state.election.elected().is_empty());
        if waited || decided {
            self.ready = true;
            self.boot_until = None;
            self.tell(Notice::Ready, now);
            self.outputs.push_back(Output::Ready);
            self.outputs.push_back(Output::Remember);
        }
    }

    /// The end of the wait for a tier-1 port, in awake time.
    fn boot_until(&self) -> Option<Instant> {
        self.boot_until.map(|until| self.clock.awake(until))
    }

    /// Hands on what the judges wished for.
    fn send_wishes(&mut self) {
        for mut output in self.desk.take() {
            if let (Output::Watch { link, except, .. }, Some(snapshot)) = (&mut output, &self.snapshot) {
                let own = snapshot.addresses.iter().filter(|address| address.link == *link);
                except.extend(own.map(|address| address.prefix));
            }
            self.outputs.push_back(output);
        }
    }

    fn next_deadline(&self, now: Instant) -> Instant {
        // The election may have made a path's next question overdue.
        let judges = self
            .judges
            .iter()
            .map(|(key, judge)| judge.deadline(now, self.pace(key, judge).0, self.limits).max(now + AT_ONCE));
        let families = self.families.iter().flat_map(|state| {
            let elects = state.election.deadline(self.policy.patience);
            let writes = [&state.contest, &state.ways, &state.paths].map(|contest| contest.deadline(now));
            [elects, state.refusals.deadline(now)].into_iter().chain(writes)
        });
        let boot = self.boot_until().unwrap_or(Instant::NEVER);
        // A deadline that has passed was acted on in this turn, or waits for an input.
        let families = families.filter(|at| *at > now);
        let waiting = self.waiting.values().copied();
        let closing = self.sockets.deadlines().filter(|at| *at > now);
        let next = judges.chain(families).chain(waiting).chain(closing).min().unwrap_or(Instant::NEVER);
        if boot > now { next.min(boot) } else { next }
    }

    fn family(&self, family: Family) -> &FamilyState {
        let [ipv4, ipv6] = &self.families;
        match family {
            Family::Ipv4 => ipv4,
            Family::Ipv6 => ipv6,
        }
    }

    /// The judges of a family's elected paths, by the names of those.
    fn elected_judges(&self, family: Family) -> impl Iterator<Item = (&String, &Judge)> {
        self.family(family).election.elected().iter().filter_map(move |uplink| {
            Some((uplink, self.judges.get(&PathKey { uplink: uplink.clone(), family })?))
        })
    }
}

/// A path without gateway and address, of an uplink that has worked in the other family for as long as
/// `enough` says: it does without this family.
fn lacks_family(
    judges: &BTreeMap<PathKey, Judge>,
    key: &PathKey,
    path: &Path,
    enough: impl Fn(Instant) -> bool,
) -> bool {
    let bare = path.way == Way::Broken(Cause::Address) && path.hop.is_none();
    let others = judges.iter().filter(|(k, _)| k.uplink == key.uplink && k.family != key.family);
    let well = others.filter_map(|(_, judge)| judge.comeback().well_since());
    bare && well.min().is_some_and(enough)
}

/// All paths with their names, the most preferred uplink first.
fn paths(uplinks: &[Uplink]) -> impl Iterator<Item = (PathKey, &Path)> {
    uplinks.iter().flat_map(|uplink| {
        uplink.paths.iter().map(|path| (PathKey { uplink: uplink.name.clone(), family: path.family }, path))
    })
}

/// A path's gateway, to be known again. Who answers for it is who did so before, until it is asked.
fn known(path: &Path, judge: &Judge, before: Option<&Known>) -> Option<Known> {
    let hop = path.hop.clone()?;
    let same = before.filter(|before| before.hop == hop && before.prefix == path.prefix);
    let mac = judge.mac().or_else(|| same?.mac);
    let (attributes, order) = (path.attributes.clone(), path.preference.order);
    Some(Known { hop, prefix: path.prefix, mac, attributes, order })
}

fn limits(policy: &Policy, spread: u32) -> Limits {
    Limits { patience: policy.patience, return_after: policy.return_after, spread }
}

/// Whether a question to the path's targets would leave by the path: our rules and route stand, or,
/// where nothing is written, the host's own default route leads there.
fn target_way(snapshot: Option<&Snapshot>, path: &Path, mode: Mode) -> TargetWay {
    let (Some(snapshot), Some(hop)) = (snapshot, &path.hop) else { return TargetWay::Missing };
    if mode == Mode::Observe {
        let used = foreign_defaults(snapshot, path.family).next().and_then(|route| route.single_hop());
        return if used == Some(hop) { TargetWay::Stands } else { TargetWay::Elsewhere };
    }
    let route = own_defaults(snapshot, path.family)
        .any(|route| route.table() == probe_table(hop.link) && route.legs().lead_to(hop));
    let rules: Vec<OwnRule> = snapshot.rules.iter().filter_map(OwnRule::claim).collect();
    let stands = |target: IpAddr| {
        path.source.is_some_and(|source| {
            let form =
                RuleForm::Probe { from: Prefix::host(source), to: Prefix::host(target), link: hop.link };
            rules.contains(&OwnRule::new(path.family, form))
        })
    };
    let all = route && path.targets.iter().all(|target| stands(target.address()));
    if all { TargetWay::Stands } else { TargetWay::Missing }
}
