//! What netlink sockets need and no safe crate wraps.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

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

fn switch_on(socket: &impl AsFd, option: libc::c_int) -> io::Result<()> {
    const SIZE: libc::socklen_t = 4;
    let one: libc::c_int = 1;
    // SAFETY: the descriptor is borrowed and so open for the whole call, and the kernel reads
    // four bytes, the size of a `c_int`, from a pointer to a live `c_int`.
    let result = unsafe {
        libc::setsockopt(socket.as_fd().as_raw_fd(), libc::SOL_NETLINK, option, (&raw const one).cast(), SIZE)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
