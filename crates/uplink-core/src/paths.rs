//! Path rules: what came in through an uplink is answered through it, whichever is elected.
//!
//! Answers follow the connection: our nftables table remembers by which uplink it came in, marks the
//! answers, and rules lead marked packets to that uplink's table. What has no connection, or began here,
//! follows its source address. Source rules alone are safe only where no connections are tracked, for
//! then no addresses are translated: else the answer of a service that listens at another uplink's
//! address would follow that address (see docs/path-rules.md).

use std::collections::BTreeSet;

use crate::discover::foreign_defaults;
use crate::marks::{Check, Marked, OwnMarks, as_without_us};
use crate::own::{Lookup, Op, OwnRule, RuleForm, probe_table, unsafe_rules};
use crate::plan::own_default;
use crate::snapshot::{Address, Attributes, Family, Hop, LinkIndex, Mark, Prefix, Rule, Snapshot, protocol};
use crate::status::{MarkRule, PathRulesStatus};

/// Rules cost every lookup that they do not match a few nanoseconds: no more uplinks than this have any.
pub const MAX_UPLINKS: usize = 8;

/// No more addresses of one uplink than this have source rules.
pub const MAX_SOURCES: usize = 8;

/// A path that answers are kept on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathWay {
    /// Its next hop.
    pub hop: Hop,
    /// What its default route says.
    pub attributes: Attributes,
    /// The uplink's addresses whose packets keep to it.
    pub sources: Vec<Prefix>,
    /// What stands is kept, and nothing made: the path is not known to work.
    pub keep_only: bool,
    /// It was we who set `src_valid_mark`, even if the table that says so is gone.
    pub check_set: bool,
}

/// The uplink's addresses that have source rules: not those that come and go (temporary, deprecated), nor
/// those with a host's prefix, which wander between hosts. Nor one that the default route of another
/// uplink prefers: what is sent by that route is to have it.
#[must_use]
pub fn sources(snapshot: &Snapshot, link: LinkIndex, family: Family) -> Vec<Prefix> {
    let lasting = |address: &&Address| {
        let Prefix { address: own, length } = address.prefix;
        let elsewhere =
            |other: &Address| other.link != address.link && other.prefix.address == address.prefix.address;
        address.link == link
            && Family::of(own) == family
            && length < Prefix::host(own).length
            && address.usable
            && !address.unpreferred
            && !address.link_local
            && !snapshot.addresses.iter().any(elsewhere)
            && !foreign_defaults(snapshot, family).any(|route| {
                route.attributes.source == Some(own) && route.hops.iter().all(|hop| hop.link != link)
            })
    };
    let hosts = snapshot.addresses.iter().filter(lasting).map(|a| Prefix::host(a.prefix.address));
    let mut seen = BTreeSet::new();
    hosts.filter(|host| seen.insert(*host)).take(MAX_SOURCES).collect()
}

/// The operations that lead from what the kernel has to the path rules of these paths, those first that need
/// a mark most. `bits` are those of the marks, if connections are to be marked.
pub(crate) fn plan(snapshot: &Snapshot, family: Family, ways: &[PathWay], bits: Option<u32>) -> Vec<Op> {
    let standing: Vec<OwnRule> = standing_rules(snapshot, family).collect();
    let table = table(snapshot, family);
    let marks = bits.map(|bits| assign(snapshot, family, ways, bits));
    let marks = marks.filter(|marks| !marks.uplinks.is_empty());
    let is_marked = |link| bits.is_none() || marks.as_ref().is_some_and(|marks| marks.of(link).is_some());
    let by_mark = marks.iter().flat_map(rules_of);
    let sources = ways.iter().filter(|way| is_marked(way.hop.link)).flat_map(|way| {
        let rules = way.sources.iter().flat_map(|from| {
            both(way.hop.link).map(|to| OwnRule::new(family, RuleForm::Source { from: *from, to }))
        });
        rules.filter(|rule| !way.keep_only || standing.contains(rule))
    });
    let wanted: Vec<OwnRule> = by_mark.chain(sources).collect();
    let add = wanted.iter().filter(|rule| !standing.contains(rule)).cloned().map(Op::AddRule);
    let (stale_sources, stale_by_mark): (Vec<OwnRule>, Vec<OwnRule>) =
        stale(&standing, &wanted).partition(|rule| matches!(rule.form(), RuleForm::Source { .. }));
    stale_sources
        .into_iter()
        .map(Op::DeleteRule)
        .chain(lay(snapshot, family, table, marks.as_ref()))
        .chain(add)
        .chain(stale_by_mark.into_iter().map(Op::DeleteRule))
        .collect()
}

