//! Gateways that answer only some of the time.

use uplink_core::snapshot::Family;
use uplink_core::status::{Cause, Health, Reason};

use crate::sim::secs;
use crate::sim::site::{DPU, MGMT, PORT, steered_worker};

#[test]
fn a_third_lost_is_left_once_and_for_good() {
    let mut bench = steered_worker();
    bench.gateways(PORT, |gateway| gateway.loss = 30);
    let after = bench.until(secs(60), |bench| bench.leaves_by(MGMT)).expect("it moves");
    assert!(after >= secs(1), "{after:?}");
    for elected in bench.elections.iter().filter(|elected| !elected.before.is_empty()) {
        assert_eq!(elected.reason, Reason::Fell(Cause::Gateway));
    }
    bench.run(secs(900));
    bench.assert_way(MGMT);
    for family in Family::ALL {
        assert_eq!(bench.moves(family), 1, "{:#?}", bench.elections);
    }
}

#[test]
fn one_in_twenty_lost_is_borne() {
    let mut bench = steered_worker();
    bench.gateways(PORT, |gateway| gateway.loss = 5);
    bench.run(secs(900));
    bench.assert_way(PORT);
    bench.assert_never_moved();
}

#[test]
fn loss_everywhere_is_no_reason_to_flap() {
    let mut bench = steered_worker();
    for link in [PORT, MGMT] {
        bench.gateways(link, |gateway| gateway.loss = 40);
    }
    bench.run(secs(900));
    for family in Family::ALL {
        assert!(bench.moves(family) <= 3, "{:#?}", bench.elections);
    }
}

#[test]
fn what_is_lossy_says_so_and_recovers() {
    let mut bench = steered_worker();
    bench.gateways(PORT, |gateway| gateway.loss = 50);
    bench.run(secs(30));
    assert_eq!(bench.path(DPU, Family::Ipv4).map(|path| path.health), Some(Health::Down(Cause::Gateway)));
    bench.revive(PORT);
    bench.run(secs(120));
    bench.assert_way(PORT);
}
