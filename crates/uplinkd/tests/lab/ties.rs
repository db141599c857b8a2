//! Default routes of equal metrics on both uplinks, as netplan lays them: its networkd renderer gives
//! every Ethernet interface metric 100.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::Family;
use uplink_lab::{Site, Uplink};

use crate::ipv6::{ROUTER, advertise, learned, listens};
use crate::scene::{BRISK, Outcome, PCI, Scene, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("equal metrics: netplan, leases and advertisements through networkd", || {
            steered(&["dhcp", "ra"], 100)
        }),
        trial("equal metrics: netplan, static routes", || steered(&["static", "static"], 100)),
        trial("equal metrics: static routes without a metric", || steered(&["static", "static"], 0)),
        trial("equal metrics: advertisements heard by the kernel", advertised),
        trial("equal metrics: a lease is renewed, and nothing moves", renewed),
        trial("equal metrics: uplinks are named, no BlueField port", named),
        trial("equal metrics: nothing is named, no BlueField port: IPv6 is left alone", nobodys),
    ]
}

/// An uplink's default routes, as `ip` wants to be told of them. In the order of families.
fn defaults(uplink: &Uplink, protocols: &[&str; 2], metric: u32) -> [String; 2] {
    let Uplink { interface, gateway4, gateway6, .. } = uplink;
    let [v4, v6] = protocols;
    [
        format!("0.0.0.0/0 via {gateway4} dev {interface} proto {v4} metric {metric}"),
        format!("::/0 via {gateway6} dev {interface} proto {v6} metric {metric}"),
    ]
}

/// Management's come first.
fn tied(protocols: &[&str; 2], metric: u32) -> Result<Site, Failed> {
    let site = Site::builder().without_default_routes().build()?;
    for uplink in [&site.mgmt, &site.port] {
        // As networkd does: behind what is there.
        for route in defaults(uplink, protocols, metric) {
            site.worker.ip(&format!("route append {route}"))?;
        }
    }
    Ok(site)
}

fn steered(protocols: &[&str; 2], metric: u32) -> Outcome {
    let site = tied(protocols, metric)?;
    site.worker.give_pci("port", PCI)?;
    let joined = site.worker.default_routes(Family::Ipv6)?;
    assert_eq!(joined.iter().map(|route| route.hops).collect::<Vec<_>>(), [2], "IPv6 made one of them");
    there_and_back(Scene::begin(site, BRISK)?)
}

fn there_and_back(scene: Scene) -> Outcome {
    scene.leads_to("port")?;
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish()?;
    Ok(())
}

fn advertised() -> Outcome {
    let site = tied(&["dhcp", "ra"], 100)?;
    site.worker.give_pci("port", PCI)?;
    // Without a gateway, a delete takes all that IPv6 joined.
    site.worker.ip("-6 route delete ::/0 dev mgmt")?;
    for uplink in [&site.mgmt, &site.port] {
        listens(&site, uplink.interface, "2")?;
        advertise(uplink, ROUTER)?;
        learned(&site, uplink.interface)?;
    }
    there_and_back(Scene::begin(site, BRISK)?)
}

fn renewed() -> Outcome {
    const PROTOCOLS: [&str; 2] = ["dhcp", "static"];
    let site = tied(&PROTOCOLS, 100)?;
    site.worker.give_pci("port", PCI)?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    for uplink in [&scene.site.mgmt, &scene.site.port] {
        let since = scene.changes.caught_up()?;
        for route in defaults(uplink, &PROTOCOLS, 100) {
            scene.write(&[format!("route delete {route}"), format!("route append {route}")])?;
        }
        scene.stays(Duration::from_millis(300))?;
        assert_eq!(scene.writes(since)?, []);
    }
    scene.finish_among()?;
    Ok(())
}

fn named() -> Outcome {
    let uplink = "[[uplink]]\nname = \"fast\"\nmatch = { interface = \"port\" }\n";
    let site = tied(&["dhcp", "static"], 100)?;
    there_and_back(Scene::begin(site, &format!("{BRISK}{uplink}"))?)
}

fn nobodys() -> Outcome {
    let scene = Scene::begin(tied(&["dhcp", "static"], 100)?, BRISK)?;
    scene.until("said in the status", || Ok(scene.status_of(Family::Ipv6, "aside")? == "multipath"))?;
    scene.pinned(Family::Ipv6, "no pin", <[_]>::is_empty)?;
    // IPv4 has two routes, of which the kernel takes the first.
    assert!(scene.status_of(Family::Ipv4, "aside")?.is_null());
    scene.finish()?;
    Ok(())
}
