//! When a path may be taken, or taken again: coming back is slow and damped.

use std::time::Duration;

use super::{Limits, Standing};
use crate::memory::Remembered;
use crate::time::Instant;

/// Falls within this time double the wait.
const FALLS_COUNT_FOR: Duration = Duration::from_secs(600);
/// No more falls are remembered; more would not make the wait longer.
const FALLS_MAX: usize = 17;
/// No wait is longer, unless the operator's own is.
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(crate) struct Comeback {
    /// It fell when it was elected, and was not elected since.
    fell: bool,
    /// The moments of its falls, oldest first.
    falls: Vec<Instant>,
    /// Since when it has been well without a break.
    well_since: Option<Instant>,
    /// Ticks found lost for good since then.
    lost: u32,
}

impl Comeback {
    /// As the process before left it. What it wrote of the time after `now` was not so.
    pub(super) fn remembered(path: &Remembered, now: Instant) -> Self {
        let falls = path.falls.iter().copied().filter(|fall| *fall <= now).collect();
        Self { fell: path.returning, falls, ..Self::default() }
    }

    /// It was left because it went down.
    pub(crate) fn fall(&mut self, now: Instant) {
        self.fell = true;
        self.falls.retain(|fall| now.since(*fall) < FALLS_COUNT_FOR);
        self.falls.drain(..(self.falls.len() + 1).saturating_sub(FALLS_MAX));
        self.falls.push(now);
        self.well_since = None;
    }

    /// It is elected: what comes is a new fall.
    pub(crate) fn taken(&mut self) {
        self.fell = false;
    }

    /// When it may be taken from a path that works, if it stays well; none while it is not well.
    pub(crate) fn eligible_at(&self, limits: Limits) -> Option<Instant> {
        let since = self.well_since?;
        Some(if self.fell { since + self.wait(since, limits) } else { since + limits.patience })
    }

    pub(crate) const fn returning(&self) -> bool {
        self.fell
    }

    pub(crate) fn falls(&self) -> &[Instant] {
        &self.falls
    }

    /// Until when its falls make it wait longer than a path that never fell; none if there are none.
    pub(crate) fn damped_until(&self, limits: Limits) -> Option<Instant> {
        let last = *self.falls.iter().max()?;
        Some(last + FALLS_COUNT_FOR.max(self.wait(last, limits)))
    }

    /// Since when it has been well without a break.
    pub(crate) const fn well_since(&self) -> Option<Instant> {
        self.well_since
    }

    pub(super) fn advance(
        &mut self,
        now: Instant,
        standing: Standing,
        silence: Option<Duration>,
        lost: u32,
        limits: Limits,
    ) {
        let silent = silence.is_some_and(|silence| silence >= limits.patience / 2);
        if standing != Standing::Up || silent {
            self.well_since = None;
            return;
        }
        let Some(since) = self.well_since else {
            self.well_since = Some(now);
            self.lost = 0;
            return;
        };
        self.lost += lost;
        // One tick a second is asked of a path that is not elected.
        let ticks = self.wait(since, limits).as_secs().max(1);
        if self.fell && u64::from(self.lost) * 100 > ticks * 5 {
            self.well_since = Some(now);
            self.lost = 0;
        }
    }

    /// `return_after`, doubled by each recent fall but the first, and a little longer on this machine
    /// than on its neighbours, so that a rack does not move as one.
    fn wait(&self, now: Instant, limits: Limits) -> Duration {
        let recent = self.falls.iter().filter(|fall| now.since(**fall) < FALLS_COUNT_FOR).count();
        let doublings = u32::try_from(recent.min(FALLS_MAX).saturating_sub(1)).unwrap_or(0);
        let most = LONGEST.max(limits.return_after);
        let wait = limits.return_after.saturating_mul(1 << doublings).min(most);
        wait + wait / 10 * limits.spread / 1024
    }
}
