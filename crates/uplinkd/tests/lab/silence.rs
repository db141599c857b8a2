//! Gateways that fall silent, wholly or in part.

use std::time::Duration;

use libtest_mimic::Trial;
use uplink_core::snapshot::Family;
use uplink_lab::{End, Fault, now};

use crate::scene::{Outcome, PATIENCE, SOON, Scene, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("silent gateway: management takes over after patience, the port comes back", silent_gateway),
        trial("both gateways silent: nothing moves, the cause is shared", both_silent),
    ]
}

fn silent_gateway() -> Outcome {
    let scene = Scene::configured("return_after = \"2s\"")?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    let moved = scene.moves_to("mgmt", fault, SOON)?;
    let sign = scene.site.port.cable.traffic(End::Worker).last.ok_or("nothing was ever heard")?;
    for moment in moved {
        assert!(moment >= sign + PATIENCE, "moved {:?} after the last sign of life", moment.since(sign));
    }
    scene.site.port.cable.heal();
    scene.moves_to("port", now(), SOON + SOON)?;
    scene.finish()?;
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
    uplink_lab::pass(Duration::from_millis(50));
    scene.site.port.cable.heal();
    scene.stays(2 * PATIENCE)?;
    scene.finish()?;
    Ok(())
}
