//! Links, carriers and addresses that come and go.

use uplink_core::snapshot::Family;
use uplink_core::status::{Cause, Health, Reason};

use crate::sim::bench::{Bench, Observer};
use crate::sim::site::{DPU, MGMT, PORT, steered_worker};
use crate::sim::{ms, secs};

#[test]
fn a_lost_carrier_is_left_at_once() {
    let mut bench = steered_worker();
    bench.kernel.set_carrier(PORT, false);
    let after = bench.until(secs(1), |bench| bench.leaves_by(MGMT)).expect("it moves");
    assert!(after < ms(1), "{after:?}");
    assert_eq!(bench.elections.last().map(|e| e.reason), Some(Reason::Fell(Cause::Link)));
}

#[test]
fn an_interface_that_goes_down_is_left_at_once() {
    for observer in [Observer::Prompt, Observer::Looks(ms(10))] {
        let mut bench = steered_worker();
        bench.observer = observer;
        bench.down(PORT);
        bench.run(ms(20));
        bench.assert_way(MGMT);
        assert_eq!(bench.health(DPU), Health::Down(Cause::Link));
        bench.run(secs(30));
        bench.assert_way(MGMT);
    }
}

#[test]
fn a_lost_address_is_left_at_once() {
    let mut bench = steered_worker();
    bench.addresses_go(PORT);
    bench.run(ms(20));
    bench.assert_way(MGMT);
}

#[test]
fn a_lost_carrier_on_both_moves_nothing() {
    let mut bench = steered_worker();
    bench.kernel.set_carrier(MGMT, false);
    bench.run(secs(2));
    bench.kernel.set_carrier(PORT, false);
    bench.run(secs(60));
    bench.assert_way(PORT);
}

#[test]
fn a_silent_path_is_left_when_its_carrier_goes_too() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.silence(MGMT);
    bench.run(secs(10));
    bench.assert_way(PORT);
    bench.kernel.set_carrier(PORT, false);
    bench.run(secs(5));
    bench.assert_way(PORT);
    bench.revive(MGMT);
    bench.run(secs(2));
    bench.assert_way(MGMT);
}

#[test]
fn an_interface_that_comes_up_again_is_taken_again() {
    let mut bench = steered_worker();
    bench.down(PORT);
    bench.run(secs(20));
    bench.up(PORT);
    bench.run(secs(20));
    bench.assert_way(MGMT);
    bench.run(secs(20));
    bench.assert_way(PORT);
    assert_eq!(bench.moves(Family::Ipv4), 2);
}

#[test]
fn a_gateway_that_is_gone_is_watched_no_more() {
    let change: [fn(&mut Bench); 2] =
        [|bench| bench.kernel.set_carrier(PORT, false), |bench| bench.kernel.remove_link(PORT)];
    for change in change {
        let mut bench = steered_worker();
        bench.silence(PORT);
        bench.run(ms(600));
        assert!(!bench.watched.is_empty(), "its silence is looked into");
        change(&mut bench);
        bench.run(ms(10));
        assert!(bench.watched.is_empty(), "{:?}", bench.watched);
    }
}
