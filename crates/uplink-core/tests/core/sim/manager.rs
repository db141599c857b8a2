//! Other programs that manage the same tables: DHCP clients, network managers, administrators.

use std::net::IpAddr;

use uplink_core::lease::{Holder, Lease};
use uplink_core::snapshot::{Family, Hop, LinkIndex, Route, RouteKind, Weight, protocol};

use super::bench::Bench;
use super::site::{addresses, default_route, gateway, plain_default};

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
        for address in Family::ALL.into_iter().flat_map(|family| addresses(link, family)) {
            self.kernel.remove_address(&address);
        }
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
