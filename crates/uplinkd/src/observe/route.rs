//! Reads route messages.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::NLA_HEADER_SIZE;
use nix::libc;
use uplink_core::snapshot::{
    Attributes, Family, Hop, LinkIndex, Prefix, Route, RouteKind, RouterPreference, TABLE_MAIN, Weight,
    protocol,
};

use super::ip;
use crate::netlink::{Malformed, attributes, number, text};

/// The attribute of a next-hop object's number (`RTA_NH_ID`, `linux/rtnetlink.h`).
const RTA_NH_ID: u16 = 30;

/// The attribute of a router's preference (`RTA_PREF`, `linux/rtnetlink.h`).
const RTA_PREF: u16 = 20;

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
    /// How long it lives, if it has an end: told when the route was laid, and not when its life is
    /// prolonged.
    pub(super) life: Option<Life>,
}

impl Kept {
    /// Lookups pass over it already (`find_match` in net/ipv6/route.c), though the kernel deletes it up
    /// to a minute later. Of several hops each has a life of its own, of which only one is told.
    pub(super) fn is_over(&self) -> bool {
        self.life == Some(Life::Over) && self.route.hops.len() < 2
    }

    /// It decides nothing: somebody else's default route in a table of theirs. A host with many VPNs or
    /// tenants has thousands.
    pub(super) fn is_elsewhere(&self) -> bool {
        let Route { table, protocol, .. } = self.route;
        self.route.is_default() && table != TABLE_MAIN && protocol != protocol::UPLINKD
    }
}

/// What is left of the time for which a route was laid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    /// So much.
    Left(Duration),
    /// Nothing.
    Over,
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
        let (mut way, mut nexthop) = (Way::default(), None);
        let (mut hops, mut weights) = (Vec::new(), Vec::new());
        let (mut preference, mut life) = (RouterPreference::default(), None);
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
                (libc::RTA_MULTIPATH, value) => {
                    for next in multipath(self.family, value)? {
                        copied.onlink |= next.onlink;
                        hops.push(next.hop);
                        weights.push(next.weight);
                    }
                }
                (libc::RTA_CACHEINFO, value) => life = self::life(value)?,
                (RTA_PREF, value) => preference = preferred(value),
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
        if hops.len() < 2 {
            weights.clear();
        }
        let route = Route {
            family: self.family,
            table,
            destination: Prefix { address: destination, length: self.length },
            tos: self.tos,
            metric,
            preference,
            protocol: self.protocol,
            kind,
            hops,
            by_object: nexthop.is_some(),
            weights,
            attributes: copied,
        };
        Ok(Kept { route, nexthop, life })
    }
}

/// A router's preference (`ICMPV6_ROUTER_PREF_*`, linux/icmpv6.h). What is reserved counts as medium, as
/// in RFC 4191, section 2.1.
const fn preferred(value: &[u8]) -> RouterPreference {
    match value {
        [1] => RouterPreference::High,
        [3] => RouterPreference::Low,
        _ => RouterPreference::Medium,
    }
}

