//! Has planned operations carried out, and takes in what the kernel said.

use std::collections::VecDeque;

use super::refusals::goes_by;
use super::{Core, FamilyState, paths};
use crate::contest::Contest;
use crate::discover::{Path, PathKey, Uplink, Way};
use crate::event::{Outcome, Output};
use crate::judge::{Judge, Standing};
use crate::marks::{Check, OwnMarks};
use crate::own::{Leg, Legs, Op, OwnRoute};
use crate::paths::{self, MAX_UPLINKS, PathWay, sources};
use crate::plan::{Plan, ProbeWay, Wanted, current_pin, own_default, plan, without_unsafe_rules};
use crate::policy::{Mode, PathRules};
use crate::snapshot::{Attributes, Family, Hop, LinkIndex, Prefix};
use crate::status::{Aside, MarkRule, Notice};
use crate::time::Instant;
use crate::undone::{Part, Undone};

/// So often we try to remove what is ours when we end: others may write at the same moment.
const LAST_ROUNDS: usize = 3;

/// Where the last operations are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Applying {
    /// None are out.
    No,
    /// The kernel's word on these is awaited.
    Sent(VecDeque<Batch>),
    /// The look at what stands now is awaited.
    Looking,
}

/// Operations of which each needs those before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Batch {
    family: Family,
    purpose: Purpose,
    ops: Vec<Op>,
}

impl Batch {
    const fn part(family: Family, part: Part, ops: Vec<Op>) -> Self {
        Self { family, purpose: Purpose::Part(part), ops }
    }

    /// Lays this and takes it away again.
    fn trial(route: &OwnRoute) -> Self {
        let ops = vec![Op::AddRoute(route.clone()), Op::DeleteRoute(route.clone())];
        Self { family: route.family(), purpose: Purpose::Trial(route.clone()), ops }
    }
}

/// Why operations are carried out.
#[derive(Debug, PartialEq, Eq)]
enum Purpose {
    /// Something is missing there.
    Part(Part),
    /// To see whether the kernel takes this route.
    Trial(OwnRoute),
}

impl Core {
    /// Plans what is missing, and has it carried out: the pins of both families first.
    pub(super) fn write(&mut self, now: Instant) {
        if self.applying != Applying::No {
            return;
        }
        self.note_checks();
        let (mut pins, mut others) = (VecDeque::new(), Vec::new());
        for index in 0..self.families.len() {
            let suspects = self.suspects(index);
            if !suspects.is_empty() {
                pins.extend(suspects);
                continue;
            }
            let Some((family, plan)) = self.plan_family(index, now) else { continue };
            pins.push_back(Batch::part(family, Part::Pin, plan.pin));
            others.push(Batch::part(family, Part::Ways, plan.ways));
            others.push(Batch::part(family, Part::Paths, plan.paths));
            others.extend(self.due_trials(index, now));
        }
        pins.extend(others);
        pins.retain(|batch| !batch.ops.is_empty());
        if pins.is_empty() || self.gives_up(&pins, now) {
            return;
        }
        self.outputs.extend(pins.iter().map(|batch| Output::Apply(batch.ops.clone())));
        self.applying = Applying::Sent(pins);
    }

    /// What is to be tried before anything else is planned in a family.
    fn suspects(&self, index: usize) -> Vec<Batch> {
        let state = self.families.get(index).filter(|_| self.stopping.is_none());
        state.into_iter().flat_map(|state| state.refusals.suspects()).map(Batch::trial).collect()
    }

    /// What the kernel refused, and is to be tried again.
    fn due_trials(&self, index: usize, now: Instant) -> Vec<Batch> {
        let state = self.families.get(index).filter(|_| self.stopping.is_none());
        state.into_iter().flat_map(|state| state.refusals.due(now)).map(Batch::trial).collect()
    }

    /// Who ends does not try for ever: what stays after some rounds is told, once.
    fn gives_up(&mut self, left: &VecDeque<Batch>, now: Instant) -> bool {
        let Some(rounds) = &mut self.stopping else { return false };
        *rounds += 1;
        let rounds = *rounds;
        if rounds == LAST_ROUNDS + 1 {
            for op in left.iter().flat_map(|batch| &batch.ops) {
                self.tell(Notice::Left(op.clone()), now);
            }
        }
        rounds > LAST_ROUNDS
    }

