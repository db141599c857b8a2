//! Where gateways are learned, and where not.

use std::net::{IpAddr, Ipv4Addr};

use uplink_core::lease::{Holder, Lease, Unreadable};
use uplink_core::snapshot::{Address, Attributes, Family, Hop, LinkIndex, Mac, Prefix, Route, protocol};
use uplink_core::status::{Cause, GatewaySource, Health, Notice, PathStatus, Reason};

use crate::sim::bench::Bench;
use crate::sim::secs;
use crate::sim::site::{
    BOARD, DPU, MGMT, PORT, addresses, default_route, gateway, plain_default, steered_worker, worker,
};

/// Another host that answers in the port's place.
const STRANGER: Mac = Mac([2, 0, 0, 0, 9, 9]);

/// The port has its addresses, and no route names its IPv4 gateway.
fn without_route() -> Bench {
    let mut bench = worker();
    bench.forget_routes(|route| *route == default_route(PORT, Family::Ipv4));
    bench
}

/// What a client wrote down of the port: its address and these routers.
fn lease(routers: &[[u8; 4]]) -> Lease {
    let routers = routers.iter().map(|router| Ipv4Addr::from(*router)).collect();
    Lease { interface: Holder::Index(PORT), address: Ipv4Addr::from([10, 0, 120, 11]), routers }
}

fn write(bench: &mut Bench, leases: &[Lease]) {
    bench.kernel.leases.held = leases.to_vec();
    bench.kernel.changes += 1;
}

fn port(bench: &Bench) -> PathStatus {
    bench.path(DPU, Family::Ipv4).expect("it is shown")
}

/// A route of the port that somebody else made.
fn route_of(protocol: u8, destination: [u8; 4], length: u8, next_hop: Option<[u8; 4]>) -> Route {
    let next_hop = next_hop.map(|hop| Ipv4Addr::from(hop).into());
    Route {
        destination: Prefix { address: Ipv4Addr::from(destination).into(), length },
        protocol,
        metric: 100,
        hops: vec![Hop { link: PORT, gateway: next_hop }],
        ..plain_default(Family::Ipv4)
    }
}

/// Nothing names the port's gateway, and nothing comes of it.
#[track_caller]
fn waits_for_a_gateway(bench: &mut Bench) {
    bench.start();
    bench.run(secs(40));
    assert_eq!((port(bench).health, port(bench).gateway), (Health::Down(Cause::Gateway), None));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
    assert_eq!(bench.way(Family::Ipv6), Some(PORT));
}

#[test]
fn a_dhcp_lease_names_the_gateway() {
    let named = Lease { interface: Holder::Name("ens1f0np0".to_owned()), ..lease(&[[10, 0, 120, 1]]) };
    for held in [lease(&[[10, 0, 120, 1]]), named, lease(&[[10, 0, 7, 1], [10, 0, 120, 1]])] {
        let mut bench = without_route();
        write(&mut bench, &[held]);
        bench.start();
        bench.run(secs(20));
        bench.assert_way(PORT);
        assert_eq!((port(&bench).health, port(&bench).learned), (Health::Up, Some(GatewaySource::Lease)));
    }
}

#[test]
fn a_lease_that_comes_later_is_taken() {
    let mut bench = without_route();
    bench.start();
    bench.run(secs(40));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
    write(&mut bench, &[lease(&[[10, 0, 120, 1]])]);
    bench.run(secs(5));
    bench.assert_way(PORT);
    write(&mut bench, &[]);
    bench.run(secs(5));
    assert_eq!(port(&bench).learned, Some(GatewaySource::Memory), "as a route that is gone");
    bench.assert_way(PORT);
}

#[test]
fn a_lease_of_an_address_without_a_subnet_names_the_gateway() {
    let mut bench = without_route();
    for address in &mut bench.kernel.addresses {
        if address.link == PORT && address.prefix.length == 24 {
            address.prefix.length = 32;
        }
    }
    write(&mut bench, &[lease(&[[10, 0, 120, 1]])]);
    bench.start();
    bench.run(secs(20));
    assert_eq!(port(&bench).health, Health::Up);
    let pins = bench.kernel.pins(Family::Ipv4);
    assert!(pins.iter().all(|pin| pin.attributes().onlink) && pins.len() == 1, "{pins:?}");
}

