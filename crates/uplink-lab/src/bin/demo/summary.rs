//! What the scenes came to.

use std::fmt::Write;
use std::time::Duration;

use uplink_core::time::Instant;
use uplink_lab::{Gap, Lag, Lateness, LookupReport, StreamReport, now};

use crate::bench::INTERNET;
use crate::timeline::{millis, verdict};

/// A machine that is later than this is too busy to measure on.
const TOO_LATE: Duration = Duration::from_millis(100);

/// What a stream lost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Loss {
    /// Packets that did not arrive.
    pub(crate) packets: u64,
    /// The longest time without one that did.
    pub(crate) longest: Duration,
}

impl Loss {
    /// The outages that ended after a moment. They may seem to begin before the fault: a packet is
    /// stamped before it is sent, and the machine may let some time pass in between.
    pub(crate) fn of(gaps: &[Gap], since: Instant) -> Self {
        let recent = || gaps.iter().filter(|gap| gap.at + gap.length > since);
        Self {
            packets: recent().map(|gap| gap.packets).sum(),
            longest: recent().map(|gap| gap.length).max().unwrap_or_default(),
        }
    }
}

/// A scene being played.
pub(crate) struct Scene {
    /// When it began.
    pub(crate) begun: Instant,
    title: &'static str,
    lag: Lag,
    kept: bool,
}

/// What a scene came to.
pub(crate) struct Row {
    title: &'static str,
    /// Until the kernel's table was right again, where something had to change.
    took: Option<[Duration; 2]>,
    losses: [Loss; 2],
    /// How late the machine itself was meanwhile.
    late: Lateness,
    kept: bool,
}

impl Scene {
    /// Begins one: prints its title, and measures the machine from now on.
    pub(crate) fn begin(title: &'static str) -> Self {
        println!("\n{title}");
        Self { begun: now(), title, lag: Lag::start(), kept: true }
    }

    /// A promise and whether it was kept.
    pub(crate) fn check(&mut self, kept: bool, text: &str) {
        verdict(kept, text);
        self.kept &= kept;
    }

    /// Promises that no packet was lost.
    pub(crate) fn lost_nothing(&mut self, [ipv4, ipv6]: [Loss; 2]) {
        let text = format!("lost packets: {} (IPv4), {} (IPv6)", ipv4.packets, ipv6.packets);
        self.check(ipv4.packets + ipv6.packets == 0, &text);
    }

    /// Ends it with what the streams lost. Promises of time are checked afterwards, because how late
    /// the machine was is known only now.
    pub(crate) fn end(self, losses: [Loss; 2]) -> Row {
        Row { title: self.title, took: None, losses, late: self.lag.stop(), kept: self.kept }
    }
}

impl Row {
    /// Adds how long it took, and checks that against what is promised; what the machine itself was
    /// late is added to that.
    pub(crate) fn took(mut self, took: [Duration; 2], promised: Duration, what: &str) -> Self {
        let kept = took.into_iter().all(|span| span <= promised + self.late.max);
        let [ipv4, ipv6] = took.map(millis);
        let late = millis(self.late.max);
        verdict(
            kept,
            &format!(
                "{what}: {ipv4} ms (IPv4), {ipv6} ms (IPv6); promised {} ms, and the machine itself was up \
                 to {late} ms late",
                promised.as_millis(),
            ),
        );
        self.took = Some(took);
        self.kept &= kept;
        self
    }

    /// Everything promised happened.
    pub(crate) const fn is_kept(&self) -> bool {
        self.kept
    }
}

/// The whole run.
pub(crate) struct Totals {
    pub(crate) lookups: LookupReport,
    /// IPv4 first.
    pub(crate) streams: [StreamReport; 2],
    /// News, frames and packets that the lab itself was too slow for.
    pub(crate) overruns: u64,
}

impl Totals {
    /// Prints the whole run in figures; whether everything happened that is promised of it.
    pub(crate) fn tell(&self, rows: &[Row]) -> bool {
        println!("\nThe whole run");
        for (address, stream) in INTERNET.into_iter().zip(&self.streams) {
            let text = format!(
                "{address}: {} packets sent, {} lost in the outages above, {} refused by the worker's kernel",
                stream.sent, stream.lost, stream.failed
            );
            verdict(stream.failed == 0, &text);
        }
        let LookupReport { asked, failed, .. } = self.lookups;
        verdict(failed == 0, &format!("{asked} lookups, {failed} failed"));
        let overruns = self.overruns + self.streams.iter().map(|stream| stream.overruns).sum::<u64>();
        verdict(overruns == 0, &format!("{overruns} times the lab was too slow to see everything"));
        let told: u64 = rows.iter().flat_map(|row| row.losses).map(|loss| loss.packets).sum();
        let lost: u64 = self.streams.iter().map(|stream| stream.lost).sum();
        let late = match told.saturating_sub(lost) {
            0 => String::new(),
            late => format!(" ({late} of these came after their scene)"),
        };
        verdict(
            told >= lost,
            &format!("no loss outside the summary: {lost} lost in all, {told} in its lines{late}"),
        );
        tell_lateness(rows);
        let refused: u64 = self.streams.iter().map(|stream| stream.failed).sum();
        failed == 0 && overruns == 0 && refused == 0 && told >= lost
    }
}

/// Says if the machine was too late itself for figures of time to mean much.
fn tell_lateness(rows: &[Row]) {
    let late = rows.iter().map(|row| row.late.max).max().unwrap_or_default();
    if late > TOO_LATE {
        println!(
            "\nThe machine itself was up to {} ms late: figures of time mean little where it was. Try again\n\
             when it is less busy.",
            millis(late)
        );
    }
}

/// All scenes, a line each.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    // Writing to a string does not fail, here and below.
    let _ = writeln!(
        text,
        "{:<37}{:>16}{:>14}{:>16}{:>12}\n{:<37}{:>8}{:>8}{:>7}{:>7}{:>8}{:>8}{:>12}",
        "Summary",
        "took, ms",
        "packets lost",
        "outage, ms",
        "machine",
        "",
        "IPv4",
        "IPv6",
        "IPv4",
        "IPv6",
        "IPv4",
        "IPv6",
        "late, ms"
    );
    for row in rows {
        let [took4, took6] = row.took.map_or(["-".to_owned(), "-".to_owned()], |took| took.map(millis));
        let [loss4, loss6] = row.losses;
        let [gap4, gap6] = row.losses.map(outage);
        let late = millis(row.late.max);
        let verdict = if row.kept { "" } else { "  FAILED" };
        let _ = writeln!(
            text,
            "  {:<35}{took4:>8}{took6:>8}{:>7}{:>7}{gap4:>8}{gap6:>8}{late:>12}{verdict}",
            row.title, loss4.packets, loss6.packets
        );
    }
    text
}

/// The longest outage, if there was one.
fn outage(loss: Loss) -> String {
    if loss.packets == 0 { "-".to_owned() } else { millis(loss.longest) }
}
