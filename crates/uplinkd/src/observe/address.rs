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
        no_prefix_route: has(libc::IFA_F_NOPREFIXROUTE),
    }))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use netlink_packet_core::Emitable;
    use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

    use super::*;
    use crate::netlink::address_family;
    use uplink_core::snapshot::Family;

    fn decoded(address: &str, flags: AddressFlags, more: Vec<AddressAttribute>) -> Address {
        let address: IpAddr = address.parse().unwrap();
        let mut message = AddressMessage::default();
        message.header.family = address_family(Family::of(address));
        message.header.prefix_len = 24;
        message.header.index = 3;
        message.attributes = vec![AddressAttribute::Address(address), AddressAttribute::Flags(flags)];
        message.attributes.extend(more);
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        decode(&payload).unwrap().unwrap()
    }

    #[test]
    fn the_own_address_is_taken_and_not_the_peers() {
        let own = AddressAttribute::Local("10.0.0.1".parse().unwrap());
        let address = decoded("10.0.0.2", AddressFlags::empty(), vec![own]);
        assert_eq!(address.prefix.to_string(), "10.0.0.1/24");
        assert_eq!(address.link, LinkIndex(3));
    }

    #[test]
    fn flags_say_what_an_address_is_good_for() {
        use AddressFlags as F;
        for (address, flags, usable, unpreferred) in [
            ("fd00::1", F::Permanent, true, false),
            ("fd00::1", F::Tentative, false, false),
            ("fd00::1", F::Tentative | F::Optimistic, true, false),
            ("fd00::1", F::Dadfailed, false, false),
            ("fd00::1", F::Deprecated, true, true),
            ("fd00::1", F::Secondary, true, true),
            ("10.0.0.1", F::Secondary, true, false),
        ] {
            let address = decoded(address, flags, Vec::new());
            assert_eq!((address.usable, address.unpreferred), (usable, unpreferred), "{flags:?}");
        }
    }

    #[test]
    fn an_address_may_have_no_route_to_its_prefix() {
        for (flags, expected) in [(AddressFlags::Noprefixroute, true), (AddressFlags::Permanent, false)] {
            assert_eq!(decoded("10.0.0.1", flags, Vec::new()).no_prefix_route, expected);
        }
    }

    #[test]
    fn link_local_ranges_are_known_whatever_their_scope() {
        for (address, link_local) in
            [("169.254.9.9", true), ("fe80::1", true), ("10.0.0.1", false), ("fd00::1", false)]
        {
            let decoded = decoded(address, AddressFlags::empty(), Vec::new());
            assert_eq!(decoded.link_local, link_local, "{address}");
        }
    }
}
