//! What survives a restart within one boot, beside what the kernel's table says: that READY was
//! told, the damping, and the gateways that worked.

use serde::{Deserialize, Serialize};

use crate::snapshot::{Attributes, Family, Hop, LinkIndex, Mac, Prefix};
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
    /// The interface that it leads through, or led through last: its name may change before the next
    /// process looks.
    #[serde(default)]
    pub link: Option<LinkIndex>,
    /// The moments of the falls that made us leave, oldest first.
    pub falls: Vec<Instant>,
    /// The path fell and has not proved itself since.
    pub returning: bool,
    /// Its gateway that worked last.
    #[serde(default)]
    pub gateway: Option<Known>,
}

/// A gateway that worked. It is the same one while the prefix and the MAC are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Where it is.
    pub hop: Hop,
    /// The interface's prefix that it is in; none for one outside of all.
    pub prefix: Option<Prefix>,
    /// Who answered for it; none until somebody did. Without it, it means nothing to the next process.
    pub mac: Option<Mac>,
    /// What its pin copied.
    pub attributes: Attributes,
    /// Its path's [`Preference::order`](crate::discover::Preference::order).
    pub order: u32,
}