/// The third number of `struct rta_cacheinfo` (linux/rtnetlink.h) in hundredths of a second (`USER_HZ`);
/// 0 is no end, below that is over.
fn life(value: &[u8]) -> Result<Option<Life>, Malformed> {
    const EXPIRES_AT: usize = 8;
    let bytes = value.get(EXPIRES_AT..).and_then(|rest| rest.first_chunk::<4>()).ok_or(Malformed)?;
    let expires = i32::from_ne_bytes(*bytes);
    Ok((expires != 0).then(|| {
        u64::try_from(expires).map_or(Life::Over, |left| Life::Left(Duration::from_millis(left * 10)))
    }))
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

/// One hop of several.
#[derive(Debug, PartialEq, Eq)]
struct NextHop {
    hop: Hop,
    weight: Weight,
    onlink: bool,
}

/// The hops of `RTA_MULTIPATH`, a row of `struct rtnexthop` with their attributes. Those that are dead
/// because their interface is down are among them: they come to life again with it.
fn multipath(family: Family, mut rest: &[u8]) -> Result<Vec<NextHop>, Malformed> {
    const HEADER_BYTES: usize = 8;
    let mut hops = Vec::new();
    while !rest.is_empty() {
        let header = rest.first_chunk::<HEADER_BYTES>().ok_or(Malformed)?;
        let [l0, l1, flags, weight, i0, i1, i2, i3] = *header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let mut way = Way::default();
        for attribute in attributes(rest.get(HEADER_BYTES..length).ok_or(Malformed)?) {
            let (kind, value) = attribute?;
            way.take(family, kind, value)?;
        }
        hops.push(NextHop {
            hop: Hop { link: LinkIndex(u32::from_ne_bytes([i0, i1, i2, i3])), gateway: way.gateway },
            weight: Weight::from_kernel(weight),
            onlink: u32::from(flags) & RTNH_F_ONLINK != 0,
        });
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

/// The attribute that ends a route's life in so many hundredths of a second.
#[cfg(test)]
pub(super) fn ends_in(hundredths: i32) -> netlink_packet_route::route::RouteAttribute {
    let bytes = [[0; 8].as_slice(), &hundredths.to_ne_bytes(), &[0; 20]].concat();
    let info = netlink_packet_route::route::RouteCacheInfo::parse(&bytes).unwrap();
    netlink_packet_route::route::RouteAttribute::CacheInfo(info)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_route::route::{
        RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags,
        RoutePreference, RouteType, RouteVia,
    };

    use super::*;
    use crate::netlink::address_family;

    /// A `default via GATEWAY dev 3 metric 100` of protocol `boot`, changed.
    fn read(gateway: &str, change: impl FnOnce(&mut RouteMessage)) -> Option<Kept> {
        let gateway: IpAddr = gateway.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.address_family = address_family(Family::of(gateway));
        message.header.table = 254;
        message.header.protocol = protocol::BOOT.into();
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Oif(3),
            RouteAttribute::Gateway(gateway.into()),
            RouteAttribute::Priority(100),
        ];
        change(&mut message);
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        decode(&payload).unwrap()
    }

    fn hop(link: u32, gateway: Option<&str>) -> Hop {
        Hop { link: LinkIndex(link), gateway: gateway.map(|g| g.parse().unwrap()) }
    }

    #[test]
    fn a_default_route_is_read_with_all_that_a_pin_copies() {
        let kept = read("10.0.0.1", |message| {
            message.header.flags = RouteFlags::Onlink;
            message.attributes.extend([
                RouteAttribute::Table(70_000),
                RouteAttribute::PrefSource("10.0.0.2".parse::<IpAddr>().unwrap().into()),
                RouteAttribute::Metrics(vec![
                    RouteMetric::Lock(4),
                    RouteMetric::Mtu(1400),
                    RouteMetric::CcAlgo("reno".into()),
                ]),
            ]);
        });
        let route = Route {
            family: Family::Ipv4,
            table: 70_000,
            destination: "0.0.0.0".parse().map(|address| Prefix { address, length: 0 }).unwrap(),
            tos: 0,
            metric: 100,
            preference: RouterPreference::Medium,
            protocol: protocol::BOOT,
            kind: RouteKind::Unicast,
            hops: vec![hop(3, Some("10.0.0.1"))],
            by_object: false,
            weights: Vec::new(),
            attributes: Attributes {
                source: Some("10.0.0.2".parse().unwrap()),
                onlink: true,
                metrics: BTreeMap::from([(1, 4), (2, 1400)]),
                congestion_control: Some("reno".into()),
            },
        };
        assert_eq!(kept, Some(Kept { route, nexthop: None, life: None }));
    }

    #[test]
    fn only_routes_that_matter_are_kept() {
        let keeps = |protocol: u8, length, gateway: bool| {
            read("10.0.0.1", |message| {
                message.header.protocol = protocol.into();
                message.header.destination_prefix_length = length;
                if !gateway {
                    message.attributes.remove(1);
                }
            })
            .is_some()
        };
        assert!(keeps(protocol::STATIC, 0, true));
        assert!(!keeps(protocol::STATIC, 32, true));
        assert!(keeps(protocol::DHCP, 32, true));
        assert!(!keeps(protocol::DHCP, 32, false));
        assert!(keeps(protocol::RA, 64, true));
        assert!(keeps(protocol::UPLINKD, 32, false));
        assert!(!keeps(186, 24, true));
    }

    #[test]
    fn clones_and_routes_for_some_sources_are_not_kept() {
        assert_eq!(read("fd00::1", |m| m.header.flags = RouteFlags::Cloned), None);
        assert_eq!(read("fd00::1", |m| m.header.source_prefix_length = 64), None);
    }

    #[test]
    fn gateways_of_the_other_family_and_several_hops_are_read() {
        let via = read("10.0.0.1", |message| {
            message.attributes[1] = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        });
        assert_eq!(via.unwrap().route.hops, [hop(3, Some("fe80::1"))]);
        let several = read("10.0.0.1", |message| {
            let hops = ["10.0.0.1", "10.0.0.2"].map(|gateway| {
                let mut hop = RouteNextHop::default();
                hop.interface_index = 7;
                let gateway = gateway.parse::<IpAddr>().unwrap().into();
                hop.attributes = vec![RouteAttribute::Gateway(gateway)];
                hop.hops = 2;
                hop.flags = RouteNextHopFlags::Onlink;
                hop
            });
            message.attributes = vec![RouteAttribute::MultiPath(hops.into())];
        });
        let expected = [hop(7, Some("10.0.0.1")), hop(7, Some("10.0.0.2"))];
        let route = several.unwrap().route;
        assert_eq!(route.hops, expected);
        assert_eq!(route.weights.iter().map(|weight| u16::from(*weight)).collect::<Vec<_>>(), [3, 3]);
        assert!(route.attributes.onlink);
    }

    #[test]
    fn what_cannot_be_judged_is_no_unicast_route() {
        let refused = read("fd00::1", |m| m.header.kind = RouteType::Unreachable).unwrap();
        assert_eq!((refused.route.kind, refused.route.hops.len()), (RouteKind::Refused, 0));
        let throw = read("10.0.0.1", |m| m.header.kind = RouteType::Throw).unwrap();
        assert_eq!(throw.route.kind, RouteKind::Other);
        let by_object = read("10.0.0.1", |m| m.attributes = vec![RouteAttribute::NhId(7)]);
        let by_object = by_object.unwrap();
        assert_eq!((by_object.route.kind, by_object.nexthop), (RouteKind::Other, Some(7)));
        assert!(by_object.route.by_object);
        let wrapped = read("10.0.0.1", |message| {
            message.attributes.push(RouteAttribute::EncapType(2.into()));
        });
        assert_eq!(wrapped.unwrap().route.kind, RouteKind::Other);
    }

    #[test]
    fn what_a_router_advertised_is_read_with_preference_and_life() {
        let advertised = |preference, expires| {
            let more = [RouteAttribute::Preference(preference), ends_in(expires)];
            read("fe80::1", |message| message.attributes.extend(more)).unwrap()
        };
        let high = advertised(RoutePreference::High, 150);
        assert_eq!(high.route.preference, RouterPreference::High);
        assert_eq!(high.life, Some(Life::Left(Duration::from_millis(1500))));
        let low = advertised(RoutePreference::Low, -1);
        assert_eq!((low.route.preference, low.life), (RouterPreference::Low, Some(Life::Over)));
        assert!(low.is_over() && !high.is_over());
        let medium = advertised(RoutePreference::Medium, 0);
        assert_eq!((medium.route.preference, medium.life), (RouterPreference::Medium, None));
    }

    #[test]
    fn a_short_message_is_malformed() {
        assert_eq!(life(&[0; 11]), Err(Malformed));
        assert_eq!(decode(&[2; 11]), Err(Malformed));
        assert_eq!(multipath(Family::Ipv4, &[4, 0, 0, 0, 0, 0, 0, 0]), Err(Malformed));
    }
}
