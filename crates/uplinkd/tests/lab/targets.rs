//! Targets behind a gateway: what it forwards, not only that it answers.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use libtest_mimic::Trial;
use uplink_core::snapshot::Family;
use uplink_lab::{Fault, INTERNET4, INTERNET6, Site, now, pass};

use crate::scene::{INTERNET, Outcome, PCI, Scene, trial};

/// Without an answer for so long, a target is given up: three times its time limit.
const GIVEN_UP: Duration = Duration::from_secs(3);
/// What a verdict on targets may take: the interval and the time above, generously.
const VERDICT: Duration = Duration::from_secs(10);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("targets by ICMP dead behind a living gateway: moves, cause upstream, comes back", icmp),
        trial("targets by TCP dead behind a living gateway: moves, cause upstream, comes back", tcp),
        trial("many dead targets by TCP leave room to ask the rival's", many),
        trial("need any: one target of three is enough", || need("\"any\"", 2)),
        trial("need all: no target of three may fail", || need("\"all\"", 0)),
        trial("need 2: two targets of three are enough", || need("2", 1)),
        trial("targets are judged by their own path, where another is elected, rp_filter strict", own_path),
    ]
}

/// The port, with these targets.
fn port(targets: &str) -> String {
    format!(
        "[[uplink]]\nname = \"port\"\nmatch = {{ pci = \"{PCI}\" }}\ninterval = \"1s\"\ntargets = [{targets}]\n"
    )
}

fn icmp() -> Outcome {
    dead_upstream(Site::new()?, &format!("{{ icmp = \"{INTERNET4}\" }}, {{ icmp = \"{INTERNET6}\" }}"))
}

/// One of them accepts, the other refuses: both are answers.
fn tcp() -> Outcome {
    let site = Site::new()?;
    let listener = site.internet.run(|| TcpListener::bind(SocketAddr::from((INTERNET4, 6443))))?;
    dead_upstream(site, &format!("{{ tcp = \"{INTERNET4}:6443\" }}, {{ tcp = \"[{INTERNET6}]:6443\" }}"))?;
    drop(listener);
    Ok(())
}

fn dead_upstream(site: Site, targets: &str) -> Outcome {
    site.worker.give_pci("port", PCI)?;
    let scene = Scene::begin(site, &format!("return_after = \"1s\"\n{}", port(targets)))?;
    scene.leads_to("port")?;
    let fault = scene.site.port.cable.fault(&[Fault::NotForwarding]);
    let moved = scene.moves_to("mgmt", fault, VERDICT)?;
    for (family, moment) in Family::ALL.into_iter().zip(moved) {
        scene.becomes("port", family, "upstream")?;
        assert!(moment >= fault + GIVEN_UP / 2, "moved after {:?}", moment.since(fault));
    }
    let healed = scene.site.port.cable.heal();
    scene.moves_to("port", healed, VERDICT)?;
    scene.finish()?;
    Ok(())
}

/// Questions to the port's dead targets do not keep those to management's from being asked.
fn many() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let target = |number| format!("{{ tcp = \"{INTERNET4}:{number}\" }}");
    let dying: Vec<String> = (7001..=7016).map(target).collect();
    let mgmt = "[[uplink]]\nname = \"mgmt\"\nmatch = { interface = \"mgmt\" }\ninterval = \"1s\"\n";
    let config = format!("{}{mgmt}targets = [{}]\n", port(&dying.join(", ")), target(6443));
    let scene = Scene::begin(site, &config)?;
    scene.leads_to("port")?;
    let fault = scene.site.port.cable.fault(&[Fault::NotForwarding]);
    scene.lookups.wait_for(INTERNET[0], "mgmt", fault, VERDICT)?;
    let end = now() + VERDICT;
    while now() < end {
        assert_eq!(scene.health("mgmt", Family::Ipv4)?, "up");
        pass(Duration::from_millis(50));
    }
    scene.finish()?;
    Ok(())
}

