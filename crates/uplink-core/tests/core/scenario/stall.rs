//! Our own absence is nobody's fault.

use uplink_core::snapshot::Family;
use uplink_core::status::Notice;

use crate::sim::site::{MGMT, PORT, steered_worker};
use crate::sim::{ms, secs};

#[test]
fn a_stalled_process_blames_nobody() {
    for stall in [ms(50), ms(700), ms(1500), secs(20)] {
        let mut bench = steered_worker();
        for _ in 0..30 {
            bench.stall(stall);
            bench.run(ms(130));
        }
        bench.run(secs(60));
        bench.assert_way(PORT);
        bench.assert_never_moved();
        let blamed = bench.notices.iter().filter(|(at, notice)| {
            *at > bench.lives[0].start.now + secs(5) && matches!(notice, Notice::Health { .. })
        });
        assert_eq!(blamed.count(), 0, "{stall:?}");
    }
}

#[test]
fn a_long_stall_is_told() {
    let mut bench = steered_worker();
    bench.stall(ms(1500));
    let told =
        bench.notices.iter().any(|(_, notice)| matches!(notice, Notice::Asleep(span) if *span > secs(1)));
    assert!(told);
}

#[test]
fn a_fault_during_a_stall_is_found_one_patience_after_it() {
    let mut bench = steered_worker();
    bench.freeze();
    bench.run(ms(100));
    bench.silence(PORT);
    bench.run(ms(1500));
    bench.thaw();
    let after = bench.until(secs(5), |bench| bench.leaves_by(MGMT)).expect("it moves");
    assert!(after <= secs(1) + ms(350), "{after:?}");
}

#[test]
fn a_fault_just_before_a_stall_is_found_after_it() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.run(ms(600));
    bench.stall(ms(700));
    let after = bench.until(secs(5), |bench| bench.leaves_by(MGMT)).expect("it moves");
    assert!(after <= secs(1) + ms(350), "{after:?}");
}

#[test]
fn an_hour_of_suspend_blames_nobody() {
    let mut bench = steered_worker();
    bench.suspend(secs(3600));
    bench.run(secs(60));
    bench.assert_way(PORT);
    bench.assert_never_moved();
}

#[test]
fn the_moment_of_an_election_stays_over_a_suspend() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.run(secs(5));
    let since = bench.family(Family::Ipv4).since;
    let moved = bench.elections.iter().rfind(|e| e.family == Family::Ipv4).map(|e| e.at);
    assert_eq!(moved, Some(since));
    bench.suspend(secs(8 * 3600));
    bench.run(secs(60));
    assert_eq!(bench.family(Family::Ipv4).since, since);
}

#[test]
fn a_wait_does_not_pass_while_nobody_is_awake() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.run(secs(5));
    bench.revive(PORT);
    bench.run(secs(5));
    bench.suspend(secs(3600));
    bench.run(secs(5));
    bench.assert_way(MGMT);
    bench.run(secs(40));
    bench.assert_way(PORT);
}
