//! What an operator says, rightly or wrongly, and what the daemon makes of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use uplink_core::snapshot::Family;
use uplink_core::time::Instant;
use uplink_lab::{Changes, Daemon, Fault, Host, Site};

use crate::program::{Ended, uplinkctl, uplinkd};
use crate::scene::{END, Outcome, PATIENCE, PCI, SOON, STEADY, Scene, trial};

/// The configuration is wrong (`EX_CONFIG`, sysexits.h).
const EX_CONFIG: Option<i32> = Some(78);

/// Where the files that are checked stand on the host.
const FILE: &str = "/run/check.toml";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("check-config: a file in order is told so", in_order),
        trial("check-config: every mistake is shown with its place and a remedy", mistakes),
        trial("check-config: what is no configuration is told so", unreadable),
        trial("run with a wrong file: exit 78, no route is touched", run_with_mistake),
        trial("reload: patience and return_after are taken at once", reload),
        trial("reload: a wrong file leaves the configuration in force and is told", reload_mistake),
        trial("observe: nothing is written, what would be is told; steer by reload", observe),
        trial("from steer to observe, by reload or restart: nothing of ours stays", steer_to_observe),
        trial("run --dry-run: nothing is written, what would be is told", dry_run),
        trial("run --dry-run beside a daemon: neither its route nor its memory is touched", dry_run_beside),
    ]
}

fn in_order() -> Outcome {
    let host = Host::new("host")?;
    host.write(FILE, "mode = \"observe\"\n")?;
    let said = |arguments: &[&str]| -> Result<String, Failed> {
        let ended = uplinkd(&host, arguments)?;
        assert_eq!(ended.code, Some(0), "{}", ended.said);
        Ok(ended.said)
    };
    fs::set_permissions(host.path(FILE), Permissions::from_mode(0o644))?;
    assert_eq!(said(&["check-config", FILE])?, format!("{FILE} is in order\n"));
    // As root writes it who hides what he writes: the daemon is not root.
    fs::set_permissions(host.path(FILE), Permissions::from_mode(0o600))?;
    let hidden = said(&["check-config", FILE])?;
    for part in ["WARN", "not everybody may read", "chmod a+r", "is in order"] {
        assert!(hidden.contains(part), "no {part:?} in\n{hidden}");
    }
    let none = said(&["check-config"])?;
    assert_eq!(none, "there is no /etc/uplinkd/uplinkd.toml: the defaults hold\n");
    Ok(())
}

