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
    /// The buffer was full, or no memory left: some messages are lost. No more are handed over until
    /// [`Events::renew`].
    Overrun,
}

/// A socket that is told of changes.
pub(crate) struct Events {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    overrun: bool,
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
        Ok(Self {
            socket: sys::reactor::register(socket)?,
            buffer: Vec::with_capacity(DATAGRAM_MAX_BYTES),
            overrun: false,
        })
    }

    /// To be called before what was lost in an overrun is read anew. What is queued is older than that, and
    /// thousands of messages: a fresh socket has none of them, and the kernel throws them away by itself.
    pub(crate) fn renew(&mut self) {
        if self.overrun {
            self.overrun = false;
            // Without a descriptor left for it, the messages are taken in after all, and do no harm.
            if let Ok(fresh) = Self::open() {
                *self = fresh;
            }
        }
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
    pub(crate) fn drain(&mut self, each: impl FnMut(Event<'_>)) -> io::Result<()> {
        let Self { socket, buffer, overrun } = self;
        // Taken before the first read: if more comes after the last one, clearing this readiness
        // does not hide it.
        let ready = socket.poll_read_ready(&mut Context::from_waker(Waker::noop()));
        let end = if *overrun { End::Overrun } else { receive(socket.get_ref(), buffer, each)? };
        *overrun = end == End::Overrun;
        match (end, ready) {
            (End::Limit, _) | (_, Poll::Pending) => {}
            (End::Empty | End::Overrun, Poll::Ready(ready)) => ready?.clear_ready(),
        }
        Ok(())
    }
}

/// Why no more is received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// There is no more.
    Empty,
    /// Some messages are lost; what is left is older than what must be read anew.
    Overrun,
    /// It was enough for once.
    Limit,
}

/// Receives what is there.
fn receive(socket: &Socket, buffer: &mut Vec<u8>, mut each: impl FnMut(Event<'_>)) -> io::Result<End> {
    for _ in 0..DRAIN_MAX_DATAGRAMS {
        buffer.clear();
        match socket.recv(buffer, libc::MSG_TRUNC) {
            Ok(length) if length > buffer.len() => each(Event::Malformed),
            Ok(_) => {
                for message in messages(buffer) {
                    match message {
                        Ok(message) => each(Event::Message(message)),
                        Err(Malformed) => each(Event::Malformed),
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(End::Empty),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOBUFS | libc::ENOMEM) => {
                    each(Event::Overrun);
                    return Ok(End::Overrun);
                }
                _ => return Err(error),
            },
        }
    }
    Ok(End::Limit)
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
