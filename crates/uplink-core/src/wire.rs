//! The status as it leaves the process: plain records that any Varlink client can read.
//!
//! [`crate::status`] is made for deciding and telling, with nested enums and typed moments; the
//! records here have only what Varlink has, so nothing nests deeper than it must. They stand in this
//! crate because daemon and client share them, and writing them twice would be the alternative.
//! What is sent is described in `io.uplinkd.varlink`; a test of the daemon compares the two.
//!
//! Moments are microseconds since the machine started (`CLOCK_BOOTTIME`), their names end in `_us`.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::own::{Leg, OwnRoute};
use crate::policy::{Mode, Target};
use crate::snapshot::Family;
use crate::status::{
    self, Aside, Cause, CloseSocketsState, FamilyStatus, GatewaySource, Health, Kind, Notice, Obstacle,
    PathRulesState, PathRulesStatus, PathStatus, Reason, TargetStatus, UplinkStatus, aside_text,
    path_rules_text,
};
use crate::time::Instant;
use crate::undone::Program;

/// What `io.uplinkd.GetStatus` returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GetStatus {
    /// The whole state.
    pub status: Status,
}

/// See [`status::Status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The moment this was true.
    pub now_us: u64,
    /// Whether routes are written.
    pub mode: Mode,
    /// What is wrong with the configuration that was read last: one that was read before is in force.
    pub misconfigured: Option<String>,
    /// Every family is decided, or the wait for that is over.
    pub ready: bool,
    /// Whether sockets of an uplink that is down are closed.
    #[serde(default)]
    pub close_sockets: CloseSocketsState,
    /// Per family: what is elected and what stands in the kernel.
    pub families: Vec<Election>,
    /// All uplinks, the most preferred first.
    pub uplinks: Vec<Uplink>,
    /// The last notices, oldest first.
    pub changes: Vec<Change>,
}

/// See [`FamilyStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Election {
    /// The family.
    pub family: Family,
    /// The name of the elected uplink; of several, the most preferred.
    pub elected: Option<String>,
    /// The names of all that are elected: more than one are the members of a multipath pin.
    pub members: Vec<String>,
    /// Why, as a word.
    pub reason: String,
    /// Why, as a sentence.
    pub reason_text: String,
    /// Since when.
    pub since_us: u64,
    /// Our default route in the kernel's table, if one is needed.
    pub pin: Option<Pin>,
    /// Why nothing of ours is written, as a word.
    pub aside: Option<Aside>,
    /// Why nothing of ours is written, as a sentence.
    pub aside_text: Option<String>,
    /// Whether path rules are laid, as a word.
    #[serde(default)]
    pub path_rules: PathRulesState,
    /// Whether path rules are laid, as a sentence.
    #[serde(default)]
    pub path_rules_text: String,
    /// Who keeps undoing them, if the kernel told.
    pub path_rules_undone_by: Option<Program>,
    /// The rule of others because of which there are none.
    pub path_rules_rule: Option<MarkRule>,
    /// Who keeps undoing our default route, if the kernel told.
    pub undone_by: Option<Program>,
}

/// See [`status::MarkRule`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkRule {
    /// Its preference.
    pub priority: u32,
    /// The mark that it looks for.
    pub mark: u32,
    /// Which bits of it.
    pub mask: u32,
}

/// Our default route; see [`OwnRoute`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The table it stands in; 254 is `main`.
    pub table: u32,
    /// Its metric.
    pub metric: u32,
    /// The next hop; of several, the first.
    pub gateway: Option<IpAddr>,
    /// The number of the interface it leads through; of several, the first.
    pub ifindex: u32,
    /// All its hops: one, or several in a multipath route.
    pub hops: Vec<PinHop>,
}

/// A hop of our default route; see [`Leg`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinHop {
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The number of the interface it leads through.
    pub ifindex: u32,
    /// Its share of the flows.
    pub weight: u16,
}

/// See [`UplinkStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// What it is called.
    pub name: String,
    /// Its interface; none while it is missing.
    pub interface: Option<String>,
    /// Its tier.
    pub tier: u32,
    /// Its paths.
    pub paths: Vec<Path>,
}

