//! What surrounds the daemon: systemd, clients, cleaning up, rights.

use std::cell::RefCell;
use std::fs;
use std::io::Write;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use serde_json::json;
use uplink_core::snapshot::Family;
use uplink_core::time::Instant;
use uplink_lab::{Daemon, End, Fault, Host, Site, pass};

use crate::program::{run, uplinkctl, uplinkd};
use crate::scene::{Outcome, PATIENCE, PCI, SOON, STEADY, Scene, daemon, trial};

/// The units that are shipped.
const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/systemd");
/// The user that is shipped.
const USER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../packaging/sysusers.d/uplinkd.conf");
/// The most that systemd may find exposed, in tenths of its points.
const EXPOSURE: &str = "--threshold=18";
/// Where they say that the daemon is installed.
const INSTALLED: &str = "/usr/bin/uplinkd";
/// Where the journal listens.
const JOURNAL: &str = "/run/systemd/journal/socket";
/// The daemon's socket.
const SOCKET: &str = "/run/uplinkd/io.uplinkd";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("cleanup removes a dead daemon's pin and nothing else", cleanup_main),
        trial("cleanup removes a dead daemon's tables and rules and nothing else", cleanup_table),
        trial("cleanup says what it cannot remove, and removes the rest", cleanup_in_vain),
        trial("without a capability: a clear error, nothing is touched", unprivileged),
        trial("with the unit's two capabilities alone it steers", two_capabilities),
        trial("systemd is told: ready once, how it is, and that it lives", systemd_is_told),
        trial("a journal that takes nothing delays nothing, and is told that it missed lines", stuck_journal),
        trial("the units are valid and confined, and their commands exist", units),
        trial("the units run as the user that is shipped, so that everybody reaches the status", unit_user),
        trial("varlink: who we are, and what is so", varlink),
        trial("uplinkctl status and metrics: decisions, gateways, pins, last changes", uplinkctl_status),
        trial("uplinkctl without a daemon: says so, and metrics say it is not up", uplinkctl_alone),
        trial("clients that send rubbish or do not read delay nothing", bad_clients),
    ]
}

fn cleanup_main() -> Outcome {
    cleanup("", &[])
}

fn cleanup_table() -> Outcome {
    // What else stands in our table and at our rules' place, by whoever, is his.
    let foreign = [
        "-4 route add 192.0.2.0/24 via 10.0.10.1 table 117 proto static",
        "-6 route add 2001:db8:77::/64 via fe80::1 dev mgmt table 117 proto static",
        "-4 rule add pref 32765 from 192.0.2.1 lookup 117 proto static",
    ];
    let targets = "placement = \"table\"\n[[uplink]]\nname = \"dpu\"\nmatch = { interface = \"port\" }\n\
        targets = [{ icmp = \"203.0.113.9\" }, { icmp = \"2001:db8:9::9\" }]";
    cleanup(targets, &foreign)
}

fn cleanup(toml: &str, foreign: &[&str]) -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    for line in foreign {
        site.worker.ip(line)?;
    }
    let mut scene = Scene::begin(site, toml)?;
    scene.leads_to("port")?;
    let worker = &scene.site.worker;
    let killed = scene.daemon.signal(Signal::SIGKILL)?;
    scene.daemon.wait_end(SOON)?;
    let ours = worker.table_text()?.lines().filter(|line| line.contains("proto 117")).count();
    let cleaned = uplinkd(worker, &["cleanup"])?;
    assert_eq!(cleaned.code, Some(0), "{}", cleaned.said);
    assert!(cleaned.said.contains(&format!("removed {ours} routes, rules, ")), "{}", cleaned.said);
    assert_eq!(worker.table_text()?, scene.before);
    let alien = |change: &uplink_lab::Change| change.protocol().is_some_and(|protocol| protocol != 117);
    let others: Vec<_> = scene.changes.since(killed).into_iter().filter(|c| alien(&c.what)).collect();
    assert_eq!(others, []);
    let again = uplinkd(worker, &["cleanup"])?;
    assert!(again.said.contains("removed 0 "), "{}", again.said);
    assert_eq!(scene.lookups.report().failed, 0, "lookups failed");
    Ok(())
}

