//! A worker that has its addresses and routes from leases and advertisements.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use libtest_mimic::Failed;
use uplink_core::snapshot::{Family, protocol};
use uplink_core::time::Instant;
use uplink_lab::{
    Answers, Change, ClientKind, DhcpClient, DhcpServer, Gap, Host, Lag, Managed, Offer, Order, Route,
    RouterAdvertiser, Site, Stamped, Stream, StreamReport, Uplink, Way, now, pass, uplink_table,
};

use crate::scene::{END, Outcome, PCI, Scene};

/// An uplink carries traffic, and answers are kept on it, at the latest so long after the client's last
/// change.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(50);
/// Who has changed nothing for so long is done. Longer than packets may be on the way.
const DONE: Duration = Duration::from_millis(700);
/// How long a client may take: some wait for seconds before they ask again.
pub(crate) const CLIENT: Duration = Duration::from_secs(30);
/// For how long a router is one that nobody withdraws.
pub(crate) const LONG: Duration = Duration::from_mins(30);
/// For how long packets may be under way on a busy machine.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// For how long NetworkManager keeps an address that it may not have any longer; otherwise for long.
pub(crate) const GRACE: Duration = Duration::from_secs(2);
/// A pause between what others do.
const PAUSE: Duration = Duration::from_millis(300);

