//! Routers that advertise themselves: for how long, how much they want to be the default one, and
//! several of them on one link.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::Family;
use uplink_lab::{Advertisement, RouterPreference, Site, now, pass};

use crate::ipv6::{ROUTER, advertise, bare_port, leads_to, learned, listens};
use crate::scene::{BRISK, Outcome, PCI, SOON, Scene, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("port's router falls silent about itself: its life ends, management takes over", || ends("0")),
        trial("the same, forwarding", || ends("1")),
        trial("short lives that are prolonged: nothing is written", prolonged),
        trial("route laid from user space for a while: it ends with its life", laid_for_a_while),
        trial("two routers on the port: the preferred one, and back when it withdraws", || preferences("0")),
        trial("two routers on the port, forwarding: the same", || preferences("1")),
        trial("two routers on each uplink: the port by its better one", both),
        trial("two routers on the port and one on management, of one metric through networkd", of_one_metric),
        trial("one of the port's two routers dies: the port by the other", || dies("0")),
        trial("one of the port's two routers dies, forwarding: the port by the other", || dies("1")),
    ]
}

/// An advertisement that must be said again soon; not so soon that a busy machine comes too late.
const SHORT: Advertisement = Advertisement { lifetime: 4, ..ROUTER };

/// The kernel deletes such a route half a minute after lookups began to pass over it.
const BEFORE_THE_KERNEL: Duration = Duration::from_secs(10);

/// What was advertised ends, though the router still answers.
fn ends(forwarding: &str) -> Outcome {
    let site = bare_port()?;
    site.worker.sysctl("net/ipv6/conf/all/forwarding", forwarding)?;
    listens(&site, "port", "2")?;
    advertise(&site.port, SHORT)?;
    learned(&site, "port")?;
    let said = now();
    let scene = Scene::begin(site, BRISK)?;
    leads_to(&scene, "port")?;
    leads_to(&scene, "mgmt")?;
    let left = now().since(said);
    assert!((Duration::from_secs(1)..BEFORE_THE_KERNEL).contains(&left), "{left:?}");
    scene.becomes("port", Family::Ipv6, "gateway")?;
    // Nobody remembers a router that let its life end.
    scene.stays(Duration::from_millis(500))?;
    advertise(&scene.site.port, ROUTER)?;
    leads_to(&scene, "port")?;
    scene.finish_among()?;
    Ok(())
}

/// With the default patience, so that a busy machine's lateness is no reason to write.
fn prolonged() -> Outcome {
    let site = bare_port()?;
    advertise(&site.port, SHORT)?;
    learned(&site, "port")?;
    let scene = Scene::begin(site, "")?;
    scene.leads_to("port")?;
    let since = scene.changes.caught_up()?;
    while now().since(since) < Duration::from_secs(7) {
        advertise(&scene.site.port, SHORT)?;
        pass(Duration::from_millis(100));
    }
    assert_eq!(scene.writes(since)?, []);
    leads_to(&scene, "port")?;
    scene.finish_among()?;
    Ok(())
}

/// As a client does that hears advertisements itself.
fn laid_for_a_while() -> Outcome {
    let site = bare_port()?;
    let lay = "-6 route append default via fe80::1 dev port proto ra metric 512 pref high expires";
    site.worker.ip(&format!("{lay} 4"))?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    // What is there already is prolonged, and `ip` is told that it is there.
    let _ = scene.site.worker.ip(&format!("{lay} 6"));
    scene.stays(Duration::from_secs(4))?;
    leads_to(&scene, "mgmt")?;
    scene.finish_among()?;
    Ok(())
}

/// Two routers in the port's subnet, of which management uses the second as well, by a route that
/// comes first.
fn two_routers(forwarding: &str) -> Result<Site, Failed> {
    let site = Site::builder().one_subnet().build()?;
    site.worker.give_pci("port", PCI)?;
    site.worker.sysctl("net/ipv6/conf/all/forwarding", forwarding)?;
    site.worker.ip("-6 route delete default dev port")?;
    listens(&site, "mgmt", "0")?;
    listens(&site, "port", "2")?;
    Ok(site)
}

/// The IPv6 pin leads through an interface to this router, now or soon.
fn pinned(scene: &Scene, interface: &str, router: Ipv6Addr) -> Outcome {
    pinned_to(scene, interface, router.into())
}

/// The pin of the router's family leads through an interface to it, now or soon.
fn pinned_to(scene: &Scene, interface: &str, router: IpAddr) -> Outcome {
    let what = format!("one pin to {router} by {interface}");
    scene.pinned(Family::of(router), &what, |pins| {
        matches!(pins, [pin] if pin.interface.as_deref() == Some(interface) && pin.gateway == Some(router))
    })
}

fn with(preference: RouterPreference) -> Advertisement {
    Advertisement { preference, ..ROUTER }
}

const WITHDRAWN: Advertisement = Advertisement { lifetime: 0, ..ROUTER };