fn mistakes() -> Outcome {
    const DPU: &str = "[[uplink]]\nname = \"dpu\"\nmatch = { pci = \"0000:03:00.0\" }\n";
    // What follows DPU or stands alone; what is said; where; what is underlined; what to do.
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str, &str, &str, &str)] = &[
        ("", "patience = 1s", "string values must be quoted", "1:12", "^^", "correct the TOML"),
        ("", "mode = \"steer\"\nmode = \"steer\"", "duplicate key", "2:1", "^^^^", "correct the TOML"),
        ("", "patince = \"1s\"", "unknown key `patince`", "1:1", "^^^^^^^", "the keys here are `mode`, `patience`"),
        (DPU, "teir = 1", "unknown key `teir`", "4:1", "^^^^", "`tier`"),
        ("", "mode = \"stear\"", "`mode` cannot be \"stear\"", "1:8", "^^^^^^^", "\"steer\", \"observe\""),
        ("", "preempt = true", "`preempt` must be text", "1:11", "^^^^", "\"always\", \"boot\", \"never\""),
        ("", "placement = \"tabel\"", "`placement` cannot be", "1:13", "^^^^^^^", "\"auto\", \"main\", \"table\""),
        ("", "patience = \"1 s\"", "this is not a time", "1:12", "^^^^^", "\"1s\" or \"300ms\""),
        ("", "patience = \"100ms\"", "`patience` is out of bounds", "1:12", "^^^^^^^", "\"200ms\" to \"60s\""),
        ("", "return_after = \"2h\"", "`return_after` is out of bounds", "1:16", "^^^^", "\"0s\" to \"1h\""),
        ("", "boot_wait = \"61m\"", "`boot_wait` is out of bounds", "1:13", "^^^^^", "\"0s\" to \"1h\""),
        ("", "[[uplink]]\nname = \"dpu\"", "`match` is missing", "1:1", "^^^^^^^^^^", "add `match"),
        ("", "[[uplink]]\nmatch = { mac = \"x\" }", "`name` is missing", "1:1", "^^^^^^^^^^", "add `name"),
        ("", "[[uplink]]\nname = \"\"", "a name has 1 to 64", "2:8", "^^", "short name"),
        ("", "[[uplink]]\nname = \"a\"\nmatch = {}", "nothing is said here", "3:9", "^^", "interface = "),
        ("", "[[uplink]]\nname = \"a\"\nmatch = { pci = \"3\" }", "is not a PCI address", "3:17", "^^^", "lspci"),
        ("", "[[uplink]]\nname = \"a\"\nmatch = { mac = \"3\" }", "is not an Ethernet address", "3:17", "^^^", "ip link"),
        ("", "[[uplink]]\nname = \"a\"\nmatch = { interface = \"a/b\" }", "no interface can have this name", "3:23", "^^^^^", "`*` stands for"),
        (DPU, "tier = 0", "`tier` is out of bounds", "4:8", "^", "from 1 to 1000"),
        (DPU, "gateway = [\"10.0.0.1/24\"]", "not an IP address", "4:12", "^^^^^^^^^^^^^", "\"10.0.120.1\""),
        (DPU, "gateway = [\"10.0.0.1\", \"10.0.0.2\"]", "has an ipv4 gateway already", "4:24", "^^^^^^^^^^", "one gateway per family"),
        (DPU, "targets = [{ icmp = \"127.0.0.1\" }]", "not the address of another machine", "4:21", "^^^^^^^^^^^", "unicast"),
        (DPU, "targets = [{ tcp = \"10.0.0.1\" }]", "not an IP address with a port", "4:20", "^^^^^^^^^^", "10.0.0.10:6443"),
        (DPU, "targets = [{ udp = \"10.0.0.1:1\" }]", "unknown key `udp`", "4:14", "^^^", "`icmp` and `tcp`"),
        (DPU, "need = 1", "no targets that could answer", "4:8", "^", "add targets"),
        (DPU, "interval = \"1ms\"", "`interval` is out of bounds", "4:12", "^^^^^", "\"1s\" to \"1h\""),
        (DPU, DPU, "there is an uplink named \"dpu\" already", "5:8", "^^^^^", "name of its own"),
    ];
    let host = Host::new("host")?;
    for (head, line, message, place, carets, remedy) in cases {
        let text = format!("{head}{line}\n");
        let ended = check(&host, text.as_bytes())?;
        let said = &ended.said;
        assert_eq!(ended.code, EX_CONFIG, "{text}\nsaid:\n{said}");
        let (place, carets) = (format!("--> {FILE}:{place}\n"), format!(" {carets}\n"));
        for part in [*message, &place, &carets, "= help: ", remedy] {
            assert!(said.contains(part), "{text}\nsaid:\n{said}\nwanted: {part}");
        }
    }
    Ok(())
}

fn unreadable() -> Outcome {
    let host = Host::new("host")?;
    let ended = uplinkd(&host, &["check-config", "/run/missing.toml"])?;
    assert_eq!(ended.code, EX_CONFIG, "{}", ended.said);
    assert!(ended.said.contains("failed to read /run/missing.toml: No such file"), "{}", ended.said);
    assert_eq!(ended.said.matches("No such file").count(), 1, "{}", ended.said);
    for (bytes, said) in [
        (vec![b'#'; 1024 * 1024 + 1], "larger than 1 MiB"),
        (b"mode = \"\xff\"".to_vec(), "this is not UTF-8 text"),
    ] {
        let ended = check(&host, &bytes)?;
        assert_eq!(ended.code, EX_CONFIG, "{}", ended.said);
        assert!(ended.said.contains(said) && ended.said.contains("help: "), "{}", ended.said);
    }
    Ok(())
}

fn run_with_mistake() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let before = site.worker.table_text()?;
    let changes = Changes::start(&site.worker)?;
    site.worker.write(FILE, "mode = \"stear\"\n")?;
    let ended = uplinkd(&site.worker, &["run", "--config", FILE])?;
    assert_eq!(ended.code, EX_CONFIG, "{}", ended.said);
    assert!(ended.said.contains(&format!("--> {FILE}:1:8")), "{}", ended.said);
    assert_eq!(changes.of_protocol(117, Instant::BOOT), 0);
    assert_eq!(site.worker.table_text()?, before);
    Ok(())
}

fn reload() -> Outcome {
    let scene = Scene::configured("patience = \"30s\"\nreturn_after = \"1h\"")?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    scene.stays(2 * PATIENCE)?;
    scene.daemon.reload("patience = \"200ms\"\nreturn_after = \"1h\"")?;
    scene.moves_to("mgmt", fault, SOON)?;
    scene.site.port.cable.heal();
    scene.stays(PATIENCE)?;
    let reloaded = scene.daemon.reload("patience = \"200ms\"\nreturn_after = \"500ms\"")?;
    scene.moves_to("port", reloaded, SOON)?;
    scene.finish()?;
    Ok(())
}

