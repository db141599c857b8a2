//! Families and addresses as netlink writes them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::libc;
use uplink_core::snapshot::Family;

use crate::netlink::Malformed;

/// The family behind a number; `None` for all others (`AF_BRIDGE`, `AF_MPLS`, …).
pub(super) fn family(number: u8) -> Option<Family> {
    match i32::from(number) {
        libc::AF_INET => Some(Family::Ipv4),
        libc::AF_INET6 => Some(Family::Ipv6),
        _ => None,
    }
}

/// An address of this family.
pub(super) fn address(family: Family, value: &[u8]) -> Result<IpAddr, Malformed> {
    match family {
        Family::Ipv4 => value.try_into().map(|b: [u8; 4]| Ipv4Addr::from(b).into()),
        Family::Ipv6 => value.try_into().map(|b: [u8; 16]| Ipv6Addr::from(b).into()),
    }
    .map_err(|_| Malformed)
}

/// The address that all others of the family start from: `0.0.0.0`, `::`.
pub(super) const fn unspecified(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// 169.254.0.0/16 (RFC 3927) or fe80::/10 (RFC 4291 section 2.5.6).
pub(super) const fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}
