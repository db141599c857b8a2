//! Who undoes what we write, as far as the kernel tells, and what would end that.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::snapshot::{Family, TABLE_MAIN};

/// What systemd-networkd's process is called: the kernel keeps 15 bytes of a name.
const NETWORKD: &str = "systemd-network";

/// Another program undid something of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// Its family.
    pub family: Family,
    /// What was done.
    pub how: Undoing,
    /// Who did it.
    pub by: Program,
}

/// A program that writes routes, rules or nftables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The number of its process: the kernel makes it the port of the process's first netlink socket
    /// (`netlink_autobind` in net/netlink/af_netlink.c). Of a program in a container, its number there. Who
    /// changes nftables is named by the kernel itself, with its number on the host.
    pub process: u32,
    /// What the process is called; none if there is none of that number, or no more, or if `/proc` hides it
    /// from us (`ProtectProc=invisible`).
    pub name: Option<String>,
}

/// Operations that belong together: what goes wrong with some must not keep the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The family's pin.
    Pin,
    /// The uplinks' own tables and the ways of probes to targets.
    Ways,
    /// Path rules.
    Paths,
}

/// What a program did to what is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undoing {
    /// It deleted the pin.
    DeletesPin {
        /// From this table.
        table: u32,
    },
    /// It deleted a rule of placement `table`.
    DeletesRule,
    /// It laid a default route that wins over the pin.
    Outranks {
        /// The route's protocol (`rtm_protocol`).
        protocol: u8,
    },
    /// It deleted the route of an uplink's own table, or the rule that leads a probe there.
    DeletesWay,
    /// It deleted a path rule.
    DeletesPathRule,
    /// It deleted or changed our nftables table.
    ChangesMarks,
}

impl Undoing {
    /// What it concerns.
    #[must_use]
    pub const fn part(self) -> Part {
        match self {
            Self::DeletesPin { .. } | Self::DeletesRule | Self::Outranks { .. } => Part::Pin,
            Self::DeletesWay => Part::Ways,
            Self::DeletesPathRule | Self::ChangesMarks => Part::Paths,
        }
    }
}

impl Undone {
    /// The setting that ends it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match (self.by.name.as_deref(), self.how) {
            (
                Some(NETWORKD),
                Undoing::DeletesPin { .. }
                | Undoing::DeletesRule
                | Undoing::DeletesWay
                | Undoing::DeletesPathRule,
            ) => "set ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no in networkd.conf",
            (None, Undoing::DeletesPin { table: TABLE_MAIN }) => {
                "let it leave protocol 117 alone (if it is systemd-networkd, set ManageForeignRoutes=no in \
                 networkd.conf), or set placement = \"table\" in uplinkd.toml"
            }
            (None, Undoing::DeletesPin { .. } | Undoing::DeletesRule) => {
                "let it leave protocol 117 alone (if it is systemd-networkd, set ManageForeignRoutes=no and \
                 ManageForeignRoutingPolicyRules=no in networkd.conf), or set placement = \"main\" in \
                 uplinkd.toml"
            }
            (Some(_), Undoing::DeletesPin { table: TABLE_MAIN }) => {
                "let it leave protocol 117 alone, or set placement = \"table\" in uplinkd.toml"
            }
            (Some(_), Undoing::DeletesPin { .. } | Undoing::DeletesRule) => {
                "let it leave protocol 117 alone, or set placement = \"main\" in uplinkd.toml"
            }
            (None, Undoing::DeletesWay | Undoing::DeletesPathRule) => {
                "let it leave protocol 117 alone (if it is systemd-networkd, set ManageForeignRoutes=no and \
                 ManageForeignRoutingPolicyRules=no in networkd.conf), or set path_rules = \"off\" in \
                 uplinkd.toml"
            }
            (Some(_), Undoing::DeletesWay | Undoing::DeletesPathRule) => {
                "let it leave protocol 117 alone, or set path_rules = \"off\" in uplinkd.toml"
            }
            (_, Undoing::ChangesMarks) => {
                "let it flush tables of its own only, not the whole ruleset (`flush ruleset` in \
                 /etc/nftables.conf, say), or set path_rules = \"off\" in uplinkd.toml"
            }
            (_, Undoing::Outranks { .. }) => {
                "let its route keep one metric, or set placement = \"table\" in uplinkd.toml"
            }
        }
    }
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}; to end it, {}", self.by, self.how, self.remedy())
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {}", self.process)?;
        self.name.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

impl fmt::Display for Undoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeletesPin { .. } => f.write_str("deletes our route"),
            Self::DeletesRule => f.write_str("deletes our rules"),
            Self::DeletesWay => {
                f.write_str("deletes the routes of the uplinks' own tables, or rules to them")
            }
            Self::DeletesPathRule => f.write_str("deletes our path rules"),
            Self::ChangesMarks => f.write_str("deletes or changes our nftables table"),
            Self::Outranks { protocol } => {
                write!(f, "lays default routes of protocol {} above ours", protocol_name(*protocol))
            }
        }
    }
}

/// What iproute2 calls the protocol of a route (`etc/iproute2/rt_protos` there).
fn protocol_name(protocol: u8) -> String {
    let name = match protocol {
        2 => "kernel",
        3 => "boot",
        4 => "static",
        8 => "gated",
        9 => "ra",
        11 => "zebra",
        12 => "bird",
        14 => "xorp",
        16 => "dhcp",
        18 => "keepalived",
        42 => "babel",
        99 => "openr",
        186 => "bgp",
        187 => "isis",
        188 => "ospf",
        189 => "rip",
        192 => "eigrp",
        other => return other.to_string(),
    };
    name.to_owned()
}
