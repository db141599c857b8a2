//! The end of one process and the start of the next.

use uplink_core::policy::{Mode, Policy, Preempt};
use uplink_core::snapshot::Family;
use uplink_core::status::Reason;

use crate::sim::site::{MGMT, PORT, steered_worker, worker};
use crate::sim::{checks, ms, secs};

#[test]
fn a_restart_changes_nothing() {
    let mut bench = steered_worker();
    let writes = bench.writes();
    for _ in 0..5 {
        bench.restart();
        bench.run(secs(3));
        assert_eq!(bench.family(Family::Ipv4).reason, Reason::TakenOver);
    }
    bench.assert_way(PORT);
    assert_eq!(bench.writes(), writes);
    bench.assert_never_moved();
}

#[test]
fn a_restart_in_an_outage_keeps_management_and_the_damping() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.run(secs(5));
    bench.assert_way(MGMT);
    bench.restart();
    bench.run(secs(5));
    bench.assert_way(MGMT);
    bench.revive(PORT);
    bench.run(secs(29));
    bench.assert_way(MGMT);
    bench.run(secs(10));
    bench.assert_way(PORT);
    bench.silence(PORT);
    bench.run(secs(3));
    bench.restart();
    bench.revive(PORT);
    bench.run(secs(59));
    bench.assert_way(MGMT);
    bench.run(secs(15));
    bench.assert_way(PORT);
}

#[test]
fn who_was_stopped_has_decided_nothing_for_the_next() {
    let mut bench = steered_worker();
    bench.policy.preempt = Preempt::Never;
    bench.stop();
    bench.start();
    bench.run(secs(5));
    assert_eq!(bench.family(Family::Ipv4).reason, Reason::First);
    bench.assert_way(PORT);
}

#[test]
fn damping_outlives_two_restarts_without_the_port() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.run(secs(3));
    bench.kernel.remove_link(PORT);
    bench.kernel.dpu_ports.clear();
    bench.run(secs(1));
    bench.restart();
    bench.run(secs(1));
    bench.restart();
    bench.plug_dpu(PORT, "ens1f0np0", 3);
    bench.lease(PORT);
    bench.run(secs(25));
    bench.assert_way(MGMT);
    bench.run(secs(15));
    bench.assert_way(PORT);
}

#[test]
fn a_kill_in_the_middle_of_a_switch_is_put_right_by_the_next_start() {
    for operations in 0..4 {
        let mut bench = steered_worker();
        bench.remetric(PORT, Family::Ipv4, 40);
        bench.remetric(MGMT, Family::Ipv4, 20);
        bench.run(secs(1));
        bench.kill_after = Some(operations);
        bench.silence(PORT);
        bench.run(secs(3));
        bench.restart();
        bench.run(secs(5));
        bench.assert_way(MGMT);
        assert!(bench.kernel.pins(Family::Ipv4).len() <= 1, "{:#?}", bench.kernel.pins(Family::Ipv4));
        checks::table_agrees(&bench);
    }
}

#[test]
fn a_pin_without_memory_is_taken_over() {
    let mut bench = steered_worker();
    bench.kill();
    bench.memory = uplink_core::memory::Memory::default();
    bench.gateways(PORT, |gateway| gateway.latency = ms(200));
    bench.start();
    bench.run(secs(5));
    bench.assert_way(PORT);
    bench.assert_never_moved();
}

#[test]
fn a_pin_on_a_dead_path_has_one_patience() {
    let mut bench = steered_worker();
    bench.kill();
    bench.silence(PORT);
    bench.start();
    let after = bench.until(secs(10), |bench| bench.leaves_by(MGMT)).expect("it moves");
    assert!(after >= secs(1) && after <= secs(1) + ms(100), "{after:?}");
}

#[test]
fn a_stop_leaves_the_table_as_it_would_be_without_us() {
    let mut bench = steered_worker();
    let without = bench.kernel.without_us();
    bench.stop();
    assert_eq!(bench.kernel.foreign(), without.foreign());
    assert!(!bench.kernel.has_ours());
    bench.assert_way(MGMT);
}

#[test]
fn observing_writes_nothing_and_says_what_it_would() {
    let mut bench = worker();
    bench.policy = Policy { mode: Mode::Observe, ..Policy::default() };
    bench.start();
    bench.run(secs(30));
    bench.silence(PORT);
    bench.run(secs(30));
    bench.revive(PORT);
    bench.run(secs(60));
    assert_eq!(bench.writes(), 0);
    let would = bench
        .notices
        .iter()
        .filter(|(_, notice)| matches!(notice, uplink_core::status::Notice::Wrote { dry: true, .. }));
    assert!(would.count() >= 2);
    assert_eq!(bench.moves(Family::Ipv4), 2);
}

#[test]
fn a_recording_gives_the_same_answers() {
    let mut bench = steered_worker();
    bench.gateways(PORT, |gateway| gateway.loss = 30);
    bench.run(secs(60));
    bench.down(PORT);
    bench.stall(ms(700));
    bench.up(PORT);
    bench.run(secs(60));
    bench.restart();
    bench.run(secs(30));
    bench.stop();
    assert_eq!(bench.lives.len(), 2);
    for life in &bench.lives {
        life.replay();
    }
}
