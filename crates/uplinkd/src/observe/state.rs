//! The snapshot, and what each message makes of it. Without I/O, but for the identity of new links.

use std::collections::BTreeSet;
use std::time::Duration;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE};
use nix::libc::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_DELRULE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTM_NEWRULE,
};
use uplink_core::lease::Leases;
use uplink_core::policy::Policy;
use uplink_core::relevance::Relevance;
use uplink_core::snapshot::{
    Address, Family, Link, LinkIndex, LinkKind, PciPort, Prefix, Route, Rule, Snapshot, Tracking, protocol,
};

use super::route::{Kept, Life};
use super::{address, link, route};
use crate::netlink::{Malformed, Message, attributes, number};

/// Messages about next-hop objects (`linux/rtnetlink.h`).
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// A setting of IPv4 changed (`linux/rtnetlink.h`), and what is in it (`linux/netconf.h`).
const RTM_NEWNETCONF: u16 = 80;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_RP_FILTER: u16 = 3;
/// The setting of all interfaces (-1).
const NETCONFA_IFINDEX_ALL: u32 = u32::MAX;

/// The number of a next-hop object (`NHA_ID`, `linux/nexthop.h`).
const NHA_ID: u16 = 1;

/// After so many new ones it is looked which next-hop objects routes still lead to: those that go with their
/// interface go without a message (`nexthop_flush_dev` in net/ipv4/nexthop.c).
const NEXTHOPS_BEFORE_LOOK: usize = 1024;

/// What is over but not deleted yet, half a minute long, can live again without a message: it is looked
/// for so often.
const REVIVED_WITHIN: Duration = Duration::from_secs(2);

/// What a message, or several, did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// The snapshot differs in what matters.
    pub(super) changed: bool,
    /// Routes may have changed without a message: read everything again.
    pub(super) look: bool,
    /// A rule came or went: read the rules again.
    pub(super) rules: bool,
    /// A PCI function got or lost its interface: read the bus again.
    pub(super) ports: bool,
    /// nftables changed: read our tables again.
    pub(super) tracking: bool,
}

impl Effect {
    const NONE: Self = Self { changed: false, look: false, rules: false, ports: false, tracking: false };
    pub(super) const CHANGED: Self = Self { changed: true, ..Self::NONE };
    pub(super) const LOOK: Self = Self { look: true, ..Self::NONE };
    pub(super) const RULES: Self = Self { rules: true, ..Self::NONE };

    /// Both.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            changed: self.changed || other.changed,
            look: self.look || other.look,
            rules: self.rules || other.rules,
            ports: self.ports || other.ports,
            tracking: self.tracking || other.tracking,
        }
    }
}

/// What the kernel was seen to hold.
pub(super) struct State {
    /// Everything, whether it matters or not.
    snapshot: Snapshot,
    relevance: Relevance,
    /// Next-hop objects that kept routes lead to, or led to since everything was read.
    nexthops: BTreeSet<u32>,
    /// When the first of the lives ends that were told since this was taken, from then on.
    ends: Option<Duration>,
    /// Finds the PCI function behind an interface of this name.
    identify: fn(&str) -> Option<PciPort>,
}

impl State {
    /// Nothing yet.
    pub(super) fn new(identify: fn(&str) -> Option<PciPort>) -> Self {
        Self {
            snapshot: Snapshot::default(),
            relevance: Relevance::default(),
            nexthops: BTreeSet::new(),
            ends: None,
            identify,
        }
    }

    /// What is known now.
    pub(super) const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// What matters of it. To be taken whenever that differs: what matters from then on is noted here.
    pub(super) fn part(&mut self) -> Snapshot {
        self.relevance.part(&self.snapshot)
    }

    /// The links that mattered when that was taken last and can lose their carrier.
    pub(super) fn links_that_matter(&self) -> Vec<LinkIndex> {
        let known = self.snapshot.links.values().filter(|link| link.kind != LinkKind::Loopback);
        known.map(|link| link.index).filter(|index| self.relevance.of_index(*index)).collect()
    }

    /// From now on, what matters is by this policy.
    pub(super) fn set_policy(&mut self, policy: &Policy) {
        self.relevance.set_policy(policy);
    }

