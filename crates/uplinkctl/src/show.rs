//! The status as people read it.

use std::fmt::Write as _;

use uplink_core::policy::Mode;
use uplink_core::snapshot::TABLE_MAIN;
use uplink_core::status::{CloseSocketsState, GatewaySource, Kind, names};
use uplink_core::wire::{Election, Path, PathRules, Pin, Status, TargetAnswer, Uplink};

/// The whole status: decisions, uplinks, last changes.
pub(crate) fn status(status: &Status) -> String {
    let mut text = head(status);
    text.push('\n');
    for family in &status.families {
        text.push_str(&election(family, status));
    }
    if status.families.is_empty() {
        text.push_str("No family has a default route or a gateway.\n");
    }
    text.push('\n');
    text.push_str(&uplinks(status));
    if !status.changes.is_empty() {
        text.push_str("\nLast changes\n");
        for change in &status.changes {
            let age = age(status.now_us, change.at_us);
            // Writing to a string does not fail, here and below.
            let _ = writeln!(text, "  {age:>12}  {}", change.text);
        }
    }
    // Interface names may hold anything but spaces and slashes, even terminal control.
    text.replace(|c: char| c.is_control() && c != '\n', "?")
}

/// The first line, and what concerns no family.
fn head(status: &Status) -> String {
    let mode = match status.mode {
        Mode::Steer => "uplinkd steers",
        Mode::Observe => "uplinkd only observes, it writes nothing",
    };
    let ready = if status.ready { "" } else { "; not every family is decided yet" };
    let sockets = match status.close_sockets {
        CloseSocketsState::Off | CloseSocketsState::On => "",
        CloseSocketsState::Refused => "close_sockets has no effect: the kernel closes no sockets\n",
    };
    let mistake = status.misconfigured.as_ref().map_or_else(String::new, |mistake| {
        format!("the configuration that was read last is refused, one from before is in force: {mistake}\n")
    });
    format!("{mode}{ready}\n{mistake}{sockets}")
}

/// One family: what is elected, since when, why; and the pin.
fn election(family: &Election, status: &Status) -> String {
    let mut text = String::new();
    let elected = names(&family.members);
    let since = span(status.now_us.saturating_sub(family.since_us));
    let _ = writeln!(text, "{}  {elected}, for {since}: {}", family.family, family.reason_text);
    if let Some(aside) = &family.aside_text {
        let _ = writeln!(text, "      standing aside: {aside}");
    }
    let _ = match &family.pin {
        Some(route) => writeln!(text, "      {}", pin(route)),
        None if family.aside_text.is_some() || family.elected.is_none() => Ok(()),
        None => match status.mode {
            Mode::Steer => writeln!(text, "      no pin is needed: the default routes lead there without"),
            Mode::Observe => writeln!(text, "      no pin: nothing is written"),
        },
    };
    let _ = writeln!(text, "      path rules: {}", family.path_rules_text);
    text
}

/// Our default route.
fn pin(pin: &Pin) -> String {
    let table = match pin.table {
        TABLE_MAIN => "main".to_owned(),
        other => other.to_string(),
    };
    let mut text = format!("pin in table {table}: default");
    for hop in &pin.hops {
        let gateway = hop.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = match pin.hops.len() {
            1 => write!(text, "{gateway} ifindex {}", hop.ifindex),
            _ => write!(text, " nexthop{gateway} ifindex {} weight {}", hop.ifindex, hop.weight),
        };
    }
    let _ = write!(text, " metric {}", pin.metric);
    text
}

/// All uplinks as a table, a line per path and a line per target.
fn uplinks(status: &Status) -> String {
    if status.uplinks.is_empty() {
        return "No uplinks.\n".to_owned();
    }
    let mut rows = vec![
        ["UPLINK", "INTERFACE", "TIER", "FAMILY", "HEALTH", "GATEWAY", "ANSWERED", "LOSS"].map(str::to_owned),
    ];
    let mut notes = Vec::new();
    for uplink in &status.uplinks {
        if uplink.paths.is_empty() {
            rows.push(row(uplink, None, status.now_us));
        }
        for path in &uplink.paths {
            rows.push(row(uplink, Some(path), status.now_us));
            notes.extend(remarks(uplink, path, status.now_us));
        }
    }
    let mut text = aligned(&rows);
    if !notes.is_empty() {
        text.push('\n');
    }
    for note in notes {
        let _ = writeln!(text, "{note}");
    }
    text
}

