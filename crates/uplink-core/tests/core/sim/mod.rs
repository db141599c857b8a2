//! A host in virtual time: the kernel's tables, the world at the other end of the cables, and the
//! loop that the daemon runs around the core.

pub(crate) mod bench;
pub(crate) mod checks;
pub(crate) mod kernel;
pub(crate) mod lookup;
pub(crate) mod manager;
pub(crate) mod record;
pub(crate) mod site;
pub(crate) mod world;

use std::time::Duration;

/// Milliseconds.
pub(crate) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Seconds.
pub(crate) const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}
