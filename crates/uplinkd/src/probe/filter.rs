//! Programs of classic BPF, run in the kernel for each packet that reaches a socket, so that other
//! people's packets do not wake us (linux/filter.h; Documentation/networking/filter.rst).

use std::net::IpAddr;

use socket2::SockFilter;
use uplink_core::snapshot::{Family, Prefix};

use super::wire::{arp, echo};

/// Most prefixes that are compared in the kernel; the rest only by the receiver.
const PREFIXES_MAX: usize = 16;
/// Bytes of a passed packet that are kept: all headers that we read.
const KEPT: u32 = 64;
/// `SKF_AD_OFF + SKF_AD_PKTTYPE`: how the packet was addressed.
const PACKET_TYPE: u32 = 0xffff_f000 + 4;
/// `PACKET_HOST`: to our own Ethernet address.
const TO_US: u32 = 0;

/// Passes echo replies whose payload begins with `tag`.
pub(super) fn echo_reply(family: Family, tag: u32) -> Vec<SockFilter> {
    let kind = u32::from(echo::reply_type(family));
    match family {
        // From the IP header on: X is its length.
        Family::Ipv4 => vec![
            SockFilter::new(LDX_HEADER_LENGTH, 0, 0, 0),
            SockFilter::new(LD_BYTE_X, 0, 0, 0),
            SockFilter::new(JUMP_EQUAL, 0, 3, kind),
            SockFilter::new(LD_WORD_X, 0, 0, echo::TAG_OFFSET),
            SockFilter::new(JUMP_EQUAL, 0, 1, tag),
            pass(),
            drop_it(),
        ],
        Family::Ipv6 => vec![
            SockFilter::new(LD_BYTE, 0, 0, 0),
            SockFilter::new(JUMP_EQUAL, 0, 3, kind),
            SockFilter::new(LD_WORD, 0, 0, echo::TAG_OFFSET),
            SockFilter::new(JUMP_EQUAL, 0, 1, tag),
            pass(),
            drop_it(),
        ],
    }
}

/// Passes ICMPv6 messages of this type.
pub(super) fn icmpv6(kind: u8) -> Vec<SockFilter> {
    vec![
        SockFilter::new(LD_BYTE, 0, 0, 0),
        SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(kind)),
        pass(),
        drop_it(),
    ]
}

/// Passes Ethernet frames with an ARP reply to us.
pub(super) fn arp_reply() -> Vec<SockFilter> {
    vec![
        SockFilter::new(LD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_EQUAL, 0, 3, TO_US),
        SockFilter::new(LD_HALF, 0, 0, 20),
        SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(arp::REPLY)),
        pass(),
        drop_it(),
    ]
}

/// Passes IP packets to our Ethernet address that come from outside `except`.
pub(super) fn forwarded(family: Family, except: &[Prefix]) -> Vec<SockFilter> {
    let source = match family {
        Family::Ipv4 => 12,
        Family::Ipv6 => 8,
    };
    let mut program = vec![
        SockFilter::new(LD_WORD, 0, 0, PACKET_TYPE),
        SockFilter::new(JUMP_EQUAL, 1, 0, TO_US),
        drop_it(),
    ];
    let same_family = except.iter().filter(|p| Family::of(p.address) == family);
    for prefix in same_family.take(PREFIXES_MAX) {
        program.extend(unless_within(prefix, source));
    }
    program.push(pass());
    program
}

/// Passes nothing.
pub(super) fn nothing() -> Vec<SockFilter> {
    vec![drop_it()]
}

