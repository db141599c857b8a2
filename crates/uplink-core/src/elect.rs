//! Which paths of a family should carry the default route, and why. Never moves to something less
//! proven than what it leaves, never without a reason.

use std::time::Duration;

use crate::discover::Preference;
use crate::judge::{Judge, Standing};
use crate::policy::{Preempt, WithinTier};
use crate::status::{Cause, Health, Reason};
use crate::time::Instant;

/// A path as the election sees it.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) uplink: &'a str,
    pub(crate) preference: Preference,
    pub(crate) judge: &'a Judge,
    /// Worth waiting for at boot, if it is of tier 1.
    pub(crate) awaited: bool,
    /// It can be used by others' default routes only: the kernel refuses one of ours.
    pub(crate) foreign_only: bool,
    /// When it may be taken from a path that works; none while it is not well.
    pub(crate) eligible_at: Option<Instant>,
}

impl Candidate<'_> {
    fn standing(&self) -> Standing {
        self.judge.standing()
    }

    /// It answered a question that was asked after `other` was suspected.
    fn proved_since_suspicion_of(&self, other: &Self) -> bool {
        let upstream = other.judge.doubts_upstream();
        other.judge.suspected().is_some_and(|since| self.judge.proved_since(since, upstream))
    }

    /// It works, and has proved itself long enough.
    fn eligible(&self, now: Instant) -> bool {
        self.standing() == Standing::Up && self.eligible_at.is_some_and(|at| at <= now)
    }

    /// Both can be members of one multipath pin: of the same tier, each judged by a gateway by
    /// which the kernel takes routes of ours.
    fn beside(&self, other: &Self) -> bool {
        let can = |path: &Self| !path.preference.link_only && !path.foreign_only;
        self.preference.tier == other.preference.tier && can(self) && can(other)
    }
}

/// What the operator allows, and the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) now: Instant,
    pub(crate) patience: Duration,
    pub(crate) preempt: Preempt,
    pub(crate) within_tier: WithinTier,
    /// The end of the wait for a tier-1 port; none once READY was told.
    pub(crate) boot_until: Option<Instant>,
}

/// One family's election.
#[derive(Debug)]
pub(crate) struct Election {
    /// The most preferred first. Several are the members of a multipath pin.
    elected: Vec<String>,
    reason: Reason,
    /// Nobody was better when patience ended: since when another path answers again.
    shared: Option<Shared>,
}

/// No elected path answers well, and no rival proved itself when patience ended.
#[derive(Debug, Clone, Copy)]
struct Shared {
    first_answer: Option<Instant>,
}

/// A change of mind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) before: Vec<String>,
    pub(crate) now: Vec<String>,
    pub(crate) reason: Reason,
}

/// Paths that should be elected, and why.
type Choice<'a> = (Vec<&'a Candidate<'a>>, Reason);

impl Election {
    pub(crate) fn new(taken_over: Vec<String>) -> Self {
        let reason = if taken_over.is_empty() { Reason::NothingWorks } else { Reason::TakenOver };
        Self { elected: taken_over, reason, shared: None }
    }

    pub(crate) fn elected(&self) -> &[String] {
        &self.elected
    }

    pub(crate) fn is_elected(&self, uplink: &str) -> bool {
        self.elected.iter().any(|elected| elected == uplink)
    }

    /// Elected paths are called otherwise now.
    pub(crate) fn rename(&mut self, new_name: impl Fn(&str) -> Option<String>) {
        for name in &mut self.elected {
            if let Some(new) = new_name(name) {
                *name = new;
            }
        }
    }

    pub(crate) const fn reason(&self) -> Reason {
        self.reason
    }

    /// No elected path answers well, and nobody else does: no reason to move.
    pub(crate) const fn shared(&self) -> bool {
        self.shared.is_some()
    }

    /// When `decide` may come to another result although nothing happened.
    pub(crate) fn deadline(&self, patience: Duration) -> Instant {
        let first = self.shared.and_then(|shared| shared.first_answer);
        first.map_or(Instant::NEVER, |first| first + patience)
    }