/// The rule of others whose packets marks could send astray: it uses one of our bits, or a strict
/// reverse-path check that we made look at marks would look at its, too. That drops, for instance, what
/// a transparent proxy marks: the way back from its table is none.
pub(crate) fn collide(
    snapshot: &Snapshot,
    family: Family,
    bits: u32,
    links: impl IntoIterator<Item = LinkIndex>,
) -> Option<MarkRule> {
    let is_foreign = |rule: &&Rule| rule.family == family && rule.protocol != protocol::UPLINKD;
    let foreign = snapshot.rules.iter().filter(is_foreign).filter_map(|rule| {
        let mark = rule.mark?;
        Some(MarkRule { priority: rule.priority, mark, our_bits: mark.value & mark.mask & bits != 0 })
    });
    let before = |link| table(snapshot, family)?.of(link).map(|marked| marked.check);
    let would_set =
        links.into_iter().any(|link| check(snapshot, family, link, before(link)) == Check::MarkedByUs);
    let mut colliding = foreign.filter(|rule| would_set || rule.our_bits);
    // Whose bits are ours must choose others in any case.
    let first = colliding.next()?;
    Some(
        Some(first)
            .filter(|rule| rule.our_bits)
            .or_else(|| colliding.find(|rule| rule.our_bits))
            .unwrap_or(first),
    )
}

/// Whether path rules stand without what makes them safe: the rules for the host's own subnets; and, where
/// connections are tracked, marks for source rules, and the rules by which those lead.
pub(crate) fn lead_alone(snapshot: &Snapshot, family: Family) -> bool {
    let rules: Vec<OwnRule> = standing_rules(snapshot, family).collect();
    let led = rules.iter().filter_map(|rule| match rule.form() {
        RuleForm::Source { to: Lookup::Uplink(link), .. } => Some(link),
        RuleForm::Source { .. }
        | RuleForm::Connection { .. }
        | RuleForm::MainWithoutDefault
        | RuleForm::Pin
        | RuleForm::Probe { .. }
        | RuleForm::Past { .. }
        | RuleForm::Landing { .. } => None,
    });
    let marks = table(snapshot, family).filter(|table| table.intact);
    let mut rules_of_marks = marks.into_iter().flat_map(rules_of);
    let mut led = led.peekable();
    let lack_marks = snapshot.tracking.in_use
        && led.peek().is_some()
        && (led.any(|link| marks.is_none_or(|marks| marks.of(link).is_none()))
            || !rules_of_marks.all(|rule| rules.contains(&rule)));
    lack_marks || unsafe_rules(&rules).next().is_some()
}

/// The marked uplinks as they stand. One may have lost its default route for the moment of a renewal: what
/// came in by it is still answered through it, as long as its link and addresses are there.
pub(crate) fn left(snapshot: &Snapshot, family: Family) -> Vec<PathWay> {
    let is_there = |link: LinkIndex| {
        snapshot.links.get(&link).is_some_and(|link| link.up && link.carrier)
            && !sources(snapshot, link, family).is_empty()
    };
    let marked = table(snapshot, family).into_iter().flat_map(|table| &table.uplinks);
    let ways = marked.filter(|marked| is_there(marked.link)).filter_map(|marked| {
        let route = own_default(snapshot, family, marked.link)?;
        let (hop, attributes) = (route.legs().single()?.clone(), route.attributes().clone());
        Some(PathWay { hop, attributes, sources: Vec::new(), keep_only: true, check_set: false })
    });
    ways.collect()
}

/// Our nftables table as it stands.
pub(crate) fn table(snapshot: &Snapshot, family: Family) -> Option<&OwnMarks> {
    snapshot.tracking.tables.iter().find(|table| table.family == family)
}

/// The rules of one path as they stand.
pub(crate) fn standing(snapshot: &Snapshot, family: Family, link: LinkIndex) -> Option<PathRulesStatus> {
    let marked = table(snapshot, family).and_then(|table| table.of(link));
    let rules = snapshot.rules.iter().filter(|rule| rule.family == family).filter_map(OwnRule::claim);
    let (mut mark, mut sources) = (None, Vec::new());
    for rule in rules {
        match rule.form() {
            RuleForm::Source { from, to: Lookup::Uplink(to) } if to == link => sources.push(from.address),
            RuleForm::Connection { mark: by, to: Lookup::Uplink(to) } if to == link => {
                mark = marked.map(|marked| marked.mark).filter(|marked| *marked == by);
            }
            RuleForm::Source { .. }
            | RuleForm::Connection { .. }
            | RuleForm::MainWithoutDefault
            | RuleForm::Pin
            | RuleForm::Probe { .. }
            | RuleForm::Past { .. }
            | RuleForm::Landing { .. } => {}
        }
    }
    let src_valid_mark = marked.is_some_and(|marked| marked.check == Check::MarkedByUs);
    let any = mark.is_some() || !sources.is_empty();
    any.then_some(PathRulesStatus { table: probe_table(link), mark, sources, src_valid_mark })
}

/// The path rules that stand.
fn standing_rules(snapshot: &Snapshot, family: Family) -> impl Iterator<Item = OwnRule> + '_ {
    let rules = snapshot.rules.iter().filter(move |rule| rule.family == family).filter_map(OwnRule::claim);
    rules.filter(|rule| match rule.form() {
        RuleForm::Connection { .. }
        | RuleForm::Source { .. }
        | RuleForm::Past { .. }
        | RuleForm::Landing { .. } => true,
        RuleForm::MainWithoutDefault | RuleForm::Pin | RuleForm::Probe { .. } => false,
    })
}

