//! The loop around the core, as the daemon runs it, but in virtual time: it jumps to whatever comes
//! next, and every promise is checked after every single operation and every turn.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uplink_core::discover::{Hints, discover};
use uplink_core::event::{Answer, Closing, Input, Outcome, Output};
use uplink_core::marks::{Check, OwnMarks};
use uplink_core::memory::Memory;
use uplink_core::own::{Op, RuleForm, TABLE_MAIN_OR_PIN};
use uplink_core::policy::{Mode, Policy};
use uplink_core::relevance::Relevance;
use uplink_core::snapshot::{Family, LinkIndex, Snapshot};
use uplink_core::status::{FamilyStatus, Notice, PathStatus, Reason, Status};
use uplink_core::time::Instant;
use uplink_core::{Core, Start};

use super::kernel::Kernel;
use super::record::{Life, Turn};
use super::world::{Fate, World};
use super::{checks, ms, secs};

/// From a change in the kernel to the observer's word of it.
const OBSERVED_AFTER: Duration = Duration::from_micros(200);
/// From a wish to watch an interface to the next forwarded packet, on a busy one.
const NEXT_PACKET: Duration = ms(2);

/// A change of somebody else's.
pub(crate) type Meanwhile = Box<dyn FnOnce(&mut Bench)>;

/// How soon the observer knows what it must look up because the kernel does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Observer {
    /// With the event that tells of the cause.
    Prompt,
    /// First links and addresses, with the routes as they were; the truth so much later.
    Looks(Duration),
    /// First the routes, with links and addresses as they were; the truth so much later.
    Reordered(Duration),
    /// The events are lost: nothing, then the truth, so much later.
    Loses(Duration),
}

/// A host with the core running on it.
pub(crate) struct Bench {
    pub(crate) now: Instant,
    pub(crate) kernel: Kernel,
    pub(crate) world: World,
    pub(crate) observer: Observer,
    /// What is configured; goes into the core at the next start.
    pub(crate) policy: Policy,
    /// What the last process wrote down.
    pub(crate) memory: Memory,
    pub(crate) elections: Vec<Elected>,
    pub(crate) notices: Vec<(Instant, Notice)>,
    pub(crate) operations: Vec<(Instant, Op, Outcome)>,
    /// What was asked to be closed, and when.
    pub(crate) closings: Vec<(Instant, Closing)>,
    /// How many sockets are found and closed, or the kernel's error number.
    pub(crate) closes: Result<usize, i32>,
    /// When READY was told.
    pub(crate) ready: Option<Instant>,
    /// The process is killed after so many more operations.
    pub(crate) kill_after: Option<usize>,
    /// What somebody else does after so many more operations, between two of them.
    pub(crate) meanwhile: Option<(usize, Meanwhile)>,
    /// How long the kernel takes for one operation.
    pub(crate) slowness: Duration,
    /// How late the loop's timer comes.
    pub(crate) lateness: Duration,
    /// Whether what every process saw and wanted is kept.
    pub(crate) recording: bool,
    pub(crate) lives: Vec<Life>,
    pub(crate) turns: checks::Turns,
    core: Option<Core>,
    coming: BTreeMap<(Instant, u64), Event>,
    count: u64,
    /// What waits in the sockets.
    inbox: Vec<Input>,
    frozen: bool,
    pub(crate) watched: BTreeSet<(LinkIndex, Family)>,
    seen_changes: u64,
    checked_changes: u64,
    /// What the observer knows; routes that vanished silently may still be in it.
    pub(crate) seen: Snapshot,
    /// What of that the core is told.
    relevance: Relevance,
    /// The process was asked to end.
    pub(crate) stopping: bool,
    /// Something happened since the last operations: there may be more.
    pub(crate) reason: bool,
    /// When an operation failed last, which is tried again, or a gateway was found, which is followed when
    /// it has answered.
    pub(crate) unfinished: Option<Instant>,
    /// When the loop last came too late to judge anybody by what was before, or judged by other rules.
    pub(crate) woke: Instant,
    /// Interfaces that had `src_valid_mark` set when a process died just as somebody had taken the note away
    /// that says by whom: nobody can know.
    pub(crate) orphaned: BTreeSet<LinkIndex>,
    /// The paths that were left because they fell.
    pub(crate) fallen: BTreeMap<(LinkIndex, Family), checks::Falls>,
}

