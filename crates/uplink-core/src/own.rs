//! What is ours in the kernel. Operations can be built from these types only, and these types can
//! only describe routes and rules that carry our protocol number: foreign ones cannot be written.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::marks::OwnMarks;
use crate::snapshot::{
    Attributes, Family, Hop, LinkIndex, Mark, Prefix, Route, RouteKind, Rule, TABLE_LOCAL, TABLE_MAIN,
    Weight, protocol,
};

/// The table for the pin in placement `table`.
pub const TABLE_PIN: u32 = 117;

/// The tables that a pin can stand in.
pub const TABLE_MAIN_OR_PIN: [u32; 2] = [TABLE_MAIN, TABLE_PIN];

/// The preference of the two rules of placement `table`: directly before the rule for `main`
/// (32766), after every foreign rule that came first.
pub const PRIORITY_PIN: u32 = 32765;

/// The preference of the rules that lead probes to targets through the path they judge.
pub const PRIORITY_PROBE: u32 = 32000;

/// The preferences of the path rules for packets of a connection: first everything of `main` but its
/// default routes, then the table of the uplink that the connection came in by. They outrank the pin and
/// a default route of any VPN, but match only what came in through an uplink.
pub const PRIORITY_CONNECTION: [u32; 2] = [32100, 32101];

/// The preferences of the path rules for what is sent from an uplink's address: as above. Behind those
/// for connections, which know better where the question came from.
pub const PRIORITY_SOURCE: [u32; 2] = [32200, 32201];

/// The preferences of the path rule that leads past those for source addresses, and of the one behind them
/// where that goes on: what is translated in a connection of others is routed as without us.
pub const PRIORITY_PAST: [u32; 2] = [32199, 32202];

/// The table that holds one interface's default route: for probes to targets and for path rules.
#[must_use]
pub const fn probe_table(link: LinkIndex) -> u32 {
    117_000_000 + link.0
}

/// Of the rules of a family, in the kernel's order, those that stand without the one that makes them safe.
pub(crate) fn unsafe_rules(rules: &[OwnRule]) -> impl Iterator<Item = &OwnRule> {
    let stands_before = |at: usize, wanted: &OwnRule| rules.iter().take(at).any(|rule| rule == wanted);
    let is_unsafe =
        move |(at, rule): &(usize, &OwnRule)| rule.after().is_some_and(|first| !stands_before(*at, &first));
    rules.iter().enumerate().filter(is_unsafe).map(|(_, rule)| rule)
}

/// The table in which a hop is tried that the kernel may refuse: no interface has number 0, so nobody looks
/// it up.
pub const TABLE_TRIAL: u32 = probe_table(LinkIndex(0));

/// One change to the kernel's tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// Add this route; refuse if one stands at its metric (`NLM_F_CREATE|NLM_F_EXCL`).
    AddRoute(OwnRoute),
    /// Delete this route, naming protocol, table, metric, and gateway and interface of each hop.
    DeleteRoute(OwnRoute),
    /// Add this rule behind all others of its preference, even if the same one stands before them: so
    /// their order can be mended without a moment in which one is missing.
    AddRule(OwnRule),
    /// Delete the first rule that is just like this one.
    DeleteRule(OwnRule),
    /// Lay this nftables table in the place of the one of ours that stands there, if any, in one step.
    SetMarks(OwnMarks),
    /// Delete our nftables table of this family.
    DeleteMarks(Family),
    /// Let the strict reverse-path check of an interface look at marks, or not:
    /// `net.ipv4.conf.*.src_valid_mark`. Only ever taken back where we set it.
    CheckByMark {
        /// The interface.
        link: LinkIndex,
        /// Whether it should.
        on: bool,
    },
}

impl Op {
    /// The family whose tables it changes.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::AddRoute(route) | Self::DeleteRoute(route) => route.family(),
            Self::AddRule(rule) | Self::DeleteRule(rule) => rule.family(),
            Self::SetMarks(marks) => marks.family,
            Self::DeleteMarks(family) => *family,
            Self::CheckByMark { .. } => Family::Ipv4,
        }
    }

    /// Whether it takes away something of ours.
    #[must_use]
    pub const fn removes(&self) -> bool {
        match self {
            Self::AddRoute(_) | Self::AddRule(_) | Self::SetMarks(_) | Self::CheckByMark { on: true, .. } => {
                false
            }
            Self::DeleteRoute(_)
            | Self::DeleteRule(_)
            | Self::DeleteMarks(_)
            | Self::CheckByMark { on: false, .. } => true,
        }
    }
}

/// One hop of a route of ours, and its share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Leg {
    /// Where it leads.
    pub hop: Hop,
    /// Its share of the flows.
    pub weight: Weight,
}

