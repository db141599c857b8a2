//! Beginnings and ends: clean stops, crashes, restarts, a second instance.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use uplink_core::snapshot::{Family, TABLE_MAIN, protocol};
use uplink_core::time::Instant;
use uplink_lab::{Change, Daemon, Fault, Site, now, pass};

use crate::program::uplinkd;
use crate::scene::{END, Outcome, PATIENCE, PCI, SOON, Scene, daemon, trial};

/// Where one process leaves its memory for the next.
const MEMORY: &str = "/run/uplinkd/memory.json";
/// Where its clients connect.
const SOCKET: &str = "/run/uplinkd/io.uplinkd";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("stopped with a pin: no trace", stopped_with_pin),
        trial(
            "stopped with a route of ours that cannot be deleted: ends, and says so",
            stopped_with_undeletable,
        ),
        trial("stopped in an outage with a pin to management: no trace", stopped_in_outage),
        trial("stopped in placement table: no trace", stopped_in_table),
        trial("stopped while standing aside: no trace, and nothing was written", stopped_aside),
        trial("stopped before its first decision: no trace of the process before", stopped_at_the_beginning),
        trial("killed: the host goes on routing, the next start writes nothing", || died(Signal::SIGKILL)),
        trial("aborted: the host goes on routing, the next start writes nothing", || died(Signal::SIGABRT)),
        trial("out of memory: the host goes on routing, the next start writes nothing", out_of_memory),
        trial("killed fifteen times while writing: no lookup fails, no trace in the end", killed_often),
        trial("killed in the midst of moves: the next process completes them", killed_while_moving),
        trial("restarted, also by another program file: no packet lost, no route written", restarted),
        trial("restarted in the second outage: stays on management, the wait stays doubled", damped),
        trial("stopped, and started while the port is silent: no move to it", started_while_silent),
        trial("killed before it remembered a move: the kernel's table counts", forgetful),
        trial("memory damaged, older, of another version: it says so and keeps the pin", other_memory),
        trial("restarted where there is no room for files: it begins, says so and keeps the pin", no_room),
        trial("a second instance is refused, the first goes on", second_instance),
    ]
}

fn stopped_with_pin() -> Outcome {
    let scene = Scene::usual()?;
    for family in Family::ALL {
        assert_eq!(scene.pins(family)?.len(), 1, "{family} pins");
    }
    let ending = scene.finish()?;
    assert!(ending.streams.iter().all(|stream| stream.lost == 0), "packets were lost: {ending:?}");
    Ok(())
}

/// The kernel finds no such route when it is asked to delete it by its gateway and interface.
fn stopped_with_undeletable() -> Outcome {
    let mut scene = Scene::usual()?;
    let since = now();
    scene.write(&[
        "nexthop add id 4 via 10.0.120.1 dev port",
        "route add 0.0.0.0/0 nhid 4 metric 300 proto 117",
    ])?;
    scene.stays(Duration::from_millis(300))?;
    scene.daemon.stop(END)?;
    scene.daemon.wait_for_log("what stays", since, SOON, |line| line.contains("something of ours stays"))?;
    Ok(())
}

fn stopped_in_outage() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    site.lay_default(&site.port, "port", 100)?;
    site.lay_default(&site.mgmt, "mgmt", 200)?;
    let scene = Scene::begin(site, "")?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    scene.moves_to("mgmt", fault, SOON)?;
    for family in Family::ALL {
        assert_eq!(scene.pins(family)?.len(), 1, "{family} pins");
    }
    scene.finish()?;
    Ok(())
}

fn stopped_in_table() -> Outcome {
    let scene = Scene::configured("placement = \"table\"")?;
    for family in Family::ALL {
        let pins = scene.pins(family)?;
        assert!(pins.iter().all(|pin| pin.table != TABLE_MAIN), "{family}: {pins:?}");
    }
    scene.finish()?;
    Ok(())
}

