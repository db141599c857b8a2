//! From what the kernel says and what the operator asked for to uplinks and their paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::memory::Known;
use crate::own::OwnRoute;
use crate::policy::{Match, Need, Policy, Target, UplinkPolicy};
use crate::snapshot::{
    Address, Attributes, Family, Hop, Link, LinkIndex, LinkKind, Mac, PciPort, Prefix, Route, RouteKind,
    Snapshot, TABLE_MAIN, Weight, protocol,
};
use crate::status::{Cause, GatewaySource};

/// An interface that leads, or should lead, beyond the host's own subnets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// What it is called. An uplink that is named, or a BlueField port, keeps its name when the interface
    /// is renamed or made anew; any other is called what its interface is. No two have the same.
    pub name: String,
    /// Its preference; lower wins.
    pub tier: u32,
    /// The interface that has the addresses and routes; none while it is missing.
    pub interface: Option<String>,
    /// That interface's number.
    pub link: Option<LinkIndex>,
    /// Its share among the members of a multipath pin.
    pub weight: Weight,
    /// It was named by the operator or, where nothing is, is a BlueField port: waited for, and shown while
    /// missing.
    pub expected: bool,
    /// Its paths.
    pub paths: Vec<Path>,
}

/// Names a path. The name can change with the configuration, or when the interface is renamed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PathKey {
    /// The uplink's name.
    pub uplink: String,
    /// The family.
    pub family: Family,
}

impl fmt::Display for PathKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.uplink, self.family)
    }
}

/// An uplink in one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path {
    /// The family.
    pub family: Family,
    /// Its place among the paths of its family; lower wins.
    pub preference: Preference,
    /// Whether and how it can be used.
    pub way: Way,
    /// Where the default route would lead, as far as known, even while it cannot be used.
    pub hop: Option<Hop>,
    /// The kernel refuses a route of ours by that hop: it can be used only because others' default routes
    /// lead there.
    pub foreign_only: bool,
    /// Where its gateway was learned.
    pub learned: Option<GatewaySource>,
    /// The interface's prefix that its gateway is in.
    pub prefix: Option<Prefix>,
    /// Who must answer for a gateway that is remembered; whoever else does is another.
    pub mac: Option<Mac>,
    /// Its other gateways, the most preferred first: one of them takes over when its gateway is silent.
    pub spares: Vec<Spare>,
    /// What the pin copies.
    pub attributes: Attributes,
    /// The address that traffic through this path is sent from.
    pub source: Option<IpAddr>,
    /// What must answer behind the gateway.
    pub targets: Vec<Target>,
    /// How many of them.
    pub need: Need,
    /// How often each is asked.
    pub interval: Duration,
}

impl Path {
    /// As if nobody knew a gateway.
    pub(crate) fn lose_gateway(&mut self) {
        if matches!(self.way, Way::Gateway { .. } | Way::Link(_)) {
            self.way = Way::Broken(Cause::Gateway);
        }
        (self.hop, self.learned, self.mac, self.prefix) = (None, None, None, None);
        self.spares.clear();
    }
}

/// A gateway of a path that is not the one in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spare {
    /// The next hop.
    pub gateway: IpAddr,
    /// The address to ask from.
    pub source: IpAddr,
    /// Its route is preferred to that of the gateway in use.
    pub preferred: bool,
}

/// The order of paths: tier, then judged before unjudged, then the order within the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Preference {
    /// The uplink's tier.
    pub tier: u32,
    /// It is judged by its link alone.
    pub link_only: bool,
    /// Place in the configuration, on the PCI bus, or the metric of its default route.
    pub order: u32,
    /// The interface number, so that the order is total.
    pub index: u32,
}

/// Whether and how a path can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Not at all: link, address or gateway is missing.
    Broken(Cause),
    /// Through a next hop, which can be asked.
    Gateway {
        /// The interface.
        link: LinkIndex,
        /// The next hop.
        gateway: IpAddr,
        /// The address to ask from.
        source: IpAddr,
    },
    /// Straight out of the interface (`default dev X`), which can only be looked at.
    Link(LinkIndex),
}

/// What is known from before that the snapshot no longer says.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// Gateways that work, or did when they were last asked.
    pub gateways: BTreeMap<PathKey, Known>,
    /// The interfaces of the elected paths; at the beginning, those of the pins that were left.
    pub elected: Vec<LinkIndex>,
    /// The gateways that paths go by: each stays while a default route names it, whatever else does.
    pub in_use: Vec<(Family, Hop)>,
}

