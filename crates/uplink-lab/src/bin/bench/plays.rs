//! What is done to each contender, the same to all.

use std::time::Duration;

use uplink_core::time::Instant;
use uplink_lab::{Churn, Churned, Fault, Result, now, pass};

use crate::readings::{Measure, NEVER, Sample, median};
use crate::stage::{MGMT, PORT, Stage};

/// A contender that has not left the port by then never will.
const SWITCH_BOUND: Duration = Duration::from_secs(18);
/// A contender that has not come back by then never will: longer, because coming back is to be slow.
const RETURN_BOUND: Duration = Duration::from_secs(90);
/// How long an outage lasts that is come back from.
const OUTAGE: Duration = Duration::from_secs(5);
/// How long is watched for what comes after.
const AFTERWARDS: Duration = Duration::from_secs(4);
/// A flapping gateway is silent for so long, and answers for so long.
const FLAP: Duration = Duration::from_secs(2);
/// How often it does both.
const FLAPS: usize = 5;
/// How long loss lasts, and which frames it takes.
const LOSSY: Duration = Duration::from_secs(15);
const SEED: u64 = 7;
/// How long a renewal is watched: several rounds of all contenders.
const RENEWED: Duration = Duration::from_secs(8);
/// How long nothing happens before a fault, after another is over: routes that were read back were so long
/// ago. A tick of ours is not always as far away.
const REST: Duration = Duration::from_millis(500);
const TICK: Duration = Duration::from_millis(250);
/// No more turns are begun then.
const LONG_ENOUGH: Duration = Duration::from_secs(60);
/// How long steady state is watched.
const STEADY: Duration = Duration::from_secs(15);

/// The gateway is silent, and nothing else is wrong.
pub(crate) fn silent(stage: Stage) -> Result<Vec<Sample>> {
    Trouble::Silence.strike(&stage)
}

/// The cable is pulled.
pub(crate) fn carrier(stage: Stage) -> Result<Vec<Sample>> {
    Trouble::Carrier.strike(&stage)
}

/// A fault that comes and goes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Trouble {
    /// The gateway is silent, and nothing else is wrong.
    Silence,
    /// The cable is pulled.
    Carrier,
}

impl Trouble {
    /// It comes.
    pub(crate) fn strike(self, stage: &Stage) -> Result<Vec<Sample>> {
        let fault = match self {
            Self::Silence => stage.cable().fault(&[Fault::Silent]),
            Self::Carrier => stage.cut()?,
        };
        let mut samples = switch(stage, fault)?;
        if let Some(announced) = stage.carrier_lost(fault) {
            let reaction = samples.iter().find(|sample| sample.0 == Measure::Switch);
            let reaction = reaction.map(|sample| sample.1 - millis(announced.since(fault)));
            samples.extend(reaction.map(|millis| Sample(Measure::Reaction, millis.max(0.0))));
        }
        Ok(samples)
    }

    /// It goes; waits until the port is in use again, if it was left.
    fn end(self, stage: &Stage, left: bool) -> Result<()> {
        let healed = match self {
            Self::Silence => stage.cable().heal(),
            Self::Carrier => stage.mend()?,
        };
        if left {
            stage.moves_to(PORT, healed, RETURN_BOUND)?;
        }
        Ok(())
    }

    /// It comes and goes, after a rest.
    fn pass_by(self, stage: &Stage, rest: Duration) -> Result<Vec<Sample>> {
        pass(rest);
        let samples = self.strike(stage)?;
        self.end(stage, samples.iter().any(|sample| sample.0 == Measure::Switch && sample.1 < NEVER))?;
        Ok(samples)
    }
}

