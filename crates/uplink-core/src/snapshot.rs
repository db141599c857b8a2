//! What the kernel says about this host, as data: links, addresses, default routes, rules.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::lease::Leases;
use crate::marks::OwnMarks;

/// The number of the main routing table (`RT_TABLE_MAIN`, `linux/rtnetlink.h`).
pub const TABLE_MAIN: u32 = 254;

/// The number of the table of the host's own addresses (`RT_TABLE_LOCAL`).
pub const TABLE_LOCAL: u32 = 255;

/// Everything that matters to the decision, at one moment.
///
/// It holds no more than that: of the routes only default routes, own routes and the routes that
/// name a gateway (see [`Route::names_gateway`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// All interfaces, by index.
    #[serde(with = "as_list")]
    pub links: BTreeMap<LinkIndex, Link>,
    /// All addresses, in the kernel's order.
    pub addresses: Vec<Address>,
    /// Routes, in the kernel's order within one table and metric.
    pub routes: Vec<Route>,
    /// Policy rules, in the order in which the kernel tries them (per family).
    pub rules: Vec<Rule>,
    /// BlueField network functions that are present on the PCI bus, with or without an interface.
    pub dpu_ports: Vec<PciPort>,
    /// What DHCP clients wrote down.
    #[serde(default)]
    pub leases: Leases,
    /// `net.ipv4.conf.all.rp_filter`: an interface's own is in force where that is larger.
    #[serde(default)]
    pub rp_filter: u32,
    /// Connection tracking, and our tables of marks.
    #[serde(default)]
    pub tracking: Tracking,
}

impl Snapshot {
    /// Whether IPv4 packets that arrive here must come from where an answer would go (`rp_filter` = 1,
    /// RFC 3704 section 2.2).
    #[must_use]
    pub fn checks_strictly(&self, link: LinkIndex) -> bool {
        self.links.get(&link).is_some_and(|link| link.rp_filter.max(self.rp_filter) == 1)
    }
}

/// What the kernel has of connection tracking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    /// Connections are tracked here: somebody asked for it, a firewall or a translation of addresses.
    pub in_use: bool,
    /// Our nftables tables, at most one a family.
    pub tables: Vec<OwnMarks>,
}

/// IPv4 or IPv6. Elections are per family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both, in the order in which they are shown.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        })
    }
}

/// An interface's number (`ifindex`). It is new each time the interface is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LinkIndex(pub u32);

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is not an Ethernet address such as b8:3f:d2:00:00:01");
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(octets)) }
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// An address range such as `10.0.120.0/24`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Prefix {
    /// Any address of the range.
    pub address: IpAddr,
    /// How many leading bits are fixed.
    pub length: u8,
}

impl Prefix {
    /// The range that holds one address only.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        let length = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        Self { address, length }
    }

    /// Whether `address` lies in the range. Addresses of the other family do not.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length.min(32))).unwrap_or(0);
                (a.to_bits() ^ b.to_bits()) & mask == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length.min(128))).unwrap_or(0);
                (a.to_bits() ^ b.to_bits()) & mask == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether both are the same range, by whatever address of it they are named.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.length == other.length && self.contains(other.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its number.
    pub index: LinkIndex,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Alternative names (`ip link property`).
    pub altnames: Vec<String>,
    /// What sort of interface it is.
    pub kind: LinkKind,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Has a carrier (`IFF_LOWER_UP`) and is operational (`IFF_RUNNING`).
    pub carrier: bool,
    /// Its Ethernet address, if it has one.
    pub mac: Option<Mac>,
    /// The bridge, bond or VRF that it is enslaved to.
    pub master: Option<LinkIndex>,
    /// The PCI function behind it, if that is a network function of any vendor.
    pub pci: Option<PciPort>,
    /// Its `net.ipv4.conf.*.rp_filter`: 0 no check, 1 strict, 2 loose.
    #[serde(default)]
    pub rp_filter: u32,
    /// Its `net.ipv4.conf.*.src_valid_mark`: that check looks at packets' marks.
    #[serde(default)]
    pub src_valid_mark: bool,
}

/// What sort of interface a link is, as far as the decision cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// The loopback interface.
    Loopback,
    /// A bridge.
    Bridge,
    /// A bond or team.
    Bond,
    /// A VRF device.
    Vrf,
    /// Leads into a tunnel: tun, WireGuard, IPIP, GRE, SIT, VTI, XFRM and the like.
    Tunnel,
    /// Everything else: hardware, VLAN, macvlan, veth.
    Other,
}