    /// What is to be written in one family; none while we only observe.
    fn plan_family(&mut self, index: usize, now: Instant) -> Option<(Family, Plan)> {
        let family = self.families.get(index)?.family;
        let paths = match self.collision(family) {
            Some(_) => Vec::new(),
            None => self.path_ways(family),
        };
        self.families.get_mut(index)?.want(&paths, now);
        let snapshot = self.snapshot.as_ref()?;
        let mut planned = if self.stopping.is_some() {
            plan(snapshot, &self.policy, family, None, &[], &[])
        } else {
            let (wanted, probes) = (self.wanted(family), self.probe_ways(family));
            plan(snapshot, &self.policy, family, wanted.as_ref(), &probes, &paths)
        };
        self.families.get_mut(index)?.settle(&planned, now);
        let state = self.families.get(index)?;
        if self.stopping.is_none() {
            // Undecided: what the process before left stays, whatever it is.
            if state.election.elected().is_empty() {
                planned.pin.clear();
            }
            planned = state.held_back(planned, now);
            // What is safe only together with what is refused or undone goes at once.
            if state.contest.holds(now) && !state.unruled {
                planned.pin = without_unsafe_rules(snapshot, family);
            }
            let unsafe_now = state.unmarked.is_some() || paths::lead_alone(snapshot, family);
            if state.paths.holds(now) && unsafe_now && !state.withdrawn {
                planned.paths = paths::plan(snapshot, family, &[], None);
            }
        }
        if !state.paths.holds(now) || self.stopping.is_some() || !planned.paths.is_empty() {
            let forgotten = self.forgotten_checks(family, &planned.paths);
            planned.paths.extend(forgotten);
        }
        let dry = self.policy.mode == Mode::Observe;
        let ops = match dry {
            true => [planned.pin.as_slice(), &planned.ways, &planned.paths].concat(),
            false => Vec::new(),
        };
        let state = self.families.get_mut(index)?;
        let aside_changed = (state.aside != planned.aside).then_some(planned.aside);
        state.aside = planned.aside;
        let told = std::mem::replace(&mut state.dry, ops.clone());
        if let Some(aside) = aside_changed {
            let by = self.family(family).undone_by();
            self.tell(Notice::Aside { family, aside, by }, now);
        }
        // What would go at the end is what would have been written, which was told.
        let ending = self.stopping.is_some();
        for op in ops.into_iter().filter(|op| !ending && !told.contains(op)) {
            self.tell(Notice::Wrote { op, dry: true }, now);
        }
        (!dry).then_some((family, planned))
    }

    /// Where the elected paths lead: those that can be used, or, if none can, all of them, for a pin that
    /// stands already.
    fn wanted(&self, family: Family) -> Option<Wanted> {
        let state = self.family(family);
        let elected: Vec<(&Uplink, &Path)> = state
            .election
            .elected()
            .iter()
            .filter_map(|name| self.uplinks.iter().find(|uplink| uplink.name == *name))
            .flat_map(|uplink| uplink.paths.iter().map(move |path| (uplink, path)))
            .filter(|(_, path)| path.family == family)
            .collect();
        let usable = |(_, path): &&(&Uplink, &Path)| !matches!(path.way, Way::Broken(_));
        let keep_only = !elected.iter().any(|member| usable(&member));
        let ways: Vec<(Leg, Attributes)> = elected
            .iter()
            .filter(|member| keep_only || usable(member))
            .filter_map(|(uplink, path)| {
                let key = PathKey { uplink: uplink.name.clone(), family };
                let (hop, attributes) = self.proven_way(&key, path)?;
                Some((Leg { hop, weight: uplink.weight }, attributes))
            })
            .collect();
        Some(Wanted {
            legs: Legs::of(ways.iter().map(|(leg, _)| leg.clone()))?,
            attributes: Attributes::common(ways.iter().map(|(_, attributes)| attributes)),
            keep_only,
            below: state.lowest,
            plain: state.plain,
            taken: state.taken,
            laid: state.laid.clone(),
        })
    }