#[test]
fn a_lease_that_is_not_this_interfaces_does_not_count() {
    let router = [10, 0, 120, 1];
    for stale in [
        Lease { address: Ipv4Addr::from([10, 0, 120, 12]), ..lease(&[router]) },
        Lease { interface: Holder::Index(LinkIndex(99)), ..lease(&[router]) },
        Lease { interface: Holder::Name("eth0".to_owned()), ..lease(&[router]) },
        lease(&[]),
        lease(&[[10, 0, 7, 1]]),
        lease(&[[10, 0, 120, 11]]),
    ] {
        let mut bench = without_route();
        write(&mut bench, &[stale]);
        waits_for_a_gateway(&mut bench);
    }
}

#[test]
fn dhcp_without_a_router_waits_and_breaks_nothing() {
    let mut bench = without_route();
    let file = |interface, path: &str| Unreadable {
        interface,
        path: path.to_owned(),
        why: "permission denied".to_owned(),
    };
    let others = file(Some(Holder::Index(MGMT)), "/run/systemd/netif/leases/3");
    bench.kernel.leases.unreadable = vec![others];
    waits_for_a_gateway(&mut bench);
    assert_eq!(port(&bench).unreadable_lease, None);
    let anybodys = file(None, "/var/lib/dhcp");
    bench.kernel.leases.unreadable.push(anybodys.clone());
    bench.kernel.changes += 1;
    bench.run(secs(1));
    assert_eq!(port(&bench).unreadable_lease, Some(anybodys));
    write(&mut bench, &[lease(&[[10, 0, 120, 1]])]);
    bench.run(secs(5));
    bench.assert_way(PORT);
    assert_eq!(port(&bench).unreadable_lease, None);
}

#[test]
fn host_routes_to_a_gateway_and_to_dns_servers_are_no_gateways_by_themselves() {
    let mut bench = without_route();
    for host in [[10, 0, 120, 1], [10, 0, 120, 53]] {
        bench.kernel.add_route(route_of(protocol::DHCP, host, 32, None)).expect("it is laid");
    }
    waits_for_a_gateway(&mut bench);
    write(&mut bench, &[lease(&[[10, 0, 120, 1]])]);
    bench.run(secs(5));
    bench.assert_way(PORT);
    assert_eq!(port(&bench).gateway, Some(gateway(PORT, Family::Ipv4)));
}

