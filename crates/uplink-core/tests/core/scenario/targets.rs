//! What lies behind a living gateway.

use std::net::IpAddr;

use uplink_core::event::Outcome;
use uplink_core::own::{Op, OwnRoute, probe_table};
use uplink_core::policy::{Match, Mode, Need, Policy, Target, UplinkPolicy};
use uplink_core::snapshot::{Attributes, Family, Hop, LinkIndex, Route, Weight, protocol};
use uplink_core::status::{Cause, Health, Reason};

use crate::sim::bench::Bench;
use crate::sim::kernel::Errno;
use crate::sim::site::{MGMT, PORT, default_route, worker};
use crate::sim::{ms, secs};

const NEAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));
const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 2));
const WEB: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 3));

/// A worker whose port, and management too if so, have these targets.
fn with_targets(need: Need, targets: &[IpAddr], management: bool) -> Bench {
    let mut bench = worker();
    bench.policy = policy(need, targets, management);
    bench.world.targets.extend(targets);
    bench.start();
    bench.run(secs(30));
    bench.assert_way(PORT);
    bench
}

fn policy(need: Need, targets: &[IpAddr], management: bool) -> Policy {
    let uplink = |name: &str, interface: &str, tier, asked: &[IpAddr]| UplinkPolicy {
        name: name.to_owned(),
        matching: Match::Interface(interface.to_owned()),
        tier,
        weight: Weight::ONE,
        gateways: Vec::new(),
        targets: asked.iter().copied().map(Target::Icmp).collect(),
        need,
        interval: secs(5),
    };
    let behind = if management { targets } else { &[] };
    let uplinks = vec![uplink("port", "ens1f0np0", 1, targets), uplink("board", "eno1", 2, behind)];
    Policy { uplinks, ..Policy::default() }
}

fn upstream(bench: &Bench) -> bool {
    bench.path("port", Family::Ipv4).map(|path| path.health) == Some(Health::Down(Cause::Upstream))
}

#[test]
fn dead_ones_behind_a_living_gateway_move_it() {
    let mut bench = with_targets(Need::Any, &[NEAR, FAR], true);
    bench.gateways(PORT, |gateway| gateway.forwards = false);
    let after = bench.until(secs(20), |bench| bench.way(Family::Ipv4) == Some(MGMT)).expect("it moves");
    assert!(after <= secs(5 + 3 + 1), "{after:?}");
    assert_eq!(bench.elections.last().map(|e| e.reason), Some(Reason::Fell(Cause::Upstream)));
    assert!(upstream(&bench));
    assert_eq!(bench.way(Family::Ipv6), Some(PORT), "the other family has no targets");
}

#[test]
fn a_rival_without_targets_is_proved_by_its_gateway() {
    let mut bench = with_targets(Need::Any, &[NEAR], false);
    bench.gateways(PORT, |gateway| gateway.forwards = false);
    bench.run(secs(12));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
}

#[test]
fn both_upstreams_dead_is_no_reason_to_move() {
    let mut bench = with_targets(Need::Any, &[NEAR, FAR], true);
    bench.world.targets.clear();
    bench.run(secs(300));
    bench.assert_way(PORT);
    bench.assert_never_moved();
    let health = bench.path("port", Family::Ipv4).map(|path| path.health);
    assert_eq!(health, Some(Health::Down(Cause::Shared)));
}

#[test]
fn as_many_as_are_needed_must_answer() {
    let cases = [
        (Need::Any, 1, false),
        (Need::Any, 2, false),
        (Need::Any, 3, true),
        (Need::All, 1, true),
        (Need::AtLeast(2), 1, false),
        (Need::AtLeast(2), 2, true),
    ];
    for (need, dead, moves) in cases {
        let mut bench = with_targets(need, &[NEAR, FAR, WEB], false);
        for target in [NEAR, FAR, WEB].into_iter().take(dead) {
            bench.world.targets.remove(&target);
        }
        bench.run(secs(20));
        let way = if moves { MGMT } else { PORT };
        assert_eq!(bench.way(Family::Ipv4), Some(way), "{need:?} with {dead} dead");
        assert_eq!(upstream(&bench), moves, "{need:?} with {dead} dead");
    }
}

