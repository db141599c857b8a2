//! `netplan apply` itself, with both renderers, while all is well and while the port is silent: an uplink
//! carries traffic at once when the renderer is done, and all that others laid is as it was.
//!
//! Only with `-- --include-ignored`: these need more packages than the other tests.

use std::fmt;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::{Family, protocol};
use uplink_core::time::Instant;
use uplink_lab::{Answers, Change, Changes, Fault, Lag, Route, Stream, now, pass, uplink_table};

use crate::worker::{INTERNET, Outcome, SOON, UNIT, Worker, trial};

/// An uplink carries traffic at the latest so long after the last change.
const AT_ONCE: Duration = Duration::from_millis(50);
/// A renderer that has changed nothing for so long is done: it looks for a second whether an IPv6 address
/// is its alone.
const DONE: Duration = Duration::from_secs(3);
/// For so long an address is waited for before the renderer is asked once more.
const GIVEN: Duration = Duration::from_secs(15);
/// A renderer that goes on by itself has done so within this.
const PLENTY: Duration = Duration::from_secs(60);
/// How often it is asked before it is taken to fail.
const TIMES: usize = 6;
/// The interval of packets.
const STEADY: Duration = Duration::from_millis(5);
/// One that comes back soon.
const BRISK: &str = "patience = \"500ms\"\nreturn_after = \"1s\"\n";

/// Who does what netplan says, by netplan's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renderer {
    Networkd,
    NetworkManager,
}

impl fmt::Display for Renderer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Networkd => "networkd",
            Self::NetworkManager => "NetworkManager",
        })
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    let named = |renderer: Renderer, elected: &'static str| {
        let when = if elected == "port" { "healthy" } else { "in_an_outage" };
        let name = format!("netplan_apply_by_{renderer}_{when}");
        trial(&name, move || apply(renderer, elected)).with_ignored_flag(true)
    };
    let both = [Renderer::Networkd, Renderer::NetworkManager];
    both.into_iter().flat_map(|renderer| ["port", "mgmt"].map(|elected| named(renderer, elected))).collect()
}

fn apply(renderer: Renderer, elected: &'static str) -> Outcome {
    let planned = Planned::start(renderer)?;
    // What it is at boot may be another's, as the metric of the route to what is on the link.
    planned.until_given("port")?;
    let worker = &planned.worker;
    let before = worker.site.worker.laid()?;
    if elected == "mgmt" {
        worker.site.port.cable.fault(&[Fault::Silent]);
        worker.leads_to("mgmt", SOON)?;
    }
    planned.until_given(elected)?;
    planned.recover()?;
    let end = now() + PLENTY;
    while worker.site.worker.laid()?.others != before.others {
        if now() >= end {
            let changed = worker.site.worker.laid()?.difference(&before);
            return Err(worker.explain(&format!("what others laid is not as it was:\n{changed}")));
        }
        pass(Duration::from_millis(100));
    }
    worker.systemctl(&["stop", UNIT])?;
    let after = worker.site.worker.laid()?;
    if !after.ours.is_empty() || after.others != before.others {
        let changed = after.difference(&before);
        return Err(worker.explain(&format!("it left {}, and of others changed\n{changed}", after.ours)));
    }
    Ok(())
}

/// A worker whose uplinks are what netplan says.
struct Planned {
    renderer: Renderer,
    worker: Worker,
    changes: Changes,
    streams: Vec<Stream>,
}

impl Planned {
    fn start(renderer: Renderer) -> Result<Self, Failed> {
        let worker = Worker::planned(&plan(renderer), renderer, BRISK)?;
        let site = &worker.site;
        // Somebody tracks connections, so that they are marked.
        let firewall = "add table inet others; \
            add chain inet others in { type filter hook input priority 0; }; \
            add rule inet others in ct state established accept";
        site.worker.command("nft", &[firewall])?;
        worker.leads_to("port", SOON)?;
        let changes = Changes::start(&site.worker)?;
        let start = |address| Stream::start(&site.worker, &site.internet, address, STEADY);
        let streams = INTERNET.into_iter().map(start).collect::<Result<_, _>>()?;
        let planned = Self { renderer, worker, changes, streams };
        planned.worker.until("all is laid", PLENTY, || planned.is_whole("port"))?;
        planned.settled(Instant::BOOT);
        Ok(planned)
    }

    /// `netplan apply`, until this uplink has all that netplan says: systemd-networkd, which is told to
    /// reload and to configure anew at once, may leave an interface without an address, also where there
    /// is no uplinkd (of 40 times in this container, 4).
    fn until_given(&self, elected: &str) -> Outcome {
        for _ in 0..TIMES {
            self.apply(elected)?;
            if self.is_whole(elected)? {
                return self.worker.leads_to(elected, SOON);
            }
            println!("{}: {elected} was left without an address; once more", self.renderer);
        }
        Err(self.worker.explain(&format!("applied {TIMES} times, and {elected} lacks an address or a route")))
    }