/// The same fault by turns in the crowd and on an empty host, so many times each, unless that takes too
/// long. While it is the empty host's turn nobody changes routes.
pub(crate) fn by_turns(crowded: &Stage, empty: &Stage, trouble: Trouble, turns: u32) -> Result<Vec<Sample>> {
    let begun = now();
    let (mut among, mut alone) = (Vec::new(), Vec::new());
    for turn in 0..turns {
        // The fault falls on every part of the time between two questions.
        let rest = REST + TICK * turn / turns;
        crowded.calm(false);
        among.extend(trouble.pass_by(crowded, rest)?);
        crowded.calm(true);
        alone.extend(trouble.pass_by(empty, rest)?);
        if now().since(begun) > LONG_ENOUGH {
            break;
        }
    }
    Ok(compared(among, &alone))
}

/// What was measured in the crowd, and beside it the same of an empty host.
fn compared(mut among: Vec<Sample>, alone: &[Sample]) -> Vec<Sample> {
    let switch = |samples: &[Sample]| {
        median(samples.iter().filter(|sample| sample.0 == Measure::Switch).map(|sample| sample.1))
    };
    let times = switch(&among) / switch(alone);
    let names = [
        (Measure::Switch, Measure::SwitchAlone),
        (Measure::Reaction, Measure::ReactionAlone),
        (Measure::Overruns, Measure::Overruns),
    ];
    for (measure, name) in names {
        let same = alone.iter().filter(|sample| sample.0 == measure);
        among.extend(same.map(|sample| Sample(name, sample.1)));
    }
    among.extend(times.is_finite().then_some(Sample(Measure::TimesAlone, times)));
    among
}

/// Somebody sets the interface down: the kernel itself removes its routes.
pub(crate) fn down(stage: Stage) -> Result<Vec<Sample>> {
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

/// The gateway answers again after an outage.
pub(crate) fn coming_back(stage: Stage) -> Result<Vec<Sample>> {
    let fault = stage.cable().fault(&[Fault::Silent]);
    stage.moves_to(MGMT, fault, SWITCH_BOUND)?;
    pass(OUTAGE);
    let healed = stage.cable().heal();
    let back = stage.moves_to(PORT, healed, RETURN_BOUND)?;
    pass(AFTERWARDS);
    Ok(vec![
        Sample(Measure::Lost, count(stage.losses(healed).packets)),
        Sample(Measure::Needless, beyond_one(&stage, healed)),
        Sample(Measure::Return, back.map_or(NEVER, |at| at.since(healed).as_secs_f64())),
        overruns(&stage),
    ])
}

/// Three frames of ten are lost, each way.
pub(crate) fn loss_30(stage: Stage) -> Result<Vec<Sample>> {
    loss(&stage, 30)
}

/// Every second frame is lost, each way.
pub(crate) fn loss_50(stage: Stage) -> Result<Vec<Sample>> {
    loss(&stage, 50)
}

fn loss(stage: &Stage, percent: u8) -> Result<Vec<Sample>> {
    let fault = stage.cable().fault(&[Fault::Loss { percent, seed: SEED }]);
    pass(LOSSY);
    let moved = stage.moves_to(MGMT, fault, Duration::ZERO)?;
    let lost = stage.losses(fault);
    Ok(vec![
        Sample(Measure::Switch, moved.map_or(NEVER, |at| millis(at.since(fault)))),
        Sample(Measure::Lost, count(lost.packets)),
        Sample(Measure::Outage, millis(lost.longest)),
        Sample(Measure::Needless, beyond_one(stage, fault)),
        overruns(stage),
    ])
}

/// The lease is renewed as it was, once or twice: nothing is to happen.
pub(crate) fn renewal(stage: Stage) -> Result<Vec<Sample>> {
    let renewed = stage.renewal()?;
    after_lease(&stage, renewed)
}

/// A client begins anew while the gateway is silent, after the contender left it: it is
/// to stay where it is.
pub(crate) fn renewal_in_outage(stage: Stage) -> Result<Vec<Sample>> {
    let fault = stage.cable().fault(&[Fault::Silent]);
    stage.moves_to(MGMT, fault, SWITCH_BOUND)?;
    pass(OUTAGE);
    let renewed = stage.lay_anew()?;
    after_lease(&stage, renewed)
}

/// Address and route go and come back at once. Where the way leads then is not judged: both work.
pub(crate) fn laid_anew(stage: Stage) -> Result<Vec<Sample>> {
    let renewed = stage.lay_anew()?;
    let mut samples = after_lease(&stage, renewed)?;
    samples.retain(|sample| sample.0 != Measure::Needless);
    Ok(samples)
}

fn after_lease(stage: &Stage, laid: Instant) -> Result<Vec<Sample>> {
    pass(RENEWED);
    let lost = stage.losses(laid);
    Ok(vec![
        Sample(Measure::Lost, count(lost.packets)),
        Sample(Measure::Outage, millis(lost.longest)),
        Sample(Measure::Needless, moves(stage, laid)),
        overruns(stage),
    ])
}

/// The gateway is silent and answers, in turn.
pub(crate) fn flapping(stage: Stage) -> Result<Vec<Sample>> {
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
        Sample(Measure::Needless, beyond_one(&stage, begun)),
        overruns(&stage),
    ])
}