#[test]
fn the_path_is_taken_again_when_they_answer() {
    let mut bench = with_targets(Need::Any, &[NEAR], true);
    bench.gateways(PORT, |gateway| gateway.forwards = false);
    bench.run(secs(60));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
    bench.revive(PORT);
    bench.run(secs(25));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
    bench.run(secs(20));
    bench.assert_way(PORT);
}

#[test]
fn one_dead_target_of_several_does_not_hurry_the_rival() {
    let mut bench = with_targets(Need::Any, &[NEAR, FAR], false);
    bench.world.targets.remove(&NEAR);
    bench.run(secs(30));
    let before = bench.turns.total;
    bench.run(secs(60));
    let a_second = (bench.turns.total - before) / 60;
    assert!(a_second <= 25, "{a_second} turns a second");
}

#[test]
fn a_target_long_dead_does_not_make_old_answers_of_the_rival_count() {
    let mut bench = with_targets(Need::Any, &[NEAR, FAR], true);
    bench.world.targets.remove(&NEAR);
    bench.run(secs(600));
    bench.world.targets.remove(&FAR);
    bench.run(secs(60));
    bench.assert_way(PORT);
    bench.assert_never_moved();
}

#[test]
fn nothing_is_left_of_the_probes_ways_after_a_stop() {
    let mut bench = with_targets(Need::Any, &[NEAR, FAR], true);
    bench.stop();
    assert!(!bench.kernel.has_ours(), "{:#?}", bench.kernel);
}

#[test]
fn a_stall_right_after_asking_leaves_no_doubt() {
    let mut bench = with_targets(Need::Any, &[NEAR], false);
    bench.kernel.set_carrier(PORT, false);
    bench.run(secs(1));
    bench.kernel.set_carrier(PORT, true);
    bench.until(secs(1), |bench| bench.world.awaits(NEAR)).expect("its target is asked");
    // The answer is lost; the next question would be asked five seconds later.
    bench.suspend(secs(2));
    bench.run(ms(300));
    assert_eq!(bench.path("port", Family::Ipv4).map(|path| path.health), Some(Health::Up));
}

#[test]
fn a_stall_does_not_make_the_fault_younger() {
    for phase in 0..5 {
        let mut bench = with_targets(Need::Any, &[NEAR], true);
        for link in [PORT, MGMT] {
            bench.gateways(link, |gateway| gateway.forwards = false);
        }
        bench.run(secs(15 + phase));
        let health = bench.path("port", Family::Ipv4).map(|path| path.health);
        assert_eq!(health, Some(Health::Down(Cause::Shared)));
        bench.suspend(secs(60));
        bench.revive(MGMT);
        let after = bench.until(secs(20), |bench| bench.way(Family::Ipv4) == Some(MGMT)).expect("it moves");
        // Its targets are asked every second, and it waits one patience for the port.
        assert!(after <= secs(1 + 1) + ms(100), "{after:?}");
    }
}

#[test]
fn what_cannot_be_sent_is_no_silence() {
    let mut bench = with_targets(Need::Any, &[NEAR], false);
    bench.world.unsendable.insert(NEAR);
    bench.run(secs(60));
    bench.assert_way(PORT);
    bench.assert_never_moved();
    bench.world.unsendable.clear();
    bench.gateways(PORT, |gateway| gateway.forwards = false);
    bench.run(secs(10));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
}

/// Takes our rules away and lets none be laid.
fn without_rules(bench: &mut Bench) {
    bench.kernel.refuse_rules = Some(Errno(95));
    bench.kernel.rules.retain(|rule| rule.protocol != protocol::UPLINKD);
    bench.kernel.changes += 1;
}

