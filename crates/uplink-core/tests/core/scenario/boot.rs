//! The first decision.

use uplink_core::snapshot::Family;
use uplink_core::status::Reason;
use uplink_core::time::Instant;

use crate::sim::bench::Bench;
use crate::sim::site::{MGMT, PORT, addresses, default_route, dpu_port, worker};
use crate::sim::{ms, secs};

/// A host with management only; the port is on the bus if so.
fn without_port(on_bus: bool) -> Bench {
    let mut bench = worker();
    bench.defaults_go(PORT);
    bench.kernel.remove_link(PORT);
    if !on_bus {
        bench.kernel.dpu_ports.clear();
    }
    bench
}

fn waited(bench: &Bench) -> std::time::Duration {
    bench.ready.expect("READY was told").since(Instant::BOOT + secs(20))
}

#[test]
fn a_healthy_port_is_taken_before_management_though_it_answers_later() {
    let mut bench = worker();
    bench.gateways(PORT, |gateway| gateway.latency = ms(100));
    bench.start();
    bench.run(secs(5));
    bench.assert_way(PORT);
    bench.assert_never_moved();
    assert!(waited(&bench) <= ms(300));
}

#[test]
fn a_port_on_the_bus_is_waited_for() {
    let mut bench = without_port(true);
    bench.start();
    bench.run(secs(29));
    assert_eq!(bench.ready, None);
    assert_eq!(bench.family(Family::Ipv4).reason, Reason::Waiting);
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT), "the routes stay as they were found");
    bench.run(secs(2));
    assert_eq!(waited(&bench), secs(30));
    bench.assert_way(MGMT);
}

#[test]
fn nobody_waits_longer_because_the_machine_stalls() {
    let mut bench = without_port(true);
    bench.start();
    for _ in 0..10 {
        bench.stall(secs(2));
        bench.run(ms(500));
    }
    bench.run(secs(10));
    assert!(waited(&bench) <= secs(31), "{:?}", waited(&bench));
}

#[test]
fn without_a_port_on_the_bus_nobody_waits() {
    let mut bench = without_port(false);
    bench.start();
    bench.run(secs(2));
    assert!(waited(&bench) <= ms(10));
    bench.assert_way(MGMT);
}

#[test]
fn a_port_that_comes_in_time_is_taken_first() {
    for seconds in [5, 20] {
        let mut bench = without_port(true);
        bench.start();
        bench.run(secs(seconds));
        bench.plug_dpu(PORT, "ens1f0np0", 3);
        bench.run(secs(2));
        bench.lease(PORT);
        bench.run(secs(1));
        bench.assert_way(PORT);
        bench.assert_never_moved();
        assert!(waited(&bench) <= secs(seconds + 3));
    }
}

#[test]
fn a_port_that_comes_too_late_is_taken_when_it_has_answered_for_a_patience() {
    let mut bench = without_port(true);
    bench.start();
    bench.run(secs(35));
    bench.plug_dpu(PORT, "ens1f0np0", 3);
    bench.lease(PORT);
    let after = bench.until(secs(20), |bench| bench.leaves_by(PORT)).expect("it is taken");
    assert!(after >= secs(1) && after <= secs(2), "{after:?}");
}

#[test]
fn a_port_without_carrier_or_answer_is_waited_for() {
    type Fault = fn(&mut Bench);
    let faults: [Fault; 3] = [
        |bench| bench.kernel.set_carrier(PORT, false),
        |bench| bench.silence(PORT),
        |bench| bench.addresses_go(PORT),
    ];
    for fault in faults {
        let mut bench = worker();
        fault(&mut bench);
        bench.start();
        bench.run(secs(29));
        assert_eq!(bench.ready, None);
        bench.run(secs(2));
        assert_eq!(waited(&bench), secs(30));
        bench.assert_way(MGMT);
    }
}

/// A worker whose port has no IPv6.
fn port_with_ipv4_only() -> Bench {
    let mut bench = worker();
    bench.forget_routes(|route| *route == default_route(PORT, Family::Ipv6));
    for address in addresses(PORT, Family::Ipv6).iter().filter(|address| !address.link_local) {
        bench.kernel.remove_address(address);
    }
    bench
}

#[test]
fn a_port_that_works_is_not_waited_for_in_a_family_that_it_has_not() {
    let mut bench = port_with_ipv4_only();
    bench.start();
    bench.run(secs(10));
    assert!(waited(&bench) >= secs(5) && waited(&bench) <= ms(5500), "{:?}", waited(&bench));
    assert_eq!((bench.way(Family::Ipv4), bench.way(Family::Ipv6)), (Some(PORT), Some(MGMT)));
    bench.assert_never_moved();
}

#[test]
fn a_family_that_comes_later_than_the_other_is_waited_for() {
    let mut bench = port_with_ipv4_only();
    bench.start();
    bench.run(secs(3));
    bench.addresses_come(PORT);
    bench.run(secs(10));
    assert_eq!(bench.ready, None, "an address has come, a router may");
    bench.lease(PORT);
    bench.run(secs(1));
    bench.assert_way(PORT);
    bench.assert_never_moved();
}

#[test]
fn a_port_that_works_in_no_family_is_waited_for_in_both() {
    let mut bench = port_with_ipv4_only();
    bench.silence(PORT);
    bench.start();
    bench.run(secs(29));
    assert_eq!(bench.ready, None);
}

#[test]
fn nothing_works_and_ready_is_told_all_the_same() {
    let mut bench = worker();
    bench.silence(PORT);
    bench.silence(MGMT);
    bench.start();
    bench.run(secs(60));
    assert_eq!(waited(&bench), secs(30));
    assert_eq!(bench.writes(), 0);
    bench.revive(MGMT);
    bench.run(secs(5));
    bench.assert_way(MGMT);
    bench.revive(PORT);
    bench.run(secs(5));
    bench.assert_way(PORT);
}

#[test]
fn a_host_without_any_default_route_gets_none_from_us_until_one_comes() {
    let mut bench = Bench::new(1);
    bench.kernel.dpu_ports.push(dpu_port(3));
    bench.start();
    bench.run(secs(40));
    assert!(bench.ready.is_some());
    assert_eq!(bench.writes(), 0);
    bench.plug(MGMT, "eno1");
    bench.lease(MGMT);
    bench.run(secs(5));
    bench.assert_way(MGMT);
}
