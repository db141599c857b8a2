//! Many uplinks: tiers one behind the other, and several uplinks of one tier, by turns or together in a
//! multipath pin.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use uplink_core::snapshot::Family;
use uplink_lab::{End, Fault, Site, Stream, Uplink, now};

use crate::lifecycle::end;
use crate::scene::{BRISK, Outcome, PCI, SOON, STEADY, Scene, trial};

/// The second card's place on the PCI bus.
const PCI_B: &str = "0000:05:00.0";
/// All uplinks of a tier together.
const MULTIPATH: &str = "patience = \"300ms\"\nreturn_after = \"1s\"\nwithin_tier = \"multipath\"\n";
/// The members, in the order of their names.
const BOTH: [&str; 2] = ["port", "third"];
/// So many flows are looked at.
const FLOWS: u8 = 200;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("two DPUs and management: the first on the bus that works", two_dpus_and_management),
        trial("three tiers fall one after the other and come back", three_tiers),
        trial("five uplinks, four of them dead: the last one, and the first when it is back", five_uplinks),
        trial("multipath: two DPUs share the flows, without any uplink configured", unconfigured),
        trial("multipath: flows are shared by weight in both families", weighted),
        trial("multipath: a silent member leaves and comes back, the other's flows lose nothing", || {
            member_falls(&|site| site.third().cable.fault(&[Fault::Silent]), &|site| {
                site.third().cable.heal();
                Ok(())
            })
        }),
        trial("multipath: a member without carrier leaves and comes back", || {
            member_falls(
                &|site| site.third().cable.carrier(End::Worker, false).expect("it has a carrier"),
                &|site| Ok(site.third().cable.carrier(End::Worker, true).map(drop)?),
            )
        }),
        trial("multipath: a member that is set down leaves, and is not taken up with its interface", || {
            member_falls(&|site| site.worker.set_up("third", false).expect("it is there"), &|site| {
                site.worker.set_up("third", true)?;
                // IPv6 forgot the address and both families the default route.
                let Uplink { address6, .. } = site.third();
                site.worker.ip(&format!("address add {address6}/64 dev third nodad"))?;
                site.await_address(*address6)?;
                Ok(site.lay_default(site.third(), "third", site.third().metric)?)
            })
        }),
        trial("multipath: a member whose interface is deleted leaves", || {
            member_falls(&|site| site.unplug(site.third()).expect("it is plugged"), &|site| {
                site.plug(site.third())?;
                site.lay_addresses(site.third(), "third")?;
                Ok(site.lay_default(site.third(), "third", site.third().metric)?)
            })
        }),
        trial("multipath: a member whose gateway the kernel refuses is left out, and joins again", || {
            refused(MULTIPATH, "third", &["port"], &BOTH)
        }),
        trial("a gateway that the kernel refuses: the next best uplink is pinned, not the last", || {
            refused(BRISK, "port", &["third"], &["port"])
        }),
        trial("multipath: both members dead, management; both back, both again", both_die),
        trial("multipath: everybody silent, nobody moves", everybody_silent),
        trial("multipath in placement table: shrinks, grows, no trace", in_table),
        trial("multipath, restarted: takes the pin over and writes nothing", restarted),
        trial("multipath: MTU, source and on-link of the members' routes, read back as written", attributes),
        trial("multipath, killed and started without it: one uplink is left", killed_and_first),
        trial("multipath: the status names the members, their weights, and why one left", shown),
    ]
}

/// What these tests call the uplinks.
trait Named {
    /// The second card's.
    fn third(&self) -> &Uplink;
}

impl Named for Site {
    fn third(&self) -> &Uplink {
        &self.more[0]
    }
}

/// A worker with two cards, on `port` and `third`, and management.
fn two_cards() -> Result<Site, Failed> {
    let site = Site::builder().more(1).build()?;
    site.worker.give_pci("port", PCI)?;
    site.worker.give_pci("third", PCI_B)?;
    // All addresses there can be a flow's end.
    site.internet.ip_batch(
        "route add local 203.0.113.0/24 dev lo\n\
         route add local 2001:db8:9::/64 dev lo\n",
    )?;
    Ok(site)
}

/// The same with a daemon that shares the flows among the cards; both are members.
fn shared(toml: &str) -> Result<Scene, Failed> {
    let scene = Scene::begin(two_cards()?, toml)?;
    leads_to(&scene, &BOTH)?;
    Ok(scene)
}

/// Both families' flows go by these interfaces, now or soon.
fn leads_to(scene: &Scene, interfaces: &[&str]) -> Outcome {
    Family::ALL.into_iter().try_for_each(|family| goes_by(scene, family, interfaces))
}