#[test]
fn without_a_way_to_its_targets_a_path_is_as_it_was() {
    let mut bench = with_targets(Need::Any, &[NEAR], true);
    bench.gateways(PORT, |gateway| gateway.forwards = false);
    bench.run(secs(60));
    assert_eq!(bench.family(Family::Ipv4).elected, ["board"]);
    without_rules(&mut bench);
    bench.run(secs(120));
    assert!(upstream(&bench), "nobody said that it is well again");
    assert_eq!(bench.family(Family::Ipv4).elected, ["board"]);
}

#[test]
fn without_a_way_to_its_targets_a_path_is_not_preferred() {
    let mut bench = with_targets(Need::Any, &[NEAR], true);
    bench.silence(PORT);
    bench.run(secs(5));
    assert_eq!(bench.family(Family::Ipv4).elected, ["board"]);
    without_rules(&mut bench);
    bench.revive(PORT);
    bench.run(secs(120));
    assert_eq!(bench.family(Family::Ipv4).elected, ["board"]);
    // Nor is it forsaken: it answers, and management does not.
    bench.silence(MGMT);
    bench.run(secs(5));
    assert_eq!(bench.family(Family::Ipv4).elected, ["port"]);
}

#[test]
fn an_observer_takes_targets_that_it_cannot_ask_to_be_well() {
    let mut bench = with_targets(Need::Any, &[NEAR], true);
    bench.stop();
    bench.policy.mode = Mode::Observe;
    bench.start();
    bench.run(secs(30));
    // The host itself uses management, by its metrics.
    assert_eq!(bench.family(Family::Ipv4).elected, ["port"]);
    bench.gateways(MGMT, |gateway| gateway.forwards = false);
    bench.run(secs(30));
    assert_eq!(
        bench.path("board", Family::Ipv4).map(|path| path.health),
        Some(Health::Down(Cause::Upstream))
    );
    let route = default_route(MGMT, Family::Ipv4);
    bench.kernel.delete_route(&route).expect("it is there");
    bench.kernel.add_route(Route { metric: 500, ..route }).expect("its place is free");
    bench.run(secs(30));
    assert_eq!(bench.path("board", Family::Ipv4).map(|path| path.health), Some(Health::Up));
}

fn probe_route(link: LinkIndex, metric: u32) -> OwnRoute {
    let hop = Hop { gateway: Some([10, 0, 120, 77].into()), link };
    OwnRoute::new(Family::Ipv4, probe_table(link), metric, hop, Attributes::default())
}

#[test]
fn a_refused_way_to_them_keeps_no_pin() {
    let mut bench = worker();
    bench.kernel.refuse_tables.insert(probe_table(PORT), Errno(101));
    bench.policy = policy(Need::Any, &[NEAR], false);
    bench.world.targets.insert(NEAR);
    bench.start();
    bench.run(secs(30));
    bench.assert_way(PORT);
    assert_eq!(bench.family(Family::Ipv4).aside, None);
    for _ in 0..3 {
        bench.pins_go();
        let after = bench.until(secs(1), |bench| bench.leaves_by(PORT)).expect("it is laid again");
        assert!(after <= ms(1), "{after:?}");
        bench.run(secs(3));
    }
    bench.run(secs(600));
    assert!(bench.writes() < 180, "{} writes", bench.writes());
}

#[test]
fn what_an_earlier_process_left_in_a_probes_table_is_in_nobodys_way() {
    let mut bench = worker();
    for metric in [1, 2, 7] {
        let done = bench.kernel.carry_out(&Op::AddRoute(probe_route(PORT, metric)));
        assert_eq!(done, Outcome::Done);
    }
    bench.policy = policy(Need::Any, &[NEAR], false);
    bench.world.targets.insert(NEAR);
    bench.start();
    bench.run(secs(30));
    let probed = bench.path("port", Family::Ipv4).expect("it is shown").targets;
    assert_eq!(probed.iter().map(|target| target.answers).collect::<Vec<_>>(), [Some(true)]);
    let failed = bench.operations.iter().filter(|(_, _, outcome)| *outcome != Outcome::Done);
    assert_eq!(failed.count(), 0, "{:#?}", bench.operations);
}
