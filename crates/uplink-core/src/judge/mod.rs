//! Judges a path: from answers, silence and time to its standing.
//!
//! ```text
//!             first answer                 late probe: suspect,
//!   Unknown ────────────────▶ Up ◀───────▶ confirm, watch
//!      │                      │ ▲              │
//!      │ patience, 3 asked    │ │ an answer    │ patience, 3 unanswered
//!      ▼                      ▼ │              ▼
//!    Silent              Lossy, Upstream     Silent
//! ```

mod comeback;
mod desk;
mod gateway;
mod loss;
mod spares;
mod targets;

use std::net::IpAddr;
use std::time::Duration;

use crate::discover::{Path, Way};
use crate::event::{Answer, ProbeId};
use crate::memory::Remembered;
use crate::snapshot::Mac;
use crate::status::{Cause, Health, Kind, TargetStatus};
use crate::time::Instant;

pub(crate) use comeback::Comeback;
pub(crate) use desk::Desk;
use gateway::Gateway;
use spares::Spares;
use targets::Targets;

/// What the judge makes of a path now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It cannot be used at all.
    Broken(Cause),
    /// Not judged yet.
    Unknown,
    /// It answers.
    Up,
    /// It answers too seldom.
    Lossy,
    /// It gives no sign of life.
    Silent,
    /// The gateway answers, the targets do not.
    Upstream,
}

impl Standing {
    pub(crate) const fn health(self) -> Health {
        match self {
            Self::Unknown => Health::Unknown,
            Self::Up => Health::Up,
            Self::Broken(cause) => Health::Down(cause),
            Self::Lossy | Self::Silent => Health::Down(Cause::Gateway),
            Self::Upstream => Health::Down(Cause::Upstream),
        }
    }
}

/// How urgently a path is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Every second.
    Standby,
    /// Every quarter of patience: the elected path, and whatever is not judged yet.
    Quick,
    /// As standby, and every 100 ms as the rival of a suspected path.
    Rival,
}

/// Whether questions to a path's targets would leave by the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TargetWay {
    /// Yes.
    Stands,
    /// Not now: our rules or route are held back, refused, or were taken away.
    #[default]
    Missing,
    /// No: we write nothing, and the host's own default route leads elsewhere.
    Elsewhere,
}

/// The limits that the operator chose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) patience: Duration,
    pub(crate) return_after: Duration,
    /// 0 to 1023: this machine's share of the tenth that is added to `return_after`.
    pub(crate) spread: u32,
}

impl Limits {
    /// The time between two ticks of the elected path.
    fn tick(self) -> Duration {
        self.patience / 4
    }

    /// The age at which a probe without an answer is late.
    fn late(self) -> Duration {
        self.patience / 4
    }
}

/// One path's judge. It outlives the path's interface, so that a fall is not forgotten.
#[derive(Debug)]
pub(crate) struct Judge {
    way: Way,
    gateway: Option<Gateway>,
    spares: Spares,
    targets: Targets,
    comeback: Comeback,
    standing: Standing,
    /// The kernel's stamp of the gateway's last answer: real time, not awake time.
    heard: Option<Instant>,
    /// The health that people were told last; none before it is discovered for the first time.
    told: Option<Health>,
}

impl Judge {
    /// The judge of a path that is remembered from before `now`.
    pub(crate) fn remembered(path: &Remembered, now: Instant) -> Self {
        Self { comeback: Comeback::remembered(path, now), ..Self::new() }
    }

    pub(crate) fn new() -> Self {
        Self {
            way: Way::Broken(Cause::Link),
            gateway: None,
            spares: Spares::default(),
            targets: Targets::default(),
            comeback: Comeback::default(),
            standing: Standing::Broken(Cause::Link),
            heard: None,
            told: None,
        }
    }

