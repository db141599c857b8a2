//! Interfaces that lose their carrier, go down, change their addresses or names, vanish, and get a
//! bridge above them.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::Family;
use uplink_core::time::Instant;
use uplink_lab::{Change, End, Site, now};

use crate::scene::{Outcome, PATIENCE, PCI, PROMPT, SOON, Scene, trial};

/// What the port without configuration is called.
const DPU: &str = "dpu-0000:03:00.0";
/// A short wait before coming back.
const RETURN: &str = "return_after = \"1s\"";
const RETURN_AFTER: Duration = Duration::from_secs(1);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("carrier of the port lost: management at once; back after return_after", carrier_loss),
        trial("carrier of management lost: the port stays, nothing is written", carrier_of_management),
        trial("port set down and up: IPv4 routes vanish silently, no lookup fails", down_and_up),
        trial("address of the port taken away and given back: management meanwhile", address_gone),
        trial("another address of the port in the same subnet: the port stays", address_in_subnet),
        trial("another subnet of the port: the pin follows to its gateway", another_subnet),
        trial("preferred source of the port's route deleted: the pin is laid without it", source_gone),
        trial("port renamed: it stays elected under its new name", renamed),
        trial("port deleted and made anew: shown as missing, then taken again", made_anew),
        trial("whole card gone from the bus: back after return_after", card_gone),
        trial("ordinary uplink deleted and made anew: back after return_after", ordinary_made_anew),
        trial("bridge made above the port: the uplink is the bridge then", bridge_after_start),
        trial("bridge above the port loses its port's carrier: management at once", bridge_before_start),
        trial("bridge older than its port, known by their MAC: the port's carrier counts", bridge_with_mac),
    ]
}

fn carrier_loss() -> Outcome {
    let scene = Scene::configured(RETURN)?;
    let fault = scene.site.port.cable.carrier(End::Worker, false)?;
    scene.moves_to("mgmt", fault, SOON)?;
    for family in Family::ALL {
        scene.becomes(DPU, family, "link")?;
        assert_eq!(scene.pins(family)?, [], "management's own route is the best one then");
    }
    let back = scene.site.port.cable.carrier(End::Worker, true)?;
    returns(&scene, "port", back)?;
    let ending = scene.finish()?;
    for stream in &ending.streams {
        assert!(stream.longest_gap() < Duration::from_millis(500), "{stream:?}, {:?}", ending.lateness);
    }
    Ok(())
}

fn carrier_of_management() -> Outcome {
    let scene = Scene::usual()?;
    let fault = scene.site.mgmt.cable.carrier(End::Worker, false)?;
    scene.becomes("mgmt", Family::Ipv4, "link")?;
    scene.site.mgmt.cable.carrier(End::Worker, true)?;
    scene.becomes("mgmt", Family::Ipv4, "up")?;
    assert_eq!(scene.pin_writes(fault)?, []);
    let ending = scene.finish()?;
    assert!(ending.streams.iter().all(|stream| stream.lost == 0), "{ending:?}");
    Ok(())
}

fn down_and_up() -> Outcome {
    let scene = Scene::configured(RETURN)?;
    let port = &scene.site.port;
    let fault = scene.site.worker.set_up("port", false)?;
    scene.moves_to("mgmt", fault, SOON)?;
    scene.becomes(DPU, Family::Ipv4, "link")?;
    let told = |change: &Change| matches!(change, Change::RouteDeleted(route) if route.family == Family::Ipv4 && route.is_default());
    assert!(!scene.changes.since(fault).iter().any(|change| told(&change.what)), "no silence at all");

    let up = scene.site.worker.set_up("port", true)?;
    // IPv4 addresses outlive it, IPv6 addresses and all routes do not.
    scene.site.worker.ip(&format!("address add {}/64 dev port nodad", port.address6))?;
    scene.site.lay_default(port, "port", port.metric)?;
    returns(&scene, "port", up)?;
    scene.finish()?;
    Ok(())
}

