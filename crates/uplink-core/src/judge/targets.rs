//! Judges what lies behind the gateway: the targets that the operator named.

use std::net::IpAddr;
use std::time::Duration;

use super::{Desk, TargetWay};
use crate::discover::Path;
use crate::event::{ProbeId, Question};
use crate::policy::{Need, Target};
use crate::snapshot::LinkIndex;
use crate::status::TargetStatus;
use crate::time::Instant;

/// A question to a target without an answer is late after this.
const LIMIT: Duration = Duration::from_secs(1);
/// A late target is asked again so often.
const CONFIRM: Duration = Duration::from_millis(250);
/// Without an answer for so long, counted from the first question without one, it does not answer.
const GIVEN_UP: Duration = Duration::from_secs(3);
/// Targets of a rival are asked so often while the upstream of the elected path is in doubt.
const DOUBT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Targets {
    targets: Vec<Watched>,
    need: Option<Need>,
    interval: Duration,
    /// The interface and address to ask by.
    by: Option<(LinkIndex, IpAddr)>,
    way: TargetWay,
}

#[derive(Debug)]
struct Watched {
    target: Target,
    answers: Option<bool>,
    next: Instant,
    asked_at: Option<Instant>,
    /// When the first question without an answer since the last answer was asked.
    unanswered: Option<Instant>,
    late: bool,
    /// The newest questions, few enough to look through.
    asks: Vec<(ProbeId, Instant)>,
    proved_at: Option<Instant>,
}

impl Targets {
    pub(super) fn set(&mut self, path: &Path, by: Option<(LinkIndex, IpAddr)>, way: TargetWay) {
        self.need = Some(path.need);
        self.interval = path.interval;
        if self.by != by || way == TargetWay::Elsewhere {
            self.forget();
        } else if way == TargetWay::Missing {
            self.void();
        }
        (self.by, self.way) = (by, way);
        if !self.targets.iter().map(|watched| watched.target).eq(path.targets.iter().copied()) {
            self.targets = path.targets.iter().map(|target| Watched::new(*target)).collect();
        }
    }

    /// What was learned by another way says nothing.
    pub(super) fn forget(&mut self) {
        for watched in &mut self.targets {
            *watched = Watched::new(watched.target);
        }
    }

    pub(super) fn any(&self) -> bool {
        !self.targets.is_empty()
    }

    pub(super) fn advance(&mut self, now: Instant, doubt: bool, desk: &mut Desk) {
        let Some((link, source)) = self.asked_by() else { return };
        for watched in &mut self.targets {
            let hurried = doubt && watched.asked_at.is_none_or(|at| now.since(at) >= DOUBT);
            watched
                .advance(now, hurried, self.interval, &mut |question| desk.ask(link, source, question, now));
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        let watched = self.targets.iter().filter(|_| self.asked_by().is_some());
        watched.map(Watched::deadline).min().unwrap_or(Instant::NEVER)
    }

    pub(super) fn answered(&mut self, id: ProbeId) -> bool {
        self.targets.iter_mut().any(|watched| watched.answered(id))
    }

    pub(super) fn unsent(&mut self, id: ProbeId) {
        self.targets.iter_mut().for_each(|watched| watched.unsent(id));
    }

    pub(super) fn void(&mut self) {
        self.targets.iter_mut().for_each(Watched::void);
    }

    /// Some cannot be asked now although they should be: the path is as it was.
    pub(super) fn unasked(&self) -> bool {
        self.any() && self.way == TargetWay::Missing
    }

    /// Whether enough targets answer; none while that is not known. Who cannot be asked is as he was, and
    /// not doubted if he was never judged.
    pub(super) fn verdict(&self) -> Option<bool> {
        match self.way {
            TargetWay::Stands => self.judged(),
            TargetWay::Missing | TargetWay::Elsewhere => self.judged().or(Some(true)),
        }
    }

    /// What the answers so far say. No targets: nothing to doubt.
    fn judged(&self) -> Option<bool> {
        let total = self.targets.len();
        let need = self.needed();
        let answering = self.targets.iter().filter(|watched| watched.answers == Some(true)).count();
        let failing = self.targets.iter().filter(|watched| watched.answers == Some(false)).count();
        if answering >= need {
            Some(true)
        } else if failing > total - need {
            Some(false)
        } else {
            None
        }
    }

    /// Since when so many targets are late that the others are too few.
    pub(super) fn suspected(&self) -> Option<Instant> {
        let late = self.targets.iter().filter(|watched| watched.late);
        let mut since: Vec<Instant> = late.filter_map(|watched| watched.unanswered).collect();
        since.sort_unstable();
        since.get(self.targets.len() - self.needed()).copied()
    }

    /// When the newest question to a target that has an answer was asked.
    pub(super) fn proved_at(&self) -> Option<Instant> {
        self.targets.iter().filter_map(|watched| watched.proved_at).max()
    }

    fn asked_by(&self) -> Option<(LinkIndex, IpAddr)> {
        self.by.filter(|_| self.way == TargetWay::Stands)
    }

    /// How many must answer.
    fn needed(&self) -> usize {
        let total = self.targets.len();
        match self.need.unwrap_or(Need::Any) {
            Need::Any => total.min(1),
            Need::All => total,
            Need::AtLeast(number) => usize::try_from(number).unwrap_or(total).min(total),
        }
    }

    pub(super) fn status(&self) -> Vec<TargetStatus> {
        self.targets
            .iter()
            .map(|watched| TargetStatus { target: watched.target, answers: watched.answers })
            .collect()
    }
}

impl Watched {
    fn new(target: Target) -> Self {
        Self {
            target,
            answers: None,
            next: Instant::BOOT,
            asked_at: None,
            unanswered: None,
            late: false,
            asks: Vec::new(),
            proved_at: None,
        }
    }