/// The kernel finds no such route when it is asked to delete it by its gateway and interface.
fn cleanup_in_vain() -> Outcome {
    let site = Site::new()?;
    let before = site.worker.table_text()?;
    for line in [
        "nexthop add id 4 via 10.0.120.1 dev port",
        "-4 route add default nhid 4 metric 50 proto 117",
        "-4 route add default via 10.0.10.1 metric 60 proto 117",
        "-6 route add default via fe80::1 dev mgmt metric 60 proto 117",
    ] {
        site.worker.ip(line)?;
    }
    let cleaned = uplinkd(&site.worker, &["cleanup"])?;
    assert_eq!(cleaned.code, Some(1), "{}", cleaned.said);
    assert!(cleaned.said.contains("something of ours stays: tried in vain to delete"), "{}", cleaned.said);
    site.worker.ip("nexthop delete id 4")?;
    assert_eq!(site.worker.table_text()?, before);
    Ok(())
}

fn unprivileged() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let before = site.worker.table_text()?;
    for (without, missing) in
        [("-net_admin", "CAP_NET_ADMIN is missing"), ("-net_raw", "CAP_NET_RAW is missing")]
    {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", without, "--inh-caps", without]);
        command.args([env!("CARGO_BIN_EXE_uplinkd"), "run"]);
        let ended = run(&site.worker, command)?;
        assert_eq!(ended.code, Some(1), "{}", ended.said);
        assert!(ended.said.contains(missing) && ended.said.contains("as root"), "{}", ended.said);
    }
    assert_eq!(site.worker.table_text()?, before);
    Ok(())
}

fn two_capabilities() -> Outcome {
    let unit = fs::read_to_string(Path::new(UNITS).join("uplinkd.service"))?;
    let granted = setting(&unit, "AmbientCapabilities")?.to_lowercase().replace("cap_", "+");
    let granted = format!("-all,{}", granted.split_whitespace().collect::<Vec<_>>().join(","));
    let arguments =
        ["--bounding-set", &granted, "--inh-caps", &granted, env!("CARGO_BIN_EXE_uplinkd"), "run"];
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let scene = Scene::of(site, Daemon::of("setpriv", &arguments), STEADY)?;
    scene.leads_to("port")?;
    scene.moves_to("mgmt", scene.site.port.cable.fault(&[Fault::Silent]), SOON)?;
    scene.finish()?;
    Ok(())
}

fn systemd_is_told() -> Outcome {
    const LIMIT: Duration = Duration::from_secs(1);
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let scene = Scene::of(site, daemon("").watchdog(LIMIT), STEADY)?;
    let status = |what: &'static str, since| {
        let is_it = |note: &str| note.starts_with("STATUS=") && note.contains(what);
        scene.daemon.wait_for_note(what, since, SOON, is_it)
    };
    status("ipv4 via dpu-0000:03:00.0 (up), ipv6 via dpu-0000:03:00.0 (up)", Instant::BOOT)?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    status("ipv4 via mgmt (fallback: dpu-0000:03:00.0 down, gateway)", fault)?;
    scene.moves_to("mgmt", fault, SOON)?;
    pass(2 * LIMIT);
    let notes = scene.daemon.notes();
    let moments = |wanted: &str| -> Vec<Instant> {
        notes.iter().filter(|note| note.what == wanted).map(|note| note.at).collect()
    };
    assert_eq!(moments("READY=1").len(), 1, "{notes:?}");
    let alive = moments("WATCHDOG=1");
    assert!(alive.len() >= 4, "{notes:?}");
    for (before, after) in alive.iter().zip(alive.iter().skip(1)) {
        // A quarter of the limit is left for the machine, which may be busy.
        assert!(after.since(*before) <= LIMIT / 2 + LIMIT / 4, "not fed from {before} to {after}");
    }
    scene.finish()?;
    Ok(())
}

