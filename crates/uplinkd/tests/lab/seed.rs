//! The defects of the script that this project began with, each in the very situation that brought
//! it out, and what the script named as its limits.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use uplink_core::snapshot::{Family, TABLE_MAIN};
use uplink_core::time::Instant;
use uplink_lab::{End, Fault, PciFunction, Route, Site, now, pass};

use crate::lifecycle::end;
use crate::scene::{
    BRISK, INTERNET, Outcome, PATIENCE, PCI, SOON, Scene, defaults, of_pin, site_with_metrics, trial,
};
use crate::{aside, boot, links, uplinks};

/// What the port without configuration is called.
const DPU: &str = "dpu-0000:03:00.0";

#[rustfmt::skip]
pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("seed defect 01: a table of a thousand routes decides as one of four", seed_defect_01_big_table),
        trial("seed defect 02: a renewal lays a second default route on the port", seed_defect_02_two_defaults),
        trial("seed defect 03: carrier loss is the fastest failover", seed_defect_03_carrier_loss),
        trial("seed defect 04a: restarts do not ratchet the metric", seed_defect_04a_ratchet),
        trial("seed defect 04b: management's metric 2 and restarts", seed_defect_04b_metric_2),
        trial("seed defect 04c: after a restart the port's own route outlives an outage", seed_defect_04c_metric_taken),
        trial("seed defect 04d: port 100, management 1024: it fails over", seed_defect_04d_metrics_far_apart),
        trial("seed defect 04e: a lower management metric appears later", seed_defect_04e_lower_later),
        trial("seed defect 05: the pin's place is taken: the next add counts", seed_defect_05_place_taken),
        trial("seed defect 06: a refused add is tried again", seed_defect_06_tried_again),
        trial("seed defect 07: DHCP gives no router: waited for, said, taken", seed_defect_07_no_router),
        trial("seed defect 08: no port at boot is a state to wait in", seed_defect_08_no_port),
        trial("seed defect 09: a destination is no gateway", seed_defect_09_destination),
        trial("seed defect 10: both in one subnet: no answer through the other one", seed_defect_10_one_subnet),
        trial("seed defect 11a: a silent gateway is noticed in good time", seed_defect_11a_silent),
        trial("seed defect 11b: a gateway that filters ICMP is alive", seed_defect_11b_filters_icmp),
        trial("seed defect 11c: one answer of several is not enough", seed_defect_11c_some_answers),
        trial("seed defect 12: static and several dynamic addresses", seed_defect_12_addresses),
        trial("seed defect 13: an interface whose name contains the port's", seed_defect_13_similar_name),
        trial("seed defect 14a: default route without a gateway", seed_defect_14a_without_gateway),
        trial("seed defect 14b: multipath default route", seed_defect_14b_multipath),
        trial("seed defect 15: default routes with onlink and mtu", seed_defect_15_attributes_are_no_metric),
        trial("seed defect 16: same gateway and metric on both interfaces", seed_defect_16_same_on_both),
        trial("seed defect 17: a pin is replaced without a gap", seed_defect_17_no_gap),
        trial("seed defect 18: no route changes in an outage", seed_defect_18_quiet_outage),
        trial("seed defect 19: mtu and source are kept", seed_defect_19_attributes_kept),
        trial("seed defect 20: stopped in the midst of a switch: no trace", seed_defect_20_stopped),
        trial("seed defect 21: one bad and one good moment move nothing", seed_defect_21_damped),
        trial("seed defect 22: the last address goes, and all routes with it", seed_defect_22_last_address),
        trial("seed defect 23a: every kind of BlueField is known", seed_defect_23a_device_ids),
        trial("seed defect 23b: the vendor counts", seed_defect_23b_vendor),
        trial("seed defect 23c: a renamed port, made anew, is found again", seed_defect_23c_found_again),
        trial("seed defect 24a: only IPv6 is silent", seed_defect_24a_ipv6),
        trial("seed defect 24b: a bridge above the port", seed_defect_24b_bridge),
        trial("seed defect 25: port unreachable and without a default route", seed_defect_25_unreachable),
        trial("seed defect 26: no line in ten steady seconds", seed_defect_26_silence),
        trial("seed limitation 1: more than one DPU", seed_limitation_1_two_dpus),
        trial("seed limitation 2: no default route at start", seed_limitation_2_no_default_route),
        trial("seed limitation 3: a static default route without a metric", seed_limitation_3_without_metric),
        trial("seed limitation 4: lowest metric 1", seed_limitation_4_metric_1),
    ]
}