/// By the numbers of `linux/rtnetlink.h`. Another worker is there and answers all that it is asked.
#[test]
fn next_hops_of_a_cni_or_a_routing_daemon_are_never_gateways() {
    let protocols = [
        ("boot", 3),
        ("static", 4),
        ("gated", 8),
        ("mrt", 10),
        ("zebra", 11),
        ("bird", 12),
        ("dnrouted", 13),
        ("xorp", 14),
        ("ntk", 15),
        ("mrouted", 17),
        ("keepalived", 18),
        ("babel", 42),
        ("openr", 99),
        ("bgp", 186),
        ("isis", 187),
        ("ospf", 188),
        ("rip", 189),
        ("eigrp", 192),
    ];
    let worker = Ipv4Addr::from([10, 0, 120, 77]);
    for (name, protocol) in protocols {
        let mut bench = without_route();
        bench.world.gateways.insert((PORT, worker.into()), crate::sim::world::Gateway::well());
        for (destination, length) in [([10, 244, 7, 0], 24), ([10, 244, 7, 1], 32)] {
            let pods = route_of(protocol, destination, length, Some(worker.octets()));
            bench.kernel.add_route(pods).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        waits_for_a_gateway(&mut bench);
    }
}

#[test]
fn a_static_default_route_is_a_gateway_source() {
    let mut bench = without_route();
    let hops = vec![Hop { link: PORT, gateway: Some(gateway(PORT, Family::Ipv4)) }];
    let route = Route { metric: 100, hops, ..plain_default(Family::Ipv4) };
    bench.kernel.add_route(route).expect("it is laid");
    bench.start();
    bench.run(secs(20));
    bench.assert_way(PORT);
    assert_eq!(port(&bench).learned, Some(GatewaySource::Route));
}

/// The host would answer itself, and nobody beyond it.
#[test]
fn an_address_of_the_host_is_never_a_gateway() {
    let own = IpAddr::from([10, 0, 120, 11]);
    for on in [PORT, MGMT] {
        let mut bench = without_route();
        bench.world.gateways.insert((PORT, own), crate::sim::world::Gateway::well());
        let hops = vec![Hop { link: PORT, gateway: Some(own) }];
        bench
            .kernel
            .add_route(Route { metric: 10, hops, ..plain_default(Family::Ipv4) })
            .expect("it is laid");
        for address in &mut bench.kernel.addresses {
            if address.prefix.address == own {
                address.prefix.address = [10, 0, 120, 12].into();
            }
        }
        bench.start();
        bench.run(secs(5));
        assert_eq!(bench.way(Family::Ipv4), Some(PORT), "while it is another's");
        bench.kernel.add_address(Address { link: on, ..addresses(PORT, Family::Ipv4)[0].clone() });
        bench.run(secs(5));
        assert_eq!(bench.way(Family::Ipv4), Some(MGMT), "the address is {on:?}'s");
        assert_eq!(port(&bench).health, Health::Down(Cause::Gateway));
    }
}

/// Bridges of pods like to have it, and so do routers.
#[test]
fn a_link_local_address_on_another_link_may_be_a_gateway_all_the_same() {
    let mut bench = worker();
    let router = gateway(PORT, Family::Ipv6);
    let own = Address {
        prefix: Prefix { address: router, length: 64 },
        ..addresses(MGMT, Family::Ipv6)[0].clone()
    };
    assert!(own.link_local);
    bench.kernel.add_address(own);
    bench.start();
    bench.run(secs(5));
    bench.assert_way(PORT);
}

/// The port's gateway has worked, then its default route is gone, and another process starts.
fn restarted_without_route(between: impl FnOnce(&mut Bench)) -> Bench {
    let mut bench = steered_worker();
    bench.kill();
    bench.forget_routes(|route| *route == default_route(PORT, Family::Ipv4));
    between(&mut bench);
    bench.start();
    bench
}

/// Two interfaces that only their default routes make uplinks.
#[test]
fn a_restart_knows_the_uplink_whose_route_is_gone_by_its_pin() {
    let mut bench = Bench::new(1);
    for (link, name) in [(PORT, "eth0"), (MGMT, BOARD)] {
        bench.plug(link, name);
        bench.lease(link);
    }
    bench.start();
    bench.run(secs(20));
    bench.assert_way(MGMT);
    bench.forget_routes(|route| Family::ALL.map(|family| default_route(MGMT, family)).contains(route));
    bench.run(secs(5));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
    let writes = bench.writes();
    bench.restart();
    bench.run(secs(60));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
    assert_eq!((bench.writes(), bench.family(Family::Ipv4).reason), (writes, Reason::TakenOver));
}

fn answers_as(bench: &mut Bench, mac: Mac) {
    bench.gateways(PORT, |gateway| gateway.mac = mac);
}

#[test]
fn a_restart_knows_the_gateway_while_its_mac_and_prefix_are_the_same() {
    let mut bench = restarted_without_route(|_| ());
    let writes = bench.writes();
    bench.run(secs(60));
    bench.assert_way(PORT);
    assert_eq!((port(&bench).health, port(&bench).learned), (Health::Up, Some(GatewaySource::Memory)));
    assert_eq!(bench.family(Family::Ipv4).reason, Reason::TakenOver);
    assert_eq!(bench.writes(), writes);
    bench.restart();
    bench.run(secs(5));
    assert_eq!((port(&bench).health, port(&bench).learned), (Health::Up, Some(GatewaySource::Memory)));
}

#[test]
fn a_restart_does_not_trust_another_that_answers_for_the_gateway() {
    let mut bench = restarted_without_route(|bench| answers_as(bench, STRANGER));
    bench.run(secs(5));
    assert_eq!((port(&bench).health, port(&bench).last_answer), (Health::Down(Cause::Gateway), None));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
    let told = Notice::Stranger { uplink: DPU.to_owned(), family: Family::Ipv4, mac: STRANGER };
    assert_eq!(bench.notices.iter().filter(|(_, notice)| *notice == told).count(), 1, "told once");
    bench.revive(PORT);
    bench.run(secs(60));
    bench.assert_way(PORT);
    assert_eq!(port(&bench).health, Health::Up);
}

#[test]
fn a_stranger_who_answers_now_and_then_is_told_once() {
    let mut bench = restarted_without_route(|_| ());
    for _ in 0..5 {
        answers_as(&mut bench, STRANGER);
        bench.run(secs(11));
        bench.revive(PORT);
        bench.run(secs(11));
    }
    let told = Notice::Stranger { uplink: DPU.to_owned(), family: Family::Ipv4, mac: STRANGER };
    assert_eq!(bench.notices.iter().filter(|(_, notice)| *notice == told).count(), 1);
}

#[test]
fn a_restart_in_another_prefix_does_not_know_the_gateway() {
    let mut bench = restarted_without_route(|bench| {
        for address in &mut bench.kernel.addresses {
            if address.link == PORT && address.prefix.length == 24 {
                address.prefix.length = 25;
            }
        }
    });
    bench.run(secs(40));
    assert_eq!((port(&bench).health, port(&bench).gateway), (Health::Down(Cause::Gateway), None));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
}

#[test]
fn whoever_takes_the_place_of_a_remembered_gateway_is_found_out() {
    let mut bench = steered_worker();
    bench.forget_routes(|route| *route == default_route(PORT, Family::Ipv4));
    bench.run(secs(5));
    assert_eq!(port(&bench).health, Health::Up);
    answers_as(&mut bench, STRANGER);
    bench.run(secs(15));
    assert_eq!(port(&bench).health, Health::Down(Cause::Gateway));
    assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
    // What somebody names is trusted, whoever it is.
    bench.defaults_come(PORT);
    bench.run(secs(60));
    bench.assert_way(PORT);
}

#[test]
fn a_port_that_is_made_anew_without_routes_is_known_by_the_mac_of_its_gateway() {
    for (mac, health) in [(Mac([2, 0, 0, 0, 1, 1]), Health::Up), (STRANGER, Health::Down(Cause::Gateway))] {
        let mut bench = steered_worker();
        let addresses: Vec<_> =
            bench.kernel.addresses.iter().filter(|address| address.link == PORT).cloned().collect();
        bench.kernel.remove_link(PORT);
        bench.run(secs(1));
        bench.plug_dpu(PORT, "ens1f0np0", 3);
        answers_as(&mut bench, mac);
        for address in addresses {
            bench.kernel.add_address(address);
        }
        bench.run(secs(5));
        assert_eq!((port(&bench).health, port(&bench).learned), (health, Some(GatewaySource::Memory)));
    }
}

#[test]
fn what_is_remembered_of_attributes_is_what_the_pin_copied() {
    let mut bench = without_route();
    let metrics = [(2, 1400)].into_iter().collect();
    let attributes = Attributes { metrics, ..Attributes::default() };
    let route = Route { attributes: attributes.clone(), ..default_route(PORT, Family::Ipv4) };
    bench.kernel.add_route(route.clone()).expect("it is laid");
    bench.start();
    bench.run(secs(20));
    bench.kill();
    bench.forget_routes(|other| *other == route);
    bench.start();
    bench.run(secs(60));
    bench.assert_way(PORT);
    assert_eq!(bench.kernel.pins(Family::Ipv4)[0].attributes(), &attributes);
}