fn stuck_journal() -> Outcome {
    // Standard error is a pipe here; this names it as systemd names the journal's stream.
    const SCRIPT: &str =
        "JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); export JOURNAL_STREAM; exec \"$0\" run";
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let journal = full_journal(&site.worker)?;
    let daemon = Daemon::of("sh", &["-ec", SCRIPT, env!("CARGO_BIN_EXE_uplinkd")]);
    let scene = Scene::of(site, daemon, STEADY)?;
    scene.leads_to("port")?;
    scene.fail_over()?;
    assert!(told(&journal)?.iter().all(String::is_empty), "it was full");
    scene.site.mgmt.cable.fault(&[Fault::Silent]);
    let said = RefCell::new(Vec::new());
    scene.until("the journal has a word on what it missed, and lines with fields", || {
        said.borrow_mut().extend(told(&journal)?);
        let one =
            |parts: &[&str]| said.borrow().iter().any(|entry| parts.iter().all(|part| entry.contains(part)));
        Ok(one(&["PRIORITY\n", "MESSAGE\n", "lines of this log are lost"])
            && one(&["NOTICE\n", "health", "UPLINK\n", "mgmt", "FAMILY\n", "ipv6", "AT_US\n"]))
    })?;
    assert_eq!(scene.daemon.log(), [], "nothing on standard error");
    scene.site.mgmt.cable.heal();
    scene.finish()?;
    Ok(())
}

/// A journal that reads nothing, and has as much as it holds.
fn full_journal(host: &Host) -> Result<UnixDatagram, Failed> {
    let path = host.path(JOURNAL);
    fs::create_dir_all(path.parent().ok_or("no folder")?)?;
    let journal = UnixDatagram::bind(&path)?;
    journal.set_nonblocking(true)?;
    let other = UnixDatagram::unbound()?;
    other.set_nonblocking(true)?;
    while other.send_to(b"", &path).is_ok() {}
    Ok(journal)
}

/// What was said to the journal so far.
fn told(journal: &UnixDatagram) -> Result<Vec<String>, Failed> {
    let mut entries = Vec::new();
    let mut buffer = [0; 65536];
    loop {
        match journal.recv(&mut buffer) {
            Ok(length) => entries.push(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(entries),
            Err(error) => return Err(error.into()),
        }
    }
}

fn units() -> Outcome {
    let host = Host::new("host")?;
    // The program is not installed where the tests run: its own path stands for the installed one.
    for (unit, key) in [("uplinkd.service", "ExecStart"), ("uplinkd-cleanup.service", "ExecStop")] {
        let text = fs::read_to_string(Path::new(UNITS).join(unit))?;
        let command = setting(&text, key)?;
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(arguments.remove(0), INSTALLED, "{unit}");
        arguments.push("--help");
        let help = uplinkd(&host, &arguments)?;
        assert_eq!(help.code, Some(0), "{command}: {}", help.said);
        host.write(&format!("/run/{unit}"), text.replace(INSTALLED, env!("CARGO_BIN_EXE_uplinkd")))?;
    }
    let wanted = "uplinkd-wanted.target";
    host.write(&format!("/run/{wanted}"), fs::read_to_string(Path::new(UNITS).join(wanted))?)?;
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "/run/uplinkd.service", "/run/uplinkd-cleanup.service"]);
    verify.arg(format!("/run/{wanted}"));
    let verified = run(&host, verify)?;
    let about_us: Vec<&str> = verified.said.lines().filter(|line| line.contains("uplinkd")).collect();
    assert_eq!((verified.code, about_us), (Some(0), Vec::new()), "{}", verified.said);
    for unit in ["/run/uplinkd.service", "/run/uplinkd-cleanup.service"] {
        let mut security = Command::new("systemd-analyze");
        security.args(["security", "--offline=true", EXPOSURE, unit]);
        let exposed = run(&host, security)?;
        assert_eq!(exposed.code, Some(0), "{unit}: {}", exposed.said);
    }
    Ok(())
}

