//! Questions to a host's kernel, and how its answers are read.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::net::if_::if_indextoname;
use uplink_core::own::TABLE_MAIN_OR_PIN;
use uplink_core::snapshot::{Family, TABLE_MAIN, protocol};

use crate::error::{Doing, Result};
use crate::host::Host;

/// A route, as far as tests ask about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its family.
    pub family: Family,
    /// Its table.
    pub table: u32,
    /// Its destination; unspecified with length 0 for a default route.
    pub destination: IpAddr,
    /// Length of the destination's prefix.
    pub length: u8,
    /// `RTN_*` (linux/rtnetlink.h): 1 is unicast.
    pub kind: u8,
    /// Its next hop, of either family.
    pub gateway: Option<IpAddr>,
    /// Its interface's name.
    pub interface: Option<String>,
    /// Its metric (0 for the highest preference).
    pub metric: u32,
    /// Who made it: `RTPROT_*`.
    pub protocol: u8,
    /// Its preferred source address.
    pub source: Option<IpAddr>,
    /// Its MTU, where the route sets one.
    pub mtu: Option<u32>,
    /// Number of its next hops; more than one only in a multipath route.
    pub hops: usize,
    /// The interfaces of several next hops, and their weights.
    pub shares: Vec<(String, u16)>,
    /// The gateway is taken to be on the link.
    pub onlink: bool,
}

impl Route {
    /// A default route.
    #[must_use]
    pub const fn is_default(&self) -> bool {
        self.length == 0
    }

    /// A pin of uplinkd: its one route that outranks those of others, and not one in an uplink's own table.
    #[must_use]
    pub fn is_pin(&self) -> bool {
        self.protocol == protocol::UPLINKD && TABLE_MAIN_OR_PIN.contains(&self.table)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.family, self.destination, self.length)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(interface) = &self.interface {
            write!(f, " dev {interface}")?;
        }
        write!(f, " proto {} metric {}", self.protocol, self.metric)?;
        if self.table != TABLE_MAIN {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

impl Host {
    /// The default routes of all tables, in the kernel's order: within a table the first of the
    /// lowest metric is used.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn default_routes(&self, family: Family) -> Result<Vec<Route>> {
        let routes = self.routes(family)?;
        Ok(routes.into_iter().filter(Route::is_default).collect())
    }

    /// All routes of all tables.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn routes(&self, family: Family) -> Result<Vec<Route>> {
        self.run(move || {
            let mut message = RouteMessage::default();
            message.header.address_family = address_family(family);
            let answers = ask(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP)
                .doing(format!("read the {family} routes"))?;
            let mut names = Names::default();
            Ok(answers
                .iter()
                .filter_map(|answer| match answer {
                    RouteNetlinkMessage::NewRoute(route) => read_route(route, &mut names),
                    _ => None,
                })
                .filter(|route| route.family == family)
                .collect())
        })
    }

    /// What the kernel answers to a lookup of this address: interface, gateway, source.
    ///
    /// # Errors
    /// The failed lookup (`ENETUNREACH`, …).
    pub fn lookup(&self, address: IpAddr) -> Result<Route> {
        self.run(move || {
            let answers = ask(lookup_message(address), 0).doing(format!("look up {address}"))?;
            let mut names = Names::default();
            let route = answers.iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(route) => read_route(route, &mut names),
                _ => None,
            });
            let nothing = || io::Error::other("the kernel answered without a route");
            route.ok_or_else(nothing).doing(format!("look up {address}"))
        })
    }

    /// All routes and rules of both families as sorted text, without what passes by itself (expiry):
    /// equal texts mean equal tables.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn table_text(&self) -> Result<String> {
        let mut lines = Vec::new();
        for what in ["route show table all", "rule show"] {
            for family in ["-4", "-6"] {
                let text = self.ip(&format!("-N -d -o {family} {what}"))?;
                lines.extend(text.lines().map(|line| format!("{family} {}", without_expiry(line))));
            }
        }
        lines.sort_unstable();
        Ok(lines.join("\n"))
    }
}

/// Names of interfaces by number, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeMap<u32, String>);

impl Names {
    /// An interface was told of.
    pub(crate) fn learn(&mut self, index: u32, name: &str) {
        self.0.insert(index, name.to_owned());
    }

