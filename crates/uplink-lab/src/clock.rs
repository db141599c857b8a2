//! The clock that everything in the lab is stamped with, and how late this machine wakes us.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use nix::unistd::Pid;
use uplink_core::time::Instant;

use crate::error::{Doing, Result};
use crate::kernel::{ask_on, loopback_message};

/// Now, on `CLOCK_BOOTTIME`: comparable with the daemon's own stamps.
#[must_use]
pub fn now() -> Instant {
    // The clock exists since Linux 2.6.39; there is nothing to be done about a kernel without it.
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Into::into);
    Instant::BOOT + since_boot
}

/// Sleeps until a moment: for pacing and for letting time pass, never for waiting for an event.
pub fn sleep_until(moment: Instant) {
    let request = TimeSpec::from_duration(moment.since(Instant::BOOT));
    while clock_nanosleep(ClockId::CLOCK_BOOTTIME, ClockNanosleepFlags::TIMER_ABSTIME, &request)
        .is_err_and(|error| error == nix::Error::EINTR)
    {}
}

/// Lets time pass.
pub fn pass(span: Duration) {
    sleep_until(now() + span);
}

/// How late something was, over many samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lateness {
    /// How many samples.
    pub samples: usize,
    /// The median.
    pub median: Duration,
    /// All but one in a hundred were no later than this.
    pub p99: Duration,
    /// The worst.
    pub max: Duration,
}

impl Lateness {
    /// Sums up samples.
    #[must_use]
    pub fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let rank = |percent: usize| {
            let index = (samples.len() * percent / 100).min(samples.len().saturating_sub(1));
            samples.get(index).copied().unwrap_or_default()
        };
        Self { samples: samples.len(), median: rank(50), p99: rank(99), max: rank(100) }
    }
}

impl std::fmt::Display for Lateness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "median {:.3} ms, p99 {:.3} ms, max {:.3} ms late ({} samples)",
            self.median.as_secs_f64() * 1e3,
            self.p99.as_secs_f64() * 1e3,
            self.max.as_secs_f64() * 1e3,
            self.samples
        )
    }
}

/// Measures how late the machine itself is, so that it can be printed beside every figure of time: on
/// each processor a thread sleeps 5 ms, again and again, at ordinary priority. On each, because one may
/// wake nobody while the other does: Linux 6.18 was seen to leave all such threads of a processor,
/// whatever their niceness, behind a busy loop for eleven seconds.
#[derive(Debug)]
pub struct Lag {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<Duration>>>,
}

impl Lag {
    /// Starts measuring.
    #[must_use]
    pub fn start() -> Self {
        let mut lag = Self { stop: Arc::default(), threads: Vec::new() };
        for processor in processors() {
            lag.sample(processor, || ());
        }
        lag
    }

    /// Starts measuring, also how long the kernel's lock of links and routes (rtnl) is not to be had: it
    /// is one for all namespaces, and every change of a route waits for it.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn of_kernel() -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).doing("open a netlink socket")?;
        socket.bind_auto().doing("bind a netlink socket")?;
        let mut turn = 0;
        let mut lag = Self::start();
        lag.sample(ANY_PROCESSOR, move || {
            turn = (turn + 1) % TURNS;
            if turn == 0 {
                // Whatever it answers, it answers with the lock held (rtnl_getlink in net/core/rtnetlink.c).
                let _ = ask_on(&socket, loopback_message(), 0);
            }
        });
        Ok(lag)
    }

    /// Measures in a thread of its own how late a sleep is, and what is done after it.
    fn sample(&mut self, on: Option<CpuSet>, mut what: impl FnMut() + Send + 'static) {
        let stopped = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            stay_on(on);
            let mut samples = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let due = now() + Duration::from_millis(5);
                sleep_until(due);
                what();
                samples.push(now().since(due));
            }
            samples
        }));
    }

    /// Ends measuring, when all threads have woken up.
    #[must_use]
    pub fn stop(mut self) -> Lateness {
        Lateness::of(self.end())
    }

    fn end(&mut self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).flat_map(|thread| thread.join().unwrap_or_default()).collect()
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.end();
    }
}

/// The calling thread, to `sched_setaffinity(2)`.
const THIS_THREAD: Pid = Pid::from_raw(0);
/// No processor in particular.
pub(crate) const ANY_PROCESSOR: Option<CpuSet> = None;

/// Has the calling thread run on this processor from now on; on any where that is refused.
pub(crate) fn stay_on(processor: Option<CpuSet>) {
    let _ = processor.map(|processor| sched_setaffinity(THIS_THREAD, &processor));
}

/// The processors that we may run on, one by one; where the kernel does not say, any.
pub(crate) fn processors() -> Vec<Option<CpuSet>> {
    let Ok(all) = sched_getaffinity(THIS_THREAD) else { return vec![ANY_PROCESSOR] };
    let alone = |number| {
        let mut set = CpuSet::new();
        (all.is_set(number) == Ok(true) && set.set(number).is_ok()).then_some(Some(set))
    };
    (0..CpuSet::count()).filter_map(alone).collect()
}

/// One in so many sleeps is followed by a question.
const TURNS: u32 = 10;

/// How often a load lets go of the processors.
const LOAD_PERIOD: Duration = Duration::from_millis(100);
/// For how long it does.
const LOAD_REST: Duration = Duration::from_millis(5);

/// Keeps the processors busy at ordinary priority until dropped, but for a moment ten times a second, at
/// which all of them are free: under loops that never sleep, Linux 6.18 was seen not to run its RCU
/// thread for a minute, and with it whoever waits for a grace period.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts so many busy loops.
    #[must_use]
    pub fn start(loops: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..loops)
            .map(|_| {
                let stopped = Arc::clone(&stop);
                std::thread::spawn(move || {
                    while !stopped.load(Ordering::Relaxed) {
                        let rest = LOAD_PERIOD.as_millis()
                            - now().since(Instant::BOOT).as_millis() % LOAD_PERIOD.as_millis();
                        if rest <= LOAD_REST.as_millis() {
                            sleep_until(now() + LOAD_REST);
                        }
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        Self { stop, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A busy loop cannot panic.
            let _ = thread.join();
        }
    }
}
