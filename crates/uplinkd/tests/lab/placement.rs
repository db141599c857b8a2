//! Where the pin stands: in the main table, or in its own behind two rules.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::own::TABLE_PIN;
use uplink_core::snapshot::{Family, TABLE_MAIN};
use uplink_lab::{Change, Site, now};

use crate::scene::{BRISK, Outcome, SOON, Scene, defaults, site_with_metrics, trial};

/// The rules of placement `table`, as `ip rule` shows them.
const RULES: &str = "32765:\tfrom all lookup main suppress_prefixlength 0 proto 117\n\
    32765:\tfrom all lookup 117 proto 117\n";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("management's metric is 0: the pin stands in its own table", || without_room(0)),
        trial("management's metric is 1: the pin stands in its own table", || without_room(1)),
        trial("management's metric is 2: the pin stands in its own table", || without_room(2)),
        trial("management's metric is 3: the pin uses metrics 1 and 2", metric_3),
        trial("placement table: main is left alone", table),
        trial("placement table: rules deleted by another program are back at once", rules_deleted),
        trial("placement table: a program that deletes the rules for ever is left alone", rules_contested),
        trial("placement main without room: nothing is written, and it is said", main_without_room),
        trial("room in main vanishes and comes back: no lookup fails", room_vanishes),
        trial("foreign rules and routes of other tables stay as they are", foreign_rules),
    ]
}

fn without_room(metric: u32) -> Outcome {
    // IPv6 makes 1024 of 0, and has room then.
    let scene = Scene::begin(site_with_metrics(2000, metric)?, BRISK)?;
    let families = if metric == 0 { &Family::ALL[..1] } else { &Family::ALL[..] };
    scene.leads_to("port")?;
    for &family in families {
        in_own_table(&scene, family)?;
    }
    scene.fail_over()?;
    for family in Family::ALL {
        scene.pinned(family, "no pin", <[_]>::is_empty)?;
        assert_eq!(rules(&scene, family)?, "");
    }
    scene.come_back()?;
    for &family in families {
        in_own_table(&scene, family)?;
    }
    scene.finish()?;
    Ok(())
}

/// The pin and both rules stand.
fn in_own_table(scene: &Scene, family: Family) -> Outcome {
    scene.pinned(family, "a pin in its own table", |pins| matches!(pins, [pin] if pin.table == TABLE_PIN))?;
    scene.until("both rules", || Ok(rules(scene, family)? == RULES))
}

fn rules(scene: &Scene, family: Family) -> Result<String, Failed> {
    let flag = if family == Family::Ipv4 { "-4" } else { "-6" };
    let text = scene.site.worker.ip(&format!("{flag} rule show priority 32765"))?;
    Ok(text.lines().map(|line| format!("{}\n", line.trim_end())).collect())
}

fn metric_3() -> Outcome {
    let scene = Scene::begin(site_with_metrics(101, 3)?, BRISK)?;
    scene.leads_to("port")?;
    let between = |pins: &[uplink_lab::Route]| matches!(pins, [pin] if matches!(pin.metric, 1 | 2) && pin.table == TABLE_MAIN);
    for family in Family::ALL {
        scene.pinned(family, "a pin below 3", between)?;
    }
    scene.fail_over()?;
    scene.come_back()?;
    // A switch of the gateway uses the other of the two.
    scene.write(&[defaults("replace", &scene.site.port, 101, "mtu 1400")])?;
    for family in Family::ALL {
        scene.pinned(family, "the new pin below 3", |pins| between(pins) && pins[0].mtu == Some(1400))?;
    }
    scene.finish_among()?;
    Ok(())
}

fn table() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", crate::scene::PCI)?;
    let scene = Scene::begin(site, &format!("{BRISK}placement = \"table\""))?;
    scene.leads_to("port")?;
    for family in Family::ALL {
        in_own_table(&scene, family)?;
    }
    scene.fail_over()?;
    scene.come_back()?;
    for family in Family::ALL {
        in_own_table(&scene, family)?;
    }
    // The host's own subnets are reached as ever.
    let near = scene.site.worker.lookup(scene.site.mgmt.gateway4.into())?;
    assert_eq!(near.interface.as_deref(), Some("mgmt"));
    let in_main = |change: &Change| change.route().is_some_and(|route| route.table == TABLE_MAIN);
    let written: Vec<_> =
        scene.writes(scene.daemon.started())?.into_iter().filter(|change| in_main(&change.what)).collect();
    assert_eq!(written, []);
    scene.finish()?;
    Ok(())
}