/// A change of mind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Elected {
    pub(crate) at: Instant,
    pub(crate) family: Family,
    pub(crate) before: Vec<String>,
    pub(crate) now: Vec<String>,
    pub(crate) reason: Reason,
}

enum Event {
    Arrives(Answer),
    /// The observer reports.
    Seen(Stale),
    Packet(LinkIndex, Family),
}

/// What the observer knows as it was only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stale {
    Nothing,
    Routes,
    Interfaces,
}

impl Bench {
    /// A host on which nothing runs yet, twenty seconds after boot.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Instant::BOOT + secs(20),
            kernel: Kernel::new(),
            world: World::new(seed),
            observer: Observer::Prompt,
            policy: Policy::default(),
            memory: Memory::default(),
            elections: Vec::new(),
            notices: Vec::new(),
            operations: Vec::new(),
            closings: Vec::new(),
            closes: Ok(3),
            ready: None,
            kill_after: None,
            meanwhile: None,
            slowness: Duration::ZERO,
            lateness: Duration::ZERO,
            recording: true,
            lives: Vec::new(),
            turns: checks::Turns::default(),
            core: None,
            coming: BTreeMap::new(),
            count: 0,
            inbox: Vec::new(),
            frozen: false,
            watched: BTreeSet::new(),
            seen_changes: 0,
            checked_changes: 0,
            seen: Snapshot::default(),
            relevance: Relevance::default(),
            stopping: false,
            reason: true,
            unfinished: None,
            woke: Instant::BOOT,
            orphaned: BTreeSet::new(),
            fallen: BTreeMap::new(),
        }
    }

    /// Starts the daemon, with what the one before left.
    pub(crate) fn start(&mut self) {
        let start = Start {
            policy: self.policy.clone(),
            memory: self.memory.clone(),
            boot_id: "this boot".to_owned(),
            machine: 512,
            now: self.now,
        };
        self.lives.push(Life { start: start.clone(), turns: Vec::new() });
        self.core = Some(Core::new(start));
        self.inbox.clear();
        self.reason = true;
        self.seen_changes = self.kernel.changes;
        self.relevance = Relevance::default();
        self.relevance.set_policy(&self.policy);
        let first = self.look(Stale::Nothing);
        self.feed(vec![first]);
    }

    /// Ends the process on the spot; the kernel keeps what it has.
    pub(crate) fn kill(&mut self) {
        let noted = |link| {
            let by_us = |table: &OwnMarks| table.of(link).is_some_and(|of| of.check == Check::MarkedByUs);
            self.kernel.tables.iter().any(by_us)
        };
        let set = self.kernel.links.values().filter(|link| link.src_valid_mark && !noted(link.index));
        self.orphaned.extend(set.map(|link| link.index));
        self.core = None;
        self.kill_after = None;
        (self.frozen, self.stopping) = (false, false);
        self.inbox.clear();
        self.watched.clear();
        self.coming.clear();
    }

    /// Asks the process to end, and lets it.
    pub(crate) fn stop(&mut self) {
        self.thaw();
        (self.stopping, self.reason) = (true, true);
        self.feed(vec![Input::Stop]);
        self.memory = self.core.as_ref().expect("it was running").memory();
        self.kill();
    }

    /// Asks the process to end; it may be killed before it has.
    pub(crate) fn stop_or_be_killed(&mut self) {
        self.thaw();
        self.stopping = true;
        self.feed(vec![Input::Stop]);
        self.kill();
    }

    /// Kills the process and starts another.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// The operator's configuration is read again.
    pub(crate) fn configure(&mut self, policy: Policy) {
        self.policy = policy.clone();
        if policy.mode == Mode::Observe {
            // As the daemon does: who observes has nothing of his own standing.
            self.kernel = self.kernel.without_us();
            self.kernel.links.values_mut().for_each(|link| link.src_valid_mark = false);
            self.kernel.changes += 1;
        }
        self.reason = true;
        // What has no interface at this moment goes by its name, and names may change.
        self.fallen.clear();
        // What was no silence yet may be one by another patience.
        self.woke = self.now;
        self.relevance.set_policy(&policy);
        let part = self.part();
        self.arrive_together(vec![Input::Policy(Box::new(policy)), part]);
    }

    /// From now on the loop does not run; the sockets fill.
    pub(crate) fn freeze(&mut self) {
        self.frozen = true;
    }

    /// The loop runs again.
    pub(crate) fn thaw(&mut self) {
        self.woke = self.now;
        self.frozen = false;
        let waiting = std::mem::take(&mut self.inbox);
        if !waiting.is_empty() {
            self.feed(waiting);
        } else if self.core.as_ref().is_some_and(|core| core.deadline() <= self.now) {
            self.feed(vec![Input::Deadline]);
        }
    }

    /// The process stands still for `span`, the world does not.
    pub(crate) fn stall(&mut self, span: Duration) {
        self.freeze();
        self.run(span);
        self.thaw();
    }

    /// The machine sleeps for `span`: what was on its way is lost.
    pub(crate) fn suspend(&mut self, span: Duration) {
        self.coming.retain(|_, event| matches!(event, Event::Seen(_)));
        self.now = self.now + span;
        (self.reason, self.woke) = (true, self.now);
        self.unfinished = self.unfinished.map(|since| since + span);
        self.settle_changes();
        self.feed(vec![Input::Deadline]);
    }

    /// Lets `span` pass.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.settle_changes();
        while let Some(at) = self.next().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = self.now.max(end);
    }

    /// Lets time pass until `wanted` holds, at most `most`; tells after how long it did.
    pub(crate) fn until(&mut self, most: Duration, wanted: impl Fn(&Self) -> bool) -> Option<Duration> {
        let (begin, end) = (self.now, self.now + most);
        self.settle_changes();
        while !wanted(self) {
            let at = self.next().filter(|at| *at <= end)?;
            self.now = self.now.max(at);
            self.step();
        }
        Some(self.now.since(begin))
    }

    /// What the process publishes; none while none runs.
    pub(crate) fn status(&self) -> Option<Status> {
        self.core.as_ref().map(|core| core.status(self.now))
    }

    /// The state of a family's decision.
    pub(crate) fn family(&self, family: Family) -> FamilyStatus {
        let status = self.status().expect("the daemon runs");
        status.families.into_iter().find(|state| state.family == family).expect("both families are shown")
    }

    /// The state of a path.
    pub(crate) fn path(&self, uplink: &str, family: Family) -> Option<PathStatus> {
        let uplinks = self.status()?.uplinks;
        let uplink = uplinks.into_iter().find(|candidate| candidate.name == uplink)?;
        uplink.paths.into_iter().find(|path| path.family == family)
    }

    /// Whether the core runs and has seen and heard all there is.
    pub(crate) fn is_settled(&self) -> bool {
        let told = !self.coming.values().any(|event| matches!(event, Event::Seen(_)));
        let awake = self.core.is_some() && !self.frozen && self.inbox.is_empty();
        awake && told && self.kernel.changes == self.seen_changes
    }

    /// How many operations were carried out, or tried.
    pub(crate) fn writes(&self) -> usize {
        self.operations.len()
    }

    /// How many of them were on pins.
    pub(crate) fn pin_writes(&self) -> usize {
        let on_pin = |op: &Op| match op {
            Op::AddRoute(route) | Op::DeleteRoute(route) => TABLE_MAIN_OR_PIN.contains(&route.table()),
            Op::AddRule(rule) | Op::DeleteRule(rule) => {
                matches!(rule.form(), RuleForm::MainWithoutDefault | RuleForm::Pin)
            }
            Op::SetMarks(_) | Op::DeleteMarks(_) | Op::CheckByMark { .. } => false,
        };
        self.operations.iter().filter(|(_, op, _)| on_pin(op)).count()
    }

    fn next(&self) -> Option<Instant> {
        let event = self.coming.keys().next().map(|(at, _)| *at);
        let running = self.core.as_ref().filter(|_| !self.frozen);
        let deadline = running.map(|core| core.deadline() + self.lateness);
        event.into_iter().chain(deadline).min().filter(|at| *at < Instant::NEVER)
    }

    fn step(&mut self) {
        let due = self.coming.first_key_value().is_some_and(|((at, _), _)| *at <= self.now);
        if !due {
            if self.lateness > self.policy.patience / 16 {
                self.woke = self.now;
            }
            return self.feed(vec![Input::Deadline]);
        }
        let Some((_, event)) = self.coming.pop_first() else { return };
        match event {
            Event::Arrives(answer) => {
                self.world.hear(answer);
                self.arrive(Input::Answer(answer));
            }
            Event::Seen(stale) => {
                let seen = self.look(stale);
                self.arrive(seen);
            }
            Event::Packet(link, family) => {
                if self.watched.contains(&(link, family))
                    && self.world.forwards_to(&self.kernel, link, family)
                {
                    self.watched.remove(&(link, family));
                    self.arrive(Input::Forwarded { link, family, at: self.now });
                }
            }
        }
    }

    /// Gives the core an input, at once or when the loop goes on.
    pub(crate) fn arrive(&mut self, input: Input) {
        self.arrive_together(vec![input]);
    }

    fn arrive_together(&mut self, inputs: Vec<Input>) {
        match (self.core.is_some(), self.frozen) {
            (false, _) => {}
            (true, true) => self.inbox.extend(inputs),
            (true, false) => self.feed(inputs),
        }
    }

    /// Gives the core its inputs and does all that it wants done, until it wants no more.
    fn feed(&mut self, first: Vec<Input>) {
        let mut inputs = first;
        while !inputs.is_empty() {
            let Some(core) = &mut self.core else { return };
            self.turns.count(self.now);
            let (at, given) = (self.now, inputs.clone());
            core.handle_all(inputs, at);
            let outputs: Vec<Output> = std::iter::from_fn(|| core.poll_output()).collect();
            checks::deadline_advances(core, at);
            if let Some(life) = self.lives.last_mut().filter(|_| self.recording) {
                life.turns.push(Turn { at, inputs: given, outputs: outputs.clone() });
            }
            inputs = self.carry_out(outputs);
        }
        if self.checked_changes != self.kernel.changes {
            self.checked_changes = self.kernel.changes;
            checks::we_break_nothing(self);
        }
    }

    /// Routes first, then questions, then telling.
    fn carry_out(&mut self, outputs: Vec<Output>) -> Vec<Input> {
        let mut inputs = Vec::new();
        checks::writes_for_a_reason(self, &outputs);
        let (others, settled) = (self.meanwhile.is_some(), self.is_settled());
        for output in &outputs {
            let Output::Apply(ops) = output else { continue };
            let outcomes = self.apply(ops);
            if self.core.is_none() {
                return Vec::new();
            }
            if outcomes.iter().any(|outcome| *outcome != Outcome::Done) {
                self.unfinished = Some(self.now);
            }
            inputs.push(Input::Applied(outcomes));
        }
        let applied = !inputs.is_empty();
        if applied {
            self.reason = !settled || (others && self.meanwhile.is_none());
        }
        for output in outputs {
            inputs.extend(self.tell_or_ask(output));
        }
        if applied {
            inputs.push(self.look(Stale::Nothing));
        }
        inputs
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        let others = self.meanwhile.is_some();
        let mut ways = checks::Ways::default();
        for op in ops {
            if self.kill_after == Some(0) {
                self.kill();
                return outcomes;
            }
            self.kill_after = self.kill_after.map(|left| left - 1);
            self.let_others_write();
            self.now = self.now + self.slowness;
            if !self.slowness.is_zero() {
                self.woke = self.now;
            }
            let before = self.kernel.clone();
            let outcome = self.kernel.carry_out(op);
            checks::operation(self, &before, op, &outcome);
            if !others {
                checks::sends_no_answer_astray(self, op, &outcome);
            }
            if !others && !self.stopping {
                ways.follow(self.now, &before, &self.kernel, op);
            }
            self.operations.push((self.now, op.clone(), outcome.clone()));
            let failed = outcome != Outcome::Done && !(outcome == Outcome::Absent && op.removes());
            outcomes.push(outcome);
            if failed {
                break;
            }
        }
        // Our own look follows; the events of our own changes say nothing new.
        outcomes
    }

    fn let_others_write(&mut self) {
        match self.meanwhile.take() {
            Some((0, change)) => change(self),
            Some((left, change)) => self.meanwhile = Some((left - 1, change)),
            None => {}
        }
    }

    fn tell_or_ask(&mut self, output: Output) -> Option<Input> {
        match output {
            Output::Ask(probe) => match self.world.send(&self.kernel, &probe, self.now) {
                Fate::Unsent => return Some(Input::Unsent(probe.id)),
                Fate::Lost => {}
                Fate::Answered(answer) => {
                    for _ in 0..self.world.copies {
                        self.later(answer.at, Event::Arrives(answer));
                    }
                }
            },
            Output::Watch { link, family, .. } => {
                self.watched.insert((link, family));
                self.later(self.now + NEXT_PACKET, Event::Packet(link, family));
            }
            Output::Unwatch { link, family } => {
                self.watched.remove(&(link, family));
            }
            Output::Ready => self.ready = Some(self.now),
            Output::Remember => {
                self.memory = self.core.as_ref().map(Core::memory).unwrap_or_default();
            }
            Output::CloseSockets(closing) => {
                checks::closes_what_was_left(self, &closing);
                self.closings.push((self.now, closing.clone()));
                let closed = |sockets| Input::Closed { closing, sockets };
                return Some(self.closes.map_or_else(Input::CannotClose, closed));
            }
            Output::Notice(notice) => self.note(notice),
            Output::Apply(_) => {}
        }
        None
    }

    fn note(&mut self, notice: Notice) {
        if let Notice::Elected { family, before, now, reason } = &notice {
            let (at, family, reason) = (self.now, *family, *reason);
            let elected = Elected { at, family, before: before.clone(), now: now.clone(), reason };
            checks::moved_to_something_proven(self, &elected);
            checks::comes_back_damped(self, &elected);
            self.elections.push(elected);
        }
        if matches!(notice, Notice::Gateway { .. }) {
            self.unfinished = Some(self.now);
        }
        self.notices.push((self.now, notice));
    }

    /// What the observer reports of what it knows. What it leaves out would make no difference.
    fn part(&mut self) -> Input {
        let part = self.relevance.part(&self.seen);
        let discovered = |snapshot| discover(snapshot, &self.policy, &Hints::default());
        assert_eq!(discovered(&part), discovered(&self.seen), "{}: something left out matters", self.now);
        Input::Snapshot(Box::new(part))
    }

    /// What the observer reports now.
    fn look(&mut self, stale: Stale) -> Input {
        let mut snapshot: Snapshot = self.kernel.snapshot();
        match stale {
            Stale::Nothing => self.seen_changes = self.kernel.changes,
            Stale::Routes => snapshot.routes.clone_from(&self.seen.routes),
            Stale::Interfaces => {
                snapshot.links.clone_from(&self.seen.links);
                snapshot.addresses.clone_from(&self.seen.addresses);
            }
        }
        self.seen = snapshot;
        self.part()
    }

    /// Lets the observer notice what was changed since it last looked, and forwarded packets come.
    fn settle_changes(&mut self) {
        if self.kernel.changes != self.seen_changes {
            self.seen_changes = self.kernel.changes;
            self.reason = true;
            let (first, truth) = match self.observer {
                Observer::Prompt => (None, OBSERVED_AFTER),
                Observer::Looks(after) => (Some(Stale::Routes), after),
                Observer::Reordered(after) => (Some(Stale::Interfaces), after),
                Observer::Loses(after) => (None, after),
            };
            if let Some(stale) = first {
                self.later(self.now + OBSERVED_AFTER, Event::Seen(stale));
            }
            self.later(self.now + truth, Event::Seen(Stale::Nothing));
        }
        for (link, family) in self.watched.clone() {
            self.later(self.now + NEXT_PACKET, Event::Packet(link, family));
        }
    }

    fn later(&mut self, at: Instant, event: Event) {
        self.count += 1;
        self.coming.insert((at, self.count), event);
    }
}
