//! SIGKILL at random moments, as often as one likes: `cargo xtask kills`.

use std::env;
use std::fmt;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use uplink_core::snapshot::protocol;
use uplink_core::time::Instant;
use uplink_lab::{Change, Site, now, pass};

use crate::lifecycle::end;
use crate::scene::{Outcome, PCI, SOON, Scene, daemon, trial};

/// A lookup and a packet in each, in both families.
const INTERVAL: Duration = Duration::from_millis(1);
/// A process that starts has done all that it does at once within this.
const STARTING: Duration = Duration::from_millis(40);
/// What a process does in a row, it has done within this.
const IN_A_ROW: Duration = Duration::from_micros(1500);
/// One that has nothing to move writes nothing.
const WRITES_WITHIN: Duration = Duration::from_millis(500);

pub(crate) fn trials() -> Vec<Trial> {
    let by_the_thousand = || {
        let number = |name: &str| env::var(name).ok().map(|text| text.parse().expect("a number"));
        let (times, seed) = (number("KILLS_TIMES").unwrap_or(1000), number("KILLS_SEED").unwrap_or(1));
        println!("{} ", kill(times, seed)?);
        Ok(())
    };
    vec![
        trial("killed at random moments: no lookup fails, no trace in the end", || kill(12, 117).map(|_| ())),
        // As long as one likes: `cargo xtask kills` runs it.
        Trial::test("killed by the thousand", by_the_thousand).with_ignored_flag(true),
    ]
}

/// When a process is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// While it starts.
    Start,
    /// While it has nothing to do but to ask.
    Steady,
    /// While it moves the pin that it found to the other placement.
    Placement,
    /// While it moves from one uplink that works to another, because somebody prefers that now.
    Failover,
}

/// What is configured; it changes in the midst of things, and the next process goes on with it.
#[derive(Debug, Clone, Copy)]
struct Wish {
    placement: &'static str,
    preferred: &'static str,
}

impl Wish {
    fn toml(self) -> String {
        let Self { placement, preferred } = self;
        format!(
            "patience = \"200ms\"\nreturn_after = \"0s\"\nplacement = \"{placement}\"\n\
             [[uplink]]\nname = \"first\"\nmatch = {{ interface = \"{preferred}\" }}\n"
        )
    }
}

/// What came of it.
struct Killed {
    seed: u64,
    /// How often at each [`Moment`].
    at: [u64; 4],
    lookups: u64,
    packets: u64,
    lost: u64,
    writes: usize,
    took: Duration,
}

impl fmt::Display for Killed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at: [start, steady, placement, failover], .. } = self;
        let (times, minutes) = (self.at.iter().sum::<u64>(), self.took.as_secs_f64() / 60.0);
        writeln!(f, "seed {seed}: killed {times} times in {minutes:.1} min:")?;
        writeln!(f, "  {start} while it started, {steady} in between, {placement} while it moved the pin")?;
        writeln!(f, "  to the other placement, {failover} while it moved to the other uplink;")?;
        writeln!(f, "  {} lookups, none failed; nothing left after the last stop;", self.lookups)?;
        write!(f, "  {} packets, {} lost; {} writes of ours", self.packets, self.lost, self.writes)
    }
}

/// Kills the daemon so often, and starts it again each time.
fn kill(times: u64, seed: u64) -> Result<Killed, Failed> {
    let (begun, mut dice, mut at) = (now(), Dice(seed), [0; 4]);
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let mut wish = Wish { placement: "main", preferred: "port" };
    let mut scene = Scene::paced(site, &wish.toml(), INTERVAL)?;
    scene.leads_to(wish.preferred)?;
    end(&mut scene, Signal::SIGKILL)?;
    for round in 1..=times {
        let moment = [Moment::Start, Moment::Steady, Moment::Placement, Moment::Failover][dice.below(4)];
        at[moment as usize] += 1;
        live(&mut scene, moment, &mut wish, &mut dice)
            .map_err(|error| format!("seed {seed}, round {round}, {moment:?}, {wish:?}: {error:?}"))?;
        end(&mut scene, Signal::SIGKILL)?;
        let failed = scene.lookups.report().failed;
        if failed > 0 {
            let what = format!("seed {seed}, round {round}, {moment:?}, {wish:?}: {failed} lookups failed");
            return Err(scene.explain(&what));
        }
    }
    scene.start_again(&wish.toml())?;
    scene.leads_to(wish.preferred)?;
    let writes = scene.pin_writes(Instant::BOOT)?.len();
    let lookups = scene.lookups.report().asked;
    let streams = scene.finish()?.streams;
    let [packets, lost] =
        [streams.iter().map(|stream| stream.sent).sum(), streams.iter().map(|stream| stream.lost).sum()];
    Ok(Killed { seed, at, lookups, packets, lost, writes, took: now().since(begun) })
}

/// Starts a process and lets it live until the moment has come.
fn live(scene: &mut Scene, moment: Moment, wish: &mut Wish, dice: &mut Dice) -> Outcome {
    if let Moment::Placement = moment {
        wish.placement = if wish.placement == "main" { "table" } else { "main" };
    }
    let started = now();
    scene.daemon = daemon(&wish.toml()).start(&scene.site.worker)?;
    match moment {
        Moment::Start => pass(dice.within(STARTING)),
        Moment::Steady => {
            scene.daemon.wait_ready(SOON)?;
            pass(dice.within(10 * STARTING));
        }
        Moment::Placement => writes(scene, started, dice),
        Moment::Failover => {
            scene.leads_to(wish.preferred)?;
            wish.preferred = if wish.preferred == "port" { "mgmt" } else { "port" };
            let wished = scene.daemon.reload(&wish.toml())?;
            writes(scene, wished, dice);
        }
    }
    Ok(())
}

/// Waits until the daemon is in the midst of what it writes, if it writes anything.
fn writes(scene: &Scene, since: Instant, dice: &mut Dice) {
    let ours = |change: &Change| change.protocol() == Some(protocol::UPLINKD);
    // The process before may have been killed when this was done already.
    let _ = scene.changes.wait_for("a route of ours", since, WRITES_WITHIN, ours);
    pass(dice.within(IN_A_ROW));
}

/// Random numbers, the same for the same seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, bound: u64) -> usize {
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    fn within(&mut self, span: Duration) -> Duration {
        span.mul_f64((self.next() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}