    /// Where a path leads by the pin.
    fn proven_way(&self, key: &PathKey, path: &Path) -> Option<(Hop, Attributes)> {
        self.way_but_for(key, path, current_pin(self.snapshot.as_ref()?, key.family))
    }

    /// Where it leads by its own table. While the kernel takes no route by its hop that is the route that
    /// stands, if one does.
    fn own_way(&self, key: &PathKey, path: &Path) -> Option<(Hop, Attributes)> {
        let (snapshot, hop) = (self.snapshot.as_ref()?, path.hop.as_ref()?);
        let standing = own_default(snapshot, key.family, hop.link);
        if self.is_refused(path) {
            let standing = standing.filter(|route| route.leads_to(hop))?;
            return Some((hop.clone(), standing.attributes().clone()));
        }
        self.way_but_for(key, path, standing)
    }

    /// Where a path leads. While the gateway that it has now never answered, that is where the route leads
    /// that stands: lookups move to nothing less proven.
    fn way_but_for(
        &self,
        key: &PathKey,
        path: &Path,
        standing: Option<OwnRoute>,
    ) -> Option<(Hop, Attributes)> {
        let hop = path.hop.clone()?;
        let unproven = self.judges.get(key).is_some_and(Judge::is_unproven);
        let led = standing.filter(|_| unproven).and_then(|route| {
            let leg = route.legs().iter().find(|leg| leg.hop.link == hop.link && leg.hop != hop)?;
            Some((leg.hop.clone(), route.attributes().clone()))
        });
        Some(led.unwrap_or_else(|| (hop, path.attributes.clone())))
    }

    fn probe_ways(&self, family: Family) -> Vec<ProbeWay> {
        let probed = paths(&self.uplinks)
            .filter(|(key, path)| key.family == family && !matches!(path.way, Way::Broken(_)));
        let ways = probed.filter_map(|(key, path)| {
            let ((hop, attributes), from) = (self.own_way(&key, path)?, Prefix::host(path.source?));
            let targets = path.targets.iter().map(|target| Prefix::host(target.address()));
            Some(targets.map(move |to| ProbeWay {
                hop: hop.clone(),
                attributes: attributes.clone(),
                from,
                to,
            }))
        });
        ways.flatten().collect()
    }

    /// The paths that answers are kept on; none where there is nothing to keep apart.
    pub(super) fn path_ways(&self, family: Family) -> Vec<PathWay> {
        let all: Vec<_> = paths(&self.uplinks).filter(|(key, _)| key.family == family).collect();
        let has_path =
            |link| all.iter().any(|(_, path)| path.hop.as_ref().is_some_and(|hop| hop.link == link));
        let snapshot = self.snapshot.as_ref().filter(|_| self.policy.path_rules != PathRules::Off);
        let mut left = snapshot.map(|snapshot| paths::left(snapshot, family)).unwrap_or_default();
        left.retain(|way| !has_path(way.hop.link));
        if snapshot.is_none() || all.len() + left.len() < 2 {
            return Vec::new();
        }
        // What comes in by an uplink without a mark is answered by the elected ones: those need one most, lest
        // an answer from another uplink's address keep to that.
        let is_elected = |(key, _): &&(PathKey, &Path)| self.family(family).election.is_elected(&key.uplink);
        let (elected, others): (Vec<_>, Vec<_>) = all.iter().partition(is_elected);
        let ways = elected.into_iter().chain(others).filter_map(|(key, path)| self.path_way(key, path));
        ways.chain(left).take(MAX_UPLINKS).collect()
    }

    /// Who flushes all of nftables takes the note with it that it was we who set `src_valid_mark`.
    fn note_checks(&mut self) {
        let Some(snapshot) = &self.snapshot else { return };
        let links = &snapshot.links;
        self.checks_set.retain(|link| links.get(link).is_some_and(|link| link.src_valid_mark));
        let marked = snapshot.tracking.tables.iter().flat_map(|table| &table.uplinks);
        let ours = marked.filter(|marked| marked.check == Check::MarkedByUs).map(|marked| marked.link);
        self.checks_set.extend(ours.filter(|link| links.get(link).is_some_and(|link| link.src_valid_mark)));
    }