/// Drops the packet if the address at `offset` lies in `prefix`, else goes on behind.
fn unless_within(prefix: &Prefix, offset: u32) -> Vec<SockFilter> {
    let compared = masked_words(prefix);
    let mut left = compared.len();
    let mut program = Vec::with_capacity(left * 3 + 1);
    for ((word, mask), at) in compared.into_iter().zip((offset..).step_by(4)) {
        left -= 1;
        // Over the remaining comparisons, of three instructions each, and the drop.
        let differs = u8::try_from(left * 3 + 1).unwrap_or(u8::MAX);
        program.push(SockFilter::new(LD_WORD, 0, 0, at));
        program.push(SockFilter::new(AND, 0, 0, mask));
        program.push(SockFilter::new(JUMP_EQUAL, 0, differs, word));
    }
    program.push(drop_it());
    program
}

/// The words of a prefix, as far as its length reaches: fixed bits, and the mask of these.
fn masked_words(prefix: &Prefix) -> Vec<(u32, u32)> {
    let (octets, longest) = match prefix.address {
        IpAddr::V4(address) => (address.octets().to_vec(), 32),
        IpAddr::V6(address) => (address.octets().to_vec(), 128),
    };
    let length = u32::from(prefix.length).min(longest);
    let (words, _) = octets.as_chunks::<4>();
    words
        .iter()
        .zip((0..length).step_by(32))
        .map(|(word, before)| {
            let mask = !u32::MAX.checked_shr(length - before).unwrap_or(0);
            (u32::from_be_bytes(*word) & mask, mask)
        })
        .collect()
}

/// Ends with the packet passed.
const fn pass() -> SockFilter {
    SockFilter::new(RETURN, 0, 0, KEPT)
}

/// Ends with the packet dropped.
const fn drop_it() -> SockFilter {
    SockFilter::new(RETURN, 0, 0, 0)
}