    /// The path as discovered now, and whether its targets can be asked.
    pub(crate) fn discovered(&mut self, path: &Path, targets: TargetWay, now: Instant, desk: &mut Desk) {
        self.told.get_or_insert(Health::Unknown);
        if self.way != path.way {
            self.heard = None;
            let next = self.spares.take(&path.way);
            if let Some(before) = self.gateway.take() {
                self.spares.put(before, now, desk);
            }
            self.gateway = match path.way {
                Way::Gateway { link, gateway, source, .. } => {
                    Some(next.unwrap_or_else(|| Gateway::new(path.family, link, gateway, source, now)))
                }
                Way::Broken(_) | Way::Link(_) => None,
            };
            self.targets.forget();
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.expect(path.mac, now);
        }
        self.way = path.way.clone();
        self.spares.set(path, now);
        let by = path.hop.as_ref().map(|hop| hop.link).zip(path.source);
        self.targets.set(path, by.filter(|_| !matches!(path.way, Way::Broken(_))), targets);
    }

    /// The path is not discovered any more.
    pub(crate) fn vanished(&mut self, desk: &mut Desk) {
        self.way = Way::Broken(Cause::Link);
        if let Some(mut gateway) = self.gateway.take() {
            gateway.rest(desk);
        }
        self.spares = Spares::default();
        self.targets.forget();
    }

    /// Does what is due: asks, suspects, gives a verdict.
    pub(crate) fn advance(
        &mut self,
        now: Instant,
        pace: Pace,
        upstream_doubt: bool,
        limits: Limits,
        desk: &mut Desk,
    ) {
        if let Some(gateway) = &mut self.gateway {
            gateway.advance(now, pace, limits, desk);
            self.spares.advance(now, gateway, limits, desk);
        }
        self.targets.advance(now, upstream_doubt, desk);
        self.standing = self.verdict();
        let silence = self.gateway.as_ref().and_then(|gateway| gateway.silence(now));
        let lost = self.gateway.as_mut().map_or(0, Gateway::take_lost);
        self.comeback.advance(now, self.standing, silence, lost, limits);
    }

    /// When `advance` wants to be called again.
    pub(crate) fn deadline(&self, now: Instant, pace: Pace, limits: Limits) -> Instant {
        let gateway = self.gateway.as_ref().map(|gateway| gateway.deadline(now, pace, limits));
        let spares = self.gateway.as_ref().map(|gateway| self.spares.deadline(now, gateway, limits));
        let eligible = self.eligible_at(limits).filter(|at| *at > now);
        let targets = Some(self.targets.deadline());
        [gateway, spares, eligible, targets].into_iter().flatten().min().unwrap_or(Instant::NEVER)
    }

    /// An answer; false if the question was not this judge's.
    ///
    /// `at` is the answer's stamp in awake time.
    pub(crate) fn answered(&mut self, answer: Answer, at: Instant, now: Instant, limits: Limits) -> bool {
        let before = self.last_answer();
        let gateway = self.gateway.as_mut().is_some_and(|gateway| gateway.answered(answer, at, now, limits));
        if gateway && self.last_answer() != before {
            self.heard = self.heard.max(Some(answer.at));
        }
        gateway || self.spares.answered(answer, at, now, limits) || self.targets.answered(answer.id)
    }

    /// The question could not be sent.
    pub(crate) fn unsent(&mut self, id: ProbeId) {
        if let Some(gateway) = &mut self.gateway {
            gateway.unsent(id);
        }
        self.spares.unsent(id);
        self.targets.unsent(id);
    }

