//! Other programs that write default routes while the daemon runs.

use std::fmt::Write;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::Family;
use uplink_core::time::Instant;
use uplink_lab::{Change, Fault, Uplink, now, pass};

use crate::program::uplinkctl;
use crate::scene::{BRISK, INTERNET, Outcome, SOON, Scene, defaults, of_pin, site_with_metrics, trial};

/// Within this the table is right again; the promise (10 ms for 95 of 100) is for an idle host.
const RIGHT_AGAIN: Duration = Duration::from_millis(100);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("pin deleted by another program: it is back at once", pin_deleted),
        trial("default routes renewed: no lookup changes, nothing is lost", renewed),
        trial("default routes renewed in an outage: management carries on", renewed_in_outage),
        trial("port's default route deleted: the pin stays", port_deleted),
        trial("management's default route deleted: a silent port fails over all the same", mgmt_deleted),
        trial("port's default route replaced by one to another gateway: the pin follows", other_gateway),
        trial("port's default route replaced by one to nobody: nothing is lost", dead_gateway),
        trial("all default routes deleted: the pin carries on", all_deleted),
        trial("management renewed just when the port falls silent: it takes over", renewed_in_doubt),
        trial("management's default route gets another gateway in an outage", other_gateway_in_outage),
        trial("port's default route gets another gateway in an outage", port_gateway_in_outage),
        trial("metrics change: the pin moves only if it must", other_metrics),
        trial("a foreign default at the pin's own metric: the pin moves below", same_metric),
        trial("a foreign default that replaces the pin: it is back below", pin_replaced),
        trial("port's own default is the best: no pin but in an outage", port_is_best),
        trial("port and management share a metric: the pin decides", tie),
        trial("default route by a next-hop object: followed though no message tells", nexthop_object),
        trial("several default routes on the port: the best one counts", several_on_port),
        trial("gateway from a dhcp or ra route that is no default", gateway_of_another_route),
        trial("gateway from the configuration", configured_gateway),
        trial("gateway from the configuration, addresses without prefix routes", configured_without_route),
        trial("configured gateway wins over the one in the route", configured_gateway_differs),
        trial("contest: a program that deletes the pin for ever is left alone", contest),
        trial(
            "contest: the program is named in the log, the status and the metrics, with a remedy",
            contest_named,
        ),
        trial("10,000 foreign route changes: nothing is written, no fault is missed", churn),
    ]
}

fn pin_deleted() -> Outcome {
    let scene = Scene::usual()?;
    for (family, flag) in Family::ALL.into_iter().zip(["-4", "-6"]) {
        for _ in 0..4 {
            scene.pinned(family, "one pin", |pins| pins.len() == 1)?;
            let since = now();
            scene.site.worker.ip(&format!("{flag} route delete default proto 117"))?;
            let gone = scene.changes.wait_for("the deletion", since, SOON, is_pin(family, false))?;
            let back = scene.changes.wait_for("the pin", since, SOON, is_pin(family, true))?;
            let took = back.at.since(gone.at);
            assert!(took < RIGHT_AGAIN, "{family}: {took:?}");
        }
    }
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

fn is_pin(wanted: Family, added: bool) -> impl FnMut(&Change) -> bool {
    move |change| {
        let is_added = matches!(change, Change::RouteAdded(_));
        of_pin(change) && is_added == added && change.route().is_some_and(|route| route.family == wanted)
    }
}

fn renewed() -> Outcome {
    let scene = Scene::usual()?;
    let since = scene.changes.caught_up()?;
    for uplink in [&scene.site.port, &scene.site.mgmt] {
        for _ in 0..5 {
            scene.write(&[defaults("delete", uplink, uplink.metric, "")])?;
            // So that each half is seen by itself.
            pass(Duration::from_millis(20));
            scene.write(&[defaults("add", uplink, uplink.metric, "")])?;
            pass(Duration::from_millis(20));
        }
    }
    scene.stays(Duration::from_millis(200))?;
    never_led_to(&scene, "mgmt", since)?;
    assert_eq!(scene.pin_writes(since)?, [], "a pin that is right is left alone");
    let ending = scene.finish()?;
    assert_nothing_lost(&ending.streams);
    Ok(())
}

fn renewed_in_outage() -> Outcome {
    let scene = Scene::configured("patience = \"300ms\"")?;
    scene.fail_over()?;
    for uplink in [&scene.site.port, &scene.site.mgmt] {
        for _ in 0..3 {
            scene.write(&[defaults("delete", uplink, uplink.metric, "")])?;
            settles(&scene, "mgmt")?;
            // As DHCP clients do: whoever stands in their way makes them fail.
            scene.write(&[defaults("add", uplink, uplink.metric, "")])?;
            scene.leads_to("mgmt")?;
        }
    }
    scene.stays(Duration::from_millis(200))?;
    scene.site.port.cable.heal();
    scene.finish()?;
    Ok(())
}

fn port_deleted() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    let since = scene.changes.caught_up()?;
    scene.write(&[defaults("delete", &scene.site.port, 101, "")])?;
    scene.stays(Duration::from_millis(500))?;
    assert_eq!(scene.writes(since)?, []);
    scene.fail_over()?;
    scene.come_back()?;
    scene.write(&[defaults("add", &scene.site.port, 101, "")])?;
    scene.stays(Duration::from_millis(100))?;
    scene.finish()?;
    Ok(())
}