fn reload_mistake() -> Outcome {
    let scene = Scene::configured("patience = \"500ms\"")?;
    let reloaded = scene.daemon.reload("patience = \"60s\"\nmode = \"stear\"")?;
    scene.daemon.wait_for_log("a word on the file", reloaded, SOON, |line| {
        line.contains("the configuration stays as it was") && line.contains("`mode` cannot be \"stear\"")
    })?;
    scene.daemon.wait_for_log("its place", reloaded, SOON, |line| line.contains(".toml:2:8"))?;
    let shown = |so: bool| {
        scene.until(&format!("a mistake is shown: {so}"), || {
            let [status, metrics] = ["status", "metrics"].map(|what| uplinkctl(&scene.site.worker, &[what]));
            let mistake = status?.said.lines().any(|line| {
                line.starts_with("the configuration that was read last is refused")
                    && line.ends_with(".toml:2:8")
            });
            let metric = format!("uplinkd_misconfigured{{}} {}.0\n", u8::from(so));
            Ok(mistake == so && metrics?.said.contains(&metric))
        })
    };
    shown(true)?;
    scene.daemon.reload("patience = \"500ms\"")?;
    shown(false)?;
    scene.moves_to("mgmt", scene.site.port.cable.fault(&[Fault::Silent]), SOON)?;
    scene.finish()?;
    Ok(())
}

fn observe() -> Outcome {
    const TARGETS: &str = "[[uplink]]\nname = \"dpu\"\nmatch = { interface = \"port\" }\n\
        targets = [{ icmp = \"203.0.113.9\" }, { icmp = \"2001:db8:9::9\" }]";
    let site = Site::new()?;
    let scene = Scene::begin(site, &format!("mode = \"observe\"\nboot_wait = \"1s\"\n{TARGETS}"))?;
    told_and_not_written(&scene)?;
    scene.daemon.reload(&format!("mode = \"steer\"\n{TARGETS}"))?;
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

fn steer_to_observe() -> Outcome {
    const STEER: &str = "placement = \"table\"";
    const OBSERVE: &str = "mode = \"observe\"";
    let mut scene = Scene::configured(STEER)?;
    scene.daemon.reload(OBSERVE)?;
    scene.leads_to("mgmt")?;
    scene.daemon.reload(STEER)?;
    scene.leads_to("port")?;
    scene.daemon.signal(Signal::SIGUSR2)?;
    scene.daemon.wait_end(SOON)?;
    scene.leads_to("port")?;
    scene.start_again(OBSERVE)?;
    scene.leads_to("mgmt")?;
    let observing = scene.changes.caught_up()?;
    scene.stays(PATIENCE)?;
    assert_eq!(scene.writes(observing)?, []);
    scene.finish()?;
    Ok(())
}

fn dry_run() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let daemon = Daemon::of(env!("CARGO_BIN_EXE_uplinkd"), &["run", "--dry-run"]);
    let scene = Scene::of(site, daemon, STEADY)?;
    told_and_not_written(&scene)?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    for family in Family::ALL {
        scene.daemon.wait_for_log("another decision", fault, SOON, |line| {
            line.contains(&format!("{family}: elected")) && line.contains("→ mgmt")
        })?;
    }
    assert_eq!(scene.writes(Instant::BOOT)?, []);
    scene.finish()?;
    Ok(())
}

fn dry_run_beside() -> Outcome {
    let scene = Scene::usual()?;
    let worker = &scene.site.worker;
    let memory = || fs::metadata(worker.path("/run/uplinkd/memory.json")).map(|file| file.ino());
    // It answers when it has done all that belongs to the decision, its memory included.
    scene.daemon.status()?;
    // What it learns meanwhile it would remember.
    let since = scene.daemon.signal(Signal::SIGSTOP)?;
    let left = memory()?;
    let mut beside = Daemon::of(env!("CARGO_BIN_EXE_uplinkd"), &["run", "--dry-run"]).start(worker)?;
    beside.wait_ready(SOON)?;
    beside.stop(END)?;
    assert_eq!(memory()?, left);
    assert_eq!(scene.writes(since)?, []);
    scene.daemon.signal(Signal::SIGCONT)?;
    scene.daemon.status()?;
    scene.finish()?;
    Ok(())
}

/// What would be written to lead to the port is told, nothing is written, and the kernel leads to
/// management as it did.
fn told_and_not_written(scene: &Scene) -> Outcome {
    for family in Family::ALL {
        let would = format!("would add {family} default via ");
        scene.daemon.wait_for_log("what would be written", Instant::BOOT, SOON, |line| {
            line.contains(&would) && line.contains("metric 99")
        })?;
    }
    scene.leads_to("mgmt")?;
    assert_eq!(scene.writes(Instant::BOOT)?, []);
    Ok(())
}

/// What is said to these bytes as a configuration.
fn check(host: &Host, bytes: &[u8]) -> Result<Ended, Failed> {
    host.write(FILE, bytes)?;
    uplinkd(host, &["check-config", FILE])
}