    /// Its gateway's next question is due now.
    pub(crate) fn ask_at_once(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            gateway.ask_at_once();
        }
    }

    /// A forwarded packet came in through the path's interface.
    pub(crate) fn forwarded(&mut self, at: Instant, limits: Limits) {
        if let Some(gateway) = &mut self.gateway {
            gateway.forwarded(at, limits);
        }
    }

    /// Questions that are out now were asked while nobody was awake to hear the answer.
    pub(crate) fn void(&mut self) {
        if let Some(gateway) = &mut self.gateway {
            gateway.void();
        }
        self.spares.void();
        self.targets.void();
    }

    pub(crate) const fn standing(&self) -> Standing {
        self.standing
    }

    pub(crate) const fn way(&self) -> &Way {
        &self.way
    }

    /// Its gateway has never answered.
    pub(crate) fn is_unproven(&self) -> bool {
        matches!(self.way, Way::Gateway { .. }) && self.last_answer().is_none()
    }

    /// The gateway that the path should go by from now on instead of the one in use.
    pub(crate) fn gateway_instead(&self, now: Instant, limits: Limits) -> Option<IpAddr> {
        self.spares.instead_of(self.gateway.as_ref()?, now, limits)
    }

    /// When it may be taken from a path that works, if it stays well; none while it is not well, or while
    /// nobody knows whether its targets answer.
    pub(crate) fn eligible_at(&self, limits: Limits) -> Option<Instant> {
        self.comeback.eligible_at(limits).filter(|_| !self.targets.unasked())
    }

    pub(crate) const fn comeback(&self) -> &Comeback {
        &self.comeback
    }

    pub(crate) fn comeback_mut(&mut self) -> &mut Comeback {
        &mut self.comeback
    }

    /// Since when this path is suspected or known to be silent, lossy or without upstream.
    pub(crate) fn suspected(&self) -> Option<Instant> {
        match self.standing {
            Standing::Upstream => self.targets.suspected(),
            Standing::Broken(_) | Standing::Unknown | Standing::Up | Standing::Lossy | Standing::Silent => {
                self.gateway.as_ref().and_then(Gateway::suspected).or(self.targets.suspected())
            }
        }
    }

    /// The suspicion is about what lies behind the gateway.
    pub(crate) fn doubts_upstream(&self) -> bool {
        self.gateway.as_ref().and_then(Gateway::suspected).is_none() && self.targets.suspected().is_some()
    }

    /// It answered a question that was asked at or after `since`; where `upstream` is in doubt and it
    /// has targets, one of those did.
    pub(crate) fn proved_since(&self, since: Instant, upstream: bool) -> bool {
        let proved = if upstream && self.targets.any() {
            self.targets.proved_at()
        } else {
            self.gateway.as_ref().and_then(Gateway::proved_at).max(self.targets.proved_at())
        };
        proved.is_some_and(|proved| proved >= since)
    }

    /// The kernel's stamp of the gateway's last answer, for people.
    pub(crate) const fn heard(&self) -> Option<Instant> {
        self.heard
    }

    pub(crate) fn last_answer(&self) -> Option<Instant> {
        self.gateway.as_ref().and_then(Gateway::last_answer)
    }

    pub(crate) fn last_sign(&self) -> Option<Instant> {
        self.gateway.as_ref().and_then(Gateway::last_sign)
    }

    /// Who answered for the gateway last.
    pub(crate) fn mac(&self) -> Option<Mac> {
        self.gateway.as_ref().and_then(Gateway::mac)
    }

    /// Who answers for the gateway although another is remembered, once.
    pub(crate) fn take_stranger(&mut self) -> Option<Mac> {
        self.gateway.as_mut().and_then(Gateway::take_stranger)
    }

    pub(crate) fn loss_percent(&self) -> Option<u32> {
        self.gateway.as_ref().and_then(Gateway::loss_percent)
    }

    pub(crate) fn asked(&self) -> Option<Kind> {
        self.gateway.as_ref().map(Gateway::asked)
    }

    pub(crate) fn target_status(&self) -> Vec<TargetStatus> {
        self.targets.status()
    }

    /// The health that was told before, if this one is another.
    pub(crate) fn tell(&mut self, health: Health) -> Option<Health> {
        let before = std::mem::replace(self.told.as_mut()?, health);
        (before != health).then_some(before)
    }

    /// The kind of probe that was found to be filtered, once.
    pub(crate) fn take_set_aside(&mut self) -> Option<Kind> {
        self.gateway.as_mut().and_then(Gateway::take_set_aside)
    }

    fn verdict(&self) -> Standing {
        let gateway = match (&self.way, &self.gateway) {
            (Way::Broken(cause), _) => return Standing::Broken(*cause),
            (Way::Gateway { .. }, Some(gateway)) => gateway.standing(),
            (Way::Gateway { .. }, None) => Standing::Unknown,
            (Way::Link(_), _) => Standing::Up,
        };
        match (gateway, self.targets.verdict()) {
            (Standing::Up, Some(false)) => Standing::Upstream,
            (Standing::Up, None) => Standing::Unknown,
            (standing, _) => standing,
        }
    }
}
