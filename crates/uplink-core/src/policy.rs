//! What the operator asked for, typed. The daemon reads it from TOML; the core only sees this.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::snapshot::{Mac, PciAddress, Weight};

/// The configuration. Its default is what a host without a configuration file gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Write routes, or only say what would be written.
    pub mode: Mode,
    /// How long a path may give no sign of life before it is down. At least [`Policy::MIN_PATIENCE`].
    pub patience: Duration,
    /// How long a path that fell must be well before it is taken again.
    pub return_after: Duration,
    /// How long to wait at boot for a tier-1 port that is known to exist.
    pub boot_wait: Duration,
    /// When to leave a working path for a better one.
    pub preempt: Preempt,
    /// Where the pin stands.
    pub placement: Placement,
    /// Whether what came in through an uplink is answered through it.
    pub path_rules: PathRules,
    /// Whether the default route is one uplink's of a tier, or all its uplinks'.
    #[serde(default)]
    pub within_tier: WithinTier,
    /// Close sockets that keep to the address of an uplink that was left because it is down.
    #[serde(default)]
    pub close_sockets: bool,
    /// Uplinks the operator named, in the order of the file.
    pub uplinks: Vec<UplinkPolicy>,
}

impl Policy {
    /// The least patience: one tick (a quarter) stays above the lateness of a busy machine.
    pub const MIN_PATIENCE: Duration = Duration::from_millis(200);
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: Mode::Steer,
            patience: Duration::from_secs(1),
            return_after: Duration::from_secs(30),
            boot_wait: Duration::from_secs(30),
            preempt: Preempt::Always,
            placement: Placement::Auto,
            path_rules: PathRules::default(),
            within_tier: WithinTier::First,
            close_sockets: false,
            uplinks: Vec::new(),
        }
    }
}

/// Whether routes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Keep the default route on the elected path.
    Steer,
    /// Do everything but the writing.
    Observe,
}

/// When a working path is left for a better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preempt {
    /// Whenever the better one has proved itself.
    Always,
    /// Only until the first decision is announced (READY).
    Boot,
    /// Not at all: stay until the elected path fails.
    Never,
}

/// Where the pin stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// In `main` while it has two free metrics below the lowest foreign default, else in `table`.
    Auto,
    /// In the main table.
    Main,
    /// In our own table, behind rules directly before the main table's.
    Table,
}

/// Whether path rules are laid, and with which bits of the marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PathRules {
    /// None.
    Off,
    /// Laid; these bits of packets' and connections' marks are ours: [`PathRules::MIN_BITS`] or more that
    /// stand together.
    On(u32),
}

impl PathRules {
    /// Clear of kube-proxy (0x4000, 0x8000), Calico (0xffff0000 by default), Cilium (0x0f00), the portmap
    /// plugin (0x2000), the AWS plugin (0x80), Tailscale (0xff0000), and of the small numbers that people
    /// choose; see docs/path-rules.md.
    pub const USUAL_BITS: u32 = 0x78;

    /// The bits of one mark must tell the uplinks from each other and from none.
    pub const MIN_BITS: u32 = 2;
}

impl Default for PathRules {
    fn default() -> Self {
        Self::On(Self::USUAL_BITS)
    }
}

/// What becomes of several working uplinks of one tier.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WithinTier {
    /// The first one carries the default route; the others wait.
    #[default]
    First,
    /// All of them carry it, in one multipath route.
    Multipath,
}

/// An uplink that the operator named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkPolicy {
    /// What to call it.
    pub name: String,
    /// Which interface it is.
    pub matching: Match,
    /// Its preference; lower wins, 1 is the lowest.
    pub tier: u32,
    /// Its share among the uplinks of its tier in a multipath route.
    #[serde(default = "one")]
    pub weight: Weight,
    /// Its gateways, at most one per family.
    pub gateways: Vec<IpAddr>,
    /// What must answer behind the gateway.
    pub targets: Vec<Target>,
    /// How many of the targets of one family must answer.
    pub need: Need,
    /// How often each target is asked.
    pub interval: Duration,
}

const fn one() -> Weight {
    Weight::ONE
}

/// How an interface is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Match {
    /// By name or alternative name; `*` stands for any characters, `?` for one.
    Interface(String),
    /// By Ethernet address.
    Mac(Mac),
    /// By the PCI function behind it. Its bridge or bond is followed.
    Pci(PciAddress),
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interface(pattern) => write!(f, "interface {pattern}"),
            Self::Mac(mac) => write!(f, "mac {mac}"),
            Self::Pci(address) => write!(f, "pci {address}"),
        }
    }
}

/// Something behind the gateway whose answer proves the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// Answers ICMP echo.
    Icmp(IpAddr),
    /// Answers a TCP SYN; a refusal is an answer too, it came from behind the gateway.
    Tcp(SocketAddr),
}

impl Target {
    /// The address that is asked.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        match self {
            Self::Icmp(address) => *address,
            Self::Tcp(address) => address.ip(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Icmp(address) => write!(f, "icmp {address}"),
            Self::Tcp(address) => write!(f, "tcp {address}"),
        }
    }
}

/// How many targets must answer for the upstream to count as working.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// One of them.
    Any,
    /// Each of them.
    All,
    /// At least so many.
    AtLeast(u32),
}
