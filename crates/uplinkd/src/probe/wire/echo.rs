//! ICMP and ICMPv6 echo (RFC 792, RFC 4443 section 4).
//!
//! The answer repeats what we put behind the header: a tag that all our echoes share, by which the
//! kernel's filter knows them from other programs', the probe's number, and a random number that
//! nobody can know who did not see the question.

use uplink_core::event::ProbeId;
use uplink_core::snapshot::Family;

use super::{ip, take};

/// Where the tag stands in a message.
pub(in crate::probe) const TAG_OFFSET: u32 = 8;

/// What an echo says and its answer repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::probe) struct Echo {
    /// Marks the echoes of this process.
    pub(in crate::probe) tag: u32,
    /// The probe.
    pub(in crate::probe) id: ProbeId,
    /// Made up for this probe.
    pub(in crate::probe) nonce: u64,
}

/// The type of an echo request.
const fn request_type(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 8,
        Family::Ipv6 => 128,
    }
}

/// The type of an echo reply.
pub(in crate::probe) const fn reply_type(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 0,
        Family::Ipv6 => 129,
    }
}

impl Echo {
    /// The request, as it is given to a raw socket. The checksum of ICMPv6 covers addresses as
    /// well and is the kernel's work (RFC 3542 section 3.1).
    pub(in crate::probe) fn request(self, family: Family) -> [u8; 28] {
        let mut message = [0; 28];
        self.write(request_type(family), &mut message);
        if family == Family::Ipv4 {
            let sum = ip::checksum(&message).to_be_bytes();
            message[2..4].copy_from_slice(&sum);
        }
        message
    }

    /// Header without checksum, then the payload. Identifier and sequence number help whoever reads
    /// a capture; answers are matched by the payload alone.
    fn write(self, kind: u8, message: &mut [u8; 28]) {
        let tag = self.tag.to_be_bytes();
        let id = self.id.0.to_be_bytes();
        message[0] = kind;
        message[4..6].copy_from_slice(&tag[..2]);
        message[6..8].copy_from_slice(&id[6..]);
        message[8..12].copy_from_slice(&tag);
        message[12..20].copy_from_slice(&id);
        message[20..].copy_from_slice(&self.nonce.to_be_bytes());
    }

    /// Reads an echo reply as a raw socket gives it: with the IP header in IPv4, without in IPv6.
    pub(in crate::probe) fn reply(family: Family, bytes: &[u8]) -> Option<Self> {
        let mut rest = match family {
            Family::Ipv4 => ip::v4_payload(bytes)?,
            Family::Ipv6 => bytes,
        };
        let [kind, code, _, _, _, _, _, _] = take(&mut rest)?;
        if kind != reply_type(family) || code != 0 {
            return None;
        }
        Some(Self {
            tag: u32::from_be_bytes(take(&mut rest)?),
            id: ProbeId(u64::from_be_bytes(take(&mut rest)?)),
            nonce: u64::from_be_bytes(take(&mut rest)?),
        })
    }
}

#[cfg(test)]
pub(in crate::probe) mod tests {
    use super::*;

    const ECHO: Echo =
        Echo { tag: 0xfeed_0123, id: ProbeId(0x0102_0304_0506_0708), nonce: 0xdead_beef_cafe_0042 };

    /// What a host answers to `echo`, as a raw socket gives it.
    pub(in crate::probe) fn answered(family: Family, echo: Echo) -> Vec<u8> {
        let mut message = echo.request(family);
        message[0] = reply_type(family);
        match family {
            Family::Ipv4 => [&[0x45; 1][..], &[0; 19], &message].concat(),
            Family::Ipv6 => message.to_vec(),
        }
    }

    #[test]
    fn a_request_is_well_formed() {
        let v4 = ECHO.request(Family::Ipv4);
        assert_eq!(v4[..2], [8, 0]);
        assert_eq!(ip::checksum(&v4), 0);
        let v6 = ECHO.request(Family::Ipv6);
        assert_eq!(v6[..4], [128, 0, 0, 0]);
        assert_eq!(v6[4..8], [0xfe, 0xed, 0x07, 0x08]);
    }

    #[test]
    fn an_answer_repeats_the_question() {
        for family in Family::ALL {
            let bytes = answered(family, ECHO);
            assert_eq!(Echo::reply(family, &bytes), Some(ECHO));
            assert_eq!(Echo::reply(family, &bytes[..bytes.len() - 1]), None, "cut short");
        }
    }

    #[test]
    fn other_messages_are_no_answer() {
        for family in Family::ALL {
            let header = answered(family, ECHO).len() - 28;
            for (offset, value) in [(0, request_type(family)), (0, 3), (1, 1)] {
                let mut bytes = answered(family, ECHO);
                bytes[header + offset] = value;
                assert_eq!(Echo::reply(family, &bytes), None, "byte {offset} is {value}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = Family::ALL.map(|family| Echo::reply(family, &bytes));
        }
    }
}