    /// Takes in a message. All that it says of routes and addresses may be said again, or late: the
    /// snapshot is right when the last message is taken in.
    pub(super) fn take(&mut self, message: &Message<'_>) -> Result<Effect, Malformed> {
        let payload = message.payload;
        Ok(match message.kind {
            RTM_NEWLINK => link::decode(payload)?.map(|link| self.set_link(link)),
            RTM_DELLINK => link::decode(payload)?.map(|link| self.remove_link(link.index)),
            RTM_NEWADDR => address::decode(payload)?.map(|address| self.set_address(address)),
            RTM_DELADDR => address::decode(payload)?.map(|address| self.remove_address(&address)),
            RTM_NEWROUTE => route::decode(payload)?.map(|kept| self.add_route(kept, message.flags)),
            RTM_DELROUTE => route::decode(payload)?.map(|kept| self.remove_route(&kept.route)),
            // A rule may stand there twice, and two rules may look the same from here: which one is
            // gone cannot be told from the message. There are few of them, and they rarely change.
            RTM_NEWRULE | RTM_DELRULE => Some(Effect::RULES),
            RTM_NEWNETCONF => Some(self.netconf_changed(payload)?),
            RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Some(self.nexthop_changed(payload)?),
            _ => None,
        }
        .unwrap_or_default())
    }

    /// After how long the first of the routes that were told since the last call may end. It is told
    /// once: what was laid for a while is prolonged, and ends, without a message.
    pub(super) const fn take_end(&mut self) -> Option<Duration> {
        self.ends.take()
    }

    /// Puts everything that was read in the place of what was known. Returns whether that differs.
    pub(super) fn replace(&mut self, read: Read) -> bool {
        let Read { links, mut addresses, routes, rules, dpu_ports, rp_filter, tracking } = read;
        self.nexthops.clear();
        let routes = self.living(routes);
        addresses.sort_by_key(address_place);
        let links = links.into_iter().map(|link| (link.index, self.identified(link))).collect();
        let leases = self.snapshot.leases.clone();
        let mut snapshot =
            Snapshot { links, addresses, routes, rules, dpu_ports, leases, rp_filter, tracking };
        drop_dead_routes(&mut snapshot);
        let differs = snapshot != self.snapshot;
        self.snapshot = snapshot;
        differs
    }

    /// Puts these routes in the place of all of their family. Returns whether they differ.
    pub(super) fn replace_routes(&mut self, family: Family, read: Vec<Kept>) -> bool {
        let mut routes = self.living(read);
        routes.extend(self.snapshot.routes.iter().filter(|route| route.family != family).cloned());
        routes.sort_by_key(place);
        let before = std::mem::replace(&mut self.snapshot.routes, routes);
        drop_dead_routes(&mut self.snapshot);
        before != self.snapshot.routes
    }

    /// Puts these routes in the place of all own ones.
    pub(super) fn replace_own(&mut self, own: Vec<Kept>) -> Effect {
        let known = self.snapshot.routes.iter().filter(|route| is_own(route));
        let mut own: Vec<_> = own.into_iter().map(|kept| kept.route).collect();
        own.sort_by_key(place);
        if known.eq(&own) {
            return Effect::NONE;
        }
        self.snapshot.routes.retain(|route| !is_own(route));
        let mut effect = Effect::CHANGED;
        for route in own {
            let (start, end) = self.group(&route);
            // Which of the two comes first can only be seen when both are read.
            effect.look |= self.snapshot.routes.get(start..end).is_some_and(has_foreign);
            self.snapshot.routes.insert(end, route);
        }
        effect
    }

    /// Puts these rules in the place of all rules. Returns whether they differ.
    pub(super) fn replace_rules(&mut self, rules: Vec<Rule>) -> bool {
        let differs = rules != self.snapshot.rules;
        self.snapshot.rules = rules;
        differs
    }

    /// Puts these ports in the place of those known. Returns whether they differ.
    pub(super) fn replace_ports(&mut self, ports: Vec<PciPort>) -> bool {
        let differs = ports != self.snapshot.dpu_ports;
        self.snapshot.dpu_ports = ports;
        differs
    }

    /// Puts these leases in the place of those known. Returns whether they differ.
    pub(super) fn replace_leases(&mut self, leases: Leases) -> bool {
        let differs = leases != self.snapshot.leases;
        self.snapshot.leases = leases;
        differs
    }

    /// Puts this in the place of what was known of connection tracking. Returns whether it differs.
    pub(super) fn replace_tracking(&mut self, tracking: Tracking) -> bool {
        let differs = tracking != self.snapshot.tracking;
        self.snapshot.tracking = tracking;
        differs
    }

