//! Where the pin stands, and what it says.

use uplink_core::own::{OwnRoute, TABLE_PIN};
use uplink_core::policy::{Match, Need, PathRules, Placement, Policy, UplinkPolicy};
use uplink_core::snapshot::{Attributes, Family, Hop, LinkIndex, Prefix, Route, TABLE_MAIN, Weight};
use uplink_core::status::{Aside, Notice};

use crate::sim::bench::Bench;
use crate::sim::kernel::Errno;
use crate::sim::site::{
    MGMT, PORT, addresses, default_route, dpu_port, gateway, second_gateway, steered_worker, worker,
};
use crate::sim::{ms, secs};

fn pin(bench: &Bench, family: Family) -> OwnRoute {
    match bench.kernel.pins(family).as_slice() {
        [pin] => pin.clone(),
        pins => panic!("one pin expected: {pins:#?}"),
    }
}

/// A worker whose management default has this metric in both families.
fn with_metric(metric: u32, placement: Placement) -> Bench {
    let mut bench = worker();
    for family in Family::ALL {
        bench.remetric(MGMT, family, metric);
    }
    bench.policy = Policy { placement, ..Policy::default() };
    bench.start();
    bench.run(secs(5));
    bench
}

#[test]
fn it_stands_below_the_lowest_foreign_default() {
    for (metric, table) in [(1, TABLE_PIN), (2, TABLE_PIN), (3, TABLE_MAIN), (5, TABLE_MAIN)] {
        let mut bench = with_metric(metric, Placement::Auto);
        bench.assert_way(PORT);
        for family in Family::ALL {
            assert_eq!(pin(&bench, family).table(), table, "metric {metric}");
        }
        bench.silence(PORT);
        bench.run(secs(3));
        bench.assert_way(MGMT);
        bench.revive(PORT);
        bench.run(secs(60));
        bench.assert_way(PORT);
        bench.stop();
        assert!(!bench.kernel.has_ours());
        bench.assert_way(MGMT);
    }
}

#[test]
fn below_metric_0_it_stands_in_its_own_table() {
    // IPv6 turns 0 into 1024.
    let bench = with_metric(0, Placement::Auto);
    bench.assert_way(PORT);
    assert_eq!(pin(&bench, Family::Ipv4).table(), TABLE_PIN);
    assert_eq!(pin(&bench, Family::Ipv6).table(), TABLE_MAIN);
}

#[test]
fn without_room_in_main_it_says_so_where_only_main_is_allowed() {
    let mut bench = with_metric(2, Placement::Main);
    assert_eq!(bench.pin_writes(), 0);
    assert_eq!(bench.family(Family::Ipv4).aside, Some(Aside::NoRoom));
    for family in Family::ALL {
        bench.remetric(MGMT, family, 20);
    }
    bench.run(secs(1));
    bench.assert_way(PORT);
    assert_eq!(bench.family(Family::Ipv4).aside, None);
}

#[test]
fn losing_the_room_in_main_takes_no_way_from_anybody() {
    let mut bench = steered_worker();
    bench.policy.placement = Placement::Main;
    bench.configure(bench.policy.clone());
    bench.remetric(MGMT, Family::Ipv4, 1);
    bench.run(secs(5));
    assert_eq!(bench.family(Family::Ipv4).aside, Some(Aside::NoRoom));
    bench.stop();
    assert!(!bench.kernel.has_ours());
}

#[test]
fn without_room_no_pin_is_left_that_leads_elsewhere() {
    let mut bench = with_metric(2, Placement::Auto);
    assert_eq!(pin(&bench, Family::Ipv4).table(), TABLE_PIN);
    bench.policy.placement = Placement::Main;
    bench.configure(bench.policy.clone());
    bench.run(secs(1));
    assert_eq!(bench.family(Family::Ipv4).aside, Some(Aside::NoRoom));
    bench.assert_way(PORT);
    // A third uplink takes over, which is not the one that the host's own routes lead to.
    let third = LinkIndex(5);
    bench.plug(third, "third");
    bench.lease(third);
    bench.silence(MGMT);
    bench.run(secs(5));
    bench.silence(PORT);
    bench.run(secs(5));
    assert_eq!(bench.family(Family::Ipv4).elected, ["third"]);
    assert_eq!(bench.family(Family::Ipv4).aside, Some(Aside::NoRoom));
    assert!(bench.kernel.pins(Family::Ipv4).is_empty(), "a pin to a dead path is tended by nobody");
}