/// Where a route of ours leads: one hop, or several in a multipath route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Legs {
    first: Leg,
    others: Vec<Leg>,
}

impl Legs {
    /// These hops in an order that depends on nothing else, each once; none if there is none. The share
    /// of a single one is the whole.
    #[must_use]
    pub fn of(legs: impl IntoIterator<Item = Leg>) -> Option<Self> {
        let mut legs: Vec<Leg> = legs.into_iter().collect();
        legs.sort();
        legs.dedup_by(|one, other| one.hop == other.hop);
        Self::in_order(legs)
    }

    fn in_order(legs: Vec<Leg>) -> Option<Self> {
        let mut legs = legs.into_iter();
        let first = legs.next()?;
        let others: Vec<Leg> = legs.collect();
        Some(if others.is_empty() { Self::from(first.hop) } else { Self { first, others } })
    }

    /// All of them, at least one.
    pub fn iter(&self) -> impl Iterator<Item = &Leg> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The first of them.
    #[must_use]
    pub const fn first(&self) -> &Leg {
        &self.first
    }

    /// The only hop, if it is one.
    #[must_use]
    pub fn single(&self) -> Option<&Hop> {
        self.others.is_empty().then_some(&self.first.hop)
    }

    /// Whether one of them leads there.
    #[must_use]
    pub fn lead_to(&self, hop: &Hop) -> bool {
        self.iter().any(|leg| leg.hop == *hop)
    }
}

impl From<Hop> for Legs {
    fn from(hop: Hop) -> Self {
        Self { first: Leg { hop, weight: Weight::ONE }, others: Vec::new() }
    }
}

/// A route of ours: always unicast, always with our protocol number, always with a hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRoute {
    family: Family,
    table: u32,
    metric: u32,
    legs: Legs,
    attributes: Attributes,
}

impl OwnRoute {
    /// A default route of ours to be made. A metric of 0 becomes 1: 0 is a wildcard in an IPv4
    /// delete and means 1024 in IPv6.
    #[must_use]
    pub fn new(
        family: Family,
        table: u32,
        metric: u32,
        legs: impl Into<Legs>,
        attributes: Attributes,
    ) -> Self {
        Self { family, table, metric: metric.max(1), legs: legs.into(), attributes }
    }

    /// The route as ours, if it carries our protocol number and has the form that we make. Its hops stay
    /// in the kernel's order, in which an IPv4 delete must name them (`fib_nh_match` in
    /// net/ipv4/fib_semantics.c).
    ///
    /// In IPv6 some of several hops may be another program's: the kernel joins what is appended at the
    /// same metric, and shows one protocol for all.
    #[must_use]
    pub fn claim(route: &Route) -> Option<Self> {
        let ours =
            route.protocol == protocol::UPLINKD && route.is_default() && route.metric > 0 && route.tos == 0;
        if !ours || route.kind != RouteKind::Unicast {
            return None;
        }
        let weights = route.weights.iter().copied().chain(std::iter::repeat(Weight::ONE));
        let legs = route.hops.iter().cloned().zip(weights).map(|(hop, weight)| Leg { hop, weight });
        Some(Self {
            family: route.family,
            table: route.table,
            metric: route.metric,
            legs: Legs::in_order(legs.collect())?,
            attributes: route.attributes.clone(),
        })
    }

    /// The route hop by hop. So IPv6 deletes it: each delete names our protocol, which the kernel keeps
    /// for each hop, and what another program appended stays.
    pub fn hop_by_hop(&self) -> impl Iterator<Item = Self> {
        self.legs.iter().map(|leg| Self { legs: leg.hop.clone().into(), ..self.clone() })
    }

    /// Its family.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// The table it stands in.
    #[must_use]
    pub const fn table(&self) -> u32 {
        self.table
    }

    /// Its metric, never 0.
    #[must_use]
    pub const fn metric(&self) -> u32 {
        self.metric
    }

    /// Where it leads.
    #[must_use]
    pub const fn legs(&self) -> &Legs {
        &self.legs
    }

    /// Whether it leads there and nowhere else.
    #[must_use]
    pub fn leads_to(&self, hop: &Hop) -> bool {
        self.legs.single() == Some(hop)
    }

    /// What it copied from the foreign default route of its path.
    #[must_use]
    pub const fn attributes(&self) -> &Attributes {
        &self.attributes
    }
}

/// A rule of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRule {
    family: Family,
    form: RuleForm,
}

