//! Programs that bring interfaces, tables and rules of their own.

use uplink_core::policy::{Placement, Policy};
use uplink_core::snapshot::Family;

use crate::sim::checks;
use crate::sim::manager::Vpn;
use crate::sim::secs;
use crate::sim::site::{PORT, worker};

#[test]
fn a_vpn_has_its_say_wherever_its_rules_stand() {
    for placement in [Placement::Main, Placement::Table] {
        for priority in [None, Some(5270), Some(32_765)] {
            let mut bench = worker();
            bench.policy = Policy { placement, ..Policy::default() };
            bench.start();
            bench.run(secs(5));
            bench.vpn(Vpn::Rules(priority));
            let theirs = Family::ALL.map(|family| bench.kernel.without_us().default_way(family));
            bench.run(secs(1));
            checks::their_rules_have_their_say(&bench);
            assert_eq!(Family::ALL.map(|family| bench.kernel.default_way(family)), theirs);
            let writes = bench.writes();
            bench.run(secs(20));
            assert_eq!(bench.writes(), writes, "it is at rest");
            bench.vpn_goes();
            bench.run(secs(1));
            bench.assert_way(PORT);
            bench.stop();
            assert!(!bench.kernel.has_ours());
        }
    }
}

#[test]
fn pods_that_come_and_go_are_none_of_our_business() {
    let mut bench = worker();
    bench.start();
    bench.run(secs(5));
    let writes = bench.writes();
    for count in [50, 0, 20, 40, 0] {
        bench.pods(count);
        bench.run(secs(2));
    }
    bench.assert_way(PORT);
    assert_eq!(bench.writes(), writes);
}
