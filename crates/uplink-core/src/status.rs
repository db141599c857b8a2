//! What is so and why, as data. `status`, the log and the metrics all render these types.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::event::Outcome;
use crate::lease::Unreadable;
use crate::own::{Op, OwnRoute};
use crate::policy::{Mode, Target};
use crate::snapshot::{Family, Mac, Mark};
use crate::time::Instant;
use crate::undone::Undone;

/// The whole state, for people and machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The moment this was true.
    pub now: Instant,
    /// Whether routes are written.
    pub mode: Mode,
    /// What is wrong with the configuration that was read last: one that was read before is in force.
    pub misconfigured: Option<String>,
    /// Every family is decided, or the wait for that is over.
    pub ready: bool,
    /// Whether sockets of an uplink that is down are closed.
    pub close_sockets: CloseSocketsState,
    /// Per family: what is elected and what stands in the kernel.
    pub families: Vec<FamilyStatus>,
    /// All uplinks, the most preferred first.
    pub uplinks: Vec<UplinkStatus>,
    /// The last notices, oldest first.
    pub changes: Vec<Change>,
}

/// Whether sockets of an uplink that is down are closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseSocketsState {
    /// No: nobody asked for it, or nothing is done but observing.
    #[default]
    Off,
    /// Yes.
    On,
    /// They should be, but the kernel does not close sockets.
    Refused,
}

/// One family's decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FamilyStatus {
    /// The family.
    pub family: Family,
    /// The names of the elected uplinks, the most preferred first: none, one, or the members of a
    /// multipath pin.
    pub elected: Vec<String>,
    /// Why these, or why none.
    pub reason: Reason,
    /// Since when.
    pub since: Instant,
    /// Our pin in the kernel's table, if one is needed.
    pub pin: Option<OwnRoute>,
    /// Somebody meant the route that is there: nothing of ours is written.
    pub aside: Option<Aside>,
    /// Whether what came in through an uplink is answered through it.
    pub path_rules: PathRulesState,
    /// Who keeps path rules from standing, if that is known.
    pub obstacle: Option<Obstacle>,
    /// With [`Aside::Contest`]: who undoes the pin, if the kernel told.
    pub undone_by: Option<Undone>,
}

/// Whether path rules are laid in a family, and if not all, what is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathRulesState {
    /// The configuration turns them off.
    #[default]
    Off,
    /// Nothing is written, as the mode says.
    Observed,
    /// There is one path only, or none.
    Needless,
    /// Connections are followed, and so are the uplinks' addresses.
    Connections,
    /// Nobody lets connections be tracked here, so no addresses are translated: the uplinks' addresses
    /// tell enough.
    Sources,
    /// Connections are tracked, but the kernel refuses to mark them: nothing is laid, because source rules
    /// alone would send the answers of translated connections astray.
    Refused,
    /// The same, because the name of our nftables table is somebody else's.
    Taken,
    /// Rules of others look at packets' marks, and ours could lead what they mean elsewhere: nothing is
    /// laid.
    ForeignMarks,
    /// Another program keeps undoing them; we try again later.
    Contest,
    /// The kernel refuses them; we try again when something changes, or later.
    Rejected,
}

impl PathRulesState {
    /// Something keeps them from standing that somebody may want to end.
    #[must_use]
    pub const fn is_hindered(self) -> bool {
        match self {
            Self::Refused | Self::Taken | Self::ForeignMarks | Self::Contest | Self::Rejected => true,
            Self::Off | Self::Observed | Self::Needless | Self::Connections | Self::Sources => false,
        }
    }
}

/// Who keeps path rules from standing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// With [`PathRulesState::Contest`]: it keeps undoing them.
    Program(Undone),
    /// With [`PathRulesState::ForeignMarks`]: it looks at marks.
    Rule(MarkRule),
}

