//! The few system calls for which no safe wrapper exists.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Socket, Type};

// linux/if_packet.h
const PACKET_STATISTICS: c_int = 6;
const PACKET_VNET_HDR: c_int = 15;
const PACKET_IGNORE_OUTGOING: c_int = 23;
// linux/sock_diag.h: index of the drop counter in what `SO_MEMINFO` gives
const SK_MEMINFO_DROPS: usize = 8;

/// A packet socket on one interface of this thread's namespace, receiving what comes in there and
/// not what goes out. Each frame has a `virtio_net_hdr` in front, which carries unfinished
/// checksums and segmentation across.
pub(crate) fn packet_socket(interface: &str) -> io::Result<OwnedFd> {
    // Without a protocol it receives nothing until it is bound.
    let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
    socket.set_nonblocking(true)?;
    enlarge(&socket);
    set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)?;
    set_option(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1)?;
    let index = if_nametoindex(interface)?;
    // SAFETY: sockaddr_ll is plain data, for which all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
    address.sll_ifindex = c_int::try_from(index).map_err(io::Error::other)?;
    // SAFETY: the address is a live sockaddr_ll of the length that is given.
    check(unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length::<libc::sockaddr_ll>()?)
    })?;
    Ok(socket.into())
}

/// Gives a socket the largest receive buffer that this user may have.
pub(crate) fn enlarge(socket: &Socket) {
    const BYTES: c_int = 8 << 20;
    if set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, BYTES).is_err() {
        // Not privileged enough: take what the machine's limit allows. A buffer that is too small
        // shows in the drop counters.
        let _ = set_option(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, BYTES);
    }
}

/// Frames that a packet socket had no room for, since this was last asked.
pub(crate) fn packet_drops(socket: BorrowedFd<'_>) -> io::Result<u64> {
    // struct tpacket_stats: packets, drops
    let [_, drops] = get_option::<[u32; 2]>(socket, libc::SOL_PACKET, PACKET_STATISTICS)?;
    Ok(drops.into())
}

/// Packets that a socket had no room for.
pub(crate) fn socket_drops(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let info = get_option::<[u32; 9]>(socket, libc::SOL_SOCKET, libc::SO_MEMINFO)?;
    Ok(info.get(SK_MEMINFO_DROPS).copied().unwrap_or(0).into())
}

/// Sets an interface of this thread's namespace up or down.
pub(crate) fn set_up(interface: &str, up: bool) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    let room = request.ifr_name.len() - 1;
    if interface.len() > room {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the request lives across the call, as SIOCGIFFLAGS wants it (netdevice(7)).
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
    // SAFETY: after SIOCGIFFLAGS the flags are the union's valid member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let mask = libc::c_short::try_from(libc::IFF_UP).map_err(io::Error::other)?;
    request.ifr_ifru.ifru_flags = if up { flags | mask } else { flags & !mask };
    // SAFETY: the request lives across the call, as SIOCSIFFLAGS wants it (netdevice(7)).
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })
}

/// Lets this thread be woken exactly, and before ordinary ones where we may: the lab stands for
/// other machines, which a load on this one does not slow down.
pub(crate) fn hurry() {
    // SAFETY: no memory is passed. The priority is refused without CAP_SYS_NICE; the figures of
    // lateness show what that costs.
    unsafe {
        let _ = libc::prctl(libc::PR_SET_TIMERSLACK, 1);
        let _ = libc::setpriority(libc::PRIO_PROCESS, 0, -19);
    }
}

/// Lets a child be killed when the thread that starts it ends.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: between fork and exec only prctl is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)));
    }
}

fn set_option(socket: &Socket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the value is a live int of the length that is given.
    check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length::<c_int>()?)
    })
}

/// `T` must be an array of integers: any bytes are a valid value.
fn get_option<T: Default>(socket: BorrowedFd<'_>, level: c_int, name: c_int) -> io::Result<T> {
    let mut value = T::default();
    let mut size = length::<T>()?;
    // SAFETY: the kernel writes at most `size` bytes into the live value, any of which are valid.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut size)
    })?;
    Ok(value)
}

fn length<T>() -> io::Result<libc::socklen_t> {
    size_of::<T>().try_into().map_err(io::Error::other)
}

fn check(returned: c_int) -> io::Result<()> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
