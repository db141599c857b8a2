//! Leases and advertisements by the real programs: dnsmasq and radvd on the gateways; systemd-networkd,
//! udhcpc and dhclient on the worker. Those with systemd-networkd need root, all others do not.
//!
//! udhcpc and dhclient know nothing of router advertisements: there the kernel takes them.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::{Family, protocol};
use uplink_core::time::Instant;
use uplink_lab::{
    Change, ClientKind, DhcpClient, DhcpServer, Gap, Lag, Managed, Offer, Route, RouterAdvertiser, Site,
    Stamped, Stream, StreamReport, Uplink, Way, now, pass,
};

use crate::scene::{BRISK, INTERNET, Outcome, PCI, SOON, Scene, trial};

/// An uplink carries traffic at the latest so long after the client's last change.
const AT_ONCE: Duration = Duration::from_millis(50);
/// Who has changed nothing for so long is done. Longer than packets may be on the way.
const DONE: Duration = Duration::from_millis(700);
/// How long a client may take: some wait for seconds before they ask again.
const CLIENT: Duration = Duration::from_secs(30);
/// For how long a router is one that nobody withdraws.
const LONG: Duration = Duration::from_mins(30);
/// For how long packets may be under way on a busy machine.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// For how long NetworkManager keeps an address that it may not have any longer; otherwise for long.
const GRACE: Duration = Duration::from_secs(2);
/// A pause between what others do.
const PAUSE: Duration = Duration::from_millis(300);

type Test = fn(ClientKind) -> Outcome;

pub(crate) fn trials() -> Vec<Trial> {
    use ClientKind::{Dhclient, NetworkManager, Networkd, Udhcpc};
    // That of ifupdown is dhclient.
    let all = &[Networkd, NetworkManager, Udhcpc, Dhclient][..];
    // dhclient's script lays routes with a new address only, and metrics are none of its business.
    let by_route = &[Networkd, NetworkManager, Udhcpc][..];
    let by_option = &[Networkd, NetworkManager][..];
    let tests: [(&str, &[ClientKind], Test); 14] = [
        (
            "leases renewed unchanged: nothing is lost, no route changes",
            &[Networkd, NetworkManager, Dhclient],
            renewed,
        ),
        (
            "leases renewed unchanged, placement table: nothing is lost, no route changes",
            &[Udhcpc],
            renewed_table,
        ),
        ("leases renewed by a script that flushes the pin: nothing is lost", &[Udhcpc], renewed_flushing),
        ("leases renewed in an outage: management carries on", all, renewed_in_outage),
        ("port gets another address: an uplink carries on at once", all, port_address),
        ("management gets another address: the port carries on", all, mgmt_address),
        ("port gets another gateway: followed at once", by_route, port_gateway),
        ("management gets another gateway in an outage: followed at once", by_route, mgmt_gateway),
        ("port gets a metric ahead of all: the port carries on", by_option, port_metric),
        ("management gets a metric ahead of all: the port carries on", by_option, mgmt_metric),
        ("port's lease is refused, then given again: management at once, and back", all, refused),
        ("option 121 and no router: the next hop is the gateway, also another one", by_option, option_121),
        (
            "no router, and a route to the name server: not a gateway; a router later: taken",
            by_option,
            no_router,
        ),
        ("port's router withdrawn, then advertised again: management at once, and back", by_route, withdrawn),
    ];
    let trials = tests.into_iter().flat_map(|(name, kinds, test)| {
        kinds.iter().map(move |&kind| trial(&format!("{kind}: {name}"), move || test(kind)))
    });
    trials.collect()
}

fn renewed(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let since = leased.renew()?;
    leased.wrote_nothing(since)?;
    leased.finish(&[])
}

fn renewed_table(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, &format!("{BRISK}placement = \"table\"\n"))?;
    let since = leased.renew()?;
    leased.wrote_nothing(since)?;
    leased.finish(&[])
}