/// See [`PathStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    /// The family.
    pub family: Family,
    /// `up`, `down` or `unknown`.
    pub health: String,
    /// Why it is down.
    pub cause: Option<Cause>,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// Where that was learned.
    pub learned: Option<GatewaySource>,
    /// A lease that may name one and could not be read: where it is, and why.
    pub unreadable_lease: Option<String>,
    /// The last answer from the gateway.
    pub last_answer_us: Option<u64>,
    /// Questions without an answer over the last 40 ticks, in percent; none of a silent path.
    pub loss_percent: Option<u32>,
    /// What is asked on the tick.
    pub asked: Option<Kind>,
    /// When a path that fell may be taken again, if it stays well.
    pub returns_us: Option<u64>,
    /// Its targets.
    pub targets: Vec<TargetAnswer>,
    /// Its path rules; none if there are none.
    pub path_rules: Option<PathRules>,
}

/// See [`PathRulesStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRules {
    /// The table that they lead to.
    pub table: u32,
    /// The mark of connections that came in by this path.
    pub mark: Option<u32>,
    /// The addresses whose packets keep to this path.
    pub sources: Vec<IpAddr>,
    /// We set `src_valid_mark` of its interface.
    pub src_valid_mark: bool,
}

/// See [`TargetStatus`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetAnswer {
    /// `icmp` or `tcp`.
    pub kind: String,
    /// Its address, with the port if it has one.
    pub address: String,
    /// Whether it answers; none before the first verdict.
    pub answers: Option<bool>,
}

/// A notice and its moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at_us: u64,
    /// What sort of notice it is.
    pub kind: String,
    /// The uplink it is about.
    pub uplink: Option<String>,
    /// The family it is about.
    pub family: Option<Family>,
    /// All of it, as a sentence.
    pub text: String,
}

impl From<&status::Status> for Status {
    fn from(status: &status::Status) -> Self {
        Self {
            now_us: micros(status.now),
            mode: status.mode,
            misconfigured: status.misconfigured.clone(),
            ready: status.ready,
            close_sockets: status.close_sockets,
            families: status.families.iter().map(Election::from).collect(),
            uplinks: status.uplinks.iter().map(Uplink::from).collect(),
            changes: status.changes.iter().map(Change::from).collect(),
        }
    }
}

impl From<&FamilyStatus> for Election {
    fn from(family: &FamilyStatus) -> Self {
        let (path_rules_undone_by, path_rules_rule) = match &family.obstacle {
            Some(Obstacle::Program(undone)) => (Some(undone.by.clone()), None),
            Some(Obstacle::Rule(rule)) => (None, Some(MarkRule::from(rule))),
            None => (None, None),
        };
        Self {
            family: family.family,
            elected: family.elected.first().cloned(),
            members: family.elected.clone(),
            reason: reason_word(family.reason).to_owned(),
            reason_text: family.reason.to_string(),
            since_us: micros(family.since),
            pin: family.pin.as_ref().map(Pin::from),
            aside: family.aside,
            aside_text: family.aside.map(|aside| aside_text(aside, family.undone_by.as_ref())),
            path_rules: family.path_rules,
            path_rules_text: path_rules_text(family.path_rules, family.obstacle.as_ref()),
            path_rules_undone_by,
            path_rules_rule,
            undone_by: family.undone_by.as_ref().map(|undone| undone.by.clone()),
        }
    }
}

impl From<&status::MarkRule> for MarkRule {
    fn from(rule: &status::MarkRule) -> Self {
        let status::MarkRule { priority, mark, our_bits: _ } = rule;
        Self { priority: *priority, mark: mark.value, mask: mark.mask }
    }
}

impl From<&OwnRoute> for Pin {
    fn from(route: &OwnRoute) -> Self {
        Self {
            table: route.table(),
            metric: route.metric(),
            gateway: route.legs().first().hop.gateway,
            ifindex: route.legs().first().hop.link.0,
            hops: route.legs().iter().map(PinHop::from).collect(),
        }
    }
}

impl From<&Leg> for PinHop {
    fn from(leg: &Leg) -> Self {
        Self { gateway: leg.hop.gateway, ifindex: leg.hop.link.0, weight: leg.weight.into() }
    }
}

impl From<&UplinkStatus> for Uplink {
    fn from(uplink: &UplinkStatus) -> Self {
        Self {
            name: uplink.name.clone(),
            interface: uplink.interface.clone(),
            tier: uplink.tier,
            paths: uplink.paths.iter().map(Path::from).collect(),
        }
    }
}

