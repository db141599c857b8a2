//! Several gateways of one uplink: two routers that advertise themselves, two default routes.

use std::net::IpAddr;

use uplink_core::snapshot::{Family, Hop, LinkIndex, Route, RouterPreference};
use uplink_core::status::{Health, Notice};
use uplink_core::time::Instant;

use crate::sim::bench::Bench;
use crate::sim::site::{
    BOARD, DPU, MGMT, PORT, default_route, gateway, second_gateway, steered_worker, worker,
};
use crate::sim::world::Gateway;
use crate::sim::{ms, secs};

/// The route that the link's second gateway is named by; the first one's is preferred.
fn second_route(link: LinkIndex, family: Family) -> Route {
    let hops = vec![Hop { link, gateway: Some(second_gateway(link, family)) }];
    let first = default_route(link, family);
    Route { hops, metric: first.metric + 1, ..first }
}

/// Gives the port a second gateway that works.
fn two_gateways(bench: &mut Bench) {
    for family in Family::ALL {
        bench.world.gateways.insert((PORT, second_gateway(PORT, family)), Gateway::well());
        bench.kernel.append_route(second_route(PORT, family)).expect("it is laid");
    }
}

fn set(bench: &mut Bench, of: fn(LinkIndex, Family) -> IpAddr, gateway: &Gateway) {
    for family in Family::ALL {
        bench.world.gateways.insert((PORT, of(PORT, family)), gateway.clone());
    }
}

/// Whether both families' packets leave by this gateway of the port.
fn by(bench: &Bench, of: fn(LinkIndex, Family) -> IpAddr) -> bool {
    Family::ALL.into_iter().all(|family| {
        let hop = Hop { link: PORT, gateway: Some(of(PORT, family)) };
        bench.kernel.default_way(family) == Ok(hop)
    })
}

#[track_caller]
fn assert_by(bench: &Bench, of: fn(LinkIndex, Family) -> IpAddr) {
    assert!(by(bench, of), "{}: {:#?}", bench.now, bench.status());
}

fn two_gateways_and_steered() -> Bench {
    let mut bench = worker();
    two_gateways(&mut bench);
    bench.start();
    bench.run(secs(20));
    assert_by(&bench, gateway);
    bench
}

#[test]
fn one_that_dies_leaves_the_port_elected() {
    let mut bench = two_gateways_and_steered();
    set(&mut bench, gateway, &Gateway::silent());
    let moved = bench.until(secs(3), |bench| by(bench, second_gateway)).expect("it goes on by the other");
    assert!(moved <= ms(1300), "{moved:?}");
    bench.assert_never_moved();
    assert_eq!(bench.health(DPU), Health::Up);
    let left = |notice: &Notice| matches!(notice, Notice::LeavesGateway { health: Health::Down(_), .. });
    assert_eq!(bench.notices.iter().filter(|(_, notice)| left(notice)).count(), 2);
}

#[test]
fn the_preferred_one_is_taken_again_when_it_has_proved_itself() {
    let mut bench = two_gateways_and_steered();
    set(&mut bench, gateway, &Gateway::silent());
    bench.run(secs(5));
    set(&mut bench, gateway, &Gateway::well());
    bench.run(secs(25));
    assert_by(&bench, second_gateway);
    bench.run(secs(15));
    assert_by(&bench, gateway);
    bench.assert_never_moved();
    // The second fall doubles the wait.
    set(&mut bench, gateway, &Gateway::silent());
    bench.run(secs(5));
    assert_by(&bench, second_gateway);
    set(&mut bench, gateway, &Gateway::well());
    bench.run(secs(50));
    assert_by(&bench, second_gateway);
    bench.run(secs(30));
    assert_by(&bench, gateway);
}

#[test]
fn among_equals_nothing_moves_back() {
    let mut bench = worker();
    for family in Family::ALL {
        bench.world.gateways.insert((PORT, second_gateway(PORT, family)), Gateway::well());
        let metric = default_route(PORT, family).metric;
        bench.kernel.append_route(Route { metric, ..second_route(PORT, family) }).expect("it is laid");
    }
    bench.start();
    bench.run(secs(20));
    assert_by(&bench, gateway);
    set(&mut bench, gateway, &Gateway::silent());
    bench.run(secs(5));
    set(&mut bench, gateway, &Gateway::well());
    bench.run(secs(100));
    assert_by(&bench, second_gateway);
}

#[test]
fn both_that_die_are_the_ports_fall() {
    let mut bench = two_gateways_and_steered();
    bench.silence(PORT);
    let moved = bench.until(secs(3), |bench| bench.leaves_by(MGMT)).expect("management takes over");
    assert!(moved <= ms(1300), "{moved:?}");
    bench.run(secs(10));
    assert_eq!(bench.health(DPU).to_string(), "down (gateway)");
    let left = |(_, notice): &(Instant, Notice)| matches!(notice, Notice::LeavesGateway { .. });
    assert!(!bench.notices.iter().any(left), "none is left for one that is as dead");
    // The second comes back first, and the port with it.
    set(&mut bench, second_gateway, &Gateway::well());
    bench.run(secs(25));
    bench.assert_way(MGMT);
    bench.run(secs(15));
    assert_by(&bench, second_gateway);
}

