//! The one timer: rings when the core wants to be called again.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;
use uplink_core::time::Instant;

use crate::sys::reactor::register;

/// A timer on `CLOCK_BOOTTIME`: it counts the time of a suspended host too, and rings within 0.2 ms
/// where the runtime's own timer is 1 to 2 ms late.
pub(crate) struct Alarm {
    timer: AsyncFd<Timer>,
    /// When it will ring; `NEVER` once it has rung.
    at: Instant,
}

impl Alarm {
    /// An alarm that is not set. Must be called within the runtime.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Timer(TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?);
        Ok(Self { timer: register(timer)?, at: Instant::NEVER })
    }

    /// Rings at `at`, and no more at any moment set before: at once if `at` is past, never at
    /// [`Instant::NEVER`].
    ///
    /// # Errors
    /// The kernel refuses, for which it has no cause.
    pub(crate) fn set(&mut self, at: Instant) -> io::Result<()> {
        if at == self.at {
            return Ok(());
        }
        let timer = &self.timer.get_ref().0;
        if at == Instant::NEVER {
            timer.unset()?;
        } else {
            // Zero would disarm it.
            let since_boot = Duration::from_nanos(at.as_nanos().max(1));
            timer
                .set(Expiration::OneShot(TimeSpec::from(since_boot)), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        }
        self.at = at;
        Ok(())
    }

    /// Returns when it rings, once for each moment set. Dropping the future loses no ring.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub(crate) async fn rung(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.timer.readable().await?;
            // Set anew after it ran out: the readiness is then old, and the timer says "not yet".
            let Ok(rung) = ready.try_io(|timer| Ok(timer.get_ref().0.wait()?)) else {
                continue;
            };
            self.at = Instant::NEVER;
            return rung;
        }
    }
}

/// The runtime asks for `AsRawFd`, which [`TimerFd`] does not have.
struct Timer(TimerFd);

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::clock;

    /// Runs `test` on a runtime like the daemon's, with an alarm.
    fn with_alarm<F: Future>(test: impl FnOnce(Alarm) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async { test(Alarm::new().unwrap()).await });
    }

    /// Whether it rings now, by a future that is dropped at once.
    fn rings(alarm: &mut Alarm) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        matches!(pin!(alarm.rung()).poll(&mut context), Poll::Ready(Ok(())))
    }

    #[test]
    fn it_rings_when_the_moment_has_come_and_not_before() {
        with_alarm(async |mut alarm| {
            let at = clock::now() + Duration::from_millis(20);
            alarm.set(at).unwrap();
            assert!(!rings(&mut alarm));
            alarm.rung().await.unwrap();
            assert!(clock::now() >= at);
            assert!(!rings(&mut alarm), "one moment, one ring");
        });
    }

    #[test]
    fn a_past_moment_rings_at_once_and_again_when_set_again() {
        with_alarm(async |mut alarm| {
            for past in [Instant::BOOT, clock::now(), Instant::BOOT, Instant::BOOT] {
                alarm.set(past).unwrap();
                alarm.rung().await.unwrap();
            }
        });
    }

    #[test]
    fn a_ring_is_replaced_by_the_next_moment() {
        with_alarm(async |mut alarm| {
            alarm.set(Instant::BOOT).unwrap();
            alarm.set(Instant::NEVER).unwrap();
            let at = clock::now() + Duration::from_millis(20);
            alarm.set(Instant::BOOT).unwrap();
            alarm.set(at).unwrap();
            alarm.rung().await.unwrap();
            assert!(clock::now() >= at);
        });
    }
}