/// The port fails and comes back, and what others wrote stands as before, whatever happened to ours.
fn round_trip(scene: &Scene) -> Outcome {
    let before = scene.foreign()?;
    scene.fail_over()?;
    assert_eq!(scene.foreign()?, before, "in the outage");
    scene.come_back()?;
    assert_eq!(scene.foreign()?, before, "after the outage");
    Ok(())
}

/// Nothing is laid again without a reason.
fn writes_nothing(scene: &Scene) -> Outcome {
    // What is written already is told a moment later.
    scene.stays(PATIENCE / 10)?;
    let since = scene.changes.caught_up()?;
    scene.stays(PATIENCE)?;
    assert_eq!(scene.writes(since)?, []);
    Ok(())
}

fn seed_defect_01_big_table() -> Outcome {
    let site = site_with_metrics(101, 100)?;
    let mut lines = String::new();
    for number in 0..1000 {
        let (a, b) = (number / 250, number % 250);
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "route add 172.20.{a}.{b}/32 via 10.0.10.1 dev mgmt");
        let _ = writeln!(lines, "route add 2001:db8:20:{a}::{b}/128 via fe80::1 dev mgmt");
    }
    site.worker.ip_batch(&lines)?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    writes_nothing(&scene)?;
    round_trip(&scene)?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_02_two_defaults() -> Outcome {
    let scene = Scene::begin(site_with_metrics(200, 150)?, BRISK)?;
    scene.leads_to("port")?;
    // Beside ours and its own: a better one by the same gateway, and a worse one by nobody.
    let port = &scene.site.port;
    scene.write(&[defaults("add", port, 100, "")])?;
    scene.write(&["route add 0.0.0.0/0 via 10.0.120.77 dev port proto 16 metric 300"])?;
    scene.stays(Duration::from_millis(300))?;
    round_trip(&scene)?;
    scene.write(&[defaults("delete", port, 100, "")])?;
    scene.leads_to("port")?;
    scene.finish_among()?;
    Ok(())
}

fn seed_defect_03_carrier_loss() -> Outcome {
    // The port's own route is the best one: with `linkdown` it stays so.
    let scene = Scene::begin(site_with_metrics(99, 100)?, BRISK)?;
    scene.leads_to("port")?;
    let lost = scene.site.port.cable.carrier(End::Worker, false)?;
    for moment in scene.moves_to("mgmt", lost, SOON)? {
        // The others wait for patience, which is 300 ms here.
        assert!(moment < lost + Duration::from_millis(250), "moved after {:?}", moment.since(lost));
    }
    for family in Family::ALL {
        scene.pinned(family, "a pin below", |pins| matches!(pins, [pin] if pin.metric < 99))?;
        let routes = scene.site.worker.default_routes(family)?;
        let dead = routes.iter().any(|route| route.interface.as_deref() == Some("port"));
        assert!(dead, "{family}: the port's own route is not ours to delete");
    }
    scene.site.port.cable.carrier(End::Worker, true)?;
    scene.leads_to("port")?;
    for stream in &scene.finish()?.streams {
        assert!(stream.longest_gap() < Duration::from_millis(500), "{stream:?}");
    }
    Ok(())
}

/// Ends the daemon and starts it again.
fn restart(scene: &mut Scene, signal: Signal) -> Outcome {
    end(scene, signal)?;
    scene.start_again(BRISK)?;
    scene.leads_to("port")
}

/// In every way that a service is restarted.
const RESTARTS: [Signal; 3] = [Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGKILL];

fn seed_defect_04a_ratchet() -> Outcome {
    let mut scene = Scene::configured(BRISK)?;
    for signal in RESTARTS {
        restart(&mut scene, signal)?;
        for family in Family::ALL {
            let below = |pins: &[Route]| matches!(pins, [pin] if pin.metric == 99);
            scene.pinned(family, "one pin right below management", below)?;
        }
    }
    scene.finish()?;
    Ok(())
}

