//! What survives a restart: within one boot the elections and the damping, across boots the
//! gateways that worked.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::snapshot::{Family, Mac, Prefix};
use crate::time::Instant;

/// What one process leaves for the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The boot that `elected`, `ready`, `falls` and the moments belong to
    /// (`/proc/sys/kernel/random/boot_id`); in another boot they mean nothing.
    pub boot_id: String,
    /// READY was told in this boot.
    pub ready: bool,
    /// The elected uplink of each family.
    pub elected: Vec<(Family, String)>,
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
    /// The last gateway that worked here, while its Ethernet address is known.
    pub gateway: Option<RememberedGateway>,
    /// The moments of the falls that made us leave, oldest first.
    pub falls: Vec<Instant>,
    /// The path fell and has not proved itself since.
    pub returning: bool,
}

/// A gateway that worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RememberedGateway {
    /// Its address.
    pub address: IpAddr,
    /// Its Ethernet address at that time.
    pub mac: Mac,
    /// The interface's prefix that it was in.
    pub prefix: Prefix,
}
