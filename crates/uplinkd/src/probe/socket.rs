//! What all our sockets have in common.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg,
    sendmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use uplink_core::snapshot::{Family, LinkIndex};

use crate::sys;

/// Most bytes of a packet that we read: an IPv4 header with all options and what is behind it.
const READ_MAX: usize = 256;
/// Most packets read from one socket at once.
const AT_ONCE_MAX: usize = 256;

/// A packet that came in.
pub(super) struct Received<'a> {
    /// Its first bytes.
    pub(super) bytes: &'a [u8],
    /// When, on the wall clock.
    pub(super) stamp: Option<TimeSpec>,
    /// Who sent it, where the socket says so.
    pub(super) from: Option<IpAddr>,
    /// The IPv6 hop limit that it arrived with, where it was asked for.
    pub(super) hop_limit: Option<i32>,
}

/// A raw socket that sends and receives through `link` alone, what `filter` lets through.
pub(super) fn raw(family: Family, link: LinkIndex, filter: &[SockFilter]) -> io::Result<Socket> {
    let (domain, protocol) = match family {
        Family::Ipv4 => (Domain::IPV4, Protocol::ICMPV4),
        Family::Ipv6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    // Protocol first, device second: what came in between was for another device.
    let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
    socket.attach_filter(filter)?;
    bind_device(&socket, link)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    each(&socket, |_| {});
    Ok(socket)
}

/// A packet socket for what `filter` passes of one Ethernet protocol on `link`.
pub(super) fn packet(
    kind: Type,
    link: LinkIndex,
    protocol: u16,
    filter: &[SockFilter],
) -> io::Result<Socket> {
    // Without a protocol it receives nothing until it is bound, and then through the filter.
    let socket = Socket::new(Domain::PACKET, kind.nonblocking(), None)?;
    socket.attach_filter(filter)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    sys::packet::bind(&socket, link, protocol)?;
    Ok(socket)
}

/// Keeps a socket to one interface, whatever the routes say. A name could be another interface's by
/// the time it is used; an index is not.
pub(super) fn bind_device(socket: &Socket, link: LinkIndex) -> io::Result<()> {
    let index = NonZeroU32::new(link.0).ok_or(io::ErrorKind::InvalidInput)?;
    socket.bind_device_by_index_v4(Some(index))
}

/// Sends `message` from `source` to `to` through `link`.
pub(super) fn send_from(
    socket: &Socket,
    link: LinkIndex,
    source: IpAddr,
    to: IpAddr,
    message: &[u8],
) -> nix::Result<()> {
    match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: i32::try_from(link.0).map_err(|_| Errno::ENODEV)?,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            let to = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
            send_with(socket, message, &ControlMessage::Ipv4PacketInfo(&info), &to)
        }
        (IpAddr::V6(source), IpAddr::V6(to)) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                ipi6_ifindex: link.0,
            };
            let scope = if to.is_unicast_link_local() || to.is_multicast() { link.0 } else { 0 };
            let to = SockaddrIn6::from(std::net::SocketAddrV6::new(to, 0, 0, scope));
            send_with(socket, message, &ControlMessage::Ipv6PacketInfo(&info), &to)
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => Err(Errno::EAFNOSUPPORT),
    }
}

/// Runs `send` and, if it fails for another reason than a full queue, once more: an earlier
/// packet's failure (a neighbour that does not resolve, an interface that was down) is reported to
/// the next call.
pub(super) fn send_again(mut send: impl FnMut() -> nix::Result<()>) -> nix::Result<()> {
    match send() {
        Ok(()) => Ok(()),
        Err(full @ (Errno::EAGAIN | Errno::ENOBUFS)) => Err(full),
        Err(_) => send(),
    }
}

/// Whether a socket that says so is of no more use: its interface is gone or was down.
pub(super) const fn is_stale(error: Errno) -> bool {
    matches!(error, Errno::ENODEV | Errno::ENXIO | Errno::ENETDOWN)
}

/// Reads the packets that wait, a bounded number of them: what is left is read the next time.
pub(super) fn each(socket: &Socket, mut hear: impl FnMut(&Received<'_>)) {
    let mut buffer = [0; READ_MAX];
    for _ in 0..AT_ONCE_MAX {
        match receive(socket, &mut buffer) {
            Ok(Some(packet)) => hear(&packet),
            Ok(None) => return,
            // It was pending, and is no more: packets may wait behind it.
            Err(_) => {}
        }
    }
}

/// One `sendmsg` that does not wait.
fn send_with<S: nix::sys::socket::SockaddrLike>(
    socket: &Socket,
    message: &[u8],
    control: &ControlMessage<'_>,
    to: &S,
) -> nix::Result<()> {
    let slices = [IoSlice::new(message)];
    let control = std::slice::from_ref(control);
    sendmsg(socket.as_raw_fd(), &slices, control, MsgFlags::MSG_DONTWAIT, Some(to)).map(drop)
}

/// The IP address in a socket address.
fn ip_address(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

/// The next packet, if there is one. An error tells of an earlier packet or of the interface; reading
/// it clears it.
fn receive<'a>(socket: &Socket, buffer: &'a mut [u8]) -> nix::Result<Option<Received<'a>>> {
    let mut control = nix::cmsg_space!(TimeSpec, libc::c_int);
    let mut slices = [IoSliceMut::new(buffer)];
    let read = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    );
    let message = match read {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error),
    };
    let (mut stamp, mut hop_limit) = (None, None);
    for note in message.cmsgs()? {
        match note {
            ControlMessageOwned::ScmTimestampns(at) => stamp = Some(at),
            ControlMessageOwned::Ipv6HopLimit(limit) => hop_limit = Some(limit),
            _ => {}
        }
    }
    let from = message.address.as_ref().and_then(ip_address);
    let length = message.bytes;
    Ok(Some(Received { bytes: buffer.get(..length).unwrap_or_default(), stamp, from, hop_limit }))
}
