//! A status with something of everything, for the tests of this room.

use std::net::IpAddr;
use std::time::Duration;

use uplink_core::event::Outcome;
use uplink_core::lease::Unreadable;
use uplink_core::own::{Op, OwnRoute};
use uplink_core::policy::{Mode, Target};
use uplink_core::snapshot::{Attributes, Family, Hop, LinkIndex, Mac, Mark, TABLE_MAIN};
use uplink_core::status::{
    Aside, Cause, Change, CloseSocketsState, FamilyStatus, GatewaySource, Health, Kind, MarkRule, Notice,
    Obstacle, PathRulesState, PathRulesStatus, PathStatus, Reason, Status, TargetStatus, UplinkStatus,
};
use uplink_core::time::Instant;
use uplink_core::undone::{Program, Undoing, Undone};

/// A moment.
fn at(seconds: u64) -> Instant {
    Instant::BOOT + Duration::from_secs(seconds)
}

/// An address.
fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// IPv4 on the port, IPv6 on management because the port's gateway is silent.
pub(crate) fn status() -> Status {
    Status {
        now: at(1000),
        mode: Mode::Steer,
        misconfigured: Some("`mode` cannot be \"stear\" --> uplinkd.toml:2:8".to_owned()),
        ready: true,
        close_sockets: CloseSocketsState::On,
        families: vec![
            FamilyStatus {
                family: Family::Ipv4,
                elected: vec!["dpu".to_owned()],
                reason: Reason::First,
                since: at(20),
                pin: Some(pin()),
                aside: None,
                path_rules: PathRulesState::ForeignMarks,
                obstacle: Some(Obstacle::Rule(rule())),
                undone_by: None,
            },
            FamilyStatus {
                family: Family::Ipv6,
                elected: vec!["mgmt".to_owned()],
                reason: Reason::Fell(Cause::Gateway),
                since: at(990),
                pin: None,
                aside: None,
                path_rules: PathRulesState::Contest,
                obstacle: Some(Obstacle::Program(undone())),
                undone_by: Some(undone()),
            },
        ],
        uplinks: uplinks(),
        changes: notices()
            .into_iter()
            .zip(900..)
            .map(|(notice, second)| Change { at: at(second), notice })
            .collect(),
    }
}

fn pin() -> OwnRoute {
    let hop = Hop { link: LinkIndex(3), gateway: Some(ip("10.0.120.1")) };
    OwnRoute::new(Family::Ipv4, TABLE_MAIN, 98, hop, Attributes::default())
}

fn undone() -> Undone {
    let by = Program { process: 4711, name: Some("dhclient".to_owned()) };
    Undone { family: Family::Ipv6, how: Undoing::DeletesPin { table: TABLE_MAIN }, by }
}

fn rule() -> MarkRule {
    MarkRule { priority: 100, mark: Mark { value: 0x10, mask: u32::MAX }, our_bits: true }
}

fn uplinks() -> Vec<UplinkStatus> {
    let up = PathStatus {
        family: Family::Ipv4,
        health: Health::Up,
        gateway: Some(ip("10.0.120.1")),
        learned: Some(GatewaySource::Dhcp),
        unreadable_lease: None,
        last_answer: Some(at(999)),
        loss_percent: Some(0),
        asked: Some(Kind::Icmp),
        returns_at: None,
        targets: vec![
            TargetStatus { target: Target::Icmp(ip("10.0.0.53")), answers: Some(true) },
            TargetStatus { target: Target::Tcp("[2001:db8::10]:6443".parse().unwrap()), answers: None },
        ],
        path_rules: Some(PathRulesStatus {
            table: 117_000_003,
            mark: Some(Mark { value: 1, mask: 0x1f }),
            sources: vec![ip("10.0.120.2")],
            src_valid_mark: true,
        }),
    };
    let down = PathStatus {
        family: Family::Ipv6,
        health: Health::Down(Cause::Gateway),
        gateway: Some(ip("fe80::1")),
        learned: Some(GatewaySource::Route),
        unreadable_lease: None,
        last_answer: Some(at(985)),
        loss_percent: Some(100),
        returns_at: Some(at(1030)),
        asked: Some(Kind::Neighbour),
        targets: vec![],
        path_rules: None,
    };
    let management =
        PathStatus { health: Health::Up, returns_at: None, loss_percent: Some(2), ..down.clone() };
    let missing = PathStatus {
        family: Family::Ipv4,
        health: Health::Unknown,
        gateway: None,
        learned: None,
        unreadable_lease: Some(Unreadable {
            interface: None,
            path: "/var/lib/dhcp".to_owned(),
            why: "permission denied".to_owned(),
        }),
        last_answer: None,
        loss_percent: None,
        asked: None,
        returns_at: None,
        targets: vec![],
        path_rules: None,
    };
    let uplink = |name: &str, interface: Option<&str>, tier, paths| UplinkStatus {
        name: name.to_owned(),
        interface: interface.map(str::to_owned),
        tier,
        paths,
    };
    vec![
        uplink("dpu", Some("enp3s0f0np0"), 1, vec![up, down]),
        uplink("mgmt", Some("br-dpu"), 2, vec![management]),
        uplink("spare", None, 3, vec![missing]),
        uplink("absent", None, 4, vec![]),
    ]
}

/// One notice of every kind.
pub(crate) fn notices() -> Vec<Notice> {
    let (uplink, family) = ("dpu".to_owned(), Family::Ipv6);
    vec![
        Notice::Interface { uplink: uplink.clone(), interface: Some("enp3s0f0np0".to_owned()) },
        Notice::Gateway {
            uplink: uplink.clone(),
            family,
            gateway: Some(ip("fe80::1")),
            learned: Some(GatewaySource::Route),
        },
        Notice::SetAside { uplink: uplink.clone(), family, kind: Kind::Icmp },
        Notice::Health {
            uplink: uplink.clone(),
            family,
            before: Health::Up,
            now: Health::Down(Cause::Gateway),
            silent_for: Some(Duration::from_millis(1003)),
        },
        Notice::Stranger { uplink: uplink.clone(), family, mac: Mac([2, 0, 0, 0, 0, 9]) },
        Notice::Elected {
            family,
            before: vec![uplink],
            now: vec!["mgmt".to_owned()],
            reason: Reason::Fell(Cause::Gateway),
        },
        Notice::Wrote { op: Op::AddRoute(pin()), dry: false },
        Notice::Refused { op: Op::DeleteRoute(pin()), outcome: Outcome::Refused(1) },
        Notice::Aside { family, aside: Some(Aside::Contest), by: Some(undone()) },
        Notice::PathRules {
            family,
            state: PathRulesState::ForeignMarks,
            obstacle: Some(Obstacle::Rule(rule())),
        },
        Notice::Closed { uplink: "dpu".to_owned(), family, addresses: vec![ip("fd00::2")], sockets: 3 },
        Notice::CannotClose(95),
        Notice::Asleep(Duration::from_millis(700)),
        Notice::Ready,
    ]
}