fn stopped_aside() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let (port, mgmt) = (&site.port, &site.mgmt);
    for (family, port, mgmt) in [
        ("-4", port.gateway4.to_string(), mgmt.gateway4.to_string()),
        ("-6", port.gateway6.to_string(), mgmt.gateway6.to_string()),
    ] {
        site.worker.ip(&format!(
            "{family} route add default metric 50 \
             nexthop via {port} dev port nexthop via {mgmt} dev mgmt"
        ))?;
    }
    let scene = Scene::begin(site, "")?;
    scene.daemon.wait_for_note("that it stands aside", Instant::BOOT, SOON, |note| {
        note.matches("standing aside: the best default route is multipath").count() == 2
    })?;
    assert_eq!(scene.pin_writes(Instant::BOOT)?, []);
    scene.finish()?;
    Ok(())
}

/// It begins with so many leases to read that it can be stopped while it does.
fn stopped_at_the_beginning() -> Outcome {
    let mut scene = Scene::usual()?;
    end(&mut scene, Signal::SIGUSR2)?;
    let log = "lease { option domain-search \"a\", \"b\", \"c\"; }\n".repeat(5_000);
    for number in 0..40 {
        scene.site.worker.write(&format!("/var/lib/dhcp/dhclient.{number}.leases"), &log)?;
    }
    scene.daemon = daemon("").start(&scene.site.worker)?;
    scene.daemon.wait_for_note("its beginning", Instant::BOOT, SOON, |note| {
        note.contains("waiting for the first decision")
    })?;
    scene.finish()?;
    Ok(())
}

fn died(signal: Signal) -> Outcome {
    let mut scene = Scene::usual()?;
    let died = end(&mut scene, signal)?;
    taken_over(scene, died)
}

/// The kernel gives it no more memory, and clients want some.
fn out_of_memory() -> Outcome {
    let mut scene = Scene::usual()?;
    let (since, pid) = (now(), scene.daemon.pid().to_string());
    scene.site.worker.command("prlimit", &["--pid", &pid, "--as=4096"])?;
    // Each keeps as much of a request as it may have; those that come too late find nobody.
    let socket = scene.site.worker.path(SOCKET);
    let clients: Vec<UnixStream> = (0..16).flat_map(|_| UnixStream::connect(&socket)).collect();
    for mut client in &clients {
        let _ = client.write_all(&[b'x'; 60_000]);
    }
    let status = scene.daemon.wait_end(END)?;
    // It aborts; where its stack is short, the kernel does it.
    assert!(status.signal().is_some(), "{status}");
    taken_over(scene, since)
}

/// The process died at this moment: nobody notices, and the next one has nothing to write.
fn taken_over(mut scene: Scene, since: Instant) -> Outcome {
    scene.stays(Duration::from_millis(500))?;
    scene.start_again("")?;
    scene.stays(PATIENCE + PATIENCE / 2)?;
    assert_eq!(scene.writes(since)?, [], "the pin was to be taken over");
    let ending = scene.finish()?;
    assert!(ending.streams.iter().all(|stream| stream.lost == 0), "packets were lost: {ending:?}");
    Ok(())
}

fn killed_often() -> Outcome {
    const PLACES: [&str; 2] = ["placement = \"main\"", "placement = \"table\""];
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let mut scene = Scene::paced(site, PLACES[0], Duration::from_micros(500))?;
    scene.leads_to("port")?;
    end(&mut scene, Signal::SIGKILL)?;
    // Each process finds the pin in the other place and moves it there: a row of operations, which
    // is cut off at another point each time.
    for round in 1..=15 {
        let since = now();
        scene.daemon = daemon(PLACES[round % 2]).start(&scene.site.worker)?;
        kill_in_the_act(&mut scene, since, round)?;
    }
    scene.start_again(PLACES[0])?;
    scene.leads_to("port")?;
    let ending = scene.finish()?;
    assert!(ending.streams.iter().all(|stream| stream.lost == 0), "packets were lost: {ending:?}");
    Ok(())
}

