//! Tells systemd how we are. Without systemd (no `NOTIFY_SOCKET`) all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

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
