//! The gateways of a path that are not in use. Each is judged by its own answers, so that it is known
//! to work before it is.

use std::net::IpAddr;

use super::gateway::Gateway;
use super::{Desk, Limits, Pace, Standing};
use crate::discover::{Path, Way};
use crate::event::{Answer, ProbeId};
use crate::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Spares(Vec<Spare>);

#[derive(Debug)]
struct Spare {
    gateway: Gateway,
    /// Its route is preferred to that of the gateway in use.
    preferred: bool,
}

impl Spares {
    /// As discovered now.
    pub(super) fn set(&mut self, path: &Path, now: Instant) {
        let Way::Gateway { link, .. } = path.way else { return self.0.clear() };
        let spares = path.spares.iter().map(|found| {
            let at = self.0.iter().position(|spare| spare.gateway.is(link, found.gateway, found.source));
            let mut gateway = at.map_or_else(
                || Gateway::spare(path.family, link, found.gateway, found.source, now),
                |at| self.0.swap_remove(at).gateway,
            );
            // A default route names it: it is trusted, whoever answers.
            gateway.expect(None, now);
            Spare { gateway, preferred: found.preferred }
        });
        self.0 = spares.collect();
    }

    /// The gateway that was in use until now. Goes if it is not discovered as one of the path's.
    pub(super) fn put(&mut self, mut gateway: Gateway, now: Instant, desk: &mut Desk) {
        gateway.becomes_spare(now, desk);
        self.0.push(Spare { gateway, preferred: false });
    }

    /// The gateway that is in use from now on, if it was one of these and works. One that does not has a
    /// patience of its own: the route of the other may be gone for the moment of a renewal only.
    pub(super) fn take(&mut self, way: &Way) -> Option<Gateway> {
        let Way::Gateway { link, gateway, source } = way else { return None };
        let at = self.0.iter().position(|spare| spare.gateway.is(*link, *gateway, *source))?;
        let mut gateway = self.0.swap_remove(at).gateway;
        gateway.is_taken();
        (gateway.standing() == Standing::Up).then_some(gateway)
    }

    pub(super) fn advance(&mut self, now: Instant, in_use: &Gateway, limits: Limits, desk: &mut Desk) {
        for Spare { gateway, .. } in &mut self.0 {
            gateway.advance_spare(now, pace(gateway, in_use), limits, desk);
        }
    }

    pub(super) fn deadline(&self, now: Instant, in_use: &Gateway, limits: Limits) -> Instant {
        let deadlines = self.0.iter().map(|Spare { gateway, preferred }| {
            let eligible = gateway.eligible_at(limits).filter(|at| *preferred && *at > now);
            gateway.deadline(now, pace(gateway, in_use), limits).min(eligible.unwrap_or(Instant::NEVER))
        });
        deadlines.min().unwrap_or(Instant::NEVER)
    }

    pub(super) fn answered(&mut self, answer: Answer, at: Instant, now: Instant, limits: Limits) -> bool {
        self.0.iter_mut().any(|spare| spare.gateway.answered(answer, at, now, limits))
    }

    pub(super) fn unsent(&mut self, id: ProbeId) {
        self.0.iter_mut().for_each(|spare| spare.gateway.unsent(id));
    }

    pub(super) fn void(&mut self) {
        self.0.iter_mut().for_each(|spare| spare.gateway.void());
    }

    /// The gateway that should be used instead of the one in use: where that is down, one that answered
    /// a question asked since it was suspected; where it is not, a preferred one that has been well for
    /// long enough.
    pub(super) fn instead_of(&self, in_use: &Gateway, now: Instant, limits: Limits) -> Option<IpAddr> {
        let down = matches!(in_use.standing(), Standing::Silent | Standing::Lossy);
        let proved = |gateway: &Gateway| in_use.suspected().is_some_and(|at| gateway.proved_at() >= Some(at));
        let eligible = |gateway: &Gateway| gateway.eligible_at(limits).is_some_and(|at| at <= now);
        let better = |spare: &&Spare| {
            spare.gateway.standing() == Standing::Up
                && if down { proved(&spare.gateway) } else { spare.preferred && eligible(&spare.gateway) }
        };
        self.0.iter().find(better).map(|spare| spare.gateway.address())
    }
}

/// As urgently as a rival is asked when the gateway in use is suspected.
fn pace(spare: &Gateway, in_use: &Gateway) -> Pace {
    let hopeful = spare.standing() != Standing::Silent;
    if in_use.suspected().is_some() && hopeful { Pace::Rival } else { Pace::Standby }
}
