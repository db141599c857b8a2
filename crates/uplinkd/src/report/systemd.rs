//! Tells systemd how we are (`sd_notify(3)`), and never waits for it. Without systemd (no
//! `NOTIFY_SOCKET`) all of this does nothing.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use uplink_core::time::Instant;

/// What a start may take beyond the wait that the operator allows.
const START_MARGIN: Duration = Duration::from_secs(30);

/// What systemd did not take is offered again after this, if nothing else wakes the loop before. It
/// takes nothing only while it is held up itself.
const AGAIN: Duration = Duration::from_secs(1);

/// systemd, as far as it wants to be told.
pub(crate) struct Systemd {
    socket: UnixDatagram,
    /// None if nobody wants to know.
    to: Option<SocketAddr>,
    /// What it has not taken yet. A newer value stands for the older ones.
    untold: BTreeMap<&'static str, String>,
}

impl Systemd {
    /// The one that started us.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Self::at(env::var_os("NOTIFY_SOCKET").as_deref().and_then(address))
    }

    fn at(to: Option<SocketAddr>) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, to, untold: BTreeMap::new() })
    }

    /// We are at work, and will be ready within this time: systemd must not take us for stuck before.
    pub(crate) fn starting(&mut self, within: Duration) {
        self.note("EXTEND_TIMEOUT_USEC", (within + START_MARGIN).as_micros().to_string());
        self.tell("STATUS", "waiting for the first decision");
    }

    /// Every family is decided: units ordered after us may start.
    pub(crate) fn ready(&mut self, status: &str) {
        self.note("READY", "1");
        self.tell("STATUS", status);
    }

    /// What `systemctl status` shows.
    pub(crate) fn status(&mut self, status: &str) {
        self.tell("STATUS", status);
    }

    /// We are ending.
    pub(crate) fn stopping(&mut self) {
        self.tell("STOPPING", "1");
    }

    /// The loop is alive.
    pub(crate) fn alive(&mut self) {
        self.tell("WATCHDOG", "1");
    }

    /// Offers again what was not taken: whatever waits for READY waits for ever without it.
    pub(crate) fn retry(&mut self) {
        let Some(to) = self.to.as_ref().filter(|_| !self.untold.is_empty()) else {
            return;
        };
        let lines: String = self.untold.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
        if self.socket.send_to_addr(lines.as_bytes(), to).is_ok() {
            self.untold.clear();
        }
    }

    /// When it wants to be offered again what was not taken.
    pub(crate) fn deadline(&self, now: Instant) -> Instant {
        if self.untold.is_empty() { Instant::NEVER } else { now + AGAIN }
    }

    fn tell(&mut self, key: &'static str, value: impl Into<String>) {
        self.note(key, value);
        self.retry();
    }

    fn note(&mut self, key: &'static str, value: impl Into<String>) {
        if self.to.is_some() {
            self.untold.insert(key, value.into());
        }
    }
}

/// How long systemd waits for [`Systemd::alive`] before it kills us; half of it is a good interval.
/// None if it does not watch this process (`sd_watchdog_enabled(3)`).
pub(crate) fn watchdog() -> Option<Duration> {
    let number = |key| env::var(key).ok()?.parse::<u64>().ok();
    let ours = env::var_os("WATCHDOG_PID").is_none()
        || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
    let limit = Duration::from_micros(number("WATCHDOG_USEC")?);
    (ours && !limit.is_zero()).then_some(limit)
}

/// A path, or with `@` a name in the abstract namespace (unix(7)). Others are for virtual machines.
fn address(text: &OsStr) -> Option<SocketAddr> {
    match text.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(text).ok(),
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name).ok(),
        _ => None,
    }
}

/// What `NOTIFY_SOCKET` may say, for tests with arbitrary bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_address(bytes: &[u8]) {
    let _ = address(OsStr::from_bytes(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Instant = Instant::BOOT;

    /// A socket where systemd's would be, and who tells it.
    fn pair(name: &str) -> (UnixDatagram, Systemd) {
        let name = format!("@uplinkd-notify-{}-{name}", std::process::id());
        let to = address(OsStr::new(&name)).unwrap();
        let socket = UnixDatagram::bind_addr(&to).unwrap();
        socket.set_nonblocking(true).unwrap();
        (socket, Systemd::at(Some(to)).unwrap())
    }

    /// The next message; none if there is none.
    fn next(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    }

    #[test]
    fn it_is_told_in_the_words_of_sd_notify() {
        let (socket, mut systemd) = pair("words");
        systemd.starting(Duration::from_secs(1));
        systemd.ready("well");
        systemd.status("better");
        systemd.alive();
        systemd.stopping();
        let told: Vec<String> = std::iter::from_fn(|| next(&socket)).collect();
        let start = "EXTEND_TIMEOUT_USEC=31000000\nSTATUS=waiting for the first decision\n";
        assert_eq!(
            told,
            [start, "READY=1\nSTATUS=well\n", "STATUS=better\n", "WATCHDOG=1\n", "STOPPING=1\n"]
        );
        assert_eq!(systemd.deadline(NOW), Instant::NEVER);
    }

    #[test]
    fn what_does_not_fit_is_not_waited_for_and_told_later() {
        let (socket, mut systemd) = pair("full");
        let mut other = Systemd::at(systemd.to.clone()).unwrap();
        while other.deadline(NOW) == Instant::NEVER {
            other.alive();
        }
        systemd.ready("first");
        systemd.status("second");
        systemd.retry();
        assert_eq!(systemd.deadline(NOW), NOW + AGAIN);
        while next(&socket).is_some() {}
        systemd.retry();
        systemd.retry();
        assert_eq!(next(&socket).as_deref(), Some("READY=1\nSTATUS=second\n"));
        assert_eq!((next(&socket), systemd.deadline(NOW)), (None, Instant::NEVER));
    }

    #[test]
    fn without_systemd_nothing_waits() {
        assert!(address(OsStr::new("vsock:2:1234")).is_none());
        let mut systemd = Systemd::at(None).unwrap();
        systemd.ready("well");
        assert_eq!(systemd.deadline(NOW), Instant::NEVER);
    }
}
