//! Other programs that manage the same tables: DHCP clients, network managers, administrators.

use std::net::IpAddr;

use uplink_core::event::Input;
use uplink_core::lease::{Holder, Lease};
use uplink_core::own::PRIORITY_PIN;
use uplink_core::snapshot::{
    Address, Family, Hop, Link, LinkIndex, LinkKind, Mark, Prefix, Route, RouteKind, Rule, TABLE_MAIN,
    Weight, protocol,
};
use uplink_core::undone::{Program, Undoing, Undone};

use super::bench::Bench;
use super::site::{addresses, default_route, gateway, link, plain_default, second_gateway};
use super::world::Gateway;

/// The tunnel of a VPN.
const TUNNEL: LinkIndex = LinkIndex(9);
/// The table of a VPN that has its own.
const VPN_TABLE: u32 = 51_820;
/// The first interface of a pod.
const FIRST_POD: u32 = 100;

/// How a VPN takes the traffic.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Vpn {
    /// By rules of this preference, or of the one that the kernel gives.
    Rules(Option<u32>),
    /// By a default route in the main table.
    Main(u32),
}

impl Bench {
    /// Addresses and default routes of a link come, as from DHCP and router advertisements.
    pub(crate) fn lease(&mut self, link: LinkIndex) {
        self.addresses_come(link);
        self.defaults_come(link);
    }

    /// The addresses of a link come.
    pub(crate) fn addresses_come(&mut self, link: LinkIndex) {
        for address in Family::ALL.into_iter().flat_map(|family| addresses(link, family)) {
            self.kernel.add_address(address);
        }
    }

    /// The addresses of a link go, and what hung on them.
    pub(crate) fn addresses_go(&mut self, link: LinkIndex) {
        let own = self.kernel.addresses.iter().filter(|address| address.link == link);
        for address in own.cloned().collect::<Vec<Address>>() {
            self.kernel.remove_address(&address);
        }
    }

    /// The DHCP server gives other addresses; everything is laid anew with them.
    pub(crate) fn readdress(&mut self, link: LinkIndex) {
        self.addresses_go(link);
        for mut address in Family::ALL.into_iter().flat_map(|family| addresses(link, family)) {
            address.prefix.address = match address.prefix.address {
                IpAddr::V4(own) => IpAddr::from(own.to_bits().wrapping_add(1).to_be_bytes()),
                IpAddr::V6(own) => IpAddr::from(own.to_bits().wrapping_add(1).to_be_bytes()),
            };
            self.kernel.add_address(address);
        }
        self.defaults_come(link);
    }

    /// The interface gets another name.
    pub(crate) fn rename(&mut self, link: LinkIndex, name: &str) {
        self.kernel.links.get_mut(&link).expect("it is there").name = name.to_owned();
        self.kernel.changes += 1;
    }

    /// The DHCP client writes down the link's gateway, or forgets it.
    pub(crate) fn write_lease(&mut self, link: LinkIndex, held: bool) {
        let interface = Holder::Index(link);
        self.kernel.leases.held.retain(|lease| lease.interface != interface);
        if let (true, [own], IpAddr::V4(router)) =
            (held, addresses(link, Family::Ipv4).as_slice(), gateway(link, Family::Ipv4))
            && let IpAddr::V4(address) = own.prefix.address
        {
            self.kernel.leases.held.push(Lease { interface, address, routers: vec![router] });
        }
        self.kernel.changes += 1;
    }

    /// The default routes of a link come; a manager does not mind if they are there, or cannot be.
    pub(crate) fn defaults_come(&mut self, link: LinkIndex) {
        for family in Family::ALL {
            let _ = self.kernel.add_route(default_route(link, family));
        }
    }

    /// The default routes of a link go, whoever laid them.
    pub(crate) fn defaults_go(&mut self, link: LinkIndex) {
        self.forget_routes(|route| route.is_default() && leads(route, link));
    }

    /// The link's default route moves to another metric: the new one first, as networkd does.
    pub(crate) fn remetric(&mut self, link: LinkIndex, family: Family, metric: u32) {
        let old: Vec<Route> = self.kernel.routes.clone();
        let new = Route { metric, ..default_route(link, family) };
        if !old.contains(&new) && self.kernel.append_route(new).is_ok() {
            self.forget_routes(|route| {
                route.family == family && route.is_default() && leads(route, link) && old.contains(route)
            });
        }
    }

    /// NetworkManager finds no connectivity behind the link, or finds it again: the metrics of its default
    /// routes are 20,000 higher, or not.
    pub(crate) fn demote(&mut self, link: LinkIndex, demoted: bool) {
        for family in Family::ALL {
            let usual = default_route(link, family).metric;
            self.remetric(link, family, if demoted { usual + 20_000 } else { usual });
        }
    }

