//! The messages of sock_diag(7), `linux/sock_diag.h` and `linux/inet_diag.h`.
//!
//! They are written here: the crate that knows them has no filters, and without those the kernel hands
//! over every socket of the host. A socket's identity goes back to the kernel as it came.

use std::net::IpAddr;

use netlink_packet_core::{NetlinkPayload, NetlinkSerializable};
use nix::libc;
use uplink_core::snapshot::{Family, Prefix};

use crate::netlink::{address_family, attributes, text};

/// States of TCP sockets; UDP has the first for those that are connected (`net/tcp_states.h`).
pub(super) const ESTABLISHED: u32 = 1 << 1;
pub(super) const SYN_SENT: u32 = 1 << 2;
/// That of UDP sockets that hear everybody.
pub(super) const CLOSE: u32 = 1 << 7;
pub(super) const LISTEN: u32 = 1 << 10;

/// A question about sockets (`SOCK_DIAG_BY_FAMILY`).
const TELL_OF: u16 = 20;
/// The order to destroy one (`SOCK_DESTROY`, Linux 4.5).
const DESTROY: u16 = 21;
/// The attribute of a question that holds a filter (`INET_DIAG_REQ_BYTECODE`).
const FILTER: u16 = 1;
/// The instruction of a filter that compares a socket's own address (`INET_DIAG_BC_S_COND`).
const OWN_ADDRESS: u8 = 7;

/// `struct inet_diag_sockid`: both ports, both addresses, interface, cookie.
const ID_BYTES: usize = 48;
const ADDRESS_BYTES: usize = 16;
/// Where the peer's address begins in it.
const PEER_AT: usize = 4 + ADDRESS_BYTES;
/// Where the interface begins that it is bound to.
const BOUND_AT: usize = PEER_AT + ADDRESS_BYTES;
/// Where it begins in `struct inet_diag_msg`: behind family, state and timers.
const ID_AT: usize = 4;

/// Where attributes begin behind `struct inet_diag_msg`.
const ATTRIBUTES_AT: usize = 72;
/// The attribute about what lies above TCP (`INET_DIAG_ULP_INFO`), and its name in that (`INET_ULP_INFO_NAME`).
const UPPER: u16 = 19;
const UPPER_NAME: u16 = 1;
/// What a question asks for to be told that: with `struct tcp_info`, not without (`INET_DIAG_INFO`, as a bit).
const WITH_UPPER: u8 = 1 << (2 - 1);

/// What a socket speaks, by its number of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp = 6,
    Udp = 17,
}

impl Protocol {
    pub(super) const ALL: [Self; 2] = [Self::Tcp, Self::Udp];
}

/// A socket as the kernel names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    family: u8,
    id: [u8; ID_BYTES],
    multipath: bool,
}

impl Found {
    /// No socket has this name.
    pub(super) const NONE: Self = Self { family: 2, id: [0; ID_BYTES], multipath: false };

    /// The socket of an answer; none if that cannot be read.
    pub(super) fn read(payload: &[u8]) -> Option<Self> {
        let family = *payload.first()?;
        let known = [libc::AF_INET, libc::AF_INET6].contains(&family.into());
        let id = *payload.get(ID_AT..)?.first_chunk()?;
        known.then_some(Self { family, id, multipath: is_multipath(payload) })
    }

    /// Whether it is one path of a connection of several (RFC 8684). The kernel looks after those itself, and
    /// tells the program nothing when the last is destroyed.
    pub(super) const fn is_multipath(&self) -> bool {
        self.multipath
    }

    /// Its own port.
    pub(super) fn own_port(&self) -> u16 {
        let [high, low, ..] = self.id;
        u16::from_be_bytes([high, low])
    }

    /// Whether it is bound to an interface.
    pub(super) fn is_bound(&self) -> bool {
        let bound: [u8; 4] =
            self.id.get(BOUND_AT..).and_then(|rest| rest.first_chunk().copied()).unwrap_or_default();
        bound != [0; 4]
    }

    /// The address that it talks to. A socket of IPv6 can talk IPv4.
    pub(super) fn peer(&self) -> IpAddr {
        let octets: [u8; ADDRESS_BYTES] =
            self.id.get(PEER_AT..).and_then(|rest| rest.first_chunk().copied()).unwrap_or_default();
        match (self.family.into(), octets) {
            (libc::AF_INET, [a, b, c, d, ..]) => IpAddr::from([a, b, c, d]),
            _ => IpAddr::from(octets).to_canonical(),
        }
    }
}

fn is_multipath(payload: &[u8]) -> bool {
    let find =
        |within, kind| attributes(within).flatten().find(|(found, _)| *found == kind).map(|(_, value)| value);
    let upper = payload.get(ATTRIBUTES_AT..).and_then(|all| find(all, UPPER));
    let name = upper.and_then(|upper| find(upper, UPPER_NAME));
    name.is_some_and(|name| text(name).is_ok_and(|name| name == "mptcp"))
}

/// What we say to the kernel.
#[derive(Debug, Clone)]
pub(super) struct Say {
    kind: u16,
    body: Vec<u8>,
}

impl Say {
    /// Tell of all sockets in these states, or only, and more, of those with this address.
    pub(super) fn tell_of(protocol: Protocol, family: Family, states: u32, own: Option<IpAddr>) -> Self {
        let family = address_family(family).into();
        let more = if own.is_some() { WITH_UPPER } else { 0 };
        let mut body = request(family, protocol, more, states, &Found::NONE.id);
        body.extend(own.into_iter().flat_map(filter));
        Self { kind: TELL_OF, body }
    }

