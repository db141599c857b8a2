//! Which interfaces are uplinks, under whatever name.

use uplink_core::discover::is_dpu_port;
use uplink_core::policy::{Match, Need, Policy, UplinkPolicy};
use uplink_core::snapshot::{Family, Link, LinkIndex, LinkKind, PciPort, Weight};
use uplink_core::status::Health;

use crate::sim::bench::Bench;
use crate::sim::secs;
use crate::sim::site::{BOARD, DPU, MGMT, PORT, default_route, dpu_port, link, steered_worker, worker};

const BRIDGE: LinkIndex = LinkIndex(7);

fn rename(bench: &mut Bench, index: LinkIndex, name: &str) {
    bench.kernel.links.get_mut(&index).expect("it is there").name = name.to_owned();
    bench.kernel.changes += 1;
}

#[test]
fn a_renamed_port_is_the_same_port() {
    let mut bench = steered_worker();
    let writes = bench.writes();
    rename(&mut bench, PORT, "p0");
    bench.run(secs(5));
    assert_eq!(bench.writes(), writes);
    bench.assert_never_moved();
    bench.silence(PORT);
    bench.run(secs(3));
    rename(&mut bench, PORT, "ens1f0np0");
    bench.revive(PORT);
    bench.run(secs(25));
    bench.assert_way(MGMT);
    bench.run(secs(15));
    bench.assert_way(PORT);
}

#[test]
fn a_port_that_is_made_anew_keeps_its_damping() {
    let again = LinkIndex(12);
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.run(secs(3));
    bench.assert_way(MGMT);
    bench.kernel.remove_link(PORT);
    bench.run(secs(1));
    bench.plug_dpu(again, "ens1f0np0", 3);
    bench.lease(again);
    bench.run(secs(25));
    bench.assert_way(MGMT);
    bench.run(secs(15));
    bench.assert_way(again);
}

#[test]
fn a_bridge_above_the_port_is_the_uplink() {
    let mut bench = worker();
    bench.addresses_go(PORT);
    bench.defaults_go(PORT);
    bench.plug(BRIDGE, "br-dpu");
    bench.kernel.links.insert(BRIDGE, Link { kind: LinkKind::Bridge, ..link(BRIDGE, "br-dpu") });
    bench.kernel.links.get_mut(&PORT).expect("it is there").master = Some(BRIDGE);
    bench.lease(BRIDGE);
    bench.start();
    bench.run(secs(5));
    bench.assert_way(BRIDGE);
    bench.kernel.set_carrier(PORT, false);
    bench.run(secs(1));
    bench.assert_way(MGMT);
}

#[test]
fn names_that_contain_each_other_are_different_names() {
    let other = LinkIndex(8);
    let mut bench = worker();
    rename(&mut bench, MGMT, "eth1");
    bench.plug(other, "eth10");
    bench.lease(other);
    bench.policy = Policy {
        uplinks: vec![UplinkPolicy {
            name: "first".to_owned(),
            matching: Match::Interface("eth10".to_owned()),
            tier: 1,
            weight: Weight::ONE,
            gateways: Vec::new(),
            targets: Vec::new(),
            need: Need::Any,
            interval: secs(5),
        }],
        ..Policy::default()
    };
    bench.start();
    bench.run(secs(5));
    bench.assert_way(other);
    bench.silence(other);
    bench.run(secs(3));
    bench.assert_way(MGMT);
    bench.silence(MGMT);
    bench.run(secs(3));
    bench.assert_way(PORT);
}

#[test]
fn with_named_uplinks_an_unnamed_dpu_port_is_one_of_the_others() {
    let mut bench = worker();
    bench.policy = Policy {
        uplinks: vec![UplinkPolicy {
            name: "board".to_owned(),
            matching: Match::Interface(BOARD.to_owned()),
            tier: 1,
            weight: Weight::ONE,
            gateways: Vec::new(),
            targets: Vec::new(),
            need: Need::Any,
            interval: secs(5),
        }],
        ..Policy::default()
    };
    bench.start();
    bench.run(secs(5));
    bench.assert_way(MGMT);
    let uplinks = bench.status().expect("it runs").uplinks.into_iter();
    let (names, tiers): (Vec<String>, Vec<u32>) = uplinks.map(|uplink| (uplink.name, uplink.tier)).unzip();
    assert_eq!((names, tiers), (vec!["board".to_owned(), "ens1f0np0".to_owned()], vec![1, 2]));
    bench.defaults_go(PORT);
    bench.run(secs(5));
    let uplinks = bench.status().expect("it runs").uplinks;
    assert_eq!(uplinks.len(), 1, "without a default route it is none");
}

