//! The core's own time.

use std::time::Duration;

use crate::time::Instant;

/// Time as it passes while we are awake.
///
/// All rooms of the core count in awake time: a stall of the process or a suspended host is as if
/// time had stood still, so that nobody is judged for what we were not there to hear.
#[derive(Debug)]
pub(super) struct Wakefulness {
    pub(super) asleep: Duration,
    pub(super) deadline: Instant,
}

impl Wakefulness {
    pub(super) fn awake(&self, real: Instant) -> Instant {
        real - self.asleep
    }

    pub(super) fn real(&self, awake: Instant) -> Instant {
        awake + self.asleep
    }
}
