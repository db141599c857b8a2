//! Reads route messages.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_core::NLA_HEADER_SIZE;
use nix::libc;
use uplink_core::snapshot::{Attributes, Family, Hop, LinkIndex, Prefix, Route, RouteKind, protocol};

use super::ip;
use crate::netlink::{Malformed, attributes, number, text};

/// The attribute of a next-hop object's number (`RTA_NH_ID`, `linux/rtnetlink.h`).
const RTA_NH_ID: u16 = 30;

/// The metric that is a text, the name of a congestion control (`RTAX_CC_ALGO`).
const RTAX_CC_ALGO: u16 = 16;

/// Flag of a hop: the gateway is on the link (`RTNH_F_ONLINK`).
const RTNH_F_ONLINK: u32 = 4;

/// Flag of a route: it is a cached clone of another (`RTM_F_CLONED`).
const RTM_F_CLONED: u32 = 0x200;

/// A route that the snapshot keeps, and what else must be remembered about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// The route.
    pub(super) route: Route,
    /// The next-hop object that it leads to. When that changes, the route does, without a message.
    pub(super) nexthop: Option<u32>,
}

/// The route that a `RTM_NEWROUTE` or `RTM_DELROUTE` payload describes, if the snapshot keeps such
/// routes: default routes, own routes, and routes whose next hop the network named. The header
/// alone decides about nearly all others.
///
/// Not kept either: clones, which are a cache, and routes for some sources only (`default from
/// PREFIX`), which are no default routes.
pub(super) fn decode(payload: &[u8]) -> Result<Option<Kept>, Malformed> {
    let (header, rest) = payload.split_first_chunk::<12>().ok_or(Malformed)?;
    let Some(header) = Header::of(*header) else {
        return Ok(None);
    };
    let named = matches!(header.protocol, protocol::RA | protocol::DHCP);
    if header.length > 0 && !named && header.protocol != protocol::UPLINKD {
        return Ok(None);
    }
    let kept = header.with(rest)?;
    let wanted = header.length == 0 || header.protocol == protocol::UPLINKD || kept.route.names_gateway();
    Ok(wanted.then_some(kept))
}

/// `struct rtmsg`, linux/rtnetlink.h.
#[derive(Clone, Copy)]
struct Header {
    family: Family,
    length: u8,
    tos: u8,
    table: u8,
    protocol: u8,
    kind: RouteKind,
    onlink: bool,
}

impl Header {
    /// `None` if it belongs to a route that is not looked at.
    fn of(bytes: [u8; 12]) -> Option<Self> {
        let [family, length, source_length, tos, table, protocol, _scope, kind, flags @ ..] = bytes;
        let flags = u32::from_ne_bytes(flags);
        if source_length > 0 || flags & RTM_F_CLONED != 0 {
            return None;
        }
        Some(Self {
            family: ip::family(family)?,
            length,
            tos,
            table,
            protocol,
            kind: match kind {
                libc::RTN_UNICAST => RouteKind::Unicast,
                libc::RTN_BLACKHOLE | libc::RTN_UNREACHABLE | libc::RTN_PROHIBIT => RouteKind::Refused,
                _ => RouteKind::Other,
            },
            onlink: flags & RTNH_F_ONLINK != 0,
        })
    }