impl Hints {
    /// The gateway that worked on this interface, or on the one that the uplink was before.
    fn of(&self, link: LinkIndex, uplink: &str, family: Family) -> Option<&Known> {
        let known = || self.gateways.iter().filter(move |(key, _)| key.family == family);
        let here = known().find(|(_, known)| known.hop.link == link);
        here.or_else(|| known().find(|(key, _)| key.uplink == uplink)).map(|(_, known)| known)
    }

    fn uses(&self, family: Family, hop: &Hop) -> bool {
        hop.gateway.is_some() && self.in_use.iter().any(|(its, used)| *its == family && used == hop)
    }
}

/// All uplinks, the most preferred first. A pure function: the same snapshot gives the same answer.
#[must_use]
pub fn discover(snapshot: &Snapshot, policy: &Policy, hints: &Hints) -> Vec<Uplink> {
    let mut found = Vec::new();
    let mut claimed = Claimed::default();
    for (order, entry) in (0..).zip(&policy.uplinks) {
        configured(snapshot, entry, order, &mut claimed, &mut found);
    }
    // Whoever names uplinks says which are preferred.
    if policy.uplinks.is_empty() {
        dpu_ports(snapshot, &mut claimed, &mut found);
    }
    with_default_route(snapshot, policy, hints, &claimed, &mut found);
    make_names_differ(&mut found);

    let in_use = Family::ALL.map(|family| foreign_defaults(snapshot, family).next().is_some());
    let mut uplinks: Vec<Uplink> =
        found.into_iter().map(|candidate| candidate.into_uplink(snapshot, hints, in_use)).collect();
    uplinks.sort_by_key(|uplink| uplink.tier);
    uplinks
}

/// The interface that each uplink leads through, by its name; none while it is missing.
pub(crate) type Led = BTreeMap<String, Option<LinkIndex>>;

/// Through which interfaces these lead.
pub(crate) fn led(uplinks: &[Uplink]) -> Led {
    uplinks.iter().map(|uplink| (uplink.name.clone(), uplink.link)).collect()
}

/// What became of the names: for each uplink of `before` that is called otherwise in `now`, both names.
///
/// An uplink is the interface that it leads through, or led through last: who has that is its successor,
/// whatever the name. Only without such a one it is the name, which then waits for the interface, unless
/// that was given to an interface which had another.
pub(crate) fn renamed(before: &Led, now: &Led) -> Vec<(String, String)> {
    let on = |uplinks: &Led, link: Option<LinkIndex>| {
        let link = link?;
        uplinks.iter().find(|(_, its)| **its == Some(link)).map(|(name, _)| name.clone())
    };
    let given_away = |name: &str| now.get(name).is_some_and(|link| on(before, *link).is_some());
    let names = before.iter().map(|(old, link)| {
        let name = on(now, *link)
            .unwrap_or_else(|| if given_away(old) { format!("{old} (gone)") } else { old.clone() });
        (old.clone(), name)
    });
    names.filter(|(old, new)| old != new).collect()
}

/// The foreign default routes of the main table that every lookup of `family` sees, best first, those
/// that we cannot read among them: they win all the same.
pub fn foreign_defaults(snapshot: &Snapshot, family: Family) -> impl Iterator<Item = &Route> {
    let mut routes: Vec<&Route> = snapshot
        .routes
        .iter()
        .filter(|route| {
            route.family == family && route.table == TABLE_MAIN && route.is_default() && route.tos == 0
        })
        .filter(|route| route.protocol != protocol::UPLINKD)
        // Older kernels keep an unreachable IPv6 default at the end of an empty table.
        .filter(|route| !(route.kind == RouteKind::Refused && route.protocol == protocol::KERNEL))
        .collect();
    // `rt6_score_route` in net/ipv6/route.c.
    routes.sort_by_key(|route| (route.metric, route.preference));
    routes.into_iter()
}

/// Whether a BlueField port is known, with or without an interface.
pub(crate) fn has_dpu_port(snapshot: &Snapshot) -> bool {
    let by_link = snapshot.links.values().filter_map(|link| link.pci.as_ref());
    by_link.chain(&snapshot.dpu_ports).any(is_dpu_port_0)
}

