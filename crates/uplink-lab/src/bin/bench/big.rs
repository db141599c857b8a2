//! What a big host costs: the same faults on an empty host and on hosts full of others' routes, interfaces
//! and news, by turns.

use std::fmt;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use uplink_core::snapshot::{Family, protocol};
use uplink_core::time::Instant;
use uplink_lab::{Change, Changes, Churn, Daemon, End, Error, Fault, Pods, Result, Site, now, pass};

use crate::readings::Figure;

/// So often each host is built anew, and each fault is caused on it then.
const ROUNDS: usize = 4;
const FAULTS: u32 = 5;
/// Who comes back at once is ready for the next fault.
const CONFIG: &str = "return_after = \"0s\"";
const PATIENCE: Duration = Duration::from_secs(1);
const PCI: &str = "0000:03:00.0";
/// A daemon that has not moved by then never will.
const BOUND: Duration = Duration::from_secs(60);
/// What follows a move of its own is over by then, the reading of a large table above all.
const OVER: Duration = Duration::from_millis(500);
/// How long the cost is watched.
const SPAN: Duration = Duration::from_secs(10);
/// So many routes that come and go, or changes of links, overflow the socket of a daemon that sleeps
/// meanwhile.
const FLOOD: u32 = 8000;
/// What a daemon listens to (`RTNLGRP_*`, linux/rtnetlink.h): links, addresses, routes and rules of both
/// families, next hops, reverse-path checks.
const GROUPS: [u32; 9] = [1, 5, 7, 8, 9, 11, 19, 24, 32];

/// What is on a host beside the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crowd {
    Nobody,
    Routes,
    Pods,
    Tables,
    /// Nobody, but the daemon is stopped while the fault is caused.
    Sleep,
    /// The same, and more news of routes, or of links, than there is room for.
    FloodOfRoutes,
    FloodOfLinks,
}

impl Crowd {
    const ALL: [Self; 7] = [
        Self::Nobody,
        Self::Routes,
        Self::Pods,
        Self::Tables,
        Self::Sleep,
        Self::FloodOfRoutes,
        Self::FloodOfLinks,
    ];
}

impl fmt::Display for Crowd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nobody => "empty host",
            Self::Routes => "500,000 routes, 10,000 changes a second",
            Self::Pods => "250 pods, 1,000 a minute come and go",
            Self::Tables => "4,096 default routes in other tables",
            Self::Sleep => "stopped during the fault",
            Self::FloodOfRoutes => "stopped and overrun by news of routes",
            Self::FloodOfLinks => "stopped and overrun by news of links",
        })
    }
}

/// What was measured on one kind of host.
#[derive(Debug, Default)]
struct Samples {
    /// From the fault, or for a lost carrier from the kernel's news of it, to the switch, in milliseconds;
    /// of a daemon that was stopped, from when it was to go on.
    silent: Vec<f64>,
    carrier: Vec<f64>,
    /// Percent of a processor: the daemon's, and that of somebody who throws away what he hears.
    share: Vec<f64>,
    bare: Vec<f64>,
}

