//! What survives a restart within one boot, beside what the kernel's table says: that READY was
//! told, and the damping.

use serde::{Deserialize, Serialize};

use crate::snapshot::Family;
use crate::time::Instant;

/// What one process leaves for the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The boot that everything here belongs to
    /// (`/proc/sys/kernel/random/boot_id`); in another boot they mean nothing.
    pub boot_id: String,
    /// READY was told in this boot.
    pub ready: bool,
    /// What is known of each path.
    pub paths: Vec<Remembered>,
}

/// What is known of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The uplink.
    pub uplink: String,
    /// The family.
    pub family: Family,
    /// The moments of the falls that made us leave, oldest first.
    pub falls: Vec<Instant>,
    /// The path fell and has not proved itself since.
    pub returning: bool,
}