fn seed_defect_04b_metric_2() -> Outcome {
    let mut scene = Scene::begin(site_with_metrics(2000, 2)?, BRISK)?;
    scene.leads_to("port")?;
    for signal in RESTARTS {
        restart(&mut scene, signal)?;
    }
    round_trip(&scene)?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_04c_metric_taken() -> Outcome {
    let mut scene = Scene::configured(BRISK)?;
    restart(&mut scene, Signal::SIGUSR2)?;
    for _ in 0..2 {
        round_trip(&scene)?;
    }
    scene.finish()?;
    Ok(())
}

fn seed_defect_04d_metrics_far_apart() -> Outcome {
    let scene = Scene::begin(site_with_metrics(100, 1024)?, BRISK)?;
    scene.leads_to("port")?;
    round_trip(&scene)?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_04e_lower_later() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    for metric in [60, 20] {
        scene.write(&[defaults("add", &scene.site.mgmt, metric, "")])?;
        for family in Family::ALL {
            scene.pinned(family, "the pin below", |pins| matches!(pins, [pin] if pin.metric < metric))?;
        }
        scene.leads_to("port")?;
    }
    round_trip(&scene)?;
    scene.finish_among()?;
    Ok(())
}

fn seed_defect_05_place_taken() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    for _ in 0..3 {
        for (family, all, gateway) in
            [(Family::Ipv4, "0.0.0.0/0", "10.0.10.1"), (Family::Ipv6, "::/0", "fe80::1")]
        {
            let metric = scene.pins(family)?.first().ok_or("no pin")?.metric;
            // Whoever lays the pin again just now is told that the place is taken, or loses it.
            scene.write(&[
                format!("route delete {all} proto 117 metric {metric}"),
                format!("route replace {all} via {gateway} dev mgmt proto 16 metric {metric}"),
            ])?;
            let below = |pins: &[Route]| matches!(pins, [pin] if pin.metric < metric);
            scene.pinned(family, "the pin below", below)?;
        }
        scene.leads_to("port")?;
    }
    round_trip(&scene)?;
    scene.finish_among()?;
    Ok(())
}

fn seed_defect_06_tried_again() -> Outcome {
    let site = site_with_metrics(101, 100)?;
    // The gateway answers, and no route can be laid by it.
    let subnet = "10.0.120.0/24 dev port proto kernel scope link src 10.0.120.2";
    site.worker.ip_batch(&format!(
        "route delete {subnet}\n\
         route delete 0.0.0.0/0 via 10.0.120.1\n"
    ))?;
    let toml = format!(
        "{BRISK}[[uplink]]\nname = \"dpu\"\nmatch = {{ interface = \"port\" }}\ngateway = [\"10.0.120.1\"]\n"
    );
    let scene = Scene::begin(site, &toml)?;
    let refused = |line: &str| line.contains("the kernel refused to add ipv4 default via 10.0.120.1");
    scene.daemon.wait_for_log("that it was refused", Instant::BOOT, SOON, refused)?;
    pass(PATIENCE);
    assert_eq!(scene.way_to(INTERNET[0]).as_deref(), Some("mgmt"));
    scene.write(&[format!("route add {subnet}")])?;
    scene.leads_to("port")?;
    let pin = |pins: &[Route]| matches!(pins, [pin] if pin.interface.as_deref() == Some("port"));
    scene.pinned(Family::Ipv4, "the pin", pin)?;
    scene.until("no longer aside", || Ok(scene.status_of(Family::Ipv4, "aside")?.is_null()))?;
    round_trip(&scene)?;
    scene.finish_among()?;
    Ok(())
}

fn seed_defect_07_no_router() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    site.lay_default(&site.mgmt, "mgmt", 100)?;
    let scene = Scene::begin(site, &format!("{BRISK}boot_wait = \"1s\""))?;
    for family in Family::ALL {
        scene.becomes(DPU, family, "gateway")?;
    }
    scene.stays(PATIENCE)?;
    scene.leads_to("mgmt")?;
    assert_eq!(scene.pin_writes(Instant::BOOT)?, []);
    scene.site.lay_default(&scene.site.port, "port", 101)?;
    scene.leads_to("port")?;
    scene.finish_among()?;
    Ok(())
}