/// A network function on the PCI bus.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PciPort {
    /// Where it sits.
    pub address: PciAddress,
    /// Vendor number, 0x15b3 for NVIDIA (Mellanox).
    pub vendor: u16,
    /// Device number.
    pub device: u16,
    /// Class code, 24 bits; 0x0200xx is an Ethernet controller.
    pub class: u32,
    /// It is a virtual function (has a `physfn`).
    pub virtual_function: bool,
    /// The driver's port name: `p0` for a port, `pf0vf1` for a representor. None on a bare function.
    pub port_name: Option<String>,
}

/// `domain:bus:slot.function`, ordered as the bus is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciAddress {
    /// PCI domain (segment).
    pub domain: u32,
    /// Bus number.
    pub bus: u8,
    /// Slot (device) number, 5 bits.
    pub slot: u8,
    /// Function number, 3 bits.
    pub function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.slot, self.function)
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PciAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (slot, function) = rest.split_once('.')?;
            let address = Self {
                domain: u32::from_str_radix(domain, 16).ok()?,
                bus: u8::from_str_radix(bus, 16).ok()?,
                slot: u8::from_str_radix(slot, 16).ok()?,
                function: u8::from_str_radix(function, 16).ok()?,
            };
            (address.slot < 32 && address.function < 8).then_some(address)
        };
        parse().ok_or_else(|| format!("`{text}` is not a PCI address such as 0000:03:00.0"))
    }
}

impl TryFrom<String> for PciAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<PciAddress> for String {
    fn from(address: PciAddress) -> Self {
        address.to_string()
    }
}

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The interface.
    pub link: LinkIndex,
    /// The address and the length of its subnet's prefix.
    pub prefix: Prefix,
    /// The scope is `link` (169.254.0.0/16, fe80::/10), not wider.
    pub link_local: bool,
    /// Usable now: not tentative, not a detected duplicate.
    pub usable: bool,
    /// Deprecated or temporary: valid, but not to be preferred as a source.
    pub unpreferred: bool,
    /// The kernel lays no route to its prefix (`IFA_F_NOPREFIXROUTE`); another program may have.
    #[serde(default)]
    pub no_prefix_route: bool,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Its family.
    pub family: Family,
    /// The table it stands in.
    pub table: u32,
    /// What it leads to; length 0 is a default route.
    pub destination: Prefix,
    /// The type of service it is for; 0 is any. IPv4 only.
    pub tos: u8,
    /// Its metric (`RTA_PRIORITY`); lower wins. Absent in the message is 0.
    pub metric: u32,
    /// How much its router wants to be the default one (`RTA_PREF`); decides among equal metrics.
    #[serde(default)]
    pub preference: RouterPreference,
    /// Who made it (`rtm_protocol`).
    pub protocol: u8,
    /// What happens to a packet.
    pub kind: RouteKind,
    /// Where it leads: one hop, several (multipath), or none (`unreachable`, …).
    pub hops: Vec<Hop>,
    /// Its hops are those of a next-hop object (`RTA_NH_ID`).
    #[serde(default)]
    pub by_object: bool,
    /// The shares of several hops, in their order. Empty for one hop or none.
    #[serde(default)]
    pub weights: Vec<Weight>,
    /// What should be copied when a pin takes its place.
    pub attributes: Attributes,
}

impl Route {
    /// It is a default route.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.destination.length == 0
    }

    /// Its only hop, if it is unicast and has exactly one.
    #[must_use]
    pub fn single_hop(&self) -> Option<&Hop> {
        match (self.kind, self.hops.as_slice()) {
            (RouteKind::Unicast, [hop]) => Some(hop),
            _ => None,
        }
    }

    /// Its next hop was given by the network itself (DHCP or a router advertisement), whatever its
    /// destination: the layout of DHCP option 121 without a default route.
    #[must_use]
    pub fn names_gateway(&self) -> bool {
        matches!(self.protocol, protocol::DHCP | protocol::RA)
            && self.single_hop().is_some_and(|hop| hop.gateway.is_some())
    }
}

/// How much a router wants to be the default one (RFC 4191, section 2.1), the best first. IPv4 has no
/// such thing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouterPreference {
    /// Before the others.
    High,
    /// As those that say nothing.
    #[default]
    Medium,
    /// After the others.
    Low,
}

/// Route protocols that mean something to the decision (`linux/rtnetlink.h`).
pub mod protocol {
    /// Laid by the kernel itself.
    pub const KERNEL: u8 = 2;
    /// Laid at boot; what `ip route` uses by default.
    pub const BOOT: u8 = 3;
    /// Laid by an administrator.
    pub const STATIC: u8 = 4;
    /// From a router advertisement.
    pub const RA: u8 = 9;
    /// From a DHCP client.
    pub const DHCP: u8 = 16;
    /// Ours.
    pub const UPLINKD: u8 = 117;
}

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// Forwards it.
    Unicast,
    /// `unreachable`, `blackhole` or `prohibit`: somebody wants it refused.
    Refused,
    /// Anything else: `throw`, `local`, a type we do not know.
    Other,
}