/// A rule of others that looks at packets' marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRule {
    /// Its preference.
    pub priority: u32,
    /// What it looks for.
    pub mark: Mark,
    /// It looks for bits of ours. Otherwise it is in the way of a strict reverse-path check that would look
    /// at marks for our sake.
    pub our_bits: bool,
}

impl fmt::Display for MarkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { priority, mark, our_bits } = self;
        write!(f, "rule {priority} of others (fwmark {mark}) ")?;
        f.write_str(match our_bits {
            true => "looks at bits of our marks; choose others (path_marks)",
            false => {
                "looks at marks, and so would the strict reverse-path check for our sake; set rp_filter = 2 \
                 where it is 1"
            }
        })
    }
}

impl fmt::Display for PathRulesState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off, as configured",
            Self::Observed => "none, nothing is written",
            Self::Needless => "not needed: fewer than two paths",
            Self::Connections => "by connection and by source address",
            Self::Sources => "by source address; connections are not tracked on this host",
            Self::Refused => {
                "none: the kernel refuses to mark connections, and without that they are not safe; \
                 it needs nf_tables and nft_ct"
            }
            Self::Taken => {
                "none: connections cannot be marked, because the nftables table uplinkd is somebody else's; \
                 rename or delete that"
            }
            Self::ForeignMarks => "none: a rule of others looks at packets' marks",
            Self::Contest => "held back: another program keeps undoing them",
            Self::Rejected => {
                "the kernel refuses them, or the routes that they lead to; trying again when something \
                 changes, or later"
            }
        })
    }
}

/// Whether path rules are laid, with who keeps them from standing.
#[must_use]
pub fn path_rules_text(state: PathRulesState, obstacle: Option<&Obstacle>) -> String {
    match obstacle {
        Some(Obstacle::Program(undone)) => format!("{state}: {undone}"),
        Some(Obstacle::Rule(rule)) => format!("none: {rule}"),
        None => state.to_string(),
    }
}

/// An uplink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// What it is called.
    pub name: String,
    /// The interface that it is now; none while it is missing.
    pub interface: Option<String>,
    /// Its tier.
    pub tier: u32,
    /// Its paths, one per family in which it has a gateway or an address.
    pub paths: Vec<PathStatus>,
}

/// An uplink in one family.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStatus {
    /// The family.
    pub family: Family,
    /// Its health and the cause.
    pub health: Health,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// Where that was learned.
    pub learned: Option<GatewaySource>,
    /// Where none was learned: a lease that may name one and could not be read.
    pub unreadable_lease: Option<Unreadable>,
    /// The last answer from the gateway.
    pub last_answer: Option<Instant>,
    /// Questions without an answer over the last 40 ticks, in percent; none before the first, and of a
    /// path that is silent, whose unanswered questions are not counted as loss.
    pub loss_percent: Option<u32>,
    /// What is asked on the tick: `icmp` or `neighbour`; none where only the link is judged.
    pub asked: Option<Kind>,
    /// For a path that fell: when it may be taken again, if it stays well.
    pub returns_at: Option<Instant>,
    /// Targets and whether they answer.
    pub targets: Vec<TargetStatus>,
    /// Its path rules as the kernel has them; none if there are none.
    pub path_rules: Option<PathRulesStatus>,
}

/// The path rules of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRulesStatus {
    /// The table that they lead to.
    pub table: u32,
    /// The mark of connections that came in by it; none where connections are not marked.
    pub mark: Option<Mark>,
    /// The addresses whose packets keep to it.
    pub sources: Vec<IpAddr>,
    /// We set `src_valid_mark` of its interface, for the sake of its strict reverse-path check.
    pub src_valid_mark: bool,
}

/// A target of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// The target.
    pub target: Target,
    /// Whether it answers; none before the first verdict.
    pub answers: Option<bool>,
}

/// A kind of probe to a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// ICMP or ICMPv6 echo.
    Icmp,
    /// ARP or neighbour solicitation.
    Neighbour,
}

