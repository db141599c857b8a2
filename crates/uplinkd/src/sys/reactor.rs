//! Descriptors that the runtime waits on.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Lets the runtime wait for `owner` to become readable. Must be called within the runtime.
///
/// # Errors
/// Those of `epoll_ctl(2)`.
pub(crate) fn register<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `AsFd` vouches for a descriptor that is open as long as `owner` lives, which the
    // `AsyncFd` then owns; all types that are registered here give that same one as raw descriptor.
    let registered = unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) };
    Ok(registered?)
}
