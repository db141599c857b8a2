//! Another program that keeps undoing what we write.

use uplink_core::snapshot::Family;
use uplink_core::status::{Aside, Notice};

use crate::sim::site::{MGMT, PORT, steered_worker};
use crate::sim::{ms, secs};

#[test]
fn who_deletes_the_pin_over_and_over_is_yielded_to_for_a_while() {
    let mut bench = steered_worker();
    let before = bench.pin_writes();
    for _ in 0..100 {
        bench.pins_go();
        bench.run(ms(50));
    }
    let written = bench.pin_writes() - before;
    assert!(written <= 60, "{written} writes");
    let said = bench
        .notices
        .iter()
        .any(|(_, notice)| matches!(notice, Notice::Aside { aside: Some(Aside::Contest), .. }));
    assert!(said);
    bench.run(secs(70));
    bench.assert_way(PORT);
    assert_eq!(bench.family(Family::Ipv4).aside, None);
}

#[test]
fn an_undone_pin_is_laid_again_within_a_moment() {
    let mut bench = steered_worker();
    for _ in 0..5 {
        bench.pins_go();
        let after = bench.until(secs(1), |bench| bench.leaves_by(PORT)).expect("it is laid again");
        assert!(after <= ms(1), "{after:?}");
        bench.run(secs(3));
    }
}

#[test]
fn a_contest_does_not_keep_anybody_on_a_dead_path() {
    let mut bench = steered_worker();
    for family in Family::ALL {
        bench.remetric(PORT, family, 20);
        bench.remetric(MGMT, family, 30);
    }
    bench.run(secs(1));
    bench.silence(PORT);
    bench.run(secs(3));
    bench.assert_way(MGMT);
    for _ in 0..100 {
        bench.pins_go();
        bench.run(ms(50));
    }
    bench.silence(MGMT);
    bench.revive(PORT);
    bench.run(secs(70));
    bench.assert_way(PORT);
}
