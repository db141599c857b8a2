//! A daemon that is kept from running: it blames nobody for what it was not awake to hear.

use std::time::Duration;

use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use uplink_core::snapshot::Family;
use uplink_lab::{Fault, Load, now, pass};

use crate::scene::{Outcome, PATIENCE, SOON, Scene, trial};

const SHORT: Duration = Duration::from_millis(700);
const LONG: Duration = Duration::from_millis(1500);

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("stalls of 700 ms and 1.5 s, idle: nothing moves, nobody is blamed", idle),
        trial("stalls of 700 ms and 1.5 s under load: nothing moves, nobody is blamed", under_load),
        trial("gateway dies during a stall: moves once it was awake to ask", gateway_dies),
        trial("gateway dies, stalls of 150 ms go on: moves all the same", hiccups),
    ]
}

fn idle() -> Outcome {
    stalls(Scene::usual()?)
}

fn under_load() -> Outcome {
    let scene = Scene::usual()?;
    let _load = Load::start(4);
    stalls(scene)
}

fn stalls(scene: Scene) -> Outcome {
    let begin = scene.changes.caught_up()?;
    for span in [SHORT, LONG, SHORT, LONG] {
        scene.daemon.stall(span)?;
        scene.stays(PATIENCE)?;
        for family in Family::ALL {
            assert_eq!(scene.health("port", family)?, "up");
            assert_eq!(scene.health("mgmt", family)?, "up");
        }
    }
    let blame: Vec<_> = scene
        .daemon
        .log()
        .into_iter()
        .filter(|line| line.at >= begin && line.what.contains("→ down"))
        .collect();
    assert!(blame.is_empty(), "{blame:?}");
    assert_eq!(scene.writes(begin)?, []);
    let ending = scene.finish()?;
    assert!(ending.streams.iter().all(|stream| stream.lost == 0), "packets were lost: {ending:?}");
    Ok(())
}

fn gateway_dies() -> Outcome {
    let scene = Scene::usual()?;
    scene.daemon.signal(Signal::SIGSTOP)?;
    scene.site.port.cable.fault(&[Fault::Silent]);
    pass(LONG);
    let awake = scene.daemon.signal(Signal::SIGCONT)?;
    for moment in scene.moves_to("mgmt", awake, SOON)? {
        // It heard an answer at most one tick before it was stopped.
        assert!(moment >= awake + PATIENCE / 2, "moved {:?} after it awoke", moment.since(awake));
    }
    scene.finish()?;
    Ok(())
}

/// Awake half of the time only, and never for as long as a probe may take: its answer would wait.
fn hiccups() -> Outcome {
    const HICCUP: Duration = Duration::from_millis(150);
    let scene = Scene::usual()?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    let end = fault + 4 * PATIENCE;
    while now() < end {
        scene.daemon.stall(HICCUP)?;
        pass(HICCUP);
    }
    for moment in scene.moves_to("mgmt", fault, SOON)? {
        assert!(moment < end, "moved only once it was left alone, {:?} after the fault", moment.since(fault));
    }
    scene.finish()?;
    Ok(())
}
