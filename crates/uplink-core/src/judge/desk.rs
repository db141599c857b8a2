//! What a judge may do to the world outside: ask questions and have interfaces watched.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::event::{Output, Probe, ProbeId, Question};
use crate::snapshot::{Family, LinkIndex};
use crate::time::Instant;

/// Never more than ten neighbour probes a second on an interface: Cisco's dynamic ARP inspection
/// shuts an untrusted port at fifteen. Each family has its own ten, or one would starve the other.
const BETWEEN_NEIGHBOURS: Duration = Duration::from_millis(100);

/// Collects the judges' wishes as outputs.
#[derive(Debug)]
pub(crate) struct Desk {
    next_id: u64,
    neighbours: BTreeMap<(LinkIndex, Family), Instant>,
    random: u64,
    outputs: Vec<Output>,
}

impl Desk {
    pub(crate) fn new(seed: u64) -> Self {
        Self { next_id: 1, neighbours: BTreeMap::new(), random: seed, outputs: Vec::new() }
    }

    /// Sends a question; none if the interface has had its share of neighbour probes for now.
    pub(super) fn ask(
        &mut self,
        link: LinkIndex,
        source: IpAddr,
        question: Question,
        now: Instant,
    ) -> Option<ProbeId> {
        if let Question::Neighbour(address) = question {
            let share = (link, Family::of(address));
            let last = self.neighbours.get(&share);
            if last.is_some_and(|last| now.since(*last) < BETWEEN_NEIGHBOURS) {
                return None;
            }
            self.neighbours.insert(share, now);
        }
        let id = ProbeId(self.next_id);
        self.next_id += 1;
        self.outputs.push(Output::Ask(Probe { id, link, source, question }));
        Some(id)
    }

    /// Watches the interface for one forwarded packet of the family.
    pub(super) fn watch(&mut self, link: LinkIndex, family: Family) {
        self.outputs.push(Output::Watch { link, family, except: Vec::new() });
    }

    /// Stops watching.
    pub(super) fn unwatch(&mut self, link: LinkIndex, family: Family) {
        self.outputs.push(Output::Unwatch { link, family });
    }

    /// A span between the two, so that probes do not fall into step with what they measure.
    pub(super) fn jitter(&mut self, least: Duration, most: Duration) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014): even, and the same for the same seed.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let part = u32::try_from((bits ^ (bits >> 31)) >> 54).unwrap_or(0);
        least + most.saturating_sub(least) * part / 1024
    }

    /// What has been wished for since the last call, in order.
    pub(crate) fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.outputs)
    }

    /// Forgets interfaces that are gone.
    pub(crate) fn retain(&mut self, keep: impl Fn(LinkIndex) -> bool) {
        self.neighbours.retain(|(link, _), _| keep(*link));
    }
}
