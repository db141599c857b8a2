//! Hops that the kernel refuses: a path by one is not used for the pin, and keeps no other from it.
//!
//! When a route of ours is refused and a hop can be the reason, each of its hops is tried alone and bare, in
//! a table that nobody looks up: that tells whose fault it is, and whether it is a hop's at all.

use std::io;

use super::FamilyState;
use crate::contest::Contest;
use crate::discover::{Path, Uplink, Way};
use crate::event::Outcome;
use crate::own::{Leg, Op, OwnRoute, TABLE_TRIAL};
use crate::plan::{current_pin, foreign_lead_to, is_pinned};
use crate::snapshot::{Attributes, Family, Hop, LinkIndex, Snapshot};
use crate::status::Cause;
use crate::time::Instant;

/// `ENODEV`, which has no kind in [`io::ErrorKind`]; the same number everywhere.
const ENODEV: i32 = 19;

/// What is known of a family's hops that the kernel refuses.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// To be tried now: a route by them was refused.
    suspects: Vec<OwnRoute>,
    refused: Vec<Refused>,
}

/// A hop that was tried alone, and when it is tried again.
#[derive(Debug)]
struct Refused {
    trial: OwnRoute,
    again: Contest,
}

impl Refusals {
    /// The kernel refused this operation: the hops that may be why, and are not known for it.
    pub(super) fn suspect(&mut self, op: &Op, outcome: &Outcome) {
        let Op::AddRoute(route) = op else { return };
        let hops = route.legs().iter().map(|leg| &leg.hop);
        for hop in hops.filter(|_| may_be_the_hop(outcome)) {
            if !self.is_refused(hop) {
                self.suspects.push(trial(route, hop));
            }
        }
    }

    /// The routes that are to be tried before anything else is written.
    pub(super) fn suspects(&self) -> &[OwnRoute] {
        &self.suspects
    }

    /// The refused ones that are to be tried again.
    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = &OwnRoute> {
        self.refused.iter().filter(move |refused| !refused.again.holds(now)).map(|refused| &refused.trial)
    }

    /// What the kernel said to one that was tried. Tells whether another hop is refused than before.
    pub(super) fn tried(&mut self, trial: &OwnRoute, outcome: &Outcome, now: Instant) -> bool {
        self.suspects.retain(|suspect| suspect != trial);
        let known = self.refused.iter().position(|refused| refused.trial == *trial);
        match (outcome, known) {
            // Whether there is room is asked last (`fib_table_insert` in net/ipv4/fib_trie.c, `fib6_add` in
            // net/ipv6/ip6_fib.c).
            (Outcome::Done | Outcome::Exists, Some(at)) => {
                self.refused.remove(at);
                true
            }
            (Outcome::Absent | Outcome::Refused(_), Some(at)) => {
                let refused = self.refused.get_mut(at);
                refused.into_iter().for_each(|refused| refused.again.refused(now));
                false
            }
            (outcome, None) => {
                let refused = may_be_the_hop(outcome);
                if refused {
                    let mut again = Contest::default();
                    again.refused(now);
                    self.refused.push(Refused { trial: trial.clone(), again });
                }
                refused
            }
        }
    }

    /// Whether the kernel takes no route of ours by this hop.
    pub(super) fn is_refused(&self, hop: &Hop) -> bool {
        self.refused.iter().any(|refused| refused.trial.leads_to(hop))
    }

    /// Something changed in the kernel, and not by us.
    pub(super) fn changed(&mut self, now: Instant) {
        self.refused.iter_mut().for_each(|refused| refused.again.changed(now));
    }

    /// Forgets hops that no path goes by any more, or goes by in another way.
    fn forget(&mut self, paths: &[&mut Path]) {
        self.refused.retain(|refused| paths.iter().any(|path| goes_by(path, &refused.trial)));
    }

    /// When one is to be tried again.
    pub(super) fn deadline(&self, now: Instant) -> Instant {
        self.refused.iter().map(|refused| refused.again.deadline(now)).min().unwrap_or(Instant::NEVER)
    }
}

impl FamilyState {
    /// Marks the paths by a refused hop. Who can do without a route of ours, because others' lead there or
    /// one of ours does already, goes on.
    pub(super) fn mark_refused(&mut self, snapshot: &Snapshot, uplinks: &mut [Uplink]) {
        let family = self.family;
        let elected = self.elected_links(uplinks);
        let mut paths: Vec<&mut Path> = uplinks
            .iter_mut()
            .flat_map(|uplink| &mut uplink.paths)
            .filter(|path| path.family == family)
            .collect();
        self.refusals.forget(&paths);
        for path in &mut paths {
            let Some(hop) = &path.hop else { continue };
            let broken = matches!(path.way, Way::Broken(_));
            if broken || !self.refusals.is_refused(hop) || stays_pinned(snapshot, family, hop, &elected) {
                continue;
            }
            if foreign_lead_to(snapshot, family, hop) {
                path.foreign_only = true;
            } else {
                path.way = Way::Broken(Cause::Refused);
            }
        }
    }

    /// The interfaces that the elected paths lead through.
    fn elected_links(&self, uplinks: &[Uplink]) -> Vec<LinkIndex> {
        let elected = uplinks.iter().filter(|uplink| self.election.is_elected(&uplink.name));
        let paths = elected.flat_map(|uplink| &uplink.paths).filter(|path| path.family == self.family);
        paths.filter_map(|path| path.hop.as_ref()).map(|hop| hop.link).collect()
    }
}

/// Whether the pin leads by this hop and can stay as it is: no member has fallen that it should leave.
fn stays_pinned(snapshot: &Snapshot, family: Family, hop: &Hop, elected: &[LinkIndex]) -> bool {
    let stays = |leg: &Leg| leg.hop == *hop || elected.contains(&leg.hop.link);
    let pin = current_pin(snapshot, family).filter(|_| is_pinned(snapshot, family, hop));
    pin.is_some_and(|pin| pin.legs().iter().all(stays))
}

/// Whether what was tried is how this path goes.
pub(super) fn goes_by(path: &Path, trial: &OwnRoute) -> bool {
    let alike = trial.attributes().onlink || !path.attributes.onlink;
    path.family == trial.family() && alike && path.hop.as_ref().is_some_and(|hop| trial.leads_to(hop))
}

/// The route by which a hop of `route` is tried.
fn trial(route: &OwnRoute, hop: &Hop) -> OwnRoute {
    let bare = Attributes { onlink: route.attributes().onlink, ..Attributes::default() };
    OwnRoute::new(route.family(), TABLE_TRIAL, 1, hop.clone(), bare)
}

/// Whether the kernel says this of hops (`fib_check_nh` in net/ipv4/fib_semantics.c, `fib6_nh_init` in
/// net/ipv6/route.c): not that we may not write, that there is no room or memory, or that the place is taken.
fn may_be_the_hop(outcome: &Outcome) -> bool {
    let Outcome::Refused(errno) = outcome else { return false };
    let kind = io::Error::from_raw_os_error(*errno).kind();
    *errno == ENODEV
        || matches!(
            kind,
            io::ErrorKind::InvalidInput
                | io::ErrorKind::NetworkDown
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
        )
}
