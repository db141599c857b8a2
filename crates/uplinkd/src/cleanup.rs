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
}

/// Removes every route, rule and nftables table of ours, in both families, and puts back the settings that
/// we changed; returns how many there were. To be called within the
/// runtime.
///
/// # Errors
/// See [`CleanupError`].
pub(crate) fn cleanup() -> Result<usize, CleanupError> {
    let (mut observer, mut applier) = (Observer::open()?, Applier::open()?);
    let mut removed = 0;
    for _ in 0..ROUNDS {
        let ops = left(observer.snapshot());
        if ops.is_empty() {
            break;
        }
        let outcomes = applier.carry_out(&ops);
        removed += outcomes.iter().filter(|outcome| **outcome == Outcome::Done).count();
        for (op, outcome) in ops.into_iter().zip(outcomes) {
            if let Outcome::Refused(_) = outcome {
                return Err(CleanupError::Refused { op: Box::new(op), outcome });
            }
        }
        observer.look_at_own()?;
    }
    Ok(removed)
}

/// What is ours: what a plan with nothing wanted would remove.
fn left(snapshot: &Snapshot) -> Vec<Op> {
    let policy = Policy::default();
    let plans = Family::ALL.map(|family| plan(snapshot, &policy, family, None, &[], &[]));
    plans.into_iter().flat_map(|plan| [plan.pin, plan.paths, plan.ways].concat()).collect()
}
