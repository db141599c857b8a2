//! The same random events, but by the million: `cargo xtask soak`.
//!
//! Each seed has one history, as long as it is let: a host, and one event after the other, drawn from the
//! seed. A step is one turn of the core with all that it brings about; the promises are checked after
//! each. A history that breaks one is shortened: events are left out as long as it still breaks the same.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use proptest::prelude::Strategy;
use proptest::strategy::{BoxedStrategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use uplink_core::policy::WithinTier;

use super::draw::event;
use super::event::Event;
use super::host::{begin, end, happen};

/// So many shorter histories are tried.
const TRIES: usize = 600;

/// What is to be done.
#[derive(Debug, Clone)]
struct Task {
    /// The first seed, and how many.
    first: u64,
    seeds: u64,
    /// Steps of each.
    steps: u64,
    /// The events that are not left out; all if none are named.
    only: Option<Vec<usize>>,
}

/// What came of a history.
struct Lived {
    /// So many of its events were drawn.
    drawn: usize,
    steps: u64,
    broken: Option<Broken>,
}

/// A promise that was broken.
struct Broken {
    /// The check that says so.
    place: String,
    message: String,
}

/// Some ten thousand steps with seeds that stay the same, as a part of every test run.
#[test]
fn a_short_one_keeps_the_promises() {
    soak(&Task { first: 1, seeds: 24, steps: 1_000, only: None });
}

/// Any number of steps, as the environment says.
#[test]
#[ignore = "as long as you like: `cargo xtask soak` runs it, optimised"]
fn by_the_million() {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let seeds = number("SOAK_SEEDS").unwrap_or(1000).max(1);
    let only = env::var("SOAK_ONLY").ok();
    soak(&Task {
        first: number("SOAK_SEED").unwrap_or(1),
        seeds,
        steps: number("SOAK_STEPS").unwrap_or(1_000_000) / seeds,
        only: only.map(|text| text.split(',').map(|index| index.parse().expect("a number")).collect()),
    });
}

/// Lives all histories on all cores; fails with those that are broken: of each check that says so the first
/// history, and how many there are.
#[allow(clippy::disallowed_macros, clippy::disallowed_methods, reason = "tells a person how quick it was")]
fn soak(task: &Task) {
    let begin = std::time::Instant::now();
    let (next, steps, events) = (AtomicU64::new(0), AtomicU64::new(0), AtomicUsize::new(0));
    let broken: Mutex<BTreeMap<u64, Broken>> = Mutex::default();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= task.seeds {
                break;
            }
            let seed = task.first.wrapping_add(number);
            let lived = live(seed, task.steps, task.only.as_deref());
            steps.fetch_add(lived.steps, Ordering::Relaxed);
            events.fetch_add(lived.drawn, Ordering::Relaxed);
            let mut broken = broken.lock().unwrap_or_else(PoisonError::into_inner);
            lived.broken.into_iter().for_each(|found| drop(broken.insert(seed, found)));
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    let (steps, seconds) = (steps.into_inner(), begin.elapsed().as_secs_f64());
    println!("{} seeds from {}, {} events", task.seeds, task.first, events.into_inner());
    #[allow(clippy::cast_precision_loss, reason = "shown without fractions")]
    let pace = steps as f64 / seconds;
    println!("{steps} steps in {seconds:.0} s, {pace:.0} a second");
    let broken = broken.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut checks: BTreeMap<&str, Vec<(u64, &Broken)>> = BTreeMap::new();
    for (seed, found) in &broken {
        checks.entry(&found.place).or_default().push((*seed, found));
    }
    let told = checks.values().filter_map(|all| {
        let (seed, found) = all.first()?;
        Some(format!("{}\n{} such seeds\n", shortened(*seed, task, found), all.len()))
    });
    let told: String = told.collect();
    assert!(told.is_empty(), "{told}");
}

/// The shortest history found that breaks the same promise, and how to see it again.
fn shortened(seed: u64, task: &Task, found: &Broken) -> String {
    let drawn = live(seed, task.steps, task.only.as_deref()).drawn;
    let mut kept: Vec<usize> = task.only.clone().unwrap_or_else(|| (0..drawn).collect());
    let mut message = found.message.clone();
    let (mut tries, mut size) = (0, kept.len());
    while size > 0 && tries < TRIES {
        let mut at = 0;
        while at < kept.len() && tries < TRIES {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + size).min(fewer.len()));
            tries += 1;
            match live(seed, task.steps, Some(&fewer)).broken {
                Some(still) if still.place == found.place => (kept, message) = (fewer, still.message),
                Some(_) | None => at += size,
            }
        }
        size /= 2;
    }
    let named = kept.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut told =
        format!("seed {seed}: {message}\n(checked at {})\nafter these of {drawn} events:\n", found.place);
    let history: Vec<Event> = Draw::new(seed).take(kept.last().map_or(0, |last| last + 1)).collect();
    for index in &kept {
        let _ = writeln!(told, "{index:>6}: {:?}", history[*index]);
    }
    let steps = task.steps;
    let _ = write!(told, "again: cargo xtask soak --seed {seed} --seeds 1 --steps {steps} --only {named}");
    told
}

/// Lives one history until it has made so many steps, or a promise is broken.
fn live(seed: u64, steps: u64, only: Option<&[usize]>) -> Lived {
    let (drawn, done) = (Cell::new(0), Cell::new(0));
    let broken = caught(|| {
        let within_tier = if seed.is_multiple_of(2) { WithinTier::Multipath } else { WithinTier::First };
        let mut bench = begin(seed, within_tier);
        bench.recording = false;
        let last = only.map(|only| only.last().map_or(0, |last| last + 1));
        for (index, event) in Draw::new(seed).take(last.unwrap_or(usize::MAX)).enumerate() {
            drawn.set(index + 1);
            if only.is_none_or(|only| only.contains(&index)) {
                happen(&mut bench, &event);
            }
            done.set(bench.turns.total);
            if bench.turns.total >= steps {
                break;
            }
        }
        end(&mut bench, drawn.get());
        done.set(bench.turns.total);
    });
    Lived { drawn: drawn.get(), steps: done.get(), broken }
}

/// The events of a seed, without end.
struct Draw {
    runner: TestRunner,
    event: BoxedStrategy<Event>,
}

impl Draw {
    fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        Self { runner: TestRunner::new_with_rng(Config::default(), random), event: event() }
    }
}

impl Iterator for Draw {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.event.new_tree(&mut self.runner).ok().map(|drawn| drawn.current())
    }
}

thread_local! {
    /// Where the last panic of this thread was; none while nobody wants to know.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What broke while `work` ran, without a word on the terminal.
fn caught(work: impl FnOnce()) -> Option<Broken> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let noted = PLACE.with_borrow_mut(|place| {
                let wanted = place.as_mut()?;
                *wanted = info.location().map(ToString::to_string).unwrap_or_default();
                Some(())
            });
            if noted.is_none() {
                usual(info);
            }
        }));
    });
    PLACE.set(Some(String::new()));
    let panicked = panic::catch_unwind(AssertUnwindSafe(work)).err();
    let place = PLACE.take().unwrap_or_default();
    panicked.map(|what| {
        let text = what.downcast_ref::<String>().cloned();
        let message = text.or_else(|| what.downcast_ref::<&str>().map(ToString::to_string));
        Broken { place, message: message.unwrap_or_default() }
    })
}
