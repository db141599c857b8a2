//! Coming back: slow, damped, and as the operator allows.

use std::time::Duration;

use uplink_core::policy::{Policy, Preempt};
use uplink_core::snapshot::{Family, LinkIndex};

use crate::sim::bench::Bench;
use crate::sim::site::{BOARD, DPU, MGMT, PORT, PORT_B, steered_worker, worker};
use crate::sim::world::Gateway;
use crate::sim::{ms, secs};

/// The share of a tenth that the test machine adds to every wait, and the rounds of asking.
const SLACK: Duration = secs(4);

/// Lets the port fall, and tells how long after its recovery it was taken again.
fn fall_and_return(bench: &mut Bench) -> Duration {
    bench.silence(PORT);
    bench.until(secs(10), |bench| bench.leaves_by(MGMT)).expect("it moves");
    bench.run(secs(5));
    bench.revive(PORT);
    bench.until(secs(1000), |bench| bench.leaves_by(PORT)).expect("it comes back")
}

#[test]
fn each_fall_within_ten_minutes_doubles_the_wait() {
    let mut bench = steered_worker();
    for wait in [30, 60, 120, 240] {
        let after = fall_and_return(&mut bench);
        let most = secs(wait) + secs(wait) / 10 + SLACK;
        assert!(after >= secs(wait) && after <= most, "{after:?} instead of {wait} s");
    }
}

#[test]
fn no_wait_is_longer_than_ten_minutes() {
    let mut bench = worker();
    bench.policy = Policy { return_after: secs(300), ..Policy::default() };
    bench.start();
    bench.run(secs(5));
    for wait in [300, 600] {
        let after = fall_and_return(&mut bench);
        assert!(after >= secs(wait) && after <= secs(wait) + secs(wait) / 10 + SLACK, "{after:?}");
    }
}

#[test]
fn a_silence_of_half_a_patience_begins_the_wait_anew() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.run(secs(3));
    bench.revive(PORT);
    for _ in 0..10 {
        bench.run(secs(20));
        bench.silence(PORT);
        bench.run(ms(1900));
        bench.revive(PORT);
    }
    bench.assert_way(MGMT);
    bench.run(secs(40));
    bench.assert_way(PORT);
}

#[test]
fn a_long_way_to_the_gateway_is_no_loss() {
    for (patience, latency) in [(secs(1), ms(300)), (secs(1), ms(450)), (ms(200), ms(60))] {
        let mut bench = worker();
        bench.policy = Policy { patience, ..Policy::default() };
        bench.gateways(PORT, |gateway| gateway.latency = latency);
        bench.start();
        bench.run(secs(20));
        bench.assert_way(PORT);
        bench.silence(PORT);
        bench.until(secs(10), |bench| bench.leaves_by(MGMT)).expect("it moves");
        bench.gateways(PORT, |gateway| *gateway = Gateway { latency, ..Gateway::well() });
        let after = bench.until(secs(120), |bench| bench.leaves_by(PORT));
        assert!(after.is_some_and(|after| after <= secs(33) + SLACK), "{latency:?}: {after:?}");
    }
}

#[test]
fn one_in_five_lost_is_not_well_enough_to_come_back() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.until(secs(10), |bench| bench.leaves_by(MGMT)).expect("it moves");
    bench.revive(PORT);
    bench.gateways(PORT, |gateway| gateway.loss = 20);
    bench.run(secs(300));
    bench.assert_way(MGMT);
}

#[test]
fn what_never_fell_is_taken_after_one_patience() {
    let mut bench = worker();
    bench.kernel.set_carrier(PORT, false);
    bench.kernel.dpu_ports.clear();
    bench.start();
    bench.run(secs(60));
    bench.assert_way(MGMT);
    bench.kernel.set_carrier(PORT, true);
    let after = bench.until(secs(20), |bench| bench.leaves_by(PORT)).expect("it is taken");
    assert!(after >= secs(1) && after <= secs(2), "{after:?}");
}

