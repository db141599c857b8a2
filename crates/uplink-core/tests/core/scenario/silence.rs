//! A gateway that gives no sign of life.

use std::time::Duration;

use uplink_core::policy::Policy;
use uplink_core::snapshot::Family;
use uplink_core::status::{Cause, Health, Kind};

use crate::sim::bench::Bench;
use crate::sim::site::{BOARD, DPU, MGMT, PORT, PORT_B, steered_worker, worker};
use crate::sim::world::Gateway;
use crate::sim::{ms, secs};

/// A switch may be later than patience by this much: the end of patience is noticed at once, the
/// rest is the rival's answer.
const MARGIN: Duration = ms(100);

fn steered_with(patience: Duration) -> Bench {
    let mut bench = worker();
    bench.policy = Policy { patience, ..Policy::default() };
    bench.start();
    bench.run(secs(3));
    bench.assert_way(PORT);
    bench
}

#[test]
fn it_is_left_when_patience_ends_and_not_before() {
    for patience in [secs(1), ms(300), ms(200)] {
        for offset in 0..20 {
            let mut bench = steered_with(patience);
            bench.run(patience * offset / 20);
            bench.silence(PORT);
            let signs: Vec<_> =
                Family::ALL.iter().map(|family| bench.world.heard[&(PORT, *family)].at).collect();
            let after = bench.until(secs(5), |bench| bench.leaves_by(MGMT));
            let after = after.unwrap_or_else(|| panic!("{patience:?}: never left"));
            assert!(after <= patience + MARGIN, "{patience:?}, at {offset}/20: left after {after:?}");
            for (family, sign) in Family::ALL.iter().zip(signs) {
                let left = bench.elections.iter().rfind(|e| e.family == *family).expect("it moved").at;
                assert!(left.since(sign) >= patience, "{patience:?}: left {:?} early", left.since(sign));
            }
        }
    }
}

#[test]
fn however_long_patience_is_it_ends() {
    for patience in [secs(10), secs(60)] {
        let mut bench = steered_with(patience);
        bench.run(secs(7));
        bench.silence(PORT);
        let after = bench.until(patience * 2, |bench| bench.leaves_by(MGMT));
        let after = after.unwrap_or_else(|| panic!("{patience:?}: never left"));
        assert!(after <= patience + MARGIN, "{patience:?}: left after {after:?}");
    }
}

#[test]
fn what_never_answered_is_down_when_patience_ends() {
    for patience in [secs(1), secs(10), secs(60)] {
        let mut bench = worker();
        bench.policy = Policy { patience, ..Policy::default() };
        bench.silence(PORT);
        bench.start();
        bench.run(patience + MARGIN);
        assert_eq!(bench.health(DPU), Health::Down(Cause::Gateway), "{patience:?}");
    }
}

#[test]
fn a_silent_path_is_not_shown_without_loss() {
    let mut bench = steered_worker();
    let loss = |bench: &Bench| bench.path(DPU, Family::Ipv4).and_then(|path| path.loss_percent);
    assert_eq!(loss(&bench), Some(0));
    bench.silence(PORT);
    bench.run(secs(5));
    assert_eq!(loss(&bench), None);
}

#[test]
fn both_silent_is_no_reason_to_move() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.silence(MGMT);
    bench.run(secs(300));
    bench.assert_way(PORT);
    let health = bench.path(DPU, Family::Ipv4).map(|path| path.health);
    assert_eq!(health, Some(Health::Down(Cause::Shared)));
    assert_eq!(bench.elections.len(), 2);
}

#[test]
fn after_a_shared_silence_the_first_to_answer_waits_for_the_preferred() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.silence(MGMT);
    bench.run(secs(30));
    bench.revive(MGMT);
    bench.run(ms(50));
    bench.revive(PORT);
    bench.run(secs(120));
    bench.assert_way(PORT);
    assert_eq!(bench.elections.len(), 2);
}

#[test]
fn after_a_shared_silence_management_alone_is_taken_one_patience_later() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.silence(MGMT);
    bench.run(secs(30));
    bench.revive(MGMT);
    let after = bench.until(secs(10), |bench| bench.leaves_by(MGMT)).expect("it moves");
    // It is asked every quarter of patience while all are silent.
    assert!(after >= secs(1) && after <= secs(1) + ms(250) + MARGIN, "{after:?}");
}

