//! A worker with a running daemon, watched from all sides.

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use uplink_core::own::PRIORITY_PIN;
use uplink_core::snapshot::{Family, protocol};
use uplink_core::time::Instant;
use uplink_lab::{
    Change, Changes, Daemon, DaemonBuilder, Fault, Host, INTERNET4, INTERNET6, Lag, Lateness, Lookups, Site,
    Stamped, Stream, StreamReport, Uplink, now, pass,
};

pub(crate) type Outcome = Result<(), Failed>;

/// What must happen at once, happens within this; generous, for machines that are busy: changes of routes
/// wait for the kernel's lock of links and routes, which beside this lab was seen held for seconds. What
/// an operator is promised is bounded where it is promised.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// What is prompt takes no longer than this, also on a busy machine.
pub(crate) const PROMPT: Duration = Duration::from_secs(5);
/// The daemon ends within this. The kernel lets it wait for an RCU grace period with each packet socket
/// that it closes, after its routes are gone: many seconds where all processors are busy.
pub(crate) const END: Duration = Duration::from_secs(60);
/// A machine or a kernel that was later than this was frozen: no wait of a test allows for that.
const FROZEN: Duration = Duration::from_millis(500);
/// The default patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(1);
/// The internet in both families.
pub(crate) const INTERNET: [IpAddr; 2] = [IpAddr::V4(INTERNET4), IpAddr::V6(INTERNET6)];
/// A configuration for tests that need no long outages.
pub(crate) const BRISK: &str = "patience = \"300ms\"\nreturn_after = \"1s\"\n";
/// The port's place on the PCI bus.
pub(crate) const PCI: &str = "0000:03:00.0";

/// The interval of lookups and packets where no figure is taken: enough to see any outage that a
/// person would.
pub(crate) const STEADY: Duration = Duration::from_millis(5);

/// A test by its name. One that failed while the machine or its kernel was frozen is made again, and says
/// so.
pub(crate) fn trial(name: &str, test: impl Fn() -> Outcome + Send + 'static) -> Trial {
    let named = name.to_owned();
    Trial::test(name, move || {
        let lag = Lag::of_kernel()?;
        // It is made again from the beginning, and leaves nothing that could be half done.
        let outcome = catch_unwind(AssertUnwindSafe(&test));
        let late = lag.stop().max;
        if late < FROZEN || matches!(outcome, Ok(Ok(()))) {
            return outcome.unwrap_or_else(|panic| resume_unwind(panic));
        }
        println!("made again, for the machine or its kernel was {late:?} late: {named}");
        test()
    })
}

/// A site with a daemon at work on its worker.
pub(crate) struct Scene {
    pub(crate) site: Site,
    pub(crate) daemon: Daemon,
    pub(crate) lookups: Lookups,
    pub(crate) changes: Changes,
    pub(crate) streams: Vec<Stream>,
    /// The worker's table before the daemon.
    pub(crate) before: String,
    lag: Lag,
}

/// What the end of a scene showed.
#[derive(Debug)]
pub(crate) struct Ending {
    /// The streams, IPv4 first.
    pub(crate) streams: Vec<StreamReport>,
    /// How late the machine and its kernel were meanwhile.
    pub(crate) lateness: Lateness,
}

impl Scene {
    /// The usual site, the port known by its PCI function, no configuration: the port is elected.
    pub(crate) fn usual() -> Result<Self, Failed> {
        Self::configured("")
    }

    /// The usual site with a configuration; the port is elected.
    pub(crate) fn configured(toml: &str) -> Result<Self, Failed> {
        let site = Site::new()?;
        site.worker.give_pci("port", PCI)?;
        let scene = Self::begin(site, toml)?;
        scene.leads_to("port")?;
        Ok(scene)
    }

    /// Any site, with default routes in both families; returns when the daemon is ready.
    pub(crate) fn begin(site: Site, toml: &str) -> Result<Self, Failed> {
        Self::paced(site, toml, STEADY)
    }

    /// As [`Scene::begin`], with a lookup and a packet in each interval.
    pub(crate) fn paced(site: Site, toml: &str, interval: Duration) -> Result<Self, Failed> {
        Self::of(site, daemon(toml), interval)
    }