/// Measures the empty host and those whose name contains `part`, and tells.
pub(crate) fn measure(daemon: &Path, part: Option<&str>) -> Result<()> {
    let is_wanted =
        |crowd: &Crowd| *crowd == Crowd::Nobody || part.is_none_or(|part| crowd.to_string().contains(part));
    let wanted = Crowd::ALL.into_iter().filter(is_wanted);
    let mut all: Vec<_> = wanted.map(|crowd| (crowd, Samples::default())).collect();
    for round in 1..=ROUNDS {
        for (crowd, samples) in &mut all {
            println!("{crowd} ({round} of {ROUNDS})");
            Host::start(daemon, *crowd)?.measure(samples)?;
        }
    }
    println!(
        "\nmedian (95 of 100) in ms of {} faults each, both families; who was",
        ROUNDS * FAULTS as usize
    );
    println!("stopped is measured from when he was to go on, if that is later than the fault:");
    let (mut empty, mut stopped) = (None, None);
    for (crowd, samples) in all {
        let Samples { silent, carrier, share, bare } = samples;
        let [silent, carrier, share, bare] = [silent, carrier, share, bare].map(Figure::of);
        let (Some(silent), Some(carrier), Some(share), Some(bare)) = (silent, carrier, share, bare) else {
            continue;
        };
        let measured = (silent.median, carrier.median);
        let empty = *empty.get_or_insert(measured);
        // Who sleeps is late by itself: an overrun costs what it adds to that.
        let (beside, whose) = match (crowd, stopped) {
            (Crowd::FloodOfRoutes | Crowd::FloodOfLinks, Some(stopped)) => (stopped, "stopped"),
            _ => (empty, "empty"),
        };
        if crowd == Crowd::Sleep {
            stopped = Some(measured);
        }
        println!(
            "{crowd:40} silent gateway {}, carrier loss {}, of the {whose} host's; {:.2} % of a processor (who only \
             listens: {:.2} %)",
            told(&silent, beside.0),
            told(&carrier, beside.1),
            share.median,
            bare.median,
        );
    }
    Ok(())
}

/// A worker with a daemon and a crowd. Fields end in this order.
struct Host {
    daemon: Daemon,
    changes: Changes,
    crowd: Crowd,
    _churn: Option<Churn>,
    _pods: Option<Pods>,
    site: Site,
}

impl Host {
    fn start(binary: &Path, crowd: Crowd) -> Result<Self> {
        let site = Site::new()?;
        site.worker.give_pci("port", PCI)?;
        let (worker, mgmt, gateway) = (&site.worker, site.mgmt.interface, site.mgmt.gateway4);
        let (mut churn, mut pods) = (None, None);
        match crowd {
            Crowd::Nobody | Crowd::Sleep | Crowd::FloodOfRoutes | Crowd::FloodOfLinks => {}
            Crowd::Routes => {
                worker.lay_crowd(mgmt, gateway, 500_000)?;
                churn = Some(Churn::start(worker, mgmt, gateway, 10_000)?);
            }
            Crowd::Pods => pods = Some(Pods::start(worker, 250, 1000)?),
            Crowd::Tables => {
                let route = |table| format!("route add default via {gateway} dev {mgmt} table {table}\n");
                worker.ip_batch(&(1000..5096).map(route).collect::<String>())?;
            }
        }
        let changes = Changes::start_without_crowd(worker)?;
        let daemon = Daemon::of(binary, &["run"]).config(CONFIG).start(worker)?;
        daemon.wait_ready(BOUND)?;
        let host = Self { daemon, changes, crowd, _churn: churn, _pods: pods, site };
        host.returns(Instant::BOOT)?;
        Ok(host)
    }

    fn measure(&self, samples: &mut Samples) -> Result<()> {
        let cable = &self.site.port.cable;
        for number in 0..FAULTS {
            // The fault falls on every part of the time between two ticks.
            pass(OVER + PATIENCE / 4 * number / FAULTS);
            let (fault, awake) = self.fault(|| Ok(cable.fault(&[Fault::Silent])))?;
            samples.silent.extend(self.leaves(fault)?.map(|at| millis(at.since(fault.max(awake)))));
            self.returns(cable.heal())?;
        }
        for _ in 0..FAULTS {
            pass(OVER);
            let (cut, awake) = self.fault(|| cable.carrier(End::Worker, false))?;
            let is_loss = |change: &Change| matches!(change, Change::Link { interface, carrier: false, .. } if interface == "port");
            let lost = self.changes.wait_for("the loss of the port's carrier", cut, BOUND, is_loss)?.at;
            samples.carrier.extend(self.leaves(cut)?.map(|at| millis(at.since(lost.max(awake)))));
            self.returns(cable.carrier(End::Worker, true)?)?;
        }
        pass(OVER);
        let listener = self.site.worker.thread("listener", listen)?;
        let (begun, before) = (now(), self.daemon.cost()?);
        pass(SPAN);
        let (span, after) = (now().since(begun), self.daemon.cost()?);
        samples.share.push((after.cpu - before.cpu).div_duration_f64(span) * 100.0);
        let heard = listener.join().map_err(|_| Error::Unexpected("the listener panicked".to_owned()))?;
        let heard = heard.map_err(|source| Error::System { what: "listen".to_owned(), source })?;
        samples.bare.push(heard.div_duration_f64(SPAN) * 100.0);
        Ok(())
    }

