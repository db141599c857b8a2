//! Into the namespaces in which a lab can be built without harm to the machine.

use std::fs;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::error::{Doing, Error, Result};

/// Takes this process into its own mount and network namespaces, as root of its own user namespace
/// where it is not root already.
///
/// To be called first in `main`: a process with several threads cannot get a user namespace.
///
/// # Errors
/// [`Error::Forbidden`] if the machine does not allow user namespaces, which says what to do.
pub fn enter() -> Result<()> {
    let (user, group) = (geteuid(), getegid());
    let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET;
    if user.is_root() {
        unshare(own).doing("make mount and network namespaces")?;
    } else {
        unshare(own | CloneFlags::CLONE_NEWUSER).map_err(|error| Error::Forbidden(error.into()))?;
        // user_namespaces(7): without this an unprivileged process may not map its group.
        for (file, line) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("0 {user} 1")),
            ("gid_map", format!("0 {group} 1")),
        ] {
            fs::write(format!("/proc/self/{file}"), line).map_err(Error::Forbidden)?;
        }
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).doing("make all mounts private")
}