#[test]
fn after_a_shared_silence_nobody_waits_for_a_port_without_carrier() {
    let mut bench = worker();
    bench.plug_dpu(PORT_B, "ens2f0np0", 0x41);
    bench.lease(PORT_B);
    bench.kernel.set_carrier(PORT, false);
    bench.start();
    bench.run(secs(40));
    bench.assert_way(PORT_B);
    bench.silence(PORT_B);
    bench.run(secs(5));
    bench.assert_way(MGMT);
    bench.silence(MGMT);
    bench.run(secs(30));
    bench.revive(PORT_B);
    let after = bench.until(secs(10), |bench| bench.leaves_by(PORT_B)).expect("it moves");
    assert!(after <= ms(250) + MARGIN, "{after:?}");
}

#[test]
fn after_a_shared_silence_whoever_answers_is_not_called_down_for_long() {
    for phase in 0..10 {
        let mut bench = steered_worker();
        bench.silence(PORT);
        bench.silence(MGMT);
        bench.run(secs(30) + ms(25) * phase);
        // Management is back too late for its own question, before the port's answer comes.
        bench.gateways(PORT, |gateway| *gateway = Gateway { latency: ms(240), ..Gateway::well() });
        bench.run(ms(239));
        bench.revive(MGMT);
        let up = |uplink| {
            move |bench: &Bench| {
                bench.path(uplink, Family::Ipv4).is_some_and(|path| path.health == Health::Up)
            }
        };
        bench.until(secs(2), up(DPU)).expect("the port answers");
        let after = bench.until(secs(2), up(BOARD)).expect("management answers");
        assert!(after <= ms(5), "{after:?}");
    }
}

#[test]
fn filtered_echo_is_set_aside_and_does_not_move() {
    let mut bench = steered_worker();
    bench.gateways(PORT, |gateway| gateway.echo = false);
    bench.run(secs(300));
    bench.assert_way(PORT);
    let path = bench.path(DPU, Family::Ipv4).expect("it is shown");
    assert_eq!((path.health, path.asked), (Health::Up, Some(Kind::Neighbour)));
    assert_eq!(bench.elections.len(), 2);

    bench.silence(PORT);
    let after = bench.until(secs(5), |bench| bench.leaves_by(MGMT)).expect("it moves");
    assert!(after <= secs(1) + MARGIN, "{after:?}");
}

#[test]
fn a_gateway_that_only_forwards_is_believed_for_three_times_patience() {
    for (silent_for, moves) in [(ms(2000), false), (ms(4000), true)] {
        let mut bench = steered_worker();
        bench.gateways(PORT, |gateway| gateway.busy = true);
        bench.run(secs(1));
        bench.gateways(PORT, |gateway| (gateway.echo, gateway.neighbour) = (false, false));
        bench.run(silent_for);
        assert_eq!(bench.leaves_by(MGMT), moves, "silent for {silent_for:?}");
        bench.gateways(PORT, |gateway| (gateway.echo, gateway.neighbour) = (true, true));
        bench.run(secs(5));
        assert_eq!(bench.leaves_by(MGMT), moves, "silent for {silent_for:?}");
    }
}

#[test]
fn a_standby_that_dies_is_shown_and_changes_nothing() {
    let mut bench = steered_worker();
    let writes = bench.pin_writes();
    bench.silence(MGMT);
    bench.run(secs(60));
    assert_eq!(bench.path(BOARD, Family::Ipv4).map(|path| path.health), Some(Health::Down(Cause::Gateway)));
    assert_eq!(bench.pin_writes(), writes);
    bench.assert_way(PORT);
}

#[test]
fn a_short_silence_is_forgiven() {
    let mut bench = steered_worker();
    for _ in 0..20 {
        bench.silence(PORT);
        bench.run(ms(700));
        bench.revive(PORT);
        bench.run(secs(10));
    }
    bench.assert_way(PORT);
    assert_eq!(bench.elections.len(), 2);
}
