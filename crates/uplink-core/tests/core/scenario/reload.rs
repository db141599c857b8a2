//! Names that change while we run: another configuration, or a renamed interface.

use uplink_core::policy::{Match, Need, Policy, UplinkPolicy};
use uplink_core::snapshot::{Family, Weight};
use uplink_core::status::{Health, Reason};

use crate::sim::bench::Bench;
use crate::sim::secs;
use crate::sim::site::{MGMT, PORT, gateway, steered_worker, worker};

/// Uplinks by name and interface, each a tier behind the one before.
fn named(uplinks: &[(&str, &str)]) -> Policy {
    let uplinks = (1..).zip(uplinks).map(|(tier, (name, interface))| UplinkPolicy {
        name: (*name).to_owned(),
        matching: Match::Interface((*interface).to_owned()),
        tier,
        weight: Weight::ONE,
        gateways: Vec::new(),
        targets: Vec::new(),
        need: Need::Any,
        interval: secs(5),
    });
    Policy { uplinks: uplinks.collect(), ..Policy::default() }
}

/// The port falls, the configuration is read again, and nothing but the names changes.
fn reload_in_an_outage(before: Policy, after: Policy) {
    let mut bench = worker();
    bench.policy = before;
    bench.start();
    bench.run(secs(5));
    bench.silence(PORT);
    bench.run(secs(5));
    bench.assert_way(MGMT);
    let (writes, elections) = (bench.writes(), bench.elections.len());
    let since = bench.family(Family::Ipv4).since;
    bench.configure(after);
    bench.run(secs(5));
    assert_eq!((bench.writes(), bench.elections.len()), (writes, elections), "{:#?}", bench.elections);
    assert_eq!(bench.family(Family::Ipv4).since, since);
    bench.revive(PORT);
    bench.run(secs(25));
    bench.assert_way(MGMT);
    bench.run(secs(15));
    bench.assert_way(PORT);
}

#[test]
fn naming_what_was_unnamed_moves_nothing_and_keeps_the_damping() {
    reload_in_an_outage(Policy::default(), named(&[("port", "ens1f0np0"), ("board", "eno1")]));
}

#[test]
fn a_new_name_moves_nothing_and_keeps_the_damping() {
    let after = named(&[("fast", "ens1f0np0"), ("slow", "eno1")]);
    reload_in_an_outage(named(&[("port", "ens1f0np0"), ("board", "eno1")]), after);
}

#[test]
fn names_that_change_places_do_not_take_the_route_with_them() {
    reload_in_an_outage(
        named(&[("a", "ens1f0np0"), ("b", "eno1")]),
        named(&[("b", "ens1f0np0"), ("a", "eno1")]),
    );
}

#[test]
fn names_that_go_move_nothing() {
    reload_in_an_outage(named(&[("port", "ens1f0np0"), ("board", "eno1")]), Policy::default());
}

#[test]
fn health_is_told_once_whatever_the_name() {
    let mut bench = steered_worker();
    let told = bench.notices.len();
    bench.configure(named(&[("port", "ens1f0np0"), ("board", "eno1")]));
    bench.run(secs(5));
    bench.assert_never_moved();
    let health = bench.notices.iter().skip(told);
    assert_eq!(
        health.filter(|(_, notice)| matches!(notice, uplink_core::status::Notice::Health { .. })).count(),
        0
    );
    assert_eq!(bench.health("port"), Health::Up);
}

#[test]
fn damping_under_a_new_name_outlives_a_restart() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.run(secs(5));
    bench.configure(named(&[("port", "ens1f0np0"), ("board", "eno1")]));
    bench.run(secs(1));
    bench.restart();
    bench.revive(PORT);
    bench.run(secs(25));
    bench.assert_way(MGMT);
    bench.run(secs(15));
    bench.assert_way(PORT);
}

/// The port has fallen; its interface is renamed and goes, and comes again with the number and the name
/// that it had first, as from another network namespace.
#[test]
fn an_interface_that_goes_and_comes_under_another_name_keeps_its_damping() {
    let mut bench = worker();
    bench.policy = named(&[("port", "ens1f0np0"), ("board", "eno1")]);
    bench.start();
    bench.run(secs(5));
    bench.silence(PORT);
    bench.run(secs(5));
    bench.rename(PORT, "net1");
    bench.run(secs(1));
    bench.unplug(PORT);
    bench.run(secs(1));
    bench.revive(PORT);
    bench.plug_again(PORT);
    bench.run(secs(25));
    bench.assert_way(MGMT);
    bench.run(secs(15));
    bench.assert_way(PORT);
}

/// The same of an interface that is no uplink while its name changes: it has no default route then.
#[test]
fn an_interface_that_is_renamed_without_its_default_route_keeps_its_damping() {
    for restart in [false, true] {
        let mut bench = worker();
        bench.kernel.dpu_ports.clear();
        bench.kernel.links.get_mut(&PORT).expect("it is there").pci = None;
        Family::ALL.into_iter().for_each(|family| bench.remetric(PORT, family, 20));
        bench.start();
        bench.run(secs(5));
        bench.assert_way(PORT);
        bench.silence(PORT);
        bench.run(secs(5));
        bench.defaults_go(PORT);
        bench.run(secs(1));
        if restart {
            bench.restart();
            bench.run(secs(1));
        }
        bench.rename(PORT, "net1");
        bench.run(secs(1));
        bench.revive(PORT);
        Family::ALL.into_iter().for_each(|family| bench.remetric(PORT, family, 20));
        bench.run(secs(25));
        bench.assert_way(MGMT);
        bench.run(secs(15));
        bench.assert_way(PORT);
    }
}

#[test]
fn an_uplink_that_is_struck_out_is_left_for_one_that_is_proven() {
    let mut bench = worker();
    bench.defaults_go(PORT);
    let both = named(&[("port", "ens1f0np0"), ("board", "eno1")]);
    bench.policy = both.clone();
    for entry in bench.policy.uplinks.iter_mut().take(1) {
        entry.gateways = Family::ALL.map(|family| gateway(PORT, family)).to_vec();
    }
    bench.start();
    bench.run(secs(5));
    bench.assert_way(PORT);
    bench.configure(Policy { uplinks: both.uplinks.into_iter().skip(1).collect(), ..Policy::default() });
    assert!(bench.until(secs(5), |bench: &Bench| bench.leaves_by(MGMT)).is_some());
    assert_eq!(bench.family(Family::Ipv4).reason, Reason::Preferred);
}