/// The forms that a rule of ours has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleForm {
    /// `lookup main suppress_prefixlength 0`: everything of `main` but its default routes.
    MainWithoutDefault,
    /// `lookup 117`: the pin.
    Pin,
    /// `from SOURCE to TARGET lookup TABLE`: a probe's way, and its answer's.
    Probe {
        /// The uplink's address.
        from: Prefix,
        /// The target.
        to: Prefix,
        /// The interface whose probe table is looked up.
        link: LinkIndex,
    },
    /// `fwmark MARK lookup …`: the way of a connection that came in by an uplink.
    Connection {
        /// The uplink's mark.
        mark: Mark,
        /// Where it leads.
        to: Lookup,
    },
    /// `from SOURCE lookup …`: the way of what is sent from an uplink's address.
    Source {
        /// The uplink's address.
        from: Prefix,
        /// Where it leads.
        to: Lookup,
    },
    /// `fwmark MARK goto …`: past the rules for source addresses.
    Past {
        /// What is routed as without us.
        mark: Mark,
    },
    /// `fwmark MARK lookup local`: where that goes on. The kernel wants some rule there; this one finds
    /// nothing, because the first of all rules looked there already.
    Landing {
        /// As above.
        mark: Mark,
    },
}

/// What a path rule looks up. There are two for each: the host's own subnets, its pods and every other
/// place that `main` knows are reached as ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lookup {
    /// Everything of `main` but its default routes.
    MainWithoutDefault,
    /// The default route through this interface.
    Uplink(LinkIndex),
}

impl Lookup {
    /// Which of two preferences is its.
    const fn priority(self, [main, uplink]: [u32; 2]) -> u32 {
        match self {
            Self::MainWithoutDefault => main,
            Self::Uplink(_) => uplink,
        }
    }

    const fn table(self) -> u32 {
        match self {
            Self::MainWithoutDefault => TABLE_MAIN,
            Self::Uplink(link) => probe_table(link),
        }
    }
}

impl OwnRule {
    /// A rule of ours to be made.
    #[must_use]
    pub const fn new(family: Family, form: RuleForm) -> Self {
        Self { family, form }
    }

    /// The rule that must stand before this one: without it, what `main` knows of the host's own subnets, of
    /// its pods and of every other place would go by a default route of ours, too.
    const fn after(&self) -> Option<Self> {
        let form = match self.form {
            RuleForm::Pin => RuleForm::MainWithoutDefault,
            RuleForm::Connection { mark, to: Lookup::Uplink(_) } => {
                RuleForm::Connection { mark, to: Lookup::MainWithoutDefault }
            }
            RuleForm::Source { from, to: Lookup::Uplink(_) } => {
                RuleForm::Source { from, to: Lookup::MainWithoutDefault }
            }
            RuleForm::Connection { mark: _, to: Lookup::MainWithoutDefault }
            | RuleForm::Source { from: _, to: Lookup::MainWithoutDefault }
            | RuleForm::MainWithoutDefault
            | RuleForm::Probe { .. }
            | RuleForm::Past { .. }
            | RuleForm::Landing { .. } => return None,
        };
        Some(Self { family: self.family, form })
    }

    /// The rule as ours, if it carries our protocol number and has a form that we make.
    #[must_use]
    pub fn claim(rule: &Rule) -> Option<Self> {
        if rule.protocol != protocol::UPLINKD || rule.more {
            return None;
        }
        let [past, landing] = PRIORITY_PAST;
        if let Some(goto) = rule.goto {
            let is_past = (rule.priority, rule.from, rule.to, goto) == (past, None, None, landing);
            let form = RuleForm::Past { mark: rule.mark.filter(|_| is_past)? };
            return Some(Self { family: rule.family, form });
        }
        let (table, suppress) = (rule.table?, rule.suppress_prefix_length);
        let uplink = || table.checked_sub(probe_table(LinkIndex(0))).map(LinkIndex);
        let form = match (rule.priority, rule.from, rule.to, rule.mark) {
            (PRIORITY_PIN, None, None, None) => match (table, suppress) {
                (TABLE_MAIN, Some(0)) => RuleForm::MainWithoutDefault,
                (TABLE_PIN, None) => RuleForm::Pin,
                _ => return None,
            },
            (PRIORITY_PROBE, Some(from), Some(to), None) if suppress.is_none() => {
                RuleForm::Probe { from, to, link: uplink()? }
            }
            (priority, None, None, Some(mark)) if priority == landing => match (table, suppress) {
                (TABLE_LOCAL, None) => RuleForm::Landing { mark },
                _ => return None,
            },
            (priority, from, None, mark) => {
                let to = match (table, suppress) {
                    (TABLE_MAIN, Some(0)) => Lookup::MainWithoutDefault,
                    (_, None) => Lookup::Uplink(uplink()?),
                    _ => return None,
                };
                match (from, mark) {
                    (None, Some(mark)) if priority == to.priority(PRIORITY_CONNECTION) => {
                        RuleForm::Connection { mark, to }
                    }
                    (Some(from), None) if priority == to.priority(PRIORITY_SOURCE) => {
                        RuleForm::Source { from, to }
                    }
                    _ => return None,
                }
            }
            _ => return None,
        };
        Some(Self { family: rule.family, form })
    }

