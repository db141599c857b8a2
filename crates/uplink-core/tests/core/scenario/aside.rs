//! Default routes that somebody meant.

use uplink_core::policy::{Match, Need, Placement, Policy, UplinkPolicy};
use uplink_core::snapshot::{Family, LinkIndex, LinkKind, Prefix, Route, Weight, protocol};
use uplink_core::status::Aside;

use crate::sim::bench::Bench;
use crate::sim::secs;
use crate::sim::site::{BOARD, MGMT, PORT, default_route, link, plain_default, steered_worker, worker};

const TUNNEL: LinkIndex = LinkIndex(9);

/// Management's interface is named; the port's is the tier behind it.
fn named_board() -> Policy {
    let board = UplinkPolicy {
        name: "board".to_owned(),
        matching: Match::Interface(BOARD.to_owned()),
        tier: 1,
        weight: Weight::ONE,
        gateways: Vec::new(),
        targets: Vec::new(),
        need: Need::Any,
        interval: secs(5),
    };
    Policy { uplinks: vec![board], ..Policy::default() }
}

fn tunnel(bench: &mut Bench) {
    bench
        .kernel
        .links
        .insert(TUNNEL, uplink_core::snapshot::Link { kind: LinkKind::Tunnel, ..link(TUNNEL, "wg0") });
    bench.link_default(Family::Ipv4, 1, TUNNEL);
}

#[test]
fn they_are_left_alone_and_the_pin_goes() {
    type Lay = fn(&mut Bench);
    let cases: [(Aside, Lay); 4] = [
        (Aside::Opaque, |bench| bench.opaque(Family::Ipv4, 1)),
        (Aside::Refused, |bench| bench.refuse(Family::Ipv4, 1)),
        (Aside::Multipath, |bench| bench.multipath(Family::Ipv4, 1, &[PORT, MGMT])),
        (Aside::Tunnel, tunnel),
    ];
    for (aside, lay) in cases {
        let mut bench = steered_worker();
        lay(&mut bench);
        bench.run(secs(5));
        assert_eq!(bench.family(Family::Ipv4).aside, Some(aside));
        assert_eq!(bench.kernel.pins(Family::Ipv4), Vec::new());
        assert_eq!(bench.way(Family::Ipv6), Some(PORT), "the other family goes on");
        bench.silence(PORT);
        bench.run(secs(5));
        bench.revive(PORT);
        assert_eq!(bench.kernel.pins(Family::Ipv4), Vec::new());

        bench.admin_defaults_go();
        bench.run(secs(60));
        bench.assert_way(PORT);
        assert_eq!(bench.family(Family::Ipv4).aside, None);
    }
}

/// A worker whose port has no default route in IPv4 (DHCP option 121), with the pin on it.
fn without_default_of_the_port(metric_of_management: u32) -> Bench {
    let mut bench = steered_worker();
    let destination = Prefix::host([169, 254, 99, 100].into());
    let named = Route { destination, ..default_route(PORT, Family::Ipv4) };
    bench.kernel.add_route(named).expect("it is laid");
    let ports = default_route(PORT, Family::Ipv4);
    bench.forget_routes(|route| *route == ports);
    bench.remetric(MGMT, Family::Ipv4, metric_of_management);
    bench
}

#[test]
fn one_that_refuses_is_not_outranked_from_our_own_table() {
    let mut bench = worker();
    bench.policy.placement = Placement::Table;
    bench.start();
    bench.run(secs(5));
    bench.refuse(Family::Ipv4, 4_278_198_272);
    bench.forget_routes(|route| route.is_default() && route.family == Family::Ipv4 && route.metric <= 100);
    bench.run(secs(5));
    assert_eq!(bench.family(Family::Ipv4).aside, Some(Aside::Refused));
    assert_eq!(bench.kernel.pins(Family::Ipv4).len(), 1, "it is in nobody's way");
    bench.defaults_come(MGMT);
    bench.run(secs(5));
    bench.assert_way(PORT);
    assert_eq!(bench.family(Family::Ipv4).aside, None);
}

#[test]
fn an_opaque_one_that_is_not_the_best_is_outranked_like_any_other() {
    let mut bench = worker();
    bench.opaque(Family::Ipv4, 60);
    bench.start();
    bench.run(secs(5));
    bench.assert_way(PORT);
    bench.remetric(MGMT, Family::Ipv4, 1000);
    bench.run(secs(5));
    bench.assert_way(PORT);
    // The pin is moved, to another gateway's attributes for instance, without getting behind it.
    bench.silence(PORT);
    bench.run(secs(5));
    bench.assert_way(MGMT);
}