/// A family's flows go by these interfaces, now or soon.
fn goes_by(scene: &Scene, family: Family, interfaces: &[&str]) -> Outcome {
    let wanted: BTreeSet<String> = interfaces.iter().map(|&interface| interface.to_owned()).collect();
    scene.until(&format!("{family} by {interfaces:?}"), || {
        Ok(flows(scene, family)?.into_keys().collect::<BTreeSet<_>>() == wanted)
    })
}

/// How many of [`FLOWS`] go by each interface.
fn flows(scene: &Scene, family: Family) -> Result<BTreeMap<String, usize>, Failed> {
    let mut flows = BTreeMap::new();
    for last in 1..=FLOWS {
        let interface = scene.site.worker.lookup(address(family, last))?.interface;
        *flows.entry(interface.ok_or("a lookup without an interface")?).or_default() += 1;
    }
    Ok(flows)
}

/// An address of the internet.
fn address(family: Family, last: u8) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(203, 0, 113, last).into(),
        Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, last.into()).into(),
    }
}

/// An address of the internet to which a packet goes by this interface.
fn address_by(scene: &Scene, family: Family, interface: &str) -> Result<IpAddr, Failed> {
    for last in 1..=FLOWS {
        let address = address(family, last);
        if scene.site.worker.lookup(address)?.interface.as_deref() == Some(interface) {
            return Ok(address);
        }
    }
    Err(scene.explain(&format!("no {family} flow goes by {interface}")))
}