    /// What the interfaces need that have `src_valid_mark` set by us, while neither the table that stands nor
    /// one that is to be laid says so: somebody took the note away.
    fn forgotten_checks(&self, family: Family, planned: &[Op]) -> Vec<Op> {
        let laid = planned.iter().filter_map(|op| match op {
            Op::SetMarks(marks) => Some(marks),
            Op::AddRoute(_)
            | Op::DeleteRoute(_)
            | Op::AddRule(_)
            | Op::DeleteRule(_)
            | Op::DeleteMarks(_)
            | Op::CheckByMark { .. } => None,
        });
        let stands = self.snapshot.as_ref().and_then(|snapshot| paths::table(snapshot, family));
        let tables: Vec<&OwnMarks> = laid.chain(stands).collect();
        let is_noted = |link: &LinkIndex| {
            let of = |table: &&OwnMarks| table.of(*link).is_some_and(|of| of.check == Check::MarkedByUs);
            tables.iter().any(of)
        };
        let forgotten = self.checks_set.iter().filter(|link| family == Family::Ipv4 && !is_noted(link));
        forgotten.map(|link| Op::CheckByMark { link: *link, on: false }).collect()
    }

    /// The rule of others whose packets marks of ours could send astray.
    pub(super) fn collision(&self, family: Family) -> Option<MarkRule> {
        let (PathRules::On(bits), Some(snapshot)) = (self.policy.path_rules, &self.snapshot) else {
            return None;
        };
        let links = paths(&self.uplinks).filter_map(|(_, path)| path.hop.as_ref()).map(|hop| hop.link);
        snapshot.tracking.in_use.then(|| paths::collide(snapshot, family, bits, links)).flatten()
    }

    /// A connection stays with the path that it came in by even while that is silent: what comes in by
    /// another is marked anew. But what began here, from its address, is not kept on a dead path.
    fn path_way(&self, key: &PathKey, path: &Path) -> Option<PathWay> {
        let ((hop, attributes), standing) = (self.own_way(key, path)?, self.judges.get(key)?.standing());
        let shared = self.family(key.family).election.shared();
        let (led, keep_only) = match standing {
            Standing::Broken(_) => return None,
            Standing::Up | Standing::Lossy => (true, false),
            Standing::Unknown => (true, true),
            // Where nobody answers there is no better way for them.
            Standing::Silent | Standing::Upstream => (shared, true),
        };
        let sources = if led { sources(self.snapshot.as_ref()?, hop.link, key.family) } else { Vec::new() };
        // Undecided: what the process before left stays.
        let keep_only = keep_only || self.family(key.family).election.elected().is_empty();
        let check_set = self.checks_set.contains(&hop.link);
        Some(PathWay { hop, attributes, sources, keep_only, check_set })
    }

    /// Whether the kernel takes no route of ours by the path's hop.
    fn is_refused(&self, path: &Path) -> bool {
        path.hop.as_ref().is_some_and(|hop| self.family(path.family).refusals.is_refused(hop))
    }

    pub(super) fn applied(&mut self, outcomes: &[Outcome], now: Instant) {
        let Applying::Sent(batches) = &mut self.applying else { return };
        let Some(batch) = batches.pop_front() else { return };
        if batches.is_empty() {
            self.applying = Applying::Looking;
        }
        let Some(state) = self.families.iter_mut().find(|state| state.family == batch.family) else { return };
        let part = match batch.purpose {
            Purpose::Part(part) => part,
            Purpose::Trial(route) => {
                let anew = outcomes.first().is_some_and(|outcome| state.refusals.tried(&route, outcome, now));
                // While its next gateway never answered the pin may lead by one that is no path's any more:
                // that it is refused changes nothing.
                if anew && paths(&self.uplinks).any(|(_, path)| goes_by(path, &route)) {
                    state.begin_anew();
                    self.stale = true;
                }
                return;
            }
        };
        let mut notices = Vec::new();
        for (op, outcome) in batch.ops.iter().zip(outcomes) {
            notices.extend(state.applied(part, op, outcome));
        }
        // What goes because its other half is refused or undone is no new attempt.
        let withdrawn = state.part(part).holds(now) && batch.ops.iter().all(Op::removes);
        match part {
            Part::Pin => state.unruled |= withdrawn,
            Part::Paths => state.withdrawn |= withdrawn,
            Part::Ways => {}
        }
        let contest = state.part(part);
        // What was tried counts, done or not: both may be in vain for ever.
        match outcomes.last() {
            None => {}
            Some(_) if withdrawn => {}
            Some(Outcome::Refused(_)) => contest.refused(now),
            Some(Outcome::Exists) => contest.in_vain(now),
            Some(Outcome::Done | Outcome::Absent) if outcomes.contains(&Outcome::Done) => contest.wrote(now),
            Some(Outcome::Done | Outcome::Absent) => contest.in_vain(now),
        }
        for notice in notices {
            self.tell(notice, now);
        }
    }
}

