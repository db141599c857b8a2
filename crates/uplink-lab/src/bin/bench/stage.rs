//! A fresh site with one contender on it, and everything that watches.

use std::net::IpAddr;
use std::time::Duration;

use uplink_core::snapshot::Family;
use uplink_core::time::Instant;
use uplink_lab::{
    Cable, Change, Changes, Churn, ClientKind, DhcpClient, DhcpServer, End, Error, INTERNET4, Lookups,
    Managed, Offer, Result, Route, STREAM_INTERVAL, Site, Stamped, Stream, Way, now, pass,
};

use crate::contenders::Contender;
use crate::running::{Running, last_words};

/// The worker's port: named as a BlueField's port 0 is, which the seed script looks for.
pub(crate) const PORT: &str = "ens1f0np0";
/// Its gateway, in the usual site.
pub(crate) const GATEWAY: &str = "10.0.120.1";
/// The address that the port has.
pub(crate) const ADDRESS: &str = "10.0.120.2";
/// Its gateway in IPv6: the one that routes lead to, and one that can be asked without naming the port.
pub(crate) const GATEWAY6: &str = "fe80::1";
pub(crate) const PORT_GATEWAY6: &str = "fd00:120::1";
/// The other interface of the usual site, and its gateway.
pub(crate) const MGMT: &str = "mgmt";
pub(crate) const MGMT_GATEWAY: &str = "10.0.10.1";
pub(crate) const MGMT_GATEWAY6: &str = "fd00:10::1";

/// Its place on the PCI bus.
const PCI: &str = "0000:03:00.0";
/// Where the stream goes and the way is asked to. Most contenders know nothing but IPv4.
const INTERNET: IpAddr = IpAddr::V4(INTERNET4);
/// How long a contender may take from its start until it has settled on the port.
const START_BOUND: Duration = Duration::from_secs(40);
/// How often that is looked at.
const GLANCE: Duration = Duration::from_millis(50);
/// It has settled when nothing changed for so long.
const SETTLE: Duration = Duration::from_secs(2);
/// How long the stream may take to flow again after a move.
const FLOW_BOUND: Duration = Duration::from_secs(10);
/// A packet that is still missing after so long is lost.
const ON_THE_WAY: Duration = Duration::from_millis(500);
/// A lookup has its answer from a change of a route no longer ago than this: it waits for the kernel's
/// lock of all routes and links, which others hold for some ten milliseconds at times.
const LOOKUP_LATE: Duration = Duration::from_millis(100);

/// What is on the site beside the contender.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings {
    /// Foreign routes that stand there.
    pub(crate) routes: u32,
    /// Additions and deletions of foreign routes in a second.
    pub(crate) churn: u32,
    /// How often the way is asked for.
    pub(crate) lookups: Duration,
    /// Whether the port's IPv4 address is the lease of a real DHCP client, renewed every few seconds.
    pub(crate) leased: bool,
}

/// A site with a contender at work. Fields end in this order.
#[derive(Debug)]
pub(crate) struct Stage {
    /// The contender.
    pub(crate) running: Running,
    /// Who changes foreign routes, if anybody does.
    pub(crate) churn: Option<Churn>,
    /// A packet to the internet every millisecond.
    pub(crate) stream: Stream,
    /// A question for the way every millisecond.
    pub(crate) lookups: Lookups,
    changes: Changes,
    lease: Option<(DhcpClient, DhcpServer)>,
    /// The site.
    pub(crate) site: Site,
}

/// What the stream lost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loss {
    /// Packets that did not arrive.
    pub(crate) packets: u64,
    /// The longest time without one that did.
    pub(crate) longest: Duration,
}

impl Stage {
    /// Lays out the site, starts the contender, and waits until it uses the port.
    pub(crate) fn set(contender: &Contender, around: Surroundings) -> Result<Self> {
        let (site, lease) = lay_out(around.leased)?;
        let gateway = site.mgmt.gateway4;
        site.worker.lay_crowd(MGMT, gateway, around.routes)?;
        let churn = (around.churn > 0).then(|| Churn::start(&site.worker, MGMT, gateway, around.churn));
        let churn = churn.transpose()?;
        let changes = Changes::start_without_crowd(&site.worker)?;
        let lookups = Lookups::start(&site.worker, &[INTERNET], around.lookups)?;
        let stream = Stream::start(&site.worker, &site.internet, INTERNET, STREAM_INTERVAL)?;
        let begun = now();
        let running = Running::start(contender, &site.worker, &site.port.gateway)?;
        let stage = Self { running, churn, stream, lookups, changes, lease, site };
        stage.settle(contender, begun)?;
        Ok(stage)
    }

