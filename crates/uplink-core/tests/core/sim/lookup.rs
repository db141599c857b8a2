//! The kernel's answer to "where does a packet go".

use std::net::IpAddr;

use uplink_core::snapshot::{Family, Hop, LinkIndex, Route, RouteKind, Rule, TABLE_MAIN};

use super::kernel::{Kernel, joined};

/// Why a packet goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoWay {
    /// No rule leads to a route.
    NoRoute,
    /// A route refuses it.
    Refused,
    /// It has one, but we cannot tell which.
    Opaque,
}

/// A packet that asks for its way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) to: IpAddr,
    pub(crate) from: Option<IpAddr>,
    pub(crate) mark: u32,
    /// The interface that its socket is bound to.
    pub(crate) bound: Option<LinkIndex>,
}

impl Kernel {
    /// Where a packet to somewhere on the internet goes, or the first of several ways.
    pub(crate) fn default_way(&self, family: Family) -> Result<Hop, NoWay> {
        first(self.ways(somewhere(family)))
    }

    /// All ways by which packets to somewhere on the internet go: several hops share them.
    pub(crate) fn default_ways(&self, family: Family) -> Vec<Hop> {
        self.ways(somewhere(family)).unwrap_or_default()
    }

    /// Where a packet goes, or the first of several ways.
    pub(crate) fn lookup(&self, packet: Packet) -> Result<Hop, NoWay> {
        first(self.ways(packet))
    }

    /// Rules in their order, then the table: longest prefix, lowest metric.
    fn ways(&self, packet: Packet) -> Result<Vec<Hop>, NoWay> {
        let family = Family::of(packet.to);
        let rules: Vec<&Rule> = self.rules.iter().filter(|rule| rule.family == family).collect();
        let mut skipped_to = 0;
        for rule in rules.iter().filter(|rule| matches(rule, packet)) {
            if rule.priority < skipped_to {
                continue;
            }
            // A rule that goes on with none that is there does nothing.
            if let Some(target) = rule.goto.filter(|target| rules.iter().any(|rule| rule.priority == *target))
            {
                skipped_to = target;
            }
            let Some(table) = rule.table else { continue };
            let Some((length, answer)) = self.table_lookup(family, table, packet) else { continue };
            let suppressed = answer != Err(NoWay::Refused)
                && rule.suppress_prefix_length.is_some_and(|most| length <= most);
            if !suppressed {
                return answer;
            }
        }
        Err(NoWay::NoRoute)
    }

    /// The best route of a table: the length of its prefix and where it leads.
    fn table_lookup(
        &self,
        family: Family,
        table: u32,
        packet: Packet,
    ) -> Option<(u32, Result<Vec<Hop>, NoWay>)> {
        let fits = |link| packet.bound.is_none_or(|bound| bound == link);
        let connected = (table == TABLE_MAIN).then(|| self.connected(packet, fits)).flatten();
        let leads = |route: &Route, hop: &Hop| fits(hop.link) && self.leads(route, hop);
        let routes = self.routes.iter().filter(|route| {
            route.family == family
                && route.table == table
                && route.tos == 0
                && route.destination.contains(packet.to)
                && (route.hops.is_empty() || route.hops.iter().any(|hop| leads(route, hop)))
        });
        let mut routes: Vec<&Route> = routes.collect();
        // Stable: equals stay in the order in which they were laid.
        routes.sort_by_key(|route| (255 - route.destination.length, route.metric, route.preference));
        let reachable = routes.iter().find(|route| !self.skipped(route)).or(routes.first());
        match (connected, reachable) {
            (Some((length, hop)), best)
                if best.is_none_or(|route| u32::from(route.destination.length) <= length) =>
            {
                Some((length, Ok(vec![hop])))
            }
            (_, Some(best)) => {
                let shares = |route: &&&Route| std::ptr::eq(**route, *best) || joined(route, best);
                let hops = routes
                    .iter()
                    .filter(shares)
                    .flat_map(|route| route.hops.iter().filter(|hop| leads(route, hop)).cloned());
                Some((u32::from(best.destination.length), way(best, hops.collect())))
            }
            (_, None) => None,
        }
    }

    /// The subnet of an interface's own address that holds the destination.
    fn connected(&self, packet: Packet, fits: impl Fn(LinkIndex) -> bool) -> Option<(u32, Hop)> {
        let up = |link| self.links.get(&link).is_some_and(|link| link.up);
        let subnets = self
            .addresses
            .iter()
            .filter(|address| up(address.link) && fits(address.link) && address.prefix.contains(packet.to));
        let best = subnets.max_by_key(|address| address.prefix.length)?;
        Some((u32::from(best.prefix.length), Hop { link: best.link, gateway: None }))
    }

    /// An IPv6 host that does not forward passes over a route whose neighbour is known to be dead.
    fn skipped(&self, route: &Route) -> bool {
        let dead = |hop: &Hop| hop.gateway.is_some_and(|gateway| self.failed.contains(&(hop.link, gateway)));
        route.family == Family::Ipv6 && !self.forwarding && route.hops.iter().any(dead)
    }
}

fn way(route: &Route, hops: Vec<Hop>) -> Result<Vec<Hop>, NoWay> {
    match route.kind {
        RouteKind::Unicast if hops.is_empty() => Err(NoWay::NoRoute),
        RouteKind::Unicast => Ok(hops),
        RouteKind::Refused => Err(NoWay::Refused),
        RouteKind::Other => Err(NoWay::Opaque),
    }
}

fn first(ways: Result<Vec<Hop>, NoWay>) -> Result<Hop, NoWay> {
    ways?.into_iter().next().ok_or(NoWay::NoRoute)
}

/// A packet to somewhere on the internet.
fn somewhere(family: Family) -> Packet {
    let to = match family {
        Family::Ipv4 => IpAddr::from([198, 51, 100, 7]),
        Family::Ipv6 => IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 7]),
    };
    Packet { to, from: None, mark: 0, bound: None }
}

fn matches(rule: &Rule, packet: Packet) -> bool {
    let from = rule.from.is_none_or(|prefix| packet.from.is_some_and(|from| prefix.contains(from)));
    let mark = rule.mark.is_none_or(|mark| packet.mark & mark.mask == mark.value);
    !rule.more && from && mark && rule.to.is_none_or(|prefix| prefix.contains(packet.to))
}
