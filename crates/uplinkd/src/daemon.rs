//! The loop: feed the core, carry out what it says.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use uplink_core::event::{Input, Output};
use uplink_core::policy::{Mode, Policy};
use uplink_core::snapshot::LinkIndex;
use uplink_core::status::Status;
use uplink_core::time::Instant;
use uplink_core::{Core, Start};

use crate::alarm::Alarm;
use crate::apply::{Applier, ApplyError};
use crate::cleanup::{CleanupError, cleanup};
use crate::clock;
use crate::config;
use crate::memory::{self, Store};
use crate::observe::{Drained, ObserveError, Observer};
use crate::probe::{ProbeError, Prober};
use crate::report::systemd::{self, Systemd};
use crate::report::{journal, text};
use crate::sockets::Sockets;

/// A look at the kernel that failed is tried again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What ends the daemon before it was asked to end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    /// The kernel cannot be observed.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// No routes can be written.
    #[error("failed to open a netlink socket to write routes: {0}")]
    Apply(#[from] ApplyError),
    /// What an earlier process left cannot be removed.
    #[error(transparent)]
    Cleanup(#[from] CleanupError),
    /// No probes can be sent.
    #[error(transparent)]
    Probe(#[from] ProbeError),
    /// The runtime or the kernel refuses what every process has: a timer, signals.
    #[error("failed to set up the loop's timer and signals: {0}")]
    System(#[from] io::Error),
}

/// The rooms, and what passes between them.
pub(crate) struct Daemon {
    core: Core,
    observer: Observer,
    applier: Applier,
    prober: Prober,
    sockets: Sockets,
    alarm: Alarm,
    signals: Signals,
    store: Store,
    systemd: Systemd,
    status: watch::Sender<Arc<Status>>,
    told: String,
    asked: BTreeSet<LinkIndex>,
    look_at: Instant,
    watchdog: Option<Watchdog>,
    config: Option<PathBuf>,
    dry_run: bool,
}

/// Why the loop woke up.
enum Wake {
    /// The kernel told something.
    News,
    /// A reply or the deadline. Whichever woke us, all three are looked at, always.
    Work,
    /// Read the configuration again.
    Reload,
    /// End without a trace.
    Stop,
    /// End, and leave everything for the next process.
    Leave,
}

impl Daemon {
    /// Opens all rooms and takes the first look. To be called within the runtime.
    ///
    /// # Errors
    /// See [`DaemonError`].
    pub(crate) fn open(
        policy: Policy,
        config: Option<PathBuf>,
        dry_run: bool,
        signals: Signals,
    ) -> Result<Self, DaemonError> {
        let mut systemd = Systemd::new()?;
        systemd.starting(policy.boot_wait);
        withdraw(policy.mode, dry_run)?;
        let sockets = Sockets::new();
        check_closing(&sockets, &policy);
        let store = Store::new();
        let mut observer = Observer::open()?;
        observer.set_policy(&policy);
        let start = Start {
            policy,
            memory: store.read(),
            boot_id: memory::boot_id(),
            machine: memory::machine_number(),
            now: clock::now(),
        };
        let core = Core::new(start);
        Ok(Self {
            status: watch::Sender::new(Arc::new(core.status(clock::now()))),
            core,
            observer,
            applier: Applier::open()?,
            prober: Prober::new()?,
            sockets,
            alarm: Alarm::new()?,
            signals,
            store,
            systemd,
            told: String::new(),
            asked: BTreeSet::new(),
            look_at: Instant::NEVER,
            watchdog: systemd::watchdog().map(Watchdog::new),
            config,
            dry_run,
        })
    }

    /// The status as it is published.
    pub(crate) fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// Runs until it is asked to end.
    ///
    /// # Errors
    /// The kernel cannot be observed any more.
    pub(crate) async fn run(mut self) -> Result<(), DaemonError> {
        let first = self.seen();
        self.decide([first]);
        loop {
            self.carry_out();
            self.publish();
            match self.wait().await? {
                Wake::News | Wake::Work => {}
                Wake::Reload => self.reload(),
                Wake::Stop => {
                    self.systemd.stopping();
                    self.core.handle(Input::Stop, clock::now());
                    self.carry_out();
                    self.remember();
                    return Ok(());
                }
                Wake::Leave => {
                    self.systemd.stopping();
                    self.remember();
                    return Ok(());
                }
            }
            self.work()?;
        }
    }

    /// Waits until there is something to do. Most of what others do to a big host is nothing to us.
    async fn wait(&mut self) -> Result<Wake, DaemonError> {
        loop {
            self.alarm.set(self.deadline())?;
            let wake = tokio::select! {
                news = self.observer.readable() => news.map(|()| Wake::News),
                work = self.prober.readable() => work.map(|()| Wake::Work),
                () = self.sockets.done() => Ok(Wake::Work),
                work = self.alarm.rung() => work.map(|()| Wake::Work),
                _ = self.signals.stop.recv() => Ok(Wake::Stop),
                _ = self.signals.interrupt.recv() => Ok(Wake::Stop),
                _ = self.signals.leave.recv() => Ok(Wake::Leave),
                _ = self.signals.reload.recv() => Ok(Wake::Reload),
            }?;
            let is_nothing = matches!(wake, Wake::News) && !self.observer.drain()?.matters();
            if !is_nothing {
                return Ok(wake);
            }
        }
    }

    /// One decision on the news and all answers that wait: nobody is judged while his answer waits. No
    /// judge is told the time in another way.
    fn decide(&mut self, news: impl IntoIterator<Item = Input>) {
        let mut inputs = self.prober.drain();
        inputs.extend(self.observer.take_undone().map(Input::Undone));
        inputs.extend(self.sockets.take());
        inputs.extend(news);
        self.core.handle_all(inputs, clock::now());
    }

    /// Everything that waits, then one decision.
    fn work(&mut self) -> Result<(), DaemonError> {
        let Drained { changed, look, undone: _ } = self.observer.drain()?;
        let news = if changed { self.seen() } else { Input::Deadline };
        self.decide([news]);
        let now = clock::now();
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.feed(now, &mut self.systemd);
        }
        // One that failed stays due, and waits for its moment.
        if now >= self.look_at || (look && self.look_at == Instant::NEVER) {
            // Decide first on what is known: the look takes long where there are many routes.
            self.carry_out();
            self.look();
        }
        Ok(())
    }

    /// Reads the kernel's tables anew, because something may have vanished without a message.
    fn look(&mut self) {
        self.look_at = Instant::NEVER;
        let changed = self.observer.look().unwrap_or_else(|error| {
            tracing::warn!("{}; trying again", chain(&error));
            self.look_at = clock::now() + LOOK_AGAIN;
            // By the events that were taken in before it failed.
            true
        });
        if changed {
            let seen = self.seen();
            self.decide([seen]);
        }
    }

    fn seen(&mut self) -> Input {
        let snapshot = self.observer.take();
        for link in self.asked.extract_if(.., |link| !snapshot.links.contains_key(link)) {
            self.prober.forget(link);
        }
        Input::Snapshot(Box::new(snapshot))
    }

    /// Does all that the core wants done: routes first, then questions, then telling.
    fn carry_out(&mut self) {
        let mut remember = false;
        loop {
            let outputs: Vec<Output> = std::iter::from_fn(|| self.core.poll_output()).collect();
            if outputs.is_empty() {
                break;
            }
            let mut inputs = Vec::new();
            for output in &outputs {
                if let Output::Apply(ops) = output {
                    inputs.push(Input::Applied(self.applier.carry_out(ops)));
                }
            }
            let applied = !inputs.is_empty();
            for output in outputs {
                match output {
                    Output::Apply(_) => {}
                    Output::Remember => remember = true,
                    other => inputs.extend(self.tell_or_ask(other)),
                }
            }
            if applied {
                inputs.push(self.verified());
            }
            if !inputs.is_empty() {
                self.decide(inputs);
            }
        }
        if remember {
            self.remember();
        }
    }

    /// Leaves our memory for the next process; a dry run is nobody's predecessor.
    fn remember(&mut self) {
        if !self.dry_run {
            self.store.write(&self.core.memory());
        }
    }

    /// What stands in the kernel after operations: never what we believe, always what it says.
    fn verified(&mut self) -> Input {
        if let Err(error) = self.observer.look_at_own() {
            tracing::warn!("{}; trying again", chain(&error));
            self.look_at = clock::now() + LOOK_AGAIN;
        }
        self.seen()
    }

    fn tell_or_ask(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Ask(probe) => {
                self.asked.insert(probe.link);
                let error = self.prober.ask(&probe).err()?;
                tracing::debug!("{error}");
                return Some(Input::Unsent(probe.id));
            }
            Output::Watch { link, family, except } => {
                self.asked.insert(link);
                if let Err(error) = self.prober.watch(link, family, &except) {
                    tracing::debug!("{error}");
                }
            }
            Output::Unwatch { link, family } => self.prober.unwatch(link, family),
            Output::CloseSockets(closing) => self.sockets.close(closing),
            Output::Notice(notice) => journal::notice(clock::now(), &notice),
            Output::Ready => self.systemd.ready(&text::line(&self.core.status(clock::now()))),
            Output::Apply(_) | Output::Remember => {}
        }
        None
    }

    fn publish(&mut self) {
        let status = self.core.status(clock::now());
        let line = text::line(&status);
        if line == self.told {
            self.systemd.retry();
        } else {
            self.systemd.status(&line);
            self.told = line;
        }
        self.status.send_replace(Arc::new(status));
    }

    fn deadline(&self) -> Instant {
        let watchdog = self.watchdog.as_ref().map_or(Instant::NEVER, |watchdog| watchdog.next);
        let systemd = self.systemd.deadline(clock::now());
        let looks = self.look_at.min(self.observer.deadline());
        self.core.deadline().min(looks).min(watchdog).min(systemd)
    }

    /// A file that is wrong leaves the configuration that is in force.
    fn reload(&mut self) {
        match config::load(self.config.as_deref()) {
            Ok(policy) => {
                tracing::info!("read the configuration again");
                let policy = with_mode(policy, self.dry_run);
                if let Err(error) = withdraw(policy.mode, self.dry_run) {
                    tracing::error!("{}", chain(&error));
                }
                check_closing(&self.sockets, &policy);
                self.observer.set_policy(&policy);
                let seen = self.seen();
                self.decide([Input::Policy(Box::new(policy)), seen]);
            }
            Err(error) => {
                tracing::error!("the configuration stays as it was: {error}");
                self.decide([Input::Misconfigured(error.brief())]);
            }
        }
    }
}

/// The policy, without writing if the command line says so.
pub(crate) fn with_mode(policy: Policy, dry_run: bool) -> Policy {
    let mode = if dry_run { Mode::Observe } else { policy.mode };
    Policy { mode, ..policy }
}

/// Who observes steers no more: a pin that stayed would be tended by nobody, and lead to its path even
/// when that is dead. A dry run leaves alone what the daemon beside it tends.
fn withdraw(mode: Mode, dry_run: bool) -> Result<(), CleanupError> {
    if mode != Mode::Observe || dry_run {
        return Ok(());
    }
    match cleanup() {
        Ok(0) => {}
        Ok(removed) => tracing::info!("removed {removed} routes and rules: from now on we only observe"),
        // Nobody could take it away, we as little as at a stop.
        Err(stays @ CleanupError::Stays(_)) => tracing::error!("{stays}"),
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Whoever wants sockets to be closed hears in time, and not in an outage, that the kernel does not do so.
fn check_closing(sockets: &Sockets, policy: &Policy) {
    if policy.close_sockets && policy.mode == Mode::Steer {
        sockets.check();
    }
}

/// An error with its causes, in one line, each said once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.map(ToString::to_string).fold(error.to_string(), |text, cause| {
        if text.ends_with(&cause) { text } else { format!("{text}: {cause}") }
    })
}

/// The signals that mean something to us.
pub(crate) struct Signals {
    /// `systemctl stop`: end without a trace.
    stop: Signal,
    /// Ctrl-C: the same.
    interrupt: Signal,
    /// `RestartKillSignal=`: end, and leave everything for the next process.
    leave: Signal,
    /// `systemctl reload`: read the configuration again.
    reload: Signal,
}

impl Signals {
    /// From now on each waits until the loop takes it. To be called within the runtime.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            stop: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            leave: signal(SignalKind::user_defined2())?,
            reload: signal(SignalKind::hangup())?,
        })
    }
}

/// systemd's watchdog, fed by the loop: a loop that hangs is restarted.
struct Watchdog {
    every: Duration,
    next: Instant,
}

impl Watchdog {
    fn new(limit: Duration) -> Self {
        Self { every: limit / 2, next: clock::now() }
    }

    fn feed(&mut self, now: Instant, systemd: &mut Systemd) {
        if now >= self.next {
            systemd.alive();
            self.next = now + self.every;
        }
    }
}