    /// Waits until the port is in use, and has been for a while.
    fn settle(&self, contender: &Contender, begun: Instant) -> Result<()> {
        let is_settled = |way: &Stamped<Way>| {
            way.what.interface.as_deref() == Ok(PORT) && way.at > begun && now().since(way.at) >= SETTLE
        };
        while !self.lookups.report().changes.last().is_some_and(is_settled) {
            if now().since(begun) >= START_BOUND {
                let said = last_words(&self.site.worker);
                let what =
                    format!("a lasting use of the port by {} (its last words: {said})", contender.name());
                return Err(Error::Late { what, bound: START_BOUND });
            }
            pass(GLANCE);
        }
        Ok(())
    }

    /// The cable of the port.
    pub(crate) const fn cable(&self) -> &Cable {
        &self.site.port.cable
    }

    /// Takes the port's carrier away.
    pub(crate) fn cut(&self) -> Result<Instant> {
        self.cable().carrier(End::Worker, false)
    }

    /// Lets those who change routes rest, or go on.
    pub(crate) fn calm(&self, calm: bool) {
        self.churn.iter().for_each(|churn| churn.pause(calm));
    }

    /// Gives the port's carrier back.
    pub(crate) fn mend(&self) -> Result<Instant> {
        self.cable().carrier(End::Worker, true)
    }