/// As Debian's, the script takes any other default route of the interface for a reason to flush them
/// all: the pin is gone, and back at once. Debian's lays its own without a metric, so that beside it the
/// pin stands in its own table, as in the test before.
fn renewed_flushing(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    leased.renew()?;
    leased.scene.leads_to("port")?;
    leased.finish(&[])
}

fn renewed_in_outage(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let outage = leased.fail_over()?;
    leased.client.renew(&leased.scene.site.worker, "port")?;
    leased.client.renew(&leased.scene.site.worker, "mgmt")?;
    leased.servers[1].wait_for_lease(outage.end)?;
    leased.settled(Family::Ipv4, &["mgmt"], outage.end);
    leased.wrote_nothing(outage.end)?;
    leased.scene.come_back()?;
    leased.finish(&[outage])
}

fn port_address(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let offer = Offer { address: Some(beside(leased.port().address4, 7)), ..last(leased.port()) };
    let doubt = leased.changed("port", || leased.renew_with("port", &offer), is_default("port"))?;
    leased.scene.leads_to("port")?;
    leased.finish(&[doubt])
}

fn mgmt_address(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let offer = Offer { address: Some(beside(leased.mgmt().address4, 7)), ..last(leased.mgmt()) };
    leased.changed("mgmt", || leased.renew_with("mgmt", &offer), is_default("mgmt"))?;
    leased.scene.leads_to("port")?;
    leased.finish(&[])
}

fn port_gateway(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let other = other_gateway(leased.port())?;
    let offer = Offer { router: Some(other), ..last(leased.port()) };
    let doubt = leased.changed("port", || leased.renew_with("port", &offer), is_default("port"))?;
    leased.follows(other, &doubt)?;
    leased.finish(&[])
}

fn mgmt_gateway(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let outage = leased.fail_over()?;
    let offer = Offer { router: Some(other_gateway(leased.mgmt())?), ..last(leased.mgmt()) };
    let doubt = leased.changed("mgmt", || leased.renew_with("mgmt", &offer), is_default("mgmt"))?;
    leased.scene.leads_to("mgmt")?;
    leased.scene.come_back()?;
    leased.finish(&[outage, doubt])
}

fn port_metric(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let doubt = leased.changed("port", || leased.reload("port", 50), is_default("port"))?;
    await_leases(&leased.scene.site)?;
    leased.scene.leads_to("port")?;
    leased.finish(&[doubt])
}

fn mgmt_metric(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    leased.changed("mgmt", || leased.reload("mgmt", 50), is_default("mgmt"))?;
    await_leases(&leased.scene.site)?;
    leased.scene.leads_to("port")?;
    for family in Family::ALL {
        let is_ahead = |pins: &[Route]| matches!(pins, [pin] if pin.metric < 50);
        leased.scene.pinned(family, "the pin lies ahead", is_ahead)?;
    }
    leased.finish(&[])
}

fn refused(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    if kind == ClientKind::NetworkManager {
        leased.client.give_up_after(&leased.scene.site.worker, "port", GRACE)?;
    }
    let nothing = Offer { address: None, ..last(leased.port()) };
    let is_gone = |change: &Change| {
        matches!(change, Change::AddressDeleted { .. }) && is_theirs(change, Family::Ipv4, "port")
    };
    let doubt = leased.changed("port", || leased.renew_with("port", &nothing), is_gone)?;
    leased.scene.becomes("port", Family::Ipv4, "address")?;
    let given = leased.servers[0].offer(&last(leased.port()))?;
    leased.servers[0].wait_for_lease(given)?;
    leased.scene.leads_to("port")?;
    leased.finish(&[doubt])
}

fn option_121(kind: ClientKind) -> Outcome {
    let offer = |hop, offer| {
        let routes = vec![("169.254.99.100/32".to_owned(), hop)];
        Offer { router: None, routes, ..offer }
    };
    let leased = Leased::offered(kind, BRISK, |port| offer(port.gateway4, Offer::of(port)))?;
    leased.pinned_via(leased.port().gateway4)?;
    let since = leased.renew()?;
    leased.wrote_nothing(since)?;
    let other = other_gateway(leased.port())?;
    let offer = offer(other, last(leased.port()));
    let is_next_hop = |change: &Change| {
        matches!(change, Change::RouteAdded(route) if route.gateway == Some(other.into()))
            && is_theirs(change, Family::Ipv4, "port")
    };
    let doubt = leased.changed("port", || leased.renew_with("port", &offer), is_next_hop)?;
    leased.follows(other, &doubt)?;
    leased.finish(&[])
}