/// Three targets of which `spare` may fail.
fn need(need: &str, spare: usize) -> Outcome {
    let targets = ["203.0.113.20", "203.0.113.21", "203.0.113.22"];
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    for target in targets {
        site.internet.ip(&format!("address add {target}/32 dev lo"))?;
    }
    let list = targets.map(|target| format!("{{ icmp = \"{target}\" }}")).join(", ");
    let scene = Scene::begin(site, &format!("{}need = {need}\n", port(&list)))?;
    scene.leads_to("port")?;
    let dies =
        |target: &str| scene.site.internet.ip(&format!("address delete {target}/32 dev lo")).map(|_| now());
    for target in &targets[..spare] {
        dies(target)?;
    }
    if spare > 0 {
        scene.stays(GIVEN_UP + Duration::from_secs(2))?;
    }
    let fault = dies(targets[spare])?;
    scene.lookups.wait_for(INTERNET[0], "mgmt", fault, VERDICT)?;
    scene.becomes("port", Family::Ipv4, "upstream")?;
    assert_eq!(scene.health("port", Family::Ipv6)?, "up", "it has no targets");
    assert_eq!(scene.way_to(INTERNET[1]).as_deref(), Some("port"));
    for stream in scene.finish()?.streams {
        assert!(stream.longest_gap() < GIVEN_UP / 2, "only the targets died: {:?}", stream.gaps);
    }
    Ok(())
}

fn own_path() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    for filtered in ["all", "port", "mgmt"] {
        site.worker.sysctl(&format!("net/ipv4/conf/{filtered}/rp_filter"), "1")?;
    }
    site.port.cable.fault(&[Fault::NotForwarding]);
    let targets = format!(
        "{{ icmp = \"{INTERNET4}\" }}, {{ tcp = \"{INTERNET4}:6443\" }}, {{ icmp = \"{INTERNET6}\" }}"
    );
    let config = format!(
        "boot_wait = \"1s\"\npreempt = \"never\"\npath_rules = \"off\"\n{}need = \"all\"\n",
        port(&targets)
    );
    let scene = Scene::begin(site, &config)?;
    for family in Family::ALL {
        scene.becomes("port", family, "upstream")?;
    }
    scene.site.port.cable.heal();
    for family in Family::ALL {
        scene.becomes("port", family, "up")?;
    }
    scene.leads_to("mgmt")?;
    touches_nobody_else(&scene)?;
    scene.finish()?;
    Ok(())
}

/// Every rule of ours leads from the uplink's address to a target, and nothing else goes by it.
fn touches_nobody_else(scene: &Scene) -> Outcome {
    let (worker, port) = (&scene.site.worker, &scene.site.port);
    let sources: [IpAddr; 2] = [port.address4.into(), port.address6.into()];
    for ((target, source), family) in INTERNET.into_iter().zip(sources).zip(["-4", "-6"]) {
        let rules = worker.ip(&format!("{family} rule show"))?;
        let ours: Vec<&str> = rules.lines().filter(|line| line.ends_with("proto 117")).collect();
        assert!(!ours.is_empty(), "no rules of ours in {rules}");
        for rule in ours {
            assert!(rule.contains(&format!("from {source} to {target} lookup 117")), "{rule}");
        }
        let way = |to: IpAddr, from: IpAddr| worker.ip(&format!("{family} route get {to} from {from}"));
        let mgmt: IpAddr = match family {
            "-4" => scene.site.mgmt.address4.into(),
            _ => scene.site.mgmt.address6.into(),
        };
        let elsewhere: IpAddr = match family {
            "-4" => [203, 0, 113, 10].into(),
            _ => [0x2001, 0xdb8, 9, 0, 0, 0, 0, 10].into(),
        };
        assert!(way(target, source)?.contains("dev port"), "a probe does not go by its path");
        assert!(way(target, mgmt)?.contains("dev mgmt"), "management's own traffic to the target moved");
        assert!(way(elsewhere, source)?.contains("dev mgmt"), "traffic to elsewhere moved");
    }
    Ok(())
}