/// The rules that this table needs: they lead what it marks.
fn rules_of(marks: &OwnMarks) -> impl Iterator<Item = OwnRule> {
    let connections = marks.uplinks.iter().flat_map(|Marked { link, mark, check: _ }| {
        both(*link).map(|to| RuleForm::Connection { mark: *mark, to })
    });
    let past = marks.bits().map(as_without_us).into_iter();
    let past = past.flat_map(|mark| [RuleForm::Landing { mark }, RuleForm::Past { mark }]);
    connections.chain(past).map(|form| OwnRule::new(marks.family, form))
}

/// What the host knows of its own subnets first, then the uplink.
const fn both(link: LinkIndex) -> [Lookup; 2] {
    [Lookup::MainWithoutDefault, Lookup::Uplink(link)]
}

/// What stands and is not wanted, or stands twice.
fn stale<'a>(standing: &'a [OwnRule], wanted: &'a [OwnRule]) -> impl Iterator<Item = OwnRule> + 'a {
    let is_double = |at: usize, rule: &OwnRule| standing.iter().take(at).any(|before| before == rule);
    let is_stale = move |(at, rule): &(usize, &OwnRule)| !wanted.contains(rule) || is_double(*at, rule);
    standing.iter().enumerate().filter(is_stale).map(|(_, rule)| rule.clone())
}

/// Marks for these paths, the first of them if there are too few. Who has one keeps it: connections that came
/// in bear it. The one with all bits is nobody's.
fn assign(snapshot: &Snapshot, family: Family, ways: &[PathWay], bits: u32) -> OwnMarks {
    let table = table(snapshot, family);
    let before = |link| table.and_then(|table| table.of(link));
    let is_kept = |mark: &Mark| mark.mask == bits && *mark != as_without_us(bits);
    let kept = |link| before(link).map(|marked| marked.mark).filter(is_kept);
    let step = 1_u32.checked_shl(bits.trailing_zeros()).unwrap_or(0);
    let values = bits.checked_div(step).and_then(|values| usize::try_from(values - 1).ok()).unwrap_or(0);
    let marked = ways.iter().filter(|way| !way.keep_only || before(way.hop.link).is_some());
    let ways: Vec<&PathWay> = marked.take(values).collect();
    let mut taken: BTreeSet<u32> =
        ways.iter().filter_map(|way| kept(way.hop.link)).map(|mark| mark.value).collect();
    let mut uplinks: Vec<Marked> = Vec::new();
    for way in ways {
        let link = way.hop.link;
        let free = || (1..).map_while(|n| step.checked_mul(n)).take_while(|v| v & bits == *v && *v < bits);
        let value = kept(link).map(|mark| mark.value).or_else(|| free().find(|v| !taken.contains(v)));
        let Some(value) = value else { continue };
        taken.insert(value);
        let noted = way.check_set.then_some(Check::MarkedByUs);
        let check = check(snapshot, family, link, noted.or(before(link).map(|marked| marked.check)));
        uplinks.push(Marked { link, mark: Mark { value, mask: bits }, check });
    }
    // The same table, whoever is elected.
    uplinks.sort_by_key(|marked| marked.mark);
    OwnMarks { family, uplinks, intact: true }
}

/// Whether questions are marked, too. IPv6 has no such check of its own.
fn check(snapshot: &Snapshot, family: Family, link: LinkIndex, before: Option<Check>) -> Check {
    if family == Family::Ipv6 || !snapshot.checks_strictly(link) {
        return Check::No;
    }
    let looks = snapshot.links.get(&link).is_some_and(|link| link.src_valid_mark);
    match before {
        Some(Check::MarkedByUs) => Check::MarkedByUs,
        Some(Check::No | Check::Marked) | None if looks => Check::Marked,
        Some(Check::No | Check::Marked) | None => Check::MarkedByUs,
    }
}

/// Lays the nftables table, and sets what the strict checks need. What of that is ours is written in the
/// table, so that whoever finds it can take it back: it goes first, and comes last.
fn lay(snapshot: &Snapshot, family: Family, table: Option<&OwnMarks>, wanted: Option<&OwnMarks>) -> Vec<Op> {
    let ours = |marks: Option<&OwnMarks>| -> BTreeSet<LinkIndex> {
        let marked = marks.into_iter().flat_map(|marks| &marks.uplinks);
        marked.filter(|marked| marked.check == Check::MarkedByUs).map(|marked| marked.link).collect()
    };
    let looks = |link: &LinkIndex| snapshot.links.get(link).is_some_and(|link| link.src_valid_mark);
    let (before, now) = (ours(table), ours(wanted));
    let off = before.difference(&now).filter(|link| looks(link));
    let on = now.iter().filter(|link| !looks(link));
    let marks = match (table, wanted) {
        (Some(table), Some(wanted)) if table == wanted => None,
        (_, Some(wanted)) => Some(Op::SetMarks(wanted.clone())),
        (Some(_), None) => Some(Op::DeleteMarks(family)),
        (None, None) => None,
    };
    off.map(|link| Op::CheckByMark { link: *link, on: false })
        .chain(marks)
        .chain(on.map(|link| Op::CheckByMark { link: *link, on: true }))
        .collect()
}