/// The name server is on the gateway, which would answer.
fn no_router(kind: ClientKind) -> Outcome {
    let with_names = |port: &Uplink| Offer { name_server: Some(port.gateway4), ..Offer::of(port) };
    let toml = format!("{BRISK}boot_wait = \"1s\"\n");
    let leased = Leased::offered(kind, &toml, |port| Offer { router: None, ..with_names(port) })?;
    leased.scene.becomes("port", Family::Ipv4, "gateway")?;
    leased.scene.pinned(Family::Ipv4, "there is no pin", <[_]>::is_empty)?;
    let offer = with_names(leased.port());
    leased.changed("port", || leased.renew_with("port", &offer), is_default("port"))?;
    leased.pinned_via(leased.port().gateway4)?;
    leased.finish(&[])
}

fn withdrawn(kind: ClientKind) -> Outcome {
    let mut leased = Leased::start(kind, BRISK)?;
    let (router, since) = (leased.routers.remove(0), now());
    let lag = Lag::of_kernel()?;
    router.stop()?;
    let is_gone = |change: &Change| {
        matches!(change, Change::RouteDeleted(route) if route.is_default())
            && is_theirs(change, Family::Ipv6, "port")
    };
    let gone = leased.scene.changes.wait_for("the route's end", since, SOON, is_gone)?.at;
    let moved = leased.scene.lookups.wait_for(INTERNET[1], "mgmt", since, SOON)?.at;
    let (took, late) = (moved.since(gone), lag.stop().max);
    println!("{kind}: management {took:?} after the port's router was gone; the machine was {late:?} late");
    assert!(took <= AT_ONCE + late * 4, "{took:?}, {late:?}");
    leased.routers.push(RouterAdvertiser::start(leased.port(), LONG)?);
    leased.scene.leads_to("port")?;
    leased.finish(&[])
}

/// A scene whose worker has all its addresses and routes from leases and advertisements.
pub(crate) struct Leased {
    kind: ClientKind,
    pub(crate) scene: Scene,
    pub(crate) client: DhcpClient,
    /// The port's, then management's.
    pub(crate) servers: [DhcpServer; 2],
    /// As the servers.
    routers: Vec<RouterAdvertiser>,
    /// From here on all that is needed is there: systemd-networkd may still have been looking for
    /// duplicates of its IPv6 addresses when the streams began.
    begun: Instant,
}

impl Leased {
    pub(crate) fn start(kind: ClientKind, toml: &str) -> Result<Self, Failed> {
        let leased = Self::offered(kind, toml, Offer::of)?;
        leased.scene.leads_to("port")?;
        Ok(leased)
    }

    /// With another offer on the port.
    pub(crate) fn offered(
        kind: ClientKind,
        toml: &str,
        offer: impl Fn(&Uplink) -> Offer,
    ) -> Result<Self, Failed> {
        let site = Site::builder().without_addresses().build()?;
        site.worker.give_pci("port", PCI)?;
        let servers = [
            DhcpServer::start(&site.port, &offer(&site.port))?,
            DhcpServer::start(&site.mgmt, &Offer::of(&site.mgmt))?,
        ];
        let managed = [&site.port, &site.mgmt]
            .map(|uplink| Managed { interface: uplink.interface, metric: uplink.metric });
        for Managed { interface, metric } in &managed {
            let of = |name| format!("net/ipv6/conf/{interface}/{name}");
            let takes_advertisements = matches!(kind, ClientKind::Networkd | ClientKind::NetworkManager);
            site.worker.sysctl(&of("accept_ra"), if takes_advertisements { "0" } else { "1" })?;
            site.worker.sysctl(&of("ra_defrtr_metric"), &metric.to_string())?;
        }
        let client = DhcpClient::start(kind, &site.worker, &managed)?;
        let routers =
            vec![RouterAdvertiser::start(&site.port, LONG)?, RouterAdvertiser::start(&site.mgmt, LONG)?];
        if let Err(error) = await_leases(&site) {
            let servers: String = servers.iter().map(DhcpServer::log).collect();
            let error = error.message().unwrap_or_default();
            return Err(format!("{error}\n{}{servers}", client.log()).into());
        }
        let scene = Scene::begin(site, toml)?;
        let mut leased = Self { kind, scene, client, servers, routers, begun: now() };
        leased.quiet(|_| true)?;
        leased.begun = now();
        Ok(leased)
    }

