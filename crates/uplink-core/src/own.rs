//! What is ours in the kernel. Operations can be built from these types only, and these types can
//! only describe routes and rules that carry our protocol number: foreign ones cannot be written.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::snapshot::{
    Attributes, Family, Hop, LinkIndex, Prefix, Route, RouteKind, Rule, TABLE_MAIN, Weight, protocol,
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

/// The table that holds the default route for probes through one interface.
#[must_use]
pub const fn probe_table(link: LinkIndex) -> u32 {
    117_000_000 + link.0
}

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
}

impl Op {
    /// The family whose tables it changes.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self {
            Self::AddRoute(route) | Self::DeleteRoute(route) => route.family(),
            Self::AddRule(rule) | Self::DeleteRule(rule) => rule.family(),
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
}

impl OwnRule {
    /// A rule of ours to be made.
    #[must_use]
    pub const fn new(family: Family, form: RuleForm) -> Self {
        Self { family, form }
    }

    /// The rule as ours, if it carries our protocol number and has a form that we make.
    #[must_use]
    pub fn claim(rule: &Rule) -> Option<Self> {
        if rule.protocol != protocol::UPLINKD || rule.more {
            return None;
        }
        let form = match (rule.priority, rule.table?, rule.suppress_prefix_length, rule.from, rule.to) {
            (PRIORITY_PIN, TABLE_MAIN, Some(0), None, None) => RuleForm::MainWithoutDefault,
            (PRIORITY_PIN, TABLE_PIN, None, None, None) => RuleForm::Pin,
            (PRIORITY_PROBE, table, None, Some(from), Some(to)) => {
                RuleForm::Probe { from, to, link: LinkIndex(table.checked_sub(probe_table(LinkIndex(0)))?) }
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
        }
    }

    /// The table it looks up.
    #[must_use]
    pub const fn table(&self) -> u32 {
        match self.form {
            RuleForm::MainWithoutDefault => TABLE_MAIN,
            RuleForm::Pin => TABLE_PIN,
            RuleForm::Probe { link, .. } => probe_table(link),
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
        let (priority, table) = (self.priority(), self.table());
        match self.form {
            RuleForm::MainWithoutDefault => {
                write!(f, "{} rule {priority}: lookup main suppress_prefixlength 0", self.family)
            }
            RuleForm::Pin => write!(f, "{} rule {priority}: lookup {table}", self.family),
            RuleForm::Probe { from, to, .. } => {
                write!(f, "{} rule {priority}: from {from} to {to} lookup {table}", self.family)
            }
        }
    }
}