    /// As [`Scene::paced`], with any daemon.
    pub(crate) fn of(site: Site, daemon: DaemonBuilder, interval: Duration) -> Result<Self, Failed> {
        let scene = Self::start(site, daemon, interval)?;
        scene.daemon.wait_ready(Duration::from_secs(40))?;
        Ok(scene)
    }

    /// As [`Scene::begin`], without waiting for the daemon to be ready.
    pub(crate) fn booting(site: Site, toml: &str) -> Result<Self, Failed> {
        Self::start(site, daemon(toml), STEADY)
    }

    fn start(site: Site, daemon: DaemonBuilder, interval: Duration) -> Result<Self, Failed> {
        let before = site.worker.table_text()?;
        let changes = Changes::start(&site.worker)?;
        let lookups = Lookups::start(&site.worker, &INTERNET, interval)?;
        let start = |address| Stream::start(&site.worker, &site.internet, address, interval);
        let streams = INTERNET.into_iter().map(start).collect::<Result<_, _>>()?;
        let daemon = daemon.start(&site.worker)?;
        Ok(Self { site, daemon, lookups, changes, streams, before, lag: Lag::of_kernel()? })
    }

    /// Starts the daemon again, after it ended; returns when it is ready.
    pub(crate) fn start_again(&mut self, toml: &str) -> Outcome {
        self.daemon = daemon(toml).start(&self.site.worker)?;
        self.daemon.wait_ready(SOON)?;
        Ok(())
    }

    /// Both families lead to this interface, now or soon.
    pub(crate) fn leads_to(&self, interface: &str) -> Outcome {
        let end = now() + SOON;
        for address in INTERNET {
            while self.way_to(address).as_deref() != Some(interface) {
                if now() >= end {
                    return Err(self.explain(&format!("{address} does not lead to {interface}")));
                }
                pass(Duration::from_millis(1));
            }
        }
        // What led there is stamped before whatever the test does next.
        self.changes.caught_up()?;
        Ok(())
    }

    /// The interface that the last lookup of this address was answered with.
    pub(crate) fn way_to(&self, address: IpAddr) -> Option<String> {
        let changes = self.lookups.report().changes;
        changes.into_iter().rev().find(|way| way.what.to == address)?.what.interface.ok()
    }

    /// Waits until both families lead to this interface; gives the moments of the first such answers.
    pub(crate) fn moves_to(
        &self,
        interface: &str,
        since: Instant,
        bound: Duration,
    ) -> Result<[Instant; 2], Failed> {
        let at = |address| match self.lookups.wait_for(address, interface, since, bound) {
            Ok(way) => Ok(way.at),
            Err(error) => Err(self.explain(&error.to_string())),
        };
        Ok([at(INTERNET[0])?, at(INTERNET[1])?])
    }

    /// Both families move to management because the port is silent.
    pub(crate) fn fail_over(&self) -> Outcome {
        self.site.port.cable.fault(&[Fault::Silent]);
        self.leads_to("mgmt")
    }

    /// The port is well again, and both families come back.
    pub(crate) fn come_back(&self) -> Outcome {
        self.site.port.cable.heal();
        self.leads_to("port")
    }

    /// Another program says this to `ip`.
    pub(crate) fn write(&self, lines: &[impl AsRef<str>]) -> Outcome {
        let lines: Vec<&str> = lines.iter().map(AsRef::as_ref).collect();
        self.site.worker.ip_batch(&format!("{}\n", lines.join("\n")))?;
        Ok(())
    }

    /// Lets time pass and checks that no lookup changed meanwhile.
    pub(crate) fn stays(&self, span: Duration) -> Outcome {
        let since = now();
        pass(span);
        let moved: Vec<_> = self.lookups.report().changes.into_iter().filter(|way| way.at > since).collect();
        if moved.is_empty() { Ok(()) } else { Err(self.explain(&format!("moved: {moved:?}"))) }
    }

    /// Pins, and rules that lead to them, that were written since: path rules may come and go meanwhile.
    pub(crate) fn pin_writes(&self, since: Instant) -> Result<Vec<Stamped<Change>>, Failed> {
        let mut writes = self.writes(since)?;
        writes.retain(|change| of_pin(&change.what));
        Ok(writes)
    }

