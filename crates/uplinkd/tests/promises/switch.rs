//! How fast the route leaves a path that fails, and what it costs to come back.
//!
//! The route's moment is the kernel's own message about it: management's default route is the best
//! foreign one, so leaving the port deletes our pin, and coming back adds it.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::{Family, protocol};
use uplink_core::time::Instant;
use uplink_lab::{Change, End, Fault, Flow, INTERNET4, Lag, STREAM_INTERVAL, Site, now, pass};

use crate::figures::Figures;
use crate::scene::{Outcome, PATIENCE, PCI, SOON, Scene, trial};

const RUNS: u32 = 20;
/// What a switch may take beyond patience.
const BEYOND: Duration = Duration::from_millis(100);
/// A run in which the machine was later than this measured the machine: it is made again.
const SPOILT: Duration = Duration::from_millis(50);
/// Coming back is damped by falls, and twenty would take hours: here a path that answers is taken.
const COMES_BACK: &str = "return_after = \"0s\"";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("silent gateway, patience 1 s: switched within patience + 100 ms, never before", || {
            silent_gateway(PATIENCE)
        }),
        trial("silent gateway, patience 300 ms: switched within patience + 100 ms, never before", || {
            silent_gateway(Duration::from_millis(300))
        }),
        trial("carrier loss: switched within a millisecond of the kernel's event", carrier_loss),
        trial("coming back loses no packet", comes_back),
        trial("coming back, masqueraded: a TCP flow is counted", masqueraded),
    ]
}

fn silent_gateway(patience: Duration) -> Outcome {
    let scene = scene(Site::new()?, &format!("{COMES_BACK}\npatience = \"{}ms\"", patience.as_millis()))?;
    let mut took = Vec::new();
    let mut lateness = Vec::new();
    let mut spoilt = 0;
    for run in 0.. {
        // The fault falls on every part of the time between two ticks.
        pass(patience / 2 + patience / 4 * (run % RUNS) / RUNS);
        let lag = Lag::start();
        let fault = scene.site.port.cable.fault(&[Fault::Silent]);
        let left = Family::ALL.map(|family| leaves(&scene, family, fault));
        let late = lag.stop().max;
        for (family, left) in Family::ALL.into_iter().zip(left) {
            let left = left?;
            let sign = scene.last_answer("port", family)?;
            let silent = left.since(sign);
            let slow = left.since(fault);
            let in_time = slow <= patience + BEYOND + late || late > SPOILT;
            if silent < patience || !in_time {
                return Err(scene.explain(&format!(
                    "run {run}, {family}: {slow:?} after the fault, {silent:?} after the last answer; \
                     the machine was {late:?} late"
                )));
            }
            if late <= SPOILT {
                took.push(slow);
            }
        }
        heard_what_came(&scene, patience, late)?;
        match late <= SPOILT {
            true => lateness.push(late),
            false => spoilt += 1,
        }
        let healed = scene.site.port.cable.heal();
        for family in Family::ALL {
            returns(&scene, family, healed)?;
        }
        if lateness.len() == RUNS as usize {
            break;
        }
        if spoilt > RUNS {
            return Err(
                format!("the machine is too busy to measure: {SPOILT:?} late in {spoilt} runs").into()
            );
        }
    }
    println!("silent gateway, patience {patience:?}, fault to switch: {}", Figures::of(took));
    println!("  the machine itself was late by: {}; {spoilt} runs made again", Figures::of(lateness));
    scene.finish()?;
    Ok(())
}

/// The daemon's own account of the last answer agrees with what the cable brought: it is at most one
/// tick older than the last frame, which may have been none of its own.
fn heard_what_came(scene: &Scene, patience: Duration, late: Duration) -> Outcome {
    let frame = scene.site.port.cable.traffic(End::Worker).last.ok_or("nothing ever came")?;
    for family in Family::ALL {
        let behind = frame.since(scene.last_answer("port", family)?);
        assert!(behind <= patience / 4 + BEYOND + late, "{family}: missed {behind:?} of life");
    }
    Ok(())
}