#[test]
fn one_that_is_the_best_only_while_another_is_renewed_is_no_reason_to_stand_aside() {
    type Lay = fn(&mut Bench);
    let last_resorts: [Lay; 3] = [
        |bench| bench.refuse(Family::Ipv4, 4_278_198_272),
        |bench| bench.multipath(Family::Ipv4, 3000, &[PORT, MGMT]),
        |bench| {
            tunnel(bench);
            bench
                .forget_routes(|route| route.is_default() && route.hops.iter().any(|hop| hop.link == TUNNEL));
            bench.link_default(Family::Ipv4, 3000, TUNNEL);
        },
    ];
    for lay in last_resorts {
        // At metric 2 the pin stands in its own table.
        for metric in [50, 2] {
            let mut bench = without_default_of_the_port(metric);
            lay(&mut bench);
            bench.run(secs(5));
            assert_eq!(bench.way(Family::Ipv4), Some(PORT));
            bench.defaults_go(MGMT);
            bench.run(secs(2));
            assert_eq!(bench.way(Family::Ipv4), Some(PORT), "metric {metric}: {:#?}", bench.kernel);
            assert_eq!(bench.family(Family::Ipv4).aside, None);
            let _ = bench.kernel.add_route(Route { metric, ..default_route(MGMT, Family::Ipv4) });
            bench.run(secs(5));
            assert_eq!(bench.way(Family::Ipv4), Some(PORT));

            bench.forget_routes(|route| route.protocol == protocol::STATIC);
            bench.refuse(Family::Ipv4, 1);
            bench.run(secs(5));
            assert_eq!(bench.family(Family::Ipv4).aside, Some(Aside::Refused), "now it is the best");
        }
    }
}

#[test]
fn one_that_is_not_the_best_is_no_reason_to_stand_aside() {
    let mut bench = steered_worker();
    bench.refuse(Family::Ipv4, 4000);
    bench.multipath(Family::Ipv4, 3000, &[PORT, MGMT]);
    bench.run(secs(5));
    assert_eq!(bench.family(Family::Ipv4).aside, None);
    bench.assert_way(PORT);
}

#[test]
fn a_default_without_gateway_is_judged_by_its_link_and_comes_last() {
    let mut bench = worker();
    bench.defaults_go(MGMT);
    bench.link_default(Family::Ipv4, 50, MGMT);
    bench.start();
    bench.run(secs(5));
    assert_eq!(bench.way(Family::Ipv4), Some(PORT));
    bench.kernel.set_carrier(PORT, false);
    bench.run(secs(1));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
    bench.kernel.set_carrier(PORT, true);
    bench.run(secs(60));
    assert_eq!(bench.way(Family::Ipv4), Some(PORT));
}

#[test]
fn the_unreachable_default_of_an_old_kernel_is_nobodys_wish() {
    let mut bench = steered_worker();
    let route = Route {
        kind: uplink_core::snapshot::RouteKind::Refused,
        protocol: protocol::KERNEL,
        metric: u32::MAX,
        ..plain_default(Family::Ipv6)
    };
    bench.kernel.add_route(route).expect("it is laid");
    bench.run(secs(5));
    bench.assert_way(PORT);
}

/// What stands in our own table and is in vain does not decide for a moment when the pin is laid in the main
/// table, above the route that refuses.
#[test]
fn a_pin_in_vain_goes_before_one_that_outranks_what_refuses() {
    for killed_after in 0..6 {
        let mut bench = worker();
        bench.policy = Policy { placement: Placement::Table, ..named_board() };
        bench.silence(MGMT);
        bench.start();
        bench.run(secs(40));
        bench.refuse(Family::Ipv4, 3);
        bench.run(secs(1));
        bench.kernel.set_carrier(PORT, false);
        bench.run(secs(1));
        bench.configure(named_board());
        // Who has just begun takes what nobody knows for better than a lost carrier.
        bench.restart();
        bench.revive(MGMT);
        bench.kill_after = Some(killed_after);
        bench.run(secs(1));
        bench.restart();
        bench.run(secs(1));
        assert_eq!(bench.way(Family::Ipv4), Some(MGMT), "{killed_after}: {:#?}", bench.kernel);
    }
}