    /// A setting of IPv4 changed, of one interface or of all.
    fn netconf_changed(&mut self, payload: &[u8]) -> Result<Effect, Malformed> {
        // struct netconfmsg, linux/netconf.h, padded
        let (_, rest) = payload.split_first_chunk::<4>().ok_or(Malformed)?;
        let (mut index, mut rp_filter) = (None, None);
        for attribute in attributes(rest) {
            match attribute? {
                (NETCONFA_IFINDEX, value) => index = Some(number(value)?),
                (NETCONFA_RP_FILTER, value) => rp_filter = Some(number(value)?),
                _ => {}
            }
        }
        let (Some(index), Some(rp_filter)) = (index, rp_filter) else { return Ok(Effect::NONE) };
        let (setting, matters) = match index {
            NETCONFA_IFINDEX_ALL => (Some(&mut self.snapshot.rp_filter), true),
            // Also that of no interface yet, which has no number that is in use.
            index => {
                let link = self.snapshot.links.get_mut(&LinkIndex(index));
                (link.map(|link| &mut link.rp_filter), self.relevance.of_index(LinkIndex(index)))
            }
        };
        let Some(setting) = setting.filter(|setting| **setting != rp_filter) else {
            return Ok(Effect::NONE);
        };
        *setting = rp_filter;
        Ok(Effect { changed: matters, ..Effect::NONE })
    }

    /// The link with the PCI function behind it, which is looked up only if it is new or renamed.
    fn identified(&self, link: Link) -> Link {
        let known = self.snapshot.links.get(&link.index);
        let pci = match known {
            Some(known) if known.name == link.name => known.pci.clone(),
            Some(_) | None => (self.identify)(&link.name),
        };
        Link { pci, ..link }
    }

    /// What a link is, now or by a message.
    pub(super) fn set_link(&mut self, link: Link) -> Effect {
        let link = self.identified(link);
        let (index, up, pci) = (link.index, link.up, link.pci.clone());
        let known = self.snapshot.links.get(&index);
        if known == Some(&link) && up {
            return Effect::NONE;
        }
        let effect = Effect {
            changed: known != Some(&link) && self.relevance.of_link(&link),
            ports: known.and_then(|known| known.pci.as_ref()) != pci.as_ref(),
            ..Effect::NONE
        };
        self.snapshot.links.insert(index, link);
        if up { effect } else { effect.and(self.drop_dead_routes()) }
    }

    /// There is no such link any more.
    pub(super) fn remove_link(&mut self, index: LinkIndex) -> Effect {
        let Some(link) = self.snapshot.links.remove(&index) else {
            return Effect::NONE;
        };
        let relevance = &self.relevance;
        let mut changed = relevance.of_link(&link);
        self.snapshot.addresses.retain(|address| {
            let stays = address.link != index;
            changed |= !stays && relevance.of_address(address);
            stays
        });
        let effect = Effect { changed, ports: link.pci.is_some(), ..Effect::NONE };
        effect.and(self.drop_dead_routes())
    }

    fn set_address(&mut self, address: Address) -> Effect {
        let told = Effect { changed: self.relevance.of_address(&address), ..Effect::NONE };
        let addresses = &mut self.snapshot.addresses;
        match addresses.iter_mut().find(|a| same_address(a, &address)) {
            Some(known) if *known == address => Effect::NONE,
            Some(known) => {
                *known = address;
                told
            }
            None => {
                let place = address_place(&address);
                // IPv6 puts it before its equals (`ipv6_link_dev_addr` in net/ipv6/addrconf.c),
                // IPv4 behind them (`__inet_insert_ifa` in net/ipv4/devinet.c).
                let at = addresses.partition_point(|a| match place.0 {
                    Family::Ipv4 => address_place(a) <= place,
                    Family::Ipv6 => address_place(a) < place,
                });
                addresses.insert(at, address);
                told
            }
        }
    }

    /// An address takes with it, silently, the routes that prefer it as a source and those whose
    /// gateway only its subnet could reach.
    fn remove_address(&mut self, address: &Address) -> Effect {
        let before = self.snapshot.addresses.len();
        self.snapshot.addresses.retain(|known| !same_address(known, address));
        let touched = |route: &Route| {
            route.hops.iter().any(|hop| hop.link == address.link)
                || route.attributes.source == Some(address.prefix.address)
        };
        Effect {
            changed: self.snapshot.addresses.len() != before && self.relevance.of_address(address),
            look: self.snapshot.routes.iter().any(touched),
            ..Effect::NONE
        }
    }