fn killed_while_moving() -> Outcome {
    const TOML: &str = "patience = \"200ms\"\nreturn_after = \"0s\"\nplacement = \"table\"";
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let mut scene = Scene::paced(site, TOML, Duration::from_micros(500))?;
    scene.leads_to("port")?;
    for round in 0..3 {
        let fault = scene.site.port.cable.fault(&[Fault::Silent]);
        kill_in_the_act(&mut scene, fault, 2 * round)?;
        scene.start_again(TOML)?;
        scene.leads_to("mgmt")?;
        let healed = scene.site.port.cable.heal();
        kill_in_the_act(&mut scene, healed, 2 * round + 1)?;
        scene.start_again(TOML)?;
        scene.leads_to("port")?;
    }
    scene.finish()?;
    Ok(())
}

/// Kills the daemon at or after the first route or rule that it writes, each round at another point
/// of what it does then.
fn kill_in_the_act(scene: &mut Scene, since: Instant, round: usize) -> Outcome {
    let ours = |change: &Change| change.protocol() == Some(protocol::UPLINKD);
    scene.changes.wait_for("a route of ours", since, SOON, ours)?;
    pass(Duration::from_micros([0, 30, 80, 150, 300, 600, 1000][round % 7]));
    end(scene, Signal::SIGKILL)?;
    Ok(())
}

/// A package upgrade puts another file in the place of the program's, and then restarts it.
fn restarted() -> Outcome {
    let mut scene = Scene::usual()?;
    let restart = end(&mut scene, Signal::SIGUSR2)?;
    scene.start_again("")?;
    for family in Family::ALL {
        scene.becomes("port", family, "up")?;
    }
    end(&mut scene, Signal::SIGUSR2)?;
    let program = scene.site.worker.path("/run/uplinkd-upgraded");
    std::fs::copy(env!("CARGO_BIN_EXE_uplinkd"), &program)?;
    scene.daemon = Daemon::of("/run/uplinkd-upgraded", &["run"]).start(&scene.site.worker)?;
    scene.daemon.wait_ready(SOON)?;
    scene.stays(PATIENCE)?;
    assert_eq!(scene.writes(restart)?, []);
    let ending = scene.finish()?;
    assert!(ending.streams.iter().all(|stream| stream.lost == 0), "packets were lost: {ending:?}");
    Ok(())
}

fn damped() -> Outcome {
    const TOML: &str = "patience = \"400ms\"\nreturn_after = \"1s\"";
    let mut scene = Scene::configured(TOML)?;
    let port = &scene.site.port.cable;
    scene.moves_to("mgmt", port.fault(&[Fault::Silent]), SOON)?;
    scene.moves_to("port", port.heal(), SOON)?;
    scene.moves_to("mgmt", port.fault(&[Fault::Silent]), SOON)?;
    end(&mut scene, Signal::SIGUSR2)?;
    scene.start_again(TOML)?;
    scene.stays(Duration::from_millis(800))?;
    let healed = scene.site.port.cable.heal();
    for back in scene.moves_to("port", healed, SOON)? {
        let after = back.since(healed);
        assert!(after >= Duration::from_secs(2), "it came back {after:?} after the second outage");
    }
    scene.finish()?;
    Ok(())
}

fn started_while_silent() -> Outcome {
    let mut scene = Scene::usual()?;
    scene.daemon.stop(END)?;
    scene.leads_to("mgmt")?;
    scene.site.port.cable.fault(&[Fault::Silent]);
    let since = scene.changes.caught_up()?;
    // After a stop it begins as after boot: it waits for the port.
    scene.start_again("boot_wait = \"2s\"")?;
    scene.stays(2 * PATIENCE)?;
    assert_eq!(scene.pin_writes(since)?, []);
    scene.finish()?;
    Ok(())
}

fn forgetful() -> Outcome {
    let mut scene = Scene::usual()?;
    // It answers when it has done all that belongs to the decision, its memory included.
    scene.daemon.status()?;
    let memory = std::fs::read(scene.site.worker.path(MEMORY))?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    scene.moves_to("mgmt", fault, SOON)?;
    let since = end(&mut scene, Signal::SIGKILL)?;
    scene.site.worker.write(MEMORY, memory)?;
    scene.start_again("")?;
    scene.stays(2 * PATIENCE)?;
    assert_eq!(scene.writes(since)?, []);
    scene.finish()?;
    Ok(())
}

