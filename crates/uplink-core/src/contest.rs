//! When to hold back: another program keeps undoing what we write, or the kernel keeps refusing it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Instant;

/// So many writes within [`WINDOW`] are no contest: a manager that lays its routes anew makes a few.
const PATIENT: usize = 8;
/// The time that is looked back at.
const WINDOW: Duration = Duration::from_secs(10);
/// The first time to hold back; each further one is twice as long.
const FIRST: Duration = Duration::from_secs(1);
/// No longer than this.
const LONGEST: Duration = Duration::from_secs(60);

/// Counts writes that changed nobody's mind, per family.
#[derive(Debug, Default)]
pub(crate) struct Contest {
    writes: VecDeque<Instant>,
    held: u32,
    until: Option<Instant>,
}

impl Contest {
    /// We wrote without having elected anew: somebody or something else made it necessary.
    pub(crate) fn wrote(&mut self, now: Instant) {
        self.forget_old(now);
        self.writes.push_back(now);
        if self.writes.len() > PATIENT {
            self.hold(now);
        }
    }

    /// The decision changed: what we write next is not the same again.
    pub(crate) fn moved(&mut self) {
        *self = Self::default();
    }

    /// Whether to hold back now.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// When holding back ends.
    pub(crate) fn deadline(&self, now: Instant) -> Instant {
        self.until.filter(|until| *until > now).unwrap_or(Instant::NEVER)
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
        if self.writes.is_empty() && self.until.is_none_or(|until| now.since(until) > LONGEST) {
            self.held = 0;
        }
    }
}