/// An interface, present or not, that is an uplink.
struct Candidate<'a> {
    name: String,
    tier: u32,
    order: u32,
    /// The interface with the addresses, and the hardware port below it if that is another one.
    links: Option<(&'a Link, &'a Link)>,
    policy: Option<&'a UplinkPolicy>,
    expected: bool,
}

/// What earlier candidates took, so that no interface is an uplink twice.
#[derive(Default)]
struct Claimed {
    links: BTreeSet<LinkIndex>,
}

impl Claimed {
    fn take<'a>(&mut self, snapshot: &'a Snapshot, port: &'a Link) -> Option<(&'a Link, &'a Link)> {
        let link = upper(snapshot, port);
        let fresh = self.links.insert(link.index);
        self.links.insert(port.index);
        fresh.then_some((link, port))
    }
}

fn configured<'a>(
    snapshot: &'a Snapshot,
    entry: &'a UplinkPolicy,
    order: u32,
    claimed: &mut Claimed,
    found: &mut Vec<Candidate<'a>>,
) {
    let several = matches!(&entry.matching, Match::Interface(pattern) if pattern.contains(['*', '?']));
    let mut matching: Vec<&Link> =
        snapshot.links.values().filter(|link| is_match(&entry.matching, link)).collect();
    // A bridge or bond often has the MAC of its port, and can be the older of the two.
    matching.sort_by_key(|link| matches!(link.kind, LinkKind::Bridge | LinkKind::Bond));
    let mut any = false;
    for link in matching {
        if claimed.links.contains(&link.index) || claimed.links.contains(&upper(snapshot, link).index) {
            continue;
        }
        let Some(links) = claimed.take(snapshot, link) else {
            continue;
        };
        let name = if several { format!("{}/{}", entry.name, link.name) } else { entry.name.clone() };
        found.push(Candidate {
            name,
            tier: entry.tier,
            order,
            links: Some(links),
            policy: Some(entry),
            expected: true,
        });
        any = true;
        if !several {
            break;
        }
    }
    if !any {
        let name = entry.name.clone();
        found.push(Candidate {
            name,
            tier: entry.tier,
            order,
            links: None,
            policy: Some(entry),
            expected: true,
        });
    }
}

/// Port 0 of every BlueField card is tier 1, in the order of the bus, where the operator named nothing.
fn dpu_ports<'a>(snapshot: &'a Snapshot, claimed: &mut Claimed, found: &mut Vec<Candidate<'a>>) {
    let by_link = snapshot.links.values().filter_map(|link| Some((link.pci.as_ref()?, Some(link))));
    let by_bus = snapshot.dpu_ports.iter().map(|port| (port, None));
    let mut ports: Vec<(&PciPort, Option<&Link>)> =
        by_link.chain(by_bus).filter(|(port, _)| is_dpu_port_0(port)).collect();
    ports.sort_by_key(|(port, link)| (port.address, link.is_none(), link.map(|link| link.index)));
    let mut seen = BTreeSet::new();
    for (order, (port, link)) in (0..).zip(ports) {
        let known = !seen.insert(port.address)
            || link.is_some_and(|link| claimed.links.contains(&upper(snapshot, link).index));
        if known {
            continue;
        }
        let links = link.and_then(|link| claimed.take(snapshot, link));
        let name = format!("dpu-{}", port.address);
        found.push(Candidate { name, tier: 1, order, links, policy: None, expected: true });
    }
}

/// Every other interface with a default route comes behind those, in the order of the metrics.
fn with_default_route<'a>(
    snapshot: &'a Snapshot,
    policy: &Policy,
    hints: &Hints,
    claimed: &Claimed,
    found: &mut Vec<Candidate<'a>>,
) {
    let tier = policy.uplinks.iter().map(|uplink| uplink.tier + 1).max().unwrap_or(2).max(2);
    let has_default = |link: &Link| {
        Family::ALL.into_iter().any(|family| {
            foreign_defaults(snapshot, family)
                .any(|route| route.hops.iter().any(|hop| hop.link == link.index))
        })
    };
    for link in snapshot.links.values() {
        let uplink = !claimed.links.contains(&link.index)
            && !matches!(link.kind, LinkKind::Loopback | LinkKind::Tunnel)
            && (has_default(link) || hints.elected.contains(&link.index));
        if uplink {
            let (name, links) = (link.name.clone(), Some((link, link)));
            found.push(Candidate { name, tier, order: 0, links, policy: None, expected: false });
        }
    }
}