    /// The port is well again, is given what it lacks, and all comes back to it.
    fn recover(&self) -> Outcome {
        self.worker.site.port.cable.heal();
        for _ in 0..TIMES {
            if self.worker.until("all is laid", GIVEN, || self.is_whole("port")).is_ok() {
                return self.worker.leads_to("port", SOON);
            }
            self.worker.container.command(&["netplan", "apply"])?;
        }
        Err(self.worker.explain("the port lacks an address or a route"))
    }

    /// Once; an uplink that has a default route carries traffic when the renderer is done.
    fn apply(&self, elected: &str) -> Outcome {
        let lag = Lag::of_kernel()?;
        let since = self.changes.caught_up()?;
        self.worker.container.command(&["netplan", "apply"])?;
        let given = self.worker.until("all is laid", GIVEN, || self.is_whole(elected));
        let lasts = self.settled(since);
        let bound = AT_ONCE + lag.stop().max * 4;
        for ((stream, family), last) in self.streams.iter().zip(Family::ALL).zip(lasts) {
            if given.is_err() && !self.has_default(family, "mgmt")? {
                continue;
            }
            if stream.wait_for_arrival(now(), SOON).is_err() {
                return Err(self.worker.explain(&format!("{family}: no traffic")));
            }
            let mut gaps = stream.report().gaps;
            gaps.retain(|gap| gap.at >= since);
            let lost: u64 = gaps.iter().map(|gap| gap.packets).sum();
            let took = gaps.iter().map(|gap| (gap.at + gap.length).since(last)).max().unwrap_or_default();
            println!(
                "netplan apply by {}: {family} changed for {:?}, {lost} packets lost; an uplink carried \
                 traffic {took:?} after the last change, of {bound:?}",
                self.renderer,
                last.since(since)
            );
            if took > bound {
                return Err(self.worker.explain(&format!("{family}: traffic only {took:?} after {last}")));
            }
            if given.is_ok() {
                self.answers_follow(family, elected, last, bound)?;
            }
        }
        Ok(())
    }

    /// The path rules of an uplink agree with its addresses and its gateway, and did so within this time
    /// after the last change.
    fn answers_follow(&self, family: Family, interface: &str, last: Instant, bound: Duration) -> Outcome {
        let host = &self.worker.site.worker;
        let wanted = Answers::wanted(host, family, interface)?;
        let standing = Answers::standing(host, family, interface)?;
        let table = uplink_table(host, interface)?;
        let changes = self.changes.since(last);
        let kept = changes.iter().rev().find(|change| change.what.is_in_table(family, table));
        let took = kept.map(|change| change.at.since(last)).unwrap_or_default();
        println!(
            "{}: {family} answers are kept on {interface} {took:?} after the last change",
            self.renderer
        );
        if standing == wanted && took <= bound {
            return Ok(());
        }
        let what = format!("{family} {interface}: answers kept {standing:?}, not {wanted:?}, {took:?} after");
        Err(self.worker.explain(&what))
    }

    /// Others laid default routes of both families through an interface.
    fn is_whole(&self, interface: &str) -> Result<bool, Failed> {
        Ok(self.has_default(Family::Ipv4, interface)? && self.has_default(Family::Ipv6, interface)?)
    }

    fn has_default(&self, family: Family, interface: &str) -> Result<bool, Failed> {
        let routes = self.worker.site.worker.default_routes(family)?;
        let through = |route: &Route| {
            route.interface.as_deref() == Some(interface) && route.protocol != protocol::UPLINKD
        };
        Ok(routes.iter().any(through))
    }

    /// When others changed a route or an address of a family last, once they are done.
    fn settled(&self, since: Instant) -> [Instant; 2] {
        let last = |family| {
            let changes = self.changes.since(since);
            let last = changes.iter().rev().find(|change| is_theirs(&change.what, family));
            last.map_or(since, |change| change.at)
        };
        loop {
            let lasts = Family::ALL.map(last);
            let quiet = lasts.iter().map(|last| now().since(*last)).min().unwrap_or_default();
            if quiet >= DONE {
                return lasts;
            }
            pass(DONE - quiet);
        }
    }
}

fn is_theirs(change: &Change, of: Family) -> bool {
    match change {
        Change::RouteAdded(route) | Change::RouteDeleted(route) => {
            route.family == of && route.protocol != protocol::UPLINKD
        }
        Change::AddressAdded { address, .. } | Change::AddressDeleted { address, .. } => {
            Family::of(*address) == of
        }
        Change::RuleAdded(_)
        | Change::RuleDeleted(_)
        | Change::Link { .. }
        | Change::LinkDeleted { .. }
        | Change::Other => false,
    }
}

/// netplan(5).
fn plan(renderer: Renderer) -> String {
    let ethernets = [("port", 101), ("mgmt", 100)].map(|(interface, metric)| {
        format!(
            "    {interface}:\n      dhcp4: true\n      dhcp4-overrides: {{ route-metric: {metric} }}\n      \
             dhcp6: true\n      dhcp6-overrides: {{ route-metric: {metric} }}\n"
        )
    });
    format!("network:\n  version: 2\n  renderer: {renderer}\n  ethernets:\n{}", ethernets.concat())
}