    /// networkd starts anew and removes what it did not lay: routes, and rules that are not the kernel's.
    pub(crate) fn purge(&mut self) {
        let kernel = &mut self.kernel;
        kernel.routes.retain(|route| matches!(route.protocol, protocol::DHCP | protocol::RA));
        kernel.rules.retain(|rule| rule.protocol == protocol::KERNEL);
        kernel.changes += 1;
    }

    /// The link's default route leads to its second gateway.
    pub(crate) fn regateway(&mut self, link: LinkIndex, family: Family, gateway: Gateway) {
        let other = second_gateway(link, family);
        self.world.gateways.insert((link, other), gateway);
        let hops = vec![Hop { link, gateway: Some(other) }];
        let route = Route { hops, ..default_route(link, family) };
        let _ = self.kernel.replace_route(route);
    }

    /// Somebody deletes the best default route of others.
    pub(crate) fn best_default_goes(&mut self, family: Family) {
        let of_main = |route: &&Route| {
            let foreign = route.protocol != protocol::UPLINKD;
            foreign && route.family == family && route.table == TABLE_MAIN && route.is_default()
        };
        let best = self.kernel.routes.iter().filter(of_main).min_by_key(|route| route.metric).cloned();
        self.forget_routes(|route| best.as_ref() == Some(route));
    }

    /// A CNI has so many pods: an interface each, a route to the pod, and a default route in a table of
    /// its own.
    pub(crate) fn pods(&mut self, count: u32) {
        let others: Vec<LinkIndex> =
            self.kernel.links.keys().copied().filter(|index| index.0 >= FIRST_POD).collect();
        for index in others.into_iter().filter(|index| index.0 >= FIRST_POD + count) {
            self.kernel.remove_link(index);
        }
        for number in 0..count {
            let index = LinkIndex(FIRST_POD + number);
            self.kernel.links.entry(index).or_insert_with(|| link(index, &format!("cali{number}")));
            let pod = Prefix::host(IpAddr::from((0x0af4_0000 | number).to_be_bytes()));
            let hops = vec![Hop { link: index, gateway: None }];
            let route = Route { hops, ..plain_default(Family::Ipv4) };
            let _ = self.kernel.add_route(Route { destination: pod, ..route.clone() });
            let _ = self.kernel.add_route(Route { table: 1000 + number, ..route });
            self.kernel.changes += 1;
        }
    }

    /// A VPN comes up, with a default route and rules for it, or in `main`.
    pub(crate) fn vpn(&mut self, vpn: Vpn) {
        self.vpn_goes();
        self.kernel.links.insert(TUNNEL, Link { kind: LinkKind::Tunnel, ..link(TUNNEL, "wg0") });
        self.kernel.changes += 1;
        for family in Family::ALL {
            let hops = vec![Hop { link: TUNNEL, gateway: None }];
            let route = Route { hops, ..plain_default(family) };
            let (table, metric) = match vpn {
                Vpn::Rules(_) => (VPN_TABLE, 0),
                Vpn::Main(metric) => (TABLE_MAIN, metric),
            };
            let _ = self.kernel.add_route(Route { table, metric, ..route });
            let Vpn::Rules(priority) = vpn else { continue };
            // The second comes before the first.
            for (before, table, suppress) in [(0, VPN_TABLE, None), (1, TABLE_MAIN, Some(0))] {
                let given = priority.map(|priority| priority - before);
                let priority = given.unwrap_or_else(|| self.kernel.next_priority(family));
                let rule = Rule { suppress_prefix_length: suppress, ..lookup(family, priority, table) };
                let _ = self.kernel.add_rule(rule);
            }
        }
    }

    /// The VPN goes down.
    pub(crate) fn vpn_goes(&mut self) {
        self.kernel.remove_link(TUNNEL);
        self.kernel.rules.retain(|rule| rule.protocol != protocol::STATIC);
        self.kernel.changes += 1;
    }

    /// The router says that it is a default router no longer (lifetime 0).
    pub(crate) fn router_withdraws(&mut self, link: LinkIndex) {
        self.forget_routes(|route| route.protocol == protocol::RA && leads(route, link));
    }

    /// The interface goes down; what was on its way is lost.
    pub(crate) fn down(&mut self, link: LinkIndex) {
        self.kernel.set_up(link, false);
    }

