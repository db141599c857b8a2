//! Other programs that lay and withdraw routes while we run.

use uplink_core::snapshot::{Family, LinkIndex, Route, protocol};
use uplink_core::status::{Cause, GatewaySource, Health, Reason};

use crate::sim::bench::{Bench, Observer};
use crate::sim::site::{DPU, MGMT, PORT, default_route, steered_worker, worker};
use crate::sim::{ms, secs};

#[test]
fn a_default_route_that_is_gone_for_a_renewal_moves_nothing() {
    for observer in [Observer::Prompt, Observer::Looks(ms(10))] {
        let mut bench = steered_worker();
        bench.observer = observer;
        for _ in 0..5 {
            bench.forget_routes(|route| *route == default_route(PORT, Family::Ipv4));
            bench.run(secs(2));
            bench.assert_way(PORT);
            bench.defaults_come(PORT);
            bench.run(secs(2));
        }
        bench.assert_never_moved();
    }
}

#[test]
fn a_renewal_keeps_an_unnamed_uplink_in_its_place() {
    let mut bench = Bench::new(1);
    let other = LinkIndex(8);
    for (link, name) in [(MGMT, "eth0"), (other, "eth1")] {
        bench.plug(link, name);
        bench.lease(link);
    }
    bench.start();
    bench.run(secs(20));
    bench.assert_way(MGMT);
    for gap in [ms(3), ms(400), secs(5)] {
        bench.forget_routes(|route| *route == default_route(MGMT, Family::Ipv4));
        bench.run(gap);
        bench.defaults_come(MGMT);
        bench.run(secs(5));
    }
    bench.assert_never_moved();
}

#[test]
fn the_remembered_gateway_is_shown_as_such() {
    let mut bench = steered_worker();
    bench.forget_routes(|route| *route == default_route(PORT, Family::Ipv4));
    bench.run(secs(10));
    let path = bench.path(DPU, Family::Ipv4).expect("it is shown");
    assert_eq!((path.health, path.learned), (Health::Up, Some(GatewaySource::Memory)));
    bench.silence(PORT);
    bench.run(secs(3));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
}

/// Debian's script for udhcpc lays no default route of its own where it finds one by the same gateway, a
/// pin of ours included. Without ours it would be there.
#[test]
fn an_address_that_comes_back_leaves_the_default_route_to_whoever_gave_it() {
    let mut bench = steered_worker();
    bench.addresses_go(PORT);
    bench.addresses_go(MGMT);
    bench.run(ms(200));
    bench.addresses_come(PORT);
    bench.addresses_come(MGMT);
    for _ in 0..9 {
        bench.run(ms(100));
        assert_eq!(bench.kernel.pins(Family::Ipv4), Vec::new());
    }
    bench.run(ms(200));
    let path = bench.path(DPU, Family::Ipv4).expect("it is shown");
    assert_eq!((path.health, path.learned), (Health::Up, Some(GatewaySource::Memory)));
    assert_eq!(bench.way(Family::Ipv4), Some(PORT), "nobody laid any");
}

#[test]
fn an_address_that_comes_back_with_its_default_route_is_used_at_once() {
    let mut bench = steered_worker();
    bench.addresses_go(PORT);
    bench.addresses_go(MGMT);
    bench.run(ms(200));
    bench.addresses_come(PORT);
    bench.run(ms(100));
    bench.defaults_come(PORT);
    bench.run(ms(100));
    bench.assert_way(PORT);
    assert_eq!(bench.path(DPU, Family::Ipv4).map(|path| path.health), Some(Health::Up));
}

#[test]
fn a_renewal_that_lays_everything_anew_at_once_moves_nothing() {
    let mut bench = steered_worker();
    for _ in 0..5 {
        bench.addresses_go(PORT);
        bench.lease(PORT);
        bench.run(secs(10));
        bench.assert_way(PORT);
    }
    bench.assert_never_moved();
}