    /// Follows what the kernel does with a new route: `fib_table_insert` (net/ipv4/fib_trie.c) and
    /// `fib6_add_rt2node` (net/ipv6/ip6_fib.c). Where that is not certain, everything is read again.
    fn add_route(&mut self, kept: Kept, flags: u16) -> Effect {
        if kept.is_elsewhere() {
            // Unless it stands in the place of an own route.
            let (start, end) = self.group(&kept.route);
            return if start < end { Effect::LOOK } else { Effect::NONE };
        }
        self.note_end(&kept);
        let Kept { route, nexthop, .. } = kept;
        let crowded = nexthop.is_some_and(|id| {
            self.nexthops.insert(id) && self.nexthops.len().is_multiple_of(NEXTHOPS_BEFORE_LOOK)
        });
        let (start, end) = self.group(&route);
        let group = self.snapshot.routes.get(start..end).unwrap_or_default();
        let known = group.contains(&route);
        if known && (flags & NLM_F_REPLACE == 0 || group.len() == 1) {
            return Effect::NONE;
        }
        let effect = Effect { changed: true, look: crowded || needs_look(&route, group), ..Effect::NONE };
        let replaces = flags & NLM_F_REPLACE != 0;
        match (group.len(), replaces, route.family) {
            (0, _, _) => self.snapshot.routes.insert(start, route),
            (1, true, _) => {
                if let Some(old) = self.snapshot.routes.get_mut(start) {
                    *old = route;
                }
            }
            // IPv4 puts it before its equals, unless it is asked to append it.
            (_, false, Family::Ipv4) if flags & NLM_F_APPEND == 0 => {
                self.snapshot.routes.insert(start, route);
            }
            (_, false, Family::Ipv4) => self.snapshot.routes.insert(end, route),
            // IPv6 may join it with its equals into one. And when a replacement is told late, it
            // cannot be known which of several was replaced.
            (_, true, _) | (_, false, Family::Ipv6) => return Effect::LOOK,
        }
        effect
    }

    /// The routes whose lives are not over, in the snapshot's order.
    fn living(&mut self, read: Vec<Kept>) -> Vec<Route> {
        self.nexthops.extend(read.iter().filter_map(|kept| kept.nexthop));
        read.iter().for_each(|kept| self.note_end(kept));
        let living = read.into_iter().filter(|kept| !kept.is_over());
        let mut routes: Vec<_> = living.map(|kept| kept.route).collect();
        routes.sort_by_key(place);
        routes
    }

    fn note_end(&mut self, kept: &Kept) {
        let left = match kept.life {
            Some(Life::Left(left)) => left,
            Some(Life::Over) => REVIVED_WITHIN,
            None => return,
        };
        self.ends = Some(self.ends.map_or(left, |ends| ends.min(left)));
    }

    fn remove_route(&mut self, route: &Route) -> Effect {
        let (start, end) = self.group(route);
        let group = self.snapshot.routes.get(start..end).unwrap_or_default();
        match group.iter().position(|known| known == route) {
            Some(at) => {
                let look = group.iter().any(|known| known.hops.len() > 1);
                self.snapshot.routes.remove(start + at);
                Effect { changed: true, look, ..Effect::NONE }
            }
            None if group.is_empty() => Effect::NONE,
            // One hop of several, or a route that changed without a message.
            None => Effect::LOOK,
        }
    }

    fn nexthop_changed(&self, payload: &[u8]) -> Result<Effect, Malformed> {
        // struct nhmsg, linux/nexthop.h
        let (_, rest) = payload.split_first_chunk::<8>().ok_or(Malformed)?;
        for attribute in attributes(rest) {
            if let (NHA_ID, value) = attribute?
                && self.nexthops.contains(&number(value)?)
            {
                return Ok(Effect::LOOK);
            }
        }
        Ok(Effect::NONE)
    }

    /// Does at once what the kernel does without a message when a link goes down; the look that
    /// follows proves it.
    fn drop_dead_routes(&mut self) -> Effect {
        let dropped = drop_dead_routes(&mut self.snapshot);
        Effect { changed: dropped, look: dropped, ..Effect::NONE }
    }

    /// From where to where the routes stand that compete with this one: same table, destination,
    /// type of service and metric.
    fn group(&self, route: &Route) -> (usize, usize) {
        let (routes, place_of_it) = (&self.snapshot.routes, place(route));
        (
            routes.partition_point(|other| place(other) < place_of_it),
            routes.partition_point(|other| place(other) <= place_of_it),
        )
    }
}

/// Everything that was read from the kernel, as it said it.
pub(super) struct Read {
    /// All links, still without their PCI functions.
    pub(super) links: Vec<Link>,
    /// All addresses.
    pub(super) addresses: Vec<Address>,
    /// The routes that are kept.
    pub(super) routes: Vec<Kept>,
    /// All rules.
    pub(super) rules: Vec<Rule>,
    /// The BlueField functions on the PCI bus.
    pub(super) dpu_ports: Vec<PciPort>,
    /// `net.ipv4.conf.all.rp_filter`.
    pub(super) rp_filter: u32,
    /// Connection tracking.
    pub(super) tracking: Tracking,
}

/// The order of the snapshot's routes. Sorting by it keeps the kernel's order among those that
/// compete.
const fn place(route: &Route) -> (Family, u32, Prefix, u8, u32) {
    let Route { family, table, destination, tos, metric, .. } = route;
    (*family, *table, *destination, *tos, *metric)
}