/// An interface can have the name that the operator gave to another.
fn make_names_differ(found: &mut [Candidate<'_>]) {
    let mut taken = BTreeSet::new();
    for candidate in found {
        while !taken.insert(candidate.name.clone()) {
            candidate.name.push_str(" (interface)");
        }
    }
}

impl Candidate<'_> {
    fn into_uplink(self, snapshot: &Snapshot, hints: &Hints, in_use: [bool; 2]) -> Uplink {
        let paths = Family::ALL
            .into_iter()
            .zip(in_use)
            .filter_map(|(family, in_use)| self.path(snapshot, hints, family, in_use))
            .collect();
        let link = self.links.map(|(link, _)| link);
        Uplink {
            name: self.name,
            tier: self.tier,
            interface: link.map(|link| link.name.clone()),
            link: link.map(|link| link.index),
            weight: self.policy.map_or(Weight::ONE, |policy| policy.weight),
            expected: self.expected,
            paths,
        }
    }

    /// The uplink in one family; none if it has no gateway there and nobody would expect one.
    fn path(&self, snapshot: &Snapshot, hints: &Hints, family: Family, in_use: bool) -> Option<Path> {
        let gateway = self.links.and_then(|(link, _)| find_gateway(snapshot, link, family, self, hints));
        let route = self.links.and_then(|(link, _)| default_through(snapshot, family, link.index));
        let targets: Vec<Target> = self.policy.map_or_else(Vec::new, |policy| {
            policy.targets.iter().copied().filter(|target| Family::of(target.address()) == family).collect()
        });
        let configured =
            self.policy.is_some_and(|policy| policy.gateways.iter().any(|g| Family::of(*g) == family));
        if gateway.is_none() && route.is_none() && !configured && !(self.expected && in_use) {
            return None;
        }
        let way = self.way(snapshot, family, gateway.as_ref(), route.is_some());
        let hop = gateway.as_ref().map(|found| found.hop.clone()).or_else(|| Some(route?.1.clone()));
        let learned = gateway.as_ref().map(|found| found.learned);
        let mac = gateway.as_ref().and_then(|found| found.mac);
        let prefix = hop.as_ref().and_then(|hop| prefix_of(snapshot, hop.link, hop.gateway?));
        let spares = spares(snapshot, family, &way, learned);
        let attributes = gateway
            .map(|found| found.attributes)
            .or_else(|| Some(route?.0.attributes.clone()))
            .unwrap_or_default();
        let order = if self.expected { Some(self.order) } else { route.map(|(route, _)| route.metric) };
        // A route that is gone for the moment of a renewal keeps its place.
        let known = || hints.of(self.links?.0.index, &self.name, family);
        let order = order.or_else(|| Some(known()?.order)).unwrap_or(u32::MAX);
        Some(Path {
            family,
            preference: Preference {
                tier: self.tier,
                link_only: matches!(way, Way::Link(_)),
                order,
                index: self.links.map_or(u32::MAX, |(link, _)| link.index.0),
            },
            way,
            hop,
            foreign_only: false,
            learned,
            prefix,
            mac,
            spares,
            source: attributes.source.or_else(|| self.source(snapshot, family)),
            attributes,
            targets,
            need: self.policy.map_or(Need::Any, |policy| policy.need),
            interval: self.policy.map_or(Duration::from_secs(5), |policy| policy.interval),
        })
    }

    /// The address that the kernel would choose for traffic beyond the host's own subnets.
    fn source(&self, snapshot: &Snapshot, family: Family) -> Option<IpAddr> {
        let (link, _) = self.links?;
        addresses(snapshot, link.index, family)
            .filter(|address| !address.link_local)
            .min_by_key(|address| address.unpreferred)
            .map(|address| address.prefix.address)
    }

    fn way(&self, snapshot: &Snapshot, family: Family, gateway: Option<&FoundGateway>, route: bool) -> Way {
        let Some((link, port)) = self.links else {
            return Way::Broken(Cause::Link);
        };
        // A bond knows itself whether one of its ports is enough; a bridge does not.
        let port_counts = link.kind != LinkKind::Bond;
        if !(link.up && link.carrier) || (port_counts && !(port.up && port.carrier)) {
            return Way::Broken(Cause::Link);
        }
        let has_address = addresses(snapshot, link.index, family).any(|address| !address.link_local);
        let Some(found) = gateway else {
            if !has_address && !route {
                return Way::Broken(Cause::Address);
            }
            return if route { Way::Link(link.index) } else { Way::Broken(Cause::Gateway) };
        };
        // An address elsewhere on the host will do if the route itself names it.
        if !has_address && found.attributes.source.is_none() {
            return Way::Broken(Cause::Address);
        }
        let Some(gateway) = found.hop.gateway.filter(|gateway| !is_own(snapshot, link.index, *gateway))
        else {
            return Way::Broken(Cause::Gateway);
        };
        match source_for(snapshot, link.index, gateway).or(found.attributes.source) {
            Some(source) => Way::Gateway { link: link.index, gateway, source },
            None => Way::Broken(Cause::Address),
        }
    }
}