    fn advance(
        &mut self,
        now: Instant,
        hurried: bool,
        interval: Duration,
        ask: &mut impl FnMut(Question) -> Option<ProbeId>,
    ) {
        if let Some(since) = self.unanswered {
            if now >= since + LIMIT && !self.late {
                self.late = true;
                self.next = self.next.min(now);
            }
            if now >= since + GIVEN_UP {
                self.answers = Some(false);
            }
        }
        if now < self.next && !hurried {
            return;
        }
        let question = match self.target {
            Target::Icmp(address) => Question::Echo(address),
            Target::Tcp(address) => Question::Connect(address),
        };
        if let Some(id) = ask(question) {
            // What is older than the verdict needs can no longer change it.
            self.asks.retain(|(_, at)| now.since(*at) < GIVEN_UP + LIMIT);
            self.asks.push((id, now));
            self.asked_at = Some(now);
            self.unanswered = self.unanswered.or(Some(now));
        }
        let confirming = self.late && self.answers != Some(false);
        self.next = now + if confirming { CONFIRM } else { interval };
    }

    fn deadline(&self) -> Instant {
        let Some(since) = self.unanswered else {
            return self.next;
        };
        let verdict = if self.late { since + GIVEN_UP } else { since + LIMIT };
        if self.answers == Some(false) && self.late { self.next } else { self.next.min(verdict) }
    }

    fn answered(&mut self, id: ProbeId) -> bool {
        let Some((_, asked)) = self.asks.iter().find(|(ask, _)| *ask == id).copied() else {
            return false;
        };
        self.proved_at = self.proved_at.max(Some(asked));
        self.answers = Some(true);
        self.late = false;
        // What was asked after it may still be out, and counts unless it is void.
        self.asks.retain(|(_, at)| *at > asked);
        let since = self.unanswered;
        self.unanswered =
            self.asks.iter().map(|(_, at)| *at).find(|at| since.is_some_and(|since| *at >= since));
        true
    }

    /// It was not asked, which says nothing: what could not be sent may be our own fault, unlike the
    /// target's way, which is seen to stand.
    fn unsent(&mut self, id: ProbeId) {
        let Some(index) = self.asks.iter().position(|(ask, _)| *ask == id) else { return };
        let (_, asked) = self.asks.remove(index);
        if self.unanswered == Some(asked) {
            self.unanswered = None;
        }
    }

    /// The silence so far says nothing: it is asked anew, at once. A verdict stands until an answer, and
    /// with it the moment since when there is a fault.
    fn void(&mut self) {
        if self.unanswered.is_some() {
            self.next = Instant::BOOT;
        }
        if self.answers != Some(false) {
            self.unanswered = None;
            self.late = false;
        }
    }
}
