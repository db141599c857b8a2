//! What is printed while it happens: seconds since the start, who says it, what.

use std::cell::Cell;
use std::time::Duration;

use uplink_core::snapshot::{TABLE_MAIN, protocol};
use uplink_core::time::Instant;
use uplink_lab::{Change, Route, Stamped, Way};

/// No line is longer.
const WIDTH: usize = 98;
/// Width of the columns before the text.
const INDENT: usize = 18;

/// What the demo is about to do, for somebody who has never seen it.
pub(crate) fn introduction() -> &'static str {
    concat!(
        "\nA worker with two ways out, in network namespaces of this process; nothing else is touched.\n\n",
        "            ┌─ port  10.0.120.2  fd00:120::2 ── gateway 10.0.120.1  fe80::1 ─┐\n",
        "    worker ─┤                                                                ├─ internet\n",
        "            └─ mgmt  10.0.10.2   fd00:10::2  ── gateway 10.0.10.1   fe80::1 ─┘\n\n",
        "    port   port 0 of a BlueField, known by its PCI identity (here a fake one)\n",
        "    mgmt   the management interface; its default route has the better metric: without a\n",
        "           daemon everything goes out there\n\n",
        "Configuration: return_after = \"3s\" instead of 30 s, so that coming back can be watched.\n",
        "Nothing else is configured. Patience is the default, 1 s.\n\n",
        "Every millisecond a packet goes to the internet and the kernel is asked for the way, in IPv4\n",
        "and IPv6; the kernel announces every change of a route. All figures are taken from these.\n\n",
        "    fault    what the demo does to the network\n",
        "    daemon   the daemon's own log, but for the routes that it writes, which the kernel tells\n",
        "    kernel   what the kernel announced\n",
        "    lookup   the kernel's answer to \"which way?\", when it changed\n",
        "    ok       a promise that was checked, and the figure (FAILED if it was not kept)\n",
    )
}

/// Prints in order, and remembers up to which moment it has told everything.
#[derive(Debug)]
pub(crate) struct Timeline {
    start: Instant,
    told: Cell<Instant>,
}

/// Something to tell.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) at: Instant,
    source: &'static str,
    text: String,
}

impl Entry {
    /// A line of the daemon's log, unless it tells what it wrote: that is told by the kernel.
    pub(crate) fn log(line: Stamped<String>) -> Option<Self> {
        let text = line.what.trim();
        let text = text.strip_prefix("INFO ").unwrap_or(text);
        let wrote = ["add ", "delete "].iter().any(|verb| text.starts_with(verb));
        (!wrote).then(|| Self { at: line.at, source: "daemon", text: text.to_owned() })
    }

    /// A lookup with another answer than before.
    pub(crate) fn lookup(way: Stamped<Way>) -> Self {
        let answer = match &way.what.interface {
            Ok(interface) => format!("out by {interface}"),
            Err(why) => format!("FAILED: {why}"),
        };
        Self { at: way.at, source: "lookup", text: format!("{}: {answer}", way.what.to) }
    }

    /// A change of a default route, or of a carrier.
    pub(crate) fn change(change: Stamped<Change>) -> Option<Self> {
        let text = match &change.what {
            Change::RouteAdded(route) if route.is_default() => format!("added {}", short(route)),
            Change::RouteDeleted(route) if route.is_default() => format!("deleted {}", short(route)),
            Change::Link { interface, up, carrier } => {
                let word = |on: &bool| if *on { "yes" } else { "no" };
                format!("{interface}: up {}, carrier {}", word(up), word(carrier))
            }
            _ => return None,
        };
        Some(Self { at: change.at, source: "kernel", text })
    }
}

impl Timeline {
    /// Starts at a moment.
    pub(crate) const fn since(start: Instant) -> Self {
        Self { start, told: Cell::new(start) }
    }

    /// Up to which moment everything is told.
    pub(crate) fn told(&self) -> Instant {
        self.told.get()
    }

    /// Prints what happened after what is told already, up to a moment.
    pub(crate) fn tell(&self, mut entries: Vec<Entry>, until: Instant) {
        entries.retain(|entry| entry.at > self.told.get() && entry.at <= until);
        entries.sort_by_key(|entry| entry.at);
        for entry in entries {
            self.say(entry.at, entry.source, &entry.text);
        }
        self.told.set(until);
    }

    /// Prints one line with its moment.
    pub(crate) fn say(&self, at: Instant, source: &str, text: &str) {
        let seconds = at.since(self.start).as_secs_f64();
        print!("{}", wrapped(&format!("{seconds:>8.3}  {source:<6}  "), text));
    }
}

/// Prints a promise and whether it was kept.
pub(crate) fn verdict(kept: bool, text: &str) {
    let word = if kept { "ok" } else { "FAILED" };
    print!("{}", wrapped(&format!("{:>8}  {word:<6}  ", ""), text));
}

/// A time in milliseconds, three digits behind the point where they mean something.
pub(crate) fn millis(span: Duration) -> String {
    let millis = span.as_secs_f64() * 1e3;
    if span < Duration::from_millis(10) { format!("{millis:.3}") } else { format!("{millis:.1}") }
}

/// A default route in a few words.
fn short(route: &Route) -> String {
    let gateway = route.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
    let interface = route.interface.as_deref().unwrap_or("?");
    let whose = if route.protocol == protocol::UPLINKD { "uplinkd's" } else { "another's" };
    let table = if route.table == TABLE_MAIN { String::new() } else { format!(" table {}", route.table) };
    format!("{whose} {} default{gateway} dev {interface}{table} metric {}", route.family, route.metric)
}

/// Text behind a head, broken between words, the rest below its beginning.
fn wrapped(head: &str, text: &str) -> String {
    let mut lines = head.to_owned();
    let mut column = INDENT;
    for (index, word) in text.split_whitespace().enumerate() {
        let length = word.chars().count();
        if index > 0 && column + 1 + length > WIDTH {
            lines.push_str(&format!("\n{:INDENT$}", ""));
            column = INDENT;
        } else if index > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines.push('\n');
    lines
}