/// One path in the table, or an uplink without one.
fn row(uplink: &Uplink, path: Option<&Path>, now_us: u64) -> [String; 8] {
    let of = |text: fn(&Path, u64) -> Option<String>| {
        path.and_then(|path| text(path, now_us)).unwrap_or_else(|| "-".to_owned())
    };
    [
        uplink.name.clone(),
        uplink.interface.clone().unwrap_or_else(|| "missing".to_owned()),
        uplink.tier.to_string(),
        of(|path, _| Some(path.family.to_string())),
        of(|path, _| Some(health(path))),
        of(|path, _| gateway(path)),
        of(|path, now_us| path.last_answer_us.map(|at| age(now_us, at))),
        of(|path, _| path.loss_percent.map(|loss| format!("{loss} %"))),
    ]
}

/// `up`, or `down (gateway)`.
fn health(path: &Path) -> String {
    match path.cause {
        Some(cause) => format!("{} ({cause})", path.health),
        None => path.health.clone(),
    }
}

/// The next hop, and who said so.
fn gateway(path: &Path) -> Option<String> {
    let gateway = path.gateway?;
    Some(match path.learned {
        Some(GatewaySource::Configuration) => format!("{gateway} (configured)"),
        Some(source) => format!("{gateway} ({source})"),
        None => gateway.to_string(),
    })
}

/// What does not fit the table.
fn remarks(uplink: &Uplink, path: &Path, now_us: u64) -> Vec<String> {
    let subject = format!("{} {}", uplink.name, path.family);
    let mut remarks: Vec<String> =
        path.targets.iter().map(|target| format!("{subject}: {}", answer(target))).collect();
    if let Some(lease) = &path.unreadable_lease {
        remarks.push(format!(
            "{subject}: no gateway is known, and a lease is unreadable: {lease}; let uplinkd read it, or \
             configure the gateway"
        ));
    }
    if path.asked == Some(Kind::Neighbour) {
        remarks.push(format!(
            "{subject}: the gateway does not answer ICMP, it is asked by ARP or neighbour solicitation"
        ));
    }
    if let Some(rules) = &path.path_rules {
        remarks.push(format!("{subject}: {}", path_rules(rules)));
    }
    if let Some(at) = path.returns_us {
        let wait = at.saturating_sub(now_us);
        remarks.push(format!("{subject}: may be taken again in {}, if it stays well", span(wait)));
    }
    remarks
}

/// What keeps answers on a path.
fn path_rules(rules: &PathRules) -> String {
    let PathRules { table, mark, sources, src_valid_mark } = rules;
    let mark = mark.map(|mark| format!("connections that came in by it (mark {mark:#x})"));
    let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
    let sources = (!sources.is_empty()).then(|| format!("what is sent from {}", sources.join(", ")));
    let led: Vec<String> = mark.into_iter().chain(sources).collect();
    let sysctl = if *src_valid_mark { "; src_valid_mark is set" } else { "" };
    format!("table {table} leads {}{sysctl}", led.join(" and "))
}

/// Whether a target answers.
fn answer(target: &TargetAnswer) -> String {
    let verdict = match target.answers {
        Some(true) => "answers",
        Some(false) => "does not answer",
        None => "not judged yet",
    };
    format!("target {} {} {verdict}", target.kind, target.address)
}

/// Columns as wide as their widest cell, two spaces between.
fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// How long ago a moment was.
fn age(now_us: u64, at_us: u64) -> String {
    format!("{} ago", span(now_us.saturating_sub(at_us)))
}

