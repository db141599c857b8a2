//! Neighbour solicitation and advertisement (RFC 4861 sections 4.3, 4.4 and 7).

use std::net::Ipv6Addr;

use uplink_core::snapshot::Mac;

use super::take;

/// ICMPv6 type of a solicitation.
const SOLICITATION: u8 = 135;
/// ICMPv6 type of an advertisement.
pub(in crate::probe) const ADVERTISEMENT: u8 = 136;
/// The advertisement answers a solicitation.
pub(in crate::probe) const SOLICITED: u8 = 0x40;
/// Option: the sender's link-layer address.
const SOURCE_LINK_LAYER: u8 = 1;
/// Option: the target's link-layer address.
const TARGET_LINK_LAYER: u8 = 2;
/// Options are counted in these bytes.
const UNIT: usize = 8;

/// An advertisement that answers a solicitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::probe) struct Advertisement {
    /// The address it speaks for.
    pub(in crate::probe) target: Ipv6Addr,
    /// Its Ethernet address, where the answer says so.
    pub(in crate::probe) mac: Option<Mac>,
}

/// The message that asks who has `target`. Its checksum is the kernel's work.
pub(in crate::probe) fn solicitation(mac: Mac, target: Ipv6Addr) -> [u8; 32] {
    let mut message = [0; 32];
    message[0] = SOLICITATION;
    message[8..24].copy_from_slice(&target.octets());
    message[24] = SOURCE_LINK_LAYER;
    message[25] = 1;
    message[26..].copy_from_slice(&mac.0);
    message
}

/// The multicast group at which `target` listens for solicitations (RFC 4291 section 2.7.1).
pub(in crate::probe) fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    const GROUP: u128 = 0xff02_0000_0000_0000_0000_0001_ff00_0000;
    Ipv6Addr::from_bits(GROUP | target.to_bits() & 0x00ff_ffff)
}

/// Reads a solicited advertisement, valid as RFC 4861 section 7.1.2 has it. The caller has checked
/// the hop limit, the kernel the checksum.
pub(in crate::probe) fn advertisement(mut message: &[u8]) -> Option<Advertisement> {
    let rest = &mut message;
    let [kind, code, _, _, flags, _, _, _] = take(rest)?;
    if kind != ADVERTISEMENT || code != 0 || flags & SOLICITED == 0 {
        return None;
    }
    let target = Ipv6Addr::from(take::<16>(rest)?);
    if target.is_multicast() {
        return None;
    }
    let mac = target_mac(rest)?;
    Some(Advertisement { target, mac })
}

/// The target's Ethernet address among the options; the outer none means that they are malformed,
/// and with them the message.
fn target_mac(mut options: &[u8]) -> Option<Option<Mac>> {
    let mut mac = None;
    while let [kind, length, ..] = *options {
        let length = usize::from(length) * UNIT;
        if length == 0 {
            return None;
        }
        let (option, rest) = options.split_at_checked(length)?;
        if kind == TARGET_LINK_LAYER && length == UNIT {
            mac = option.last_chunk().copied().map(Mac);
        }
        options = rest;
    }
    options.is_empty().then_some(mac)
}

#[cfg(test)]
pub(in crate::probe) mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn gateway() -> Ipv6Addr {
        "fe80::12:3456".parse().unwrap()
    }

    /// A solicited advertisement with the target's Ethernet address.
    pub(in crate::probe) fn answered() -> Vec<u8> {
        let mut message = solicitation(MAC, gateway());
        (message[0], message[4], message[24]) = (136, 0xe0, 2);
        message.to_vec()
    }

    #[test]
    fn a_solicitation_is_well_formed() {
        let expected = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &gateway().octets(), &[1, 1, 2, 0, 0, 0, 0, 1]];
        assert_eq!(solicitation(MAC, gateway())[..], expected.concat());
        assert_eq!(solicited_node(gateway()), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
    }

    #[test]
    fn an_advertisement_names_who_answers() {
        let answer = |mac| Some(Advertisement { target: gateway(), mac });
        assert_eq!(advertisement(&answered()), answer(Some(MAC)));
        assert_eq!(advertisement(&answered()[..24]), answer(None), "no option");
        let more = [&answered()[..], &[14, 1, 0, 0, 0, 0, 0, 0]].concat();
        assert_eq!(advertisement(&more), answer(Some(MAC)), "an unknown option is skipped");
    }

    #[test]
    fn malformed_and_unsolicited_ones_are_discarded() {
        for (offset, value) in [(0, 135), (1, 1), (4, 0xa0), (8, 0xff), (25, 0), (25, 2)] {
            let mut message = answered();
            message[offset] = value;
            assert_eq!(advertisement(&message), None, "byte {offset} is {value}");
        }
        assert_eq!(advertisement(&answered()[..25]), None, "cut within an option");
        assert_eq!(advertisement(&answered()[..23]), None, "cut within the target");
    }

    proptest::proptest! {
        #[test]
        fn any_options_are_survived(options: Vec<u8>) {
            let mut message = answered();
            message.splice(24.., options);
            let _ = advertisement(&message);
        }
    }
}
