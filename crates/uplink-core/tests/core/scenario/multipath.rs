//! All uplinks of a tier in one pin.

use std::collections::BTreeMap;
use std::time::Duration;

use uplink_core::own::{Op, OwnRoute};
use uplink_core::policy::{Match, Need, Placement, Policy, Preempt, Target, UplinkPolicy, WithinTier};
use uplink_core::snapshot::{Family, LinkIndex, Route, Weight, protocol};
use uplink_core::status::{Cause, Health, Reason};

use crate::sim::bench::{Bench, Observer};
use crate::sim::site::{BOARD, DPU, MGMT, PORT, PORT_B, default_route, plain_default, worker};
use crate::sim::{checks, ms, secs};

const DPU_B: &str = "dpu-0000:05:00.0";
/// An uplink that is no BlueField's.
const SPARE: LinkIndex = LinkIndex(6);

/// A worker with two BlueField ports that shares its default route among them; nothing runs yet.
fn two_ports() -> Bench {
    let mut bench = worker();
    bench.plug_dpu(PORT_B, "ens2f0np0", 5);
    bench.lease(PORT_B);
    bench.policy.within_tier = WithinTier::Multipath;
    bench
}

/// The same, decided.
fn shared() -> Bench {
    let mut bench = two_ports();
    bench.start();
    bench.run(secs(5));
    assert_members(&bench, &[PORT, PORT_B]);
    bench.run(secs(40));
    bench
}

/// Uplinks by name, interface, tier and weight.
fn named(uplinks: &[(&str, &str, u32, u16)]) -> Policy {
    let uplinks = uplinks.iter().map(|&(name, interface, tier, weight)| UplinkPolicy {
        name: name.to_owned(),
        matching: Match::Interface(interface.to_owned()),
        tier,
        weight: weight.try_into().expect("a weight"),
        gateways: Vec::new(),
        targets: Vec::new(),
        need: Need::Any,
        interval: secs(5),
    });
    Policy { uplinks: uplinks.collect(), within_tier: WithinTier::Multipath, ..Policy::default() }
}

/// The interfaces that a family's packets leave by.
fn members(bench: &Bench, family: Family) -> Vec<LinkIndex> {
    let mut links: Vec<LinkIndex> =
        bench.kernel.default_ways(family).into_iter().map(|hop| hop.link).collect();
    links.sort();
    links
}

#[track_caller]
fn assert_members(bench: &Bench, links: &[LinkIndex]) {
    for family in Family::ALL {
        assert_eq!(members(bench, family), links, "{}: {family}: {:#?}", bench.now, bench.status());
    }
}

fn until_members(bench: &mut Bench, most: Duration, links: &[LinkIndex]) -> Duration {
    let after = bench.until(most, |bench| Family::ALL.iter().all(|f| members(bench, *f) == links));
    after.unwrap_or_else(|| panic!("not {links:?}: {:#?}", bench.status()))
}

fn pin(bench: &Bench, family: Family) -> OwnRoute {
    let [pin] = bench.kernel.pins(family).try_into().expect("there is one pin");
    pin
}

#[test]
fn both_ports_carry_the_default_route() {
    let bench = shared();
    for family in Family::ALL {
        assert_eq!(bench.family(family).elected, [DPU, DPU_B]);
        assert_eq!(pin(&bench, family).legs().iter().count(), 2);
    }
    bench.assert_never_moved_but_joined();
}

#[test]
fn shares_are_those_of_the_configuration() {
    let mut bench = two_ports();
    bench.policy = named(&[("a", "ens1f0np0", 1, 3), ("b", "ens2f0np0", 1, 256), ("c", BOARD, 2, 7)]);
    bench.start();
    bench.run(secs(5));
    for family in Family::ALL {
        let weights: BTreeMap<LinkIndex, u16> =
            pin(&bench, family).legs().iter().map(|leg| (leg.hop.link, leg.weight.into())).collect();
        assert_eq!(weights, BTreeMap::from([(PORT, 3), (PORT_B, 256)]));
    }
    let mut policy = bench.policy.clone();
    policy.uplinks[0].weight = Weight::ONE;
    bench.configure(policy);
    bench.run(secs(1));
    for family in Family::ALL {
        assert_eq!(pin(&bench, family).legs().first().weight, Weight::ONE);
        assert_eq!(bench.family(family).elected, ["a", "b"]);
    }
}