fn two_dpus_and_management() -> Outcome {
    let scene = Scene::begin(two_cards()?, BRISK)?;
    scene.leads_to("port")?;
    scene.site.port.cable.fault(&[Fault::Silent]);
    scene.leads_to("third")?;
    scene.site.third().cable.carrier(End::Worker, false)?;
    scene.leads_to("mgmt")?;
    scene.site.third().cable.carrier(End::Worker, true)?;
    scene.leads_to("third")?;
    scene.site.port.cable.heal();
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

/// Uplinks by their interfaces, each a tier of its own in this order.
fn tiers(interfaces: &[&str]) -> String {
    let uplinks = interfaces.iter().zip(1..).map(|(interface, tier)| {
        format!(
            "[[uplink]]\nname = \"{interface}\"\nmatch = {{ interface = \"{interface}\" }}\ntier = {tier}\n"
        )
    });
    format!("{BRISK}{}", uplinks.collect::<String>())
}

fn three_tiers() -> Outcome {
    let scene = Scene::begin(Site::builder().more(1).build()?, &tiers(&["port", "third", "mgmt"]))?;
    scene.leads_to("port")?;
    let cables = [&scene.site.port.cable, &scene.site.third().cable];
    for (cable, next) in cables.iter().zip(["third", "mgmt"]) {
        cable.fault(&[Fault::Silent]);
        scene.leads_to(next)?;
    }
    for (cable, back) in cables.iter().zip(["port", "third"]).rev() {
        cable.heal();
        scene.leads_to(back)?;
    }
    scene.finish()?;
    Ok(())
}

fn five_uplinks() -> Outcome {
    let order = ["fifth", "fourth", "third", "port", "mgmt"];
    let scene = Scene::begin(Site::builder().more(3).build()?, &tiers(&order))?;
    scene.leads_to("fifth")?;
    let dead = || scene.site.uplinks().filter(|uplink| uplink.interface != "mgmt");
    for uplink in dead() {
        uplink.cable.fault(&[Fault::Silent]);
    }
    scene.leads_to("mgmt")?;
    for uplink in dead() {
        uplink.cable.heal();
    }
    scene.leads_to("fifth")?;
    scene.finish()?;
    Ok(())
}

fn unconfigured() -> Outcome {
    let scene = shared(MULTIPATH)?;
    for family in Family::ALL {
        let flows = flows(&scene, family)?;
        assert!(flows.values().all(|count| *count > usize::from(FLOWS) / 4), "{flows:?}");
        for last in 1..=10 {
            let address = address(family, last);
            let answer = scene.site.worker.ping(address, None, SOON)?;
            assert!(answer.is_some(), "no answer of {address}");
        }
    }
    scene.finish()?;
    Ok(())
}

/// The port has this weight, the other 1.
fn with_weight(weight: u16) -> String {
    format!(
        "{MULTIPATH}[[uplink]]\nname = \"a\"\nmatch = {{ interface = \"port\" }}\nweight = {weight}\n\
         [[uplink]]\nname = \"b\"\nmatch = {{ interface = \"third\" }}\n"
    )
}

fn weighted() -> Outcome {
    let scene = shared(&with_weight(4))?;
    for family in Family::ALL {
        let pins = scene.pins(family)?;
        let shares: Vec<_> = pins.iter().flat_map(|pin| &pin.shares).cloned().collect();
        assert_eq!(shares, [("port".to_owned(), 4), ("third".to_owned(), 1)], "{pins:?}");
        let port = flows(&scene, family)?["port"];
        // Four of five of them, as far as a hash is even.
        assert!((130..190).contains(&port), "{port} of {FLOWS} by the port");
    }
    scene.daemon.reload(&with_weight(1))?;
    for family in Family::ALL {
        scene.pinned(
            family,
            "equal shares",
            |pins| matches!(pins, [pin] if pin.shares.iter().map(|share| share.1).eq([1, 1])),
        )?;
    }
    scene.finish()?;
    Ok(())
}

/// A member falls: the pin shrinks to the other, whose flows lose nothing; when it is well, the pin grows.
fn member_falls(
    fault: &dyn Fn(&Site) -> uplink_core::time::Instant,
    repair: &dyn Fn(&Site) -> Outcome,
) -> Outcome {
    let scene = shared(MULTIPATH)?;
    let mut streams = Vec::new();
    for family in Family::ALL {
        let to = address_by(&scene, family, "port")?;
        streams.push(Stream::start(&scene.site.worker, &scene.site.internet, to, STEADY)?);
    }
    let since = fault(&scene.site);
    leads_to(&scene, &["port"])?;
    let alone = |pins: &[uplink_lab::Route]| matches!(pins, [pin] if pin.hops == 1);
    for family in Family::ALL {
        scene.pinned(family, "no trace of the other member", alone)?;
    }
    repair(&scene.site)?;
    let repaired = now();
    leads_to(&scene, &BOTH)?;
    assert!(now() >= repaired + Duration::from_secs(1), "it came back at once");
    for stream in streams {
        let report = stream.stop();
        assert_eq!((report.lost, report.failed), (0, 0), "since {since}: {report:?}");
    }
    scene.finish_among()?;
    Ok(())
}

/// The kernel takes no route by the IPv4 gateway of one card, because a rule of others has none for it:
/// the other card carries IPv4 `without` it. When it takes that, flows go `with` it, as in IPv6 all along.
fn refused(toml: &str, card: &str, without: &[&str], with: &[&str]) -> Outcome {
    let site = two_cards()?;
    let gateway = site.uplinks().find(|uplink| uplink.interface == card).map(|uplink| uplink.gateway4);
    let gateway = gateway.ok_or("no such card")?;
    // Questions have their way, only routes do not.
    site.worker.ip_batch(&format!(
        "rule add pref 100 to {gateway} ipproto icmp lookup main\n\
         rule add pref 101 to {gateway} unreachable\n"
    ))?;
    let scene = Scene::begin(site, toml)?;
    goes_by(&scene, Family::Ipv4, without)?;
    goes_by(&scene, Family::Ipv6, with)?;
    scene.becomes(card, Family::Ipv4, "refused")?;
    scene.becomes(card, Family::Ipv6, "up")?;
    assert_eq!(scene.status_of(Family::Ipv4, "aside")?, serde_json::Value::Null);
    let told = |what: &str| scene.daemon.log().iter().filter(|line| line.what.contains(what)).count();
    assert_eq!(told("down (refused)"), 1);

    scene.site.worker.ip_batch(&format!("rule delete pref 101 to {gateway} unreachable\n"))?;
    leads_to(&scene, with)?;
    scene.finish_changed()?;
    Ok(())
}

fn both_die() -> Outcome {
    let scene = shared(MULTIPATH)?;
    for uplink in [&scene.site.port, scene.site.third()] {
        uplink.cable.fault(&[Fault::Silent]);
    }
    leads_to(&scene, &["mgmt"])?;
    for uplink in [&scene.site.port, scene.site.third()] {
        uplink.cable.heal();
    }
    leads_to(&scene, &BOTH)?;
    scene.site.port.cable.carrier(End::Worker, false)?;
    leads_to(&scene, &["third"])?;
    scene.site.third().cable.carrier(End::Worker, false)?;
    leads_to(&scene, &["mgmt"])?;
    scene.finish_changed()?;
    Ok(())
}

fn everybody_silent() -> Outcome {
    let scene = shared(MULTIPATH)?;
    let since = now();
    for uplink in scene.site.uplinks() {
        uplink.cable.fault(&[Fault::Silent]);
    }
    for family in Family::ALL {
        scene.becomes("port", family, "shared")?;
    }
    scene.stays(Duration::from_secs(1))?;
    assert_eq!(scene.pin_writes(since)?, []);
    for uplink in scene.site.uplinks() {
        uplink.cable.heal();
    }
    for family in Family::ALL {
        scene.becomes("third", family, "up")?;
    }
    scene.finish()?;
    Ok(())
}

fn in_table() -> Outcome {
    let scene = shared(&format!("placement = \"table\"\n{MULTIPATH}"))?;
    scene.site.port.cable.fault(&[Fault::Silent]);
    leads_to(&scene, &["third"])?;
    scene.site.port.cable.heal();
    leads_to(&scene, &BOTH)?;
    for family in Family::ALL {
        assert!(scene.pins(family)?.iter().all(|pin| pin.table == 117));
    }
    scene.finish()?;
    Ok(())
}

fn restarted() -> Outcome {
    let mut scene = shared(&with_weight(3))?;
    let restart = end(&mut scene, Signal::SIGUSR2)?;
    scene.start_again(&with_weight(3))?;
    for family in Family::ALL {
        scene.becomes("third", family, "up")?;
    }
    scene.stays(Duration::from_secs(1))?;
    assert_eq!(scene.writes(restart)?, []);
    for family in Family::ALL {
        assert_eq!(scene.status_of(family, "members")?, serde_json::json!(["a", "b"]));
    }
    scene.site.port.cable.fault(&[Fault::Silent]);
    leads_to(&scene, &["third"])?;
    scene.finish()?;
    Ok(())
}

/// The members' default routes differ in what they say.
fn attributes() -> Outcome {
    let site = two_cards()?;
    for (uplink, more) in [(&site.port, "mtu 1400"), (site.third(), "mtu 1300 onlink")] {
        let (source4, source6) = (uplink.address4, uplink.address6);
        let [v4, v6] = [format!("{more} src {source4}"), format!("{more} src {source6}")];
        let Uplink { gateway4, gateway6, interface, metric, .. } = uplink;
        site.worker.ip_batch(&format!(
            "route replace 0.0.0.0/0 via {gateway4} dev {interface} proto 16 metric {metric} {v4}\n\
             route replace ::/0 via {gateway6} dev {interface} proto 16 metric {metric} {v6}\n"
        ))?;
    }
    let scene = Scene::begin(site, MULTIPATH)?;
    leads_to(&scene, &BOTH)?;
    let since = now();
    scene.stays(Duration::from_secs(1))?;
    assert_eq!(scene.writes(since)?, [], "the kernel shows it as it was laid");
    for family in Family::ALL {
        let pins = scene.pins(family)?;
        assert!(
            matches!(pins.as_slice(), [pin] if pin.mtu == Some(1300) && pin.source.is_none()),
            "{pins:?}"
        );
        for interface in BOTH {
            let to = address_by(&scene, family, interface)?;
            let uplink = scene.site.uplinks().find(|uplink| uplink.interface == interface);
            let own = uplink.map(|uplink| match family {
                Family::Ipv4 => IpAddr::from(uplink.address4),
                Family::Ipv6 => uplink.address6.into(),
            });
            assert_eq!(scene.site.worker.lookup(to)?.source, own, "{family} by {interface}");
        }
    }
    scene.finish()?;
    Ok(())
}

fn killed_and_first() -> Outcome {
    let mut scene = shared(MULTIPATH)?;
    end(&mut scene, Signal::SIGKILL)?;
    scene.start_again(BRISK)?;
    leads_to(&scene, &["port"])?;
    scene.finish()?;
    Ok(())
}

fn shown() -> Outcome {
    let scene = shared(&with_weight(8))?;
    for family in Family::ALL {
        let pin = scene.status_of(family, "pin")?;
        let weights: Vec<_> =
            pin["hops"].as_array().into_iter().flatten().map(|hop| &hop["weight"]).collect();
        assert_eq!(weights, [8, 1], "{pin}");
    }
    let since = scene.site.port.cable.fault(&[Fault::Silent]);
    for family in Family::ALL {
        let line = format!("{family}: elected a + b → b: a member went down: gateway");
        scene.daemon.wait_for_log("why it left", since, SOON, |said| said.contains(&line))?;
        assert_eq!(scene.status_of(family, "members")?, serde_json::json!(["b"]));
        assert_eq!(scene.status_of(family, "reason")?, "member_fell");
    }
    scene.finish()?;
    Ok(())
}
