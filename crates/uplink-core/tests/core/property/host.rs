//! A host to which anything may happen.

use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::{prop_assert, proptest};
use uplink_core::snapshot::Family;

use super::config;
use super::event::{Event, events};
use crate::sim::bench::Bench;
use crate::sim::site::{MGMT, PORT, worker};
use crate::sim::{checks, secs};

/// Changes of mind that a family may need to come to rest: away, back, and one for luck with loss.
const TO_REST: usize = 3;

fn run(seed: u64, events: &[Event]) -> Bench {
    let mut bench = worker();
    bench.world.reseed(seed);
    bench.start();
    bench.run(secs(3));
    for event in events {
        event.happen(&mut bench);
    }
    bench.run(secs(1));
    bench
}

/// Both interfaces as they should be, whatever happened before.
fn repair(bench: &mut Bench) {
    for link in [PORT, MGMT] {
        bench.kernel.set_carrier(link, true);
        bench.up(link);
        bench.revive(link);
    }
    bench.admin_defaults_go();
}

/// Few enough to be worth a longer rest.
fn preserved() -> impl Strategy<Value = bool> {
    prop_oneof![Just(true), any::<bool>()]
}

proptest! {
    #![proptest_config(config(256))]

    /// Every operation and every turn is checked as it happens; in the end the table agrees with the
    /// election, a replay gives the same answers, and a stop leaves nothing.
    #[test]
    fn keeps_its_promises(seed in any::<u64>(), events in events(), rest in preserved()) {
        let mut bench = run(seed, &events);
        let changes: usize = bench.elections.len();
        prop_assert!(changes <= 4 + 4 * events.len(), "{changes} elections for {} events", events.len());
        for link in [PORT, MGMT] {
            bench.gateways(link, |gateway| gateway.loss = 0);
        }
        // Until the loss of before is forgotten.
        bench.run(secs(70));
        let since = bench.now;
        bench.run(if rest { secs(90) } else { secs(1) });
        checks::no_flap(&bench, since, TO_REST);
        checks::table_agrees(&bench);
        if seed % 16 == 0 {
            bench.lives.iter().for_each(crate::sim::record::Life::replay);
        }
        bench.stop();
        prop_assert!(!bench.kernel.has_ours(), "a stop left {:#?}", bench.kernel.routes);
    }

    /// Whatever happened before: when all is well again, the port is taken in the end.
    #[test]
    fn comes_back_when_all_is_well(seed in any::<u64>(), events in events()) {
        let mut bench = run(seed, &events);
        bench.policy = uplink_core::policy::Policy::default();
        bench.configure(bench.policy.clone());
        repair(&mut bench);
        bench.run(secs(720));
        bench.assert_way(PORT);
        checks::table_agrees(&bench);
        for family in Family::ALL {
            prop_assert!(bench.kernel.pins(family).len() <= 1);
        }
    }
}