#[test]
fn a_silent_member_leaves_when_patience_ends_and_comes_back_after_its_wait() {
    let mut bench = shared();
    bench.silence(PORT);
    let after = until_members(&mut bench, secs(3), &[PORT_B]);
    assert!(after > ms(700) && after <= ms(1100), "{after:?}");
    assert_eq!(bench.family(Family::Ipv4).reason, Reason::MemberFell(Cause::Gateway));
    assert_eq!(bench.family(Family::Ipv4).elected, [DPU_B]);
    assert_eq!(bench.health(DPU), Health::Down(Cause::Gateway));
    bench.run(secs(60));
    assert_members(&bench, &[PORT_B]);
    bench.revive(PORT);
    let back = until_members(&mut bench, secs(60), &[PORT, PORT_B]);
    assert!(back >= secs(29) && back <= secs(36), "{back:?}");
    assert_eq!(bench.family(Family::Ipv4).reason, Reason::MemberJoined);
}

#[test]
fn a_lossy_member_leaves() {
    let mut bench = shared();
    bench.gateways(PORT_B, |gateway| gateway.loss = 50);
    until_members(&mut bench, secs(30), &[PORT]);
}

#[test]
fn a_member_without_upstream_leaves() {
    let target = std::net::IpAddr::from([203, 0, 113, 1]);
    let mut bench = two_ports();
    bench.policy = named(&[("a", "ens1f0np0", 1, 1), ("b", "ens2f0np0", 1, 1)]);
    for uplink in &mut bench.policy.uplinks {
        uplink.targets = vec![Target::Icmp(target)];
    }
    bench.world.targets.insert(target);
    bench.start();
    bench.run(secs(30));
    assert_members(&bench, &[PORT, PORT_B]);
    bench.gateways(PORT, |gateway| gateway.forwards = false);
    let after = bench.until(secs(20), |bench| members(bench, Family::Ipv4) == [PORT_B]);
    assert!(after.is_some_and(|after| after <= secs(5 + 3 + 1)), "{after:?}");
    assert_eq!(bench.family(Family::Ipv4).reason, Reason::MemberFell(Cause::Upstream));
    assert_eq!(members(&bench, Family::Ipv6), [PORT, PORT_B], "the other family has no targets");
}

#[test]
fn a_member_without_carrier_leaves_at_once() {
    let mut bench = shared();
    bench.kernel.set_carrier(PORT_B, false);
    let after = until_members(&mut bench, secs(1), &[PORT]);
    assert!(after < ms(1), "{after:?}");
    assert_eq!(bench.family(Family::Ipv4).reason, Reason::MemberFell(Cause::Link));
    bench.kernel.set_carrier(PORT_B, true);
    bench.run(secs(20));
    assert_members(&bench, &[PORT]);
    until_members(&mut bench, secs(20), &[PORT, PORT_B]);
}

#[test]
fn a_member_that_is_set_down_is_not_taken_up_again_with_its_interface() {
    for observer in [Observer::Prompt, Observer::Looks(ms(10))] {
        let mut bench = shared();
        bench.observer = observer;
        bench.down(PORT);
        bench.run(ms(20));
        assert_members(&bench, &[PORT_B]);
        for family in Family::ALL {
            assert_eq!(pin(&bench, family).legs().iter().count(), 1, "no dead hop waits in it");
        }
        bench.up(PORT);
        bench.run(secs(20));
        assert_members(&bench, &[PORT_B]);
        until_members(&mut bench, secs(20), &[PORT, PORT_B]);
    }
}

#[test]
fn a_member_whose_interface_is_deleted_leaves() {
    let mut bench = shared();
    bench.kernel.remove_link(PORT_B);
    bench.run(ms(20));
    assert_members(&bench, &[PORT]);
    bench.run(secs(10));
    assert_members(&bench, &[PORT]);
}

#[test]
fn a_member_that_is_gone_and_one_without_carrier_are_left_at_once() {
    // Whenever that is, between two questions to whoever is next.
    for wait in [5_013, 5_333, 5_700] {
        let mut bench = shared();
        bench.plug(SPARE, "eno9");
        bench.lease(SPARE);
        // Of an interface that no entry names nothing is left when it is gone.
        bench.configure(named(&[("none", "none", 1, 1)]));
        bench.run(secs(50));
        assert_members(&bench, &[PORT, MGMT, PORT_B, SPARE]);
        bench.kernel.set_carrier(MGMT, false);
        bench.kernel.set_carrier(SPARE, false);
        bench.run(ms(1));
        bench.kernel.set_carrier(SPARE, true);
        bench.run(ms(wait));
        assert_members(&bench, &[PORT, PORT_B]);
        bench.kernel.remove_link(PORT);
        bench.kernel.set_carrier(PORT_B, false);
        let after = until_members(&mut bench, secs(5), &[SPARE]);
        assert!(after < ms(1), "{after:?}");
    }
}

