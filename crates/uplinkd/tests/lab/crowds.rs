//! Hosts on which others do much: interfaces that come and go, and more news than there is room for. What
//! many routes cost is measured among the promises.

use std::time::Duration;

use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use uplink_lab::{End, Fault, Pods, now, pass};

use crate::scene::{Ending, Outcome, PATIENCE, PROMPT, SOON, Scene, trial};

/// Of a processor, in a debug build on a machine that is busy: several times what it takes.
const SHARE: f64 = 0.2;
/// So many routes that come and go, or changes of an interface, overflow a socket.
const FLOOD: u32 = 8000;
/// So often, so that a busy machine spoils no more than some of them.
const OVERRUNS: usize = 5;
/// With what is lost, a lost carrier is left as fast as without: in the median, by a debug build. Before, it took
/// 40 to 60 ms.
const AT_ONCE: Duration = Duration::from_millis(15);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("250 pods, and 1,000 a minute that come and go: a failover as promised, and little work", pods),
        trial("news overrun while the gateway falls silent: management after patience", overrun_in_silence),
        trial("news of routes overrun, a lost carrier among what is lost: management at once", || {
            overrun_hides_carrier(Flood::Routes)
        }),
        trial("news of links overrun, a lost carrier among what is lost: management at once", || {
            overrun_hides_carrier(Flood::Links)
        }),
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
    flood(&scene, Flood::Routes)?;
    let awake = scene.daemon.signal(Signal::SIGCONT)?;
    for moment in scene.moves_to("mgmt", fault, SOON)? {
        assert!(moment < awake + PATIENCE + PROMPT, "{:?} after it awoke", moment.since(awake));
    }
    scene.site.port.cable.heal();
    scene.finish()?;
    Ok(())
}

fn overrun_hides_carrier(what: Flood) -> Outcome {
    let scene = Scene::configured("return_after = \"0s\"")?;
    let mut moved = Vec::new();
    for _ in 0..OVERRUNS {
        flood(&scene, what)?;
        scene.site.port.cable.carrier(End::Worker, false)?;
        // It can do nothing before, and nobody has told it of the carrier.
        let awake = scene.daemon.signal(Signal::SIGCONT)?;
        moved.extend(scene.moves_to("mgmt", awake, SOON)?.map(|moment| moment.since(awake)));
        scene.site.port.cable.carrier(End::Worker, true)?;
        scene.leads_to("port")?;
    }
    let Ending { lateness, .. } = scene.finish()?;
    moved.sort_unstable();
    assert!(moved[OVERRUNS] < AT_ONCE + 4 * lateness.p99, "{moved:?} after it awoke; {lateness}");
    Ok(())
}

/// What others do more of than a sleeper's socket has room for the news of.
#[derive(Clone, Copy)]
enum Flood {
    /// Routes that name gateways.
    Routes,
    /// Interfaces that change.
    Links,
}

/// Stops the daemon, and lets others do that.
fn flood(scene: &Scene, what: Flood) -> Outcome {
    scene.daemon.signal(Signal::SIGSTOP)?;
    let before = scene.daemon.overruns()?;
    match what {
        Flood::Routes => scene.site.worker.flood_routes("mgmt", scene.site.mgmt.gateway4, FLOOD)?,
        Flood::Links => scene.site.worker.flood_links(FLOOD)?,
    }
    assert!(scene.daemon.overruns()? > before, "there was room for everything");
    Ok(())
}