    pub(crate) fn port(&self) -> &Uplink {
        &self.scene.site.port
    }

    pub(crate) fn mgmt(&self) -> &Uplink {
        &self.scene.site.mgmt
    }

    /// Lets the client renew all leases twice; gives the moment before.
    fn renew(&self) -> Result<Instant, Failed> {
        let since = now();
        for _ in 0..2 {
            let moment = now();
            self.client.renew(&self.scene.site.worker, "port")?;
            self.client.renew(&self.scene.site.worker, "mgmt")?;
            for server in &self.servers {
                server.wait_for_lease(moment)?;
            }
            for interface in ["port", "mgmt"] {
                self.client.wait_for_lease(interface, moment)?;
                self.settled(Family::Ipv4, &[interface], moment);
            }
        }
        Ok(since)
    }

    /// Lets the client renew what is offered otherwise from now on.
    fn renew_with(&self, interface: &str, offer: &Offer) -> Result<Instant, Failed> {
        let server = &self.servers[usize::from(interface == "mgmt")];
        let moment = server.offer(offer)?;
        self.client.renew(&self.scene.site.worker, interface)?;
        Ok(moment)
    }

    /// Lets systemd-networkd lay another metric.
    fn reload(&self, interface: &'static str, metric: u32) -> Result<Instant, Failed> {
        Ok(self.client.reload(&self.scene.site.worker, &Managed { interface, metric })?)
    }

    /// As [`Scene::fail_over`]; gives the outage.
    pub(crate) fn fail_over(&self) -> Result<Range<Instant>, Failed> {
        let fault = now();
        self.scene.fail_over()?;
        Ok(fault..now())
    }

    fn servers_log(&self) -> String {
        self.servers.iter().map(DhcpServer::log).collect()
    }

    pub(crate) fn wrote_nothing(&self, since: Instant) -> Outcome {
        let writes = self.scene.writes(since)?;
        if writes.is_empty() { Ok(()) } else { Err(self.scene.explain(&format!("written: {writes:?}"))) }
    }

    /// The pin led to another gateway before a doubt ended, so that it carries even if the gateway
    /// before is gone by then.
    fn follows(&self, gateway: Ipv4Addr, doubt: &Range<Instant>) -> Outcome {
        self.pinned_via(gateway)?;
        let writes = self.scene.writes(doubt.start)?.into_iter();
        let is_via = |change: &Change| matches!(change, Change::RouteAdded(route) if route.gateway == Some(gateway.into()));
        let followed = writes.map(|write| (write.at, is_via(&write.what))).find(|(_, via)| *via);
        let (at, _) = followed.ok_or("the pin was not seen to move")?;
        println!(
            "{}: pinned via {gateway} {:?} after the change was begun",
            self.kind,
            at.since(doubt.start)
        );
        if at < doubt.end { Ok(()) } else { Err(self.scene.explain(&format!("followed late, at {at}"))) }
    }

    fn pinned_via(&self, gateway: Ipv4Addr) -> Outcome {
        let is_via = |pins: &[Route]| matches!(pins, [pin] if pin.gateway == Some(gateway.into()));
        self.scene.pinned(Family::Ipv4, &format!("the pin leads to {gateway}"), is_via)?;
        self.scene.leads_to("port")
    }