fn preferences(forwarding: &str) -> Outcome {
    let site = two_routers(forwarding)?;
    advertise(&site.port, ROUTER)?;
    learned(&site, "port")?;
    let scene = Scene::begin(site, BRISK)?;
    let (first, second) = (&scene.site.port, &scene.site.mgmt);
    pinned(&scene, "port", first.gateway6)?;

    advertise(second, with(RouterPreference::High))?;
    pinned(&scene, "port", second.gateway6)?;
    advertise(second, WITHDRAWN)?;
    pinned(&scene, "port", first.gateway6)?;
    // One that is as good changes nothing, nor one that is worse.
    let since = scene.changes.caught_up()?;
    for preference in [RouterPreference::Medium, RouterPreference::Low] {
        advertise(second, with(preference))?;
        scene.stays(Duration::from_millis(700))?;
    }
    assert_eq!(scene.writes(since)?, []);
    advertise(first, WITHDRAWN)?;
    pinned(&scene, "port", second.gateway6)?;
    advertise(first, ROUTER)?;
    pinned(&scene, "port", first.gateway6)?;
    assert_eq!(scene.way_to(crate::scene::INTERNET[0]).as_deref(), Some("port"));
    let moved = scene.lookups.report().changes;
    let away = moved.iter().filter(|way| way.what.to.is_ipv6()).skip(1);
    assert!(away.clone().all(|way| way.what.interface.as_deref() == Ok("port")), "{moved:?}");
    scene.finish_among()?;
    Ok(())
}

fn both() -> Outcome {
    let site = two_routers("0")?;
    site.worker.ip("-6 route delete default dev mgmt")?;
    listens(&site, "mgmt", "2")?;
    advertise(&site.port, with(RouterPreference::Low))?;
    advertise(&site.mgmt, ROUTER)?;
    learned(&site, "port")?;
    learned(&site, "mgmt")?;
    let scene = Scene::begin(site, BRISK)?;
    let (first, second) = (scene.site.port.gateway6, scene.site.mgmt.gateway6);
    pinned(&scene, "port", second)?;
    scene.fail_over()?;
    pinned(&scene, "mgmt", second)?;
    scene.come_back()?;
    pinned(&scene, "port", second)?;
    advertise(&scene.site.mgmt, WITHDRAWN)?;
    pinned(&scene, "port", first)?;
    scene.finish_among()?;
    Ok(())
}

/// The port's first router is cut off (`down`), or reached again (`up`).
fn cut_off(site: &Site, state: &str) -> Outcome {
    let switch = site.switch.as_ref().ok_or("both uplinks are behind a switch")?;
    switch.ip(&format!("link set gw-port {state}"))?;
    Ok(())
}

/// A client in user space lays the routes itself: IPv6 makes one of them.
fn of_one_metric() -> Outcome {
    let site = two_routers("0")?;
    site.worker.ip("-6 route delete default dev mgmt")?;
    for hop in ["fe80::1 dev port", "fe80::2 dev port", "fe80::2 dev mgmt"] {
        site.worker.ip(&format!("-6 route append default via {hop} proto ra metric 1024 expires 1800"))?;
    }
    let scene = Scene::begin(site, BRISK)?;
    let (first, second) = (scene.site.port.gateway6, scene.site.mgmt.gateway6);
    pinned(&scene, "port", first)?;
    cut_off(&scene.site, "down")?;
    pinned(&scene, "port", second)?;
    cut_off(&scene.site, "up")?;
    scene.becomes("port", Family::Ipv4, "up")?;
    pinned(&scene, "port", second)?;
    scene.fail_over()?;
    pinned(&scene, "mgmt", second)?;
    scene.come_back()?;
    scene.finish()?;
    Ok(())
}

/// The port's first router is cut off, in both families, and comes back.
fn dies(forwarding: &str) -> Outcome {
    let site = two_routers(forwarding)?;
    site.worker.ip("route add default via 10.0.120.254 dev port proto dhcp metric 102")?;
    advertise(&site.port, ROUTER)?;
    advertise(&site.mgmt, with(RouterPreference::Low))?;
    learned(&site, "port")?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    let [first, second] = [&scene.site.port, &scene.site.mgmt]
        .map(|uplink| [IpAddr::from(uplink.gateway4), IpAddr::from(uplink.gateway6)]);
    let by =
        |routers: [IpAddr; 2]| routers.into_iter().try_for_each(|router| pinned_to(&scene, "port", router));
    by(first)?;
    let leads = |state| cut_off(&scene.site, state);
    for _ in 0..2 {
        let since = now();
        leads("down")?;
        by(second)?;
        scene.daemon.wait_for_log("why", since, SOON, |line| line.contains("leaving gateway"))?;
        for stream in &scene.streams {
            stream.wait_for_arrival(now(), SOON)?;
        }
        leads("up")?;
        by(first)?;
    }
    for family in Family::ALL {
        assert_eq!(scene.health("port", family)?, "up");
    }
    let moved = scene.daemon.log().into_iter().filter(|line| line.what.contains("→ mgmt: "));
    assert_eq!(moved.count(), 0, "the port was elected all the time");
    scene.finish_among()?;
    Ok(())
}