#[test]
fn a_broken_path_loses_no_pin_because_the_placement_changed() {
    let mut bench = with_metric(50, Placement::Table);
    // Nothing but the pin leads anywhere, and the elected path's gateway is not on its link any more.
    bench.silence(MGMT);
    bench.forget_routes(|route| route.is_default() && route.family == Family::Ipv4);
    bench.run(secs(2));
    assert_eq!(bench.way(Family::Ipv4), Some(PORT));
    bench.kernel.set_carrier(MGMT, false);
    bench.kernel.set_carrier(PORT, false);
    bench.run(secs(2));
    bench.policy.placement = Placement::Main;
    bench.configure(bench.policy.clone());
    bench.run(secs(2));
    assert_eq!(bench.way(Family::Ipv4), Some(PORT), "{:#?}", bench.kernel.routes);
    bench.kernel.set_carrier(PORT, true);
    bench.run(secs(5));
    assert_eq!(pin(&bench, Family::Ipv4).table(), TABLE_MAIN);
}

#[test]
fn placement_table_leaves_main_alone() {
    let mut bench = with_metric(50, Placement::Table);
    bench.assert_way(PORT);
    for family in Family::ALL {
        assert_eq!(pin(&bench, family).table(), TABLE_PIN);
    }
    bench.policy.placement = Placement::Main;
    bench.configure(bench.policy.clone());
    bench.run(secs(1));
    bench.assert_way(PORT);
    for family in Family::ALL {
        assert_eq!(pin(&bench, family).table(), TABLE_MAIN);
    }
}

/// Notices of this sort since the beginning.
fn told(bench: &Bench, sort: impl Fn(&Notice) -> bool) -> usize {
    bench.notices.iter().filter(|(_, notice)| sort(notice)).count()
}

#[test]
fn refused_rules_are_not_tried_for_ever_at_full_speed() {
    let mut bench = worker();
    bench.kernel.refuse_rules = Some(Errno(95));
    bench.policy.path_rules = PathRules::Off;
    bench.policy.placement = Placement::Table;
    bench.start();
    bench.run(secs(600));
    assert!(bench.writes() < 60, "{} writes", bench.writes());
    assert_eq!(bench.family(Family::Ipv4).aside, Some(Aside::Rejected));
    assert_eq!(told(&bench, |notice| matches!(notice, Notice::Refused { .. })), 2, "one in each family");
    assert_eq!(told(&bench, |notice| matches!(notice, Notice::Aside { .. })), 2, "one in each family");
    bench.assert_way(MGMT);

    // The kernel has changed its mind; anything that happens is a reason to try again.
    bench.kernel.refuse_rules = None;
    bench.remetric(MGMT, Family::Ipv4, 60);
    bench.run(secs(2));
    bench.assert_way(PORT);
    assert_eq!(bench.family(Family::Ipv4).aside, None);
}

#[test]
fn what_is_refused_is_laid_at_once_when_the_reason_is_gone() {
    let mut bench = worker();
    bench.kernel.refuse_tables.insert(TABLE_MAIN, Errno(101));
    bench.start();
    bench.run(secs(2));
    assert_eq!(bench.family(Family::Ipv4).aside, Some(Aside::Rejected));
    bench.kernel.refuse_tables.clear();
    let port = addresses(PORT, Family::Ipv4)[0].clone();
    bench.kernel.remove_address(&port);
    bench.lease(PORT);
    let after = bench.until(secs(5), |bench| bench.leaves_by(PORT)).expect("it is laid");
    assert!(after <= ms(200), "{after:?}");
}