#[test]
fn silent_members_that_lose_address_and_gateway_are_left_for_one_that_was_not_asked_yet() {
    let mut bench = shared();
    for link in [PORT, PORT_B, MGMT] {
        bench.silence(link);
    }
    let ipv6_default = |link| move |route: &Route| *route == default_route(link, Family::Ipv6);
    bench.forget_routes(ipv6_default(MGMT));
    bench.run(ms(1001));
    bench.lease(MGMT);
    bench.addresses_go(PORT_B);
    bench.forget_routes(ipv6_default(PORT));
    bench.run(ms(1));
    assert_eq!(members(&bench, Family::Ipv6), [MGMT]);
}

#[test]
fn with_no_member_left_the_next_tier_is_taken() {
    let mut bench = shared();
    bench.silence(PORT);
    bench.run(secs(10));
    bench.silence(PORT_B);
    let after = until_members(&mut bench, secs(3), &[MGMT]);
    assert!(after > ms(700) && after <= ms(1100), "{after:?}");
    bench.revive(PORT);
    bench.revive(PORT_B);
    until_members(&mut bench, secs(150), &[PORT, PORT_B]);
}

#[test]
fn both_silent_at_once_go_together() {
    let mut bench = shared();
    bench.silence(PORT);
    bench.silence(PORT_B);
    let after = until_members(&mut bench, secs(3), &[MGMT]);
    assert!(after > ms(700) && after <= ms(1300), "{after:?}");
    assert_eq!(bench.elections.last().map(|e| e.before.len()), Some(2));
}

#[test]
fn without_carriers_the_next_tier_is_taken_at_once() {
    let mut bench = shared();
    bench.kernel.set_carrier(PORT, false);
    bench.kernel.set_carrier(PORT_B, false);
    let after = until_members(&mut bench, secs(1), &[MGMT]);
    assert!(after < ms(1), "{after:?}");
}

#[test]
fn everybody_silent_is_no_reason_to_move_and_members_answer_again_together() {
    let mut bench = shared();
    let all = [PORT, PORT_B, MGMT];
    all.iter().for_each(|link| bench.silence(*link));
    bench.run(secs(60));
    assert_members(&bench, &[PORT, PORT_B]);
    assert_eq!(bench.health(DPU), Health::Down(Cause::Shared));
    let elections = bench.elections.len();
    bench.revive(PORT_B);
    bench.run(ms(500));
    bench.revive(PORT);
    bench.revive(MGMT);
    bench.run(secs(60));
    assert_members(&bench, &[PORT, PORT_B]);
    assert_eq!(bench.elections.len(), elections, "nobody was left");
}

#[test]
fn after_a_shared_silence_who_stays_silent_leaves_one_patience_later() {
    let mut bench = shared();
    for link in [PORT, PORT_B, MGMT] {
        bench.silence(link);
    }
    bench.run(secs(60));
    bench.revive(PORT_B);
    let after = until_members(&mut bench, secs(5), &[PORT_B]);
    assert!(after >= secs(1) && after <= ms(1500), "{after:?}");
}

#[test]
fn the_last_member_stays_where_nobody_is_better() {
    let mut bench = shared();
    bench.kernel.set_carrier(MGMT, false);
    bench.silence(PORT);
    bench.run(secs(5));
    assert_members(&bench, &[PORT_B]);
    bench.silence(PORT_B);
    bench.run(secs(60));
    assert_members(&bench, &[PORT_B]);
}

#[test]
fn many_tiers_fall_and_return_one_after_the_other() {
    let mut bench = two_ports();
    bench.plug(SPARE, "eno9");
    bench.lease(SPARE);
    bench.policy =
        named(&[("a", "ens1f0np0", 1, 1), ("b", "ens2f0np0", 2, 1), ("c", BOARD, 3, 1), ("d", "eno9", 3, 1)]);
    bench.start();
    bench.run(secs(5));
    let tiers: [&[LinkIndex]; 3] = [&[PORT], &[PORT_B], &[MGMT, SPARE]];
    assert_members(&bench, tiers[0]);
    for pair in tiers.windows(2) {
        bench.silence(pair[0][0]);
        until_members(&mut bench, secs(3), pair[1]);
    }
    for tier in [tiers[1], tiers[0]] {
        bench.revive(tier[0]);
        until_members(&mut bench, secs(40), tier);
    }
}

