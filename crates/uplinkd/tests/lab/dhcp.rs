//! Leases and advertisements by the real programs: dnsmasq and radvd on the gateways; systemd-networkd,
//! udhcpc and dhclient on the worker. Those with systemd-networkd need root, all others do not.
//!
//! udhcpc and dhclient know nothing of router advertisements: there the kernel takes them.

use libtest_mimic::Trial;
use uplink_core::snapshot::Family;
use uplink_lab::{Change, ClientKind, Lag, Offer, Route, RouterAdvertiser, Uplink, now};

use crate::leased::{
    AT_ONCE, GRACE, LONG, Leased, await_leases, beside, is_default, is_theirs, last, other_gateway,
};
use crate::scene::{BRISK, INTERNET, Outcome, SOON, trial};

type Test = fn(ClientKind) -> Outcome;

pub(crate) fn trials() -> Vec<Trial> {
    use ClientKind::{Dhclient, NetworkManager, Networkd, Udhcpc};
    // That of ifupdown is dhclient.
    let all = &[Networkd, NetworkManager, Udhcpc, Dhclient][..];
    // dhclient's script lays routes with a new address only, and metrics are none of its business.
    let by_route = &[Networkd, NetworkManager, Udhcpc][..];
    let by_option = &[Networkd, NetworkManager][..];
    let tests: [(&str, &[ClientKind], Test); 14] = [
        (
            "leases renewed unchanged: nothing is lost, no route changes",
            &[Networkd, NetworkManager, Dhclient],
            renewed,
        ),
        (
            "leases renewed unchanged, placement table: nothing is lost, no route changes",
            &[Udhcpc],
            renewed_table,
        ),
        ("leases renewed by a script that flushes the pin: nothing is lost", &[Udhcpc], renewed_flushing),
        ("leases renewed in an outage: management carries on", all, renewed_in_outage),
        ("port gets another address: an uplink carries on at once", all, port_address),
        ("management gets another address: the port carries on", all, mgmt_address),
        ("port gets another gateway: followed at once", by_route, port_gateway),
        ("management gets another gateway in an outage: followed at once", by_route, mgmt_gateway),
        ("port gets a metric ahead of all: the port carries on", by_option, port_metric),
        ("management gets a metric ahead of all: the port carries on", by_option, mgmt_metric),
        ("port's lease is refused, then given again: management at once, and back", all, refused),
        ("option 121 and no router: the next hop is the gateway, also another one", by_option, option_121),
        (
            "no router, and a route to the name server: not a gateway; a router later: taken",
            by_option,
            no_router,
        ),
        ("port's router withdrawn, then advertised again: management at once, and back", by_route, withdrawn),
    ];
    let trials = tests.into_iter().flat_map(|(name, kinds, test)| {
        kinds.iter().map(move |&kind| trial(&format!("{kind}: {name}"), move || test(kind)))
    });
    trials.collect()
}

fn renewed(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let since = leased.renew()?;
    leased.wrote_nothing(since)?;
    leased.finish(&[])
}

fn renewed_table(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, &format!("{BRISK}placement = \"table\"\n"))?;
    let since = leased.renew()?;
    leased.wrote_nothing(since)?;
    leased.finish(&[])
}

/// As Debian's, the script takes any other default route of the interface for a reason to flush them
/// all: the pin is gone, and back at once. Debian's lays its own without a metric, so that beside it the
/// pin stands in its own table, as in the test before.
fn renewed_flushing(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    leased.renew()?;
    leased.scene.leads_to("port")?;
    leased.finish(&[])
}

fn renewed_in_outage(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let outage = leased.fail_over()?;
    leased.client.renew(&leased.scene.site.worker, "port")?;
    leased.client.renew(&leased.scene.site.worker, "mgmt")?;
    leased.servers[1].wait_for_lease(outage.end)?;
    leased.settled(Family::Ipv4, &["mgmt"], outage.end);
    leased.wrote_nothing(outage.end)?;
    leased.scene.come_back()?;
    leased.finish(&[outage])
}

fn port_address(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let offer = Offer { address: Some(beside(leased.port().address4, 7)), ..last(leased.port()) };
    let doubt = leased.changed("port", || leased.renew_with("port", &offer), is_default("port"))?;
    leased.scene.leads_to("port")?;
    leased.finish(&[doubt])
}

fn mgmt_address(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let offer = Offer { address: Some(beside(leased.mgmt().address4, 7)), ..last(leased.mgmt()) };
    leased.changed("mgmt", || leased.renew_with("mgmt", &offer), is_default("mgmt"))?;
    leased.scene.leads_to("port")?;
    leased.finish(&[])
}

fn port_gateway(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let other = other_gateway(leased.port())?;
    let offer = Offer { router: Some(other), ..last(leased.port()) };
    let doubt = leased.changed("port", || leased.renew_with("port", &offer), is_default("port"))?;
    leased.follows(other, &doubt)?;
    leased.finish(&[])
}