    /// Its family.
    #[must_use]
    pub const fn family(&self) -> Family {
        self.family
    }

    /// Its form.
    #[must_use]
    pub const fn form(&self) -> RuleForm {
        self.form
    }

    /// Its preference.
    #[must_use]
    pub const fn priority(&self) -> u32 {
        match self.form {
            RuleForm::MainWithoutDefault | RuleForm::Pin => PRIORITY_PIN,
            RuleForm::Probe { .. } => PRIORITY_PROBE,
            RuleForm::Connection { to, .. } => to.priority(PRIORITY_CONNECTION),
            RuleForm::Source { to, .. } => to.priority(PRIORITY_SOURCE),
            RuleForm::Past { .. } => PRIORITY_PAST[0],
            RuleForm::Landing { .. } => PRIORITY_PAST[1],
        }
    }

    /// The table it looks up, if it does.
    #[must_use]
    pub const fn table(&self) -> Option<u32> {
        Some(match self.form {
            RuleForm::MainWithoutDefault => TABLE_MAIN,
            RuleForm::Pin => TABLE_PIN,
            RuleForm::Probe { link, .. } => probe_table(link),
            RuleForm::Connection { to, .. } | RuleForm::Source { to, .. } => to.table(),
            RuleForm::Landing { .. } => TABLE_LOCAL,
            RuleForm::Past { .. } => return None,
        })
    }

    /// The preference of the rule it goes on with, if it looks up no table.
    #[must_use]
    pub const fn goto(&self) -> Option<u32> {
        match self.form {
            RuleForm::Past { .. } => Some(PRIORITY_PAST[1]),
            RuleForm::MainWithoutDefault
            | RuleForm::Pin
            | RuleForm::Probe { .. }
            | RuleForm::Connection { .. }
            | RuleForm::Source { .. }
            | RuleForm::Landing { .. } => None,
        }
    }

    /// It lets only what is more specific than a default route be found.
    #[must_use]
    pub const fn suppresses_default(&self) -> bool {
        match self.form {
            RuleForm::MainWithoutDefault => true,
            RuleForm::Pin | RuleForm::Probe { .. } | RuleForm::Past { .. } | RuleForm::Landing { .. } => {
                false
            }
            RuleForm::Connection { to, .. } | RuleForm::Source { to, .. } => {
                matches!(to, Lookup::MainWithoutDefault)
            }
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddRoute(route) => write!(f, "add {route}"),
            Self::DeleteRoute(route) => write!(f, "delete {route}"),
            Self::AddRule(rule) => write!(f, "add {rule}"),
            Self::DeleteRule(rule) => write!(f, "delete {rule}"),
            Self::SetMarks(marks) => write!(f, "lay {marks}"),
            Self::DeleteMarks(family) => write!(f, "delete {family} nftables table {}", crate::marks::TABLE),
            Self::CheckByMark { link, on } => {
                write!(f, "set src_valid_mark of ifindex {} to {}", link.0, u8::from(*on))
            }
        }
    }
}

impl fmt::Display for Legs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Leg { hop, weight } in self.iter() {
            if self.single().is_none() {
                f.write_str(" nexthop")?;
            }
            if let Some(gateway) = hop.gateway {
                write!(f, " via {gateway}")?;
            }
            write!(f, " ifindex {}", hop.link.0)?;
            if self.single().is_none() {
                write!(f, " weight {weight}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for OwnRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} default{}", self.family, self.legs)?;
        if self.table != TABLE_MAIN {
            write!(f, " table {}", self.table)?;
        }
        write!(f, " metric {}", self.metric)
    }
}

impl fmt::Display for OwnRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {}:", self.family, self.priority())?;
        match self.form {
            RuleForm::MainWithoutDefault | RuleForm::Pin => {}
            RuleForm::Probe { from, to, .. } => write!(f, " from {from} to {to}")?,
            RuleForm::Connection { mark, .. } | RuleForm::Past { mark } | RuleForm::Landing { mark } => {
                write!(f, " fwmark {mark}")?;
            }
            RuleForm::Source { from, .. } => write!(f, " from {from}")?,
        }
        match self.table() {
            Some(TABLE_MAIN) => f.write_str(" lookup main")?,
            Some(TABLE_LOCAL) => f.write_str(" lookup local")?,
            Some(table) => write!(f, " lookup {table}")?,
            None => {}
        }
        if let Some(priority) = self.goto() {
            write!(f, " goto {priority}")?;
        }
        if self.suppresses_default() { f.write_str(" suppress_prefixlength 0") } else { Ok(()) }
    }
}