struct FoundGateway {
    hop: Hop,
    attributes: Attributes,
    learned: GatewaySource,
    mac: Option<Mac>,
}

/// The sources of a gateway, in their order.
fn find_gateway(
    snapshot: &Snapshot,
    link: &Link,
    family: Family,
    candidate: &Candidate<'_>,
    hints: &Hints,
) -> Option<FoundGateway> {
    let foreign = default_through(snapshot, family, link.index);
    let mut configured = candidate.policy.into_iter().flat_map(|policy| &policy.gateways);
    if let Some(gateway) = configured.find(|gateway| Family::of(**gateway) == family) {
        // The operator's gateway, with whatever else the interface's own default route says.
        let attributes = foreign.map(|(route, _)| route.attributes.clone()).unwrap_or_default();
        return Some(on_the_link(snapshot, link, *gateway, attributes, GatewaySource::Configuration));
    }
    if let Some(best) = foreign {
        let used = || defaults_through(snapshot, family, link.index).find(|(_, hop)| hints.uses(family, hop));
        // Where the best has no gateway, the kernel goes by none.
        let (route, hop) = best.1.gateway.and_then(|_| used()).unwrap_or(best);
        let found = FoundGateway {
            hop: hop.clone(),
            attributes: attributes_of(snapshot, route, hop),
            learned: source_of(route, GatewaySource::Route),
            mac: None,
        };
        return hop.gateway.is_some().then_some(found);
    }
    let bare = |gateway, learned| on_the_link(snapshot, link, gateway, Attributes::default(), learned);
    named_by_route(snapshot, link, family)
        .or_else(|| Some((leased(snapshot, link, family)?, GatewaySource::Lease)))
        .map(|(gateway, learned)| bare(gateway, learned))
        .or_else(|| remembered(snapshot, link, hints.of(link.index, &candidate.name, family)?))
}

/// A gateway that stands in no default route.
fn on_the_link(
    snapshot: &Snapshot,
    link: &Link,
    gateway: IpAddr,
    attributes: Attributes,
    learned: GatewaySource,
) -> FoundGateway {
    let onlink = !has_prefix_route(snapshot, link.index, gateway);
    let hop = Hop { link: link.index, gateway: Some(gateway) };
    FoundGateway { hop, attributes: Attributes { onlink, ..attributes }, learned, mac: None }
}

/// The next hop of a route that the network named. Nobody else's: a CNI's or a routing daemon's next hop
/// is another worker, which would answer.
fn named_by_route(snapshot: &Snapshot, link: &Link, family: Family) -> Option<(IpAddr, GatewaySource)> {
    let route = snapshot
        .routes
        .iter()
        .filter(|route| route.family == family && !route.is_default() && route.names_gateway())
        .filter(|route| route.single_hop().is_some_and(|hop| hop.link == link.index))
        .min_by_key(|route| route.metric)?;
    Some((route.single_hop()?.gateway?, source_of(route, GatewaySource::Dhcp)))
}

/// The router that the DHCP client wrote down.
fn leased(snapshot: &Snapshot, link: &Link, family: Family) -> Option<IpAddr> {
    snapshot.leases.router(link, addresses(snapshot, link.index, family))
}