fn seed_defect_08_no_port() -> Outcome {
    uplinks::plugged_late()
}

fn seed_defect_09_destination() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    site.lay_default(&site.mgmt, "mgmt", 100)?;
    // Somebody lives there and answers: a name server of the lease, and another worker.
    site.port
        .gateway
        .ip_batch("address add 10.0.120.9/24 dev lan\naddress add fe80::9/64 dev lan nodad\n")?;
    site.worker.ip_batch(
        "route add 10.0.120.9/32 dev port proto dhcp scope link metric 101\n\
         route add 10.8.0.0/16 via 10.0.120.9 dev port proto bird\n\
         route add fd00:120::9/128 dev port proto dhcp metric 101\n\
         route add fd00:8::/32 via fe80::9 dev port proto bird\n",
    )?;
    let scene = Scene::begin(site, &format!("{BRISK}boot_wait = \"1s\""))?;
    scene.stays(PATIENCE)?;
    scene.leads_to("mgmt")?;
    assert_eq!(scene.pin_writes(Instant::BOOT)?, []);
    for family in Family::ALL {
        scene.becomes(DPU, family, "gateway")?;
    }
    // The layout of option 121 beside them: the next hop is the gateway.
    scene.write(&[
        "route add 169.254.99.100/32 via 10.0.120.1 dev port proto dhcp metric 101",
        "route add 2001:db8:ffff::/64 via fe80::1 dev port proto ra metric 101",
    ])?;
    scene.leads_to("port")?;
    pinned_by_gateway(&scene)?;
    scene.finish_among()?;
    Ok(())
}

fn seed_defect_10_one_subnet() -> Outcome {
    let site = Site::builder().one_subnet().build()?;
    site.worker.give_pci("port", PCI)?;
    // Whatever is not bound to a device reaches the port's gateway through management.
    let subnet = "10.0.120.0/24 dev port proto kernel scope link src 10.0.120.2";
    site.worker.ip_batch(&format!("route delete {subnet}\nroute append {subnet}\n"))?;
    let unbound = site.worker.lookup(site.port.gateway4.into())?;
    assert_eq!(unbound.interface.as_deref(), Some("mgmt"));
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    round_trip(&scene)?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_11a_silent() -> Outcome {
    let scene = Scene::usual()?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    for moment in scene.moves_to("mgmt", fault, SOON)? {
        assert!(moment < fault + 2 * PATIENCE, "moved after {:?}", moment.since(fault));
    }
    scene.finish()?;
    Ok(())
}

fn seed_defect_11b_filters_icmp() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    scene.site.port.cable.fault(&[Fault::FiltersEcho]);
    scene.stays(2 * PATIENCE)?;
    for family in Family::ALL {
        scene.becomes(DPU, family, "up")?;
    }
    scene.finish()?;
    Ok(())
}

