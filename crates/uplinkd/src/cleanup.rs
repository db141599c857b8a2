//! Removes what a daemon left that could not do so itself.

use uplink_core::event::Outcome;
use uplink_core::own::Op;
use uplink_core::plan::plan;
use uplink_core::policy::Policy;
use uplink_core::snapshot::{Family, Snapshot};

use crate::apply::{Applier, ApplyError};
use crate::observe::{ObserveError, Observer};

/// Others may write at the same moment: so often we look again.
const ROUNDS: usize = 3;

/// Why something of ours stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CleanupError {
    /// The kernel cannot be observed.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// Nothing can be written.
    #[error("failed to open a netlink socket to write routes: {0}")]
    Apply(#[from] ApplyError),
    /// The kernel refused.
    #[error("failed to {op}: {outcome}; run it as root, or with CAP_NET_ADMIN")]
    Refused {
        /// The operation.
        op: Box<Op>,
        /// What the kernel said.
        outcome: Outcome,
    },
    /// It looks like ours, and the kernel does not find it when it is asked to delete it.
    #[error("something of ours stays: tried in vain to {0}; delete it by hand")]
    Stays(Box<Op>),
}

/// Removes every route, rule and nftables table of ours, in both families, and puts back the settings that
/// we changed; returns how many there were. What cannot be removed keeps nothing else. To be called within
/// the runtime.
///
/// # Errors
/// See [`CleanupError`].
pub(crate) fn cleanup() -> Result<usize, CleanupError> {
    let (mut observer, mut applier) = (Observer::open()?, Applier::open()?);
    let mut removed = 0;
    let mut refused = None;
    for _ in 0..ROUNDS {
        refused = None;
        for ops in left(observer.snapshot()) {
            let outcomes = applier.carry_out(&ops);
            removed += outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
            let is_refused = |(_, outcome): &(Op, Outcome)| matches!(outcome, Outcome::Refused(_));
            refused = refused.or(ops.into_iter().zip(outcomes).find(is_refused));
        }
        observer.look_at_own()?;
        if left(observer.snapshot()).is_empty() {
            return Ok(removed);
        }
    }
    let stays = left(observer.snapshot()).into_iter().flatten().next();
    match (refused, stays) {
        (Some((op, outcome)), _) => Err(CleanupError::Refused { op: Box::new(op), outcome }),
        (None, Some(op)) => Err(CleanupError::Stays(Box::new(op))),
        (None, None) => Ok(removed),
    }
}

/// What would remove all that is ours: a plan with nothing wanted. Of what is together, each operation
/// needs those before it.
fn left(snapshot: &Snapshot) -> Vec<Vec<Op>> {
    let policy = Policy::default();
    let plans = Family::ALL.map(|family| plan(snapshot, &policy, family, None, &[], &[]));
    let parts = plans.into_iter().flat_map(|plan| [plan.pin, plan.paths, plan.ways]);
    parts.filter(|ops| !ops.is_empty()).collect()
}