/// A time with two digits or so: `120 ms`, `12 s`, `5 min`, `3 h`, `2 d`.
fn span(micros: u64) -> String {
    const SECOND: u64 = 1_000_000;
    match micros {
        0..SECOND => format!("{} ms", micros / 1000),
        _ => match micros / SECOND {
            seconds @ 0..120 => format!("{seconds} s"),
            seconds @ 120..7200 => format!("{} min", seconds / 60),
            seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
            seconds => format!("{} d", seconds / 86_400),
        },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A status as the daemon sends it.
    pub(crate) fn sample() -> Status {
        serde_json::from_value(json!({
            "now_us": 1_000_000_000_u64, "mode": "steer", "ready": true,
            "families": [
                {"family": "ipv4", "elected": "dpu", "members": ["dpu", "dpu-b"], "reason": "first", "reason_text": "first decision",
                 "since_us": 20_000_000, "aside": null, "aside_text": null,
                 "path_rules": "connections", "path_rules_text": "by connection and by source address",
                 "pin": {"table": 254, "metric": 98, "gateway": "10.0.120.1", "ifindex": 3, "hops": [
                     {"gateway": "10.0.120.1", "ifindex": 3, "weight": 2},
                     {"gateway": "10.0.121.1", "ifindex": 4, "weight": 1}]}},
                {"family": "ipv6", "elected": "mgmt", "members": ["mgmt"], "reason": "fell",
                 "reason_text": "the path before went down: gateway",
                 "since_us": 990_000_000, "pin": null, "aside": null, "aside_text": null,
                 "path_rules": "needless", "path_rules_text": "not needed: fewer than two paths"},
            ],
            "uplinks": [
                {"name": "dpu", "interface": "enp3s0f0np0", "tier": 1, "paths": [
                    {"family": "ipv4", "health": "up", "cause": null, "gateway": "10.0.120.1",
                     "learned": "dhcp", "last_answer_us": 999_880_000, "loss_percent": 0,
                     "asked": "icmp", "returns_us": null,
                     "targets": [{"kind": "icmp", "address": "10.0.0.53", "answers": true}],
                     "path_rules": {"table": 117_000_003, "mark": 1, "sources": ["10.0.120.2"],
                                    "src_valid_mark": true}},
                    {"family": "ipv6", "health": "down", "cause": "gateway", "gateway": "fe80::1",
                     "learned": "configuration", "last_answer_us": 988_000_000, "loss_percent": null,
                     "asked": "neighbour", "returns_us": 1_030_000_000, "targets": []},
                ]},
                {"name": "mgmt\u{1b}[2J", "interface": null, "tier": 2, "paths": []},
            ],
            "changes": [
                {"at_us": 988_000_000, "kind": "health", "uplink": "dpu", "family": "ipv6",
                 "text": "dpu ipv6: up → down (gateway), last sign of life 1003 ms ago"},
                {"at_us": 990_000_000, "kind": "elected", "uplink": "mgmt", "family": "ipv6",
                 "text": "ipv6: elected dpu → mgmt: the path before went down: gateway"},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn a_status_is_calm_text() {
        assert_eq!(
            status(&sample()),
            "\
uplinkd steers

ipv4  dpu + dpu-b, for 16 min: first decision
      pin in table main: default nexthop via 10.0.120.1 ifindex 3 weight 2 nexthop via 10.0.121.1 ifindex 4 weight 1 metric 98
      path rules: by connection and by source address
ipv6  mgmt, for 10 s: the path before went down: gateway
      no pin is needed: the default routes lead there without
      path rules: not needed: fewer than two paths

UPLINK    INTERFACE    TIER  FAMILY  HEALTH          GATEWAY                  ANSWERED    LOSS
dpu       enp3s0f0np0  1     ipv4    up              10.0.120.1 (dhcp route)  120 ms ago  0 %
dpu       enp3s0f0np0  1     ipv6    down (gateway)  fe80::1 (configured)     12 s ago    -
mgmt?[2J  missing      2     -       -               -                        -           -

dpu ipv4: target icmp 10.0.0.53 answers
dpu ipv4: table 117000003 leads connections that came in by it (mark 0x1) and what is sent from \
10.0.120.2; src_valid_mark is set
dpu ipv6: the gateway does not answer ICMP, it is asked by ARP or neighbour solicitation
dpu ipv6: may be taken again in 30 s, if it stays well

Last changes
      12 s ago  dpu ipv6: up → down (gateway), last sign of life 1003 ms ago
      10 s ago  ipv6: elected dpu → mgmt: the path before went down: gateway
"
        );
    }

    #[test]
    fn an_unreadable_lease_is_named_with_a_remedy() {
        let mut sample = sample();
        let uplink = sample.uplinks.remove(0);
        let path = Path {
            unreadable_lease: Some("/var/lib/dhcp: permission denied".to_owned()),
            ..uplink.paths[1].clone()
        };
        assert_eq!(
            remarks(&uplink, &path, sample.now_us)[0],
            "dpu ipv6: no gateway is known, and a lease is unreadable: /var/lib/dhcp: permission denied; let \
             uplinkd read it, or configure the gateway"
        );
    }

    #[test]
    fn nothing_there_is_said() {
        let mut nothing = sample();
        nothing.ready = false;
        nothing.mode = Mode::Observe;
        nothing.close_sockets = CloseSocketsState::Refused;
        nothing.misconfigured = Some("a mistake --> uplinkd.toml:2:8".to_owned());
        nothing.families.clear();
        nothing.uplinks.clear();
        nothing.changes.clear();
        assert_eq!(
            status(&nothing),
            "uplinkd only observes, it writes nothing; not every family is decided yet\n\
             the configuration that was read last is refused, one from before is in force: \
             a mistake --> uplinkd.toml:2:8\n\
             close_sockets has no effect: the kernel closes no sockets\n\n\
             No family has a default route or a gateway.\n\nNo uplinks.\n"
        );
    }

    #[test]
    fn spans_are_short() {
        let shown: Vec<String> =
            [0, 999_999, 1_000_000, 119_000_000, 120_000_000, 7_200_000_000, 172_800_000_000]
                .map(span)
                .to_vec();
        assert_eq!(shown, ["0 ms", "999 ms", "1 s", "119 s", "2 min", "2 h", "2 d"]);
    }
}