fn address_gone() -> Outcome {
    let scene = Scene::configured(RETURN)?;
    let port = &scene.site.port;
    let (v4, v6) = (port.address4, port.address6);
    let fault = now();
    scene.site.worker.ip_batch(&format!(
        "address delete {v4}/24 dev port\n\
         address delete {v6}/64 dev port\n"
    ))?;
    scene.moves_to("mgmt", fault, SOON)?;
    for family in Family::ALL {
        scene.becomes(DPU, family, "address")?;
    }
    let back = now();
    scene.site.lay_addresses(port, "port")?;
    // The kernel took the IPv4 default route with the address, and left that of IPv6.
    scene
        .site
        .worker
        .ip(&format!("route add 0.0.0.0/0 via {} dev port proto 16 metric {}", port.gateway4, port.metric))?;
    returns(&scene, "port", back)?;
    scene.finish()?;
    Ok(())
}

fn address_in_subnet() -> Outcome {
    let scene = Scene::usual()?;
    let worker = &scene.site.worker;
    worker.sysctl("net/ipv4/conf/port/promote_secondaries", "1")?;
    worker.ip_batch(
        "address add 10.0.120.7/24 dev port\n\
         address add fd00:120::7/64 dev port nodad\n",
    )?;
    scene.site.await_address("fd00:120::7".parse()?)?;
    worker.ip_batch(
        "address delete 10.0.120.2/24 dev port\n\
         address delete fd00:120::2/64 dev port\n",
    )?;
    scene.stays(2 * PATIENCE)?;
    for family in Family::ALL {
        assert_eq!(scene.health(DPU, family)?, "up");
        assert_eq!(pinned(&scene, family)?.as_deref(), Some("port"));
    }
    let ending = scene.finish_changed()?;
    assert!(ending.streams.iter().all(|stream| stream.longest_gap() < PROMPT / 10), "{ending:?}");
    Ok(())
}

fn another_subnet() -> Outcome {
    let scene = Scene::usual()?;
    let (site, since) = (&scene.site, now());
    site.port
        .gateway
        .ip_batch("address add 10.0.121.1/24 dev lan\naddress add fd00:121::1/64 dev lan nodad\n")?;
    site.internet
        .ip_batch("route add 10.0.121.0/24 via 198.18.1.2\nroute add fd00:121::/64 via 2001:db8:1::2\n")?;
    site.worker.ip_batch(
        "address add 10.0.121.2/24 dev port\n\
         address add fd00:121::2/64 dev port nodad\n",
    )?;
    site.await_address("fd00:121::2".parse()?)?;
    site.worker.ip_batch(
        "route replace 0.0.0.0/0 via 10.0.121.1 dev port proto 16 metric 101\n\
         address delete 10.0.120.2/24 dev port\n\
         address delete fd00:120::2/64 dev port\n",
    )?;
    let follows = |change: &Change| {
        matches!(change, Change::RouteAdded(route) if route.is_pin()
            && route.gateway == Some([10, 0, 121, 1].into()))
    };
    scene.changes.wait_for("a pin to the new gateway", since, SOON, follows)?;
    scene.becomes(DPU, Family::Ipv4, "up")?;
    scene.stays(2 * PATIENCE)?;
    assert_eq!(scene.lookups.report().changes.iter().filter(|way| way.at >= since).count(), 0);
    let [pin] = scene.pins(Family::Ipv4)?.try_into().map_err(|pins| format!("not one pin: {pins:?}"))?;
    assert_eq!(pin.gateway, Some([10, 0, 121, 1].into()));
    scene.finish_changed()?;
    Ok(())
}

fn source_gone() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    site.worker.sysctl("net/ipv4/conf/port/promote_secondaries", "1")?;
    site.worker.ip_batch(
        "address add 10.0.120.7/24 dev port\n\
         route delete 0.0.0.0/0 dev port\n\
         route add 0.0.0.0/0 via 10.0.120.1 dev port proto 16 metric 101 src 10.0.120.2\n",
    )?;
    let scene = Scene::begin(site, "")?;
    scene.leads_to("port")?;
    let since = scene.changes.caught_up()?;
    // Both default routes through the port go with it, without a message.
    scene.site.worker.ip("address delete 10.0.120.2/24 dev port")?;
    let laid = |change: &Change| matches!(change, Change::RouteAdded(route) if route.is_pin());
    scene.changes.wait_for("a pin", since, SOON, laid).map_err(|error| scene.explain(&error.to_string()))?;
    scene.leads_to("port")?;
    scene.becomes(DPU, Family::Ipv4, "up")?;
    scene.stays(PATIENCE)?;
    let added = scene.writes(since)?.iter().filter(|change| laid(&change.what)).count();
    assert_eq!(added, 1, "the pin was laid more than once");
    scene.finish_changed()?;
    Ok(())
}

