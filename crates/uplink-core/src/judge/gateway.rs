//! Judges a gateway by its answers: silence, loss, and which kind of probe it answers at all.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use super::loss::Loss;
use super::{Comeback, Desk, Limits, Pace, Standing};
use crate::event::{Answer, ProbeId, Question};
use crate::snapshot::{Family, LinkIndex, Mac};
use crate::status::Kind;
use crate::time::Instant;

/// Questions that are remembered, answered or not; older ones cannot change a verdict.
const REMEMBERED: usize = 64;
/// Unanswered questions without which silence is not believed.
const ENOUGH: usize = 3;
/// A path that is not elected is asked so often.
const STANDBY: Duration = Duration::from_secs(1);
/// The rival of a suspected path is asked so often.
const RIVAL: Duration = Duration::from_millis(100);
/// A suspected gateway is asked again after a time between these.
const CONFIRM: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(100));
/// Unanswered questions of one kind without which it is not set aside while the other answers.
const ENOUGH_TO_SET_ASIDE: usize = 6;
/// The kind that was set aside is tried again so often.
const RECHECK: Duration = Duration::from_secs(10);
/// Who answers for the gateway is asked so often; for one that is remembered, as often as the kind that
/// was set aside.
const IDENTIFY: Duration = Duration::from_secs(60);
/// A busy gateway that only forwards is believed for so many times patience.
const PACKETS_ONLY: u32 = 3;

#[derive(Debug)]
pub(super) struct Gateway {
    family: Family,
    link: LinkIndex,
    address: IpAddr,
    source: IpAddr,
    /// Who answered for it last.
    mac: Option<Mac>,
    /// Who must answer, if it is remembered: the answers of anybody else are not its own.
    expected: Option<Mac>,
    /// Another that answered last.
    stranger: Option<Mac>,
    /// The last of those that was told.
    stranger_told: Option<Mac>,
    next_identify: Instant,
    /// The kind that is asked on the tick.
    asked: Kind,
    asks: VecDeque<Ask>,
    /// When the first [`ENOUGH`] questions since the last answer were asked that have none. They are kept
    /// apart because a long silence asks more questions than are remembered.
    unanswered: Vec<Instant>,
    first_asked: Option<Instant>,
    last_answer: Option<Instant>,
    last_packet: Option<Instant>,
    /// When the newest question that has an answer was asked.
    proved_at: Option<Instant>,
    ticked: Option<Instant>,
    next_extra: Instant,
    next_recheck: Instant,
    suspected: Option<Instant>,
    watching: bool,
    /// A kind that was set aside and not told yet.
    set_aside: Option<Kind>,
    silent: bool,
    loss: Loss,
    /// It is not in use: nobody's packets prove that it forwards.
    spare: bool,
    /// When it may be used instead of another gateway of its path that works.
    comeback: Comeback,
}

#[derive(Debug)]
struct Ask {
    id: ProbeId,
    kind: Kind,
    at: Instant,
    answered: bool,
    /// Its silence says nothing: voided, or a try whether a kind that was set aside answers again.
    void: bool,
}

impl Gateway {
    pub(super) fn new(
        family: Family,
        link: LinkIndex,
        address: IpAddr,
        source: IpAddr,
        now: Instant,
    ) -> Self {
        Self {
            family,
            link,
            address,
            source,
            mac: None,
            expected: None,
            stranger: None,
            stranger_told: None,
            next_identify: now,
            asked: Kind::Icmp,
            asks: VecDeque::new(),
            unanswered: Vec::new(),
            first_asked: None,
            last_answer: None,
            last_packet: None,
            proved_at: None,
            ticked: None,
            next_extra: now,
            next_recheck: now,
            suspected: None,
            watching: false,
            set_aside: None,
            silent: false,
            loss: Loss::default(),
            spare: false,
            comeback: Comeback::default(),
        }
    }

    /// One that is not in use.
    pub(super) fn spare(
        family: Family,
        link: LinkIndex,
        address: IpAddr,
        source: IpAddr,
        now: Instant,
    ) -> Self {
        Self { spare: true, ..Self::new(family, link, address, source, now) }
    }

    /// It is asked for in this way.
    pub(super) fn is(&self, link: LinkIndex, address: IpAddr, source: IpAddr) -> bool {
        (self.link, self.address, self.source) == (link, address, source)
    }

    pub(super) const fn address(&self) -> IpAddr {
        self.address
    }

    /// Another gateway takes its place.
    pub(super) fn becomes_spare(&mut self, now: Instant, desk: &mut Desk) {
        self.rest(desk);
        self.spare = true;
        if self.standing() != Standing::Up {
            self.comeback.fall(now);
        }
    }

