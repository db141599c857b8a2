//! Sockets that keep to the address of an uplink that is down are closed, if the operator wants that.

use std::net::IpAddr;
use std::time::Duration;

use uplink_core::event::Closing;
use uplink_core::own::Op;
use uplink_core::policy::{Mode, Policy, WithinTier};
use uplink_core::snapshot::{Address, Family, LinkIndex};
use uplink_core::status::{CloseSocketsState, Notice};

use crate::sim::bench::Bench;
use crate::sim::site::{DPU, MGMT, PORT, PORT_B, addresses, steered_worker, worker};
use crate::sim::{ms, secs};

/// The port carries the default route, and sockets are to be closed.
fn closing_worker() -> Bench {
    let mut bench = steered_worker();
    bench.configure(Policy { close_sockets: true, ..Policy::default() });
    bench.run(secs(1));
    assert_eq!(state(&bench), CloseSocketsState::On);
    bench
}

fn state(bench: &Bench) -> CloseSocketsState {
    bench.status().expect("it runs").close_sockets
}

/// The addresses of an interface that others than its neighbours can reach.
fn own(link: LinkIndex, family: Family) -> Vec<IpAddr> {
    let all = addresses(link, family).into_iter().filter(|address| !address.link_local);
    all.map(|address| address.prefix.address).collect()
}

/// Both families' sockets of the port were to be closed, once.
fn assert_closed(bench: &Bench) {
    let closings: Vec<&Closing> = bench.closings.iter().map(|(_, closing)| closing).collect();
    let expected = Family::ALL.map(|family| Closing {
        uplink: DPU.to_owned(),
        family,
        addresses: own(PORT, family),
        elected: vec![MGMT],
    });
    assert_eq!(closings, expected.iter().collect::<Vec<_>>());
}

/// How long after the last election sockets were to be closed.
fn waited(bench: &Bench) -> Duration {
    let elected = bench.elections.last().expect("an election").at;
    bench.closings.last().expect("a closing").0.since(elected)
}

#[test]
fn sockets_of_a_silent_uplink_are_closed_as_soon_as_it_is_left() {
    let mut bench = closing_worker();
    bench.silence(PORT);
    bench.run(secs(3));
    bench.assert_way(MGMT);
    assert_closed(&bench);
    assert!(waited(&bench) < ms(5), "{:?}", waited(&bench));
    let told = |notice: &Notice| matches!(notice, Notice::Closed { sockets: 3, .. });
    assert_eq!(bench.notices.iter().filter(|(_, notice)| told(notice)).count(), 2);
    // Coming back closes nothing, and goes on.
    bench.revive(PORT);
    bench.run(secs(60));
    bench.assert_way(PORT);
    assert_closed(&bench);
}

#[test]
fn sockets_are_closed_only_when_the_new_way_stands() {
    let mut bench = closing_worker();
    bench.slowness = ms(3);
    bench.silence(PORT);
    bench.run(secs(3));
    assert_closed(&bench);
    let pin = bench.operations.iter().rev().find(|(_, op, _)| matches!(op, Op::AddRoute(_)));
    assert!(bench.closings[0].0 > pin.expect("a pin").0);
}

#[test]
fn a_lost_link_or_address_has_one_patience_to_come_back() {
    let lose: [fn(&mut Bench); 3] = [
        |bench| bench.kernel.set_carrier(PORT, false),
        |bench| bench.addresses_go(PORT),
        |bench| bench.unplug(PORT),
    ];
    for lose in lose {
        let mut bench = closing_worker();
        lose(&mut bench);
        bench.run(ms(900));
        bench.assert_way(MGMT);
        assert_eq!(bench.closings, []);
        bench.run(ms(200));
        assert_closed(&bench);
        let waited = waited(&bench);
        assert!(waited >= secs(1) && waited < ms(1010), "{waited:?}");
    }
}

#[test]
fn connections_live_through_a_short_loss() {
    let mut bench = closing_worker();
    bench.kernel.set_carrier(PORT, false);
    bench.run(ms(300));
    bench.assert_way(MGMT);
    bench.kernel.set_carrier(PORT, true);
    bench.run(secs(20));
    assert_eq!(bench.closings, []);
}

#[test]
fn an_address_that_moved_to_another_interface_is_in_use() {
    let mut bench = closing_worker();
    bench.addresses_go(PORT);
    for address in Family::ALL.into_iter().flat_map(|family| addresses(PORT, family)) {
        bench.kernel.add_address(Address { link: MGMT, ..address });
    }
    bench.run(secs(5));
    bench.assert_way(MGMT);
    assert_eq!(bench.closings, []);
}

#[test]
fn nothing_is_closed_unless_wanted() {
    for policy in
        [Policy::default(), Policy { close_sockets: true, mode: Mode::Observe, ..Policy::default() }]
    {
        let mut bench = steered_worker();
        bench.configure(policy);
        bench.run(secs(1));
        bench.silence(PORT);
        bench.run(secs(5));
        assert_eq!(state(&bench), CloseSocketsState::Off);
        assert_eq!(bench.closings, []);
    }
}

#[test]
fn a_restart_a_stop_and_an_uplink_that_is_not_elected_close_nothing() {
    let mut bench = closing_worker();
    bench.restart();
    bench.run(secs(3));
    bench.silence(MGMT);
    bench.run(secs(5));
    bench.revive(MGMT);
    bench.run(secs(60));
    bench.silence(PORT);
    bench.run(ms(500));
    bench.stop();
    assert_eq!(bench.closings, []);
}

#[test]
fn nothing_is_closed_while_there_is_no_better_place() {
    let mut bench = closing_worker();
    bench.silence(PORT);
    bench.silence(MGMT);
    bench.run(secs(10));
    bench.assert_way(PORT);
    assert_eq!(bench.closings, []);
}

#[test]
fn of_a_multipath_pin_those_of_the_member_that_fell_are_closed() {
    let mut bench = worker();
    bench.plug_dpu(PORT_B, "ens2f0np0", 5);
    bench.lease(PORT_B);
    bench.policy.within_tier = WithinTier::Multipath;
    bench.policy.close_sockets = true;
    bench.start();
    bench.run(secs(45));
    bench.silence(PORT);
    bench.run(secs(5));
    assert_eq!(bench.closings.len(), 2, "{:?}", bench.closings);
    for (_, closing) in &bench.closings {
        assert_eq!((closing.uplink.as_str(), &closing.elected), (DPU, &vec![PORT_B]));
        assert_eq!(closing.addresses, own(PORT, closing.family));
    }
}

#[test]
fn a_kernel_that_closes_no_sockets_is_named_once() {
    let mut bench = closing_worker();
    bench.closes = Err(95);
    for _ in 0..2 {
        bench.silence(PORT);
        bench.run(secs(5));
        assert_eq!(state(&bench), CloseSocketsState::Refused);
        bench.revive(PORT);
        bench.run(secs(120));
        bench.assert_way(PORT);
    }
    let told = bench.notices.iter().filter(|(_, notice)| *notice == Notice::CannotClose(95));
    assert_eq!(told.count(), 1);
}