fn mgmt_deleted() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    scene.write(&[defaults("delete", &scene.site.mgmt, 100, "")])?;
    scene.stays(Duration::from_millis(500))?;
    scene.write(&[defaults("add", &scene.site.mgmt, 100, "")])?;
    scene.leads_to("port")?;
    scene.fail_over()?;
    // Now the elected path's own route goes: what worked is kept.
    scene.write(&[defaults("delete", &scene.site.mgmt, 100, "")])?;
    settles(&scene, "mgmt")?;
    scene.stays(Duration::from_millis(500))?;
    scene.come_back()?;
    scene.write(&[defaults("add", &scene.site.mgmt, 100, "")])?;
    scene.finish()?;
    Ok(())
}

fn other_gateway() -> Outcome {
    let scene = Scene::usual()?;
    second_gateway(&scene.site.port)?;
    let since = now();
    scene.write(&to_second_gateway("replace", &scene.site.port))?;
    for (family, gateway) in Family::ALL.into_iter().zip(SECOND_OF_PORT) {
        let gateway: IpAddr = gateway.parse()?;
        scene.pinned(
            family,
            "the new gateway",
            |pins| matches!(pins, [pin] if pin.gateway == Some(gateway)),
        )?;
    }
    scene.stays(Duration::from_millis(1500))?;
    never_led_to(&scene, "mgmt", since)?;
    let ending = scene.finish_among()?;
    assert_nothing_lost(&ending.streams);
    Ok(())
}

fn dead_gateway() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    let replace = |v4: &str, v6: &str| {
        scene.write(&[
            format!("route replace 0.0.0.0/0 via {v4} dev port proto 16 metric 101"),
            format!("route replace ::/0 via {v6} dev port proto 16 metric 101"),
        ])
    };
    replace("10.0.120.77", "fe80::77")?;
    scene.leads_to("mgmt")?;
    for family in Family::ALL {
        scene.becomes("port", family, "gateway")?;
    }
    replace("10.0.120.1", "fe80::1")?;
    scene.leads_to("port")?;
    let ending = scene.finish()?;
    assert_nothing_lost(&ending.streams);
    Ok(())
}

fn all_deleted() -> Outcome {
    let scene = Scene::usual()?;
    let (since, all) = (now(), [&scene.site.port, &scene.site.mgmt]);
    scene.write(&all.map(|uplink| defaults("delete", uplink, uplink.metric, "")))?;
    scene.stays(Duration::from_millis(1500))?;
    scene.write(&all.map(|uplink| defaults("add", uplink, uplink.metric, "")))?;
    scene.stays(Duration::from_millis(500))?;
    assert_eq!(scene.pin_writes(since)?, []);
    let ending = scene.finish()?;
    assert_nothing_lost(&ending.streams);
    Ok(())
}