/// The gateway that worked here, while the interface still has the prefix. Its MAC is for the judge.
fn remembered(snapshot: &Snapshot, link: &Link, known: &Known) -> Option<FoundGateway> {
    let gateway = known.hop.gateway?;
    let same = |prefix: &Prefix| {
        addresses(snapshot, link.index, Family::of(gateway)).any(|address| address.prefix.is_same(prefix))
    };
    // Without a MAC it is known only while the interface is still the same.
    let certain = known.mac.is_some() || known.hop.link == link.index;
    if !(certain && known.prefix.as_ref().map_or(known.attributes.onlink, same)) {
        return None;
    }
    // The route may be gone because the address is that it preferred.
    let ours = |source: &IpAddr| snapshot.addresses.iter().any(|address| address.prefix.address == *source);
    let attributes = Attributes { source: known.attributes.source.filter(ours), ..known.attributes.clone() };
    let hop = Hop { link: link.index, gateway: Some(gateway) };
    Some(FoundGateway { hop, attributes, learned: GatewaySource::Memory, mac: known.mac })
}

/// What a pin by this hop copies. Where IPv6 joined routes of several interfaces, only the first one's
/// preferred source is told; it is no other's.
fn attributes_of(snapshot: &Snapshot, route: &Route, hop: &Hop) -> Attributes {
    let its = |source: &IpAddr| {
        route.hops.len() == 1
            || addresses(snapshot, hop.link, route.family).any(|address| address.prefix.address == *source)
    };
    Attributes { source: route.attributes.source.filter(its), ..route.attributes.clone() }
}

fn source_of(route: &Route, otherwise: GatewaySource) -> GatewaySource {
    if route.protocol == protocol::RA { GatewaySource::Advertisement } else { otherwise }
}

/// The best foreign default route with a hop through `link`, and that hop.
fn default_through(snapshot: &Snapshot, family: Family, link: LinkIndex) -> Option<(&Route, &Hop)> {
    defaults_through(snapshot, family, link).next()
}

/// The hops through `link` of foreign default routes, the best first.
fn defaults_through(
    snapshot: &Snapshot,
    family: Family,
    link: LinkIndex,
) -> impl Iterator<Item = (&Route, &Hop)> {
    foreign_defaults(snapshot, family).filter(|route| route.kind == RouteKind::Unicast).flat_map(
        move |route| route.hops.iter().filter(move |hop| hop.link == link).map(move |hop| (route, hop)),
    )
}

/// So many gateways of a path are asked beside the one in use: anybody on the link can advertise more.
const SPARES: usize = 3;

/// The gateways that default routes name beside the one in use. The operator's stands alone.
fn spares(snapshot: &Snapshot, family: Family, way: &Way, learned: Option<GatewaySource>) -> Vec<Spare> {
    let by_route = matches!(learned, Some(GatewaySource::Route | GatewaySource::Advertisement));
    let Way::Gateway { link, gateway: in_use, .. } = way else { return Vec::new() };
    let gateways = || defaults_through(snapshot, family, *link).filter(|_| by_route);
    let rank = |route: &Route| (route.metric, route.preference);
    let used = gateways().find(|(_, hop)| hop.gateway == Some(*in_use)).map(|(route, _)| rank(route));
    let mut seen = BTreeSet::from([*in_use]);
    let spares = gateways().filter_map(|(route, hop)| {
        let gateway = hop.gateway.filter(|gateway| seen.insert(*gateway))?;
        if is_own(snapshot, *link, gateway) {
            return None;
        }
        let source = source_for(snapshot, *link, gateway).or(route.attributes.source)?;
        Some(Spare { gateway, source, preferred: Some(rank(route)) < used })
    });
    spares.take(SPARES).collect()
}

fn addresses(snapshot: &Snapshot, link: LinkIndex, family: Family) -> impl Iterator<Item = &Address> + Clone {
    snapshot.addresses.iter().filter(move |address| {
        address.link == link && address.usable && Family::of(address.prefix.address) == family
    })
}

/// Whether `gateway` is an address of this host, which would answer itself. A link-local one counts on its
/// own link only: bridges of pods like to have `fe80::1`, and so do routers.
fn is_own(snapshot: &Snapshot, link: LinkIndex, gateway: IpAddr) -> bool {
    let same = |address: &&Address| address.usable && address.prefix.address == gateway;
    snapshot.addresses.iter().filter(same).any(|address| address.link == link || !address.link_local)
}

/// The prefix of the interface that `gateway` is in.
fn prefix_of(snapshot: &Snapshot, link: LinkIndex, gateway: IpAddr) -> Option<Prefix> {
    let mut prefixes = addresses(snapshot, link, Family::of(gateway)).map(|address| address.prefix);
    prefixes.find(|prefix| prefix.contains(gateway))
}