    /// It is in use again.
    pub(super) fn is_taken(&mut self) {
        self.spare = false;
        self.comeback.taken();
    }

    /// As [`Gateway::advance`], while it is not in use.
    pub(super) fn advance_spare(&mut self, now: Instant, pace: Pace, limits: Limits, desk: &mut Desk) {
        self.advance(now, pace, limits, desk);
        let (standing, silence, lost) = (self.standing(), self.silence(now), self.take_lost());
        self.comeback.advance(now, standing, silence, lost, limits);
    }

    /// When it may be used instead of another that works, if it stays well.
    pub(super) fn eligible_at(&self, limits: Limits) -> Option<Instant> {
        self.comeback.eligible_at(limits)
    }

    pub(super) fn advance(&mut self, now: Instant, pace: Pace, limits: Limits, desk: &mut Desk) {
        self.notice_late(now, limits);
        self.give_verdict(now, limits, desk);
        if now >= self.next_tick(pace, limits) {
            self.tick(now, desk);
        }
        self.recheck(now, desk);
        if self.suspected.is_some() && !self.silent {
            self.confirm(now, desk);
        } else if pace == Pace::Rival && now >= self.next_extra {
            self.ask(self.asked, now, desk);
            self.next_extra = now + RIVAL;
        }
    }

    pub(super) fn deadline(&self, now: Instant, pace: Pace, limits: Limits) -> Instant {
        let extra = (self.confirming() || pace == Pace::Rival).then_some(self.next_extra);
        let late = self.unanswered.first().map(|at| *at + limits.late());
        let late = late.filter(|_| self.suspected.is_none() && !self.silent);
        let end = self.confirming().then(|| self.verdict_at(limits)).flatten().filter(|at| *at > now);
        let recheck = (self.asked != Kind::Icmp).then_some(self.next_recheck);
        [extra, late, end, recheck]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(Instant::NEVER)
            .min(self.next_tick(pace, limits))
    }

    /// Who must answer from now on; none if it is not remembered, but named by somebody.
    pub(super) fn expect(&mut self, mac: Option<Mac>, now: Instant) {
        if self.expected != mac {
            self.expected = mac;
            self.next_identify = now;
        }
    }

    /// `at` is the answer's stamp in awake time.
    pub(super) fn answered(&mut self, answer: Answer, at: Instant, now: Instant, limits: Limits) -> bool {
        let id = answer.id;
        let asked = self.asks.iter().find(|ask| ask.id == id).map(|ask| (ask.kind, ask.at));
        let Some((kind, asked_at)) = asked else {
            return false;
        };
        self.identified(answer.mac);
        if self.is_unproven() {
            return true;
        }
        self.asks.iter_mut().filter(|ask| ask.id == id).for_each(|ask| ask.answered = true);
        // A stamp from before the question is a clock's fault, one from after now likewise.
        let at = at.max(asked_at).min(now);
        self.last_answer = self.last_answer.max(Some(at));
        self.proved_at = self.proved_at.max(Some(asked_at));
        // A neighbour's answer does not say which of several questions it answers.
        self.loss.answered(id, at, limits.patience / 2, kind == Kind::Icmp);
        self.silent = false;
        self.suspected = None;
        if kind == Kind::Icmp && self.asked == Kind::Neighbour {
            self.ask_now(Kind::Icmp);
        } else {
            self.recount();
        }
        true
    }

    /// It says nothing about loss. For silence it counts: what cannot even be sent proves no life.
    pub(super) fn unsent(&mut self, id: ProbeId) {
        self.loss.unsent(id);
    }

    /// It says nothing of a gateway that must prove that it is the one remembered.
    pub(super) fn forwarded(&mut self, at: Instant, limits: Limits) {
        self.watching = false;
        if self.is_unproven() {
            return;
        }
        self.last_packet = self.last_packet.max(Some(at));
        self.loss.packet(at, limits.patience / 2);
    }

    pub(super) fn void(&mut self) {
        for ask in &mut self.asks {
            ask.void = true;
        }
        self.loss.void();
        self.unanswered.clear();
    }

    /// The next tick is due now.
    pub(super) fn ask_at_once(&mut self) {
        self.ticked = None;
    }

    /// Has its interface watched no more.
    pub(super) fn rest(&mut self, desk: &mut Desk) {
        if self.watching {
            self.watching = false;
            desk.unwatch(self.link, self.family);
        }
    }