fn renewed_in_doubt() -> Outcome {
    let scene = Scene::usual()?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    pass(Duration::from_millis(400));
    scene.write(&[defaults("delete", &scene.site.mgmt, 100, "")])?;
    pass(Duration::from_millis(400));
    scene.write(&[defaults("add", &scene.site.mgmt, 100, "")])?;
    scene.moves_to("mgmt", fault, Duration::from_millis(1500))?;
    scene.site.port.cable.heal();
    scene.finish()?;
    Ok(())
}

fn other_gateway_in_outage() -> Outcome {
    let scene = Scene::configured("patience = \"300ms\"")?;
    second_gateway(&scene.site.mgmt)?;
    scene.fail_over()?;
    let since = now();
    scene.write(&to_second_gateway("replace", &scene.site.mgmt))?;
    scene.stays(Duration::from_millis(1500))?;
    never_led_to(&scene, "port", since)?;
    for family in Family::ALL {
        scene.becomes("mgmt", family, "up")?;
    }
    scene.site.port.cable.heal();
    scene.finish_among()?;
    Ok(())
}

fn port_gateway_in_outage() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    second_gateway(&scene.site.port)?;
    scene.fail_over()?;
    scene.write(&to_second_gateway("replace", &scene.site.port))?;
    scene.stays(Duration::from_millis(1500))?;
    scene.come_back()?;
    for (family, gateway) in Family::ALL.into_iter().zip(SECOND_OF_PORT) {
        let gateway: IpAddr = gateway.parse()?;
        scene.pinned(
            family,
            "the new gateway",
            |pins| matches!(pins, [pin] if pin.gateway == Some(gateway)),
        )?;
    }
    scene.finish_among()?;
    Ok(())
}

fn other_metrics() -> Outcome {
    let scene = Scene::usual()?;
    let mgmt = &scene.site.mgmt;
    let since = scene.changes.caught_up()?;
    scene.write(&[defaults("add", mgmt, 20100, ""), defaults("delete", mgmt, 100, "")])?;
    scene.stays(Duration::from_millis(300))?;
    assert_eq!(scene.writes(since)?, [], "raised");
    scene.write(&[defaults("add", mgmt, 50, ""), defaults("delete", mgmt, 20100, "")])?;
    for family in Family::ALL {
        scene.pinned(family, "one pin below 50", |pins| matches!(pins, [pin] if pin.metric < 50))?;
    }
    scene.leads_to("port")?;
    let since = scene.changes.caught_up()?;
    scene.write(&[defaults("add", mgmt, 100, ""), defaults("delete", mgmt, 50, "")])?;
    scene.stays(Duration::from_millis(300))?;
    assert_eq!(scene.writes(since)?, [], "raised again");
    // The port's own falls below everything: there is nothing left to pin.
    scene
        .write(&[defaults("add", &scene.site.port, 10, ""), defaults("delete", &scene.site.port, 101, "")])?;
    for family in Family::ALL {
        scene.pinned(family, "no pin", <[_]>::is_empty)?;
    }
    scene.stays(Duration::from_millis(300))?;
    scene.finish_among()?;
    Ok(())
}

fn same_metric() -> Outcome {
    let scene = Scene::usual()?;
    let metrics = metrics(&scene)?;
    for ((family, metric), line) in metrics.into_iter().zip(0..) {
        let lines = defaults("append", &scene.site.mgmt, metric, "");
        scene.write(&[lines.lines().nth(line).unwrap_or_default()])?;
        scene.pinned(
            family,
            "the pin below",
            |pins| matches!(pins, [pin] if pin.metric < metric && pin.hops == 1),
        )?;
    }
    scene.leads_to("port")?;
    scene.stays(Duration::from_millis(300))?;
    scene.finish_among()?;
    Ok(())
}

fn pin_replaced() -> Outcome {
    let scene = Scene::usual()?;
    let metrics = metrics(&scene)?;
    for ((family, metric), line) in metrics.into_iter().zip(0..) {
        let lines = defaults("replace", &scene.site.mgmt, metric, "");
        scene.write(&[lines.lines().nth(line).unwrap_or_default()])?;
        scene.pinned(family, "the pin below", |pins| matches!(pins, [pin] if pin.metric < metric))?;
    }
    scene.leads_to("port")?;
    scene.stays(Duration::from_millis(300))?;
    scene.finish_among()?;
    Ok(())
}