    /// When the way to the internet first went by this interface after a moment: as the kernel
    /// announced the change, or if that was not of a route, when a lookup first said so. None if it
    /// did not.
    pub(crate) fn moves_to(
        &self,
        interface: &str,
        since: Instant,
        bound: Duration,
    ) -> Result<Option<Instant>> {
        let way = match self.lookups.wait_for(INTERNET, interface, since, bound) {
            Ok(way) => way.at,
            Err(Error::Late { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let recent = self.changes.default_routes(since.max(way - LOOKUP_LATE));
        let is_cause = |at: &Instant| *at <= way;
        let ipv4 = recent
            .iter()
            .filter(|change| change.what.route().is_some_and(|route| route.family == Family::Ipv4));
        Ok(ipv4.map(|change| change.at).find(is_cause).or(Some(way)))
    }

    /// When the kernel announced that the port has no carrier; none if it did not since a moment.
    pub(crate) fn carrier_lost(&self, since: Instant) -> Option<Instant> {
        let changes = self.changes.since(since);
        let lost = changes.iter().find(|change| {
            matches!(&change.what, Change::Link { interface, carrier: false, .. } if interface == PORT)
        });
        lost.map(|change| change.at)
    }

    /// How often the way to the internet changed since a moment.
    pub(crate) fn moves(&self, since: Instant) -> usize {
        self.lookups.report().changes.iter().filter(|way| way.at >= since).count()
    }

    /// What the stream lost since a moment; waits until it flows again.
    pub(crate) fn losses(&self, since: Instant) -> Loss {
        // If it does not, the report says so.
        let _ = self.stream.wait_for_arrival(now(), FLOW_BOUND);
        pass(ON_THE_WAY);
        let gaps = self.stream.report().gaps;
        let recent = || gaps.iter().filter(|gap| gap.at + gap.length > since);
        Loss {
            packets: recent().map(|gap| gap.packets).sum(),
            longest: recent().map(|gap| gap.length).max().unwrap_or_default(),
        }
    }

    /// Waits for the renewal of the port's lease, some seconds.
    pub(crate) fn renewal(&self) -> Result<Instant> {
        let none = || Error::Unexpected("the port has no lease".to_owned());
        self.lease.as_ref().ok_or_else(none)?.1.wait_for_lease(now())
    }

    /// What clients do that begin anew: they take the port's address away, and with it go the routes that
    /// need it, and lay both as they were.
    pub(crate) fn lay_anew(&self) -> Result<Instant> {
        let (begun, metric) = (now(), self.site.port.metric);
        self.site.worker.ip_batch(&format!(
            "address del {ADDRESS}/24 dev {PORT}\n\
             address add {ADDRESS}/24 dev {PORT} valid_lft 86400 preferred_lft 86400\n\
             route replace 0.0.0.0/0 via {GATEWAY} dev {PORT} proto 16 metric {metric}\n"
        ))?;
        Ok(begun)
    }

    /// Deletes the default route that is in use, as somebody by mistake; gives the moment when the
    /// kernel announced it.
    pub(crate) fn delete_route(&self) -> Result<Instant> {
        let routes = self.site.worker.default_routes(Family::Ipv4)?;
        let through = routes.iter().filter(|route| is_through_port(route));
        let best = through.min_by_key(|route| route.metric);
        let best = best.ok_or_else(|| Error::Unexpected("there is no route through the port".to_owned()))?;
        let (table, metric, protocol) = (best.table, best.metric, best.protocol);
        let begun = now();
        // No hop is named: that of a route by a next-hop object cannot be.
        self.site
            .worker
            .ip(&format!("route del 0.0.0.0/0 table {table} metric {metric} proto {protocol}"))?;
        let is_it = |change: &Change| matches!(change, Change::RouteDeleted(route) if route == best);
        Ok(self.changes.wait_for("the deletion of a route", begun, START_BOUND, is_it)?.at)
    }

    /// When a default route through the port was added after a moment; none if none was.
    pub(crate) fn route_added(&self, since: Instant, bound: Duration) -> Result<Option<Instant>> {
        let is_it = |change: &Change| {
            let added = matches!(change, Change::RouteAdded(_));
            added && change.route().is_some_and(|route| is_through_port(route) && route.is_default())
        };
        match self.changes.wait_for("a route through the port", since, bound, is_it) {
            Ok(change) => Ok(Some(change.at)),
            Err(Error::Late { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// News, frames and packets that the lab itself was too slow for.
    pub(crate) fn overruns(&self) -> u64 {
        let cables = [&self.site.port.cable, &self.site.mgmt.cable];
        self.changes.overruns() + cables.map(Cable::overruns).iter().sum::<u64>()
    }
}

fn is_through_port(route: &Route) -> bool {
    route.family == Family::Ipv4 && route.interface.as_deref() == Some(PORT)
}

/// The usual site; the port has a name and an identity by which all contenders find it, and its IPv4
/// address is a lease, as the seed script wants it: of a real server and client, or with a lifetime only.
fn lay_out(leased: bool) -> Result<(Site, Option<(DhcpClient, DhcpServer)>)> {
    let site = Site::builder().without_port().build()?;
    let port = &site.port;
    site.worker.give_pci(PORT, PCI)?;
    port.cable.plug(End::Worker, &site.worker, PORT, &port.mac)?;
    site.lay_addresses(port, PORT)?;
    site.lay_default(port, PORT, port.metric)?;
    let lease = if leased {
        site.worker.ip(&format!("-4 address flush dev {PORT}"))?;
        let server = DhcpServer::start(port, &Offer::of(port))?;
        let managed = Managed { interface: PORT, metric: port.metric };
        let client = DhcpClient::start(ClientKind::Dhclient, &site.worker, &[managed])?;
        await_lease(&site)?;
        Some((client, server))
    } else {
        let lifetime = "valid_lft 86400 preferred_lft 86400";
        site.worker.ip(&format!("address change {ADDRESS}/24 dev {PORT} {lifetime}"))?;
        None
    };
    let answered = site.worker.ping(port.gateway4.into(), Some(PORT), START_BOUND)?;
    answered.ok_or(Error::Late { what: format!("an answer of {GATEWAY}"), bound: START_BOUND })?;
    Ok((site, lease))
}

/// Waits until the client has laid the port's default route, behind its address.
fn await_lease(site: &Site) -> Result<()> {
    let end = now() + START_BOUND;
    while !site.worker.default_routes(Family::Ipv4)?.iter().any(is_through_port) {
        if now() >= end {
            return Err(Error::Late { what: "a lease for the port".to_owned(), bound: START_BOUND });
        }
        pass(GLANCE);
    }
    Ok(())
}
