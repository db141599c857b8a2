//! Which interfaces are uplinks, in which order, and what is said of those that are missing.

use std::time::Duration;

use libtest_mimic::Trial;
use uplink_core::snapshot::Family;
use uplink_lab::{End, Fault, PciFunction, Site, now};

use crate::scene::{Outcome, PATIENCE, PCI, PROMPT, SOON, Scene, trial};

/// The port named by hand.
const CONFIGURED: &str = "boot_wait = \"500ms\"\nreturn_after = \"500ms\"\n[[uplink]]\nname = \"fast\"\n";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("uplink by name", || matched("interface = \"port\"")),
        trial("uplink by alternative name", || matched("interface = \"enp3s0f0np0-of-the-dpu\"")),
        trial("uplink by glob", || matched("interface = \"p*t\"")),
        trial("uplink by MAC", || matched("mac = \"02:00:00:00:00:01\"")),
        trial("uplink by PCI address", || matched("pci = \"0000:03:00.0\"")),
        trial("uplinks with names that contain each other are told apart", similar_names),
        trial("configured uplink that is missing: shown, waited for, taken when it comes", missing),
        trial("port plugged late: shown as missing, taken after one patience", plugged_late),
        trial("two DPUs: the first on the bus, or the first that works", two_dpus),
        trial("two DPUs: the order of the bus is that of its numbers", two_dpus_far_apart),
        trial("a VF is not a port", || {
            not_a_port(&function(|f| {
                "0000:03:01.0".clone_into(&mut f.address);
                f.physfn = Some(PCI.to_owned());
            }))
        }),
        trial("function 1 is not a port", || not_a_port(&PciFunction::bluefield("0000:03:00.1"))),
        trial("another vendor's card is not a port", || not_a_port(&function(|f| f.vendor = 0x8086))),
        trial("the crypto function is not a port", || not_a_port(&function(|f| f.device = 0xa2d3))),
        trial("another class is not a port", || not_a_port(&function(|f| f.class = 0x02_0700))),
        trial("representor beside its port: only the port is a port", representor),
        trial("no DPU: nothing to wait for, nothing written", no_dpu),
        trial("one subnet, silent port gateway: management takes over and gives back", one_subnet_silent),
        trial("one subnet, carrier lost: management takes over and gives back", one_subnet_carrier),
    ]
}

fn matched(matching: &str) -> Outcome {
    let site = Site::new()?;
    site.worker.ip("link property add dev port altname enp3s0f0np0-of-the-dpu")?;
    if matching.starts_with("pci") {
        site.worker.give_pci("port", PCI)?;
    }
    let scene = Scene::begin(site, &format!("{CONFIGURED}match = {{ {matching} }}\n"))?;
    scene.leads_to("port")?;
    let fast = scene.uplink("port")?;
    // A glob can match several, so the interface is part of the name then.
    let name = if matching.contains('*') { "fast/port" } else { "fast" };
    assert_eq!((&fast["name"], &fast["tier"]), (&name.into(), &1.into()));
    assert_eq!(scene.uplink("mgmt")?["tier"], 2);
    scene.finish()?;
    Ok(())
}

fn similar_names() -> Outcome {
    let site = Site::new()?;
    site.worker.ip_batch(
        "link add por type veth peer name port2\n\
         link add port.7 type veth peer name port-7\n",
    )?;
    for (number, decoy) in ["por", "port2", "port.7"].into_iter().enumerate() {
        site.worker.ip_batch(&format!(
            "link set {decoy} up\n\
             address add 10.0.20{number}.2/24 dev {decoy}\n\
             route add 0.0.0.0/0 via 10.0.20{number}.1 dev {decoy} metric 20{number}\n"
        ))?;
    }
    let scene = Scene::begin(site, &format!("{CONFIGURED}match = {{ interface = \"port\" }}\n"))?;
    scene.leads_to("port")?;
    let since = scene.changes.caught_up()?;
    scene.site.worker.ip("link delete port2")?;
    scene.site.worker.ip("link delete port.7")?;
    scene.stays(PATIENCE)?;
    assert_eq!(scene.uplink("fast")?["interface"], "port");
    assert_eq!(scene.writes(since)?, []);
    scene.site.worker.ip("link add port2 up type veth peer name por")?;
    let gone = scene.site.unplug(&scene.site.port)?;
    scene.moves_to("mgmt", gone, SOON)?;
    scene.becomes("fast", Family::Ipv4, "link")?;
    assert!(scene.uplink("fast")?["interface"].is_null());
    scene.finish_changed()?;
    Ok(())
}

fn missing() -> Outcome {
    let toml = format!("{CONFIGURED}match = {{ mac = \"02:00:00:00:00:01\" }}\n");
    let scene = Scene::begin(Site::builder().without_port().build()?, &toml)?;
    arrives(&scene, "fast")?;
    scene.finish()?;
    Ok(())
}

pub(crate) fn plugged_late() -> Outcome {
    let site = Site::builder().without_port().build()?;
    site.worker.plug_pci(&PciFunction::bluefield(PCI))?;
    site.worker.bind_pci("port", PCI, Some("p0"))?;
    let scene = Scene::begin(site, "boot_wait = \"500ms\"")?;
    arrives(&scene, "dpu-0000:03:00.0")?;
    scene.finish()?;
    Ok(())
}

