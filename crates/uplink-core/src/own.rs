//! What is ours in the kernel. Operations can be built from these types only, and these types can
//! only describe routes and rules that carry our protocol number: foreign ones cannot be written.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::snapshot::{
    Attributes, Family, Hop, LinkIndex, Prefix, Route, RouteKind, Rule, TABLE_MAIN, protocol,
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
    /// Delete this route, naming protocol, table, metric, gateway and interface.
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

/// A route of ours: always unicast, always with our protocol number, always one hop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRoute {
    family: Family,
    table: u32,
    metric: u32,
    hop: Hop,
    attributes: Attributes,
}

impl OwnRoute {
    /// A default route of ours to be made. A metric of 0 becomes 1: 0 is a wildcard in an IPv4
    /// delete and means 1024 in IPv6.
    #[must_use]
    pub fn new(family: Family, table: u32, metric: u32, hop: Hop, attributes: Attributes) -> Self {
        Self { family, table, metric: metric.max(1), hop, attributes }
    }

    /// The route as ours, if it carries our protocol number and has the form that we make.
    #[must_use]
    pub fn claim(route: &Route) -> Option<Self> {
        match Self::legs(route).as_slice() {
            [leg] => Some(leg.clone()),
            _ => None,
        }
    }

    /// The route as ours, hop by hop. It has several where IPv6 joined ours with a route that another
    /// program appended at the same metric: deleting names the protocol, which the kernel keeps for
    /// each hop, so that only ours can go.
    #[must_use]
    pub fn legs(route: &Route) -> Vec<Self> {
        let ours =
            route.protocol == protocol::UPLINKD && route.is_default() && route.metric > 0 && route.tos == 0;
        if !ours || route.kind != RouteKind::Unicast {
            return Vec::new();
        }
        let leg = |hop: &Hop| Self {
            family: route.family,
            table: route.table,
            metric: route.metric,
            hop: hop.clone(),
            attributes: route.attributes.clone(),
        };
        route.hops.iter().map(leg).collect()
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
    pub const fn hop(&self) -> &Hop {
        &self.hop
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

impl fmt::Display for OwnRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} default", self.family)?;
        if let Some(gateway) = self.hop.gateway {
            write!(f, " via {gateway}")?;
        }
        write!(f, " ifindex {}", self.hop.link.0)?;
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