    /// Destroy this very socket: the cookie in its name is of no other.
    pub(super) fn destroy(protocol: Protocol, socket: &Found) -> Self {
        Self { kind: DESTROY, body: request(socket.family, protocol, 0, 0, &socket.id) }
    }
}

impl NetlinkSerializable for Say {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl From<Say> for NetlinkPayload<Say> {
    fn from(say: Say) -> Self {
        Self::InnerMessage(say)
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: Protocol, more: u8, states: u32, id: &[u8; ID_BYTES]) -> Vec<u8> {
    [&[family, protocol as u8, more, 0], states.to_ne_bytes().as_slice(), id].concat()
}

/// An attribute with a filter of one instruction (`struct inet_diag_bc_op` with `inet_diag_hostcond`): this
/// is the socket's own address, whatever its port. One of IPv4 finds it in sockets of IPv6, too.
fn filter(own: IpAddr) -> Vec<u8> {
    const ANY_PORT: i32 = -1;
    let octets = match own {
        IpAddr::V4(own) => own.octets().to_vec(),
        IpAddr::V6(own) => own.octets().to_vec(),
    };
    let family: u8 = address_family(Family::of(own)).into();
    // Whom it is true of goes on at the end of the filter, and is told; the others four bytes behind.
    let length: u8 = if own.is_ipv4() { 16 } else { 28 };
    let [attribute_length, otherwise] = [u16::from(length) + 4; 2].map(u16::to_ne_bytes);
    [
        attribute_length.as_slice(),
        &FILTER.to_ne_bytes(),
        &[OWN_ADDRESS, length],
        &otherwise,
        &[family, Prefix::host(own).length, 0, 0],
        &ANY_PORT.to_ne_bytes(),
        &octets,
    ]
    .concat()
}

/// What the kernel tells of sockets and of ways to their peers, for tests with arbitrary bytes. The order
/// to destroy a socket names the very one that was found.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_datagram(datagram: &[u8]) {
    for message in crate::netlink::messages(datagram).flatten() {
        let _ = super::way::read(message.payload);
        let Some(found) = Found::read(message.payload) else { continue };
        let peer = found.peer();
        assert!(found.family != 2 || peer.is_ipv4(), "{found:?} talks to {peer}");
        let order = Say::destroy(Protocol::Tcp, &found).body;
        assert_eq!(order.first(), message.payload.first());
        assert_eq!(order.get(8..), message.payload.get(ID_AT..ID_AT + ID_BYTES));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of the kernel: family, state, timer, retransmissions, the name, and five numbers.
    fn told(family: i32, peer: &[u8]) -> Vec<u8> {
        let mut payload = vec![u8::try_from(family).unwrap(), 1, 0, 0];
        payload.extend([0x1f, 0x90, 0x01, 0xbb]);
        payload.extend([7; 16]);
        payload.extend(peer);
        payload.extend([0; 4]);
        payload.resize(72, 9);
        payload
    }

    #[test]
    fn a_socket_is_read_and_named_as_it_was() {
        let mapped = "::ffff:192.0.2.1".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let mut plain = [0; 16];
        plain[..4].copy_from_slice(&[192, 0, 2, 1]);
        for (family, peer) in [(libc::AF_INET, plain), (libc::AF_INET6, mapped)] {
            let payload = told(family, &peer);
            let found = Found::read(&payload).unwrap();
            assert_eq!(found.own_port(), 8080);
            assert_eq!(found.peer(), "192.0.2.1".parse::<IpAddr>().unwrap());
            assert!(!found.is_bound());
            let order = Say::destroy(Protocol::Udp, &found);
            assert_eq!((order.kind, order.body.len()), (21, 56));
            assert_eq!(order.body[..4], [payload[0], 17, 0, 0]);
            assert_eq!(order.body[8..], payload[4..52]);
        }
    }

    #[test]
    fn the_interface_that_a_socket_is_bound_to_is_behind_its_addresses() {
        let mut payload = told(libc::AF_INET6, &[0; 16]);
        payload[40..44].copy_from_slice(&3_u32.to_ne_bytes());
        assert!(Found::read(&payload).unwrap().is_bound());
    }

    #[test]
    fn one_path_of_several_is_known_by_what_lies_above_tcp() {
        for (name, expected) in [(b"mptcp\0\0\0", true), (b"tls\0\0\0\0\0", false)] {
            let mut payload = told(libc::AF_INET, &[0; 16]);
            payload.extend([[5, 0, 8, 0].as_slice(), &[1, 0, 0, 0]].concat());
            payload.extend([[16, 0, 19, 0x80].as_slice(), &[10, 0, 1, 0], name].concat());
            assert_eq!(Found::read(&payload).unwrap().is_multipath(), expected);
        }
    }

    #[test]
    fn what_is_no_socket_of_ip_is_left_out() {
        assert_eq!(Found::read(&told(libc::AF_UNIX, &[0; 16])), None);
        assert_eq!(Found::read(&told(libc::AF_INET, &[0; 16])[..51]), None);
        assert_eq!(Found::read(&[]), None);
    }

    #[test]
    fn a_filter_has_the_length_that_it_says() {
        for own in ["10.0.120.2", "fd00:120::2"] {
            let filter = filter(own.parse().unwrap());
            assert_eq!(filter.len(), usize::from(filter[0]));
            assert_eq!(filter.len(), usize::from(filter[5]) + 4);
            assert_eq!(filter.len(), usize::from(filter[6]));
        }
    }
}
