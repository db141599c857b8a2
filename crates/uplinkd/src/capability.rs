//! Whether we may do our work: without a capability nothing would answer, or nothing be written, and
//! nobody would be told why.

use std::fs;

use uplink_core::policy::Mode;

/// A capability and its number (`linux/capability.h`).
type Capability = (&'static str, u32);

/// To write routes and rules.
const NET_ADMIN: Capability = ("CAP_NET_ADMIN", 12);
/// To ask gateways.
const NET_RAW: Capability = ("CAP_NET_RAW", 13);

/// A capability is missing.
#[derive(Debug, thiserror::Error)]
#[error("{0} is missing: start uplinkd by its systemd unit, or as root")]
pub(crate) struct MissingCapability(&'static str);

/// Whether this process has the capabilities that the mode needs. Where that cannot be found out, the
/// kernel will say.
///
/// # Errors
/// The first that is missing.
pub(crate) fn check(mode: Mode) -> Result<(), MissingCapability> {
    let needed: &[Capability] = match mode {
        Mode::Steer => &[NET_ADMIN, NET_RAW],
        Mode::Observe => &[NET_RAW],
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let Some(held) = effective(&status) else { return Ok(()) };
    match needed.iter().find(|(_, number)| held & (1 << number) == 0) {
        Some((name, _)) => Err(MissingCapability(name)),
        None => Ok(()),
    }
}

/// The set in force: a line `CapEff:` with a number in base 16 (proc_pid_status(5)).
fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// What `/proc/self/status` may say, for tests with arbitrary bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_status(bytes: &[u8]) {
    let _ = str::from_utf8(bytes).ok().and_then(effective);
}