#[test]
fn an_unnamed_uplink_that_is_renamed_keeps_the_route() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.run(secs(5));
    let (writes, elections) = (bench.writes(), bench.elections.len());
    rename(&mut bench, MGMT, "wan");
    bench.run(secs(5));
    bench.assert_way(MGMT);
    assert_eq!((bench.writes(), bench.elections.len()), (writes, elections));
    assert_eq!(bench.family(Family::Ipv4).elected, ["wan"]);
}

#[test]
fn a_name_of_the_operators_is_not_shared_by_an_interface() {
    let (first, second) = (LinkIndex(8), LinkIndex(9));
    for with_default in [true, false] {
        let mut bench = Bench::new(1);
        bench.plug(first, "eth1");
        bench.lease(first);
        bench.plug(second, "eth0");
        bench.addresses_come(second);
        if with_default {
            bench.lease(second);
        }
        let mac = bench.kernel.links.get(&first).and_then(|link| link.mac).expect("it has one");
        bench.policy = Policy {
            uplinks: vec![UplinkPolicy {
                name: "eth0".to_owned(),
                matching: Match::Mac(mac),
                tier: 1,
                weight: Weight::ONE,
                gateways: Vec::new(),
                targets: Vec::new(),
                need: Need::Any,
                interval: secs(5),
            }],
            ..Policy::default()
        };
        bench.start();
        bench.run(secs(5));
        bench.assert_way(first);
        let names: Vec<String> =
            bench.status().expect("it runs").uplinks.into_iter().map(|uplink| uplink.name).collect();
        let expected: &[&str] = if with_default { &["eth0", "eth0 (interface)"] } else { &["eth0"] };
        assert_eq!(names, expected);
        bench.silence(first);
        bench.run(secs(3));
        bench.assert_way(if with_default { second } else { first });
    }
}

#[test]
fn virtual_functions_and_representors_are_no_ports() {
    let mut bench = worker();
    for (index, function, name) in
        [(20, true, None), (21, false, Some("pf0vf1")), (22, false, Some("pf0hpf"))]
    {
        let mut pci = dpu_port(5);
        (pci.virtual_function, pci.port_name) = (function, name.map(str::to_owned));
        let index = LinkIndex(index);
        let made = Link { pci: Some(pci), ..link(index, &format!("x{}", index.0)) };
        bench.kernel.links.insert(index, made);
    }
    bench.start();
    bench.run(secs(5));
    let names: Vec<String> = bench.status().expect("it runs").uplinks.into_iter().map(|u| u.name).collect();
    assert_eq!(names, [DPU, BOARD]);
}

#[test]
fn both_uplinks_in_one_subnet_are_told_apart() {
    let mut bench = worker();
    let shared = default_route(PORT, Family::Ipv4).hops[0].gateway.expect("it has one");
    bench.addresses_go(MGMT);
    bench.defaults_go(MGMT);
    bench.world.gateways.insert((MGMT, shared), crate::sim::world::Gateway::well());
    let mut address = crate::sim::site::addresses(PORT, Family::Ipv4)[0].clone();
    address.link = MGMT;
    address.prefix.address = "10.0.120.12".parse().expect("an address");
    bench.kernel.add_address(address);
    let mut route = default_route(MGMT, Family::Ipv4);
    route.hops[0].gateway = Some(shared);
    bench.kernel.add_route(route).expect("it is laid");
    bench.start();
    bench.run(secs(5));
    assert_eq!(bench.way(Family::Ipv4), Some(PORT));
    bench.silence(PORT);
    bench.run(secs(3));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
}

#[test]
fn a_configured_gateway_gives_a_port_without_routes_a_way() {
    let mut bench = worker();
    bench.defaults_go(PORT);
    bench.policy = Policy {
        uplinks: vec![UplinkPolicy {
            name: "port".to_owned(),
            matching: Match::Pci(dpu_port(3).address),
            tier: 1,
            weight: Weight::ONE,
            gateways: Family::ALL.map(|family| crate::sim::site::gateway(PORT, family)).to_vec(),
            targets: Vec::new(),
            need: Need::Any,
            interval: secs(5),
        }],
        ..Policy::default()
    };
    bench.start();
    bench.run(secs(5));
    bench.assert_way(PORT);
    assert_eq!(bench.health("port"), Health::Up);
}

#[test]
fn a_dpu_port_is_a_bluefield_ethernet_function_and_not_virtual() {
    let port = dpu_port(3);
    assert!(is_dpu_port(&port));
    assert!(!is_dpu_port(&PciPort { virtual_function: true, ..port.clone() }));
    assert!(!is_dpu_port(&PciPort { device: 0xa2d3, ..port.clone() }), "its crypto function");
    assert!(!is_dpu_port(&PciPort { class: 0x0002_0700, ..port.clone() }), "InfiniBand");
    assert!(!is_dpu_port(&PciPort { vendor: 0x8086, ..port }));
}