#[test]
fn a_lossy_one_is_left_for_one_that_is_not() {
    let mut bench = two_gateways_and_steered();
    set(&mut bench, gateway, &Gateway { loss: 50, ..Gateway::well() });
    bench.until(secs(20), |bench| by(bench, second_gateway)).expect("it goes on by the other");
    bench.assert_never_moved();
}

#[test]
fn one_that_comes_is_taken_if_it_is_preferred_and_answers() {
    let mut bench = steered_worker();
    let better = |family| Route {
        preference: RouterPreference::High,
        // Among IPv6's equals the preference decides.
        metric: default_route(PORT, family).metric - u32::from(family == Family::Ipv4),
        ..second_route(PORT, family)
    };
    for family in Family::ALL {
        bench.kernel.append_route(better(family)).expect("it is laid");
    }
    bench.run(secs(10));
    assert_by(&bench, gateway);
    assert_eq!(bench.health(DPU), Health::Up, "one that never answered is nobody's fall");
    set(&mut bench, second_gateway, &Gateway::well());
    bench.run(secs(3));
    assert_by(&bench, second_gateway);
    // It withdraws.
    let gone = Family::ALL.map(better);
    bench.forget_routes(|route| gone.contains(route));
    bench.until(ms(100), |bench| by(bench, gateway)).expect("the other is known to answer");
    bench.assert_never_moved();
}

#[test]
fn a_default_without_a_gateway_is_used_as_the_kernel_does() {
    let mut bench = two_gateways_and_steered();
    for (metric, expected) in [(1, None), (1000, Some(gateway(PORT, Family::Ipv4)))] {
        bench.admin_defaults_go();
        bench.link_default(Family::Ipv4, metric, PORT);
        bench.run(secs(5));
        assert_eq!(bench.path(DPU, Family::Ipv4).and_then(|path| path.gateway), expected, "{metric}");
    }
}

#[test]
fn a_restart_goes_on_by_the_one_that_the_pin_leads_to() {
    let mut bench = two_gateways_and_steered();
    set(&mut bench, gateway, &Gateway::silent());
    bench.run(secs(5));
    assert_by(&bench, second_gateway);
    let writes = bench.writes();
    bench.restart();
    bench.run(secs(30));
    assert_by(&bench, second_gateway);
    assert_eq!(bench.writes(), writes);
    assert_eq!(bench.family(Family::Ipv6).elected, [DPU]);
}

#[test]
fn those_of_a_path_that_is_not_elected_change_without_a_word_to_the_kernel() {
    let mut bench = two_gateways_and_steered();
    for family in Family::ALL {
        bench.world.gateways.insert((MGMT, second_gateway(MGMT, family)), Gateway::well());
        bench.kernel.append_route(second_route(MGMT, family)).expect("it is laid");
    }
    bench.run(secs(5));
    let writes = bench.pin_writes();
    for family in Family::ALL {
        bench.world.gateways.insert((MGMT, gateway(MGMT, family)), Gateway::silent());
    }
    bench.run(secs(10));
    assert_eq!(bench.pin_writes(), writes);
    assert_eq!(bench.health(BOARD), Health::Up);
    assert_eq!(
        bench.path(BOARD, Family::Ipv4).and_then(|path| path.gateway),
        Some(second_gateway(MGMT, Family::Ipv4))
    );
}

#[test]
fn only_the_gateway_in_use_is_watched() {
    let mut bench = two_gateways_and_steered();
    set(&mut bench, second_gateway, &Gateway::silent());
    assert_eq!(bench.until(secs(5), |bench| !bench.watched.is_empty()), None, "who uses none of its packets");
}

/// A DHCP client deletes its route and lays it again, beside another that leads to a dead router.
#[test]
fn a_renewal_beside_a_dead_router_is_no_fall() {
    for pinned in [true, false] {
        let mut bench = two_gateways_and_steered();
        if !pinned {
            bench.forget_routes(|route| route.hops.iter().any(|hop| hop.link == MGMT));
        }
        set(&mut bench, second_gateway, &Gateway::silent());
        bench.run(secs(10));
        let route = default_route(PORT, Family::Ipv4);
        bench.forget_routes(|other| *other == route);
        bench.run(ms(20));
        bench.kernel.add_route(route).expect("it is laid");
        bench.until(ms(50), |bench| by(bench, gateway)).expect("it is as before");
        let lost = bench.until(secs(5), |bench| !by(bench, gateway));
        assert_eq!((lost, bench.health(DPU)), (None, Health::Up), "pinned: {pinned}");
        bench.assert_never_moved();
    }
}