impl From<&PathStatus> for Path {
    fn from(path: &PathStatus) -> Self {
        let (health, cause) = match path.health {
            Health::Unknown => ("unknown", None),
            Health::Up => ("up", None),
            Health::Down(cause) => ("down", Some(cause)),
        };
        Self {
            family: path.family,
            health: health.to_owned(),
            cause,
            gateway: path.gateway,
            learned: path.learned,
            unreadable_lease: path.unreadable_lease.as_ref().map(ToString::to_string),
            last_answer_us: path.last_answer.map(micros),
            loss_percent: path.loss_percent,
            asked: path.asked,
            returns_us: path.returns_at.map(micros),
            targets: path.targets.iter().map(TargetAnswer::from).collect(),
            path_rules: path.path_rules.as_ref().map(PathRules::from),
        }
    }
}

impl From<&PathRulesStatus> for PathRules {
    fn from(rules: &PathRulesStatus) -> Self {
        Self {
            table: rules.table,
            mark: rules.mark.map(|mark| mark.value),
            sources: rules.sources.clone(),
            src_valid_mark: rules.src_valid_mark,
        }
    }
}

impl From<&TargetStatus> for TargetAnswer {
    fn from(target: &TargetStatus) -> Self {
        let (kind, address) = match target.target {
            Target::Icmp(address) => ("icmp", address.to_string()),
            Target::Tcp(address) => ("tcp", address.to_string()),
        };
        Self { kind: kind.to_owned(), address, answers: target.answers }
    }
}

impl From<&status::Change> for Change {
    fn from(change: &status::Change) -> Self {
        let subject = Subject::of(&change.notice);
        Self {
            at_us: micros(change.at),
            kind: subject.kind.to_owned(),
            uplink: subject.uplink.map(str::to_owned),
            family: subject.family,
            text: change.notice.to_string(),
        }
    }
}

/// What a notice is about, for filters: in the status and in the fields of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject<'a> {
    /// What sort of notice it is, as a word.
    pub kind: &'static str,
    /// The uplink it is about; for an election the one elected now.
    pub uplink: Option<&'a str>,
    /// The family it is about.
    pub family: Option<Family>,
}

impl<'a> Subject<'a> {
    /// What `notice` is about.
    #[must_use]
    pub fn of(notice: &'a Notice) -> Self {
        let (kind, uplink, family) = match notice {
            Notice::Health { uplink, family, .. } => ("health", Some(uplink), Some(*family)),
            Notice::Elected { now, family, .. } => ("elected", now.first(), Some(*family)),
            Notice::Gateway { uplink, family, .. } | Notice::LeavesGateway { uplink, family, .. } => {
                ("gateway", Some(uplink), Some(*family))
            }
            Notice::Interface { uplink, .. } => ("interface", Some(uplink), None),
            Notice::SetAside { uplink, family, .. } => ("set_aside", Some(uplink), Some(*family)),
            Notice::Stranger { uplink, family, .. } => ("stranger", Some(uplink), Some(*family)),
            Notice::Wrote { op, .. } => ("wrote", None, Some(op.family())),
            Notice::Refused { op, .. } => ("refused", None, Some(op.family())),
            Notice::Left(op) => ("left", None, Some(op.family())),
            Notice::Aside { family, .. } => ("aside", None, Some(*family)),
            Notice::PathRules { family, .. } => ("path_rules", None, Some(*family)),
            Notice::Closed { uplink, family, .. } => ("closed", Some(uplink), Some(*family)),
            Notice::CannotClose(_) => ("cannot_close", None, None),
            Notice::Asleep(_) => ("asleep", None, None),
            Notice::Ready => ("ready", None, None),
        };
        Self { kind, uplink: uplink.map(String::as_str), family }
    }
}

/// A moment in microseconds since the machine started.
#[must_use]
pub const fn micros(at: Instant) -> u64 {
    at.as_nanos() / 1_000
}

/// The word for a reason.
const fn reason_word(reason: Reason) -> &'static str {
    match reason {
        Reason::NothingWorks => "nothing_works",
        Reason::Waiting => "waiting",
        Reason::First => "first",
        Reason::TakenOver => "taken_over",
        Reason::Fell(_) => "fell",
        Reason::MemberFell(_) => "member_fell",
        Reason::MemberJoined => "member_joined",
        Reason::Gone => "gone",
        Reason::Preferred => "preferred",
        Reason::FirstToAnswer => "first_to_answer",
    }
}