/// The order of the snapshot's addresses: the kernel's, but for the order of links, families and
/// scopes, in which it has none that lasts.
const fn address_place(address: &Address) -> (Family, LinkIndex, bool) {
    (Family::of(address.prefix.address), address.link, address.link_local)
}

fn same_address(one: &Address, other: &Address) -> bool {
    one.link == other.link && one.prefix == other.prefix
}

fn is_own(route: &Route) -> bool {
    route.protocol == protocol::UPLINKD
}

fn has_foreign(routes: &[Route]) -> bool {
    routes.iter().any(|route| !is_own(route))
}

/// Whether a new route's message tells too little: of several hops each may come and go by itself,
/// and a router advertisement's route gets its hop limit after its message (`ndisc_router_discovery`
/// in net/ipv6/ndisc.c).
fn needs_look(route: &Route, group: &[Route]) -> bool {
    let several = |route: &Route| route.hops.len() > 1;
    several(route) || group.iter().any(several) || (route.protocol == protocol::RA && route.is_default())
}

/// Removes the routes that lead through no link that is up, and in IPv4 those of several hops of which
/// one's link is gone: the kernel keeps none (`fib_sync_down_dev` in net/ipv4/fib_semantics.c). Returns
/// whether there were any.
fn drop_dead_routes(snapshot: &mut Snapshot) -> bool {
    let links = &snapshot.links;
    let up = |index: &LinkIndex| links.get(index).is_some_and(|link| link.up);
    let before = snapshot.routes.len();
    let whole = |route: &Route| {
        route.family == Family::Ipv6 || route.hops.iter().all(|hop| links.contains_key(&hop.link))
    };
    let stays =
        |route: &Route| route.hops.is_empty() || (route.hops.iter().any(|hop| up(&hop.link)) && whole(route));
    snapshot.routes.retain(stays);
    snapshot.routes.len() != before
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use netlink_packet_core::{Emitable, NLM_F_CREATE};
    use netlink_packet_route::address::{AddressAttribute, AddressMessage};
    use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
    use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteNextHop, RouteType};
    use uplink_core::policy::{Match, Need, UplinkPolicy};
    use uplink_core::snapshot::Weight;

    use super::*;
    use crate::netlink::address_family;

    const ADD: u16 = NLM_F_CREATE;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A state with the links 1 and 2, up.
    fn state() -> State {
        let mut state = State::new(|_| None);
        state.set_policy(&naming("x?"));
        for index in [1, 2] {
            tell(&mut state, RTM_NEWLINK, 0, &link(index, true));
        }
        let _ = state.part();
        state
    }

    /// A policy that names an uplink by the names of its interface.
    fn naming(pattern: &str) -> Policy {
        let uplink = UplinkPolicy {
            name: "named".into(),
            matching: Match::Interface(pattern.into()),
            tier: 1,
            weight: Weight::ONE,
            gateways: Vec::new(),
            targets: Vec::new(),
            need: Need::Any,
            interval: Duration::from_secs(5),
        };
        Policy { uplinks: vec![uplink], ..Policy::default() }
    }

    fn tell(state: &mut State, kind: u16, flags: u16, message: &impl Emitable) -> Effect {
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        state.take(&Message::told(kind, flags, &payload)).unwrap()
    }

    fn link(index: u32, up: bool) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        message.attributes = vec![LinkAttribute::IfName(format!("x{index}"))];
        message
    }

    fn address(link: u32, address: &str) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = address_family(Family::of(ip(address)));
        message.header.prefix_len = 24;
        message.header.index = link;
        message.attributes = vec![AddressAttribute::Address(ip(address))];
        message
    }

    fn default_route(link: u32, gateway: &str, metric: u32) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family(Family::of(ip(gateway)));
        message.header.table = 254;
        message.header.protocol = protocol::STATIC.into();
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Oif(link),
            RouteAttribute::Gateway(ip(gateway).into()),
            RouteAttribute::Priority(metric),
        ];
        message
    }

    fn of_protocol(mut message: RouteMessage, protocol: u8) -> RouteMessage {
        message.header.protocol = protocol.into();
        message
    }

    fn kept(message: &RouteMessage) -> Kept {
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        route::decode(&payload).unwrap().unwrap()
    }

    /// The gateways of the routes, in their order.
    fn gateways(state: &State) -> Vec<String> {
        let hops = state.snapshot.routes.iter().flat_map(|route| &route.hops);
        hops.map(|hop| hop.gateway.unwrap().to_string()).collect()
    }

    #[test]
    fn routes_stand_by_metric_and_come_and_go_without_a_look() {
        for (one, other) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let mut state = state();
            let (worse, better) = (default_route(1, one, 200), default_route(2, other, 100));
            assert_eq!(tell(&mut state, RTM_NEWROUTE, ADD, &worse), Effect::CHANGED);
            assert_eq!(tell(&mut state, RTM_NEWROUTE, ADD, &better), Effect::CHANGED);
            assert_eq!(gateways(&state), [other, one]);
            assert_eq!(tell(&mut state, RTM_NEWROUTE, ADD, &better), Effect::NONE);
            assert_eq!(tell(&mut state, RTM_DELROUTE, 0, &better), Effect::CHANGED);
            assert_eq!(tell(&mut state, RTM_DELROUTE, 0, &better), Effect::NONE);
            assert_eq!(gateways(&state), [one]);
        }
    }

    #[test]
    fn equal_metrics_stand_as_the_kernel_puts_them() {
        let mut state = state();
        for (gateway, flags) in [("10.0.0.1", ADD), ("10.0.0.2", ADD), ("10.0.0.3", ADD | NLM_F_APPEND)] {
            tell(&mut state, RTM_NEWROUTE, flags, &default_route(1, gateway, 100));
        }
        assert_eq!(gateways(&state), ["10.0.0.2", "10.0.0.1", "10.0.0.3"]);
        let leg = default_route(1, "fd00::1", 100);
        assert_eq!(tell(&mut state, RTM_NEWROUTE, ADD, &leg), Effect::CHANGED);
        let leg = default_route(1, "fd00::2", 100);
        assert_eq!(tell(&mut state, RTM_NEWROUTE, ADD, &leg), Effect::LOOK);
        assert_eq!(tell(&mut state, RTM_DELROUTE, 0, &leg), Effect::LOOK);
    }

    #[test]
    fn a_replacement_replaces_the_only_one_or_needs_a_look() {
        let mut state = state();
        let replace = NLM_F_REPLACE;
        let (one, two, three) = (
            default_route(1, "10.0.0.1", 100),
            default_route(1, "10.0.0.2", 100),
            default_route(1, "10.0.0.3", 100),
        );
        assert_eq!(tell(&mut state, RTM_NEWROUTE, replace, &one), Effect::CHANGED);
        assert_eq!(tell(&mut state, RTM_NEWROUTE, replace, &two), Effect::CHANGED);
        assert_eq!(tell(&mut state, RTM_NEWROUTE, replace, &two), Effect::NONE);
        assert_eq!(gateways(&state), ["10.0.0.2"]);
        tell(&mut state, RTM_NEWROUTE, ADD, &one);
        assert_eq!(tell(&mut state, RTM_NEWROUTE, replace, &three), Effect::LOOK);
    }

    #[test]
    fn foreign_default_routes_in_other_tables_are_not_kept_unless_they_displace_ours() {
        let mut state = state();
        let elsewhere = |gateway| {
            let mut route = default_route(1, gateway, 1);
            route.header.table = 100;
            route
        };
        let theirs = elsewhere("10.0.0.1");
        assert_eq!(tell(&mut state, RTM_NEWROUTE, ADD, &theirs), Effect::NONE);
        assert_eq!(tell(&mut state, RTM_DELROUTE, 0, &theirs), Effect::NONE);
        assert!(kept(&theirs).is_elsewhere());
        let ours = of_protocol(elsewhere("10.0.0.2"), protocol::UPLINKD);
        assert_eq!(tell(&mut state, RTM_NEWROUTE, ADD, &ours), Effect::CHANGED);
        assert_eq!(gateways(&state), ["10.0.0.2"]);
        assert_eq!(tell(&mut state, RTM_NEWROUTE, NLM_F_REPLACE, &theirs), Effect::LOOK);
    }

    #[test]
    fn several_hops_and_router_advertisements_need_a_look() {
        let mut state = state();
        let mut several = default_route(1, "10.0.0.1", 9);
        let mut hop = RouteNextHop::default();
        hop.interface_index = 1;
        several.attributes[0] = RouteAttribute::MultiPath(vec![hop.clone(), hop]);
        assert!(tell(&mut state, RTM_NEWROUTE, ADD, &several).look);
        assert!(tell(&mut state, RTM_DELROUTE, 0, &several).look);
        let advertised = of_protocol(default_route(1, "fe80::1", 1024), protocol::RA);
        assert!(tell(&mut state, RTM_NEWROUTE, ADD, &advertised).look);
    }

    #[test]
    fn a_link_that_goes_down_takes_its_routes_with_it_at_once() {
        let mut state = state();
        tell(&mut state, RTM_NEWROUTE, ADD, &default_route(1, "10.0.0.1", 1));
        tell(&mut state, RTM_NEWROUTE, ADD, &default_route(2, "10.0.0.2", 2));
        let gone = Effect { changed: true, look: true, ..Effect::NONE };
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &link(1, false)), gone);
        assert_eq!(gateways(&state), ["10.0.0.2"]);
        // Told late, after a look that already knew the link to be down.
        tell(&mut state, RTM_NEWROUTE, ADD, &default_route(1, "10.0.0.1", 1));
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &link(1, false)), gone);
        assert_eq!(tell(&mut state, RTM_DELLINK, 0, &link(2, true)), gone);
        assert!(gateways(&state).is_empty());
    }

    #[test]
    fn links_without_routes_never_need_a_look() {
        let mut state = state();
        tell(&mut state, RTM_NEWROUTE, ADD, &default_route(1, "10.0.0.1", 1));
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &link(3, false)), Effect::CHANGED);
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &link(3, true)), Effect::CHANGED);
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &link(3, true)), Effect::NONE);
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &link(3, false)), Effect::CHANGED);
        assert_eq!(tell(&mut state, RTM_DELLINK, 0, &link(3, false)), Effect::CHANGED);
        assert_eq!(tell(&mut state, RTM_DELLINK, 0, &link(3, false)), Effect::NONE);
    }

    #[test]
    fn who_is_no_uplink_and_has_no_route_changes_nothing() {
        let mut state = state();
        state.set_policy(&Policy::default());
        tell(&mut state, RTM_NEWROUTE, ADD, &default_route(1, "10.0.0.1", 1));
        let mut pod = link(3, true);
        for message in [&link(3, false), &pod] {
            assert_eq!(tell(&mut state, RTM_NEWLINK, 0, message), Effect::NONE);
        }
        assert_eq!(tell(&mut state, RTM_NEWADDR, 0, &address(3, "fe80::3")), Effect::NONE);
        let known: Vec<u32> = state.part().links.keys().map(|index| index.0).collect();
        assert_eq!(known, [1, 2], "what mattered once does until it is gone");
        // A route may prefer it as its source.
        assert_eq!(tell(&mut state, RTM_NEWADDR, 0, &address(3, "10.0.3.3")), Effect::CHANGED);
        // What an uplink is enslaved to is one.
        let mut port = link(1, true);
        port.attributes.push(LinkAttribute::Controller(3));
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &port), Effect::CHANGED);
        assert!(state.part().links.contains_key(&LinkIndex(3)));
        pod.attributes.push(LinkAttribute::Controller(4));
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &pod), Effect::CHANGED);
        let _ = state.part();
        assert_eq!(
            tell(&mut state, RTM_NEWLINK, 0, &link(4, false)),
            Effect::CHANGED,
            "even if it comes late"
        );
        // So is what a default route leads through.
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &link(5, true)), Effect::NONE);
        assert_eq!(tell(&mut state, RTM_NEWROUTE, ADD, &default_route(5, "10.0.0.5", 5)), Effect::CHANGED);
        assert!(state.part().links.contains_key(&LinkIndex(5)));
        assert_eq!(tell(&mut state, RTM_DELLINK, 0, &link(5, true)), Effect::CHANGED.and(Effect::LOOK));
    }

    #[test]
    fn an_address_that_goes_needs_a_look_only_where_routes_are() {
        let mut state = state();
        let mut preferring = default_route(1, "10.0.0.1", 1);
        preferring.attributes.push(RouteAttribute::PrefSource(ip("10.0.3.3").into()));
        tell(&mut state, RTM_NEWROUTE, ADD, &preferring);
        for (link, text, look) in [(1, "10.0.0.9", true), (2, "10.0.2.2", false), (2, "10.0.3.3", true)] {
            let address = address(link, text);
            assert_eq!(tell(&mut state, RTM_NEWADDR, 0, &address), Effect::CHANGED);
            assert_eq!(tell(&mut state, RTM_NEWADDR, 0, &address), Effect::NONE);
            assert_eq!(
                tell(&mut state, RTM_DELADDR, 0, &address),
                Effect { changed: true, look, ..Effect::NONE }
            );
        }
        assert!(state.snapshot.addresses.is_empty());
    }

    #[test]
    fn only_next_hop_objects_in_use_need_a_look() {
        let mut state = state();
        let mut by_object = default_route(1, "10.0.0.1", 1);
        by_object.attributes.push(RouteAttribute::NhId(7));
        tell(&mut state, RTM_NEWROUTE, ADD, &by_object);
        let mut changed = |id: u8| {
            let payload = [[0; 8].as_slice(), &[8, 0, 1, 0], &u32::from(id).to_ne_bytes()].concat();
            state.take(&Message::told(RTM_DELNEXTHOP, 0, &payload)).unwrap()
        };
        assert_eq!(changed(7), Effect::LOOK);
        assert_eq!(changed(8), Effect::NONE);
    }

    #[test]
    fn next_hop_objects_that_vanished_unheard_are_forgotten_by_a_look() {
        let mut state = state();
        let looks = (1..=3 * 1024_u32).filter(|id| {
            let mut by_object = default_route(1, "10.0.0.1", 1);
            by_object.attributes.push(RouteAttribute::NhId(*id));
            let effect = tell(&mut state, RTM_NEWROUTE, ADD, &by_object);
            tell(&mut state, RTM_DELROUTE, 0, &by_object);
            effect.look
        });
        assert_eq!(looks.count(), 3);
    }

    #[test]
    fn own_routes_are_replaced_and_foreign_ones_stay() {
        let mut state = state();
        let own = |gateway, metric| of_protocol(default_route(1, gateway, metric), protocol::UPLINKD);
        tell(&mut state, RTM_NEWROUTE, ADD, &default_route(2, "10.0.0.2", 100));
        tell(&mut state, RTM_NEWROUTE, ADD, &own("10.0.0.1", 98));
        assert_eq!(state.replace_own(vec![kept(&own("10.0.0.1", 98))]), Effect::NONE);
        assert_eq!(state.replace_own(vec![kept(&own("10.0.0.3", 99))]), Effect::CHANGED);
        assert_eq!(gateways(&state), ["10.0.0.3", "10.0.0.2"]);
        assert!(state.replace_own(vec![kept(&own("10.0.0.3", 100))]).look);
        assert_eq!(state.replace_own(Vec::new()), Effect::CHANGED);
        assert_eq!(gateways(&state), ["10.0.0.2"]);
    }

    #[test]
    fn what_was_laid_for_a_while_is_gone_when_that_is_over() {
        let laid = |expires| {
            let mut advertised = of_protocol(default_route(1, "fe80::1", 1024), protocol::RA);
            advertised.attributes.push(route::ends_in(expires));
            advertised
        };
        let read =
            |state: &mut State, expires| state.replace_routes(Family::Ipv6, vec![kept(&laid(expires))]);
        let mut state = state();
        let ipv4 = default_route(1, "10.0.0.1", 100);
        tell(&mut state, RTM_NEWROUTE, ADD, &ipv4);
        tell(&mut state, RTM_NEWROUTE, ADD, &laid(300));
        assert_eq!(state.take_end(), Some(Duration::from_secs(3)));
        assert_eq!(state.take_end(), None, "it is told once");
        assert!(!read(&mut state, 900));
        assert_eq!(state.take_end(), Some(Duration::from_secs(9)));
        assert!(read(&mut state, -1));
        assert_eq!(gateways(&state), ["10.0.0.1"]);
        assert_eq!(state.take_end(), Some(REVIVED_WITHIN));
        // The kernel deletes it a while later.
        assert_eq!(tell(&mut state, RTM_DELROUTE, 0, &laid(-900)), Effect::NONE);
    }

    #[test]
    fn a_pci_function_is_looked_up_when_its_link_is_new_or_renamed() {
        let identify = |name: &str| {
            (name == "x5").then(|| PciPort {
                address: "0000:03:00.0".parse().unwrap(),
                vendor: 0x15b3,
                device: 0xa2dc,
                class: 0x02_0000,
                virtual_function: false,
                port_name: Some("p0".into()),
            })
        };
        let mut state = State::new(identify);
        state.set_policy(&naming("?*"));
        let appeared = Effect { changed: true, ports: true, ..Effect::NONE };
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &link(5, true)), appeared);
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &link(5, false)), Effect::CHANGED);
        let mut renamed = link(5, false);
        renamed.attributes = vec![LinkAttribute::IfName("y".into())];
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &renamed), appeared);
        assert_eq!(tell(&mut state, RTM_NEWLINK, 0, &link(6, true)), Effect::CHANGED);
    }

    #[test]
    fn what_is_read_takes_the_place_of_what_was_known() {
        let mut state = state();
        tell(&mut state, RTM_NEWROUTE, ADD, &default_route(1, "10.0.0.1", 1));
        let links: Vec<_> = state.snapshot.links.values().cloned().collect();
        let read = |routes: Vec<RouteMessage>| Read {
            links: links.clone(),
            addresses: Vec::new(),
            routes: routes.iter().map(kept).collect(),
            rules: Vec::new(),
            dpu_ports: Vec::new(),
            rp_filter: 0,
            tracking: Tracking::default(),
        };
        assert!(!state.replace(read(vec![default_route(1, "10.0.0.1", 1)])));
        // The last one leads through a link that does not exist: the kernel is about to drop it.
        assert!(state.replace(read(vec![
            default_route(2, "10.0.0.2", 2),
            default_route(1, "10.0.0.3", 1),
            default_route(9, "10.0.0.9", 1),
        ])));
        assert_eq!(gateways(&state), ["10.0.0.3", "10.0.0.2"]);
    }
}
