//! A host to which anything may happen.

use proptest::prelude::any;
use proptest::{prop_assert, proptest};
use uplink_core::policy::WithinTier;
use uplink_core::snapshot::{Family, LinkIndex};

use super::config;
use super::draw::{events, within_tier};
use super::event::{Event, all_targets, repair};
use crate::sim::bench::Bench;
use crate::sim::site::{MGMT, PORT, PORT_B, worker};
use crate::sim::{checks, secs};

/// Changes of mind that a family may need to come to rest: away, back, and one for luck with loss.
const TO_REST: usize = 3;

/// The host on which everything begins: all is well, and the daemon has run for a moment.
pub(super) fn begin(seed: u64, within_tier: WithinTier) -> Bench {
    let mut bench = worker();
    // What happens to the second card's port happens to no interface where there is none.
    if !seed.is_multiple_of(3) {
        bench.plug_dpu(PORT_B, "ens2f0np0", 5);
        bench.lease(PORT_B);
    }
    bench.policy.within_tier = within_tier;
    bench.world.reseed(seed);
    bench.world.targets = all_targets();
    bench.start();
    bench.run(secs(3));
    bench
}

/// Lets something happen, and checks what must hold after anything.
pub(super) fn happen(bench: &mut Bench, event: &Event) {
    event.happen(bench);
    if bench.is_settled() {
        checks::table_agrees(bench);
        checks::path_rules_agree(bench);
        checks::refused_hops_are_done_without(bench);
        checks::their_rules_have_their_say(bench);
    }
}

/// What must hold in the end, when so much has happened: no unrest, the table agrees with the election,
/// and a stop leaves nothing.
pub(super) fn end(bench: &mut Bench, events: usize) {
    let changes = bench.elections.len();
    assert!(changes <= 6 + 6 * events, "{changes} elections for {events} events");
    bench.run(secs(1));
    for link in [PORT, MGMT, PORT_B] {
        bench.gateways(link, |gateway| gateway.loss = 0);
    }
    // Until the loss of before is forgotten.
    bench.run(secs(45));
    let since = bench.now;
    bench.run(secs(20));
    checks::no_flap(bench, since, TO_REST);
    checks::table_agrees(bench);
    bench.stop();
    checks::nothing_is_left(bench);
}

fn run(seed: u64, within_tier: WithinTier, events: &[Event]) -> Bench {
    let mut bench = begin(seed, within_tier);
    for event in events {
        happen(&mut bench, event);
    }
    bench
}

proptest! {
    #![proptest_config(config(256))]

    /// Every operation and every turn is checked as it happens; a replay gives the same answers.
    #[test]
    fn keeps_its_promises(seed in any::<u64>(), within_tier in within_tier(), events in events()) {
        let mut bench = run(seed, within_tier, &events);
        end(&mut bench, events.len());
        if seed % 16 == 0 {
            bench.lives.iter().for_each(crate::sim::record::Life::replay);
        }
    }
}

proptest! {
    #![proptest_config(config(64))]

    /// Whatever happened before: when all is well again, the port is taken in the end.
    #[test]
    fn comes_back_when_all_is_well(seed in any::<u64>(), within_tier in within_tier(), events in events()) {
        let mut bench = run(seed, within_tier, &events);
        bench.policy = uplink_core::policy::Policy { within_tier, ..Default::default() };
        bench.configure(bench.policy.clone());
        repair(&mut bench);
        let both = within_tier == WithinTier::Multipath && bench.kernel.links.contains_key(&PORT_B);
        let wanted = if both { vec![PORT, PORT_B] } else { vec![PORT] };
        let led_to = |bench: &Bench, family| {
            let mut links: Vec<LinkIndex> = bench.kernel.default_ways(family).iter().map(|hop| hop.link).collect();
            links.sort();
            links
        };
        // No wait is longer than ten minutes and a tenth; a contest a minute.
        let back = bench.until(secs(750), |bench| {
            Family::ALL.iter().all(|family| led_to(bench, *family) == wanted)
        });
        prop_assert!(back.is_some(), "{:#?}", bench.status());
        bench.run(secs(2));
        checks::table_agrees(&bench);
        for family in Family::ALL {
            prop_assert!(bench.kernel.pins(family).len() <= 1);
        }
    }
}
