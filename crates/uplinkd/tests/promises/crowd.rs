//! What somebody else's routes cost us, when there are many and they change without pause: a failover
//! is as quick as is promised for an empty host, and the processor has something else to do. How much
//! longer it takes than on an empty host is the benchmark's to say; both are printed.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::{Family, protocol};
use uplink_core::time::Instant;
use uplink_lab::{Change, Changes, Churn, Churned, Daemon, End, Fault, Lag, Site, now, pass};

use crate::figures::Figures;
use crate::scene::{Outcome, PATIENCE, PCI, SOON, daemon, trial};

const ROUTES: u32 = 500_000;
const CHANGES_PER_SECOND: u32 = 10_000;
const RUNS: u32 = 8;
/// A machine that is busy with something else lets a path look lossy for a while: this is no figure.
const EVENTUALLY: Duration = Duration::from_secs(60);
/// A silent gateway is left so long after patience at the latest, a lost carrier so long after the
/// kernel's event in the median: as on an empty host.
const BEYOND: Duration = Duration::from_millis(100);
const AT_ONCE: Duration = Duration::from_millis(1);
/// A walk over the whole table is over by then.
const WALK: Duration = Duration::from_millis(500);
/// How long the cost is watched, and the share of a processor that it may be.
const SPAN: Duration = Duration::from_secs(10);
const SHARE: f64 = 0.01;

pub(crate) fn trials() -> Vec<Trial> {
    let name = "500,000 routes and 10,000 changes a second: as quick as promised, under 1 % of a processor";
    vec![trial(name, crowd)]
}

fn crowd() -> Outcome {
    let lag = Lag::start();
    let alone = Worker::start(0, 0)?.failovers()?;
    let crowded = Worker::start(ROUTES, CHANGES_PER_SECOND)?;
    let among = crowded.failovers()?;
    let share = crowded.share()?;
    let late = lag.stop();
    println!("silent gateway, alone: {}\n  in the crowd: {}", alone.silent, among.silent);
    println!("carrier loss, alone: {}\n  in the crowd: {}", alone.carrier, among.carrier);
    println!("of one processor: {:.3} %\n  the machine itself: {late}", share * 100.0);
    for failovers in [&alone, &among] {
        let Failovers { silent, carrier } = failovers;
        assert!(silent.rank(100) <= PATIENCE + BEYOND + late.max, "{silent}; {late}");
        // The kernel's news, its lock of routes and the writes of both families wait for the machine, each.
        assert!(carrier.rank(50) <= AT_ONCE + late.p99 * 4, "{carrier}; {late}");
    }
    assert!(share < SHARE, "{share}");
    Ok(())
}

/// A worker with a daemon, and a crowd of routes through management.
struct Worker {
    daemon: Daemon,
    changes: Changes,
    churn: Option<Churn>,
    site: Site,
}

/// From the fault, or for a lost carrier from the kernel's event, to the switch, both families.
struct Failovers {
    silent: Figures,
    carrier: Figures,
}

impl Worker {
    fn start(routes: u32, per_second: u32) -> Result<Self, Failed> {
        let site = Site::new()?;
        site.worker.give_pci("port", PCI)?;
        let (interface, gateway) = (site.mgmt.interface, site.mgmt.gateway4);
        site.worker.lay_crowd(interface, gateway, routes)?;
        let churn = (per_second > 0).then(|| Churn::start(&site.worker, interface, gateway, per_second));
        let (churn, changes) = (churn.transpose()?, Changes::start_without_crowd(&site.worker)?);
        let daemon = daemon("return_after = \"0s\"").start(&site.worker)?;
        daemon.wait_ready(EVENTUALLY)?;
        let worker = Self { daemon, changes, churn, site };
        worker.returns(Instant::BOOT)?;
        Ok(worker)
    }

    fn failovers(&self) -> Result<Failovers, Failed> {
        let cable = &self.site.port.cable;
        let (mut silent, mut carrier) = (Vec::new(), Vec::new());
        for run in 0..RUNS {
            // The fault falls on every part of the time between two ticks.
            pass(PATIENCE / 2 + PATIENCE / 4 * run / RUNS);
            let fault = cable.fault(&[Fault::Silent]);
            silent.extend(self.leaves(fault)?.map(|at| at.since(fault)));
            self.returns(cable.heal())?;
        }
        for _ in 0..RUNS {
            // After each change of its own the daemon reads its routes back, for which the kernel walks
            // its whole table: a fault in these 60 ms waits for the end of them.
            pass(WALK);
            let cut = cable.carrier(End::Worker, false)?;
            let is_loss = |change: &Change| matches!(change, Change::Link { interface, carrier: false, .. } if interface == "port");
            let lost = self.changes.wait_for("the loss of the port's carrier", cut, SOON, is_loss)?.at;
            carrier.extend(self.leaves(cut)?.map(|at| at.since(lost)));
            self.returns(cable.carrier(End::Worker, true)?)?;
        }
        Ok(Failovers { silent: Figures::of(silent), carrier: Figures::of(carrier) })
    }

    /// The daemon's share of one processor while nothing fails. What others pay because it listens is
    /// in the time of who changes routes, and shown beside it.
    fn share(&self) -> Result<f64, Failed> {
        // The walks after the last coming back are no part of it.
        pass(WALK + WALK);
        let (begun, before, others) = (now(), self.daemon.cost()?, self.churn.as_ref().map(Churn::so_far));
        pass(SPAN);
        let (span, after) = (now().since(begun), self.daemon.cost()?);
        if let (Some(churn), Some(Churned { changes, cpu })) = (&self.churn, others) {
            let (made, took) = (churn.so_far().changes - changes, churn.so_far().cpu - cpu);
            println!("{made} foreign changes in {span:?} took {took:?} of processor time");
        }
        Ok((after.cpu - before.cpu).div_duration_f64(span))
    }

    /// When our routes of both families left the port.
    fn leaves(&self, since: Instant) -> Result<[Instant; 2], Failed> {
        self.both(since, |change| matches!(change, Change::RouteDeleted(_)))
    }

    /// When they came back to it.
    fn returns(&self, since: Instant) -> Result<[Instant; 2], Failed> {
        self.both(since, |change| matches!(change, Change::RouteAdded(_)))
    }

    fn both(&self, since: Instant, is_it: fn(&Change) -> bool) -> Result<[Instant; 2], Failed> {
        let first = |family: Family| {
            let ours = |change: &Change| {
                let route = change.route().filter(|route| route.protocol == protocol::UPLINKD);
                is_it(change) && route.is_some_and(|route| route.family == family)
            };
            self.changes.wait_for(&format!("our {family} route's change"), since, EVENTUALLY, ours)
        };
        let [ipv4, ipv6] = Family::ALL.map(first);
        Ok([ipv4?.at, ipv6?.at])
    }
}