/// READY was told after `boot_wait` of half a second; the port is missing, comes, and goes again.
fn arrives(scene: &Scene, uplink: &str) -> Outcome {
    let ready = scene.daemon.wait_ready(SOON)?;
    assert!(ready >= scene.daemon.started() + Duration::from_millis(500));
    scene.leads_to("mgmt")?;
    assert!(scene.uplink(uplink)?["interface"].is_null());
    for family in Family::ALL {
        scene.becomes(uplink, family, "link")?;
    }
    let (site, since) = (&scene.site, now());
    site.plug(&site.port)?;
    site.lay_addresses(&site.port, "port")?;
    site.lay_default(&site.port, "port", site.port.metric)?;
    for moment in scene.moves_to("port", since, SOON)? {
        assert!(moment >= since + PATIENCE, "taken after {:?}", moment.since(since));
    }
    let gone = site.unplug(&site.port)?;
    scene.moves_to("mgmt", gone, SOON)?;
    scene.becomes(uplink, Family::Ipv4, "link")
}

pub(crate) fn two_dpus() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    site.worker.give_pci("mgmt", "0000:05:00.0")?;
    let scene = Scene::begin(site, "return_after = \"500ms\"")?;
    scene.leads_to("port")?;
    assert_eq!(scene.uplink("dpu-0000:05:00.0")?["tier"], 1);
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    scene.moves_to("mgmt", fault, SOON)?;
    scene.site.port.cable.heal();
    scene.moves_to("port", now(), SOON)?;
    scene.finish()?;
    Ok(())
}

fn two_dpus_far_apart() -> Outcome {
    let site = Site::new()?;
    // By its text this address would be the first, and by the order of the interfaces, too.
    site.worker.give_pci("port", "10000:01:00.0")?;
    site.worker.give_pci("mgmt", "0000:c1:00.0")?;
    let scene = Scene::begin(site, "")?;
    scene.leads_to("mgmt")?;
    scene.stays(2 * PATIENCE)?;
    for family in Family::ALL {
        assert_eq!(scene.pins(family)?, [], "its own default route is the best one");
    }
    scene.finish()?;
    Ok(())
}

/// A function of a BlueField that differs in something.
fn function(differ: impl FnOnce(&mut PciFunction)) -> PciFunction {
    let mut function = PciFunction::bluefield(PCI);
    differ(&mut function);
    function
}

pub(crate) fn not_a_port(function: &PciFunction) -> Outcome {
    let site = Site::new()?;
    site.worker.plug_pci(function)?;
    site.worker.bind_pci("port", &function.address, None)?;
    stays_with_management(&Scene::begin(site, "")?)
}

fn no_dpu() -> Outcome {
    let scene = Scene::begin(Site::new()?, "")?;
    stays_with_management(&scene)?;
    scene.finish()?;
    Ok(())
}

/// Nobody waited for a port, and everything stays as it was found.
fn stays_with_management(scene: &Scene) -> Outcome {
    let took = scene.daemon.wait_ready(SOON)?.since(scene.daemon.started());
    assert!(took < PROMPT, "it took {took:?} to be ready");
    scene.stays(2 * PATIENCE)?;
    scene.leads_to("mgmt")?;
    assert_eq!(scene.uplink("port")?["tier"], 2);
    assert_eq!(scene.pin_writes(scene.daemon.started())?, []);
    Ok(())
}

fn representor() -> Outcome {
    let site = Site::new()?;
    site.worker.plug_pci(&PciFunction::bluefield(PCI))?;
    site.worker.bind_pci("mgmt", PCI, Some("pf0vf1"))?;
    site.worker.bind_pci("port", PCI, Some("p0"))?;
    let scene = Scene::begin(site, "")?;
    scene.leads_to("port")?;
    assert_eq!(scene.uplink("dpu-0000:03:00.0")?["interface"], "port");
    assert_eq!(scene.uplink("mgmt")?["tier"], 2);
    scene.finish()?;
    Ok(())
}

fn one_subnet_silent() -> Outcome {
    let scene = one_subnet()?;
    // The gateway of the port would answer through management: only probes that keep to their own
    // device miss it.
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    for moment in scene.moves_to("mgmt", fault, SOON)? {
        assert!(moment >= fault + PATIENCE / 2, "moved {:?} after the fault", moment.since(fault));
    }
    for family in Family::ALL {
        scene.becomes("dpu-0000:03:00.0", family, "gateway")?;
    }
    scene.site.port.cable.heal();
    scene.moves_to("port", now(), SOON)?;
    scene.finish()?;
    Ok(())
}

fn one_subnet_carrier() -> Outcome {
    let scene = one_subnet()?;
    let fault = scene.site.port.cable.carrier(End::Worker, false)?;
    scene.moves_to("mgmt", fault, SOON)?;
    let back = scene.site.port.cable.carrier(End::Worker, true)?;
    scene.moves_to("port", back, SOON)?;
    scene.finish()?;
    Ok(())
}

/// Both uplinks in one subnet; the port is elected, and both are well.
fn one_subnet() -> Result<Scene, libtest_mimic::Failed> {
    let site = Site::builder().one_subnet().build()?;
    site.worker.give_pci("port", PCI)?;
    let scene = Scene::begin(site, "return_after = \"500ms\"")?;
    scene.leads_to("port")?;
    for family in Family::ALL {
        scene.becomes("mgmt", family, "up")?;
    }
    scene.stays(2 * PATIENCE)?;
    Ok(scene)
}