#[test]
fn a_router_that_withdraws_is_left() {
    let mut bench = steered_worker();
    bench.router_withdraws(PORT);
    bench.run(secs(1));
    assert_eq!(bench.way(Family::Ipv6), Some(MGMT));
    assert_eq!(bench.way(Family::Ipv4), Some(PORT));
}

#[test]
fn the_last_router_that_withdraws_leaves_no_pin_behind() {
    let mut bench = steered_worker();
    bench.router_withdraws(PORT);
    bench.router_withdraws(MGMT);
    bench.run(secs(30));
    assert_eq!(bench.kernel.pins(Family::Ipv6), Vec::new());
    bench.lease(PORT);
    bench.lease(MGMT);
    bench.run(secs(60));
    bench.assert_way(PORT);
}

#[test]
fn a_gateway_that_changes_is_followed() {
    let mut bench = steered_worker();
    let other = "10.0.120.2".parse().expect("an address");
    bench.world.gateways.insert((PORT, other), crate::sim::world::Gateway::well());
    let mut route = default_route(PORT, Family::Ipv4);
    route.hops[0].gateway = Some(other);
    bench.kernel.replace_route(route).expect("it is laid");
    bench.run(secs(2));
    assert_eq!(bench.kernel.default_way(Family::Ipv4).ok().and_then(|hop| hop.gateway), Some(other));
    bench.assert_never_moved();
}

#[test]
fn the_best_of_several_defaults_on_the_port_names_the_gateway() {
    let mut bench = worker();
    let other = "10.0.120.2".parse().expect("an address");
    let mut route = Route { metric: 300, protocol: protocol::STATIC, ..default_route(PORT, Family::Ipv4) };
    route.hops[0].gateway = Some(other);
    bench.kernel.add_route(route).expect("it is laid");
    bench.start();
    bench.run(secs(5));
    bench.assert_way(PORT);
    let gateway = bench.path(DPU, Family::Ipv4).and_then(|path| path.gateway);
    assert_eq!(gateway, default_route(PORT, Family::Ipv4).hops[0].gateway);
}

#[test]
fn a_port_with_only_an_option_121_route_gets_a_default_from_us() {
    let mut bench = worker();
    bench.defaults_go(PORT);
    let dummy = "169.254.99.100".parse().expect("an address");
    let route = default_route(PORT, Family::Ipv4);
    let named = Route { destination: uplink_core::snapshot::Prefix::host(dummy), ..route };
    bench.kernel.add_route(named).expect("it is laid");
    bench.start();
    bench.run(secs(35));
    assert_eq!(bench.way(Family::Ipv4), Some(PORT));
    assert_eq!(bench.path(DPU, Family::Ipv4).and_then(|path| path.learned), Some(GatewaySource::Dhcp));
    assert_eq!(bench.way(Family::Ipv6), Some(MGMT));
}

#[test]
fn an_ipv6_host_that_passes_over_a_dead_neighbour_agrees_in_the_end() {
    for forwarding in [false, true] {
        let mut bench = steered_worker();
        bench.kernel.forwarding = forwarding;
        bench.silence(PORT);
        bench.kernel.failed.insert((PORT, crate::sim::site::gateway(PORT, Family::Ipv6)));
        bench.run(secs(3));
        bench.assert_way(MGMT);
        bench.revive(PORT);
        bench.kernel.failed.clear();
        bench.run(secs(60));
        bench.assert_way(PORT);
    }
}

#[test]
fn everything_gone_and_back_is_a_fresh_start() {
    let mut bench = steered_worker();
    bench.down(PORT);
    bench.down(MGMT);
    bench.run(secs(30));
    assert_eq!(bench.way(Family::Ipv4), None);
    bench.up(MGMT);
    bench.run(secs(3));
    bench.assert_way(MGMT);
    bench.up(PORT);
    bench.run(secs(60));
    bench.assert_way(PORT);
    let reasons: Vec<Reason> = bench.elections.iter().map(|e| e.reason).collect();
    assert!(reasons.contains(&Reason::Fell(Cause::Link)), "{reasons:?}");
}