/// One way that a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hop {
    /// Through this interface.
    pub link: LinkIndex,
    /// To this next hop; none if the destination itself is on the link. May be of the other family.
    pub gateway: Option<IpAddr>,
}

/// A hop's share of a multipath route: the kernel gives it so many of the sum's flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Weight(
    /// As `rtnh_hops` has it (`linux/rtnetlink.h`): one less.
    u8,
);

impl Weight {
    /// An equal share.
    pub const ONE: Self = Self(0);
    /// The largest.
    pub const MAX: Self = Self(u8::MAX);

    /// From the number in a kernel's message (`rtnh_hops`).
    #[must_use]
    pub const fn from_kernel(rtnh_hops: u8) -> Self {
        Self(rtnh_hops)
    }

    /// The number for a kernel's message (`rtnh_hops`).
    #[must_use]
    pub const fn for_kernel(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&u16::from(*self), f)
    }
}

impl From<Weight> for u16 {
    fn from(weight: Weight) -> Self {
        Self::from(weight.0) + 1
    }
}

impl TryFrom<u16> for Weight {
    type Error = String;

    fn try_from(weight: u16) -> Result<Self, Self::Error> {
        let one_less = weight.checked_sub(1).and_then(|less| u8::try_from(less).ok());
        one_less.map(Self).ok_or_else(|| format!("{weight} is not a weight from 1 to 256"))
    }
}

/// What a pin copies from the foreign default route of its path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Preferred source address (`RTA_PREFSRC`).
    pub source: Option<IpAddr>,
    /// The gateway is on the link although no subnet says so (`RTNH_F_ONLINK`).
    pub onlink: bool,
    /// The numeric metrics block by `RTAX_*` number: MTU, advmss, initcwnd, locks, …
    #[serde(with = "as_list")]
    pub metrics: BTreeMap<u16, u32>,
    /// Congestion control algorithm (`RTAX_CC_ALGO`).
    pub congestion_control: Option<String>,
}

/// `RTAX_MTU` and `RTAX_ADVMSS` (`linux/rtnetlink.h`): sizes, of which a smaller one fits wherever a
/// larger one does.
const SIZES: [u16; 2] = [2, 8];

impl Attributes {
    /// What a route by all of these ways can say, for it says it once for all its hops: the smallest of
    /// the sizes, of the rest what all agree on. That a gateway is on the link is true for each whose
    /// subnet says so, too.
    #[must_use]
    pub fn common<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        all.into_iter().cloned().reduce(|one, other| one.with(&other)).unwrap_or_default()
    }

    fn with(self, other: &Self) -> Self {
        let mut metrics = BTreeMap::new();
        for (kind, mine) in self.metrics.iter().chain(&other.metrics) {
            let (one, two) = (self.metrics.get(kind), other.metrics.get(kind));
            if SIZES.contains(kind) {
                metrics.entry(*kind).and_modify(|size: &mut u32| *size = *mine.min(size)).or_insert(*mine);
            } else if one == two {
                metrics.insert(*kind, *mine);
            }
        }
        Self {
            source: self.source.filter(|source| other.source == Some(*source)),
            onlink: self.onlink || other.onlink,
            metrics,
            congestion_control: self
                .congestion_control
                .filter(|name| other.congestion_control.as_ref() == Some(name)),
        }
    }
}

/// A policy rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// Its preference; lower is tried first.
    pub priority: u32,
    /// Who made it (`FRA_PROTOCOL`).
    pub protocol: u8,
    /// The table it looks up; none for another action.
    pub table: Option<u32>,
    /// The preference of the rule it goes on with; none for another action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goto: Option<u32>,
    /// Only packets from here.
    pub from: Option<Prefix>,
    /// Only packets to there.
    pub to: Option<Prefix>,
    /// Only packets with this mark; none also where it is all others that are meant.
    #[serde(default)]
    pub mark: Option<Mark>,
    /// Ignore results with a prefix of at most this length.
    pub suppress_prefix_length: Option<u32>,
    /// It has selectors or options not listed here (interface, ports, …).
    pub more: bool,
}

/// Some bits of a packet's or connection's mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mark {
    /// What they are.
    pub value: u32,
    /// Which bits are meant.
    pub mask: u32,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}/{:#x}", self.value, self.mask)
    }
}

/// Maps whose keys are not strings are written as lists of pairs, so that they can be JSON.
mod as_list {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<K, V, S>(map: &BTreeMap<K, V>, serializer: S) -> Result<S::Ok, S::Error>
    where
        K: Serialize,
        V: Serialize,
        S: Serializer,
    {
        serializer.collect_seq(map)
    }

    pub(super) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