    pub(super) fn standing(&self) -> Standing {
        match self.last_answer {
            _ if self.silent => Standing::Silent,
            None => Standing::Unknown,
            Some(_) if self.loss.lossy() => Standing::Lossy,
            Some(_) => Standing::Up,
        }
    }

    /// For how long a question has been without an answer, if no sign of life came since.
    pub(super) fn silence(&self, now: Instant) -> Option<Duration> {
        self.unanswered.first().map(|at| now.since(*at))
    }

    pub(super) fn suspected(&self) -> Option<Instant> {
        if self.loss.lossy() && !self.silent {
            // Each lost question is a fresh suspicion of silence; the one of loss is older.
            return self.loss.suspected();
        }
        self.suspected.or(self.loss.suspected())
    }

    pub(super) const fn proved_at(&self) -> Option<Instant> {
        self.proved_at
    }

    pub(super) const fn last_answer(&self) -> Option<Instant> {
        self.last_answer
    }

    pub(super) fn last_sign(&self) -> Option<Instant> {
        self.last_answer.max(self.last_packet)
    }

    pub(super) fn loss_percent(&self) -> Option<u32> {
        self.loss.percent()
    }

    /// Who answered for it last.
    pub(super) const fn mac(&self) -> Option<Mac> {
        self.mac
    }

    /// Who answers although another is remembered, once, however often both take turns.
    pub(super) fn take_stranger(&mut self) -> Option<Mac> {
        let told = std::mem::replace(&mut self.stranger_told, self.stranger);
        self.stranger.filter(|stranger| told != Some(*stranger))
    }

    pub(super) const fn asked(&self) -> Kind {
        self.asked
    }

    pub(super) fn take_lost(&mut self) -> u32 {
        self.loss.take_fresh()
    }

    pub(super) fn take_set_aside(&mut self) -> Option<Kind> {
        self.set_aside.take()
    }

    fn notice_late(&mut self, now: Instant, limits: Limits) {
        self.loss.notice_late(now, limits);
        let late = self.unanswered.first().is_some_and(|at| *at + limits.late() <= now);
        if late && self.suspected.is_none() && !self.silent {
            self.suspected = Some(now);
            self.next_extra = now;
        }
        self.loss.weigh(now);
    }

    fn give_verdict(&mut self, now: Instant, limits: Limits, desk: &mut Desk) {
        let enough = self.unanswered.get(ENOUGH - 1).is_some_and(|at| *at + limits.late() <= now);
        if self.confirming() && enough && self.verdict_at(limits).is_some_and(|at| now >= at) {
            self.silent = true;
            self.loss.explained(self.last_answer.unwrap_or(Instant::BOOT));
        }
        self.choose_kind(now, limits);
        if !self.confirming() {
            self.rest(desk);
        }
    }

    /// The moment patience ends. Who is asked seldom is not silent before he has been asked for as
    /// long as the elected path would be.
    fn verdict_at(&self, limits: Limits) -> Option<Instant> {
        let heard_out = *self.unanswered.first()? + limits.patience.saturating_sub(self.quick_tick(limits));
        self.patience_ends(limits).map(|end| end.max(heard_out))
    }

    /// Patience after the last sign of life, where packets alone count for at most three times
    /// patience since the last answer.
    fn patience_ends(&self, limits: Limits) -> Option<Instant> {
        let Some(answer) = self.last_answer else {
            return self.first_asked.map(|first| first + limits.patience);
        };
        let packet = self.last_packet.map_or(answer, |packet| packet.max(answer));
        let most = answer + limits.patience * PACKETS_ONLY;
        Some((packet + limits.patience).min(most).max(answer + limits.patience))
    }

    /// A kind that stays silent for a whole patience while the other answers is set aside: this
    /// gateway filters it.
    fn choose_kind(&mut self, now: Instant, limits: Limits) {
        let other = self.asked.other();
        let newest_answer =
            |kind| self.asks.iter().rev().find(|ask| ask.kind == kind && ask.answered).map(|ask| ask.at);
        let (mine, others) = (newest_answer(self.asked), newest_answer(other));
        let unanswered = |ask: &&Ask| {
            ask.kind == self.asked
                && !ask.answered
                && !ask.void
                && Some(ask.at) > mine
                && ask.at + limits.late() <= now
        };
        let since = self.asks.iter().find(unanswered).map(|ask| ask.at);
        let count = self.asks.iter().filter(unanswered).count();
        if let Some(since) = since
            && count >= ENOUGH_TO_SET_ASIDE
            && now.since(since) >= limits.patience
            && others >= Some(since)
        {
            self.next_recheck = now + RECHECK;
            self.set_aside = Some(self.asked);
            self.loss.explained(since);
            self.ask_now(other);
        }
    }