    /// Decides anew; tells what changed. `candidates` come in any order.
    pub(crate) fn decide(&mut self, candidates: &[Candidate<'_>], terms: Terms) -> Option<Move> {
        let (choice, reason) = self.choose(candidates, terms)?;
        self.shared = None;
        self.reason = reason;
        let now: Vec<String> = choice.iter().map(|c| c.uplink.to_owned()).collect();
        let before = std::mem::replace(&mut self.elected, now.clone());
        Some(Move { before, now, reason })
    }

    fn choose<'a>(&mut self, candidates: &'a [Candidate<'a>], terms: Terms) -> Option<Choice<'a>> {
        if self.elected.is_empty() {
            let (first, reason) = self.first(candidates, terms)?;
            let members = with_members(first, candidates, terms, |c| c.standing() == Standing::Up);
            return Some((members, reason));
        }
        let mut current: Vec<&Candidate<'_>> =
            candidates.iter().filter(|c| self.is_elected(c.uplink)).collect();
        current.sort_by_key(|c| c.preference);
        let Some(lead) = current.first() else {
            let choice = best(candidates, |c| leave_to(c, Standing::Broken(Cause::Link)))?;
            return Some((with_members(choice, candidates, terms, |c| c.eligible(terms.now)), Reason::Gone));
        };
        // None of them can be used: whoever is next is not kept waiting until that is put in order.
        if current.iter().all(|c| matches!(c.standing(), Standing::Broken(_)))
            && let Some(choice) = self.leave(candidates, &current, terms)
        {
            return Some(choice);
        }
        let fewer = self.without_misfits(&current, terms).or_else(|| self.without_fallen(&current, terms));
        if fewer.is_some() {
            return fewer;
        }
        let any = |standing| current.iter().any(|c| c.standing() == standing);
        if any(Standing::Up) {
            if current.iter().all(|c| matches!(c.standing(), Standing::Up | Standing::Unknown)) {
                self.shared = None;
            }
            return preferred(candidates, lead, terms).or_else(|| grown(candidates, &current, terms));
        }
        // It has one patience to answer; the judge ends it.
        if any(Standing::Unknown) { None } else { self.leave(candidates, &current, terms) }
    }

    /// Without those that are gone, and those that can be members no more: because of the operator, or
    /// because their gateway is gone.
    fn without_misfits<'a>(&self, current: &[&'a Candidate<'a>], terms: Terms) -> Option<Choice<'a>> {
        if current.len() < self.elected.len() {
            return Some((current.to_vec(), Reason::MemberFell(Cause::Link)));
        }
        let merit = |c: &&&Candidate<'_>| (c.preference.link_only, weakness(c.standing()), c.preference);
        let lead = current.iter().min_by_key(merit)?;
        let fits = |c: &&Candidate<'_>| {
            c.uplink == lead.uplink || (terms.within_tier == WithinTier::Multipath && c.beside(lead))
        };
        let fitting: Vec<_> = current.iter().copied().filter(fits).collect();
        (fitting.len() < current.len()).then_some((fitting, Reason::Preferred))
    }

    /// Without the members that fell, if another member is better: for a silent or lossy one, that must
    /// have answered a question asked since the suspicion.
    fn without_fallen<'a>(&mut self, current: &[&'a Candidate<'a>], terms: Terms) -> Option<Choice<'a>> {
        let left_to = |from: &Candidate<'_>, to: &Candidate<'_>| {
            let lost = matches!(from.standing(), Standing::Broken(_));
            leave_to(to, from.standing()) && (lost || to.proved_since_suspicion_of(from))
        };
        let fell = |c: &&Candidate<'_>| {
            !matches!(c.standing(), Standing::Up | Standing::Unknown)
                && current.iter().any(|other| other.uplink != c.uplink && left_to(c, other))
        };
        let (fallen, stay): (Vec<&Candidate<'_>>, Vec<&Candidate<'_>>) =
            current.iter().copied().partition(fell);
        let Health::Down(cause) = fallen.first()?.standing().health() else { return None };
        // None answered, and one does again: the others have one patience to do so, too.
        if let Some(shared) = &mut self.shared {
            let first = *shared.first_answer.get_or_insert(terms.now);
            let lost = fallen.iter().any(|c| matches!(c.standing(), Standing::Broken(_)));
            if !lost && terms.now < first + terms.patience {
                return None;
            }
        }
        Some((stay, Reason::MemberFell(cause)))
    }