#[test]
fn preempt_says_when_a_better_path_is_taken() {
    for (preempt, taken) in [(Preempt::Always, true), (Preempt::Boot, false), (Preempt::Never, false)] {
        let mut bench = worker();
        bench.policy = Policy { preempt, ..Policy::default() };
        bench.start();
        bench.run(secs(5));
        bench.silence(PORT);
        bench.run(secs(5));
        bench.assert_way(MGMT);
        bench.revive(PORT);
        bench.run(secs(120));
        assert_eq!(bench.leaves_by(PORT), taken, "{preempt:?}");
        bench.silence(MGMT);
        bench.run(secs(5));
        bench.assert_way(PORT);
    }
}

#[test]
fn a_port_that_keeps_failing_is_mostly_left_alone() {
    let mut bench = steered_worker();
    // Forty falls in 2000 s: taken twice in ten minutes, before its falls there are forgotten.
    for _ in 0..40 {
        bench.silence(PORT);
        bench.run(secs(5));
        bench.revive(PORT);
        bench.run(secs(45));
    }
    for family in Family::ALL {
        assert!(bench.moves(family) <= 16, "{:#?}", bench.elections);
    }
}

#[test]
fn the_first_of_two_dpus_is_preferred_and_the_second_stands_in() {
    let mut bench = worker();
    bench.plug_dpu(PORT_B, "ens2f0np0", 0x41);
    bench.lease(PORT_B);
    bench.start();
    bench.run(secs(5));
    bench.assert_way(PORT);
    bench.silence(PORT);
    bench.run(secs(5));
    bench.assert_way(PORT_B);
    bench.silence(PORT_B);
    bench.run(secs(5));
    bench.assert_way(MGMT);
    bench.revive(PORT_B);
    bench.run(secs(40));
    bench.assert_way(PORT_B);
    bench.revive(PORT);
    bench.run(secs(40));
    bench.assert_way(PORT);
    assert!(bench.path(DPU, Family::Ipv4).is_some_and(|path| path.returns_at.is_none()));
}

#[test]
fn no_more_falls_are_remembered_than_matter() {
    let mut bench = worker();
    bench.policy = Policy { return_after: secs(0), patience: ms(200), ..Policy::default() };
    bench.start();
    bench.run(secs(5));
    for _ in 0..40 {
        bench.kernel.set_carrier(PORT, false);
        bench.until(secs(1), |bench| bench.leaves_by(MGMT)).expect("it moves");
        bench.kernel.set_carrier(PORT, true);
        bench.until(secs(5), |bench| bench.leaves_by(PORT)).expect("it comes back");
    }
    bench.stop();
    assert!(bench.memory.paths.iter().all(|path| path.falls.len() <= 17), "{:?}", bench.memory);
}

/// Interfaces that are made, elected and destroyed for as long as the host runs.
#[test]
fn no_more_gone_interfaces_are_remembered_than_matter() {
    let mut bench = worker();
    bench.unplug(PORT);
    bench.kernel.dpu_ports.clear();
    bench.start();
    bench.run(secs(5));
    let elected = |bench: &Bench, uplink: &str| bench.family(Family::Ipv4).elected == [uplink];
    for number in 0..100 {
        let (wan, name) = (LinkIndex(200 + number), format!("wan{number}"));
        bench.plug(wan, &name);
        bench.lease(wan);
        bench.remetric(wan, Family::Ipv4, 20);
        bench.until(secs(5), |bench| elected(bench, &name)).expect("it is taken");
        bench.unplug(wan);
        bench.until(secs(1), |bench| elected(bench, BOARD)).expect("it is left");
        if number % 40 == 0 {
            bench.restart();
        }
    }
    // And the one that fell just now.
    assert_eq!(bench.memory.paths.iter().filter(|path| path.uplink != BOARD).count(), 64 + 1);
    // The last are known well enough.
    bench.plug(LinkIndex(299), "wan99");
    bench.lease(LinkIndex(299));
    bench.remetric(LinkIndex(299), Family::Ipv4, 20);
    bench.run(secs(25));
    assert!(elected(&bench, BOARD));
    bench.unplug(LinkIndex(299));
    // None of them is damped any more.
    bench.run(secs(700));
    bench.pods(1);
    bench.run(secs(1));
    bench.stop();
    let names: Vec<&String> = bench.memory.paths.iter().map(|path| &path.uplink).collect();
    assert!(names.iter().all(|name| *name == BOARD), "{names:?}");
}
