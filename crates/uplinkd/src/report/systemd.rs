//! Tells systemd how we are. Without systemd (no `NOTIFY_SOCKET`) all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// What a start may take beyond the wait that the operator allows.
const START_MARGIN: Duration = Duration::from_secs(30);

/// We are at work, and will be ready within this time: systemd must not take us for stuck before.
pub(crate) fn starting(within: Duration) {
    let micros = u32::try_from((within + START_MARGIN).as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::ExtendTimeoutUsec(micros), NotifyState::Status("waiting for the first decision")]);
}

/// Every family is decided: units ordered after us may start.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What `systemctl status` shows.
pub(crate) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// We are ending.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The loop is alive.
pub(crate) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

/// How long systemd waits for [`alive`] before it kills us; half of it is a good interval. None if
/// it does not watch.
pub(crate) fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
}

/// A message that is lost is no reason to stop steering: the watchdog would notice.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!("failed to notify systemd: {error}");
    }
}
