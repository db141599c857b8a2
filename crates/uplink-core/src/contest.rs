//! When to hold back: another program keeps undoing what we write, or the kernel refuses it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::event::Outcome;
use crate::own::Op;
use crate::status::Aside;
use crate::time::Instant;
use crate::undone::Undone;

/// So many writes within [`WINDOW`] are no contest: a manager that lays its routes anew makes a few.
const PATIENT: usize = 8;
/// The time that is looked back at.
const WINDOW: Duration = Duration::from_secs(10);
/// The first time to hold back; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// No longer than this.
const LONGEST: Duration = Duration::from_secs(60);
/// What the kernel refused is tried again when something changes: the first time at once, each further
/// time so much later than the time before, at most [`FIRST`].
const AGAIN: Duration = Duration::from_millis(100);

/// Counts writes that changed nobody's mind: those for a family's pin, or for its probes' ways.
#[derive(Debug, Default)]
pub(crate) struct Contest {
    writes: VecDeque<Instant>,
    held: u32,
    until: Option<Instant>,
    /// When the last attempt failed, if it did: it is the kernel then that says no, and nobody undoes
    /// anything.
    failed: Option<Instant>,
    /// What the kernel said no to since it last said yes, so that people are told once.
    told: Vec<(Op, Outcome)>,
    /// Who undid last what we wrote, and when.
    undone: Option<(Instant, Undone)>,
}

impl Contest {
    /// We wrote without having elected anew: somebody or something else made it necessary.
    pub(crate) fn wrote(&mut self, now: Instant) {
        self.failed = None;
        self.told.clear();
        self.count(now);
    }

    /// Another program undid what we wrote. One that can be named is not forgotten for one that cannot:
    /// a script is many short processes.
    pub(crate) fn undone(&mut self, undone: Undone, now: Instant) {
        self.forget_old(now);
        let named = self.undone.as_ref().is_some_and(|(_, before)| before.by.name.is_some());
        if undone.by.name.is_some() || !named {
            self.undone = Some((now, undone));
        }
    }

    /// Who undoes what we write, if the kernel told.
    pub(crate) fn undone_by(&self) -> Option<&Undone> {
        self.undone.as_ref().map(|(_, undone)| undone)
    }

    /// Nothing changed by what we did: a place was taken, or what should go was not there. The next look
    /// may show why, so that it is tried again a few times.
    pub(crate) fn in_vain(&mut self, now: Instant) {
        self.failed = Some(now);
        self.count(now);
    }

    /// The kernel refused: it will do so again until something changes.
    pub(crate) fn refused(&mut self, now: Instant) {
        self.failed = Some(now);
        self.forget_old(now);
        self.hold(now);
    }

    /// The decision changed: what we write next is not the same again.
    pub(crate) fn moved(&mut self) {
        *self = Self::default();
    }

    /// What is wanted is something else. What the kernel refuses, it still does.
    pub(crate) fn wants_anew(&mut self) {
        if self.failed.is_none() {
            self.moved();
        }
    }

    /// What is wanted stands, or nothing is wanted: nothing is refused any more.
    pub(crate) fn settled(&mut self) {
        self.failed = None;
    }

    /// Something changed in the kernel, and not by us: what it refused before it may take now.
    pub(crate) fn changed(&mut self, now: Instant) {
        if let Some(failed) = self.failed {
            let wait = AGAIN.saturating_mul(self.held.saturating_sub(1)).min(FIRST);
            self.until = self.until.map(|until| until.min((failed + wait).max(now)));
        }
    }

    /// Whether to hold back now.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Why what is wanted does not stand, if it is one of the reasons that are known here.
    pub(crate) fn aside(&self, now: Instant) -> Option<Aside> {
        self.until?;
        match self.failed {
            Some(_) => Some(Aside::Rejected),
            None => self.holds(now).then_some(Aside::Contest),
        }
    }

    /// When holding back ends.
    pub(crate) fn deadline(&self, now: Instant) -> Instant {
        self.until.filter(|until| *until > now).unwrap_or(Instant::NEVER)
    }

    /// Whether people do not know yet that the kernel says this to that.
    pub(crate) fn is_news(&mut self, op: &Op, outcome: &Outcome) -> bool {
        let new = !self.told.iter().any(|(told, said)| (told, said) == (op, outcome));
        if new {
            if self.told.len() == PATIENT {
                self.told.clear();
            }
            self.told.push((op.clone(), outcome.clone()));
        }
        new
    }

    fn count(&mut self, now: Instant) {
        self.forget_old(now);
        self.writes.push_back(now);
        if self.writes.len() > PATIENT {
            self.hold(now);
        }
    }

    fn hold(&mut self, now: Instant) {
        self.until = Some(now + FIRST.saturating_mul(1 << self.held.min(6)).min(LONGEST));
        self.held += 1;
        self.writes.clear();
    }

    fn forget_old(&mut self, now: Instant) {
        while self.writes.front().is_some_and(|write| now.since(*write) > WINDOW) {
            self.writes.pop_front();
        }
        self.undone.take_if(|(at, _)| now.since(*at) > LONGEST);
        if self.writes.is_empty() && self.until.is_none_or(|until| now.since(until) > LONGEST) {
            self.held = 0;
        }
    }
}