/// Somebody deletes the default route that is in use.
pub(crate) fn deleted(stage: Stage) -> Result<Vec<Sample>> {
    let deleted = stage.delete_route()?;
    let back = stage.route_added(deleted, SWITCH_BOUND)?;
    Ok(vec![
        Sample(Measure::Restored, back.map_or(NEVER, |at| millis(at.since(deleted)))),
        Sample(Measure::Lost, count(stage.losses(deleted).packets)),
        overruns(&stage),
    ])
}

/// Nothing happens.
pub(crate) fn steady(stage: Stage) -> Result<Vec<Sample>> {
    let Stage { running, churn, stream, lookups, site, .. } = stage;
    // The lab's own work would only be in the way.
    drop((stream, lookups));
    let (begun, before, others) = (now(), running.cost()?, churn.as_ref().map(Churn::so_far));
    pass(STEADY);
    let (span, after) = (now().since(begun), running.cost()?);
    let with_it = churn.as_ref().zip(others).map(|(churn, others)| pace(churn, others));
    drop(running);
    let per_minute = 60.0 / span.as_secs_f64();
    // Asking took one number.
    let started = after.started - before.started - 1;
    let mut samples = vec![
        Sample(Measure::Cpu, millis(after.cpu.saturating_sub(before.cpu)) * per_minute),
        Sample(Measure::Resident, megabytes(after.resident)),
        Sample(Measure::Proportional, megabytes(after.proportional)),
        Sample(Measure::Started, count(started) * per_minute),
    ];
    if let Some((churn, with_it)) = churn.as_ref().zip(with_it) {
        let others = churn.so_far();
        pass(STEADY);
        let without = pace(churn, others);
        let a_minute = with_it.changes * per_minute;
        samples.push(Sample(Measure::Caused, (with_it.each - without.each).max(0.0) * a_minute));
        samples.push(Sample(Measure::Churn, with_it.changes / span.as_secs_f64()));
    }
    drop(site);
    Ok(samples)
}

/// How many changes somebody else made, and how many milliseconds of processor time each took.
struct Pace {
    changes: f64,
    each: f64,
}

fn pace(churn: &Churn, before: Churned) -> Pace {
    let after = churn.so_far();
    let changes = count(after.changes - before.changes);
    Pace { changes, each: millis(after.cpu.saturating_sub(before.cpu)) / changes.max(1.0) }
}

fn moves(stage: &Stage, since: Instant) -> f64 {
    count(u64::try_from(stage.moves(since)).unwrap_or(u64::MAX))
}

/// Changes of the way where one is right.
fn beyond_one(stage: &Stage, since: Instant) -> f64 {
    (moves(stage, since) - 1.0).max(0.0)
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