    fn ask_now(&mut self, kind: Kind) {
        self.asked = kind;
        // The other kind's silence has been explained.
        for ask in self.asks.iter_mut().filter(|ask| ask.kind != kind) {
            ask.void = true;
        }
        self.loss.void();
        self.recount();
    }

    fn next_tick(&self, pace: Pace, limits: Limits) -> Instant {
        let every = match pace {
            Pace::Quick => self.quick_tick(limits),
            Pace::Standby | Pace::Rival => STANDBY.max(self.quick_tick(limits)),
        };
        self.ticked.map_or(Instant::BOOT, |ticked| ticked + every)
    }

    /// The time between two ticks of the elected path.
    fn quick_tick(&self, limits: Limits) -> Duration {
        match self.asked {
            Kind::Icmp => limits.tick(),
            Kind::Neighbour => limits.tick().max(RIVAL),
        }
    }

    fn tick(&mut self, now: Instant, desk: &mut Desk) {
        self.ticked = Some(now);
        // An echo does not say who answers.
        let kind = if self.is_unproven() { Kind::Neighbour } else { self.asked };
        // What is lost in the silence is accounted for by the verdict.
        if let Some(id) = self.ask(kind, now, desk).filter(|_| !self.silent) {
            self.loss.asked(id, now);
        }
        // It may come back answering the other kind only.
        if self.silent {
            self.ask(kind.other(), now, desk);
        }
        self.identify(now, desk);
    }

    /// Asks from time to time who answers, so that it can be known again.
    fn identify(&mut self, now: Instant, desk: &mut Desk) {
        if self.last_answer.is_some() && now >= self.next_identify {
            let asked = self.send(Kind::Neighbour, true, now, desk);
            let every = if self.expected.is_some() { RECHECK } else { IDENTIFY };
            self.next_identify = if asked.is_some() { now + every } else { now };
        }
    }

    /// Takes in who answered, if the answer says that.
    fn identified(&mut self, mac: Option<Mac>) {
        let Some(mac) = mac else { return };
        if self.expected.is_some_and(|expected| expected != mac) {
            self.stranger = Some(mac);
        }
        self.mac = Some(mac);
    }

    /// It is remembered, and nobody or somebody else answered for it last.
    fn is_unproven(&self) -> bool {
        self.expected.is_some_and(|expected| self.mac != Some(expected))
    }

    fn confirm(&mut self, now: Instant, desk: &mut Desk) {
        if now < self.next_extra {
            return;
        }
        self.ask(Kind::Icmp, now, desk);
        self.ask(Kind::Neighbour, now, desk);
        if !self.watching && !self.spare {
            self.watching = true;
            desk.watch(self.link, self.family);
        }
        self.next_extra = now + desk.jitter(CONFIRM.0, CONFIRM.1);
    }

    fn recheck(&mut self, now: Instant, desk: &mut Desk) {
        if self.asked != Kind::Icmp && now >= self.next_recheck {
            self.next_recheck = now + RECHECK;
            self.send(Kind::Icmp, true, now, desk);
        }
    }

    fn ask(&mut self, kind: Kind, now: Instant, desk: &mut Desk) -> Option<ProbeId> {
        let id = self.send(kind, false, now, desk)?;
        if self.unanswered.len() < ENOUGH {
            self.unanswered.push(now);
        }
        Some(id)
    }

    fn send(&mut self, kind: Kind, void: bool, now: Instant, desk: &mut Desk) -> Option<ProbeId> {
        let question = match kind {
            Kind::Icmp => Question::Echo(self.address),
            Kind::Neighbour => Question::Neighbour(self.address),
        };
        let id = desk.ask(self.link, self.source, question, now)?;
        self.first_asked = self.first_asked.or(Some(now));
        if self.asks.len() == REMEMBERED {
            self.asks.pop_front();
        }
        self.asks.push_back(Ask { id, kind, at: now, answered: false, void });
        Some(id)
    }

    /// Suspected, and not yet judged silent.
    const fn confirming(&self) -> bool {
        self.suspected.is_some() && !self.silent
    }

    /// Looks anew which questions have been without an answer since the last one.
    fn recount(&mut self) {
        let pending = |ask: &&Ask| !ask.answered && !ask.void && Some(ask.at) > self.last_answer;
        self.unanswered = self.asks.iter().filter(pending).map(|ask| ask.at).take(ENOUGH).collect();
    }
}