/// Whether the kernel is certain to take `gateway` for on the link without being told so: an IPv6
/// link-local one always is, any other by the route to an address's prefix.
fn has_prefix_route(snapshot: &Snapshot, link: LinkIndex, gateway: IpAddr) -> bool {
    matches!(gateway, IpAddr::V6(gateway) if gateway.is_unicast_link_local())
        || addresses(snapshot, link, Family::of(gateway))
            .any(|address| !address.no_prefix_route && address.prefix.contains(gateway))
}

/// The interface's address to ask `gateway` from: in its subnet if there is one, preferred before
/// deprecated or temporary.
fn source_for(snapshot: &Snapshot, link: LinkIndex, gateway: IpAddr) -> Option<IpAddr> {
    addresses(snapshot, link, Family::of(gateway))
        .min_by_key(|address| (!address.prefix.contains(gateway), address.unpreferred, address.link_local))
        .map(|address| address.prefix.address)
}

/// The bridge or bond that a port is enslaved to, where its addresses are; else the port itself.
fn upper<'a>(snapshot: &'a Snapshot, port: &'a Link) -> &'a Link {
    let mut link = port;
    // A bond below a bridge is as deep as it goes; the bound ends a loop that cannot be.
    for _ in 0..4 {
        match link.master.and_then(|master| snapshot.links.get(&master)) {
            Some(master) if matches!(master.kind, LinkKind::Bridge | LinkKind::Bond) => {
                link = master;
            }
            _ => break,
        }
    }
    link
}

/// Whether the operator means this interface.
pub(crate) fn is_match(matching: &Match, link: &Link) -> bool {
    if link.kind == LinkKind::Loopback {
        return false;
    }
    match matching {
        Match::Interface(pattern) => {
            glob(pattern, &link.name) || link.altnames.iter().any(|name| glob(pattern, name))
        }
        Match::Mac(mac) => link.mac == Some(*mac),
        Match::Pci(address) => {
            link.pci.as_ref().is_some_and(|pci| pci.address == *address && !is_representor(pci))
        }
    }
}

/// `*` stands for any characters, `?` for one; everything else for itself, the whole name counts.
fn glob(pattern: &str, name: &str) -> bool {
    match (pattern.chars().next(), name.chars().next()) {
        (None, None) => true,
        (Some('*'), _) => {
            let rest = pattern.get(1..).unwrap_or_default();
            name.char_indices()
                .map(|(at, _)| at)
                .chain([name.len()])
                .any(|at| glob(rest, name.get(at..).unwrap_or_default()))
        }
        (Some(p), Some(n)) if p == '?' || p == n => glob(
            pattern.get(p.len_utf8()..).unwrap_or_default(),
            name.get(n.len_utf8()..).unwrap_or_default(),
        ),
        _ => false,
    }
}

/// NVIDIA (Mellanox); this number and those of the devices are from pci.ids.
const VENDOR_NVIDIA: u16 = 0x15b3;

/// Class 0200: Ethernet controllers.
const CLASS_ETHERNET: u32 = 0x0200;

/// The network functions of BlueField-1, -2, -3 Lx, -3 and -4. Other a2dX are its crypto and
/// management functions.
const BLUEFIELD_DEVICES: [u16; 5] = [0xa2d2, 0xa2d6, 0xa2d9, 0xa2dc, 0xa2df];

/// A network port of a BlueField card, and not a virtual function of one.
#[must_use]
pub fn is_dpu_port(port: &PciPort) -> bool {
    port.vendor == VENDOR_NVIDIA
        && port.class >> 8 == CLASS_ETHERNET
        && BLUEFIELD_DEVICES.contains(&port.device)
        && !port.virtual_function
}

fn is_dpu_port_0(port: &PciPort) -> bool {
    is_dpu_port(port) && port.address.function == 0 && !is_representor(port)
}

/// A representor shares the PCI function of its port; the port itself is called `p<N>`, or nothing.
fn is_representor(port: &PciPort) -> bool {
    port.port_name.as_deref().is_some_and(|name| {
        let number = name.strip_prefix('p').unwrap_or_default();
        number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The own default routes in the snapshot.
pub fn own_defaults(snapshot: &Snapshot, family: Family) -> impl Iterator<Item = OwnRoute> + '_ {
    snapshot.routes.iter().filter(move |route| route.family == family).filter_map(OwnRoute::claim)
}