fn seed_defect_11c_some_answers() -> Outcome {
    // 40 ticks are looked back at, which take two seconds then.
    let scene = Scene::configured("patience = \"200ms\"")?;
    let loss = Fault::Loss { percent: 50, seed: 1 };
    let fault = scene.site.port.cable.fault_towards(End::Worker, &[loss]);
    scene.moves_to("mgmt", fault, SOON)?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_12_addresses() -> Outcome {
    const DYNAMIC: &str = "dev port valid_lft 600 preferred_lft 600";
    // What a site comes with is static.
    let scene = Scene::configured(BRISK)?;
    writes_nothing(&scene)?;
    scene.write(&[
        format!("address add 10.0.120.7/24 {DYNAMIC}"),
        format!("address add 10.0.120.8/24 {DYNAMIC}"),
        format!("address add fd00:120::7/64 {DYNAMIC} nodad"),
        format!("address add fd00:120::8/64 {DYNAMIC} nodad"),
        format!("address change 10.0.120.2/24 {DYNAMIC}"),
    ])?;
    writes_nothing(&scene)?;
    round_trip(&scene)?;
    scene.finish_among()?;
    Ok(())
}

fn seed_defect_13_similar_name() -> Outcome {
    let site = Site::builder().without_port().build()?;
    // The first that a search for `port` would find, with the best default route.
    site.worker.ip_batch(
        "link add port.7 type veth peer name other\n\
         link set other up\n\
         link set port.7 addrgenmode none up\n\
         address add 10.0.7.2/24 dev port.7\n\
         route add 0.0.0.0/0 via 10.0.7.1 dev port.7 metric 50\n\
         route add ::/0 via fe80::77 dev port.7 metric 50\n",
    )?;
    site.plug(&site.port)?;
    site.lay_addresses(&site.port, "port")?;
    site.lay_default(&site.port, "port", 101)?;
    let named = "[[uplink]]\nname = \"fast\"\nmatch = { interface = \"port\" }\n";
    let scene = Scene::begin(site, &format!("{BRISK}{named}"))?;
    scene.leads_to("port")?;
    assert_eq!(scene.uplink("fast")?["interface"], "port");
    pinned_by_gateway(&scene)?;
    round_trip(&scene)?;
    scene.finish()?;
    Ok(())
}

/// The pins lead to the gateway of the port.
fn pinned_by_gateway(scene: &Scene) -> Outcome {
    let port = &scene.site.port;
    for (family, gateway) in Family::ALL.into_iter().zip([IpAddr::from(port.gateway4), port.gateway6.into()])
    {
        let right = |pins: &[Route]| matches!(pins, [pin] if pin.gateway == Some(gateway) && pin.interface.as_deref() == Some("port"));
        scene.pinned(family, "by the port's gateway", right)?;
    }
    Ok(())
}

fn seed_defect_14a_without_gateway() -> Outcome {
    aside::link_only_port()
}

fn seed_defect_14b_multipath() -> Outcome {
    aside::multipath()
}

fn seed_defect_15_attributes_are_no_metric() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    site.worker.ip_batch(&defaults("add", &site.port, 5, "onlink mtu 1400"))?;
    site.worker.ip_batch(&defaults("add", &site.mgmt, 4, "mtu 1400"))?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    for family in Family::ALL {
        let right =
            |pins: &[Route]| matches!(pins, [pin] if pin.metric < 4 && pin.onlink && pin.mtu == Some(1400));
        scene.pinned(family, "a pin with onlink and mtu", right)?;
    }
    writes_nothing(&scene)?;
    round_trip(&scene)?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_16_same_on_both() -> Outcome {
    let site = Site::builder().one_subnet().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    // IPv6 would join two of the same metric into one route.
    site.worker.ip_batch(
        "route add 0.0.0.0/0 via 10.0.120.1 dev mgmt proto 16 metric 100\n\
         route append 0.0.0.0/0 via 10.0.120.1 dev port proto 16 metric 100\n\
         route add ::/0 via fe80::1 dev mgmt proto 16 metric 100\n\
         route add ::/0 via fe80::1 dev port proto 16 metric 101\n",
    )?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    for _ in 0..2 {
        round_trip(&scene)?;
    }
    scene.finish()?;
    Ok(())
}

fn seed_defect_17_no_gap() -> Outcome {
    let scene = Scene::paced(site_with_metrics(101, 100)?, BRISK, Duration::from_micros(500))?;
    scene.leads_to("port")?;
    let (port, mgmt) = (&scene.site.port, &scene.site.mgmt);
    // There is no other default route than ours.
    scene.write(&[defaults("delete", port, 101, ""), defaults("delete", mgmt, 100, "")])?;
    for mtu in [1400, 1300, 1200] {
        scene.write(&[defaults("replace", port, 101, &format!("mtu {mtu}"))])?;
        for family in Family::ALL {
            let laid = |pins: &[Route]| matches!(pins, [pin] if pin.mtu == Some(mtu));
            scene.pinned(family, "the new pin", laid)?;
        }
        scene.write(&[defaults("delete", port, 101, "")])?;
    }
    scene.write(&[defaults("add", port, 101, ""), defaults("add", mgmt, 100, "")])?;
    for stream in &scene.finish()?.streams {
        assert_eq!(stream.lost, 0, "{stream:?}");
    }
    Ok(())
}

fn seed_defect_18_quiet_outage() -> Outcome {
    let scene = Scene::begin(site_with_metrics(100, 1024)?, BRISK)?;
    scene.leads_to("port")?;
    scene.fail_over()?;
    let since = scene.changes.caught_up()?;
    scene.stays(Duration::from_secs(5))?;
    assert_eq!(scene.changes.default_routes(since), []);
    scene.come_back()?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_19_attributes_kept() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    site.lay_default(&site.mgmt, "mgmt", 100)?;
    site.worker.ip_batch(
        "route add 0.0.0.0/0 via 10.0.120.1 dev port proto dhcp metric 101 src 10.0.120.2 mtu 1400\n\
         route add ::/0 via fe80::1 dev port proto dhcp metric 101 src fd00:120::2 mtu 1400\n",
    )?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    keeps_attributes(&scene)?;
    round_trip(&scene)?;
    keeps_attributes(&scene)?;
    scene.finish()?;
    Ok(())
}

fn keeps_attributes(scene: &Scene) -> Outcome {
    let port = &scene.site.port;
    for (family, source) in Family::ALL.into_iter().zip([IpAddr::from(port.address4), port.address6.into()]) {
        let kept =
            |pins: &[Route]| matches!(pins, [pin] if pin.source == Some(source) && pin.mtu == Some(1400));
        scene.pinned(family, "source and mtu", kept)?;
    }
    Ok(())
}

fn seed_defect_20_stopped() -> Outcome {
    // In an outage there is a pin, of a metric lower than any other.
    let mut scene = Scene::begin(site_with_metrics(100, 200)?, BRISK)?;
    scene.leads_to("port")?;
    let before = scene.before.clone();
    scene.fail_over()?;
    scene.stop_with(&before)?;
    scene.site.port.cable.heal();
    scene.start_again(BRISK)?;
    scene.leads_to("port")?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    scene.changes.wait_for("the first act of a switch", fault, SOON, of_pin)?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_21_damped() -> Outcome {
    let scene = Scene::configured("return_after = \"2s\"")?;
    scene.site.port.cable.fault(&[Fault::Silent]);
    scene.stays(PATIENCE / 2)?;
    scene.site.port.cable.heal();
    scene.stays(PATIENCE)?;
    scene.fail_over()?;
    scene.site.port.cable.heal();
    scene.stays(PATIENCE)?;
    scene.site.port.cable.fault(&[Fault::Silent]);
    scene.stays(PATIENCE)?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_22_last_address() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    let port = &scene.site.port;
    let (v4, v6) = (port.address4, port.address6);
    let take = [format!("address delete {v4}/24 dev port"), format!("address delete {v6}/64 dev port")];
    let gone = now();
    scene.write(&take)?;
    for moment in scene.moves_to("mgmt", gone, SOON)? {
        assert!(moment < gone + Duration::from_millis(250), "moved after {:?}", moment.since(gone));
    }
    scene.site.lay_addresses(port, "port")?;
    scene.write(&["route add 0.0.0.0/0 via 10.0.120.1 dev port proto 16 metric 101"])?;
    scene.leads_to("port")?;
    // A client that lays all anew, so fast that nobody may notice.
    scene.write(&[
        take.join("\n"),
        format!("address add {v4}/24 dev port\naddress add {v6}/64 dev port nodad"),
        "route add 0.0.0.0/0 via 10.0.120.1 dev port proto 16 metric 101".to_owned(),
    ])?;
    for family in Family::ALL {
        let ours = |pins: &[Route]| matches!(pins, [pin] if pin.interface.as_deref() == Some("port"));
        scene.pinned(family, "the pin", ours)?;
    }
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_23a_device_ids() -> Outcome {
    for device in [0xa2d2, 0xa2d6, 0xa2d9, 0xa2dc, 0xa2df] {
        let site = Site::new()?;
        site.worker.plug_pci(&PciFunction { device, ..PciFunction::bluefield(PCI) })?;
        site.worker.bind_pci("port", PCI, None)?;
        let scene = Scene::begin(site, BRISK)?;
        scene.leads_to("port")?;
        scene.finish()?;
    }
    Ok(())
}

fn seed_defect_23b_vendor() -> Outcome {
    uplinks::not_a_port(&PciFunction { vendor: 0x8086, ..PciFunction::bluefield(PCI) })
}

fn seed_defect_23c_found_again() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    // As a card with one function is called.
    links::rename(&scene, "port", "enp1s0np0")?;
    scene.leads_to("enp1s0np0")?;
    scene.fail_over()?;
    scene.site.port.cable.heal();
    scene.leads_to("enp1s0np0")?;
    scene.site.unplug(&scene.site.port)?;
    scene.leads_to("mgmt")?;
    scene.site.worker.unbind_pci("enp1s0np0")?;
    scene.site.worker.bind_pci("port", PCI, Some("p0"))?;
    let port = &scene.site.port;
    scene.site.plug(port)?;
    scene.site.lay_addresses(port, "port")?;
    scene.site.lay_default(port, "port", port.metric)?;
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_24a_ipv6() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    let gateway = &scene.site.port.gateway;
    // It is deaf to IPv6 alone.
    gateway.command("nft", &["add table ip6 lab; add chain ip6 lab in { type filter hook prerouting priority -300; policy drop; }"])?;
    let [v4, v6] = INTERNET;
    scene.until("IPv6 leads to mgmt", || Ok(scene.way_to(v6).as_deref() == Some("mgmt")))?;
    assert_eq!(scene.way_to(v4).as_deref(), Some("port"));
    gateway.command("nft", &["delete table ip6 lab"])?;
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_24b_bridge() -> Outcome {
    links::bridge_before_start()
}

fn seed_defect_25_unreachable() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    site.lay_default(&site.mgmt, "mgmt", 100)?;
    site.worker.ip_batch(
        "route add 169.254.99.100/32 via 10.0.120.1 dev port proto dhcp metric 101\n\
         route add 2001:db8:ffff::/64 via fe80::1 dev port proto ra metric 101\n",
    )?;
    site.port.cable.fault(&[Fault::Silent]);
    let scene = Scene::begin(site, &format!("{BRISK}boot_wait = \"1s\""))?;
    scene.stays(PATIENCE)?;
    scene.leads_to("mgmt")?;
    for family in Family::ALL {
        scene.becomes(DPU, family, "gateway")?;
    }
    assert_eq!(scene.pin_writes(Instant::BOOT)?, []);
    scene.come_back()?;
    scene.finish()?;
    Ok(())
}

fn seed_defect_26_silence() -> Outcome {
    let scene = Scene::usual()?;
    for family in Family::ALL {
        scene.becomes("mgmt", family, "up")?;
    }
    scene.stays(PATIENCE)?;
    assert!(!scene.daemon.log().is_empty(), "it said what it decided");
    let since = now();
    pass(Duration::from_secs(10));
    let said: Vec<_> = scene.daemon.log().into_iter().filter(|line| line.at >= since).collect();
    assert_eq!(said, []);
    scene.finish()?;
    Ok(())
}

fn seed_limitation_1_two_dpus() -> Outcome {
    uplinks::two_dpus()
}

fn seed_limitation_2_no_default_route() -> Outcome {
    boot::no_default_route()
}

fn seed_limitation_3_without_metric() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    site.lay_default(&site.port, "port", 101)?;
    site.worker.ip_batch(
        "route add 0.0.0.0/0 via 10.0.10.1 dev mgmt proto static\n\
         route add ::/0 via fe80::1 dev mgmt proto static\n",
    )?;
    elected_for_all_that(Scene::begin(site, BRISK)?)
}

fn seed_limitation_4_metric_1() -> Outcome {
    elected_for_all_that(Scene::begin(site_with_metrics(101, 1)?, BRISK)?)
}

/// The port is elected though the main table has no room for a pin, and all goes on as ever.
fn elected_for_all_that(scene: Scene) -> Outcome {
    scene.leads_to("port")?;
    let pins: Vec<_> = scene.pins(Family::Ipv4)?;
    assert!(matches!(pins.as_slice(), [pin] if pin.table != TABLE_MAIN), "{pins:?}");
    round_trip(&scene)?;
    scene.finish()?;
    Ok(())
}