    /// The interface comes up and is configured again.
    pub(crate) fn up(&mut self, link: LinkIndex) {
        self.kernel.set_up(link, true);
        if self.kernel.links.contains_key(&link) {
            self.lease(link);
        }
    }

    /// Somebody lays a default route that refuses packets.
    pub(crate) fn refuse(&mut self, family: Family, metric: u32) {
        let _ = self.kernel.add_route(Route { metric, kind: RouteKind::Refused, ..plain_default(family) });
    }

    /// Somebody lays a default route that we cannot read: encapsulated, or by a next-hop object.
    pub(crate) fn opaque(&mut self, family: Family, metric: u32) {
        let _ = self.kernel.add_route(Route { metric, kind: RouteKind::Other, ..plain_default(family) });
    }

    /// Somebody lays a default route over several hops.
    pub(crate) fn multipath(&mut self, family: Family, metric: u32, links: &[LinkIndex]) {
        let hops = links.iter().flat_map(|link| default_route(*link, family).hops).collect();
        let weights = vec![Weight::ONE; links.len()];
        let _ = self.kernel.add_route(Route { metric, hops, weights, ..plain_default(family) });
    }

    /// Somebody lays a default route straight out of an interface.
    pub(crate) fn link_default(&mut self, family: Family, metric: u32, link: LinkIndex) {
        let hops = vec![Hop { link, gateway: None }];
        let _ = self.kernel.add_route(Route { metric, hops, ..plain_default(family) });
    }

    /// Somebody removes an administrator's default routes.
    pub(crate) fn admin_defaults_go(&mut self) {
        self.forget_routes(|route| route.is_default() && route.protocol == protocol::STATIC);
    }

    /// Somebody deletes our pins.
    pub(crate) fn pins_go(&mut self) {
        let ours = |route: &Route| route.protocol == protocol::UPLINKD;
        let before = self.kernel.routes.len();
        self.kernel.routes.retain(|route| !ours(route));
        self.kernel.changes += u64::from(before != self.kernel.routes.len());
    }

    /// Somebody flushes nftables, or adds a rule to our tables.
    pub(crate) fn marks_go(&mut self, whole: bool) {
        match whole {
            true => self.kernel.tables.clear(),
            false => self.kernel.tables.iter_mut().for_each(|table| table.intact = false),
        }
        self.kernel.changes += 1;
    }

    /// Somebody deletes the rules of ours that are not the pin's.
    pub(crate) fn path_rules_go(&mut self) {
        self.kernel.rules.retain(|rule| rule.protocol != protocol::UPLINKD || rule.priority == PRIORITY_PIN);
        self.kernel.changes += 1;
    }

    /// Somebody else leads packets with this mark to a table of his own.
    pub(crate) fn routes_by_mark(&mut self, family: Family, mark: Mark) {
        self.kernel.rules.insert(0, by_mark(family, mark));
        self.kernel.changes += 1;
    }

    /// Nobody else does.
    pub(crate) fn nobody_routes_by_mark(&mut self) {
        self.kernel.rules.retain(|rule| rule.protocol == protocol::UPLINKD || rule.mark.is_none());
        self.kernel.changes += 1;
    }

    /// The observer tells who undid the pin, if it can name that program.
    pub(crate) fn undone_by(&mut self, family: Family, name: Option<&str>) {
        self.undone_so(family, Undoing::DeletesPin { table: TABLE_MAIN }, name);
    }

    /// The observer tells who undid what of ours.
    pub(crate) fn undone_so(&mut self, family: Family, how: Undoing, name: Option<&str>) {
        let by = Program { process: 4711, name: name.map(str::to_owned) };
        self.arrive(Input::Undone(Undone { family, how, by }));
    }

    /// Removes foreign routes.
    pub(crate) fn forget_routes(&mut self, gone: impl Fn(&Route) -> bool) {
        let before = self.kernel.routes.len();
        self.kernel.routes.retain(|route| route.protocol == protocol::UPLINKD || !gone(route));
        self.kernel.changes += u64::from(before != self.kernel.routes.len());
    }
}

fn leads(route: &Route, link: LinkIndex) -> bool {
    route.hops.iter().any(|hop| hop.link == link)
}

/// A rule of others that looks at packets' marks.
pub(crate) fn by_mark(family: Family, mark: Mark) -> Rule {
    Rule { mark: Some(mark), ..lookup(family, 9, 2004) }
}

fn lookup(family: Family, priority: u32, table: u32) -> Rule {
    Rule {
        family,
        priority,
        protocol: protocol::STATIC,
        table: Some(table),
        goto: None,
        from: None,
        to: None,
        mark: None,
        suppress_prefix_length: None,
        more: false,
    }
}
