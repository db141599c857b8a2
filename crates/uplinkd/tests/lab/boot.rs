//! The first decision, READY, and what may be taken after it.

use std::net::IpAddr;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::Family;
use uplink_core::time::Instant;
use uplink_lab::{End, Fault, Host, Site, now, pass, sleep_until};

use crate::scene::{self, END, INTERNET, Outcome, PATIENCE, PCI, PROMPT, SOON, Scene, trial};

/// What the port without configuration is called.
const DPU: &str = "dpu-0000:03:00.0";
/// The default `boot_wait`.
const BOOT_WAIT: Duration = Duration::from_secs(30);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("DHCP on the port 20 s after boot: READY is told with the port", dhcp_in_time),
        trial("DHCP on the port 35 s after boot: READY without it at 30 s, taken then", dhcp_late),
        trial("carrier of the port comes after boot: READY is told with the port", carrier_in_time),
        trial("no default route at start: READY after boot_wait, each is used as it comes", no_default_route),
        trial("both gateways silent at boot: READY after boot_wait, nothing written", both_silent),
        trial("preempt = always: a port that answers after READY is taken", || {
            answers_after_ready("always", "port")
        }),
        trial("preempt = boot: a port that answers after READY is not taken", || {
            answers_after_ready("boot", "mgmt")
        }),
        trial("preempt = never: the port is elected at boot, and not taken again once left", || {
            not_again("never")
        }),
        trial("preempt = boot: the port is elected at boot, and not taken again once left", || {
            not_again("boot")
        }),
    ]
}

fn dhcp_in_time() -> Outcome {
    let (scene, leased) = dhcp_after(Duration::from_secs(20))?;
    let ready = scene.daemon.wait_ready(BOOT_WAIT)?;
    assert!(ready > leased && ready < leased + PROMPT, "READY {:?} after the lease", ready.since(leased));
    scene.leads_to("port")?;
    scene.stays(2 * PATIENCE)?;
    scene.finish_changed()?;
    Ok(())
}

fn dhcp_late() -> Outcome {
    let (scene, leased) = dhcp_after(Duration::from_secs(35))?;
    let ready = scene.daemon.wait_ready(SOON)?.since(scene.daemon.started());
    if ready < BOOT_WAIT || ready >= BOOT_WAIT + PROMPT {
        return Err(scene.explain(&format!("READY after {ready:?}")));
    }
    for moment in scene.moves_to("port", leased, SOON)? {
        assert!(moment >= leased + PATIENCE, "taken {:?} after the lease", moment.since(leased));
    }
    scene.finish_changed()?;
    Ok(())
}

fn carrier_in_time() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    site.port.cable.carrier(End::Worker, false)?;
    let scene = Scene::booting(site, "")?;
    let known = |line: &str| line.contains(DPU);
    scene.daemon.wait_for_log("word of the port", scene.daemon.started(), SOON, known)?;
    scene.stays(2 * PATIENCE)?;
    scene.becomes(DPU, Family::Ipv4, "link")?;
    let carried = scene.site.port.cable.carrier(End::Worker, true)?;
    let ready = scene.daemon.wait_ready(SOON)?;
    assert!(ready > carried, "READY without the port");
    scene.leads_to("port")?;
    scene.finish_changed()?;
    Ok(())
}

/// The port has a carrier and nothing else until so long after the daemon's start; until then
/// management keeps the default route.
fn dhcp_after(wait: Duration) -> Result<(Scene, Instant), Failed> {
    let site = Site::builder().without_port().build()?;
    site.worker.give_pci("port", PCI)?;
    site.plug(&site.port)?;
    let scene = Scene::booting(site, "")?;
    sleep_until(scene.daemon.started() + wait);
    scene.leads_to("mgmt")?;
    assert_eq!(scene.pin_writes(scene.daemon.started())?, []);
    let leased = now();
    scene.site.lay_addresses(&scene.site.port, "port")?;
    scene.site.lay_default(&scene.site.port, "port", scene.site.port.metric)?;
    Ok((scene, leased))
}

pub(crate) fn no_default_route() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    let mut daemon = scene::daemon("boot_wait = \"1s\"").start(&site.worker)?;
    let ready = daemon.wait_ready(SOON)?.since(daemon.started());
    assert!(ready >= Duration::from_secs(1), "READY after {ready:?}");

    site.lay_default(&site.mgmt, "mgmt", site.mgmt.metric)?;
    elects(&daemon, "mgmt")?;
    site.lay_default(&site.port, "port", site.port.metric)?;
    let before = scene::foreign(&site.worker)?;
    elects(&daemon, DPU)?;
    for address in INTERNET {
        leads(&site.worker, address, "port")?;
    }
    daemon.stop(END)?;
    assert_eq!(site.worker.table_text()?, before);
    Ok(())
}

/// Waits until the status says that both families have elected this uplink.
fn elects(daemon: &uplink_lab::Daemon, uplink: &str) -> Outcome {
    let end = now() + SOON;
    loop {
        let status = daemon.status()?;
        let families = status["status"]["families"].as_array().into_iter().flatten();
        if families.filter(|family| family["elected"] == uplink).count() == Family::ALL.len() {
            return Ok(());
        }
        if now() >= end {
            return Err(format!("{uplink} is not elected: {status}").into());
        }
        pass(Duration::from_millis(5));
    }
}

/// Waits until a lookup is answered with this interface.
fn leads(worker: &Host, address: IpAddr, interface: &str) -> Outcome {
    let end = now() + SOON;
    while worker.lookup(address)?.interface.as_deref() != Some(interface) {
        if now() >= end {
            return Err(format!("{address} does not lead to {interface}").into());
        }
        pass(Duration::from_millis(5));
    }
    Ok(())
}

fn both_silent() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    site.port.cable.fault(&[Fault::Silent]);
    site.mgmt.cable.fault(&[Fault::Silent]);
    let scene = Scene::begin(site, "boot_wait = \"3s\"")?;
    let ready = scene.daemon.wait_ready(SOON)?.since(scene.daemon.started());
    assert!(ready >= Duration::from_secs(3), "READY after {ready:?}");
    scene.leads_to("mgmt")?;
    assert_eq!(scene.writes(scene.daemon.started())?, []);
    let healed = scene.site.port.cable.heal();
    scene.moves_to("port", healed, SOON)?;
    scene.site.mgmt.cable.heal();
    scene.becomes("mgmt", Family::Ipv4, "up")?;
    scene.stays(2 * PATIENCE)?;
    scene.finish()?;
    Ok(())
}

fn answers_after_ready(preempt: &str, elected: &str) -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    site.port.cable.fault(&[Fault::Silent]);
    let scene = Scene::begin(site, &format!("boot_wait = \"2s\"\npreempt = \"{preempt}\""))?;
    scene.leads_to("mgmt")?;
    scene.site.port.cable.heal();
    for family in Family::ALL {
        scene.becomes(DPU, family, "up")?;
    }
    pass(3 * PATIENCE);
    scene.leads_to(elected)?;
    scene.finish()?;
    Ok(())
}

fn not_again(preempt: &str) -> Outcome {
    let scene = Scene::configured(&format!("return_after = \"300ms\"\npreempt = \"{preempt}\""))?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    scene.moves_to("mgmt", fault, SOON)?;
    scene.site.port.cable.heal();
    for family in Family::ALL {
        scene.becomes(DPU, family, "up")?;
    }
    scene.stays(3 * PATIENCE)?;
    // It is left only when it fails itself.
    let fault = scene.site.mgmt.cable.fault(&[Fault::Silent]);
    scene.moves_to("port", fault, SOON)?;
    scene.finish()?;
    Ok(())
}