    /// Its name, or `#` and its number if it is gone and was never told of. To be asked on the host.
    pub(crate) fn of(&mut self, index: u32) -> String {
        if let Some(name) = self.0.get(&index) {
            return name.clone();
        }
        let name = if_indextoname(index).ok().and_then(|name| name.into_string().ok());
        name.unwrap_or_else(|| format!("#{index}"))
    }
}

/// Reads a route; none if it is of a family that the lab does not know.
pub(crate) fn read_route(message: &RouteMessage, names: &mut Names) -> Option<Route> {
    let header = &message.header;
    let family = match header.address_family {
        AddressFamily::Inet => Family::Ipv4,
        AddressFamily::Inet6 => Family::Ipv6,
        _ => return None,
    };
    let mut route = Route {
        family,
        table: header.table.into(),
        destination: match family {
            Family::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
        },
        length: header.destination_prefix_length,
        kind: header.kind.into(),
        gateway: None,
        interface: None,
        metric: 0,
        protocol: header.protocol.into(),
        source: None,
        mtu: None,
        hops: 1,
        shares: Vec::new(),
        onlink: header.flags.contains(RouteFlags::Onlink),
    };
    for attribute in &message.attributes {
        read_attribute(attribute, &mut route, names);
    }
    Some(route)
}

fn read_attribute(attribute: &RouteAttribute, route: &mut Route, names: &mut Names) {
    match attribute {
        RouteAttribute::Destination(to) => {
            route.destination = address(to).unwrap_or(route.destination);
        }
        RouteAttribute::Gateway(gateway) => route.gateway = address(gateway),
        RouteAttribute::Via(RouteVia::Inet(gateway)) => route.gateway = Some((*gateway).into()),
        RouteAttribute::Via(RouteVia::Inet6(gateway)) => route.gateway = Some((*gateway).into()),
        RouteAttribute::Oif(index) => route.interface = Some(names.of(*index)),
        RouteAttribute::Priority(metric) => route.metric = *metric,
        RouteAttribute::PrefSource(source) => route.source = address(source),
        RouteAttribute::Table(table) => route.table = *table,
        RouteAttribute::MultiPath(hops) => {
            route.hops = hops.len();
            let share = |hop: &RouteNextHop| (names.of(hop.interface_index), u16::from(hop.hops) + 1);
            route.shares = hops.iter().map(share).collect();
        }
        RouteAttribute::Metrics(metrics) => {
            route.mtu = metrics.iter().find_map(|metric| match metric {
                RouteMetric::Mtu(mtu) => Some(*mtu),
                _ => None,
            });
        }
        _ => {}
    }
}

/// The question which way a packet to this address would go.
pub(crate) fn lookup_message(to: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(Family::of(to));
    message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
    message.attributes.push(RouteAttribute::Destination(to.into()));
    RouteNetlinkMessage::GetRoute(message)
}

/// A question about the interface that each host has, and always as the first.
pub(crate) fn loopback_message() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = 1;
    RouteNetlinkMessage::GetLink(message)
}

/// Opens a socket to the kernel of this thread's host, sends one question and reads its answers.
pub(crate) fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    ask_on(&socket, question, flags)
}

/// Sends one question and reads its answers: all of a dump, otherwise one.
pub(crate) fn ask_on(
    socket: &Socket,
    question: RouteNetlinkMessage,
    flags: u16,
) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut message = NetlinkMessage::from(question);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        for message in messages(&datagram) {
            match message.map_err(io::Error::other)?.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                _ => {}
            }
        }
        if flags & NLM_F_DUMP == 0 {
            return Ok(answers);
        }
    }
}

/// The messages in a datagram, or for one that does not decode why not.
pub(crate) fn messages(
    mut datagram: &[u8],
) -> Vec<std::result::Result<NetlinkMessage<RouteNetlinkMessage>, String>> {
    let mut found = Vec::new();
    // struct nlmsghdr (linux/netlink.h): the length comes first; messages stand at multiples of 4.
    while let Some(&[a, b, c, d]) = datagram.first_chunk::<4>() {
        let length = u32::from_ne_bytes([a, b, c, d]) as usize;
        let Some(message) = datagram.get(..length).filter(|_| length >= 16) else {
            break;
        };
        found.push(NetlinkMessage::deserialize(message).map_err(|error| error.to_string()));
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

const fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// A line of `ip` without `expires 1799sec`.
fn without_expiry(line: &str) -> String {
    let mut words = line.split_whitespace();
    let mut kept = Vec::new();
    while let Some(word) = words.next() {
        if word == "expires" {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}
