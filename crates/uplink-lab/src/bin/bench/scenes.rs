//! What is done to each contender, the same to all.

use std::time::Duration;

use uplink_core::time::Instant;
use uplink_lab::{Fault, Result, now, pass};

use crate::contenders::Contender;
use crate::readings::{Measure, NEVER, Sample};
use crate::stage::{MGMT, PORT, Stage};

/// A contender that has not left the port by then never will.
const SWITCH_BOUND: Duration = Duration::from_secs(30);
/// A contender that has not come back by then never will: longer, because coming back is to be slow.
const RETURN_BOUND: Duration = Duration::from_secs(60);
/// How long an outage lasts that is come back from.
const OUTAGE: Duration = Duration::from_secs(5);
/// How long is watched for what comes after.
const AFTERWARDS: Duration = Duration::from_secs(5);
/// A flapping gateway is silent for so long, and answers for so long.
const FLAP: Duration = Duration::from_secs(2);
/// How often it does both.
const FLAPS: usize = 5;
/// How long steady state is watched.
const STEADY: Duration = Duration::from_secs(20);

/// A scene.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene {
    /// What happens.
    pub(crate) title: &'static str,
    /// How often it is played for each contender.
    pub(crate) runs: usize,
    play: fn(&Contender) -> Result<Vec<Sample>>,
}

/// The quick selection.
pub(crate) const QUICK: [Scene; 7] = [
    Scene { title: "silent gateway", runs: 3, play: silent },
    Scene { title: "carrier loss", runs: 3, play: carrier },
    Scene { title: "interface down", runs: 1, play: down },
    Scene { title: "coming back", runs: 1, play: coming_back },
    Scene { title: "flapping gateway", runs: 1, play: flapping },
    Scene { title: "own route deleted", runs: 1, play: deleted },
    Scene { title: "steady state", runs: 1, play: steady },
];

impl Scene {
    /// Plays it once.
    pub(crate) fn play(&self, contender: &Contender) -> Result<Vec<Sample>> {
        (self.play)(contender)
    }
}

fn silent(contender: &Contender) -> Result<Vec<Sample>> {
    let stage = Stage::set(contender)?;
    let fault = stage.cable().fault(&[Fault::Silent]);
    switch(&stage, fault)
}

fn carrier(contender: &Contender) -> Result<Vec<Sample>> {
    let stage = Stage::set(contender)?;
    let fault = stage.cut()?;
    let mut samples = switch(&stage, fault)?;
    if let Some(announced) = stage.carrier_lost(fault) {
        let reaction = samples.iter().find(|sample| sample.0 == Measure::Switch);
        let reaction = reaction.map(|sample| sample.1 - millis(announced.since(fault)));
        samples.extend(reaction.map(|millis| Sample(Measure::Reaction, millis.max(0.0))));
    }
    Ok(samples)
}

fn down(contender: &Contender) -> Result<Vec<Sample>> {
    let stage = Stage::set(contender)?;
    let fault = stage.site.worker.set_up(PORT, false)?;
    switch(&stage, fault)
}

/// Leaves the port after a fault.
fn switch(stage: &Stage, fault: Instant) -> Result<Vec<Sample>> {
    let moved = stage.moves_to(MGMT, fault, SWITCH_BOUND)?;
    let loss = stage.losses(fault);
    // An outage that is not ended by a switch would go on for as long as the fault.
    let longest = if moved.is_some() { millis(loss.longest) } else { NEVER };
    Ok(vec![
        Sample(Measure::Switch, moved.map_or(NEVER, |at| millis(at.since(fault)))),
        Sample(Measure::Outage, longest),
        Sample(Measure::Lost, count(loss.packets)),
        overruns(stage),
    ])
}

fn coming_back(contender: &Contender) -> Result<Vec<Sample>> {
    let stage = Stage::set(contender)?;
    let fault = stage.cable().fault(&[Fault::Silent]);
    stage.moves_to(MGMT, fault, SWITCH_BOUND)?;
    pass(OUTAGE);
    let healed = stage.cable().heal();
    let back = stage.moves_to(PORT, healed, RETURN_BOUND)?;
    pass(AFTERWARDS);
    Ok(vec![
        Sample(Measure::Lost, count(stage.losses(healed).packets)),
        Sample(Measure::Moves, moves(&stage, healed)),
        Sample(Measure::Return, back.map_or(NEVER, |at| at.since(healed).as_secs_f64())),
        overruns(&stage),
    ])
}

fn flapping(contender: &Contender) -> Result<Vec<Sample>> {
    let stage = Stage::set(contender)?;
    let begun = now();
    for _ in 0..FLAPS {
        stage.cable().fault(&[Fault::Silent]);
        pass(FLAP);
        stage.cable().heal();
        pass(FLAP);
    }
    pass(AFTERWARDS);
    let loss = stage.losses(begun);
    Ok(vec![
        Sample(Measure::Lost, count(loss.packets)),
        Sample(Measure::Outage, millis(loss.longest)),
        Sample(Measure::Moves, moves(&stage, begun)),
        overruns(&stage),
    ])
}

fn deleted(contender: &Contender) -> Result<Vec<Sample>> {
    let stage = Stage::set(contender)?;
    let deleted = stage.delete_route()?;
    let back = stage.route_added(deleted, SWITCH_BOUND)?;
    Ok(vec![
        Sample(Measure::Restored, back.map_or(NEVER, |at| millis(at.since(deleted)))),
        Sample(Measure::Lost, count(stage.losses(deleted).packets)),
        overruns(&stage),
    ])
}

fn steady(contender: &Contender) -> Result<Vec<Sample>> {
    let Stage { running, stream, lookups, site, .. } = Stage::set(contender)?;
    // The lab's own work would only be in the way.
    drop((stream, lookups));
    let (begun, before) = (now(), running.cost()?);
    pass(STEADY);
    let (span, after) = (now().since(begun), running.cost()?);
    drop(site);
    let per_minute = 60.0 / span.as_secs_f64();
    // Asking took one number.
    let started = after.started - before.started - 1;
    Ok(vec![
        Sample(Measure::Cpu, millis(after.cpu.saturating_sub(before.cpu)) * per_minute),
        Sample(Measure::Resident, megabytes(after.resident)),
        Sample(Measure::Proportional, megabytes(after.proportional)),
        Sample(Measure::Started, count(started) * per_minute),
    ])
}

fn moves(stage: &Stage, since: Instant) -> f64 {
    count(u64::try_from(stage.moves(since)).unwrap_or(u64::MAX))
}

fn overruns(stage: &Stage) -> Sample {
    Sample(Measure::Overruns, count(stage.overruns()))
}

fn millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn megabytes(bytes: u64) -> f64 {
    count(bytes) / 1e6
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
const fn count(number: u64) -> f64 {
    number as f64
}