/// One that was led past by another route of the port, below which it never stood.
#[test]
fn it_stays_where_it_is_when_a_lower_default_of_others_goes() {
    let mut bench = steered_worker();
    let before = pin(&bench, Family::Ipv6);
    bench.best_default_goes(Family::Ipv6);
    let hops = vec![Hop { link: PORT, gateway: Some(second_gateway(PORT, Family::Ipv6)) }];
    let lower = Route { hops, metric: 45, ..default_route(PORT, Family::Ipv6) };
    bench.kernel.append_route(lower.clone()).expect("its place is free");
    bench.addresses_go(PORT);
    bench.run(ms(400));
    bench.lease(PORT);
    bench.forget_routes(|route| *route == lower);
    bench.run(secs(5));
    assert_eq!(pin(&bench, Family::Ipv6), before);
}

/// The only default route of others is management's, at networkd's own metric.
#[test]
fn it_stays_where_it_is_while_the_last_default_of_others_is_renewed() {
    let mut bench = worker();
    bench.forget_routes(Route::is_default);
    let management = Family::ALL.map(|family| Route { metric: 1024, ..default_route(MGMT, family) });
    let renewed = |bench: &mut Bench| {
        for route in &management {
            bench.kernel.add_route(route.clone()).expect("its place is free");
        }
        bench.run(secs(5));
    };
    bench.policy.uplinks = vec![UplinkPolicy {
        name: "port".to_owned(),
        matching: Match::Pci(dpu_port(3).address),
        tier: 1,
        weight: Weight::ONE,
        gateways: Family::ALL.map(|family| gateway(PORT, family)).into(),
        targets: Vec::new(),
        need: Need::Any,
        interval: secs(5),
    }];
    bench.start();
    renewed(&mut bench);
    let (pins, writes) = (Family::ALL.map(|family| pin(&bench, family)), bench.pin_writes());
    assert!(pins.iter().all(|pin| pin.metric() == 1023), "{pins:?}");
    bench.forget_routes(|route| route.metric == 1024);
    bench.run(secs(1));
    // Who begins at that moment never saw it.
    bench.restart();
    bench.run(secs(5));
    renewed(&mut bench);
    assert_eq!(Family::ALL.map(|family| pin(&bench, family)), pins);
    assert_eq!(bench.pin_writes(), writes);
}

#[test]
fn a_taken_metric_is_stepped_over() {
    for metric in [60, 4] {
        let mut bench = worker();
        bench.remetric(MGMT, Family::Ipv4, metric);
        bench.kernel.unseen.insert((Family::Ipv4, metric - 1));
        let unseen = Route { metric: metric - 1, ..default_route(MGMT, Family::Ipv4) };
        bench.kernel.add_route(unseen).expect("it is laid");
        bench.start();
        bench.run(secs(5));
        bench.assert_way(PORT);
        assert_eq!(pin(&bench, Family::Ipv4).metric(), metric - 2);
        bench.silence(PORT);
        bench.run(secs(5));
        bench.assert_way(MGMT);
        bench.revive(PORT);
        bench.run(secs(60));
        bench.assert_way(PORT);
        assert_eq!(bench.family(Family::Ipv4).aside, None);
    }
}

#[test]
fn a_stop_ends_though_something_cannot_be_deleted() {
    let mut bench = worker();
    bench.policy.path_rules = PathRules::Off;
    bench.start();
    bench.run(secs(30));
    bench.kernel.undeletable = true;
    let writes = bench.writes();
    bench.stop();
    assert_eq!(bench.writes() - writes, 6, "three rounds in two families");
    assert_eq!(told(&bench, |notice| matches!(notice, Notice::Left(_))), 2, "one in each family");
}