fn renamed() -> Outcome {
    let scene = Scene::usual()?;
    let since = scene.changes.caught_up()?;
    rename(&scene, "port", "portal")?;
    scene.moves_to("portal", since, SOON)?;
    scene.stays(PATIENCE)?;
    assert_eq!(scene.uplink(DPU)?["interface"], "portal");
    rename(&scene, "portal", "port")?;
    scene.leads_to("port")?;
    scene.stays(PATIENCE)?;
    assert_eq!(scene.uplink(DPU)?["interface"], "port");
    assert_eq!(scene.writes(since)?, []);
    let ending = scene.finish()?;
    assert!(ending.streams.iter().all(|stream| stream.lost == 0), "{ending:?}");
    Ok(())
}

fn made_anew() -> Outcome {
    let scene = Scene::configured(RETURN)?;
    let port = &scene.site.port;
    let fault = scene.site.unplug(port)?;
    scene.moves_to("mgmt", fault, SOON)?;
    scene.becomes(DPU, Family::Ipv4, "link")?;
    assert!(scene.uplink(DPU)?["interface"].is_null());
    let back = now();
    scene.site.plug(port)?;
    scene.site.lay_addresses(port, "port")?;
    scene.site.lay_default(port, "port", port.metric)?;
    returns(&scene, "port", back)?;
    assert_eq!(scene.uplink(DPU)?["interface"], "port");
    scene.finish()?;
    Ok(())
}

fn card_gone() -> Outcome {
    let scene = Scene::configured("return_after = \"3s\"")?;
    let port = &scene.site.port;
    scene.site.worker.unbind_pci("port")?;
    scene.site.worker.unplug_pci(PCI)?;
    let fault = scene.site.unplug(port)?;
    scene.moves_to("mgmt", fault, SOON)?;
    assert!(scene.uplink(DPU).is_err(), "nobody knows of the card any more");
    let back = now();
    scene.site.worker.give_pci("port", PCI)?;
    scene.site.plug(port)?;
    scene.site.lay_addresses(port, "port")?;
    scene.site.lay_default(port, "port", port.metric)?;
    for moment in scene.moves_to("port", back, SOON)? {
        assert!(moment >= back + Duration::from_secs(3), "back after {:?}", moment.since(back));
    }
    scene.finish()?;
    Ok(())
}

fn ordinary_made_anew() -> Outcome {
    let scene = Scene::begin(Site::new()?, "return_after = \"3s\"")?;
    scene.leads_to("mgmt")?;
    let mgmt = &scene.site.mgmt;
    let fault = scene.site.unplug(mgmt)?;
    scene.moves_to("port", fault, SOON)?;
    let back = now();
    scene.site.plug(mgmt)?;
    scene.site.lay_addresses(mgmt, "mgmt")?;
    scene.site.lay_default(mgmt, "mgmt", mgmt.metric)?;
    scene.moves_to("mgmt", back, SOON)?;
    let taken = scene.daemon.wait_for_log("its return", back, SOON, |line| line.contains("→ mgmt"))?.at;
    assert!(taken >= back + Duration::from_secs(3), "back after {:?}", taken.since(back));
    scene.finish()?;
    Ok(())
}

