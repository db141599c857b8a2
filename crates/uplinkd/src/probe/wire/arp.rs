//! ARP over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use uplink_core::snapshot::Mac;

use super::take;

/// Ethernet's protocol number for ARP.
pub(in crate::probe) const ETHERTYPE: u16 = 0x0806;
/// Hardware Ethernet, protocol IPv4, and the lengths of their addresses.
pub(in crate::probe) const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// Opcode of a request.
const REQUEST: u16 = 1;
/// Opcode of a reply.
pub(in crate::probe) const REPLY: u16 = 2;

/// An ARP reply to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::probe) struct Reply {
    /// The Ethernet address that answers.
    pub(in crate::probe) mac: Mac,
    /// The address it answers for.
    pub(in crate::probe) sender: Ipv4Addr,
    /// The address that asked.
    pub(in crate::probe) target: Ipv4Addr,
}

/// The broadcast frame that asks who has `target`.
pub(in crate::probe) fn request(mac: Mac, source: Ipv4Addr, target: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    frame[14..20].copy_from_slice(&ETHERNET_IPV4);
    frame[20..22].copy_from_slice(&REQUEST.to_be_bytes());
    frame[22..28].copy_from_slice(&mac.0);
    frame[28..32].copy_from_slice(&source.octets());
    // The target's Ethernet address, bytes 32 to 37, is what is asked for: zero.
    frame[38..].copy_from_slice(&target.octets());
    frame
}

/// Reads a frame that is an ARP reply.
pub(in crate::probe) fn reply(mut frame: &[u8]) -> Option<Reply> {
    let rest = &mut frame;
    let _addresses: [u8; 12] = take(rest)?;
    let ethertype = u16::from_be_bytes(take(rest)?);
    let kinds: [u8; 6] = take(rest)?;
    let opcode = u16::from_be_bytes(take(rest)?);
    if ethertype != ETHERTYPE || kinds != ETHERNET_IPV4 || opcode != REPLY {
        return None;
    }
    let mac = Mac(take(rest)?);
    let sender = Ipv4Addr::from(take::<4>(rest)?);
    let _our_mac: [u8; 6] = take(rest)?;
    let target = Ipv4Addr::from(take::<4>(rest)?);
    Some(Reply { mac, sender, target })
}

#[cfg(test)]
pub(in crate::probe) mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const US: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    /// A well-formed reply.
    pub(in crate::probe) fn answered() -> [u8; 42] {
        let mut frame = request(MAC, GATEWAY, US);
        frame[21] = 2;
        frame
    }

    #[test]
    fn a_request_is_well_formed() {
        let expected = [
            &[0xff; 6][..],
            &[2, 0, 0, 0, 0, 1],
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &[2, 0, 0, 0, 0, 1, 10, 0, 0, 7],
            &[0, 0, 0, 0, 0, 0, 10, 0, 0, 1],
        ];
        assert_eq!(request(MAC, US, GATEWAY)[..], expected.concat());
    }

    #[test]
    fn a_reply_names_who_answers() {
        let expected = Reply { mac: MAC, sender: GATEWAY, target: US };
        assert_eq!(reply(&answered()), Some(expected));
        let padded = [&answered()[..], &[0; 18]].concat();
        assert_eq!(reply(&padded), Some(expected), "padded to Ethernet's least length");
        assert_eq!(reply(&answered()[..41]), None, "cut short");
    }

    #[test]
    fn other_frames_are_no_reply() {
        for (offset, value) in [(13, 0), (15, 2), (16, 0x86), (18, 8), (19, 16), (21, 1)] {
            let mut frame = answered();
            frame[offset] = value;
            assert_eq!(reply(&frame), None, "byte {offset} is {value}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = reply(&bytes);
        }
    }
}