#[test]
fn there_is_none_where_the_ports_own_default_is_best_already() {
    let mut bench = worker();
    for family in Family::ALL {
        bench.remetric(PORT, family, 10);
    }
    bench.start();
    bench.run(secs(30));
    bench.assert_way(PORT);
    assert_eq!(bench.pin_writes(), 0);
    bench.silence(PORT);
    bench.run(secs(3));
    bench.assert_way(MGMT);
    bench.revive(PORT);
    bench.run(secs(60));
    bench.assert_way(PORT);
    assert!(Family::ALL.iter().all(|family| bench.kernel.pins(*family).is_empty()));
}

#[test]
fn it_copies_what_the_default_route_says() {
    let mut bench = worker();
    let source = addresses(PORT, Family::Ipv4)[0].prefix.address;
    let attributes = Attributes {
        source: Some(source),
        onlink: true,
        metrics: [(2, 9000), (8, 8960)].into(),
        congestion_control: Some("bbr".to_owned()),
    };
    let route = Route { attributes: attributes.clone(), ..default_route(PORT, Family::Ipv4) };
    bench.kernel.replace_route(route).expect("it is laid");
    bench.start();
    bench.run(secs(5));
    assert_eq!(*pin(&bench, Family::Ipv4).attributes(), attributes);

    let changed = Attributes { metrics: [(2, 1500)].into(), ..attributes };
    let route = Route { attributes: changed.clone(), ..default_route(PORT, Family::Ipv4) };
    bench.kernel.replace_route(route).expect("it is laid");
    bench.run(secs(1));
    assert_eq!(*pin(&bench, Family::Ipv4).attributes(), changed);
}

#[test]
fn a_gateway_without_a_route_to_its_prefix_is_given_as_on_link() {
    let mut bench = worker();
    bench.forget_routes(|route| *route == default_route(PORT, Family::Ipv4));
    for address in &mut bench.kernel.addresses {
        address.no_prefix_route = address.link == PORT;
    }
    let destination = Prefix::host([169, 254, 99, 100].into());
    let attributes = Attributes { onlink: true, ..Attributes::default() };
    let named = Route { destination, attributes, ..default_route(PORT, Family::Ipv4) };
    bench.kernel.add_route(named).expect("it is laid");
    bench.start();
    bench.run(secs(5));
    bench.assert_way(PORT);
    assert!(pin(&bench, Family::Ipv4).attributes().onlink);
    assert!(!pin(&bench, Family::Ipv6).attributes().onlink, "link-local ones need no route");
}

#[test]
fn it_moves_below_a_new_foreign_default() {
    for metric in [1, 2, 3, 5, 20, 47, 48, 49] {
        let mut bench = steered_worker();
        for family in Family::ALL {
            let _ = bench.kernel.append_route(Route { metric, ..default_route(MGMT, family) });
        }
        bench.run(secs(1));
        bench.assert_way(PORT);
    }
}

#[test]
fn it_moves_in_one_step_where_no_other_default_stands() {
    let mut bench = steered_worker();
    // The gateways are remembered; IPv6 routers would have withdrawn theirs.
    bench.forget_routes(|route| route.is_default() && route.family == Family::Ipv4);
    bench.run(secs(2));
    for _ in 0..3 {
        bench.silence(PORT);
        bench.run(secs(3));
        assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
        bench.revive(PORT);
        bench.run(secs(140));
        assert_eq!(bench.way(Family::Ipv4), Some(PORT));
    }
}

#[test]
fn it_stays_where_it_is_when_others_move_up() {
    let mut bench = steered_worker();
    let writes = bench.writes();
    bench.remetric(MGMT, Family::Ipv4, 90);
    bench.remetric(MGMT, Family::Ipv6, 900);
    bench.run(secs(5));
    assert_eq!(bench.writes(), writes);
    bench.assert_way(PORT);
}

#[test]
fn it_stays_when_the_ports_own_default_becomes_the_best() {
    let mut bench = steered_worker();
    let writes = bench.writes();
    for family in Family::ALL {
        bench.remetric(MGMT, family, 20000);
    }
    bench.run(secs(5));
    assert_eq!(bench.writes(), writes);
    bench.assert_way(PORT);
}
