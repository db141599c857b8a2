//! The socket that listens: what changed in the kernel, filtered inside the kernel.

use std::io;
use std::task::{Context, Poll, Waker};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc::{
    self, BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, RTM_DELLINK, RTM_DELROUTE,
    RTM_NEWLINK, RTM_NEWROUTE,
};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{SockFilter, SockRef};
use tokio::io::unix::AsyncFd;
use uplink_core::snapshot::protocol;

use super::{DATAGRAM_MAX_BYTES, Malformed, Message, messages};
use crate::sys;

/// Holds some thousand messages while the loop is held up. Costs nothing while it is empty.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// How many datagrams one [`Events::drain`] takes at most, so that a flood of them cannot keep the
/// loop from everything else.
const DRAIN_MAX_DATAGRAMS: u32 = 16 * 1024;

/// What is listened to.
const GROUPS: [libc::c_uint; 9] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_IPV4_IFADDR,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_RULE,
    libc::RTNLGRP_NEXTHOP,
    // Reverse-path checks.
    libc::RTNLGRP_IPV4_NETCONF,
];

/// What the socket has to say.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event<'a> {
    /// Something changed.
    Message(Message<'a>),
    /// A message cannot be read.
    Malformed,
    /// The buffer was full, or no memory left: some messages are lost.
    Overrun,
}

/// A socket that is told of changes.
pub(crate) struct Events {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl Events {
    /// Opens the socket in the network namespace of the calling thread, which must be within a
    /// tokio runtime.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // Before the groups are joined, so that nothing else ever gets into the queue.
        SockRef::from(&socket).attach_filter(&filter())?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        // The privilege for more than `net.core.rmem_max` does not exist in a user namespace.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES)?;
        }
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        Ok(Self { socket: sys::reactor::register(socket)?, buffer: Vec::with_capacity(DATAGRAM_MAX_BYTES) })
    }

    /// Waits until there is something to drain. May be cancelled at any time; may return although
    /// there is nothing.
    ///
    /// # Errors
    /// Those of the runtime's reactor.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await?.retain_ready();
        Ok(())
    }

    /// Hands over everything that is there, without waiting.
    ///
    /// # Errors
    /// The socket is dead. What passes, an overrun or a lack of memory, is an event and no error.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Event<'_>)) -> io::Result<()> {
        // Taken before the first read: if more comes after the last one, clearing this readiness
        // does not hide it.
        let ready = self.socket.poll_read_ready(&mut Context::from_waker(Waker::noop()));
        for _ in 0..DRAIN_MAX_DATAGRAMS {
            self.buffer.clear();
            match self.socket.get_ref().recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => each(Event::Malformed),
                Ok(_) => {
                    for message in messages(&self.buffer) {
                        match message {
                            Ok(message) => each(Event::Message(message)),
                            Err(Malformed) => each(Event::Malformed),
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if let Poll::Ready(ready) = ready {
                        ready?.clear_ready();
                    }
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::ENOBUFS | libc::ENOMEM) => each(Event::Overrun),
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}

/// Where in a message the filter looks. A datagram of a multicast group holds one message.
mod offset {
    /// `nlmsg_type`, 16 bits.
    pub(super) const TYPE: u32 = 4;
    /// `ifi_family`.
    pub(super) const LINK_FAMILY: u32 = 16;
    /// `rtm_dst_len`.
    pub(super) const ROUTE_LENGTH: u32 = 17;
    /// `rtm_protocol`.
    pub(super) const ROUTE_PROTOCOL: u32 = 21;
}

/// A classic BPF program that passes
/// - of the route messages: default routes, own routes, and those of the protocols whose next hops
///   name gateways: the route churn of everybody else (BGP, a CNI) costs us nothing;
/// - of the link messages: those about links, not those about ports of a bridge (`AF_BRIDGE`), which
///   come with the same type, and among which a `RTM_DELLINK` means that the port left the bridge;
/// - every other message.
fn filter() -> [SockFilter; 15] {
    let load = |size: u32, at| instruction(BPF_LD | BPF_ABS | size, at, 0, 0);
    // Jumps over `then` or `otherwise` instructions.
    let equal = |value, then, otherwise| instruction(BPF_JMP | BPF_JEQ | BPF_K, value, then, otherwise);
    let end = |bytes| instruction(BPF_RET | BPF_K, bytes, 0, 0);
    // The filter loads numbers in network order, netlink writes them in the machine's.
    let kind = |kind: u16| u32::from(kind.to_be());
    [
        /*  0 */ load(BPF_H, offset::TYPE),
        /*  1 */ equal(kind(RTM_NEWLINK), 3, 0),
        /*  2 */ equal(kind(RTM_DELLINK), 2, 0),
        /*  3 */ equal(kind(RTM_NEWROUTE), 3, 0),
        /*  4 */ equal(kind(RTM_DELROUTE), 2, 8),
        /*  5 */ load(BPF_B, offset::LINK_FAMILY),
        /*  6 */ equal(0, 6, 7),
        /*  7 */ load(BPF_B, offset::ROUTE_LENGTH),
        /*  8 */ equal(0, 4, 0),
        /*  9 */ load(BPF_B, offset::ROUTE_PROTOCOL),
        /* 10 */ equal(protocol::RA.into(), 2, 0),
        /* 11 */ equal(protocol::DHCP.into(), 1, 0),
        /* 12 */ equal(protocol::UPLINKD.into(), 0, 1),
        /* 13 */ end(u32::MAX),
        /* 14 */ end(0),
    ]
}

/// One instruction; the codes of classic BPF are 16 bits wide.
fn instruction(code: u32, value: u32, then: u8, otherwise: u8) -> SockFilter {
    #[allow(clippy::cast_possible_truncation)]
    let code = code as u16;
    SockFilter::new(code, then, otherwise, value)
}
