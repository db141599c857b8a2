//! Default routes of equal metrics on all uplinks, as netplan lays them. IPv6 makes one route of them.

use uplink_core::snapshot::{Attributes, Family, Hop, LinkIndex, Route, protocol};
use uplink_core::status::Aside;

use crate::sim::bench::Bench;
use crate::sim::secs;
use crate::sim::site::{
    BOARD, MGMT, PORT, addresses, default_route, gateway, plain_default, second_gateway, worker,
};
use crate::sim::world::Gateway;

/// Each link's default routes, of one metric and protocol, laid one by one.
fn tied(bench: &mut Bench, metric: u32, protocol: u8) {
    bench.forget_routes(Route::is_default);
    for link in [MGMT, PORT] {
        for family in Family::ALL {
            lay(bench, link, family, metric, protocol);
        }
    }
}

fn lay(bench: &mut Bench, link: LinkIndex, family: Family, metric: u32, protocol: u8) {
    let route = Route { metric, protocol, ..default_route(link, family) };
    bench.kernel.append_route(route).expect("it is laid");
}

#[test]
fn the_port_is_taken_and_its_rival_when_it_is_silent() {
    for protocol in [protocol::DHCP, protocol::STATIC, protocol::RA] {
        for metric in [0, 100, 1024] {
            let mut bench = worker();
            tied(&mut bench, metric, protocol);
            let foreign = bench.kernel.foreign();
            bench.start();
            bench.run(secs(5));
            bench.assert_way(PORT);
            bench.silence(PORT);
            bench.run(secs(5));
            bench.assert_way(MGMT);
            bench.revive(PORT);
            bench.run(secs(60));
            bench.assert_way(PORT);
            bench.stop();
            assert_eq!(bench.kernel.foreign(), foreign);
            assert!(!bench.kernel.has_ours());
        }
    }
}

#[test]
fn a_leg_that_is_renewed_moves_nothing() {
    let mut bench = worker();
    tied(&mut bench, 100, protocol::STATIC);
    bench.start();
    bench.run(secs(5));
    for link in [PORT, MGMT] {
        let writes = bench.pin_writes();
        bench.defaults_go(link);
        bench.run(secs(1));
        bench.assert_way(PORT);
        for family in Family::ALL {
            lay(&mut bench, link, family, 100, protocol::STATIC);
        }
        bench.run(secs(5));
        bench.assert_way(PORT);
        assert_eq!(bench.pin_writes(), writes, "{:#?}", bench.operations);
    }
    bench.assert_never_moved();
}

#[test]
fn the_first_legs_preferred_source_is_not_the_others() {
    let mut bench = worker();
    tied(&mut bench, 100, protocol::STATIC);
    bench.forget_routes(|route| route.is_default() && route.family == Family::Ipv6);
    for link in [MGMT, PORT] {
        let own = addresses(link, Family::Ipv6).pop().expect("it has one").prefix.address;
        let attributes = Attributes { source: Some(own), ..Attributes::default() };
        let route = Route {
            metric: 100,
            protocol: protocol::STATIC,
            attributes,
            ..default_route(link, Family::Ipv6)
        };
        bench.kernel.append_route(route).expect("it is laid");
    }
    bench.start();
    bench.run(secs(5));
    bench.assert_way(PORT);
    let pins = bench.kernel.pins(Family::Ipv6);
    assert_eq!(pins.iter().map(|pin| pin.attributes().source).collect::<Vec<_>>(), [None]);
}

#[test]
fn two_routers_of_each_uplink_tie_as_well() {
    let mut bench = worker();
    bench.forget_routes(|route| route.is_default() && route.family == Family::Ipv6);
    for link in [MGMT, PORT] {
        for gateway in [gateway, second_gateway].map(|of| of(link, Family::Ipv6)) {
            bench.world.gateways.insert((link, gateway), Gateway::well());
            let hops = vec![Hop { link, gateway: Some(gateway) }];
            let route = Route { metric: 100, protocol: protocol::DHCP, hops, ..plain_default(Family::Ipv6) };
            bench.kernel.append_route(route).expect("it is laid");
        }
    }
    bench.start();
    bench.run(secs(5));
    assert_eq!(bench.family(Family::Ipv6).aside, None);
    bench.assert_way(PORT);
    bench.world.gateways.insert((PORT, gateway(PORT, Family::Ipv6)), Gateway::silent());
    bench.run(secs(5));
    let hop = Hop { link: PORT, gateway: Some(second_gateway(PORT, Family::Ipv6)) };
    assert_eq!(bench.kernel.default_way(Family::Ipv6), Ok(hop));
}

#[test]
fn it_is_left_alone_where_somebody_may_have_meant_it() {
    let aside = |bench: &mut Bench| {
        bench.start();
        bench.run(secs(5));
        assert_eq!(bench.kernel.pins(Family::Ipv6), Vec::new());
        assert_eq!(bench.family(Family::Ipv6).aside, Some(Aside::Multipath));
    };
    // Laid by hand, or by a routing daemon.
    let mut bench = worker();
    tied(&mut bench, 100, protocol::BOOT);
    aside(&mut bench);
    // Two routers of one uplink; and a next-hop object of both uplinks.
    for (other, by_object) in [(MGMT, false), (PORT, true)] {
        let mut bench = worker();
        tied(&mut bench, 100, protocol::STATIC);
        bench.forget_routes(|route| route.is_default() && route.family == Family::Ipv6);
        let hops = [MGMT, other].map(|link| default_route(link, Family::Ipv6).hops).concat();
        let laid = Route { metric: 100, hops, by_object, ..plain_default(Family::Ipv6) };
        bench.kernel.append_route(laid).expect("it is laid");
        aside(&mut bench);
    }
    // No uplink is preferred to another.
    let mut bench = Bench::new(1);
    for (link, name) in [(PORT, "eth0"), (MGMT, BOARD)] {
        bench.plug(link, name);
        bench.lease(link);
    }
    tied(&mut bench, 100, protocol::STATIC);
    aside(&mut bench);
}
