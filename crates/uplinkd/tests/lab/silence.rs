//! Gateways that fall silent, wholly or in part.

use std::net::IpAddr;
use std::time::Duration;

use libtest_mimic::Trial;
use uplink_core::snapshot::Family;
use uplink_lab::{End, Fault, Stream, now, pass};

use crate::scene::{Outcome, PATIENCE, SOON, Scene, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("silent gateway: management takes over after patience, the port comes back", silent_gateway),
        trial("both gateways silent: nothing moves, the cause is shared", both_silent),
        trial("both gateways silent, management alone back: it takes over after patience", management_back),
        trial("gateway that filters ICMP: nothing moves until it is wholly silent", filters_icmp),
        trial("control plane silent under load: believed for three times patience", control_silent),
        trial("slow gateway: answers after 300 ms are answers", slow),
        trial("flapping gateway: one move", flapping),
        trial("a second fall doubles the wait for coming back", damping),
    ]
}

fn silent_gateway() -> Outcome {
    let scene = Scene::configured("return_after = \"2s\"")?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    let moved = scene.moves_to("mgmt", fault, SOON)?;
    for (family, moment) in Family::ALL.into_iter().zip(moved) {
        let sign = scene.last_answer("port", family)?;
        assert!(moment >= sign + PATIENCE, "moved {:?} after the last sign of life", moment.since(sign));
        assert_eq!(scene.health("port", family)?, "gateway");
        assert_eq!(scene.pins(family)?, [], "the best foreign route leads there by itself");
    }
    let healed = scene.site.port.cable.heal();
    scene.moves_to("port", healed, SOON)?;
    for family in Family::ALL {
        assert_eq!(scene.pins(family)?.len(), 1);
    }
    let ending = scene.finish()?;
    for stream in ending.streams {
        assert_eq!(stream.gaps.len(), 1, "{:?}; the machine itself: {}", stream.gaps, ending.lateness);
    }
    Ok(())
}

fn both_silent() -> Outcome {
    let scene = Scene::usual()?;
    scene.site.mgmt.cable.fault(&[Fault::Silent]);
    scene.site.port.cable.fault(&[Fault::Silent]);
    scene.stays(3 * PATIENCE)?;
    for family in Family::ALL {
        scene.becomes("port", family, "shared")?;
    }
    scene.site.mgmt.cable.heal();
    pass(Duration::from_millis(50));
    scene.site.port.cable.heal();
    scene.stays(2 * PATIENCE)?;
    for family in Family::ALL {
        scene.becomes("port", family, "up")?;
        scene.becomes("mgmt", family, "up")?;
    }
    scene.finish()?;
    Ok(())
}

fn management_back() -> Outcome {
    let scene = Scene::usual()?;
    scene.site.mgmt.cable.fault(&[Fault::Silent]);
    scene.site.port.cable.fault(&[Fault::Silent]);
    scene.stays(2 * PATIENCE)?;
    for family in Family::ALL {
        scene.becomes("port", family, "shared")?;
    }
    let healed = scene.site.mgmt.cable.heal();
    for moment in scene.moves_to("mgmt", healed, SOON)? {
        assert!(moment >= healed + PATIENCE, "did not wait for the port: {:?}", moment.since(healed));
    }
    for family in Family::ALL {
        scene.becomes("port", family, "gateway")?;
    }
    scene.finish()?;
    Ok(())
}

fn filters_icmp() -> Outcome {
    let scene = Scene::usual()?;
    let fault = scene.site.port.cable.fault(&[Fault::FiltersEcho]);
    scene.stays(4 * PATIENCE)?;
    for family in Family::ALL {
        let said = format!("{family}: the gateway does not answer icmp, set aside");
        scene.daemon.wait_for_log(&said, fault, SOON, |line| line.contains(&said))?;
        assert_eq!(scene.path("port", family)?["asked"], "neighbour");
        assert_eq!(scene.health("port", family)?, "up");
    }
    let silent = scene.site.port.cable.fault(&[Fault::Silent]);
    for moment in scene.moves_to("mgmt", silent, SOON)? {
        assert!(moment >= silent + PATIENCE / 2, "moved {:?} after the fault", moment.since(silent));
    }
    scene.finish()?;
    Ok(())
}

fn control_silent() -> Outcome {
    let scene = Scene::usual()?;
    let (site, pace) = (&scene.site, Duration::from_millis(5));
    let mut load = Vec::new();
    for address in [IpAddr::from(site.port.address4), site.port.address6.into()] {
        let stream = Stream::start(&site.internet, &site.worker, address, pace)?;
        stream.wait_for_arrival(now(), SOON)?;
        load.push(stream);
    }
    site.port.cable.fault(&[Fault::ControlSilent]);
    scene.stays(2 * PATIENCE)?;
    site.port.cable.heal();
    scene.stays(PATIENCE)?;
    let fault = site.port.cable.fault(&[Fault::ControlSilent]);
    let moved = scene.moves_to("mgmt", fault, SOON)?;
    for (family, moment) in Family::ALL.into_iter().zip(moved) {
        let answer = scene.last_answer("port", family)?;
        assert!(moment >= answer + 3 * PATIENCE, "moved {:?} after the last answer", moment.since(answer));
    }
    for stream in scene.finish()?.streams {
        assert!(stream.longest_gap() < PATIENCE, "it forwarded all the time: {:?}", stream.gaps);
    }
    Ok(())
}

fn slow() -> Outcome {
    let scene = Scene::usual()?;
    scene.site.port.cable.fault_towards(End::Worker, &[Fault::Delay(Duration::from_millis(300))]);
    scene.stays(5 * PATIENCE)?;
    for family in Family::ALL {
        assert_eq!(scene.health("port", family)?, "up");
    }
    scene.finish()?;
    Ok(())
}

fn flapping() -> Outcome {
    let scene = Scene::configured("return_after = \"5s\"")?;
    let begin = now();
    for _ in 0..5 {
        scene.site.port.cable.fault(&[Fault::Silent]);
        pass(2 * PATIENCE);
        scene.site.port.cable.heal();
        pass(2 * PATIENCE);
    }
    let changes = scene.lookups.report().changes;
    let moves: Vec<_> = changes.into_iter().filter(|change| change.at >= begin).collect();
    assert_eq!(moves.len(), 2, "one move in each family: {moves:?}");
    scene.leads_to("mgmt")?;
    scene.finish()?;
    Ok(())
}

fn damping() -> Outcome {
    let scene = Scene::configured("patience = \"500ms\"\nreturn_after = \"1s\"")?;
    for wait in [1, 2].map(Duration::from_secs) {
        let fault = scene.site.port.cable.fault(&[Fault::Silent]);
        scene.moves_to("mgmt", fault, SOON)?;
        let healed = scene.site.port.cable.heal();
        for moment in scene.moves_to("port", healed, SOON)? {
            assert!(moment >= healed + wait, "came back after {:?}, not {wait:?}", moment.since(healed));
        }
    }
    scene.finish()?;
    Ok(())
}