fn other_memory() -> Outcome {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let of = |ready: &str, paths: &str| {
        format!(r#"{{"version":99,"boot_id":"{}","ready":{ready},"paths":{paths}}}"#, boot.trim())
    };
    let mut scene = Scene::usual()?;
    let since = now();
    let nothing = "beginning without memory";
    for (memory, told) in [
        // Cut off, overwritten, of no version that there ever was.
        ("{\"boot_id\": \"".to_owned(), Some(nothing)),
        ("\0".repeat(400), Some(nothing)),
        (of("\"yes\"", "[]"), Some(nothing)),
        // Older, and newer.
        (of("true", "[]"), None),
        (of("true", r#"[{"uplink":"port","family":"ipv4","falls":"none"}]"#), Some("a path of port")),
    ] {
        end(&mut scene, Signal::SIGUSR2)?;
        scene.site.worker.write(MEMORY, &memory)?;
        scene.start_again("")?;
        if let Some(told) = told {
            let started = scene.daemon.started();
            scene
                .daemon
                .wait_for_log(told, started, SOON, |line| line.contains(MEMORY) && line.contains(told))?;
        }
        for family in Family::ALL {
            scene.becomes("port", family, "up")?;
        }
    }
    assert_eq!(scene.writes(since)?, [], "the pin was to be taken over");
    let ending = scene.finish()?;
    assert!(ending.streams.iter().all(|stream| stream.lost == 0), "packets were lost: {ending:?}");
    Ok(())
}

fn no_room() -> Outcome {
    let mut scene = Scene::usual()?;
    let since = end(&mut scene, Signal::SIGUSR2)?;
    let worker = &scene.site.worker;
    worker.command("mount", &["-t", "tmpfs", "-o", "size=4k", "tmpfs", "/run/uplinkd"])?;
    worker.write("/run/uplinkd/of-others", [0; 4096])?;
    scene.start_again("")?;
    let started = scene.daemon.started();
    let told = "a restart will begin without memory";
    scene.daemon.wait_for_log(told, started, SOON, |line| line.contains(MEMORY) && line.contains(told))?;
    for family in Family::ALL {
        scene.becomes("port", family, "up")?;
    }
    let second = uplinkd(&scene.site.worker, &["run"])?;
    assert!(second.said.contains("another uplinkd is running:"), "{}", second.said);
    assert_eq!(scene.writes(since)?, [], "the pin was to be taken over");
    let ending = scene.finish()?;
    assert!(ending.streams.iter().all(|stream| stream.lost == 0), "packets were lost: {ending:?}");
    Ok(())
}

fn second_instance() -> Outcome {
    let scene = Scene::usual()?;
    // The last that it has to say for now.
    let written = |line: &str| line.contains("add ipv6 rule 32201: from fd00:10::2");
    scene.daemon.wait_for_log("the last rule", scene.daemon.started(), SOON, written)?;
    let (since, lines) = (now(), scene.daemon.log().len());
    let second = uplinkd(&scene.site.worker, &["run"])?;
    assert_eq!(second.code, Some(1), "{}", second.said);
    let first = format!("another uplinkd is running as process {}:", scene.daemon.pid());
    assert!(second.said.contains(&first) && second.said.contains("stop it first"), "{}", second.said);
    // What is removed beside a daemon would be back at once.
    let cleaned = uplinkd(&scene.site.worker, &["cleanup"])?;
    assert_eq!(cleaned.code, Some(1), "{}", cleaned.said);
    assert!(cleaned.said.contains(&first) && cleaned.said.contains("stop it first"), "{}", cleaned.said);
    assert_eq!(scene.writes(since)?, []);
    assert_eq!(scene.daemon.log().len(), lines, "the first noticed: {:?}", scene.daemon.log());
    scene.daemon.status()?;
    scene.moves_to("mgmt", scene.site.port.cable.fault(&[Fault::Silent]), SOON)?;
    scene.finish()?;
    Ok(())
}

/// Ends the daemon, and gives the moment right before.
pub(crate) fn end(scene: &mut Scene, signal: Signal) -> Result<Instant, Failed> {
    let moment = scene.daemon.signal(signal)?;
    scene.daemon.wait_end(END)?;
    Ok(moment)
}
