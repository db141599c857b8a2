//! A thin layer over rtnetlink: one socket that asks, one that listens, and the frames of both.
//!
//! It knows nothing of routes: it hands out [`Message`]s with their payload as the kernel wrote it,
//! so that a reader of a large table can look at a header first and decode only what it keeps.

mod events;
mod requests;

use std::process;

use netlink_packet_core::{NLA_HEADER_SIZE, NLMSG_ALIGNTO, NetlinkBuffer, NlasIterator};

use netlink_packet_route::AddressFamily;
use uplink_core::snapshot::Family;

pub(crate) use events::{Event, Events};
#[cfg(any(test, fuzzing))]
pub(crate) use requests::any_verdict;
pub(crate) use requests::{RequestError, Requests, verdict};

/// More than the kernel ever puts into one datagram (it fills dumps to 32 KiB,
/// `netlink_dump` in `net/netlink/af_netlink.c`).
const DATAGRAM_MAX_BYTES: usize = 64 * 1024;

/// No process has a larger number (`PID_MAX_LIMIT`, linux/threads.h). Ports beyond are those of a
/// program's further sockets, and name nobody.
pub(crate) const PROCESS_MAX: u32 = 4 * 1024 * 1024;

/// Something in a message is shorter, longer or other than the kernel's interface says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the kernel sent a netlink message that cannot be read: is it newer than this program?")]
pub(crate) struct Malformed;

/// One message from the kernel, not yet decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// What it is (`nlmsg_type`).
    pub(crate) kind: u16,
    /// Its `NLM_F_*` flags.
    pub(crate) flags: u16,
    /// The number of the request that it answers.
    pub(crate) sequence: u32,
    /// The port of the socket whose request it answers, or whose act it tells; 0 is the kernel itself.
    pub(crate) port: u32,
    /// What follows the netlink header.
    pub(crate) payload: &'a [u8],
}

#[cfg(test)]
impl<'a> Message<'a> {
    /// A message as it comes from a multicast group.
    pub(crate) const fn told(kind: u16, flags: u16, payload: &'a [u8]) -> Self {
        Self { kind, flags, sequence: 0, port: 0, payload }
    }
}

/// Whether a port is that of another process's first socket, which has the process's number.
pub(crate) fn names_another(port: u32) -> bool {
    (1..=PROCESS_MAX).contains(&port) && port != process::id()
}

/// The number of a family.
pub(crate) const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

/// The messages of one datagram; nothing follows a malformed one.
pub(crate) fn messages(datagram: &[u8]) -> impl Iterator<Item = Result<Message<'_>, Malformed>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Ok(frame) = NetlinkBuffer::new_checked(rest) else {
            rest = &[];
            return Some(Err(Malformed));
        };
        let message = Message {
            kind: frame.message_type(),
            flags: frame.flags(),
            sequence: frame.sequence_number(),
            port: frame.port_number(),
            payload: frame.payload(),
        };
        let length = usize::try_from(frame.length()).unwrap_or(usize::MAX);
        rest = rest.get(length.next_multiple_of(usize::from(NLMSG_ALIGNTO))..).unwrap_or_default();
        Some(Ok(message))
    })
}

/// The attributes in `bytes` as type (without its flags) and value.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Malformed>> {
    NlasIterator::new(bytes).map(|attribute| {
        let attribute = attribute.map_err(|_| Malformed)?;
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        let value = attribute.into_inner().get(NLA_HEADER_SIZE..length).ok_or(Malformed)?;
        Ok((kind, value))
    })
}

/// A 32-bit number in the machine's byte order.
pub(crate) fn number(value: &[u8]) -> Result<u32, Malformed> {
    value.try_into().map(u32::from_ne_bytes).map_err(|_| Malformed)
}

/// A string, with or without the zero at its end.
pub(crate) fn text(value: &[u8]) -> Result<String, Malformed> {
    let end = value.iter().position(|&b| b == 0).unwrap_or(value.len());
    let bytes = value.get(..end).unwrap_or_default();
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with its header: length, type, flags 0, sequence 7, port 0.
    fn framed(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(16 + payload.len()).unwrap().to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(7_u32.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_datagram_is_split_into_its_messages() {
        let datagram = [framed(24, &[1, 2, 3]), framed(25, &[])].concat();
        let split: Vec<_> =
            messages(&datagram).map(|m| m.map(|m| (m.kind, m.sequence, m.payload.to_vec()))).collect();
        assert_eq!(split, [Ok((24, 7, vec![1, 2, 3])), Ok((25, 7, Vec::new()))]);
    }

    #[test]
    fn a_malformed_message_is_reported_once_and_ends_the_datagram() {
        for broken in [vec![0; 3], vec![0; 16], framed(24, &[1, 2, 3, 4])[..18].to_vec()] {
            let datagram = [framed(24, &[]), broken].concat();
            let kinds: Vec<_> = messages(&datagram).map(|m| m.map(|m| m.kind)).collect();
            assert_eq!(kinds, [Ok(24), Err(Malformed)]);
        }
    }

    #[test]
    fn attributes_lose_their_flags_and_their_padding() {
        let bytes = [[5, 0, 1, 0x80], [9, 0, 0, 0], [4, 0, 2, 0]].concat();
        let all: Vec<_> = attributes(&bytes).collect();
        assert_eq!(all, [Ok((1, [9].as_slice())), Ok((2, [].as_slice()))]);
    }

    #[test]
    fn an_attribute_longer_than_its_message_is_malformed() {
        assert_eq!(attributes(&[9, 0, 1, 0, 5]).collect::<Vec<_>>(), [Err(Malformed)]);
        assert_eq!(attributes(&[3, 0, 1, 0]).collect::<Vec<_>>(), [Err(Malformed)]);
    }
}