fn unit_user() -> Outcome {
    for unit in ["uplinkd.service", "uplinkd-cleanup.service"] {
        let text = fs::read_to_string(Path::new(UNITS).join(unit))?;
        // It would put the runtime directory, which is to outlive a restart, where only root gets in.
        assert!(setting(&text, "DynamicUser").is_err(), "{unit}");
        assert_eq!((setting(&text, "User")?, setting(&text, "Group")?), ("uplinkd", "uplinkd"), "{unit}");
    }
    let host = Host::new("host")?;
    let mut command = Command::new("systemd-sysusers");
    // A root without users: the machine may have ours already.
    command.args(["--dry-run", "--root=/run", USER]);
    let made = run(&host, command)?;
    assert_eq!(made.code, Some(0), "{}", made.said);
    for part in ["group 'uplinkd'", "user 'uplinkd'"] {
        assert!(made.said.contains(part), "no {part} in\n{}", made.said);
    }
    Ok(())
}

fn varlink() -> Outcome {
    let scene = Scene::usual()?;
    let info = scene.daemon.call("org.varlink.service.GetInfo", &json!({}))?;
    assert_eq!(info["product"], "uplinkd");
    assert_eq!(info["interfaces"], json!(["io.uplinkd", "org.varlink.service"]));
    let ours = json!({ "interface": "io.uplinkd" });
    let described = scene.daemon.call("org.varlink.service.GetInterfaceDescription", &ours)?;
    let described = described["description"].as_str().unwrap_or_default();
    assert!(described.contains("method GetStatus() -> (status: Status)"), "{described}");
    let unknown = scene.daemon.call("io.uplinkd.SetStatus", &json!({}));
    let unknown = unknown.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(unknown.contains("org.varlink.service.MethodNotFound"), "{unknown}");

    let status = &scene.daemon.status()?["status"];
    for (index, gateway) in
        [scene.site.port.gateway4.to_string(), scene.site.port.gateway6.to_string()].iter().enumerate()
    {
        let family = &status["families"][index];
        assert_eq!(family["elected"], format!("dpu-{PCI}"), "{status:#}");
        assert_eq!(family["pin"]["gateway"], gateway.as_str(), "{status:#}");
        assert_eq!(family["pin"]["table"], 254, "{status:#}");
        let path = &status["uplinks"][0]["paths"][index];
        assert_eq!((&path["gateway"], &path["learned"]), (&json!(gateway), &json!("route")), "{status:#}");
    }
    let kinds: Vec<_> =
        status["changes"].as_array().into_iter().flatten().map(|change| change["kind"].clone()).collect();
    for kind in ["gateway", "health", "elected", "wrote", "ready"] {
        assert!(kinds.contains(&json!(kind)), "no {kind} in {status:#}");
    }
    scene.finish()?;
    Ok(())
}

