//! Hosts on which others do much: interfaces that come and go, and more news than there is room for. What
//! many routes cost is measured among the promises.

use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use uplink_lab::{End, Fault, Pods, now, pass};

use crate::scene::{Outcome, PATIENCE, PROMPT, SOON, Scene, trial};

/// Of a processor, in a debug build on a machine that is busy: several times what it takes.
const SHARE: f64 = 0.2;
/// So many routes that come and go overflow a socket.
const FLOOD: u32 = 8000;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("250 pods, and 1,000 a minute that come and go: a failover as promised, and little work", pods),
        trial("news overrun while the gateway falls silent: management after patience", overrun_in_silence),
        trial("news overrun, a lost carrier among what is lost: management at once", overrun_hides_carrier),
    ]
}

fn pods() -> Outcome {
    let scene = Scene::usual()?;
    let mut pods = Pods::start(&scene.site.worker, 250, 1000)?;
    let since = scene.changes.caught_up()?;
    let (begun, before, made) = (now(), scene.daemon.cost()?, pods.made());
    pass(2 * PATIENCE);
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    let moved = scene.moves_to("mgmt", fault, SOON)?;
    let (span, after) = (now().since(begun), scene.daemon.cost()?);
    let share = (after.cpu - before.cpu).div_duration_f64(span);
    assert!(pods.made() > made, "no pods came and went");
    pods.rest();
    assert!(share < SHARE, "{share} of a processor");
    for moment in moved {
        assert!(moment < fault + PATIENCE + PROMPT, "{:?} after the fault", moment.since(fault));
    }
    // One pin left in each family.
    assert_eq!(scene.pin_writes(since)?.len(), 2, "{:?}", scene.pin_writes(since)?);
    scene.site.port.cable.heal();
    scene.finish_changed()?;
    Ok(())
}

fn overrun_in_silence() -> Outcome {
    let scene = Scene::usual()?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    flood(&scene)?;
    let awake = scene.daemon.signal(Signal::SIGCONT)?;
    for moment in scene.moves_to("mgmt", fault, SOON)? {
        assert!(moment < awake + PATIENCE + PROMPT, "{:?} after it awoke", moment.since(awake));
    }
    scene.site.port.cable.heal();
    scene.finish()?;
    Ok(())
}

fn overrun_hides_carrier() -> Outcome {
    let scene = Scene::configured("patience = \"20s\"")?;
    flood(&scene)?;
    scene.site.port.cable.carrier(End::Worker, false)?;
    let awake = scene.daemon.signal(Signal::SIGCONT)?;
    for moment in scene.moves_to("mgmt", awake, SOON)? {
        // It would not have taken the silence for anything yet.
        assert!(moment < awake + PROMPT, "{:?} after it awoke", moment.since(awake));
    }
    scene.site.port.cable.carrier(End::Worker, true)?;
    scene.finish()?;
    Ok(())
}

/// Others change more routes that name gateways than a sleeper's socket has room for the news of.
fn flood(scene: &Scene) -> Outcome {
    scene.daemon.signal(Signal::SIGSTOP)?;
    let before = scene.daemon.overruns()?;
    scene.site.worker.flood_routes("mgmt", scene.site.mgmt.gateway4, FLOOD)?;
    assert!(scene.daemon.overruns()? > before, "there was room for everything");
    Ok(())
}