// Instructions, composed as in linux/bpf_common.h. A load beyond the packet's end drops it.
/// A = the 32-bit word at k.
const LD_WORD: u16 = 0x20;
/// A = the 16-bit word at k.
const LD_HALF: u16 = 0x28;
/// A = the byte at k.
const LD_BYTE: u16 = 0x30;
/// A = the 32-bit word at X + k.
const LD_WORD_X: u16 = 0x40;
/// A = the byte at X + k.
const LD_BYTE_X: u16 = 0x50;
/// X = the length of the IPv4 header at k.
const LDX_HEADER_LENGTH: u16 = 0xb1;
/// A = A and k.
const AND: u16 = 0x54;
/// Skips jt instructions if A = k, else jf.
const JUMP_EQUAL: u16 = 0x15;
/// Ends; k bytes of the packet are kept.
const RETURN: u16 = 0x06;

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use socket2::{Domain, Socket, Type};
    use uplink_core::event::ProbeId;

    use super::super::wire::{echo, neighbour};
    use super::*;

    /// Whether the kernel lets `packet` through, on a local socket: there every packet is "to us".
    fn passes(program: &[SockFilter], packet: &[u8]) -> bool {
        let (near, far) = Socket::pair(Domain::UNIX, Type::DGRAM, None).unwrap();
        far.attach_filter(program).unwrap();
        far.set_nonblocking(true).unwrap();
        // A filtered packet is reported to the sender of a local socket as sent.
        near.send(packet).unwrap();
        match far.recv(&mut [std::mem::MaybeUninit::uninit(); 256]) {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn only_our_echo_replies_pass() {
        let (id, nonce) = (ProbeId(7), 9);
        for family in Family::ALL {
            let program = echo_reply(family, 0x8000_0001);
            let ours = echo::Echo { tag: 0x8000_0001, id, nonce };
            let theirs = echo::Echo { tag: 0x8000_0002, id, nonce };
            assert!(passes(&program, &echo::tests::answered(family, ours)));
            assert!(!passes(&program, &echo::tests::answered(family, theirs)));
            assert!(!passes(&program, &[0x45; 21]));
        }
    }

    #[test]
    fn an_echo_reply_passes_behind_ip_options() {
        let ours = echo::Echo { tag: 1, id: ProbeId(2), nonce: 3 };
        let mut packet = echo::tests::answered(Family::Ipv4, ours);
        packet[0] = 0x46;
        packet.splice(20..20, [1; 4]);
        assert!(passes(&echo_reply(Family::Ipv4, 1), &packet));
    }

    #[test]
    fn only_arp_replies_and_advertisements_pass() {
        let mut frame = arp::tests::answered();
        assert!(passes(&arp_reply(), &frame));
        frame[21] = 1;
        assert!(!passes(&arp_reply(), &frame));
        let mut message = neighbour::tests::answered();
        let program = icmpv6(neighbour::ADVERTISEMENT);
        assert!(passes(&program, &message));
        message[0] = 135;
        assert!(!passes(&program, &message));
    }

    /// An IP header from `source`.
    fn from(source: IpAddr) -> Vec<u8> {
        match source {
            IpAddr::V4(source) => [&[0x45; 1][..], &[0; 11], &source.octets(), &[0; 4]].concat(),
            IpAddr::V6(source) => [&[0x60; 1][..], &[0; 7], &source.octets(), &[0; 16]].concat(),
        }
    }

    fn prefix(text: &str) -> Prefix {
        let (address, length) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
    }

    #[test]
    fn packets_from_the_excepted_prefixes_do_not_pass() {
        let except: Vec<Prefix> = [
            "10.0.120.5/22",
            "192.0.2.1/32",
            "198.51.100.128/25",
            "2001:db8:1:2::5/64",
            "2001:db8:9::/49",
            "2001:db8:ffff::1/128",
        ]
        .map(prefix)
        .to_vec();
        for (source, expected) in [
            ("10.0.119.255", true),
            ("10.0.120.0", false),
            ("10.0.123.255", false),
            ("10.0.124.0", true),
            ("192.0.2.1", false),
            ("192.0.2.2", true),
            ("198.51.100.127", true),
            ("198.51.100.255", false),
            ("8.8.8.8", true),
            ("2001:db8:1:2:ffff::1", false),
            ("2001:db8:1:3::1", true),
            ("2001:db8:1:1::1", true),
            ("2001:db8:9:7fff::1", false),
            ("2001:db8:9:8000::1", true),
            ("2001:db8:ffff::1", false),
            ("2001:db8:ffff::2", true),
        ] {
            let source: IpAddr = source.parse().unwrap();
            let program = forwarded(Family::of(source), &except);
            assert_eq!(passes(&program, &from(source)), expected, "{source}");
        }
    }

    #[test]
    fn the_longest_programs_are_accepted_and_all_is_excepted_by_length_zero() {
        let v4: Vec<Prefix> = (0..40).map(|n| prefix(&format!("10.{n}.0.0/16"))).collect();
        let v6: Vec<Prefix> = (0..40).map(|n| prefix(&format!("fd00::{n:x}/128"))).collect();
        let (four, six) = ("10.15.0.1".parse().unwrap(), "fd00::f".parse().unwrap());
        assert!(!passes(&forwarded(Family::Ipv4, &v4), &from(four)));
        assert!(!passes(&forwarded(Family::Ipv6, &v6), &from(six)));
        assert!(passes(&forwarded(Family::Ipv6, &v4), &from(six)));
        assert!(!passes(&forwarded(Family::Ipv4, &[prefix("0.0.0.0/0")]), &from(four)));
        assert!(!passes(&nothing(), &from(four)));
    }

    proptest::proptest! {
        /// The kernel's program and the core's `contains` agree.
        #[test]
        fn the_filter_agrees_with_the_prefix(address: u128, length in 0_u8..=128, flip in 0_u32..128) {
            let except = Prefix { address: IpAddr::V6(address.into()), length };
            let source = IpAddr::V6((address ^ (1 << flip)).into());
            let passed = passes(&forwarded(Family::Ipv6, &[except]), &from(source));
            proptest::prop_assert_eq!(passed, !except.contains(source));
        }
    }
}