fn mgmt_gateway(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    let outage = leased.fail_over()?;
    let offer = Offer { router: Some(other_gateway(leased.mgmt())?), ..last(leased.mgmt()) };
    let doubt = leased.changed("mgmt", || leased.renew_with("mgmt", &offer), is_default("mgmt"))?;
    leased.scene.leads_to("mgmt")?;
    leased.scene.come_back()?;
    leased.finish(&[outage, doubt])
}

fn port_metric(kind: ClientKind) -> Outcome {
    let mut leased = Leased::start(kind, BRISK)?;
    let since = leased.reload("port", 50)?;
    let doubt = leased.changed("port", || Ok(since), is_default("port"))?;
    await_leases(&leased.scene.site)?;
    leased.scene.leads_to("port")?;
    leased.finish(&[doubt])
}

fn mgmt_metric(kind: ClientKind) -> Outcome {
    let mut leased = Leased::start(kind, BRISK)?;
    let since = leased.reload("mgmt", 50)?;
    leased.changed("mgmt", || Ok(since), is_default("mgmt"))?;
    await_leases(&leased.scene.site)?;
    leased.scene.leads_to("port")?;
    for family in Family::ALL {
        let is_ahead = |pins: &[Route]| matches!(pins, [pin] if pin.metric < 50);
        leased.scene.pinned(family, "the pin lies ahead", is_ahead)?;
    }
    leased.finish(&[])
}

fn refused(kind: ClientKind) -> Outcome {
    let leased = Leased::start(kind, BRISK)?;
    if kind == ClientKind::NetworkManager {
        leased.client.give_up_after(&leased.scene.site.worker, "port", GRACE)?;
    }
    let nothing = Offer { address: None, ..last(leased.port()) };
    let is_gone = |change: &Change| {
        matches!(change, Change::AddressDeleted { .. }) && is_theirs(change, Family::Ipv4, "port")
    };
    let doubt = leased.changed("port", || leased.renew_with("port", &nothing), is_gone)?;
    leased.scene.becomes("port", Family::Ipv4, "address")?;
    let given = leased.servers[0].offer(&last(leased.port()))?;
    leased.servers[0].wait_for_lease(given)?;
    leased.scene.leads_to("port")?;
    leased.finish(&[doubt])
}

fn option_121(kind: ClientKind) -> Outcome {
    let offer = |hop, offer| {
        let routes = vec![("169.254.99.100/32".to_owned(), hop)];
        Offer { router: None, routes, ..offer }
    };
    let leased = Leased::offered(kind, BRISK, |port| offer(port.gateway4, Offer::of(port)))?;
    leased.pinned_via(leased.port().gateway4)?;
    let since = leased.renew()?;
    leased.wrote_nothing(since)?;
    let other = other_gateway(leased.port())?;
    let offer = offer(other, last(leased.port()));
    let is_next_hop = |change: &Change| {
        matches!(change, Change::RouteAdded(route) if route.gateway == Some(other.into()))
            && is_theirs(change, Family::Ipv4, "port")
    };
    let doubt = leased.changed("port", || leased.renew_with("port", &offer), is_next_hop)?;
    leased.follows(other, &doubt)?;
    leased.finish(&[])
}

/// The name server is on the gateway, which would answer.
fn no_router(kind: ClientKind) -> Outcome {
    let with_names = |port: &Uplink| Offer { name_server: Some(port.gateway4), ..Offer::of(port) };
    let toml = format!("{BRISK}boot_wait = \"1s\"\n");
    let leased = Leased::offered(kind, &toml, |port| Offer { router: None, ..with_names(port) })?;
    leased.scene.becomes("port", Family::Ipv4, "gateway")?;
    leased.scene.pinned(Family::Ipv4, "there is no pin", <[_]>::is_empty)?;
    let offer = with_names(leased.port());
    leased.changed("port", || leased.renew_with("port", &offer), is_default("port"))?;
    leased.pinned_via(leased.port().gateway4)?;
    leased.finish(&[])
}

fn withdrawn(kind: ClientKind) -> Outcome {
    let mut leased = Leased::start(kind, BRISK)?;
    let (router, since) = (leased.routers.remove(0), now());
    let lag = Lag::of_kernel()?;
    router.stop()?;
    let is_gone = |change: &Change| {
        matches!(change, Change::RouteDeleted(route) if route.is_default())
            && is_theirs(change, Family::Ipv6, "port")
    };
    let gone = leased.scene.changes.wait_for("the route's end", since, SOON, is_gone)?.at;
    let moved = leased.scene.lookups.wait_for(INTERNET[1], "mgmt", since, SOON)?.at;
    let (took, late) = (moved.since(gone), lag.stop().max);
    println!("{kind}: management {took:?} after the port's router was gone; the machine was {late:?} late");
    assert!(took <= AT_ONCE + late * 4, "{took:?}, {late:?}");
    leased.routers.push(RouterAdvertiser::start(leased.port(), LONG)?);
    leased.scene.leads_to("port")?;
    leased.finish(&[])
}
