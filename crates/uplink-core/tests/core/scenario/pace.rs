//! How often questions are asked.

use std::time::Duration;

use uplink_core::event::{Output, Probe, Question};
use uplink_core::policy::{Mode, Policy};
use uplink_core::snapshot::{Family, LinkIndex};
use uplink_core::time::Instant;

use crate::sim::bench::Bench;
use crate::sim::site::{MGMT, PORT, steered_worker, worker};
use crate::sim::{ms, secs};

/// The questions asked through a link in one family since then.
fn asked(bench: &Bench, link: LinkIndex, family: Family, since: Instant) -> Vec<(Instant, Probe)> {
    let turns = bench.lives.iter().flat_map(|life| &life.turns).filter(|turn| turn.at >= since);
    let outputs = turns.flat_map(|turn| turn.outputs.iter().map(move |output| (turn.at, output)));
    let probes = outputs.filter_map(|(at, output)| match output {
        Output::Ask(probe) if probe.link == link && Family::of(probe.source) == family => Some((at, *probe)),
        _ => None,
    });
    probes.collect()
}

#[test]
fn a_path_is_asked_at_its_new_pace_as_soon_as_it_is_elected() {
    for (offset, mode) in (0..10).flat_map(|offset| [(offset, Mode::Steer), (offset, Mode::Observe)]) {
        let mut bench = worker();
        bench.policy = Policy { mode, ..Policy::default() };
        bench.start();
        bench.run(secs(5) + ms(100 * offset));
        bench.kernel.set_carrier(PORT, false);
        bench.run(ms(1));
        assert_eq!(bench.moves(Family::Ipv4), 1, "{:#?}", bench.elections);
        let moved = bench.now;
        bench.run(secs(1));
        for family in Family::ALL {
            let first = asked(&bench, MGMT, family, moved).first().expect("it is asked").0;
            assert!(first.since(moved) <= ms(250), "{mode:?} {offset}: {:?}", first.since(moved));
        }
    }
}

#[test]
fn the_elected_path_is_asked_four_times_a_patience_and_a_standby_once_a_second() {
    let mut bench = steered_worker();
    let since = bench.now;
    bench.run(secs(60));
    for family in Family::ALL {
        // Once in that time each gateway is asked who it is.
        assert!((240..=242).contains(&asked(&bench, PORT, family, since).len()));
        assert!((60..=62).contains(&asked(&bench, MGMT, family, since).len()));
    }
}

#[test]
fn no_interface_is_asked_for_a_neighbour_more_than_ten_times_a_second() {
    let mut bench = steered_worker();
    let since = bench.now;
    bench.gateways(PORT, |gateway| gateway.echo = false);
    bench.run(secs(20));
    bench.silence(PORT);
    bench.silence(MGMT);
    bench.run(secs(60));
    for (link, family) in [(PORT, Family::Ipv4), (PORT, Family::Ipv6), (MGMT, Family::Ipv4)] {
        let mut neighbour = asked(&bench, link, family, since);
        neighbour.retain(|(_, probe)| matches!(probe.question, Question::Neighbour(_)));
        let gaps = neighbour.windows(2).map(|pair| pair[1].0.since(pair[0].0));
        assert!(gaps.min().unwrap_or(Duration::MAX) >= ms(100));
    }
}