/// The pins' metrics.
fn metrics(scene: &Scene) -> Result<Vec<(Family, u32)>, Failed> {
    let of = |family| Ok((family, scene.pins(family)?.first().ok_or("no pin")?.metric));
    Family::ALL.into_iter().map(of).collect()
}

fn port_is_best() -> Outcome {
    let scene = Scene::begin(site_with_metrics(50, 100)?, BRISK)?;
    scene.leads_to("port")?;
    for family in Family::ALL {
        assert_eq!(scene.pins(family)?, []);
    }
    scene.fail_over()?;
    for family in Family::ALL {
        let pins = scene.pins(family)?;
        assert!(matches!(pins.as_slice(), [pin] if pin.metric < 50), "{pins:?}");
    }
    scene.come_back()?;
    for family in Family::ALL {
        scene.pinned(family, "no pin", <[_]>::is_empty)?;
    }
    scene.finish()?;
    Ok(())
}

fn tie() -> Outcome {
    let site = site_with_metrics(101, 100)?;
    // IPv6 would join the two into one of several hops, which is another case.
    site.worker.ip_batch(
        "route delete 0.0.0.0/0 via 10.0.120.1\n\
         route append 0.0.0.0/0 via 10.0.120.1 dev port metric 100\n",
    )?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    scene.pinned(Family::Ipv4, "a pin", |pins| matches!(pins, [pin] if pin.metric < 100))?;
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish()?;
    Ok(())
}

fn nexthop_object() -> Outcome {
    let scene = Scene::usual()?;
    let nexthops = |verb: &str, v4: &str, dev: &str| {
        scene.write(&[
            format!("nexthop {verb} id 4 via {v4} dev {dev}"),
            format!("nexthop {verb} id 6 via fe80::1 dev {dev}"),
        ])
    };
    nexthops("add", "10.0.120.1", "port")?;
    scene.write(&["route add 0.0.0.0/0 nhid 4 metric 40", "route add ::/0 nhid 6 metric 40"])?;
    for family in Family::ALL {
        scene.pinned(family, "no pin", <[_]>::is_empty)?;
    }
    nexthops("replace", "10.0.10.1", "mgmt")?;
    for family in Family::ALL {
        scene.pinned(family, "a pin below 40", |pins| matches!(pins, [pin] if pin.metric < 40))?;
    }
    scene.leads_to("port")?;
    let since = scene.changes.caught_up()?;
    scene.write(&["nexthop delete id 4", "nexthop delete id 6"])?;
    scene.stays(Duration::from_millis(300))?;
    assert_eq!(scene.writes(since)?, []);
    scene.finish()?;
    Ok(())
}

fn several_on_port() -> Outcome {
    let site = site_with_metrics(101, 100)?;
    // Worse ones, to routers that are not there.
    site.worker.ip_batch(
        "route add 0.0.0.0/0 via 10.0.120.77 dev port metric 102\n\
         route append 0.0.0.0/0 via 10.0.120.78 dev port metric 101\n\
         route add ::/0 via fe80::77 dev port metric 102\n",
    )?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    for (family, gateway) in Family::ALL.into_iter().zip(["10.0.120.1", "fe80::1"]) {
        let gateway: IpAddr = gateway.parse()?;
        let pins = scene.pins(family)?;
        assert!(matches!(pins.as_slice(), [pin] if pin.gateway == Some(gateway)), "{pins:?}");
    }
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish()?;
    Ok(())
}

