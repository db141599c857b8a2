//! What can go wrong while building or using a lab.

use std::io;
use std::time::Duration;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What failed, on what, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel does not let this user make namespaces.
    #[error(
        "cannot make a user namespace: {0}; run as root, or allow it: `sysctl -w \
         user.max_user_namespaces=10000`, on Debian `sysctl -w kernel.unprivileged_userns_clone=1`, \
         on Ubuntu `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
    )]
    Forbidden(io::Error),
    /// Only root can do this.
    #[error("needs root: a container with its own systemd cannot be booted by another user")]
    NeedsRoot,
    /// A system call failed.
    #[error("failed to {what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program could be started, and failed.
    #[error("`{command}` failed: {said}")]
    Command {
        /// The command line.
        command: String,
        /// Its standard error.
        said: String,
    },
    /// Something did not happen in time.
    #[error("{what} did not come within {bound:?}")]
    Late {
        /// What was waited for.
        what: String,
        /// For how long.
        bound: Duration,
    },
    /// Somebody said what we do not understand.
    #[error("{0}")]
    Unexpected(String),
}

/// Says what was being done when a system call failed.
pub(crate) trait Doing<T> {
    /// `what` completes "failed to …".
    fn doing(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|error| Error::System { what: what.into(), source: error.into() })
    }
}
