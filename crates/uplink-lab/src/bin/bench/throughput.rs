//! What path rules cost the packets of a host: the same answers with and without them, and without them but
//! with a small firewall, by turns. The firewall is there to judge the figures by.
//!
//! A connection of the client came in by the elected uplink, and connections are tracked all the time, for
//! somebody translates addresses. One thread, of the worker or of its pod, answers as fast as it can. On
//! veth pairs the sender's thread carries its packets to the receiver's socket, so that its processor time
//! is most of what they cost. Small packets that are routed one by one are the worst case; those of a TCP
//! stream pass the rules 64 KB at a time, as everywhere where the kernel or the card cuts them.

mod stage;

use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use uplink_lab::{Result, now};

use crate::readings::median;
use stage::Stage;

/// So often each kind of answers is measured with each of the three, and for how long: short, because
/// other work on the machine comes and goes.
const ROUNDS: usize = 30;
const SPAN: Duration = Duration::from_millis(150);
/// Writes between two looks at the clock.
const BURST: u64 = 64;
/// Bytes of a datagram, and of a write to a stream.
const DATAGRAM: usize = 64;
const CHUNK: usize = 64 << 10;
/// Clients that are answered by turns.
const CROWD: u16 = 512;

/// Who answers what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kind {
    /// The worker itself, or its pod behind a bridge, at a NodePort.
    from: From,
    /// In what.
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Worker,
    Pod,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// Small datagrams, each on its own, to so many clients by turns.
    Datagrams(u16),
    /// A TCP stream.
    Stream,
}

const KINDS: [Kind; 5] = [
    Kind { from: From::Worker, what: What::Datagrams(1) },
    Kind { from: From::Worker, what: What::Datagrams(CROWD) },
    Kind { from: From::Worker, what: What::Stream },
    Kind { from: From::Pod, what: What::Datagrams(1) },
    Kind { from: From::Pod, what: What::Stream },
];

/// What is on the host beside the tracking of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Laid {
    PathRules,
    Nothing,
    Firewall,
}

/// What one run gave.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Writes a second.
    pace: f64,
    /// Processor time of a write, in nanoseconds.
    cost: f64,
}

/// One run of each, close together.
#[derive(Debug, Clone, Copy)]
struct Round {
    path_rules: Run,
    nothing: Run,
    firewall: Run,
}

/// Measures, and tells.
pub(crate) fn measure(daemon: &Path) -> Result<()> {
    let stage = Stage::set(daemon)?;
    println!(
        "answers of an elected uplink, connections tracked: with path rules beside without, \
         {ROUNDS} rounds of {} ms each, medians; in parentheses a firewall of {} rules beside none",
        SPAN.as_millis(),
        stage::FIREWALL
    );
    for kind in KINDS {
        let rounds: Result<Vec<Round>> = (0..ROUNDS).map(|number| round(&stage, kind, number)).collect();
        println!("{}", told(kind, &rounds?));
    }
    Ok(())
}

/// Whoever comes first finds another machine than who comes last: all take turns at that.
fn round(stage: &Stage, kind: Kind, number: usize) -> Result<Round> {
    let mut order = [Laid::PathRules, Laid::Nothing, Laid::Firewall];
    order.rotate_left(number % 3);
    if number % 2 == 1 {
        order.reverse();
    }
    let none = Run { pace: 0.0, cost: 0.0 };
    let mut round = Round { path_rules: none, nothing: none, firewall: none };
    for laid in order {
        let run = stage.run(laid, kind)?;
        match laid {
            Laid::PathRules => round.path_rules = run,
            Laid::Nothing => round.nothing = run,
            Laid::Firewall => round.firewall = run,
        }
    }
    Ok(round)
}

/// Writes for a while; to be called on the thread that is measured.
fn answering(mut write: impl FnMut() -> std::io::Result<()>) -> std::io::Result<Run> {
    let (begun, used) = (now(), cpu());
    let mut written = 0_u64;
    while now().since(begun) < SPAN {
        for _ in 0..BURST {
            write()?;
        }
        written += BURST;
    }
    let (span, used) = (now().since(begun), cpu().saturating_sub(used));
    #[allow(clippy::cast_precision_loss, reason = "some hundred thousand")]
    let written = written as f64;
    Ok(Run { pace: written / span.as_secs_f64(), cost: used.as_secs_f64() * 1e9 / written })
}

/// Processor time of this process: who reads a stream is a thread of it, too.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Into::into)
}

/// The medians of both, and of how many times as much it is with path rules, and with the firewall.
fn told(kind: Kind, rounds: &[Round]) -> String {
    let from = match kind.from {
        From::Worker => "the host",
        From::Pod => "a pod behind a bridge, by a NodePort",
    };
    let (title, thing) = match kind.what {
        What::Datagrams(1) => ("datagrams of 64 bytes".to_owned(), "packet"),
        What::Datagrams(clients) => {
            (format!("datagrams of 64 bytes to {clients} clients by turns"), "packet")
        }
        What::Stream => ("a TCP stream".to_owned(), "64 KB"),
    };
    let line = |what: &str, unit: &str, of: fn(&Run) -> f64| {
        let all = |of: &dyn Fn(&Round) -> f64| median(rounds.iter().map(of));
        let with = all(&|round| of(&round.path_rules));
        let without = all(&|round| of(&round.nothing));
        let ratio = all(&|round| of(&round.path_rules) / of(&round.nothing));
        let firewall = all(&|round| of(&round.firewall) / of(&round.nothing));
        format!(
            "  {what}: {with:.0} beside {without:.0} {unit}{thing}, median ratio {ratio:.3} ({firewall:.3})"
        )
    };
    let pace = line("pace", "a second, each a ", |run| run.pace);
    let cost = line("cost", "ns of CPU a ", |run| run.cost);
    format!("{title}, from {from}\n{pace}\n{cost}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_rounds() {
        let run = |pace, cost| Run { pace, cost };
        let round = |path_rules, nothing, firewall| Round { path_rules, nothing, firewall };
        let rounds = [
            round(run(90.0, 110.0), run(100.0, 100.0), run(80.0, 120.0)),
            round(run(180.0, 55.0), run(200.0, 50.0), run(160.0, 60.0)),
            round(run(95.0, 100.0), run(95.0, 100.0), run(76.0, 120.0)),
        ];
        let text = told(KINDS[0], &rounds);
        for line in [
            "pace: 95 beside 100 a second, each a packet, median ratio 0.900 (0.800)",
            "cost: 100 beside 100 ns of CPU a packet, median ratio 1.100 (1.200)",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