    /// Lets the client change something, and checks that from its last change on, and the time that
    /// is allowed, every packet arrives. Gives the time until then.
    fn changed(
        &self,
        interface: &'static str,
        act: impl FnOnce() -> Result<Instant, Failed>,
        is_done: impl Fn(&Change) -> bool,
    ) -> Result<Range<Instant>, Failed> {
        self.endures(&[Family::Ipv4], &[interface], || {
            let since = act()?;
            let done = self.scene.changes.wait_for("the client's change", since, CLIENT, is_done);
            match done {
                Ok(_) => Ok(since),
                Err(error) => Err(self.told(&error.to_string())),
            }
        })
    }

    /// Lets somebody change something on these interfaces to the end, and checks that in these families
    /// every packet arrives from the last change on, and the time that is allowed. `act` gives when it
    /// began. Gives the time until then.
    pub(crate) fn endures(
        &self,
        families: &[Family],
        interfaces: &[&str],
        act: impl FnOnce() -> Result<Instant, Failed>,
    ) -> Result<Range<Instant>, Failed> {
        let lag = Lag::of_kernel()?;
        let since = act()?;
        let lasts: Vec<Instant> = families.iter().map(|&of| self.settled(of, interfaces, since)).collect();
        let late = lag.stop().max;
        // The kernel's news, a question, its answer and the write wait for the machine, each.
        let bound = AT_ONCE + late * 4;
        for (&family, &last) in families.iter().zip(&lasts) {
            let report = self.scene.streams[usize::from(family == Family::Ipv6)].report();
            let ends = report.gaps.iter().map(|gap| gap.at + gap.length);
            let took = ends.map(|end| end.since(last)).max().unwrap_or_default();
            let lost: u64 = report.gaps.iter().filter(|gap| gap.at >= since).map(|gap| gap.packets).sum();
            println!(
                "{}: {interfaces:?} changed for {:?} in {family}, {lost} packets lost; an uplink carried \
                 traffic {took:?} after the last change; the machine was {late:?} late",
                self.kind,
                last.since(since),
            );
            if took > bound {
                let what = format!("{family}: traffic only {took:?} after {last}, the machine {late:?} late");
                return Err(self.told(&what));
            }
        }
        Ok(since..lasts.into_iter().max().unwrap_or(since) + bound)
    }

    /// When others changed something about a family on these interfaces last, once they are done.
    fn settled(&self, family: Family, interfaces: &[&str], since: Instant) -> Instant {
        let is_theirs = |change: &Change| interfaces.iter().any(|of| is_theirs(change, family, of));
        loop {
            let changes = self.scene.changes.since(since);
            let last = changes.iter().rev().find(|change| is_theirs(&change.what));
            let last = last.map_or(since, |change| change.at);
            let quiet = now().since(last);
            if quiet >= DONE {
                return last;
            }
            pass(DONE - quiet);
        }
    }

    /// A failure with what everybody said beside it.
    pub(crate) fn told(&self, what: &str) -> Failed {
        self.scene.explain(&format!("{what}\n{}{}", self.client.log(), self.servers_log()))
    }

    /// Waits for a pause in which nothing of this sort changes.
    pub(crate) fn quiet(&self, is_it: fn(&Change) -> bool) -> Outcome {
        self.scene.until("a pause", || {
            let recent = self.scene.changes.since(now() - PAUSE);
            Ok(!recent.iter().any(|change| is_it(&change.what)))
        })
    }

    /// As [`Scene::finish_among`], at a moment when nobody else changes anything; nothing was lost but
    /// in these outages.
    pub(crate) fn finish(self, outages: &[Range<Instant>]) -> Outcome {
        self.finish_taken(outages, &[])
    }