fn bridge_after_start() -> Outcome {
    let scene = Scene::configured(RETURN)?;
    let site = &scene.site;
    let since = now();
    site.worker.ip("link add above address 02:00:00:00:00:11 up type bridge forward_delay 0")?;
    lay_bridge(site)?;
    scene.moves_to("mgmt", since, SOON)?;
    returns(&scene, "above", since)?;
    assert_eq!(scene.uplink(DPU)?["interface"], "above");

    let undone = now();
    site.worker.ip_batch("link set port nomaster\nlink delete above\n")?;
    scene.moves_to("mgmt", undone, SOON)?;
    site.lay_addresses(&site.port, "port")?;
    site.lay_default(&site.port, "port", site.port.metric)?;
    returns(&scene, "port", undone)?;
    scene.finish()?;
    Ok(())
}

pub(crate) fn bridge_before_start() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    site.worker.ip("link add above up type bridge forward_delay 0")?;
    lay_bridge(&site)?;
    let scene = Scene::begin(site, RETURN)?;
    scene.leads_to("above")?;
    assert_eq!(scene.uplink(DPU)?["interface"], "above");
    loses_carrier(&scene)?;
    scene.finish_changed()?;
    Ok(())
}

/// As after a restart of the card's firmware: the port is made anew, the bridge has kept its MAC.
fn bridge_with_mac() -> Outcome {
    let site = Site::builder().without_port().build()?;
    site.worker.ip("link add above address 02:00:00:00:00:01 up type bridge forward_delay 0")?;
    site.plug(&site.port)?;
    site.worker.ip("link set port master above")?;
    site.lay_addresses(&site.port, "above")?;
    site.lay_default(&site.port, "above", site.port.metric)?;
    let matching = "[[uplink]]\nname = \"fast\"\nmatch = { mac = \"02:00:00:00:00:01\" }";
    let scene = Scene::begin(site, &format!("{RETURN}\n{matching}"))?;
    scene.leads_to("above")?;
    loses_carrier(&scene)?;
    scene.finish_changed()?;
    Ok(())
}

/// The port below the bridge `above` loses its carrier, while something else keeps the bridge's own.
fn loses_carrier(scene: &Scene) -> Outcome {
    scene.site.worker.ip_batch(
        "link add guest up type veth peer name inside\n\
         link set inside up\n\
         link set guest master above\n",
    )?;
    let fault = scene.site.port.cable.carrier(End::Worker, false)?;
    for moment in scene.moves_to("mgmt", fault, SOON)? {
        // Silence would be believed after patience only.
        assert!(moment < fault + PATIENCE / 2, "moved after {:?}", moment.since(fault));
    }
    let back = scene.site.port.cable.carrier(End::Worker, true)?;
    returns(scene, "above", back)?;
    scene.site.worker.ip("link delete guest")?;
    Ok(())
}

/// Waits until both families are led by this interface again, which must not be before
/// `return_after` has passed since it could be well.
fn returns(scene: &Scene, interface: &str, since: Instant) -> Outcome {
    for moment in scene.moves_to(interface, since, SOON)? {
        assert!(moment >= since + RETURN_AFTER, "back after {:?}", moment.since(since));
    }
    Ok(())
}

/// Enslaves the port to the bridge `above`, and moves its addresses and default routes there.
fn lay_bridge(site: &Site) -> Outcome {
    site.worker.ip_batch(
        "link set port master above\n\
         address flush dev port scope global\n\
         route delete ::/0 dev port proto 16\n",
    )?;
    site.lay_addresses(&site.port, "above")?;
    site.lay_default(&site.port, "above", site.port.metric)?;
    Ok(())
}

/// Gives an interface another name while it is up; its place on the bus goes with it.
pub(crate) fn rename(scene: &Scene, from: &str, to: &str) -> Outcome {
    let worker = &scene.site.worker;
    worker.bind_pci(to, PCI, Some("p0"))?;
    worker.ip(&format!("link set {from} name {to}"))?;
    scene.changes.wait_for(
        "the new name",
        scene.daemon.started(),
        SOON,
        |change| matches!(change, Change::Link { interface, .. } if interface == to),
    )?;
    worker.unbind_pci(from)?;
    Ok(())
}

/// Where the only pin of a family leads.
fn pinned(scene: &Scene, family: Family) -> Result<Option<String>, Failed> {
    match scene.pins(family)?.as_slice() {
        [pin] => Ok(pin.interface.clone()),
        pins => Err(format!("not one {family} pin: {pins:?}").into()),
    }
}
