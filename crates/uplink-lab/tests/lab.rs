//! The lab itself: does it do what tests and demo believe it does?
#![allow(
    clippy::disallowed_macros,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test program with its own main: it may print and panic"
)]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use uplink_core::snapshot::Family;
use uplink_lab::{
    Change, Changes, Churn, Daemon, End, Fault, Flow, Host, INTERNET4, INTERNET6, Lag, Load, Lookups,
    PciFunction, STREAM_INTERVAL, Site, Stream, StreamReport, Uplink, enter, now, pass,
};

type Outcome = Result<(), Failed>;
type Test = fn() -> Outcome;

/// For what must happen.
const BOUND: Duration = Duration::from_secs(5);
/// For what must not.
const SILENCE: Duration = Duration::from_millis(200);
const INTERNET: [IpAddr; 2] = [IpAddr::V4(INTERNET4), IpAddr::V6(INTERNET6)];

fn main() {
    if std::env::args().nth(1).as_deref() == Some("stand-in") {
        return stand_in();
    }
    if let Err(error) = enter() {
        eprintln!("the lab cannot be built here, so nothing was tested: {error}");
        std::process::exit(1);
    }
    let arguments = Arguments::from_args();
    let tests: &[(&str, Test)] = &[
        ("both uplinks lead to the internet", both_uplinks_lead_to_the_internet),
        ("silent: nothing arrives", silent),
        ("loss: the share that was asked for", loss),
        ("delay: each way", delay),
        ("filters echo: forwards all the same", filters_echo),
        ("control silent: forwards all the same", control_silent),
        ("not forwarding: answers all the same", not_forwarding),
        ("carrier: lost and back", carrier),
        ("port: late, pulled out, plugged again, renamed", port_comes_and_goes),
        ("port under a bridge", bridge),
        ("one subnet", one_subnet),
        ("bare site has no default route", bare),
        ("pci identity", pci),
        ("stream to the worker", stream_to_worker),
        ("stream counts refused packets", stream_refused),
        ("changes and lookups", changes_and_lookups),
        ("crowd: many routes, changes without pause", crowd),
        ("table text tells a difference", table_text),
        ("files of programs that configure the network are the host's own", own_files),
        ("daemon: log, notes, status, cost, end", daemon),
        ("masqueraded flow breaks at a switch", masqueraded_flow),
        ("many sites at once", many_sites),
        ("figures under load", under_load),
    ];
    let trials = tests.iter().map(|&(name, test)| Trial::test(name, test)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn both_uplinks_lead_to_the_internet() -> Outcome {
    let start = now();
    let site = Site::new()?;
    let built = now().since(start);
    for uplink in [&site.port, &site.mgmt] {
        prefer(&site, uplink)?;
        for address in INTERNET {
            let mut best = BOUND;
            for _ in 0..20 {
                let answer = site.worker.ping(address, None, BOUND)?;
                best = best.min(answer.ok_or("no answer")?);
            }
            println!("{} {address}: round trip {best:?}", uplink.interface);
            let route = site.worker.lookup(address)?;
            assert_eq!(route.interface.as_deref(), Some(uplink.interface));
            assert!(uplink.cable.traffic(End::Gateway).carried >= 20);
        }
    }
    println!("site built in {built:?}");
    Ok(())
}

fn silent() -> Outcome {
    let site = Site::new()?;
    let fault = site.port.cable.fault(&[Fault::Silent]);
    assert!(!reaches_gateway(&site, &site.port, SILENCE)?);
    assert!(reaches_gateway(&site, &site.mgmt, BOUND)?);
    let last = site.port.cable.traffic(End::Worker).last;
    assert!(last.is_some_and(|last| last <= fault), "a frame came after the fault");
    site.port.cable.heal();
    assert!(reaches_gateway(&site, &site.port, BOUND)?);
    Ok(())
}

fn loss() -> Outcome {
    let site = Site::new()?;
    let loss = Fault::Loss { percent: 30, seed: 7 };
    site.mgmt.cable.fault_towards(End::Gateway, &[loss]);
    let report = stream(&site, INTERNET[0], Duration::from_secs(2))?;
    let percent = report.lost * 100 / report.sent;
    assert!((25..=35).contains(&percent), "{percent} % of {}", report.sent);
    assert_eq!(report.overruns + site.mgmt.cable.overruns(), 0);
    Ok(())
}

fn delay() -> Outcome {
    let site = Site::new()?;
    let each_way = Duration::from_millis(30);
    site.mgmt.cable.fault(&[Fault::Delay(each_way)]);
    let answer = site.worker.ping(INTERNET[0], None, BOUND)?;
    let round_trip = answer.ok_or("no answer")?;
    assert!(round_trip >= each_way * 2, "{round_trip:?}");
    let report = stream(&site, INTERNET[0], Duration::from_secs(1))?;
    println!("30 ms of delay: {}", report.delay);
    assert_eq!((report.lost, report.reordered), (0, 0));
    assert!(report.delay.median >= each_way);
    Ok(())
}

fn filters_echo() -> Outcome {
    let site = Site::new()?;
    site.mgmt.cable.fault(&[Fault::FiltersEcho]);
    assert!(!reaches_gateway(&site, &site.mgmt, SILENCE)?);
    for address in INTERNET {
        assert!(site.worker.ping(address, None, BOUND)?.is_some());
    }
    Ok(())
}

fn control_silent() -> Outcome {
    let site = Site::new()?;
    for address in INTERNET {
        assert!(site.worker.ping(address, None, BOUND)?.is_some());
    }
    site.mgmt.cable.fault(&[Fault::ControlSilent]);
    assert!(!reaches_gateway(&site, &site.mgmt, SILENCE)?);
    for address in INTERNET {
        let report = stream(&site, address, Duration::from_millis(500))?;
        assert_eq!(report.lost, 0, "it should still forward: {report:?}");
    }
    site.worker.ip("neigh flush all")?;
    assert!(site.worker.ping(INTERNET[0], None, SILENCE)?.is_none(), "ARP was answered");
    Ok(())
}

fn not_forwarding() -> Outcome {
    let site = Site::new()?;
    site.mgmt.cable.fault(&[Fault::NotForwarding]);
    site.worker.ip("neigh flush all")?;
    assert!(reaches_gateway(&site, &site.mgmt, BOUND)?);
    for address in INTERNET {
        assert!(site.worker.ping(address, None, SILENCE)?.is_none());
    }
    Ok(())
}

fn carrier() -> Outcome {
    let site = Site::new()?;
    let changes = Changes::start(&site.worker)?;
    for on in [false, true] {
        let moment = site.port.cable.carrier(End::Worker, on)?;
        let change = changes.wait_for("the carrier's change", moment, BOUND, |change| {
            matches!(change, Change::Link { interface, carrier, up: true }
                if interface == "port" && *carrier == on)
        })?;
        println!("carrier {on}: told after {:?}", change.at.since(moment));
    }
    assert!(reaches_gateway(&site, &site.port, BOUND)?);
    let moment = site.worker.set_up("port", false)?;
    changes.wait_for(
        "down",
        moment,
        BOUND,
        |change| matches!(change, Change::Link { interface, up: false, .. } if interface == "port"),
    )?;
    assert_eq!(site.worker.default_routes(Family::Ipv4)?.len(), 1);
    assert_eq!(changes.overruns(), 0);
    Ok(())
}

fn port_comes_and_goes() -> Outcome {
    let site = Site::builder().without_port().build()?;
    for _ in 0..2 {
        assert_eq!(site.worker.default_routes(Family::Ipv4)?.len(), 1);
        site.plug(&site.port)?;
        site.lay_addresses(&site.port, "port")?;
        site.lay_default(&site.port, "port", 101)?;
        site.await_gateway(&site.port)?;
        site.unplug(&site.port)?;
    }
    site.plug(&site.port)?;
    site.worker.ip_batch("link set port down\nlink set port name p0\nlink set p0 up")?;
    site.lay_addresses(&site.port, "p0")?;
    let answer = site.worker.ping(site.port.gateway4.into(), Some("p0"), BOUND)?;
    assert!(answer.is_some());
    Ok(())
}

fn bridge() -> Outcome {
    let site = Site::builder().without_port().build()?;
    site.plug(&site.port)?;
    site.worker.ip_batch(
        "link add br0 up type bridge forward_delay 0\n\
         link set port master br0\n",
    )?;
    site.lay_addresses(&site.port, "br0")?;
    site.lay_default(&site.port, "br0", 10)?;
    for address in INTERNET {
        assert!(site.worker.ping(address, None, BOUND)?.is_some());
        assert_eq!(site.worker.lookup(address)?.interface.as_deref(), Some("br0"));
    }
    Ok(())
}

fn one_subnet() -> Outcome {
    let site = Site::builder().one_subnet().build()?;
    for uplink in [&site.port, &site.mgmt] {
        prefer(&site, uplink)?;
        for address in INTERNET {
            assert!(site.worker.ping(address, None, BOUND)?.is_some());
        }
    }
    site.port.cable.fault(&[Fault::Silent]);
    assert!(!reaches_gateway(&site, &site.port, SILENCE)?);
    assert!(reaches_gateway(&site, &site.mgmt, BOUND)?);
    Ok(())
}

fn bare() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    for family in Family::ALL {
        assert_eq!(site.worker.default_routes(family)?, []);
    }
    for address in INTERNET {
        assert!(site.worker.lookup(address).is_err());
    }
    Ok(())
}

fn pci() -> Outcome {
    let site = Site::builder().without_port().build()?;
    let address = "0000:03:00.0";
    site.worker.plug_pci(&PciFunction::bluefield(address))?;
    site.worker.bind_pci("port", address, Some("p0"))?;
    site.plug(&site.port)?;
    let read = |path: &str| fs::read_to_string(site.worker.path(path));
    assert_eq!(read("/sys/class/net/port/device/vendor")?, "0x15b3\n");
    assert_eq!(read("/sys/class/net/port/device/device")?, "0xa2dc\n");
    assert_eq!(read("/sys/class/net/port/device/class")?, "0x020000\n");
    assert_eq!(read("/sys/class/net/port/phys_port_name")?, "p0\n");
    let device = fs::read_link(site.worker.path("/sys/class/net/port/device"))?;
    assert_eq!(device.file_name().and_then(|name| name.to_str()), Some(address));
    assert!(read("/sys/class/net/mgmt/device/vendor").is_err());
    site.worker.plug_pci(&PciFunction {
        physfn: Some(address.to_owned()),
        device: 0x101e,
        ..PciFunction::bluefield("0000:03:00.3")
    })?;
    assert!(read("/sys/bus/pci/devices/0000:03:00.3/physfn/vendor").is_ok());
    site.worker.unbind_pci("port")?;
    assert!(read("/sys/class/net/port/device/vendor").is_err());
    assert!(read("/sys/bus/pci/devices/0000:03:00.0/vendor").is_ok());
    site.worker.unplug_pci(address)?;
    assert!(read("/sys/bus/pci/devices/0000:03:00.0/vendor").is_err());
    // Another host is another machine.
    assert!(!site.internet.path("/sys/bus/pci/devices/0000:03:00.3").exists());
    Ok(())
}

fn stream_to_worker() -> Outcome {
    let site = Site::new()?;
    for to in [site.port.address4.into(), site.mgmt.address6.into()] {
        let stream = Stream::start(&site.internet, &site.worker, to, STREAM_INTERVAL)?;
        pass(Duration::from_millis(300));
        let report = stream.stop();
        assert!(report.sent > 200, "{report:?}");
        assert_eq!((report.lost, report.failed), (0, 0), "{report:?}");
    }
    Ok(())
}

fn stream_refused() -> Outcome {
    let site = Site::new()?;
    let stream = Stream::start(&site.worker, &site.internet, INTERNET[0], STREAM_INTERVAL)?;
    stream.wait_for_arrival(now(), BOUND)?;
    let start = now();
    site.worker.ip_batch("route del default metric 100\nroute del default metric 101")?;
    pass(Duration::from_millis(50));
    site.lay_default(&site.port, "port", 7)?;
    let back = stream.wait_for_arrival(now(), BOUND)?;
    let report = stream.stop();
    assert!(report.failed >= 40 && report.lost == 0, "{report:?}");
    let [gap] = report.gaps.as_slice() else {
        return Err(format!("not one gap: {report:?}").into());
    };
    assert!(gap.at >= start && gap.at + gap.length <= back);
    assert_eq!(gap.packets, report.failed);
    assert_eq!(report.longest_gap(), gap.length);
    Ok(())
}

fn crowd() -> Outcome {
    let site = Site::new()?;
    let (worker, mgmt) = (&site.worker, &site.mgmt);
    let changes = Changes::start_without_crowd(worker)?;
    let before = worker.routes(Family::Ipv4)?.len();
    worker.lay_crowd(mgmt.interface, mgmt.gateway4, 1234)?;
    assert_eq!(worker.routes(Family::Ipv4)?.len(), before + 1234);
    let churn = Churn::start(worker, mgmt.interface, mgmt.gateway4, 10_000)?;
    let end = now() + BOUND;
    while churn.so_far().changes < 1000 {
        assert!(now() < end, "{:?}", churn.so_far());
        pass(SILENCE / 20);
    }
    assert!(churn.so_far().cpu > Duration::ZERO);
    // Only the default route is heard of.
    let begun = now();
    worker.ip("route add default via 10.0.10.1 dev mgmt metric 7")?;
    let added = |change: &Change| matches!(change, Change::RouteAdded(route) if route.metric == 7);
    changes.wait_for("the default route", begun, BOUND, added)?;
    assert_eq!(changes.all().len(), 1, "{:?}", changes.all());
    Ok(())
}

fn changes_and_lookups() -> Outcome {
    let site = Site::new()?;
    let changes = Changes::start(&site.worker)?;
    let lookups = Lookups::start(&site.worker, &INTERNET, Duration::from_millis(1))?;
    let start = now();
    site.worker.ip("route add default via 10.0.120.1 proto 117 metric 98")?;
    lookups.wait_for(INTERNET[0], "port", start, BOUND)?;
    let back = now();
    site.worker.ip("route del default proto 117")?;
    lookups.wait_for(INTERNET[0], "mgmt", back, BOUND)?;
    site.worker.ip("rule add priority 32765 lookup 117 protocol 117")?;
    changes.wait_for("the rule", back, BOUND, |change| {
        matches!(change, Change::RuleAdded(rule)
            if (rule.priority, rule.table, rule.protocol) == (32765, 117, 117))
    })?;
    assert_eq!(changes.of_protocol(117, start), 3);
    let routes = changes.default_routes(start);
    let [added, deleted] = routes.as_slice() else {
        return Err(format!("{routes:?}").into());
    };
    assert!(matches!(&added.what, Change::RouteAdded(route) if route.metric == 98));
    assert!(matches!(&deleted.what, Change::RouteDeleted(_)));
    let report = lookups.stop();
    assert_eq!((report.failed, report.changes.len()), (0, 4), "{report:?}");
    Ok(())
}

fn table_text() -> Outcome {
    let site = Site::new()?;
    let before = site.worker.table_text()?;
    site.worker.ip("rule add from 10.0.10.2 lookup 117")?;
    assert_ne!(before, site.worker.table_text()?);
    site.worker.ip("rule del from 10.0.10.2 lookup 117")?;
    assert_eq!(before, site.worker.table_text()?);
    Ok(())
}

fn own_files() -> Outcome {
    let worker = Host::new("worker")?;
    let machines = fs::read("/etc/resolv.conf").unwrap_or_default();
    for path in [
        "/run/systemd/netif/leases/2",
        "/run/NetworkManager/devices/2",
        "/var/lib/dhcp/dhclient.port.leases",
        "/etc/resolv.conf",
    ] {
        // A machine without a resolv.conf has nothing that could be harmed.
        if path.starts_with("/etc") && !Path::new(path).exists() {
            continue;
        }
        worker.write(path, "of the worker")?;
        let seen = worker.command("cat", &[path])?;
        assert_eq!(seen, "of the worker", "{path}");
        assert_ne!(fs::read_to_string(path).ok(), Some(seen), "{path} is the machine's");
    }
    assert_eq!(fs::read("/etc/resolv.conf").unwrap_or_default(), machines);
    Ok(())
}

fn daemon() -> Outcome {
    let site = Site::new()?;
    let binary = std::env::current_exe()?;
    let builder = Daemon::of(binary, &["stand-in"]).config("patience = \"1s\"\n");
    let mut daemon = builder.start(&site.worker)?;
    daemon.wait_ready(BOUND)?;
    daemon.wait_for_log("the configuration", daemon.started(), BOUND, |line| {
        line.contains("patience = \"1s\"")
    })?;
    assert!(daemon.notes().iter().any(|note| note.what == "STATUS=standing in"));
    assert_eq!(daemon.status()?["called"], "io.uplinkd.GetStatus");
    let cost = daemon.cost()?;
    println!("{cost:?}");
    assert!(cost.resident > 0 && cost.threads == 1 && cost.children == 0);
    let start = now();
    assert!(daemon.stall(SILENCE)?.since(start) >= SILENCE);
    assert!(daemon.ended()?.is_none());
    assert!(!daemon.stop(BOUND)?.success());
    Ok(())
}

/// What the lab's daemon test runs instead of the daemon.
fn stand_in() {
    let config = std::env::args().nth(3).expect("--config FILE");
    eprintln!("{}", fs::read_to_string(config).expect("the configuration"));
    let listener = UnixListener::bind("/run/uplinkd/io.uplinkd").expect("a socket");
    let notify = std::env::var("NOTIFY_SOCKET").expect("NOTIFY_SOCKET");
    let socket = UnixDatagram::unbound().expect("a socket");
    let sent = socket.send_to(b"STATUS=standing in\nREADY=1\n", notify);
    sent.expect("somebody who listens");
    for client in listener.incoming() {
        let mut client = client.expect("a client");
        let mut call = Vec::new();
        let read = BufReader::new(&client).read_until(0, &mut call);
        read.expect("a call");
        call.pop();
        let call: serde_json::Value = serde_json::from_slice(&call).expect("JSON");
        let reply = serde_json::json!({ "parameters": { "called": call["method"] } });
        write!(client, "{reply}\0").expect("a client that reads");
    }
}

fn masqueraded_flow() -> Outcome {
    let site = Site::new()?;
    site.masquerade()?;
    let quiet = Flow::start(&site.worker, &site.internet, INTERNET[0])?;
    pass(Duration::from_millis(200));
    let report = quiet.stop();
    assert!(report.echoed > 0 && report.broken.is_none(), "{report:?}");
    let flow = Flow::start(&site.worker, &site.internet, INTERNET[0])?;
    prefer(&site, &site.port)?;
    let end = now() + BOUND;
    while flow.report().broken.is_none() && now() < end {
        pass(Duration::from_millis(5));
    }
    let report = flow.stop();
    println!("{report:?}");
    assert!(report.broken.is_some());
    Ok(())
}

fn many_sites() -> Outcome {
    let start = now();
    let sites = thread::scope(|scope| {
        let build = || scope.spawn(Site::new);
        let building: Vec<_> = std::iter::repeat_with(build).take(6).collect();
        let joined = building.into_iter().map(|site| site.join().expect("no panic"));
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    println!("{} sites built in {:?}", sites.len(), now().since(start));
    sites.first().expect("a site").port.cable.fault(&[Fault::Silent]);
    for (number, site) in sites.iter().enumerate() {
        let bound = if number == 0 { SILENCE } else { BOUND };
        assert_eq!(reaches_gateway(site, &site.port, bound)?, number != 0);
    }
    let start = now();
    drop(sites);
    println!("torn down in {:?}", now().since(start));
    Ok(())
}

fn under_load() -> Outcome {
    let site = Site::new()?;
    for loops in [0, 4] {
        let _load = Load::start(loops);
        let lag = Lag::start();
        let report = stream(&site, INTERNET[0], Duration::from_secs(2))?;
        println!("{loops} busy loops: machine {}", lag.stop());
        println!("  sending {}", report.lateness);
        println!("  on the way {}", report.delay);
        assert_eq!((report.lost, report.overruns, site.mgmt.cable.overruns()), (0, 0, 0));
    }
    Ok(())
}

fn stream(site: &Site, to: IpAddr, span: Duration) -> Result<StreamReport, Failed> {
    let stream = Stream::start(&site.worker, &site.internet, to, STREAM_INTERVAL)?;
    pass(span);
    Ok(stream.stop())
}

/// Whether the uplink's gateway answers in both families; whether it does in either must agree.
fn reaches_gateway(site: &Site, uplink: &Uplink, bound: Duration) -> Result<bool, Failed> {
    let ask = |gateway: IpAddr| site.worker.ping(gateway, Some(uplink.interface), bound);
    let v4 = ask(uplink.gateway4.into())?.is_some();
    let v6 = ask(uplink.gateway6.into())?.is_some();
    assert_eq!(v4, v6, "one family differs");
    Ok(v4)
}

/// Makes an uplink the best in both families.
fn prefer(site: &Site, uplink: &Uplink) -> Outcome {
    site.worker.ip_batch(&format!(
        "route replace 0.0.0.0/0 via {} dev {} metric 1\n\
         route replace ::/0 via {} dev {} metric 1\n",
        uplink.gateway4, uplink.interface, uplink.gateway6, uplink.interface
    ))?;
    Ok(())
}