fn gateway_of_another_route() -> Outcome {
    let site = uplink_lab::Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", crate::scene::PCI)?;
    site.lay_default(&site.mgmt, "mgmt", 100)?;
    site.worker.ip_batch(
        "route add 169.254.99.100/32 via 10.0.120.1 dev port proto dhcp metric 101\n\
         route add 2001:db8:ffff::/64 via fe80::1 dev port proto ra metric 101\n",
    )?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    scene.fail_over()?;
    scene.come_back()?;
    // A renewal.
    scene.write(&["route delete 169.254.99.100/32", "route delete 2001:db8:ffff::/64"])?;
    scene.write(&[
        "route add 169.254.99.100/32 via 10.0.120.1 dev port proto dhcp metric 101",
        "route add 2001:db8:ffff::/64 via fe80::1 dev port proto ra metric 101",
    ])?;
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

/// A port whose gateway only the operator knows.
const CONFIGURED: &str = "patience = \"300ms\"\nreturn_after = \"1s\"\n[[uplink]]\nname = \"dpu\"\n\
    match = { interface = \"port\" }\ngateway = [\"10.0.120.1\", \"fe80::1\"]\n";

fn configured_gateway() -> Outcome {
    let site = uplink_lab::Site::builder().without_default_routes().build()?;
    site.lay_default(&site.mgmt, "mgmt", 100)?;
    let scene = Scene::begin(site, CONFIGURED)?;
    scene.leads_to("port")?;
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish()?;
    Ok(())
}

fn configured_without_route() -> Outcome {
    let site = uplink_lab::Site::builder().without_default_routes().build()?;
    site.lay_default(&site.mgmt, "mgmt", 100)?;
    site.worker.ip_batch(
        "address delete 10.0.120.2/24 dev port\n\
         address delete fd00:120::2/64 dev port\n\
         address add 10.0.120.2/24 dev port noprefixroute\n\
         address add fd00:120::2/64 dev port noprefixroute nodad\n",
    )?;
    let scene = Scene::begin(site, CONFIGURED)?;
    scene.leads_to("port")?;
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish_among()?;
    Ok(())
}

fn configured_gateway_differs() -> Outcome {
    let site = uplink_lab::Site::builder().without_default_routes().build()?;
    site.lay_default(&site.mgmt, "mgmt", 100)?;
    // The best of all, to routers that are not there.
    site.worker.ip_batch(
        "route add 0.0.0.0/0 via 10.0.120.77 dev port metric 50\nroute add ::/0 via fe80::77 dev port metric 50\n",
    )?;
    let scene = Scene::begin(site, CONFIGURED)?;
    scene.leads_to("port")?;
    for (family, gateway) in Family::ALL.into_iter().zip(["10.0.120.1", "fe80::1"]) {
        let gateway: IpAddr = gateway.parse()?;
        let right = |pins: &[uplink_lab::Route]| matches!(pins, [pin] if pin.metric < 50 && pin.gateway == Some(gateway));
        scene.pinned(family, "the configured gateway", right)?;
    }
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish()?;
    Ok(())
}

fn contest() -> Outcome {
    let scene = Scene::usual()?;
    let since = scene.changes.caught_up()?;
    let mut deleted = 0;
    while deleted < 100 && now() < since + Duration::from_secs(5) {
        deleted += u32::from(scene.site.worker.ip("-4 route delete default proto 117").is_ok());
    }
    let written =
        scene.writes(since)?.iter().filter(|change| matches!(change.what, Change::RouteAdded(_))).count();
    assert!((5..=40).contains(&written), "{written} pins were written, {deleted} deleted");
    scene.daemon.wait_for_log("the contest", since, SOON, |line| line.contains("keeps undoing"))?;
    // In the other family nobody contested anything.
    assert_eq!(scene.pins(Family::Ipv6)?.len(), 1);
    assert_eq!(scene.status_of(Family::Ipv6, "aside")?, serde_json::Value::Null);
    // When the other program has given up, the pin comes back by itself.
    let end = now() + Duration::from_secs(10);
    loop {
        // Asked before the pin is looked for, which may come back between the two.
        let aside = scene.status_of(Family::Ipv4, "aside")?;
        if !scene.pins(Family::Ipv4)?.is_empty() {
            break;
        }
        assert_eq!(aside, "contest");
        assert!(now() < end, "the pin does not come back");
        pass(Duration::from_millis(50));
    }
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

fn contest_named() -> Outcome {
    let scene = Scene::usual()?;
    let since = now();
    let mut ip = Command::new("ip");
    ip.args(["-4", "-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut other = scene.site.worker.spawn(ip)?;
    let mut orders = other.process().stdin.take().ok_or("it takes no orders")?;
    let named =
        format!("process {} (ip) deletes our route; to end it, let it leave protocol 117", other.pid());
    let told = |said: &str| said.contains("keeps undoing") && said.contains(&named);
    let sample = format!("uplinkd_undone{{family=\"ipv4\",process=\"{}\",name=\"ip\"}} 1.0\n", other.pid());
    loop {
        for _ in 0..10 {
            writeln!(orders, "route delete default proto 117")?;
            pass(Duration::from_millis(5));
        }
        let [status, metrics] = ["status", "metrics"].map(|what| uplinkctl(&scene.site.worker, &[what]));
        let status = status?;
        let aside = status.said.lines().find(|line| line.contains("standing aside")).unwrap_or_default();
        if told(aside) && metrics?.said.contains(&sample) {
            break;
        }
        if now() >= since + 4 * SOON {
            return Err(scene.explain(&format!("not named: {}\n{}", named, status.said)));
        }
    }
    scene.daemon.wait_for_log("who it is", since, SOON, told)?;
    let by = scene.status_of(Family::Ipv4, "undone_by")?;
    assert!(by.is_null() || by["process"] == other.pid().as_raw(), "{by}");
    drop(orders);
    scene.pinned(Family::Ipv4, "a pin", |pins| !pins.is_empty())?;
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

fn churn() -> Outcome {
    let scene = Scene::configured("patience = \"300ms\"")?;
    let mut lines = String::new();
    for number in 0..5000 {
        let (a, b) = (number / 250, number % 250);
        // Writing to a String cannot fail.
        let _ = writeln!(lines, "route add 172.20.{a}.{b}/32 via 10.0.10.1 dev mgmt proto 186");
        let _ = writeln!(lines, "route delete 172.20.{a}.{b}/32 via 10.0.10.1 dev mgmt proto 186");
    }
    let since = scene.changes.caught_up()?;
    scene.site.worker.ip_batch(&lines)?;
    assert_eq!(scene.changes.overruns(), 0);
    assert_eq!(scene.writes(since)?, []);
    let churn = lines.clone();
    std::thread::scope(|scope| {
        let other = scope.spawn(|| scene.site.worker.ip_batch(&churn));
        let moved = scene.fail_over();
        other.join().expect("the other program panicked")?;
        moved
    })?;
    scene.site.port.cable.heal();
    scene.finish()?;
    Ok(())
}

/// The kernel leads to this interface from now on, and the running lookups have seen it: their last
/// answer alone may be older than what was just written.
fn settles(scene: &Scene, interface: &str) -> Outcome {
    for address in INTERNET {
        scene.until(&format!("the kernel leads to {interface}"), || {
            Ok(scene.site.worker.lookup(address)?.interface.as_deref() == Some(interface))
        })?;
    }
    scene.leads_to(interface)
}

/// Other addresses of the port's gateway.
const SECOND_OF_PORT: [&str; 2] = ["10.0.120.7", "fe80::7"];

/// Gives an uplink's gateway other addresses.
fn second_gateway(uplink: &Uplink) -> Outcome {
    let [a, b, c, _] = uplink.gateway4.octets();
    uplink
        .gateway
        .ip_batch(&format!("address add {a}.{b}.{c}.7/24 dev lan\naddress add fe80::7/64 dev lan nodad\n"))?;
    Ok(())
}

/// As [`defaults`], by the other addresses of the uplink's gateway.
fn to_second_gateway(verb: &str, uplink: &Uplink) -> [String; 2] {
    let [a, b, c, _] = uplink.gateway4.octets();
    let Uplink { interface, metric, .. } = uplink;
    [
        format!("route {verb} 0.0.0.0/0 via {a}.{b}.{c}.7 dev {interface} proto 16 metric {metric}"),
        format!("route {verb} ::/0 via fe80::7 dev {interface} proto 16 metric {metric}"),
    ]
}

fn never_led_to(scene: &Scene, interface: &str, since: Instant) -> Outcome {
    let ways = scene.lookups.report().changes;
    let wrong = ways.iter().filter(|way| way.at > since && way.what.interface.as_deref() == Ok(interface));
    match wrong.count() {
        0 => Ok(()),
        count => {
            Err(scene.explain(&format!("lookups were answered with {interface} {count} times: {ways:?}")))
        }
    }
}

fn assert_nothing_lost(streams: &[uplink_lab::StreamReport]) {
    for stream in streams {
        assert_eq!(stream.lost, 0, "{stream:?}");
    }
}
