//! What the host's DHCP clients wrote down about their leases, as data.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::snapshot::{Address, Link, LinkIndex};

/// The leases of all interfaces, by whatever client. IPv4 only: DHCPv6 names no routers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    /// What was read. Nobody cleans up behind a client that is gone: only a lease of an address that
    /// the interface has now means something.
    pub held: Vec<Lease>,
    /// What is there and could not be read.
    pub unreadable: Vec<Unreadable>,
}

/// One lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whose it is.
    pub interface: Holder,
    /// The address.
    pub address: Ipv4Addr,
    /// The routers that came with it (RFC 2132 section 3.5), the preferred first.
    pub routers: Vec<Ipv4Addr>,
}

/// How a client names the interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// By its number.
    Index(LinkIndex),
    /// By its name.
    Name(String),
}

/// A file or folder that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable {
    /// Whose leases are in it; none if that can be anybody's.
    pub interface: Option<Holder>,
    /// Where it is.
    pub path: String,
    /// What the kernel said.
    pub why: String,
}

impl Leases {
    /// The router that the lease of one of these addresses of `link` names, and that is on the link.
    pub(crate) fn router<'a>(
        &self,
        link: &Link,
        addresses: impl Iterator<Item = &'a Address> + Clone,
    ) -> Option<IpAddr> {
        self.held.iter().filter(|lease| lease.interface.is(link)).find_map(|lease| {
            let leased = addresses.clone().find(|address| address.prefix.address == lease.address)?;
            let routers = lease.routers.iter().filter(|router| **router != lease.address);
            routers.map(|router| IpAddr::V4(*router)).find(|router| {
                // An address without a subnet has all its neighbours outside of that.
                leased.prefix.contains(*router) || leased.prefix.length == 32
            })
        })
    }

    /// What may hold a lease of `link` and could not be read.
    pub(crate) fn unreadable(&self, link: &Link) -> Option<&Unreadable> {
        let may_be_its =
            |file: &&Unreadable| file.interface.as_ref().is_none_or(|interface| interface.is(link));
        self.unreadable.iter().find(may_be_its)
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.why)
    }
}

impl Holder {
    fn is(&self, link: &Link) -> bool {
        match self {
            Self::Index(index) => *index == link.index,
            Self::Name(name) => *name == link.name,
        }
    }
}
