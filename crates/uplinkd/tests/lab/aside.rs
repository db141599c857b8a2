//! Default routes that are not simply a way to a gateway: refused, multipath, a tunnel, no gateway at
//! all, and what a default route says beside the gateway.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::Family;
use uplink_lab::{End, Fault, INTERNET6, Site, Uplink, now};

use crate::scene::{BRISK, Outcome, PCI, SOON, Scene, defaults, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("unreachable default: the daemon stands aside until it is gone", || refused("unreachable")),
        trial("blackhole default: the daemon stands aside until it is gone", || refused("blackhole")),
        trial("unreachable default as the last resort: it does not matter", last_resort),
        trial("unreachable default and configured uplinks: steered all the same", configured),
        trial("multipath default: the daemon stands aside until it is gone", multipath),
        trial("default by a next-hop object that is not spelled out: left alone until it is gone", opaque),
        trial("default through a tun: left alone until it is gone", tunnel),
        trial("default through a tun that is not the best: it does not matter", worse_tunnel),
        trial("default dev X: no rival of a silent port, but of one without carrier", link_only),
        trial("default dev port: judged by its link alone", link_only_port),
        trial("on-link gateway outside every subnet", onlink),
        trial("mtu, advmss, preferred source: the pin copies and follows them", attributes),
    ]
}

fn refused(kind: &str) -> Outcome {
    let mut scene = Scene::usual()?;
    let since = now();
    scene.write(&[
        format!("route add {kind} 0.0.0.0/0 metric 50"),
        format!("route add {kind} ::/0 metric 50"),
    ])?;
    stands_aside(&scene, "refused")?;
    scene.daemon.wait_for_log("why", since, SOON, |line| line.contains("refuses packets"))?;
    scene.write(&["route delete 0.0.0.0/0 metric 50", "route delete ::/0 metric 50"])?;
    returns(&scene)?;
    let before = scene.before.clone();
    scene.stop_with(&before)
}

/// No pin in either family, and the status says why.
fn stands_aside(scene: &Scene, why: &str) -> Outcome {
    for family in Family::ALL {
        scene.pinned(family, "no pin", <[_]>::is_empty)?;
        scene.until("said in the status", || Ok(scene.status_of(family, "aside")? == why))?;
    }
    Ok(())
}

/// Both pins are back.
fn returns(scene: &Scene) -> Outcome {
    for family in Family::ALL {
        scene.pinned(family, "a pin", |pins| pins.len() == 1)?;
        scene.until("not aside", || Ok(scene.status_of(family, "aside")?.is_null()))?;
    }
    scene.leads_to("port")
}

fn last_resort() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    let since = scene.changes.caught_up()?;
    scene.write(&[
        "route add unreachable 0.0.0.0/0 metric 4278198272",
        "route add unreachable ::/0 metric 4278198272",
    ])?;
    scene.stays(Duration::from_millis(300))?;
    assert_eq!(scene.writes(since)?, []);
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish_among()?;
    Ok(())
}

fn configured() -> Outcome {
    let uplink = "[[uplink]]\nname = \"dpu\"\nmatch = { interface = \"port\" }\n";
    let mut scene = Scene::begin(Site::new()?, &format!("{BRISK}{uplink}"))?;
    scene.leads_to("port")?;
    scene.write(&["route add unreachable 0.0.0.0/0 metric 50", "route add unreachable ::/0 metric 50"])?;
    for family in Family::ALL {
        scene.pinned(family, "a pin below", |pins| matches!(pins, [pin] if pin.metric < 50))?;
    }
    scene.leads_to("port")?;
    // What failed until then is the other program's doing.
    let failed = scene.lookups.report().failed;
    scene.fail_over()?;
    scene.come_back()?;
    assert_eq!(scene.lookups.report().failed, failed);
    let expected = scene.foreign()?;
    scene.stop_with(&expected)
}

pub(crate) fn multipath() -> Outcome {
    let scene = Scene::usual()?;
    let since = now();
    scene.write(&[
        "route add 0.0.0.0/0 metric 50 nexthop via 10.0.120.1 dev port nexthop via 10.0.10.1 dev mgmt",
        "route add ::/0 metric 50 nexthop via fe80::1 dev port nexthop via fe80::1 dev mgmt",
    ])?;
    stands_aside(&scene, "multipath")?;
    scene.daemon.wait_for_log("why", since, SOON, |line| line.contains("is multipath"))?;
    scene.write(&["route delete 0.0.0.0/0 metric 50", "route delete ::/0 metric 50"])?;
    returns(&scene)?;
    scene.finish()?;
    Ok(())
}

fn opaque() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    site.worker.sysctl("net/ipv4/nexthop_compat_mode", "0")?;
    site.worker.ip("nexthop add id 4 via 10.0.10.1 dev mgmt")?;
    site.worker.ip("nexthop add id 6 via fe80::1 dev mgmt")?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    scene.write(&["route add 0.0.0.0/0 nhid 4 metric 50", "route add ::/0 nhid 6 metric 50"])?;
    stands_aside(&scene, "opaque")?;
    scene.leads_to("mgmt")?;
    scene.write(&["route delete 0.0.0.0/0 metric 50", "route delete ::/0 metric 50"])?;
    returns(&scene)?;
    scene.finish()?;
    Ok(())
}

