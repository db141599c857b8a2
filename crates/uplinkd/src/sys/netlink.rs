//! What netlink sockets need and no safe crate wraps.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use netlink_sys::Socket;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Makes the kernel check requests strictly and filter dumps by their headers and attributes
/// (`NETLINK_GET_STRICT_CHK`, Linux 4.20).
///
/// # Errors
/// Those of `setsockopt(2)`.
pub(crate) fn check_strictly(socket: &impl AsFd) -> io::Result<()> {
    switch_on(socket, libc::NETLINK_GET_STRICT_CHK)
}

/// Makes the kernel say in words why it refuses a request (`NETLINK_EXT_ACK`, Linux 4.12).
///
/// # Errors
/// Those of `setsockopt(2)`.
pub(crate) fn explain_refusals(socket: &impl AsFd) -> io::Result<()> {
    switch_on(socket, libc::NETLINK_EXT_ACK)
}

/// Lets the runtime wait for the socket to become readable. Must be called within a runtime.
///
/// # Errors
/// Those of `epoll_ctl(2)`.
pub(crate) fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a `Socket` owns its descriptor, gives out no other, and closes it only when dropped.
    let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
    Ok(socket)
}

fn switch_on(socket: &impl AsFd, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    #[allow(clippy::cast_possible_truncation)] // 4
    let length = size_of_val(&one) as libc::socklen_t;
    // SAFETY: the descriptor is borrowed and so open for the whole call, and the kernel reads
    // `length` bytes, its size, from a pointer to a live `c_int`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const one).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