#[test]
fn a_member_that_comes_late_joins_after_one_patience_whatever_preempt_says() {
    let mut bench = two_ports();
    bench.policy.preempt = Preempt::Never;
    bench.kernel.set_carrier(PORT_B, false);
    bench.start();
    bench.run(secs(40));
    assert_members(&bench, &[PORT]);
    bench.kernel.set_carrier(PORT_B, true);
    let after = until_members(&mut bench, secs(5), &[PORT, PORT_B]);
    assert!(after >= secs(1), "{after:?}");
}

#[test]
fn a_restart_takes_all_members_over_and_changes_nothing() {
    let mut bench = shared();
    let writes = bench.writes();
    for _ in 0..3 {
        bench.restart();
        bench.run(secs(3));
        assert_eq!(bench.family(Family::Ipv4).reason, Reason::TakenOver);
        assert_eq!(bench.family(Family::Ipv6).elected, [DPU, DPU_B]);
    }
    assert_eq!(bench.writes(), writes);
    bench.silence(PORT);
    until_members(&mut bench, secs(3), &[PORT_B]);
}

#[test]
fn a_stop_leaves_the_table_as_it_was() {
    for placement in [Placement::Main, Placement::Table] {
        let mut bench = two_ports();
        bench.policy.placement = placement;
        let before = bench.kernel.routes.clone();
        bench.start();
        bench.run(secs(5));
        assert_members(&bench, &[PORT, PORT_B]);
        bench.stop();
        assert_eq!(bench.kernel.routes, before);
        assert!(!bench.kernel.has_ours());
    }
}

#[test]
fn in_its_own_table_it_shrinks_and_grows_as_well() {
    let mut bench = two_ports();
    bench.policy.placement = Placement::Table;
    bench.start();
    bench.run(secs(40));
    bench.silence(PORT_B);
    until_members(&mut bench, secs(3), &[PORT]);
    bench.revive(PORT_B);
    until_members(&mut bench, secs(40), &[PORT, PORT_B]);
    assert!(bench.kernel.pins(Family::Ipv4).iter().all(|pin| pin.table() == 117));
}

#[test]
fn one_uplink_is_left_when_the_operator_wants_the_first_only() {
    let mut bench = shared();
    let first = Policy { within_tier: WithinTier::First, ..bench.policy.clone() };
    let multipath = bench.policy.clone();
    bench.configure(first);
    bench.run(secs(2));
    assert_members(&bench, &[PORT]);
    bench.configure(multipath);
    bench.run(secs(2));
    assert_members(&bench, &[PORT, PORT_B]);
}

#[test]
fn a_path_without_a_gateway_is_no_member() {
    let mut bench = two_ports();
    bench.policy = named(&[("a", "ens1f0np0", 1, 1), ("b", "eno9", 1, 1)]);
    bench.plug(SPARE, "eno9");
    bench.addresses_come(SPARE);
    for family in Family::ALL {
        bench.link_default(family, 4000, SPARE);
    }
    bench.start();
    bench.run(secs(40));
    assert_members(&bench, &[PORT]);
    assert_eq!(bench.health("b"), Health::Up);
}

#[test]
fn it_says_only_what_all_members_agree_on() {
    let mut bench = two_ports();
    bench.kernel.routes.retain(|route| route.hops[0].link == MGMT);
    for (link, mtu, window) in [(PORT, 9000, 10), (PORT_B, 1400, 20)] {
        let mut route = default_route(link, Family::Ipv4);
        let source = bench.kernel.addresses.iter().find(|address| address.link == link);
        route.attributes.source = source.map(|address| address.prefix.address);
        // RTAX_MTU, RTAX_INITCWND and RTAX_HOPLIMIT (linux/rtnetlink.h).
        route.attributes.metrics = BTreeMap::from([(2, mtu), (11, window), (10, 60)]);
        bench.kernel.add_route(route).expect("its place is free");
    }
    bench.start();
    bench.run(secs(5));
    assert_eq!(members(&bench, Family::Ipv4), [PORT, PORT_B]);
    let attributes = pin(&bench, Family::Ipv4).attributes().clone();
    assert_eq!(attributes.source, None, "each hop has an address of its own");
    assert_eq!(attributes.metrics, BTreeMap::from([(2, 1400), (10, 60)]));
    bench.silence(PORT_B);
    bench.run(secs(5));
    let attributes = pin(&bench, Family::Ipv4).attributes().clone();
    assert!(attributes.source.is_some());
    assert_eq!(attributes.metrics, BTreeMap::from([(2, 9000), (11, 10), (10, 60)]));
}