    /// Causes a fault. Gives its moment, and that from which on the daemon could act: it is stopped
    /// meanwhile where news are to be overrun.
    fn fault(&self, cause: impl FnOnce() -> Result<Instant>) -> Result<(Instant, Instant)> {
        let (worker, mgmt) = (&self.site.worker, &self.site.mgmt);
        let flood = |how: &dyn Fn() -> Result<()>| {
            self.daemon.signal(Signal::SIGSTOP)?;
            let before = self.daemon.overruns()?;
            how()?;
            match self.daemon.overruns()? > before {
                true => Ok(()),
                false => Err(Error::Unexpected("there was room for all news".to_owned())),
            }
        };
        match self.crowd {
            Crowd::Nobody | Crowd::Routes | Crowd::Pods | Crowd::Tables => {
                return Ok((cause()?, Instant::BOOT));
            }
            Crowd::Sleep => drop(self.daemon.signal(Signal::SIGSTOP)?),
            Crowd::FloodOfRoutes => flood(&|| worker.flood_routes(mgmt.interface, mgmt.gateway4, FLOOD))?,
            Crowd::FloodOfLinks => flood(&|| worker.flood_links(FLOOD))?,
        }
        // The lab, which listens on each processor, and what the kernel put off are done with a flood then. Who
        // sleeps so long wakes later, whatever was told meanwhile.
        pass(OVER);
        Ok((cause()?, self.daemon.signal(Signal::SIGCONT)?))
    }

    /// When our routes of both families left the port.
    fn leaves(&self, since: Instant) -> Result<[Instant; 2]> {
        self.both(since, |change| matches!(change, Change::RouteDeleted(_)))
    }

    /// When they came back to it.
    fn returns(&self, since: Instant) -> Result<[Instant; 2]> {
        self.both(since, |change| matches!(change, Change::RouteAdded(_)))
    }

    fn both(&self, since: Instant, is_it: fn(&Change) -> bool) -> Result<[Instant; 2]> {
        let first = |family: Family| {
            let ours = |change: &Change| {
                let route = change.route().filter(|route| route.protocol == protocol::UPLINKD);
                is_it(change) && route.is_some_and(|route| route.family == family)
            };
            self.changes.wait_for(&format!("our {family} route's change"), since, BOUND, ours)
        };
        let [ipv4, ipv6] = Family::ALL.map(first);
        Ok([ipv4?.at, ipv6?.at])
    }
}

/// Hears what a daemon hears if nothing is left out, and throws it away; gives the time that this took. The
/// kernel must deliver so much to anybody.
fn listen() -> std::io::Result<Duration> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    let (end, mut buffer) = (now() + SPAN, Vec::with_capacity(64 << 10));
    while now() < end {
        poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], PollTimeout::from(100_u8))?;
        // An overrun is an error, too: there is more then.
        while socket.recv(&mut buffer, libc::MSG_DONTWAIT).is_ok() && now() < end {
            buffer.clear();
        }
    }
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn told(figure: &Figure, empty: f64) -> String {
    let Figure { median, p95, max, min: _ } = figure;
    format!("{median:.2} ({:.2}), {:.2} times", p95.unwrap_or(*max), median / empty)
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}
