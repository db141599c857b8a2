//! Which path of a family should carry the default route, and why. Never moves to something less
//! proven than what it leaves, never without a reason.

use std::time::Duration;

use crate::discover::Preference;
use crate::judge::Standing;
use crate::policy::Preempt;
use crate::status::{Cause, Reason};
use crate::time::Instant;

/// A path as the election sees it.
#[derive(Debug)]
pub(crate) struct Candidate<'a> {
    pub(crate) uplink: &'a str,
    pub(crate) preference: Preference,
    pub(crate) standing: Standing,
    /// Worth waiting for at boot, if it is of tier 1.
    pub(crate) awaited: bool,
    /// It answered a question that was asked after the elected path was suspected.
    pub(crate) proved: bool,
    /// When it may be taken from a path that works; none while it is not well.
    pub(crate) eligible_at: Option<Instant>,
}

/// What the operator allows, and the time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) now: Instant,
    pub(crate) patience: Duration,
    pub(crate) preempt: Preempt,
    /// The end of the wait for a tier-1 port; none once READY was told.
    pub(crate) boot_until: Option<Instant>,
}

/// One family's election.
#[derive(Debug)]
pub(crate) struct Election {
    elected: Option<String>,
    reason: Reason,
    /// Nobody was better when patience ended: since when another path answers again.
    shared: Option<Shared>,
}

/// The elected path is silent, lossy or without upstream, and no rival proved itself when patience ended.
#[derive(Debug, Clone, Copy)]
struct Shared {
    first_answer: Option<Instant>,
}

/// A change of mind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) before: Option<String>,
    pub(crate) now: String,
    pub(crate) reason: Reason,
}

impl Election {
    pub(crate) fn new(taken_over: Option<String>) -> Self {
        let reason = if taken_over.is_some() { Reason::TakenOver } else { Reason::NothingWorks };
        Self { elected: taken_over, reason, shared: None }
    }

    pub(crate) fn elected(&self) -> Option<&str> {
        self.elected.as_deref()
    }

    /// The elected path is called otherwise now.
    pub(crate) fn rename(&mut self, name: String) {
        self.elected = Some(name);
    }

    pub(crate) const fn reason(&self) -> Reason {
        self.reason
    }

    /// The elected path does not answer well, and nobody else does: no reason to move.
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
        let current = self.elected.as_deref().and_then(|name| candidates.iter().find(|c| c.uplink == name));
        let (choice, reason) = match (&self.elected, current) {
            (None, _) => self.first(candidates, terms)?,
            (Some(_), None) => {
                (best(candidates, |c| leave_to(c, Standing::Broken(Cause::Link)))?, Reason::Gone)
            }
            (Some(_), Some(current)) => match current.standing {
                Standing::Up => {
                    self.shared = None;
                    (preferred(candidates, current, terms)?, Reason::Preferred)
                }
                // It has one patience to answer; the judge ends it.
                Standing::Unknown => return None,
                Standing::Broken(cause) => {
                    (best(candidates, |c| leave_to(c, current.standing))?, Reason::Fell(cause))
                }
                Standing::Lossy | Standing::Silent | Standing::Upstream => {
                    self.leave_silent(candidates, current, terms)?
                }
            },
        };
        self.shared = None;
        self.reason = reason;
        let now = choice.uplink.to_owned();
        let before = self.elected.replace(now.clone());
        Some(Move { before, now, reason })
    }

    /// The first decision: the best that works, once every better one is judged and a tier-1 port
    /// that is known to exist has had its time.
    fn first<'a>(
        &mut self,
        candidates: &'a [Candidate<'a>],
        terms: Terms,
    ) -> Option<(&'a Candidate<'a>, Reason)> {
        let works = best(candidates, |c| c.standing == Standing::Up)
            .or_else(|| best(candidates, |c| c.standing == Standing::Lossy));
        let waiting = terms.boot_until.is_some_and(|until| terms.now < until)
            && candidates.iter().any(|c| c.awaited && c.preference.tier == 1)
            && works.is_none_or(|c| c.preference.tier > 1);
        let undecided = |choice: &Candidate<'_>| {
            candidates.iter().any(|c| c.standing == Standing::Unknown && c.preference < choice.preference)
        };
        self.reason = if waiting { Reason::Waiting } else { Reason::NothingWorks };
        let choice = works.filter(|choice| !waiting && !undecided(choice))?;
        Some((choice, Reason::First))
    }

    /// Leaves a path that has a carrier but no answers: only to a rival that proved itself since.
    fn leave_silent<'a>(
        &mut self,
        candidates: &'a [Candidate<'a>],
        current: &Candidate<'_>,
        terms: Terms,
    ) -> Option<(&'a Candidate<'a>, Reason)> {
        let cause = match current.standing.health() {
            crate::status::Health::Down(cause) => cause,
            crate::status::Health::Unknown | crate::status::Health::Up => return None,
        };
        let rivals =
            |c: &Candidate<'_>| c.uplink != current.uplink && c.proved && leave_to(c, current.standing);
        let Some(rival) = best(candidates, rivals) else {
            self.shared.get_or_insert(Shared { first_answer: None }).first_answer = None;
            return None;
        };
        let Some(shared) = &mut self.shared else {
            return Some((rival, Reason::Fell(cause)));
        };
        // Nobody answered. Give whoever is preferred to the first to answer one patience to do so too.
        let first = *shared.first_answer.get_or_insert(terms.now);
        let preferred_may_come = candidates
            .iter()
            .any(|c| c.preference < rival.preference && !matches!(c.standing, Standing::Broken(_)));
        if preferred_may_come && terms.now < first + terms.patience {
            return None;
        }
        Some((rival, Reason::FirstToAnswer))
    }
}

/// Whether a path of standing `from` may be left to `to`: to one that works, or that is at least
/// better than what is left.
fn leave_to(to: &Candidate<'_>, from: Standing) -> bool {
    match (to.standing, from) {
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
    let weakness = |standing| match standing {
        Standing::Up => 0,
        Standing::Unknown => 1,
        Standing::Lossy | Standing::Upstream | Standing::Silent | Standing::Broken(_) => 2,
    };
    candidates.iter().filter(|c| pass(c)).min_by_key(|c| (weakness(c.standing), c.preference))
}

/// A path that works and is preferred to the current one, if it has proved itself long enough.
fn preferred<'a>(
    candidates: &'a [Candidate<'a>],
    current: &Candidate<'_>,
    terms: Terms,
) -> Option<&'a Candidate<'a>> {
    let allowed = match terms.preempt {
        Preempt::Always => true,
        Preempt::Boot => terms.boot_until.is_some(),
        Preempt::Never => false,
    };
    best(candidates, |c| {
        allowed
            && c.standing == Standing::Up
            && c.preference < current.preference
            && c.eligible_at.is_some_and(|at| at <= terms.now)
    })
}