fn rules_deleted() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", crate::scene::PCI)?;
    let scene = Scene::begin(site, "placement = \"table\"")?;
    scene.leads_to("port")?;
    for (family, flag) in Family::ALL.into_iter().zip(["-4", "-6"]) {
        for lines in [
            "rule delete priority 32765 lookup 117",
            "rule delete priority 32765 lookup main",
            "rule delete priority 32765 lookup main\nrule delete priority 32765 lookup 117",
        ] {
            let lines: Vec<String> =
                lines.lines().map(|line| format!("-family {} {line}", name(flag))).collect();
            for line in &lines {
                scene.site.worker.ip(line)?;
            }
            in_own_table(&scene, family)?;
        }
        scene.site.worker.ip(&format!("{flag} route flush table 117"))?;
        in_own_table(&scene, family)?;
    }
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

fn name(flag: &str) -> &'static str {
    if flag == "-4" { "inet" } else { "inet6" }
}

fn rules_contested() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", crate::scene::PCI)?;
    let scene = Scene::begin(site, "placement = \"table\"")?;
    scene.leads_to("port")?;
    let since = scene.changes.caught_up()?;
    let mut deleted = 0;
    while deleted < 100 && now() < since + Duration::from_secs(3) {
        deleted += u32::from(scene.site.worker.ip("-4 rule delete priority 32765 lookup 117").is_ok());
    }
    let added = |change: &&uplink_lab::Stamped<Change>| matches!(change.what, Change::RuleAdded(_));
    let written = scene.writes(since)?.iter().filter(added).count();
    assert!((5..=80).contains(&written), "{written} rules were written, {deleted} deleted");
    scene.daemon.wait_for_log("the contest", since, SOON, |line| {
        line.contains("keeps undoing") && line.contains("deletes our rules; to end it, ")
    })?;
    scene.finish()?;
    Ok(())
}

fn main_without_room() -> Outcome {
    let scene = Scene::begin(site_with_metrics(2000, 2)?, &format!("{BRISK}placement = \"main\""))?;
    scene.daemon.wait_for_log("why", scene.daemon.started(), SOON, |line| line.contains("no free metric"))?;
    for family in Family::ALL {
        assert_eq!(scene.status_of(family, "aside")?, "no_room");
    }
    assert_eq!(scene.pin_writes(scene.daemon.started())?, []);
    scene.leads_to("mgmt")?;
    let mgmt = &scene.site.mgmt;
    scene.write(&[defaults("add", mgmt, 100, ""), defaults("delete", mgmt, 2, "")])?;
    scene.leads_to("port")?;
    for family in Family::ALL {
        scene.pinned(family, "a pin in main", |pins| matches!(pins, [pin] if pin.table == TABLE_MAIN))?;
        scene.until("no longer aside", || Ok(scene.status_of(family, "aside")?.is_null()))?;
    }
    scene.finish_among()?;
    Ok(())
}

fn room_vanishes() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    let mgmt = &scene.site.mgmt;
    scene.write(&[defaults("add", mgmt, 1, "")])?;
    for family in Family::ALL {
        in_own_table(&scene, family)?;
    }
    scene.leads_to("port")?;
    let since = scene.changes.caught_up()?;
    scene.write(&[defaults("delete", mgmt, 1, "")])?;
    scene.stays(Duration::from_millis(300))?;
    // What outranks every metric need not move.
    assert_eq!(scene.writes(since)?, []);
    scene.fail_over()?;
    scene.come_back()?;
    scene.finish()?;
    Ok(())
}

fn foreign_rules() -> Outcome {
    let site = site_with_metrics(2000, 2)?;
    // As a VPN, a container network and an administrator lay them.
    for flag in ["-4", "-6"] {
        for line in [
            "rule add priority 32764 lookup main suppress_prefixlength 0",
            "rule add priority 32765 not fwmark 51820 lookup 51820",
            "rule add priority 100 fwmark 1 lookup 100 protocol static",
            "rule add priority 32000 iif mgmt lookup 100",
            "route add default dev mgmt table 100",
            "route add default dev mgmt table 1170 protocol static",
        ] {
            site.worker.ip(&format!("{flag} {line}"))?;
        }
    }
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    let foreign = scene.foreign()?;
    assert_eq!(foreign, scene.before);
    scene.fail_over()?;
    scene.come_back()?;
    assert_eq!(scene.foreign()?, scene.before);
    scene.finish()?;
    Ok(())
}
