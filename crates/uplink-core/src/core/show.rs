//! The core's state as a status, for people and machines.

use super::tell::{gateway_of, health};
use super::{Core, FamilyState};
use crate::discover::{Path, PathKey, Uplink, Way};
use crate::event::Outcome;
use crate::judge::Standing;
use crate::paths::standing;
use crate::plan::current_pin;
use crate::policy::{Mode, PathRules};
use crate::status::{Aside, Cause, FamilyStatus, Obstacle, PathRulesState, PathStatus, Status, UplinkStatus};
use crate::time::Instant;

impl Core {
    /// Everything that is so, and why.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let family = |state: &FamilyState| {
            let (path_rules, obstacle) = self.path_rules_state(state, self.clock.awake(now));
            FamilyStatus {
                family: state.family,
                elected: state.election.elected().to_vec(),
                reason: state.election.reason(),
                since: state.since,
                pin: self.snapshot.as_ref().and_then(|snapshot| current_pin(snapshot, state.family)),
                aside: state.aside,
                path_rules,
                obstacle,
                undone_by: state.undone_by(),
            }
        };
        Status {
            now,
            mode: self.policy.mode,
            misconfigured: self.misconfigured.clone(),
            ready: self.ready,
            close_sockets: self.close_sockets_state(),
            families: self.families.iter().map(family).collect(),
            uplinks: self.uplinks.iter().map(|uplink| self.uplink(uplink)).collect(),
            changes: self.changes.iter().cloned().collect(),
        }
    }

    fn uplink(&self, uplink: &Uplink) -> UplinkStatus {
        UplinkStatus {
            name: uplink.name.clone(),
            interface: uplink.interface.clone(),
            tier: uplink.tier,
            paths: uplink.paths.iter().filter_map(|path| self.path(uplink, path)).collect(),
        }
    }

    fn path(&self, uplink: &Uplink, path: &Path) -> Option<PathStatus> {
        let key = PathKey { uplink: uplink.name.clone(), family: path.family };
        let judge = self.judges.get(&key)?;
        let (gateway, learned) = gateway_of(path);
        let unreadable = || {
            let snapshot = self.snapshot.as_ref()?;
            snapshot.leases.unreadable(snapshot.links.get(&uplink.link?)?).cloned()
        };
        let returning = judge.comeback().returning();
        Some(PathStatus {
            family: path.family,
            health: health(judge.standing(), self.family(path.family).election.shared()),
            gateway,
            learned,
            unreadable_lease: (path.way == Way::Broken(Cause::Gateway)).then(unreadable).flatten(),
            last_answer: judge.heard(),
            // A silence takes its questions out of the window: what is left says nothing.
            loss_percent: judge.loss_percent().filter(|_| judge.standing() != Standing::Silent),
            asked: judge.asked(),
            returns_at: judge.eligible_at(self.limits).filter(|_| returning).map(|at| self.clock.real(at)),
            targets: judge.target_status(),
            path_rules: self
                .snapshot
                .as_ref()
                .zip(path.hop.as_ref())
                .and_then(|(snapshot, hop)| standing(snapshot, path.family, hop.link)),
        })
    }

    /// Whether path rules are laid, and who keeps them from standing.
    pub(super) fn path_rules_state(
        &self,
        state: &FamilyState,
        now: Instant,
    ) -> (PathRulesState, Option<Obstacle>) {
        if self.policy.path_rules == PathRules::Off {
            return (PathRulesState::Off, None);
        }
        if self.policy.mode == Mode::Observe {
            return (PathRulesState::Observed, None);
        }
        if self.path_ways(state.family).is_empty() {
            return (PathRulesState::Needless, None);
        }
        if let Some(rule) = self.collision(state.family) {
            return (PathRulesState::ForeignMarks, Some(Obstacle::Rule(rule)));
        }
        let tracked = self.snapshot.as_ref().is_some_and(|snapshot| snapshot.tracking.in_use);
        let held = |why| [&state.paths, &state.ways].into_iter().find(|part| part.aside(now) == Some(why));
        match (tracked, &state.unmarked) {
            (true, Some(Outcome::Exists)) => return (PathRulesState::Taken, None),
            (true, Some(_)) => return (PathRulesState::Refused, None),
            (true, None) | (false, _) => {}
        }
        if let Some(contest) = held(Aside::Contest) {
            return (PathRulesState::Contest, contest.undone_by().cloned().map(Obstacle::Program));
        }
        if held(Aside::Rejected).is_some() {
            return (PathRulesState::Rejected, None);
        }
        (if tracked { PathRulesState::Connections } else { PathRulesState::Sources }, None)
    }
}