impl FamilyState {
    /// What was decided is another: what failed before is no reason to hold back.
    pub(super) fn begin_anew(&mut self) {
        self.contest.moved();
        self.ways.moved();
        self.paths.moved();
    }

    /// Path rules are wanted for these paths. What an address or a path's health makes necessary is no
    /// contest, however often that changes.
    fn want(&mut self, ways: &[PathWay], now: Instant) {
        let wish = |way: &PathWay| (way.hop.link, way.sources.clone(), way.keep_only);
        let wish: Vec<_> = ways.iter().map(wish).collect();
        if self.wish != wish {
            self.wish = wish;
            self.paths.wants_anew();
        }
        self.withdrawn &= self.paths.holds(now);
        self.unruled &= self.contest.holds(now);
    }

    /// Who undoes the pin, while we stand aside for that.
    pub(super) fn undone_by(&self) -> Option<Undone> {
        let contest = self.aside == Some(Aside::Contest);
        contest.then(|| self.contest.undone_by().cloned()).flatten()
    }

    pub(super) const fn part(&mut self, part: Part) -> &mut Contest {
        match part {
            Part::Pin => &mut self.contest,
            Part::Ways => &mut self.ways,
            Part::Paths => &mut self.paths,
        }
    }

    /// Nothing of these parts is missing: what the kernel refused once is not wanted any more, or stands.
    fn settle(&mut self, planned: &Plan, now: Instant) {
        for (part, ops) in [(&mut self.ways, &planned.ways), (&mut self.paths, &planned.paths)] {
            if ops.is_empty() && !part.holds(now) {
                part.settled();
            }
        }
    }

    /// What of a plan is to be written now.
    fn held_back(&self, planned: Plan, now: Instant) -> Plan {
        let Plan { mut pin, mut ways, mut paths, mut aside } = planned;
        match self.contest.aside(now) {
            Some(Aside::Rejected) if pin.is_empty() => {}
            Some(why) => aside = Some(why),
            None => {}
        }
        if self.contest.holds(now) {
            pin.clear();
        }
        if self.ways.holds(now) {
            ways.clear();
        }
        if self.paths.holds(now) {
            paths.clear();
        }
        Plan { pin, ways, paths, aside }
    }

    /// Takes in what the kernel said, and what people should be told of it.
    fn applied(&mut self, part: Part, op: &Op, outcome: &Outcome) -> Option<Notice> {
        if let Op::SetMarks(_) = op {
            self.unmarked = (*outcome != Outcome::Done).then(|| outcome.clone());
        }
        match (op, outcome) {
            (_, Outcome::Done) => {
                if let (Op::AddRoute(route), Part::Pin) = (op, part) {
                    self.laid = Some(route.clone());
                }
                return Some(Notice::Wrote { op: op.clone(), dry: false });
            }
            // Gone already is as good as deleted: the kernel, or somebody, was faster.
            (op, Outcome::Absent) if op.removes() => return None,
            (Op::AddRoute(route), Outcome::Exists) if part == Part::Pin => self.taken = Some(route.metric()),
            (_, Outcome::Exists | Outcome::Absent | Outcome::Refused(_)) => {}
        }
        self.refusals.suspect(op, outcome);
        let news = self.part(part).is_news(op, outcome);
        news.then(|| Notice::Refused { op: op.clone(), outcome: outcome.clone() })
    }
}