    /// The first decision: the best that works, once every better one is judged and a tier-1 port
    /// that is known to exist has had its time.
    fn first<'a>(
        &mut self,
        candidates: &'a [Candidate<'a>],
        terms: Terms,
    ) -> Option<(&'a Candidate<'a>, Reason)> {
        let works = best(candidates, |c| c.standing() == Standing::Up)
            .or_else(|| best(candidates, |c| c.standing() == Standing::Lossy));
        let waiting = terms.boot_until.is_some_and(|until| terms.now < until)
            && candidates.iter().any(|c| c.awaited && c.preference.tier == 1)
            && works.is_none_or(|c| c.preference.tier > 1);
        let undecided = |choice: &Candidate<'_>| {
            candidates.iter().any(|c| c.standing() == Standing::Unknown && c.preference < choice.preference)
        };
        self.reason = if waiting { Reason::Waiting } else { Reason::NothingWorks };
        let choice = works.filter(|choice| !waiting && !undecided(choice))?;
        Some((choice, Reason::First))
    }

    /// Leaves paths of which none answers well. Where one has a carrier: only to a rival that proved
    /// itself since the suspicion.
    fn leave<'a>(
        &mut self,
        candidates: &'a [Candidate<'a>],
        current: &[&Candidate<'_>],
        terms: Terms,
    ) -> Option<Choice<'a>> {
        let silent: Vec<_> =
            current.iter().filter(|c| !matches!(c.standing(), Standing::Broken(_))).collect();
        let Health::Down(cause) = silent.first().copied().or(current.first())?.standing().health() else {
            return None;
        };
        let proved = |c: &Candidate<'_>| silent.iter().all(|from| c.proved_since_suspicion_of(from));
        let rivals = |c: &Candidate<'_>| {
            current.iter().all(|from| c.uplink != from.uplink && leave_to(c, from.standing())) && proved(c)
        };
        let Some(rival) = best(candidates, rivals) else {
            if !silent.is_empty() {
                self.shared.get_or_insert(Shared { first_answer: None }).first_answer = None;
            }
            return None;
        };
        let members = with_members(rival, candidates, terms, |c| c.eligible(terms.now) && proved(c));
        let Some(shared) = self.shared.as_mut().filter(|_| !silent.is_empty()) else {
            return Some((members, Reason::Fell(cause)));
        };
        // Nobody answered. Give whoever is preferred to the first to answer one patience to do so too.
        let first = *shared.first_answer.get_or_insert(terms.now);
        let preferred_may_come = candidates
            .iter()
            .any(|c| c.preference < rival.preference && !matches!(c.standing(), Standing::Broken(_)));
        if preferred_may_come && terms.now < first + terms.patience {
            return None;
        }
        Some((members, Reason::FirstToAnswer))
    }
}

/// Whether a path of standing `from` may be left to `to`: to one that works, or that is at least
/// better than what is left.
fn leave_to(to: &Candidate<'_>, from: Standing) -> bool {
    match (to.standing(), from) {
        (Standing::Up, _) => true,
        (Standing::Unknown, Standing::Broken(_)) => true,
        (Standing::Lossy, Standing::Broken(_) | Standing::Silent) => true,
        (Standing::Lossy, _)
        | (Standing::Unknown, _)
        | (Standing::Silent | Standing::Upstream | Standing::Broken(_), _) => false,
    }
}

/// The most preferred of those that pass, those that are up first.
fn best<'a>(
    candidates: &'a [Candidate<'a>],
    pass: impl Fn(&Candidate<'_>) -> bool,
) -> Option<&'a Candidate<'a>> {
    candidates.iter().filter(|c| pass(c)).min_by_key(|c| (weakness(c.standing()), c.preference))
}

const fn weakness(standing: Standing) -> u8 {
    match standing {
        Standing::Up => 0,
        Standing::Unknown => 1,
        Standing::Lossy | Standing::Upstream | Standing::Silent | Standing::Broken(_) => 2,
    }
}

/// `choice`, and where the operator wants all of a tier, those beside it that pass.
fn with_members<'a>(
    choice: &'a Candidate<'a>,
    candidates: &'a [Candidate<'a>],
    terms: Terms,
    pass: impl Fn(&Candidate<'_>) -> bool,
) -> Vec<&'a Candidate<'a>> {
    let joins = |c: &&Candidate<'_>| {
        let wanted = terms.within_tier == WithinTier::Multipath && c.beside(choice) && pass(c);
        c.uplink == choice.uplink || wanted
    };
    let mut members: Vec<_> = candidates.iter().filter(joins).collect();
    members.sort_by_key(|c| c.preference);
    members
}

/// A path that works and is preferred to the current ones, if it has proved itself long enough.
fn preferred<'a>(candidates: &'a [Candidate<'a>], lead: &Candidate<'_>, terms: Terms) -> Option<Choice<'a>> {
    let allowed = match terms.preempt {
        Preempt::Always => true,
        Preempt::Boot => terms.boot_until.is_some(),
        Preempt::Never => false,
    };
    // It could be a member instead: nothing need be left for it.
    let beside = |c: &Candidate<'_>| terms.within_tier == WithinTier::Multipath && c.beside(lead);
    let choice = best(candidates, |c| {
        allowed && c.eligible(terms.now) && c.preference < lead.preference && !beside(c)
    })?;
    Some((with_members(choice, candidates, terms, |c| c.eligible(terms.now)), Reason::Preferred))
}

/// With the paths of the tier that have proved themselves long enough. `preempt` does not matter:
/// nothing is left for them.
fn grown<'a>(
    candidates: &'a [Candidate<'a>],
    current: &[&'a Candidate<'a>],
    terms: Terms,
) -> Option<Choice<'a>> {
    let is_member = |c: &Candidate<'_>| current.iter().any(|member| member.uplink == c.uplink);
    let joins = |c: &Candidate<'_>| is_member(c) || (c.eligible(terms.now) && c.judge.suspected().is_none());
    let members = with_members(current.first()?, candidates, terms, joins);
    (members.len() > current.len()).then_some((members, Reason::MemberJoined))
}
