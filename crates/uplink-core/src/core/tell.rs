//! What people should be told, and when.

use std::net::IpAddr;

use super::{Core, Hindered};
use crate::discover::{Path, Uplink};
use crate::event::Output;
use crate::judge::Standing;
use crate::snapshot::Family;
use crate::status::{Cause, Change, GatewaySource, Health, Notice, Obstacle};
use crate::time::Instant;

/// Changes that `status` still shows.
const CHANGES: usize = 32;

impl Core {
    pub(super) fn tell(&mut self, notice: Notice, now: Instant) {
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(Change { at: self.clock.real(now), notice: notice.clone() });
        self.outputs.push_back(Output::Notice(notice));
    }

    pub(super) fn tell_uplinks(&mut self, before: &[Uplink], now: Instant) {
        let mut notices = Vec::new();
        for uplink in &self.uplinks {
            let old = before.iter().find(|old| old.name == uplink.name);
            if old.map(|old| &old.interface) != Some(&uplink.interface) && (old.is_some() || uplink.expected)
            {
                notices.push(Notice::Interface {
                    uplink: uplink.name.clone(),
                    interface: uplink.interface.clone(),
                });
            }
            for path in &uplink.paths {
                let old = old.and_then(|old| old.paths.iter().find(|old| old.family == path.family));
                let (gateway, learned) = gateway_of(path);
                if old.map(|old| gateway_of(old).0) != Some(gateway) {
                    let (uplink, family) = (uplink.name.clone(), path.family);
                    notices.push(Notice::Gateway { uplink, family, gateway, learned });
                }
            }
        }
        for notice in notices {
            self.tell(notice, now);
        }
    }

    pub(super) fn tell_health(&mut self, now: Instant) {
        let mut notices = Vec::new();
        for (key, judge) in &mut self.judges {
            let shared =
                self.families.iter().any(|state| state.family == key.family && state.election.shared());
            let health = health(judge.standing(), shared);
            if let Some(before) = judge.tell(health) {
                let silent_for = judge.last_sign().map(|sign| now.since(sign));
                let (uplink, family) = (key.uplink.clone(), key.family);
                notices.push(Notice::Health { uplink, family, before, now: health, silent_for });
            }
            if let Some(kind) = judge.take_set_aside() {
                notices.push(Notice::SetAside { uplink: key.uplink.clone(), family: key.family, kind });
            }
            if let Some(mac) = judge.take_stranger() {
                notices.push(Notice::Stranger { uplink: key.uplink.clone(), family: key.family, mac });
            }
        }
        for notice in notices {
            self.tell(notice, now);
        }
    }

    /// What keeps path rules from standing is told when it begins, when more of it is known, and when it is
    /// over.
    pub(super) fn tell_path_rules(&mut self, now: Instant) {
        if self.stopping.is_some() {
            return;
        }
        for family in Family::ALL {
            let (state, obstacle) = self.path_rules_state(self.family(family), now);
            let hindered = state.is_hindered().then(|| (state, obstacle.clone()));
            let Some(told) = self.families.iter_mut().find(|told| told.family == family) else { continue };
            if is_news(told.hindered.as_ref(), hindered.as_ref()) {
                told.hindered = hindered;
                self.tell(Notice::PathRules { family, state, obstacle }, now);
            }
        }
    }
}

/// A script is many processes: one that is named is enough.
fn is_news(told: Option<&Hindered>, now: Option<&Hindered>) -> bool {
    let (Some((before, known)), Some((after, obstacle))) = (told, now) else { return told != now };
    let more = match (known, obstacle) {
        (_, None) => false,
        (Some(Obstacle::Program(known)), Some(Obstacle::Program(undone))) => {
            known.by.name.is_none() && undone.by.name.is_some()
        }
        (known, obstacle) => known != obstacle,
    };
    before != after || more
}

/// A path is not to blame while nobody answers well.
pub(super) fn health(standing: Standing, shared: bool) -> Health {
    match standing {
        Standing::Silent | Standing::Lossy | Standing::Upstream if shared => Health::Down(Cause::Shared),
        standing => standing.health(),
    }
}

pub(super) fn gateway_of(path: &Path) -> (Option<IpAddr>, Option<GatewaySource>) {
    (path.hop.as_ref().and_then(|hop| hop.gateway), path.learned)
}
