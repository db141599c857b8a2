//! What only IPv6 has: forwarding that changes how routes are chosen, and routers that advertise
//! themselves.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::{Family, protocol};
use uplink_lab::{Advertisement, RouterPreference, Site, Uplink, now, pass};

use crate::scene::{BRISK, INTERNET, Outcome, PCI, SOON, Scene, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("forwarding on: silent port, management, and back", forwarding),
        trial("forwarding off, neighbours that failed: silent port, management, and back", not_forwarding),
        trial("advertised port: taken, refreshed without a write, withdrawn, taken again", advertised),
        trial("both advertised, management preferred by its router: the port all the same", preferred),
        trial("advertised port and forwarding: silent, and back", advertised_forwarding),
        trial("forwarding turned on: what was advertised is gone, management takes over", purged),
        trial("port's router is advertised late: it is taken", advertised_late),
    ]
}

fn forwarding() -> Outcome {
    with_forwarding("1")
}

fn not_forwarding() -> Outcome {
    with_forwarding("0")
}

/// The kernel passes over a default route with a failed neighbour if it does not forward.
fn with_forwarding(value: &str) -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    site.worker.sysctl("net/ipv6/conf/all/forwarding", value)?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    for _ in 0..2 {
        scene.fail_over()?;
        // Long enough for the kernel to give up on the neighbour, too.
        scene.stays(Duration::from_secs(1))?;
        scene.come_back()?;
    }
    scene.finish()?;
    Ok(())
}

/// A site whose port has no IPv6 default route but what its router advertises; management has, and
/// IPv4 is as usual.
pub(crate) fn bare_port() -> Result<Site, Failed> {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    site.worker.ip("-6 route delete default dev port")?;
    listens(&site, "port", "2")?;
    Ok(site)
}

pub(crate) fn listens(site: &Site, interface: &str, accept: &str) -> Outcome {
    site.worker.sysctl(&format!("net/ipv6/conf/{interface}/accept_ra"), accept)?;
    Ok(())
}

pub(crate) const ROUTER: Advertisement =
    Advertisement { lifetime: 1800, preference: RouterPreference::Medium, hop_limit: 0 };

/// The uplink's gateway advertises itself.
pub(crate) fn advertise(uplink: &Uplink, advertisement: Advertisement) -> Outcome {
    uplink.gateway.advertise("lan", uplink.gateway6, advertisement)?;
    Ok(())
}

/// Waits until the kernel has a default route from an advertisement.
pub(crate) fn learned(site: &Site, interface: &str) -> Outcome {
    let end = now() + SOON;
    loop {
        let routes = site.worker.default_routes(Family::Ipv6)?;
        let there = |route: &uplink_lab::Route| {
            route.protocol == protocol::RA && route.interface.as_deref() == Some(interface)
        };
        if routes.iter().any(there) {
            return Ok(());
        }
        if now() >= end {
            return Err(format!("{interface} learned nothing: {routes:?}").into());
        }
        pass(Duration::from_millis(1));
    }
}

/// IPv6 leads to this interface, now or soon.
pub(crate) fn leads_to(scene: &Scene, interface: &str) -> Outcome {
    scene.until(&format!("IPv6 leads to {interface}"), || {
        Ok(scene.way_to(INTERNET[1]).as_deref() == Some(interface))
    })
}

fn advertised() -> Outcome {
    let site = bare_port()?;
    advertise(&site.port, ROUTER)?;
    learned(&site, "port")?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    let port = &scene.site.port;

    let since = scene.changes.caught_up()?;
    for hop_limit in [0, 64, 64, 32, 32, 64, 0, 0] {
        advertise(port, Advertisement { lifetime: 900, hop_limit, ..ROUTER })?;
        pass(Duration::from_millis(20));
    }
    scene.stays(Duration::from_millis(200))?;
    let written = scene.writes(since)?;
    // A hop limit is something that the route says, and the pin follows it; nothing else changed.
    assert!(written.len() <= 8, "{written:?}");
    let since = scene.changes.caught_up()?;
    for _ in 0..5 {
        advertise(port, ROUTER)?;
        pass(Duration::from_millis(20));
    }
    scene.stays(Duration::from_millis(200))?;
    assert_eq!(scene.writes(since)?, [], "refreshed");

    let withdrawn = now();
    advertise(port, Advertisement { lifetime: 0, ..ROUTER })?;
    leads_to(&scene, "mgmt")?;
    assert!(now().since(withdrawn) < Duration::from_millis(500), "{:?}", now().since(withdrawn));
    scene.becomes("port", Family::Ipv6, "gateway")?;
    assert_eq!(scene.way_to(INTERNET[0]).as_deref(), Some("port"), "IPv4 is not concerned");
    advertise(port, ROUTER)?;
    leads_to(&scene, "port")?;
    scene.finish_among()?;
    Ok(())
}

fn advertised_late() -> Outcome {
    let scene = Scene::begin(bare_port()?, &format!("{BRISK}boot_wait = \"1s\""))?;
    leads_to(&scene, "mgmt")?;
    advertise(&scene.site.port, ROUTER)?;
    leads_to(&scene, "port")?;
    scene.leads_to("port")?;
    scene.finish_among()?;
    Ok(())
}

/// Both uplinks have nothing in IPv6 but what is advertised.
fn both_bare() -> Result<Site, Failed> {
    let site = bare_port()?;
    site.worker.ip("-6 route delete default dev mgmt")?;
    listens(&site, "mgmt", "2")?;
    Ok(site)
}

fn preferred() -> Outcome {
    let site = both_bare()?;
    advertise(&site.port, Advertisement { preference: RouterPreference::Low, ..ROUTER })?;
    advertise(&site.mgmt, Advertisement { preference: RouterPreference::High, ..ROUTER })?;
    learned(&site, "port")?;
    learned(&site, "mgmt")?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    scene.fail_over()?;
    let since = scene.changes.caught_up()?;
    advertise(&scene.site.mgmt, Advertisement { preference: RouterPreference::Low, ..ROUTER })?;
    scene.stays(Duration::from_millis(300))?;
    assert_eq!(scene.writes(since)?, []);
    scene.come_back()?;
    scene.finish_among()?;
    Ok(())
}

fn advertised_forwarding() -> Outcome {
    let site = both_bare()?;
    site.worker.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    for uplink in [&site.port, &site.mgmt] {
        listens(&site, uplink.interface, "2")?;
        advertise(uplink, ROUTER)?;
        learned(&site, uplink.interface)?;
    }
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish_among()?;
    Ok(())
}

fn purged() -> Outcome {
    let site = bare_port()?;
    listens(&site, "port", "1")?;
    advertise(&site.port, ROUTER)?;
    learned(&site, "port")?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    scene.site.worker.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    leads_to(&scene, "mgmt")?;
    // Now it does not listen to routers any more.
    advertise(&scene.site.port, ROUTER)?;
    scene.stays(Duration::from_millis(500))?;
    scene.finish_among()?;
    Ok(())
}
