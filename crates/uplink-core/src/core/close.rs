//! Sockets that keep to the address of an uplink that is down: which are to be closed, and when.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::write::Applying;
use super::{Core, paths};
use crate::discover::PathKey;
use crate::event::{Closing, Output};
use crate::judge::Standing;
use crate::policy::Mode;
use crate::snapshot::{Family, LinkIndex};
use crate::status::{CloseSocketsState, Health, Notice};
use crate::time::Instant;

/// What is known of the sockets of paths that are or were elected.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// The elected paths' addresses when they were last seen: a path may be left because it lost them.
    held: BTreeMap<PathKey, Held>,
    left: Vec<Left>,
    /// The kernel closes no sockets.
    refused: bool,
}

#[derive(Debug, Clone)]
struct Held {
    link: LinkIndex,
    addresses: Vec<IpAddr>,
}

/// A path that was left because it is down, and when its sockets are to be closed.
#[derive(Debug)]
struct Left {
    key: PathKey,
    held: Held,
    due: Instant,
}

impl Sockets {
    /// An elected path fell and is left. Who was silent had his patience. A link or an address that is lost
    /// often comes back at once (a renewed lease, a loose cable), and connections live through that: it has
    /// one patience from now.
    pub(super) fn left(&mut self, key: &PathKey, standing: Standing, patience: Duration, now: Instant) {
        let due = match standing {
            Standing::Broken(_) => now + patience,
            Standing::Silent | Standing::Lossy | Standing::Upstream | Standing::Unknown | Standing::Up => now,
        };
        let left = self.held.remove(key).map(|held| Left { key: key.clone(), held, due });
        self.left.extend(left);
    }

    /// When the next sockets are to be closed.
    pub(super) fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.left.iter().map(|left| left.due)
    }
}

impl Core {
    /// Has sockets closed that are due, once what stands in the kernel was looked at: the way that a new
    /// connection takes tells which.
    pub(super) fn close_sockets(&mut self, now: Instant) {
        if self.close_sockets_state() != CloseSocketsState::On || self.stopping.is_some() {
            (self.sockets.held, self.sockets.left) = Default::default();
            return;
        }
        self.note_addresses();
        if self.applying != Applying::No {
            return;
        }
        let due: Vec<Left> = self.sockets.left.extract_if(.., |left| left.due <= now).collect();
        let closing: Vec<Closing> = due.into_iter().filter_map(|left| self.closing(left)).collect();
        self.outputs.extend(closing.into_iter().map(Output::CloseSockets));
    }

    pub(super) fn close_sockets_state(&self) -> CloseSocketsState {
        match (self.policy.close_sockets, self.policy.mode) {
            (false, _) | (_, Mode::Observe) => CloseSocketsState::Off,
            (true, Mode::Steer) if self.sockets.refused => CloseSocketsState::Refused,
            (true, Mode::Steer) => CloseSocketsState::On,
        }
    }

    pub(super) fn closed(&mut self, closing: Closing, sockets: usize, now: Instant) {
        let Closing { uplink, family, addresses, elected: _ } = closing;
        self.tell(Notice::Closed { uplink, family, addresses, sockets }, now);
    }

    /// Told once, until the configuration is read again.
    pub(super) fn cannot_close(&mut self, errno: i32, now: Instant) {
        if !self.sockets.refused {
            self.sockets.refused = true;
            self.tell(Notice::CannotClose(errno), now);
        }
    }

    fn note_addresses(&mut self) {
        let Some(snapshot) = &self.snapshot else { return };
        let elected: Vec<PathKey> = self.elected().collect();
        self.sockets.held.retain(|key, _| elected.contains(key));
        for (key, path) in paths(&self.uplinks).filter(|(key, _)| elected.contains(key)) {
            let Some(link) = path.hop.as_ref().map(|hop| hop.link) else { continue };
            let of_path = snapshot.addresses.iter().filter(|address| {
                address.link == link
                    && !address.link_local
                    && Family::of(address.prefix.address) == key.family
            });
            let addresses: Vec<IpAddr> = of_path.map(|address| address.prefix.address).collect();
            if !addresses.is_empty() {
                self.sockets.held.insert(key, Held { link, addresses });
            }
        }
    }

    /// What is to be closed of a path that was left; nothing if it is there again.
    fn closing(&self, left: Left) -> Option<Closing> {
        let Left { key, held: Held { link, mut addresses }, due: _ } = left;
        let snapshot = self.snapshot.as_ref()?;
        let judge = self.judges.get(&key);
        if judge.is_some_and(|judge| !matches!(judge.standing().health(), Health::Down(_))) {
            return None;
        }
        // An address that moved to another interface, a bridge say, is in use there.
        let elsewhere = |own: &IpAddr| {
            snapshot.addresses.iter().any(|other| other.link != link && other.prefix.address == *own)
        };
        addresses.retain(|own| !elsewhere(own));
        let PathKey { uplink, family } = key;
        let elected: Vec<PathKey> = self.elected().filter(|key| key.family == family).collect();
        let links = paths(&self.uplinks).filter(|(key, _)| elected.contains(key));
        let elected: Vec<LinkIndex> = links.filter_map(|(_, path)| Some(path.hop.as_ref()?.link)).collect();
        let any = !addresses.is_empty() && !elected.is_empty() && !elected.contains(&link);
        any.then_some(Closing { uplink, family, addresses, elected })
    }
}