    /// All routes and rules of ours that were written since.
    pub(crate) fn writes(&self, since: Instant) -> Result<Vec<Stamped<Change>>, Failed> {
        self.changes.caught_up()?;
        let is_ours = |change: &Stamped<Change>| change.what.protocol() == Some(protocol::UPLINKD);
        Ok(self.changes.since(since).into_iter().filter(is_ours).collect())
    }

    /// Our pin's metric in the main table, or in the table of placement `table`.
    pub(crate) fn pins(&self, family: Family) -> Result<Vec<uplink_lab::Route>, Failed> {
        let routes = self.site.worker.default_routes(family)?;
        Ok(routes.into_iter().filter(uplink_lab::Route::is_pin).collect())
    }

    /// What the status says of an uplink, by its name or its interface.
    pub(crate) fn uplink(&self, uplink: &str) -> Result<Value, Failed> {
        let status = self.daemon.status()?;
        let uplinks = status["status"]["uplinks"].as_array().into_iter().flatten();
        let mut found = uplinks.filter(|entry| entry["name"] == uplink || entry["interface"] == uplink);
        Ok(found.next().ok_or_else(|| format!("no uplink {uplink} in {status}"))?.clone())
    }

    /// A path as the status shows it.
    pub(crate) fn path(&self, uplink: &str, family: Family) -> Result<Value, Failed> {
        let entry = self.uplink(uplink)?;
        let mut paths = entry["paths"].as_array().into_iter().flatten();
        let found = paths.find(|path| path["family"] == family.to_string());
        Ok(found.ok_or_else(|| format!("{uplink} has no {family} path in {entry}"))?.clone())
    }

    /// Waits until the pins of a family are as they should be.
    pub(crate) fn pinned(
        &self,
        family: Family,
        what: &str,
        is_so: impl Fn(&[uplink_lab::Route]) -> bool,
    ) -> Outcome {
        self.until(&format!("{family}: {what}"), || Ok(is_so(&self.pins(family)?)))
    }