fn uplinkctl_status() -> Outcome {
    let scene = Scene::usual()?;
    scene.moves_to("mgmt", scene.site.port.cable.fault(&[Fault::Silent]), SOON)?;
    scene.becomes("port", Family::Ipv4, "gateway")?;
    let shown = uplinkctl(&scene.site.worker, &["status"])?;
    assert_eq!(shown.code, Some(0), "{}", shown.said);
    for part in [
        "uplinkd steers\n",
        "ipv4  mgmt, for ",
        "the path before went down: gateway\n",
        "10.0.120.1 (default route)",
        "down (gateway)",
        "Last changes\n",
        "ipv4: elected dpu-0000:03:00.0 → mgmt",
        "delete ipv4 default via 10.0.120.1",
    ] {
        assert!(shown.said.contains(part), "no {part:?} in\n{}", shown.said);
    }
    let shown = uplinkctl(&scene.site.worker, &["status", "--json"])?;
    let status: serde_json::Value = serde_json::from_str(&shown.said)?;
    assert_eq!(status["families"][0]["elected"], "mgmt", "{status:#}");
    let shown = uplinkctl(&scene.site.worker, &["metrics"])?;
    for line in [
        "uplinkd_up{} 1.0\n",
        "uplinkd_pin{family=\"ipv4\"} 0.0\n",
        "uplinkd_path_rules{family=\"ipv4\",state=\"sources\"} 1.0\n",
        "uplinkd_family_up{family=\"ipv4\"} 1.0\n",
        "uplinkd_elected{uplink=\"mgmt\",family=\"ipv4\"} 1.0\n",
        "uplinkd_path_down{uplink=\"dpu-0000:03:00.0\",family=\"ipv4\",cause=\"gateway\"} 1.0\n",
    ] {
        assert!(shown.said.contains(line), "no {line:?} in\n{}", shown.said);
    }
    scene.finish()?;
    Ok(())
}

fn uplinkctl_alone() -> Outcome {
    let host = Host::new("host")?;
    let shown = uplinkctl(&host, &["status"])?;
    assert_eq!(shown.code, Some(1), "{}", shown.said);
    assert!(shown.said.contains("uplinkd is not running: nobody listens at"), "{}", shown.said);
    // The file that a collector reads is replaced, so nothing stays that was true before.
    let metrics = uplinkctl(&host, &["metrics"])?;
    assert_eq!(metrics.code, Some(0), "{}", metrics.said);
    assert!(metrics.said.ends_with("\nuplinkd_up{} 0.0\n# EOF\n"), "{}", metrics.said);
    Ok(())
}

fn bad_clients() -> Outcome {
    let scene = Scene::usual()?;
    let socket = scene.site.worker.path(SOCKET);
    let _clients = bad_company(&socket)?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    let moved = scene.moves_to("mgmt", fault, SOON)?;
    let sign = scene.site.port.cable.traffic(End::Worker).last.ok_or("nothing was ever heard")?;
    scene.daemon.status()?;
    // What a busy machine adds is not the clients' doing.
    let bound = PATIENCE + Duration::from_millis(200) + scene.finish()?.lateness.max;
    for after in moved.map(|moment| moment.since(sign)) {
        assert!(after <= bound, "moved {after:?} after the last sign of life, not within {bound:?}");
    }
    Ok(())
}

/// More clients than are served: some say nothing, some rubbish, some half a request, and some ask
/// until nothing more can be sent, and read nothing.
fn bad_company(socket: &PathBuf) -> Result<Vec<UnixStream>, Failed> {
    let large = vec![b' '; 100_000];
    let says: [&[u8]; 6] =
        [b"", b"GET / HTTP/1.1\r\n\r\n\0", b"{\"method\":", b"\0\0\0", b"[[[[[[\0", &large];
    let mut clients = Vec::new();
    for say in says.iter().cycle().take(36) {
        let mut client = UnixStream::connect(socket)?;
        client.set_nonblocking(true)?;
        // That the daemon closes, or takes no more, is its good right.
        let _ = client.write(say);
        clients.push(client);
    }
    for _ in 0..6 {
        let mut client = UnixStream::connect(socket)?;
        client.set_write_timeout(Some(Duration::from_millis(50)))?;
        while client.write_all(b"{\"method\":\"io.uplinkd.GetStatus\"}\0").is_ok() {}
        clients.push(client);
    }
    Ok(clients)
}

/// The value of a setting in a unit.
fn setting<'a>(unit: &'a str, key: &str) -> Result<&'a str, Failed> {
    let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    Ok(value.ok_or_else(|| format!("the unit has no {key}"))?)
}
