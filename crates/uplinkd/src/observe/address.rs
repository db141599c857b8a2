//! Reads address messages.

use nix::libc;
use uplink_core::snapshot::{Address, LinkIndex, Prefix};

use super::ip;
use crate::netlink::{Malformed, attributes, number};

/// The address that a `RTM_NEWADDR` or `RTM_DELADDR` payload describes; `None` if it is neither
/// IPv4 nor IPv6.
pub(super) fn decode(payload: &[u8]) -> Result<Option<Address>, Malformed> {
    // struct ifaddrmsg, linux/if_addr.h
    let (header, rest) = payload.split_first_chunk::<8>().ok_or(Malformed)?;
    let [family, length, flags, scope, i0, i1, i2, i3] = *header;
    let Some(family) = ip::family(family) else {
        return Ok(None);
    };
    let mut flags = u32::from(flags);
    let (mut local, mut address) = (None, None);
    for attribute in attributes(rest) {
        match attribute? {
            (libc::IFA_LOCAL, value) => local = Some(ip::address(family, value)?),
            (libc::IFA_ADDRESS, value) => address = Some(ip::address(family, value)?),
            // The header has room for eight of them only.
            (libc::IFA_FLAGS, value) => flags = number(value)?,
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the peer's.
    let own = local.or(address).ok_or(Malformed)?;
    let has = |flag| flags & flag != 0;
    Ok(Some(Address {
        link: LinkIndex(u32::from_ne_bytes([i0, i1, i2, i3])),
        prefix: Prefix { address: own, length },
        link_local: scope >= libc::RT_SCOPE_LINK || ip::is_link_local(own),
        usable: !has(libc::IFA_F_DADFAILED) && (!has(libc::IFA_F_TENTATIVE) || has(libc::IFA_F_OPTIMISTIC)),
        // In IPv4 the bit of `temporary` means `secondary`.
        unpreferred: has(libc::IFA_F_DEPRECATED) || (own.is_ipv6() && has(libc::IFA_F_TEMPORARY)),
    }))
}