impl Kind {
    /// The kind that is asked when this one gets no answer.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Icmp => Self::Neighbour,
            Self::Neighbour => Self::Icmp,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Icmp => "icmp",
            Self::Neighbour => "neighbour",
        })
    }
}

/// The health of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "cause")]
pub enum Health {
    /// Not judged yet.
    Unknown,
    /// It answers.
    Up,
    /// It does not, and why.
    Down(Cause),
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::Up => f.write_str("up"),
            Self::Down(cause) => write!(f, "down ({cause})"),
        }
    }
}

/// Why a path is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// No interface, not up, or no carrier.
    Link,
    /// No usable address.
    Address,
    /// No gateway is known, or it gives no sign of life, or too few.
    Gateway,
    /// The gateway answers, the targets behind it do not.
    Upstream,
    /// The kernel takes no route of ours by its gateway.
    Refused,
    /// It does not answer well, but nobody else does either: no reason to move.
    Shared,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "link",
            Self::Address => "address",
            Self::Gateway => "gateway",
            Self::Upstream => "upstream",
            Self::Refused => "refused",
            Self::Shared => "shared",
        })
    }
}

/// Where a gateway was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GatewaySource {
    /// The configuration names it.
    Configuration,
    /// The next hop of a foreign default route.
    Route,
    /// The next hop of a default route from a router advertisement; the router itself withdraws it.
    Advertisement,
    /// The next hop of another route from DHCP.
    Dhcp,
    /// The DHCP client wrote it down.
    Lease,
    /// It worked here, though what named it is gone; its MAC and the prefix are still the same.
    Memory,
}

impl fmt::Display for GatewaySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configuration => "configuration",
            Self::Route => "default route",
            Self::Advertisement => "router advertisement",
            Self::Dhcp => "dhcp route",
            Self::Lease => "dhcp lease",
            Self::Memory => "memory",
        })
    }
}

/// Why a path is elected, or none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason", content = "detail")]
pub enum Reason {
    /// No path is known to work, so the routes stay as they were found.
    NothingWorks,
    /// A tier-1 port is known to exist and is waited for.
    Waiting,
    /// The first decision: the most preferred of those that work.
    First,
    /// Taken over from the process before us.
    TakenOver,
    /// The path elected before went down.
    Fell(Cause),
    /// A member of the multipath pin went down, the others carry on.
    MemberFell(Cause),
    /// One more path of the tier has proved itself, and is a member of the multipath pin now.
    MemberJoined,
    /// The path elected before does not exist any more.
    Gone,
    /// More preferred than the one elected before, and it has proved itself.
    Preferred,
    /// No path answered well when the elected one was given up; the first that did since, one patience
    /// later if a preferred one may still come.
    FirstToAnswer,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NothingWorks => f.write_str("no path is known to work"),
            Self::Waiting => f.write_str("waiting for a tier-1 port"),
            Self::First => f.write_str("first decision"),
            Self::TakenOver => f.write_str("taken over from the process before"),
            Self::Fell(cause) => write!(f, "the path before went down: {cause}"),
            Self::MemberFell(cause) => write!(f, "a member went down: {cause}"),
            Self::MemberJoined => f.write_str("a member of the tier has proved itself"),
            Self::Gone => f.write_str("the path before is gone"),
            Self::Preferred => f.write_str("it is preferred and has proved itself"),
            Self::FirstToAnswer => f.write_str("first to answer after none did"),
        }
    }
}

/// Why we stand aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aside {
    /// The best foreign default refuses packets (`unreachable`, `blackhole`, `prohibit`).
    Refused,
    /// The best foreign default is a multipath route.
    Multipath,
    /// The best foreign default leads into a tunnel.
    Tunnel,
    /// The best foreign default is of a kind that we cannot read: encapsulated, by a next-hop object
    /// that is not spelled out, `throw`, `local`.
    Opaque,
    /// Another program keeps undoing what we write; we try again later.
    Contest,
    /// The kernel refuses what we write; we try again when something changes, or later.
    Rejected,
    /// `placement = "main"`, and there is no free metric below the foreign defaults.
    NoRoom,
}

