//! How many of the last ticks went unanswered.

use std::collections::VecDeque;
use std::time::Duration;

use super::Limits;
use crate::event::ProbeId;
use crate::time::Instant;

/// Ticks that are looked back at: ten seconds of the elected path at the default patience, a
/// resolution of 2.5 %.
const TICKS: usize = 40;
/// More than this many unanswered (20 %) is too lossy.
const TOO_MANY: usize = TICKS / 5;
/// At most this many unanswered (5 %) is well again.
const FEW: usize = TICKS / 20;

/// A window over the last ticks.
#[derive(Debug, Default)]
pub(super) struct Loss {
    samples: VecDeque<Sample>,
    lossy: bool,
    suspected: Option<Instant>,
    /// Samples that were found lost for good since somebody last took the count.
    fresh: u32,
}

#[derive(Debug)]
struct Sample {
    id: ProbeId,
    asked: Instant,
    state: State,
    /// It is lost for good, and was counted.
    counted: bool,
    /// An answer to any question came soon after.
    answer_near: bool,
    /// A forwarded packet came soon after.
    packet_near: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Pending,
    Answered,
    Lost,
}

impl Sample {
    /// A tick on which only packets were seen does not count: the gateway was busy forwarding.
    fn counts_as_lost(&self) -> bool {
        self.state == State::Lost && (self.answer_near || !self.packet_near)
    }
}

impl Loss {
    pub(super) fn asked(&mut self, id: ProbeId, now: Instant) {
        if self.samples.len() == TICKS {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            id,
            asked: now,
            state: State::Pending,
            counted: false,
            answer_near: false,
            packet_near: false,
        });
    }

    /// Loss is never final: a late answer turns it back, if it is known which question it answers.
    pub(super) fn answered(&mut self, id: ProbeId, now: Instant, near: Duration, names_question: bool) {
        for sample in self.samples.iter_mut().rev().take_while(|sample| now.since(sample.asked) <= near) {
            sample.answer_near = true;
        }
        if let Some(sample) = self.samples.iter_mut().find(|sample| sample.id == id)
            && (names_question || sample.state == State::Pending)
        {
            sample.state = State::Answered;
        }
    }

    pub(super) fn packet(&mut self, now: Instant, near: Duration) {
        for sample in self.samples.iter_mut().rev().take_while(|sample| now.since(sample.asked) <= near) {
            sample.packet_near = true;
        }
    }

    /// What is late is lost as far as is known, and for good when patience ends: on a long way every
    /// answer is late, and none is lost.
    pub(super) fn notice_late(&mut self, now: Instant, limits: Limits) {
        for sample in &mut self.samples {
            if sample.state == State::Pending && sample.asked + limits.late() <= now {
                sample.state = State::Lost;
            }
            if !sample.counted && sample.counts_as_lost() && sample.asked + limits.patience <= now {
                sample.counted = true;
                self.fresh += 1;
            }
        }
    }

    pub(super) fn unsent(&mut self, id: ProbeId) {
        self.samples.retain(|sample| sample.id != id);
    }

    /// Forgets what is out: nobody was awake to hear the answer.
    pub(super) fn void(&mut self) {
        self.samples.retain(|sample| sample.state != State::Pending);
    }

    /// What was asked since then is explained otherwise. What was lost before is not forgotten.
    pub(super) fn explained(&mut self, since: Instant) {
        self.samples.retain(|sample| sample.asked < since);
    }

    pub(super) fn weigh(&mut self, now: Instant) {
        let lost = self.lost();
        if lost > TOO_MANY {
            self.lossy = true;
        } else if lost <= FEW {
            self.lossy = false;
        }
        match (lost > TOO_MANY / 2, self.suspected) {
            (true, None) => self.suspected = Some(now),
            (false, Some(_)) => self.suspected = None,
            (true, Some(_)) | (false, None) => {}
        }
    }

    pub(super) const fn lossy(&self) -> bool {
        self.lossy
    }

    /// Since when it is half way to too lossy.
    pub(super) const fn suspected(&self) -> Option<Instant> {
        self.suspected
    }

    pub(super) fn percent(&self) -> Option<u32> {
        let known = self.samples.iter().filter(|sample| sample.state != State::Pending).count();
        (known > 0).then(|| u32::try_from(self.lost() * 100 / known).unwrap_or(100))
    }

    pub(super) fn take_fresh(&mut self) -> u32 {
        std::mem::take(&mut self.fresh)
    }

    fn lost(&self) -> usize {
        self.samples.iter().filter(|sample| sample.counts_as_lost()).count()
    }
}
