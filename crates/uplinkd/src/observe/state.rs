//! The snapshot, and what each message makes of it. Without I/O, but for the identity of new links.

use std::collections::BTreeSet;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_REPLACE};
use nix::libc::{
    RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_DELRULE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTM_NEWRULE,
};
use uplink_core::snapshot::{
    Address, Family, Link, LinkIndex, PciPort, Prefix, Route, Rule, Snapshot, protocol,
};

use super::{address, link, route, route::Kept};
use crate::netlink::{Malformed, Message, attributes, number};

/// Messages about next-hop objects (`linux/rtnetlink.h`).
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// The number of a next-hop object (`NHA_ID`, `linux/nexthop.h`).
const NHA_ID: u16 = 1;

/// What a message, or several, did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// The snapshot differs.
    pub(super) changed: bool,
    /// Routes may have changed without a message: read everything again.
    pub(super) look: bool,
    /// A rule came or went: read the rules again.
    pub(super) rules: bool,
    /// A PCI function got or lost its interface: read the bus again.
    pub(super) ports: bool,
}

impl Effect {
    const NONE: Self = Self { changed: false, look: false, rules: false, ports: false };
    const CHANGED: Self = Self { changed: true, ..Self::NONE };
    pub(super) const LOOK: Self = Self { look: true, ..Self::NONE };
    const RULES: Self = Self { rules: true, ..Self::NONE };

    /// Both.
    pub(super) const fn and(self, other: Self) -> Self {
        Self {
            changed: self.changed || other.changed,
            look: self.look || other.look,
            rules: self.rules || other.rules,
            ports: self.ports || other.ports,
        }
    }
}

/// What the kernel was seen to hold.
pub(super) struct State {
    snapshot: Snapshot,
    /// Next-hop objects that kept routes lead to, or led to since everything was read.
    nexthops: BTreeSet<u32>,
    /// Finds the PCI function behind an interface of this name.
    identify: fn(&str) -> Option<PciPort>,
}

impl State {
    /// Nothing yet.
    pub(super) fn new(identify: fn(&str) -> Option<PciPort>) -> Self {
        Self { snapshot: Snapshot::default(), nexthops: BTreeSet::new(), identify }
    }

    /// What is known now.
    pub(super) const fn snapshot(&self) -> &Snapshot {
        &self.snapshot
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
            RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Some(self.nexthop_changed(payload)?),
            _ => None,
        }
        .unwrap_or_default())
    }

    /// Puts everything that was read in the place of what was known. Returns whether that differs.
    pub(super) fn replace(&mut self, read: Read) -> bool {
        let Read { links, mut addresses, routes, rules, dpu_ports } = read;
        self.nexthops = routes.iter().filter_map(|kept| kept.nexthop).collect();
        let mut routes: Vec<_> = routes.into_iter().map(|kept| kept.route).collect();
        addresses.sort_by_key(address_place);
        routes.sort_by_key(place);
        let links = links.into_iter().map(|link| (link.index, self.identified(link))).collect();
        let mut snapshot = Snapshot { links, addresses, routes, rules, dpu_ports };
        drop_dead_routes(&mut snapshot);
        let differs = snapshot != self.snapshot;
        self.snapshot = snapshot;
        differs
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

    /// The link with the PCI function behind it, which is looked up only if it is new or renamed.
    fn identified(&self, link: Link) -> Link {
        let known = self.snapshot.links.get(&link.index);
        let pci = match known {
            Some(known) if known.name == link.name => known.pci.clone(),
            Some(_) | None => (self.identify)(&link.name),
        };
        Link { pci, ..link }
    }

    fn set_link(&mut self, link: Link) -> Effect {
        let link = self.identified(link);
        let (index, up, pci) = (link.index, link.up, link.pci.clone());
        let known = self.snapshot.links.get(&index);
        if known == Some(&link) && up {
            return Effect::NONE;
        }
        let effect = Effect {
            changed: known != Some(&link),
            ports: known.and_then(|known| known.pci.as_ref()) != pci.as_ref(),
            ..Effect::NONE
        };
        self.snapshot.links.insert(index, link);
        if up { effect } else { effect.and(self.drop_dead_routes()) }
    }

    fn remove_link(&mut self, index: LinkIndex) -> Effect {
        let Some(link) = self.snapshot.links.remove(&index) else {
            return Effect::NONE;
        };
        self.snapshot.addresses.retain(|a| a.link != index);
        let effect = Effect { changed: true, ports: link.pci.is_some(), ..Effect::NONE };
        effect.and(self.drop_dead_routes())
    }

    fn set_address(&mut self, address: Address) -> Effect {
        let addresses = &mut self.snapshot.addresses;
        match addresses.iter_mut().find(|a| same_address(a, &address)) {
            Some(known) if *known == address => Effect::NONE,
            Some(known) => {
                *known = address;
                Effect::CHANGED
            }
            None => {
                let place = address_place(&address);
                let at = addresses.partition_point(|a| address_place(a) <= place);
                addresses.insert(at, address);
                Effect::CHANGED
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
            changed: self.snapshot.addresses.len() != before,
            look: self.snapshot.routes.iter().any(touched),
            ..Effect::NONE
        }
    }

    /// Follows what the kernel does with a new route: `fib_table_insert` (net/ipv4/fib_trie.c) and
    /// `fib6_add_rt2node` (net/ipv6/ip6_fib.c). Where that is not certain, everything is read again.
    fn add_route(&mut self, kept: Kept, flags: u16) -> Effect {
        let Kept { route, nexthop } = kept;
        self.nexthops.extend(nexthop);
        let (start, end) = self.group(&route);
        let group = self.snapshot.routes.get(start..end).unwrap_or_default();
        let known = group.contains(&route);
        if known && (flags & NLM_F_REPLACE == 0 || group.len() == 1) {
            return Effect::NONE;
        }
        let effect = Effect { changed: true, look: needs_look(&route, group), ..Effect::NONE };
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

/// Removes the routes that lead through no link that is up: the kernel keeps none. Returns whether
/// there were any.
fn drop_dead_routes(snapshot: &mut Snapshot) -> bool {
    let links = &snapshot.links;
    let up = |index: &LinkIndex| links.get(index).is_some_and(|link| link.up);
    let before = snapshot.routes.len();
    snapshot.routes.retain(|route| route.hops.is_empty() || route.hops.iter().any(|hop| up(&hop.link)));
    snapshot.routes.len() != before
}