    /// Waits until something is so.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn() -> Result<bool, Failed>) -> Outcome {
        let end = now() + SOON;
        while !is_so()? {
            if now() >= end {
                return Err(self.explain(&format!("not so: {what}\n{}", self.site.worker.table_text()?)));
            }
            pass(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The worker's table without what is ours.
    pub(crate) fn foreign(&self) -> Result<String, Failed> {
        foreign(&self.site.worker)
    }

    /// What a family's status says of one thing: `pin`, `aside`, `elected`, ….
    pub(crate) fn status_of(&self, family: Family, key: &str) -> Result<Value, Failed> {
        let status = self.daemon.status()?;
        let families = status["status"]["families"].as_array().cloned().unwrap_or_default();
        let found = families.into_iter().find(|entry| entry["family"] == family.to_string());
        Ok(found.ok_or_else(|| format!("no {family} in {status}"))?[key].clone())
    }

    /// What the status says of a path: `up`, `unknown`, or the cause.
    pub(crate) fn health(&self, uplink: &str, family: Family) -> Result<String, Failed> {
        let path = self.path(uplink, family)?;
        let of = |key: &str| path[key].as_str().map(str::to_owned);
        of("cause").or_else(|| of("health")).ok_or_else(|| format!("no health in {path}").into())
    }

    /// When the path's gateway answered last, as the kernel stamped it.
    pub(crate) fn last_answer(&self, uplink: &str, family: Family) -> Result<Instant, Failed> {
        let path = self.path(uplink, family)?;
        let micros = path["last_answer_us"].as_u64().ok_or_else(|| format!("no answer in {path}"))?;
        Ok(Instant::BOOT + Duration::from_micros(micros))
    }

    /// Waits until the status says this of a path.
    pub(crate) fn becomes(&self, uplink: &str, family: Family, health: &str) -> Outcome {
        let end = now() + SOON;
        loop {
            let is = self.health(uplink, family)?;
            if is == health {
                return Ok(());
            }
            if now() >= end {
                return Err(self.explain(&format!("{uplink} {family} is {is}, not {health}")));
            }
            pass(Duration::from_millis(5));
        }
    }

    /// Stops the daemon: no lookup failed in all the time, and the table is as it was before.
    pub(crate) fn finish(self) -> Result<Ending, Failed> {
        let before = self.before.clone();
        self.finish_with(&before)
    }

    /// As [`Scene::finish`], where the test changed the table: all that is not ours stays as it is.
    pub(crate) fn finish_changed(self) -> Result<Ending, Failed> {
        let foreign = self.foreign()?;
        self.finish_with(&foreign)
    }

    /// As [`Scene::finish`], where somebody else left the table as in `expected`.
    pub(crate) fn finish_with(mut self, expected: &str) -> Result<Ending, Failed> {
        self.stop_with(expected)?;
        let asked = self.lookups.report();
        if asked.failed > 0 {
            return Err(self.explain(&format!("{} of {} lookups failed", asked.failed, asked.asked)));
        }
        let streams: Vec<StreamReport> = self.streams.into_iter().map(Stream::stop).collect();
        let failed: u64 = streams.iter().map(|stream| stream.failed).sum();
        if failed > 0 {
            return Err(format!("the sending kernel refused {failed} packets").into());
        }
        Ok(Ending { streams, lateness: self.lag.stop() })
    }

    /// As [`Scene::finish`], where others changed the table meanwhile: what is theirs stays as it is.
    pub(crate) fn finish_among(self) -> Result<Ending, Failed> {
        let expected = self.foreign()?;
        self.finish_with(&expected)
    }

    /// Stops the daemon and looks at what it left, where others made lookups fail on purpose.
    pub(crate) fn stop_with(&mut self, expected: &str) -> Outcome {
        self.daemon.stop(END)?;
        let after = self.site.worker.table_text()?;
        if after == expected {
            return Ok(());
        }
        Err(self.explain(&format!("the table differs.\nexpected:\n{expected}\nis:\n{after}")))
    }

    /// A failure with the daemon's log beside it.
    pub(crate) fn explain(&self, what: &str) -> Failed {
        let log = self.daemon.log();
        let lines: Vec<String> = log.iter().map(|line| format!("  {} {}", line.at, line.what)).collect();
        format!("{what}\nnow: {}\nthe daemon's log:\n{}", now(), lines.join("\n")).into()
    }
}

/// A host's table without what is ours.
pub(crate) fn foreign(host: &Host) -> Result<String, Failed> {
    let text = host.table_text()?;
    let foreign = text.lines().filter(|line| !format!("{line} ").contains(" proto 117 "));
    Ok(foreign.collect::<Vec<_>>().join("\n"))
}

/// A pin was written, or a rule that leads to it.
pub(crate) fn of_pin(change: &Change) -> bool {
    match change {
        Change::RouteAdded(route) | Change::RouteDeleted(route) => route.is_pin(),
        Change::RuleAdded(rule) | Change::RuleDeleted(rule) => {
            rule.protocol == protocol::UPLINKD && rule.priority == PRIORITY_PIN
        }
        _ => false,
    }
}

/// What another program says to `ip` to do this with an uplink's default routes in both families.
pub(crate) fn defaults(verb: &str, uplink: &Uplink, metric: u32, more: &str) -> String {
    let Uplink { interface, gateway4, gateway6, .. } = uplink;
    format!(
        "route {verb} 0.0.0.0/0 via {gateway4} dev {interface} proto 16 metric {metric} {more}\n\
         route {verb} ::/0 via {gateway6} dev {interface} proto 16 metric {metric} {more}\n"
    )
}

/// The usual site with other metrics.
pub(crate) fn site_with_metrics(port: u32, mgmt: u32) -> Result<Site, Failed> {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    site.lay_default(&site.port, "port", port)?;
    site.lay_default(&site.mgmt, "mgmt", mgmt)?;
    Ok(site)
}

/// The daemon under test.
pub(crate) fn daemon(toml: &str) -> DaemonBuilder {
    let daemon = Daemon::of(env!("CARGO_BIN_EXE_uplinkd"), &["run"]);
    if toml.is_empty() { daemon } else { daemon.config(toml) }
}