    /// As [`finish`](Self::finish), where at these times the client had taken all addresses away: then
    /// lookups failed, too.
    pub(crate) fn finish_taken(mut self, outages: &[Range<Instant>], taken: &[Range<Instant>]) -> Outcome {
        self.quiet(|change| change.protocol() != Some(protocol::UPLINKD))?;
        let foreign = self.scene.foreign()?;
        self.scene.stop_with(&foreign)?;
        // Packets that are under way when a fault begins are lost, too.
        let within = |at: Instant, outage: &Range<Instant>| outage.start - UNDER_WAY <= at && at < outage.end;
        let ways = self.scene.lookups.report().changes;
        let is_failed = |way: &&Stamped<Way>| {
            way.what.interface.is_err() && !taken.iter().any(|outage| within(way.at, outage))
        };
        if let Some(failed) = ways.iter().find(is_failed) {
            return Err(self.told(&format!("lookups failed: {failed:?}")));
        }
        let expected = |gap: &Gap| {
            gap.at < self.begun || outages.iter().chain(taken).any(|outage| within(gap.at, outage))
        };
        let streams: Vec<StreamReport> = self.scene.streams.drain(..).map(Stream::stop).collect();
        match streams.iter().find(|stream| !stream.gaps.iter().all(expected)) {
            None => Ok(()),
            Some(stream) => Err(self.told(&format!("lost {:?} beside {outages:?}, {taken:?}", stream.gaps))),
        }
    }
}

/// The usual offer, for long: the last one of a test.
pub(crate) fn last(uplink: &Uplink) -> Offer {
    Offer { renew_after: Duration::from_secs(60), ..Offer::of(uplink) }
}

/// Another address of the same /24.
fn beside(address: Ipv4Addr, last: u8) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, last)
}

/// Gives the gateway one more address.
fn other_gateway(uplink: &Uplink) -> Result<Ipv4Addr, Failed> {
    let other = beside(uplink.gateway4, 5);
    uplink.gateway.ip(&format!("address add {other}/24 dev lan"))?;
    Ok(other)
}

/// Somebody else lays an IPv4 default route through this interface.
fn is_default(interface: &'static str) -> impl Fn(&Change) -> bool {
    move |change| {
        matches!(change, Change::RouteAdded(route) if route.is_default())
            && is_theirs(change, Family::Ipv4, interface)
    }
}

/// Somebody else changed a route or an address on this interface.
fn is_theirs(change: &Change, family: Family, of: &str) -> bool {
    match change {
        Change::RouteAdded(route) | Change::RouteDeleted(route) => {
            route.family == family
                && route.protocol != protocol::UPLINKD
                && route.interface.as_deref() == Some(of)
        }
        Change::AddressAdded { interface, address } | Change::AddressDeleted { interface, address } => {
            interface == of && Family::of(*address) == family
        }
        Change::RuleAdded(_)
        | Change::RuleDeleted(_)
        | Change::Link { .. }
        | Change::LinkDeleted { .. }
        | Change::Other => false,
    }
}

/// Waits until the worker has default routes: of IPv6 through both uplinks, of IPv4 through management,
/// and an IPv4 address on the port with whatever belongs to it.
pub(crate) fn await_leases(site: &Site) -> Outcome {
    let end = now() + CLIENT;
    let has = |family, interface| has_default(site, family, interface);
    loop {
        let address = site.worker.ip("-4 -o address show dev port scope global")?;
        if has(Family::Ipv6, "port")?
            && has(Family::Ipv6, "mgmt")?
            && has(Family::Ipv4, "mgmt")?
            && !address.is_empty()
        {
            return Ok(());
        }
        if now() >= end {
            let table = site.worker.table_text()?;
            return Err(format!("no leases within {CLIENT:?}; port has `{address}`\n{table}").into());
        }
        pass(Duration::from_millis(5));
    }
}

/// Somebody else laid a default route through this interface.
pub(crate) fn has_default(site: &Site, family: Family, interface: &str) -> Result<bool, Failed> {
    let routes = site.worker.default_routes(family)?;
    let through =
        |route: &Route| route.interface.as_deref() == Some(interface) && route.protocol != protocol::UPLINKD;
    Ok(routes.iter().any(through))
}