/// A scene whose worker has all its addresses and routes from leases and advertisements.
pub(crate) struct Leased {
    kind: ClientKind,
    pub(crate) scene: Scene,
    pub(crate) client: DhcpClient,
    /// The port's, then management's.
    pub(crate) servers: [DhcpServer; 2],
    /// As the servers.
    pub(crate) routers: Vec<RouterAdvertiser>,
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
        others(&site.worker)?;
        let client = DhcpClient::start(kind, &site.worker, &managed)?;
        let routers =
            vec![RouterAdvertiser::start(&site.port, LONG)?, RouterAdvertiser::start(&site.mgmt, LONG)?];
        if let Err(error) = await_leases(&site) {
            let servers: String = servers.iter().map(DhcpServer::log).collect();
            let error = error.message().unwrap_or_default();
            return Err(format!("{error}\n{}{servers}", client.log()).into());
        }
        if kind == ClientKind::NetworkManager {
            // It checks sources loosely where others' default routes matter to an interface, and sees that
            // only when it configures the interface: whose lease came first may have been checked strictly.
            for interface in ["port", "mgmt"] {
                client.order(&site.worker, Order::Reconfigure, interface)?;
            }
        }
        let scene = Scene::begin(site, toml)?;
        // Whether connections are tracked is looked up once a second, and marks follow.
        for family in Family::ALL {
            scene.until(&format!("{family}: connections are seen to be tracked"), || {
                Ok(scene.status_of(family, "path_rules")? != "sources")
            })?;
        }
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
    pub(crate) fn renew(&self) -> Result<Instant, Failed> {
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
    pub(crate) fn renew_with(&self, interface: &str, offer: &Offer) -> Result<Instant, Failed> {
        let server = &self.servers[usize::from(interface == "mgmt")];
        let moment = server.offer(offer)?;
        self.client.renew(&self.scene.site.worker, interface)?;
        Ok(moment)
    }

    /// Lets the client lay another metric.
    pub(crate) fn reload(&mut self, interface: &'static str, metric: u32) -> Result<Instant, Failed> {
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
    pub(crate) fn follows(&self, gateway: Ipv4Addr, doubt: &Range<Instant>) -> Outcome {
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

    pub(crate) fn pinned_via(&self, gateway: Ipv4Addr) -> Outcome {
        let is_via = |pins: &[Route]| matches!(pins, [pin] if pin.gateway == Some(gateway.into()));
        self.scene.pinned(Family::Ipv4, &format!("the pin leads to {gateway}"), is_via)?;
        self.scene.leads_to("port")
    }

    /// Lets the client change something, and checks that from its last change on, and the time that
    /// is allowed, every packet arrives. Gives the time until then.
    pub(crate) fn changed(
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
            for interface in interfaces {
                self.answers_follow(family, interface, last, bound)?;
            }
        }
        Ok(since..lasts.into_iter().max().unwrap_or(since) + bound)
    }

    /// The path rules of an uplink agree with its addresses and its gateway, and did so within this time
    /// after others changed something last.
    fn answers_follow(&self, family: Family, interface: &str, last: Instant, bound: Duration) -> Outcome {
        let worker = &self.scene.site.worker;
        let Some(wanted) = self.wanted(family, interface)? else { return Ok(()) };
        let standing = Answers::standing(worker, family, interface)?;
        if standing != wanted {
            let what = format!("{family} {interface}: answers are kept {standing:?}, not {wanted:?}");
            return Err(self.told(&what));
        }
        let table = uplink_table(worker, interface)?;
        let changes = self.scene.changes.since(last);
        let kept = changes.iter().rev().find(|change| change.what.is_in_table(family, table));
        let kept = kept.map(|change| change.at.since(last));
        let Some(took) = kept else { return Ok(()) };
        println!("{}: {family} answers are kept on {interface} {took:?} after the last change", self.kind);
        if took <= bound {
            return Ok(());
        }
        Err(self.told(&format!("{family} {interface}: answers are kept only {took:?} after {last}")))
    }

    /// What should keep an uplink's answers on it: nothing while it has no address, and while it is down
    /// nothing of what began here. None where no default route of others tells its gateway.
    fn wanted(&self, family: Family, interface: &str) -> Result<Option<Answers>, Failed> {
        let answers = Answers::wanted(&self.scene.site.worker, family, interface)?;
        if !answers.has_sources() {
            return Ok(Some(Answers::NONE));
        }
        let up = self.scene.health(interface, family)? == "up";
        let answers = if up { answers } else { answers.without_sources() };
        Ok(Some(answers).filter(Answers::has_gateway))
    }

    /// When others changed something about a family on these interfaces last, once they are done.
    pub(crate) fn settled(&self, family: Family, interfaces: &[&str], since: Instant) -> Instant {
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
        let before = self.scene.site.worker.laid()?;
        self.scene.daemon.stop(END)?;
        let after = self.scene.site.worker.laid()?;
        if !after.ours.is_empty() || after.others != before.others {
            let changed = after.difference(&before);
            return Err(self.told(&format!("a stop left {}, and of others changed\n{changed}", after.ours)));
        }
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
pub(crate) fn beside(address: Ipv4Addr, last: u8) -> Ipv4Addr {
    let [a, b, c, _] = address.octets();
    Ipv4Addr::new(a, b, c, last)
}

/// Gives the gateway one more address.
pub(crate) fn other_gateway(uplink: &Uplink) -> Result<Ipv4Addr, Failed> {
    let other = beside(uplink.gateway4, 5);
    uplink.gateway.ip(&format!("address add {other}/24 dev lan"))?;
    Ok(other)
}

/// Somebody else lays an IPv4 default route through this interface.
pub(crate) fn is_default(interface: &'static str) -> impl Fn(&Change) -> bool {
    move |change| {
        matches!(change, Change::RouteAdded(route) if route.is_default())
            && is_theirs(change, Family::Ipv4, interface)
    }
}

/// Somebody else changed a route or an address on this interface.
pub(crate) fn is_theirs(change: &Change, family: Family, of: &str) -> bool {
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

/// What others have on a worker: a firewall that tracks connections, a rule and a table of routes, and
/// strict checks of where packets come from.
fn others(worker: &Host) -> Outcome {
    for of in ["all", "port", "mgmt"] {
        worker.sysctl(&format!("net/ipv4/conf/{of}/rp_filter"), "1")?;
    }
    let firewall = "add table inet others; \
        add chain inet others in { type filter hook input priority 0; }; \
        add rule inet others in ct state established accept";
    worker.command("nft", &[firewall])?;
    for (family, network) in [("-4", "198.51.100.0/24"), ("-6", "2001:db8:100::/48")] {
        worker.ip(&format!("{family} route add {network} dev lo table 100 proto static"))?;
        // systemd-networkd takes away the rules of all others but the kernel's.
        worker.ip(&format!("{family} rule add to {network} lookup 100 preference 100 protocol kernel"))?;
    }
    Ok(())
}
