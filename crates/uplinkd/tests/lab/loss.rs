//! Gateways that lose a share of what passes. Patience is short, so that the 40 ticks that are
//! looked back at take four seconds.

use std::time::Duration;

use libtest_mimic::Trial;
use uplink_core::snapshot::Family;
use uplink_lab::{End, Fault};

use crate::scene::{Outcome, SOON, Scene, trial};

const CONFIG: &str = "patience = \"400ms\"\nreturn_after = \"1s\"";

/// What the 40 ticks take, and as much again.
const TWO_WINDOWS: Duration = Duration::from_secs(8);

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("30 % loss: moves once, and does not flap", heavy_loss), trial("5 % loss: stays", light_loss)]
}

fn heavy_loss() -> Outcome {
    let scene = Scene::configured(CONFIG)?;
    let loss = Fault::Loss { percent: 30, seed: 1 };
    let fault = scene.site.port.cable.fault_towards(End::Worker, &[loss]);
    scene.moves_to("mgmt", fault, 3 * SOON)?;
    for family in Family::ALL {
        scene.becomes("port", family, "gateway")?;
    }
    scene.stays(TWO_WINDOWS)?;
    scene.leads_to("mgmt")?;
    scene.finish()?;
    Ok(())
}

fn light_loss() -> Outcome {
    let scene = Scene::configured(CONFIG)?;
    let loss = Fault::Loss { percent: 5, seed: 1 };
    scene.site.port.cable.fault_towards(End::Worker, &[loss]);
    scene.stays(TWO_WINDOWS)?;
    for family in Family::ALL {
        assert_eq!(scene.health("port", family)?, "up");
    }
    scene.finish()?;
    Ok(())
}