fn tunnel() -> Outcome {
    let scene = Scene::usual()?;
    let since = now();
    scene.write(&["tuntap add dev vpn mode tun", "link set vpn up"])?;
    scene.write(&["route add 0.0.0.0/0 dev vpn metric 50", "route add ::/0 dev vpn metric 50"])?;
    stands_aside(&scene, "tunnel")?;
    scene.daemon.wait_for_log("why", since, SOON, |line| line.contains("into a tunnel"))?;
    scene.leads_to("vpn")?;
    scene.stays(Duration::from_millis(300))?;
    scene.write(&["link delete vpn"])?;
    returns(&scene)?;
    scene.finish()?;
    Ok(())
}

fn worse_tunnel() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    let since = scene.changes.caught_up()?;
    scene.write(&["tuntap add dev vpn mode tun", "link set vpn up"])?;
    scene.write(&["route add 0.0.0.0/0 dev vpn metric 500", "route add ::/0 dev vpn metric 500"])?;
    scene.stays(Duration::from_millis(300))?;
    assert_eq!(scene.writes(since)?, []);
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish_among()?;
    Ok(())
}

/// An uplink's gateway answers for everything behind it.
fn proxy(uplink: &Uplink) -> Outcome {
    uplink.gateway.sysctls(&[
        ("net/ipv4/conf/lan/proxy_arp", "1"),
        ("net/ipv4/neigh/lan/proxy_delay", "0"),
        ("net/ipv6/conf/lan/proxy_ndp", "1"),
        ("net/ipv6/neigh/lan/proxy_delay", "0"),
    ])?;
    uplink.gateway.ip(&format!("neighbour add proxy {INTERNET6} dev lan"))?;
    Ok(())
}

fn link_only() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    site.lay_default(&site.port, "port", 101)?;
    proxy(&site.mgmt)?;
    site.worker.ip_batch("route add 0.0.0.0/0 dev mgmt metric 200\nroute add ::/0 dev mgmt metric 200\n")?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    scene.site.port.cable.fault(&[Fault::Silent]);
    scene.stays(Duration::from_secs(1))?;
    for family in Family::ALL {
        scene.becomes("port", family, "shared")?;
    }
    let lost = scene.site.port.cable.carrier(End::Worker, false)?;
    scene.moves_to("mgmt", lost, SOON)?;
    for family in Family::ALL {
        let dev_mgmt = |pins: &[uplink_lab::Route]| matches!(pins, [pin] if pin.gateway.is_none() && pin.interface.as_deref() == Some("mgmt"));
        scene.pinned(family, "a pin without a gateway", dev_mgmt)?;
    }
    for stream in &scene.streams {
        stream.wait_for_arrival(now(), SOON)?;
    }
    scene.site.port.cable.carrier(End::Worker, true)?;
    scene.come_back()?;
    scene.finish()?;
    Ok(())
}

pub(crate) fn link_only_port() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    site.lay_default(&site.mgmt, "mgmt", 100)?;
    proxy(&site.port)?;
    site.worker.ip_batch("route add 0.0.0.0/0 dev port metric 101\nroute add ::/0 dev port metric 101\n")?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    for stream in &scene.streams {
        stream.wait_for_arrival(now(), SOON)?;
    }
    let lost = scene.site.port.cable.carrier(End::Worker, false)?;
    scene.moves_to("mgmt", lost, SOON)?;
    let back = scene.site.port.cable.carrier(End::Worker, true)?;
    scene.moves_to("port", back, SOON)?;
    scene.finish()?;
    Ok(())
}

fn onlink() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    site.lay_default(&site.mgmt, "mgmt", 100)?;
    site.worker.ip_batch(
        "address delete 10.0.120.2/24 dev port\n\
         address delete fd00:120::2/64 dev port\n\
         address add 10.0.120.2/32 dev port\n\
         address add fd00:120::2/128 dev port nodad\n\
         route add 0.0.0.0/0 via 10.0.120.1 dev port onlink metric 101\n\
         route add ::/0 via fd00:120::1 dev port onlink metric 101\n",
    )?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    for family in Family::ALL {
        scene.pinned(family, "an on-link pin", |pins| matches!(pins, [pin] if pin.onlink))?;
    }
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish_among()?;
    Ok(())
}

fn attributes() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    let port = &scene.site.port;
    for more in [
        "mtu 1400 advmss 1360 initcwnd 20 congctl cubic",
        "mtu lock 1400 advmss 1360",
        "mtu 1300 onlink",
        "hoplimit 9",
        "",
    ] {
        scene.write(&[defaults("replace", port, 101, more)])?;
        same(&scene, more)?;
    }
    // The source of another interface.
    scene.write(&[
        "route replace 0.0.0.0/0 via 10.0.120.1 dev port proto 16 metric 101 src 10.0.10.2",
        "route replace ::/0 via fe80::1 dev port proto 16 metric 101 src fd00:10::2",
    ])?;
    same(&scene, "src")?;
    scene.leads_to("port")?;
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish_among()?;
    Ok(())
}

/// Waits until the pin says the same as the port's own default route.
fn same(scene: &Scene, what: &str) -> Outcome {
    for flag in ["-4", "-6"] {
        scene.until(&format!("{flag} pin with {what:?}"), || {
            Ok(said(scene, flag, "117")?.as_slice() == [said(scene, flag, "16")?.concat()])
        })?;
    }
    Ok(())
}

/// What the default routes through the port say, without protocol and metric.
fn said(scene: &Scene, flag: &str, protocol: &str) -> Result<Vec<String>, Failed> {
    let text = scene.site.worker.ip(&format!("{flag} -N -o route show default dev port proto {protocol}"))?;
    let without = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if let Some(at) = words.iter().position(|word| *word == "metric") {
            words.drain(at..at + 2);
        }
        words.join(" ")
    };
    Ok(text.lines().map(without).collect())
}