    /// The whole route.
    fn with(self, rest: &[u8]) -> Result<Kept, Malformed> {
        let mut destination = ip::unspecified(self.family);
        let (mut table, mut metric) = (u32::from(self.table), 0);
        let (mut way, mut hops, mut nexthop) = (Way::default(), Vec::new(), None);
        let mut copied = Attributes { onlink: self.onlink, ..Attributes::default() };
        for attribute in attributes(rest) {
            match attribute? {
                (libc::RTA_DST, value) => destination = ip::address(self.family, value)?,
                (libc::RTA_TABLE, value) => table = number(value)?,
                (libc::RTA_PRIORITY, value) => metric = number(value)?,
                (libc::RTA_PREFSRC, value) => {
                    copied.source = Some(ip::address(self.family, value)?);
                }
                (libc::RTA_METRICS, value) => {
                    (copied.metrics, copied.congestion_control) = metrics(value)?;
                }
                (libc::RTA_MULTIPATH, value) => hops = multipath(self.family, value)?,
                (RTA_NH_ID, value) => nexthop = Some(number(value)?),
                (kind, value) => way.take(self.family, kind, value)?,
            }
        }
        hops.extend(way.link.map(|link| Hop { link, gateway: way.gateway }));
        let kind = match self.kind {
            // Encapsulated on its way, or by a next-hop object that is not spelled out
            // (net.ipv4.nexthop_compat_mode = 0): nothing that could be judged or copied.
            RouteKind::Unicast if way.encapsulated || hops.is_empty() => RouteKind::Other,
            kind => kind,
        };
        if kind == RouteKind::Refused {
            // IPv6 lets them lead to the loopback interface.
            hops.clear();
        }
        let route = Route {
            family: self.family,
            table,
            destination: Prefix { address: destination, length: self.length },
            tos: self.tos,
            metric,
            protocol: self.protocol,
            kind,
            hops,
            attributes: copied,
        };
        Ok(Kept { route, nexthop })
    }
}

/// What the attributes of a route or of one of its hops say about the way.
#[derive(Default)]
struct Way {
    link: Option<LinkIndex>,
    gateway: Option<IpAddr>,
    encapsulated: bool,
}

impl Way {
    fn take(&mut self, family: Family, kind: u16, value: &[u8]) -> Result<(), Malformed> {
        match kind {
            libc::RTA_OIF => self.link = Some(LinkIndex(number(value)?)),
            libc::RTA_GATEWAY => self.gateway = Some(ip::address(family, value)?),
            libc::RTA_VIA => self.gateway = via(value)?,
            libc::RTA_ENCAP_TYPE => self.encapsulated = true,
            _ => {}
        }
        Ok(())
    }
}

/// A gateway of the other family (`struct rtvia`); `None` if it is no IP address.
fn via(value: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    let (family, address) = value.split_first_chunk::<2>().ok_or(Malformed)?;
    u8::try_from(u16::from_ne_bytes(*family))
        .ok()
        .and_then(ip::family)
        .map(|family| ip::address(family, address))
        .transpose()
}

/// The hops of `RTA_MULTIPATH`, a row of `struct rtnexthop` with their attributes.
fn multipath(family: Family, mut rest: &[u8]) -> Result<Vec<Hop>, Malformed> {
    const HEADER_BYTES: usize = 8;
    let mut hops = Vec::new();
    while !rest.is_empty() {
        let header = rest.first_chunk::<HEADER_BYTES>().ok_or(Malformed)?;
        let [l0, l1, _flags, _weight, i0, i1, i2, i3] = *header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let mut way = Way::default();
        for attribute in attributes(rest.get(HEADER_BYTES..length).ok_or(Malformed)?) {
            let (kind, value) = attribute?;
            way.take(family, kind, value)?;
        }
        hops.push(Hop { link: LinkIndex(u32::from_ne_bytes([i0, i1, i2, i3])), gateway: way.gateway });
        rest = rest.get(length.next_multiple_of(NLA_HEADER_SIZE)..).unwrap_or_default();
    }
    Ok(hops)
}

/// The metrics block: its numbers and the name of a congestion control.
fn metrics(value: &[u8]) -> Result<(BTreeMap<u16, u32>, Option<String>), Malformed> {
    let (mut numbers, mut congestion_control) = (BTreeMap::new(), None);
    for attribute in attributes(value) {
        match attribute? {
            (RTAX_CC_ALGO, value) => congestion_control = Some(text(value)?),
            (kind, value) => {
                numbers.insert(kind, number(value)?);
            }
        }
    }
    Ok((numbers, congestion_control))
}