impl fmt::Display for Aside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the best default route refuses packets, somebody meant it",
            Self::Multipath => "the best default route is multipath, somebody meant it",
            Self::Tunnel => "the best default route leads into a tunnel, somebody meant it",
            Self::Opaque => {
                "the best default route is encapsulated, by a next-hop object, or of another special kind, \
                 somebody meant it"
            }
            Self::Contest => "another program keeps undoing our route; trying again later",
            Self::Rejected => "the kernel refuses our route; trying again when something changes, or later",
            Self::NoRoom => {
                "no free metric below the other default routes; set placement = \"auto\" or \"table\", \
                 or raise their metrics to 3 or more"
            }
        })
    }
}

/// Why we stand aside, with who makes us do so.
#[must_use]
pub fn aside_text(aside: Aside, by: Option<&Undone>) -> String {
    by.map_or_else(|| aside.to_string(), |undone| format!("{aside}: {undone}"))
}

/// Elected uplinks as people read them: `none`, `dpu`, or `dpu-a + dpu-b`.
#[must_use]
pub fn names(elected: &[String]) -> String {
    if elected.is_empty() { "none".to_owned() } else { elected.join(" + ") }
}

/// A notice and its moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at: Instant,
    /// What.
    pub notice: Notice,
}

/// Something that people should be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// A path's health changed.
    Health {
        /// The uplink.
        uplink: String,
        /// The family.
        family: Family,
        /// Before.
        before: Health,
        /// Now.
        now: Health,
        /// Time since the last sign of life, if there ever was one.
        silent_for: Option<Duration>,
    },
    /// Other paths are elected.
    Elected {
        /// The family.
        family: Family,
        /// The uplinks elected before.
        before: Vec<String>,
        /// The uplinks elected now.
        now: Vec<String>,
        /// Why.
        reason: Reason,
    },
    /// A path has another gateway.
    Gateway {
        /// The uplink.
        uplink: String,
        /// The family.
        family: Family,
        /// The gateway, if there is one.
        gateway: Option<IpAddr>,
        /// Where it was learned.
        learned: Option<GatewaySource>,
    },
    /// A path goes on by another of its gateways.
    LeavesGateway {
        /// The uplink.
        uplink: String,
        /// The family.
        family: Family,
        /// The gateway that is left.
        gateway: IpAddr,
        /// How it is.
        health: Health,
    },
    /// An uplink has another interface, or lost the one it had.
    Interface {
        /// The uplink.
        uplink: String,
        /// Its interface now.
        interface: Option<String>,
    },
    /// A gateway answers one kind of probe and never the other.
    SetAside {
        /// The uplink.
        uplink: String,
        /// The family.
        family: Family,
        /// The kind that it filters.
        kind: Kind,
    },
    /// Somebody else answers for a gateway that is remembered: it does not count.
    Stranger {
        /// The uplink.
        uplink: String,
        /// The family.
        family: Family,
        /// Who answers.
        mac: Mac,
    },
    /// An operation was carried out, or would be if routes were written.
    Wrote {
        /// The operation.
        op: Op,
        /// Whether it was written, or only would be.
        dry: bool,
    },
    /// The kernel refused an operation.
    Refused {
        /// The operation.
        op: Op,
        /// What it said.
        outcome: Outcome,
    },
    /// We end, and this operation did not help: what it should remove stays.
    Left(Op),
    /// We stand aside in a family, or do so no longer.
    Aside {
        /// The family.
        family: Family,
        /// Why; none when it is over.
        aside: Option<Aside>,
        /// With [`Aside::Contest`]: who undoes the pin, if the kernel told.
        by: Option<Undone>,
    },
    /// Something keeps path rules from standing, or does so no longer.
    PathRules {
        /// The family.
        family: Family,
        /// How they are now.
        state: PathRulesState,
        /// Who keeps them from standing, if that is known.
        obstacle: Option<Obstacle>,
    },
    /// Sockets of an uplink that is down were looked for, and so many closed.
    Closed {
        /// The uplink.
        uplink: String,
        /// The family.
        family: Family,
        /// Its addresses.
        addresses: Vec<IpAddr>,
        /// How many.
        sockets: usize,
    },
    /// Sockets should be closed, and the kernel does not do so: its error number.
    CannotClose(i32),
    /// The process was not awake for so long: what was asked in that time does not count.
    Asleep(Duration),
    /// Every family is decided, or the wait is over.
    Ready,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Health { uplink, family, before, now, silent_for } => {
                write!(f, "{uplink} {family}: {before} → {now}")?;
                match (now, silent_for) {
                    (Health::Down(_), Some(silent)) => {
                        write!(f, ", last sign of life {} ms ago", silent.as_millis())
                    }
                    _ => Ok(()),
                }
            }
            Self::Elected { family, before, now, reason } => {
                write!(f, "{family}: elected {} → {}: {reason}", names(before), names(now))
            }
            Self::Gateway { uplink, family, gateway: Some(gateway), learned } => {
                write!(f, "{uplink} {family}: gateway {gateway}")?;
                learned.map_or(Ok(()), |source| write!(f, ", from {source}"))
            }
            Self::Gateway { uplink, family, gateway: None, .. } => write!(f, "{uplink} {family}: no gateway"),
            Self::LeavesGateway { uplink, family, gateway, health: Health::Down(_) } => {
                write!(f, "{uplink} {family}: leaving gateway {gateway}, which is down, for one that answers")
            }
            Self::LeavesGateway { uplink, family, gateway, health: Health::Up | Health::Unknown } => {
                write!(f, "{uplink} {family}: leaving gateway {gateway} for one that is preferred")
            }
            Self::Interface { uplink, interface: Some(interface) } => write!(f, "{uplink}: is {interface}"),
            Self::Interface { uplink, interface: None } => write!(f, "{uplink}: no interface"),
            Self::SetAside { uplink, family, kind } => {
                write!(f, "{uplink} {family}: the gateway does not answer {kind}, set aside")
            }
            Self::Stranger { uplink, family, mac } => {
                write!(f, "{uplink} {family}: {mac} answers, which is not the gateway that is remembered")
            }
            Self::Wrote { op, dry: false } => write!(f, "{op}"),
            Self::Wrote { op, dry: true } => write!(f, "would {op}"),
            Self::Refused { op, outcome: outcome @ Outcome::Refused(_) } => {
                write!(f, "the kernel refused to {op}: {outcome}")
            }
            Self::Refused { op, outcome: outcome @ (Outcome::Exists | Outcome::Absent) } => {
                write!(f, "could not {op}: {outcome}")
            }
            Self::Refused { op, outcome: Outcome::Done } => write!(f, "did {op}"),
            Self::Left(op) => write!(f, "ending, and something of ours stays: tried in vain to {op}"),
            Self::Aside { family, aside: Some(aside), by } => {
                write!(f, "{family}: standing aside: {}", aside_text(*aside, by.as_ref()))
            }
            Self::Aside { family, aside: None, by: _ } => write!(f, "{family}: no longer standing aside"),
            Self::PathRules { family, state, obstacle } => {
                write!(f, "{family}: path rules: {}", path_rules_text(*state, obstacle.as_ref()))
            }
            Self::Closed { uplink, family, addresses, sockets } => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let addresses = addresses.join(", ");
                write!(f, "{uplink} {family}: closed {sockets} sockets that kept to {addresses}")
            }
            Self::CannotClose(errno) => {
                write!(
                    f,
                    "close_sockets has no effect, the kernel closes no sockets: error {errno}; it needs \
                     CONFIG_INET_DIAG_DESTROY"
                )
            }
            Self::Asleep(span) => {
                write!(f, "was not awake for {} ms: questions of that time do not count", span.as_millis())
            }
            Self::Ready => f.write_str("ready"),
        }
    }
}
