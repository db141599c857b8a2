//! IPv4 and IPv6 headers, as far as we look at them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use uplink_core::snapshot::Family;

/// What an IPv4 packet carries, without its header (RFC 791 section 3.1).
pub(in crate::probe) fn v4_payload(packet: &[u8]) -> Option<&[u8]> {
    let first = *packet.first()?;
    let header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < 20 {
        return None;
    }
    packet.get(header..)
}

/// Who sent an IP packet (RFC 791 section 3.1, RFC 8200 section 3).
pub(in crate::probe) fn source(family: Family, packet: &[u8]) -> Option<IpAddr> {
    let version = packet.first()? >> 4;
    match family {
        Family::Ipv4 if version == 4 => {
            let octets: [u8; 4] = *packet.get(12..)?.first_chunk()?;
            Some(Ipv4Addr::from(octets).into())
        }
        Family::Ipv6 if version == 6 => {
            let octets: [u8; 16] = *packet.get(8..)?.first_chunk()?;
            Some(Ipv6Addr::from(octets).into())
        }
        Family::Ipv4 | Family::Ipv6 => None,
    }
}

/// The Internet checksum (RFC 1071).
pub(in crate::probe) fn checksum(bytes: &[u8]) -> u16 {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let pairs = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair)));
    let odd = odd.iter().map(|last| u32::from(*last) << 8);
    let sum = pairs.chain(odd).fold(0_u32, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    #[expect(clippy::cast_possible_truncation, reason = "the carry was folded in")]
    let folded = sum as u16;
    !folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_message_with_its_checksum_is_zero() {
        // The example of RFC 1071 section 3: the sum of these words is ddf2.
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[0x12]), !0x1200);
        assert_eq!(checksum(&[]), 0xffff);
        let mut message = vec![8, 0, 0, 0, 1, 2, 3, 4, 5];
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&message), 0);
    }

    #[test]
    fn a_header_with_options_is_skipped_whole() {
        let mut packet = vec![0x46; 1];
        packet.resize(24, 0);
        packet.extend([1, 2, 3]);
        assert_eq!(v4_payload(&packet), Some(&[1, 2, 3][..]));
        assert_eq!(v4_payload(&packet[..23]), None);
        packet[0] = 0x44;
        assert_eq!(v4_payload(&packet), None, "a header under 20 bytes");
        packet[0] = 0x65;
        assert_eq!(v4_payload(&packet), None, "not version 4");
    }

    #[test]
    fn the_source_is_read_where_the_version_fits() {
        let mut v4 = [0; 20];
        v4[0] = 0x45;
        v4[12..16].copy_from_slice(&[203, 0, 113, 9]);
        assert_eq!(source(Family::Ipv4, &v4), Some("203.0.113.9".parse().unwrap()));
        assert_eq!(source(Family::Ipv6, &v4), None);
        assert_eq!(source(Family::Ipv4, &v4[..15]), None);
        let mut v6 = [0; 40];
        v6[0] = 0x60;
        v6[8..24].copy_from_slice(&"2001:db8::9".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(source(Family::Ipv6, &v6), Some("2001:db8::9".parse().unwrap()));
        assert_eq!(source(Family::Ipv4, &v6), None);
        assert_eq!(source(Family::Ipv6, &v6[..23]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = (v4_payload(&bytes), checksum(&bytes));
            let _ = Family::ALL.map(|family| source(family, &bytes));
        }
    }
}