/// An administrator's default route through an uplink that is none of the members.
fn appended(metric: u32) -> Route {
    Route { metric, protocol: protocol::STATIC, ..default_route(MGMT, Family::Ipv6) }
}

#[test]
fn another_programs_ipv6_hop_at_its_metric_stays_and_is_outranked() {
    let mut bench = shared();
    let metric = pin(&bench, Family::Ipv6).metric();
    bench.kernel.append_route(appended(metric)).expect("IPv6 joins it");
    bench.run(secs(1));
    assert_eq!(members(&bench, Family::Ipv6), [PORT, PORT_B]);
    assert!(pin(&bench, Family::Ipv6).metric() < metric);
    assert!(bench.kernel.routes.contains(&Route { weights: vec![Weight::ONE], ..appended(metric) }));
}

#[test]
fn metrics_are_not_used_up_by_many_changes() {
    let mut bench = shared();
    bench.plug_dpu(SPARE, "ens3f0np0", 7);
    bench.lease(SPARE);
    bench.run(secs(5));
    let all = [PORT, PORT_B, SPARE];
    assert_members(&bench, &all);
    let lowest = default_route(MGMT, Family::Ipv6).metric;
    for round in 0..12 {
        // From two members to two others, and to all.
        let link = all[round % 3];
        bench.kernel.set_carrier(link, false);
        bench.run(secs(1));
        bench.kernel.set_carrier(link, true);
        until_members(&mut bench, secs(700), &all);
        let metric = pin(&bench, Family::Ipv6).metric();
        assert!(metric >= lowest - 3, "{round}: {metric}");
    }
}

#[test]
fn a_kill_in_the_middle_of_any_change_is_put_right() {
    for operations in 0..6 {
        let mut bench = shared();
        bench.kill_after = Some(operations);
        bench.kernel.set_carrier(PORT, false);
        bench.run(secs(1));
        bench.restart();
        bench.run(secs(3));
        assert_members(&bench, &[PORT_B]);
        checks::table_agrees(&bench);
        for family in Family::ALL {
            assert_eq!(bench.kernel.pins(family).len(), 1);
        }
    }
}

#[test]
fn a_shrinking_pin_is_never_gone() {
    let mut bench = shared();
    // Without any other default route, each lookup depends on the pin alone. IPv6 gateways that are not
    // advertised any more are gone.
    bench.forget_routes(|route| route.is_default() && route.family == Family::Ipv4);
    bench.run(secs(1));
    let before = bench.operations.len();
    bench.kernel.set_carrier(PORT_B, false);
    bench.run(secs(1));
    assert_members(&bench, &[PORT]);
    let ops: Vec<&Op> = bench.operations[before..].iter().map(|(_, op, _)| op).collect();
    assert!(matches!(ops.first(), Some(Op::AddRoute(_))), "{ops:?}");
}

#[test]
fn a_foreign_multipath_default_is_still_somebodys_wish() {
    let mut bench = two_ports();
    bench.multipath(Family::Ipv4, 10, &[PORT, PORT_B]);
    bench.start();
    bench.run(secs(5));
    assert!(bench.kernel.pins(Family::Ipv4).is_empty());
    assert_eq!(bench.kernel.routes.iter().filter(|r| r.metric == 10).count(), 1);
    let foreign = plain_default(Family::Ipv4).protocol;
    assert!(bench.kernel.routes.iter().any(|r| r.metric == 10 && r.protocol == foreign));
}

#[test]
fn a_member_is_not_left_for_one_that_fell_silent_with_it() {
    let mut bench = two_ports();
    bench.kernel.set_carrier(PORT_B, false);
    bench.start();
    // Now they are asked at different moments, and judged so.
    bench.run(secs(40) + ms(120));
    bench.kernel.set_carrier(PORT_B, true);
    until_members(&mut bench, secs(5), &[PORT, PORT_B]);
    for wait in [40, 80, 120, 160, 200, 240] {
        bench.run(secs(200) + ms(wait));
        bench.silence(PORT);
        bench.silence(PORT_B);
        bench.silence(MGMT);
        bench.run(secs(5));
        assert_members(&bench, &[PORT, PORT_B]);
        for link in [PORT, PORT_B, MGMT] {
            bench.revive(link);
        }
        bench.run(secs(5));
        assert_members(&bench, &[PORT, PORT_B]);
    }
    bench.assert_never_moved_but_joined();
}