fn carrier_loss() -> Outcome {
    let scene = scene(Site::new()?, COMES_BACK)?;
    let cable = &scene.site.port.cable;
    let lag = Lag::start();
    let mut took = Vec::new();
    for _ in 0..RUNS {
        let cut = cable.carrier(End::Worker, false)?;
        let is_loss = |change: &Change| matches!(change, Change::Link { interface, carrier: false, .. } if interface == "port");
        let lost = scene.changes.wait_for("the loss of the port's carrier", cut, SOON, is_loss)?.at;
        for family in Family::ALL {
            took.push(leaves(&scene, family, cut)?.since(lost));
        }
        let given = cable.carrier(End::Worker, true)?;
        for family in Family::ALL {
            returns(&scene, family, given)?;
        }
    }
    let (took, late) = (Figures::of(took), lag.stop());
    println!("carrier loss, kernel's event to switch: {took}\n  the machine itself: {late}");
    assert!(took.rank(50) < Duration::from_millis(1) + late.median, "{took}; {late}");
    assert!(took.rank(95) < Duration::from_millis(5) + late.p99, "{took}; {late}");
    scene.finish()?;
    Ok(())
}

fn comes_back() -> Outcome {
    let scene = scene(Site::new()?, "return_after = \"1s\"")?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    for family in Family::ALL {
        leaves(&scene, family, fault)?;
    }
    let left = now();
    let healed = scene.site.port.cable.heal();
    let back = Family::ALL.map(|family| returns(&scene, family, healed));
    pass(PATIENCE);
    for ((family, back), stream) in Family::ALL.into_iter().zip(back).zip(scene.finish()?.streams) {
        let (outage, after) = (stream.longest_gap(), stream.gaps.iter().filter(|gap| gap.at >= left));
        println!(
            "{family}: {} packets, {} lost in an outage of {outage:?}, back {:?} after the gateway",
            stream.sent,
            stream.lost,
            back?.since(healed),
        );
        println!("  packets were sent {}", stream.lateness);
        assert_eq!(stream.overruns, 0, "the lab itself lost packets");
        assert_eq!(after.count(), 0, "lost after {left}: {:?}", stream.gaps);
    }
    Ok(())
}

fn masqueraded() -> Outcome {
    let site = Site::new()?;
    site.masquerade()?;
    let scene = scene(site, "return_after = \"1s\"")?;
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    leaves(&scene, Family::Ipv4, fault)?;
    let flow = Flow::start(&scene.site.worker, &scene.site.internet, INTERNET4.into())?;
    let healed = scene.site.port.cable.heal();
    let back = returns(&scene, Family::Ipv4, healed)?;
    pass(PATIENCE);
    let report = flow.stop();
    assert!(report.echoed > 0, "it never worked: {report:?}");
    let became = match report.broken {
        Some(end) => format!("broken {:?} after coming back: {}", end.at.since(back), end.what),
        None => format!("survived, longest silence {:?}", report.longest_silence),
    };
    println!("a masqueraded flow that began on management: {became}");
    scene.finish()?;
    Ok(())
}

/// A site with a lookup and a packet each millisecond, the port elected.
fn scene(site: Site, toml: &str) -> Result<Scene, Failed> {
    site.worker.give_pci("port", PCI)?;
    let scene = Scene::paced(site, toml, STREAM_INTERVAL)?;
    scene.leads_to("port")?;
    Ok(scene)
}

/// When the family's route left the port.
fn leaves(scene: &Scene, family: Family, since: Instant) -> Result<Instant, Failed> {
    first(scene, family, since, |change| matches!(change, Change::RouteDeleted(_)))
}

/// When the family's route came back to the port.
fn returns(scene: &Scene, family: Family, since: Instant) -> Result<Instant, Failed> {
    first(scene, family, since, |change| matches!(change, Change::RouteAdded(_)))
}

fn first(
    scene: &Scene,
    family: Family,
    since: Instant,
    is_it: fn(&Change) -> bool,
) -> Result<Instant, Failed> {
    let ours = |change: &Change| {
        let route = change.route();
        is_it(change)
            && route.is_some_and(|route| route.family == family && route.protocol == protocol::UPLINKD)
    };
    let what = format!("our {family} route's change");
    match scene.changes.wait_for(&what, since, SOON, ours) {
        Ok(change) => Ok(change.at),
        Err(error) => Err(scene.explain(&error.to_string())),
    }
}
