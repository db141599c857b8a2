//! Carries out operations on the kernel's tables and reports what it said.
//!
//! An [`Op`] can describe own routes and rules only, and every request below carries our protocol
//! number: there is no way to write anything else.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{AfSpecInet, AfSpecUnspec, LinkAttribute, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop, RouteNextHopFlags, RouteScope,
    RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use nix::libc;
use tracing::debug;
use uplink_core::event::Outcome;
use uplink_core::own::{Leg, Op, OwnRoute, OwnRule, RuleForm};
use uplink_core::snapshot::{Attributes, Family, Hop, LinkIndex, Prefix, protocol};

use crate::netlink::{RequestError, Requests, address_family};
use crate::nftables::Nftables;

/// Only if it is not there yet. Never `NLM_F_REPLACE`: that destroys whatever stands at the metric.
const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// The number of the metric that is a text (`RTAX_CC_ALGO`, `linux/rtnetlink.h`).
const RTAX_CC_ALGO: u16 = 16;

/// `IPV4_DEVCONF_SRC_VMARK` (`linux/ip.h`).
const SRC_VALID_MARK: u16 = 24;

/// The settings of an interface in IPv4 (`IFLA_INET_CONF`, `linux/if_link.h`).
const IFLA_INET_CONF: u16 = 1;

/// Could not make ready to change routes.
#[derive(Debug, thiserror::Error)]
#[error("failed to open a netlink socket; Linux 4.20 or newer is needed")]
pub(crate) struct ApplyError(#[from] io::Error);

/// Writes own routes and rules.
pub(crate) struct Applier {
    requests: Requests,
    /// None where the kernel has no netfilter.
    nftables: Option<Nftables>,
}

impl Applier {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(crate) fn open() -> Result<Self, ApplyError> {
        Ok(Self { requests: Requests::open()?, nftables: Nftables::open().ok() })
    }

    /// Carries these out in order and stops at the first failure, which then is the last outcome.
    /// That a route to be deleted is not there is no failure. Blocks for some microseconds each.
    pub(crate) fn carry_out(&mut self, ops: &[Op]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(ops.len());
        for op in ops {
            let result = self.carry_out_one(op);
            if let Err(error) = &result {
                debug!(%op, %error, "not carried out");
            }
            let outcome = outcome(op, result);
            let failed = !matches!(outcome, Outcome::Done | Outcome::Absent);
            outcomes.push(outcome);
            if failed {
                break;
            }
        }
        outcomes
    }

    fn carry_out_one(&mut self, op: &Op) -> Result<(), RequestError> {
        let (request, flags) = match op {
            Op::AddRoute(route) => (RouteNetlinkMessage::NewRoute(new_route(route)), ADD),
            Op::DeleteRoute(route) => (RouteNetlinkMessage::DelRoute(old_route(route)), 0),
            Op::AddRule(rule) => (RouteNetlinkMessage::NewRule(rule_message(rule)), NLM_F_CREATE),
            Op::DeleteRule(rule) => (RouteNetlinkMessage::DelRule(rule_message(rule)), 0),
            Op::SetMarks(marks) => return self.nftables()?.set(marks),
            Op::DeleteMarks(family) => return self.nftables()?.delete(*family),
            Op::CheckByMark { link, on } => (RouteNetlinkMessage::SetLink(check_by_mark(*link, *on)), 0),
        };
        self.requests.carry_out(request, flags)
    }

    fn nftables(&mut self) -> Result<&mut Nftables, RequestError> {
        self.nftables.as_mut().ok_or(RequestError::refused(libc::EPROTONOSUPPORT))
    }
}

/// Sets `net.ipv4.conf.*.src_valid_mark` of an interface: over netlink, for which `CAP_NET_ADMIN` is
/// enough, while /proc/sys stays closed to us (`inet_set_link_af` in net/ipv4/devinet.c).
fn check_by_mark(link: LinkIndex, on: bool) -> LinkMessage {
    let setting = DefaultNla::new(SRC_VALID_MARK, u32::from(on).to_ne_bytes().to_vec());
    let mut settings = vec![0; setting.buffer_len()];
    setting.emit(&mut settings);
    let settings = AfSpecInet::Other(DefaultNla::new(IFLA_INET_CONF | NLA_F_NESTED, settings));
    let mut message = LinkMessage::default();
    message.header.index = link.0;
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![settings])]));
    message
}

/// What the kernel's answer means for this operation.
fn outcome(op: &Op, result: Result<(), RequestError>) -> Outcome {
    let Err(error) = result else {
        return Outcome::Done;
    };
    match (op, error) {
        (op, RequestError::Refused { errno: libc::EEXIST, .. }) if !op.removes() => Outcome::Exists,
        (op, RequestError::Refused { errno: libc::ESRCH | libc::ENOENT | libc::ENODEV, .. })
            if op.removes() =>
        {
            Outcome::Absent
        }
        (_, error) => Outcome::Refused(error.errno()),
    }
}

/// A route to be added.
fn new_route(route: &OwnRoute) -> RouteMessage {
    let mut message = named_route(route);
    let Attributes { source, onlink, metrics: _, congestion_control: _ } = route.attributes();
    message.header.scope = match (route.family(), route.legs().first().hop.gateway) {
        (Family::Ipv4, None) => RouteScope::Link,
        (Family::Ipv4, Some(_)) | (Family::Ipv6, _) => RouteScope::Universe,
    };
    if *onlink {
        // The flags of a hop are its own; the route's have them for a single one.
        message.header.flags = RouteFlags::Onlink;
        for hop in hops_mut(&mut message) {
            hop.flags = RouteNextHopFlags::Onlink;
        }
    }
    let source = source.map(|source| RouteAttribute::PrefSource(source.into()));
    message.attributes.extend(source);
    let metrics = metrics(route.attributes());
    if !metrics.is_empty() {
        message.attributes.push(RouteAttribute::Metrics(metrics));
    }
    message
}

/// A route to be deleted: the one that has all that is named, whatever its scope.
fn old_route(route: &OwnRoute) -> RouteMessage {
    let mut message = named_route(route);
    message.header.scope = RouteScope::NoWhere;
    message
}

/// What tells an own route from all others: protocol, table, metric, and gateway and interface of each
/// hop.
fn named_route(route: &OwnRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(route.family());
    message.header.protocol = protocol::UPLINKD.into();
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Table(route.table()), RouteAttribute::Priority(route.metric())];
    match route.legs().single() {
        Some(hop) => {
            message.attributes.push(RouteAttribute::Oif(hop.link.0));
            message.attributes.extend(gateway(route.family(), hop));
        }
        None => {
            let hops: Vec<RouteNextHop> =
                route.legs().iter().map(|leg| next_hop(route.family(), leg)).collect();
            message.attributes.push(RouteAttribute::MultiPath(hops));
        }
    }
    message
}

/// One of several hops.
fn next_hop(family: Family, leg: &Leg) -> RouteNextHop {
    let mut hop = RouteNextHop::default();
    hop.interface_index = leg.hop.link.0;
    hop.hops = leg.weight.for_kernel();
    hop.attributes.extend(gateway(family, &leg.hop));
    hop
}

/// A hop's gateway, which in IPv4 may be an IPv6 one.
fn gateway(family: Family, hop: &Hop) -> Option<RouteAttribute> {
    Some(match hop.gateway? {
        IpAddr::V6(gateway) if family == Family::Ipv4 => RouteAttribute::Via(RouteVia::Inet6(gateway)),
        gateway => RouteAttribute::Gateway(gateway.into()),
    })
}

fn hops_mut(message: &mut RouteMessage) -> impl Iterator<Item = &mut RouteNextHop> {
    message.attributes.iter_mut().flat_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => hops.iter_mut(),
        _ => [].iter_mut(),
    })
}

/// The metrics block, number by number as it was read.
fn metrics(attributes: &Attributes) -> Vec<RouteMetric> {
    let metric = |kind, value| RouteMetric::Other(DefaultNla::new(kind, value));
    let numbers = attributes.metrics.iter();
    let text = attributes.congestion_control.iter();
    numbers
        .map(|(kind, value)| metric(*kind, value.to_ne_bytes().to_vec()))
        .chain(text.map(|name| metric(RTAX_CC_ALGO, [name.as_bytes(), &[0]].concat())))
        .collect()
}

/// A rule to be added or deleted, with everything that it has.
fn rule_message(rule: &OwnRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(rule.family());
    message.attributes =
        vec![RuleAttribute::Priority(rule.priority()), RuleAttribute::Protocol(protocol::UPLINKD.into())];
    message.header.action = match rule.goto() {
        Some(priority) => {
            message.attributes.push(RuleAttribute::Goto(priority));
            RuleAction::Goto
        }
        None => RuleAction::ToTable,
    };
    message.attributes.extend(rule.table().map(RuleAttribute::Table));
    if rule.suppresses_default() {
        message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
    }
    match rule.form() {
        RuleForm::MainWithoutDefault | RuleForm::Pin => {}
        RuleForm::Connection { mark, to: _ } | RuleForm::Past { mark } | RuleForm::Landing { mark } => {
            message.attributes.push(RuleAttribute::FwMark(mark.value));
            message.attributes.push(RuleAttribute::FwMask(mark.mask));
        }
        RuleForm::Source { from, to: _ } => from_prefix(&mut message, from),
        RuleForm::Probe { from, to, link: _ } => {
            from_prefix(&mut message, from);
            let Prefix { address, length } = to;
            message.header.dst_len = length;
            message.attributes.push(RuleAttribute::Destination(address));
        }
    }
    message
}

fn from_prefix(message: &mut RuleMessage, Prefix { address, length }: Prefix) {
    message.header.src_len = length;
    message.attributes.push(RuleAttribute::Source(address));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uplink_core::own::{Legs, TABLE_PIN};
    use uplink_core::snapshot::{Hop, LinkIndex, Mark, TABLE_MAIN};

    use super::*;

    fn route(family: Family, gateway: Option<&str>, attributes: Attributes) -> OwnRoute {
        let gateway = gateway.map(|gateway| gateway.parse().unwrap());
        let link = LinkIndex(3);
        OwnRoute::new(family, TABLE_MAIN, 98, Hop { link, gateway }, attributes)
    }

    fn refused(errno: i32) -> Result<(), RequestError> {
        Err(RequestError::Refused { errno, text: String::new() })
    }

    #[test]
    fn every_route_request_names_what_is_ours() {
        let route = route(Family::Ipv4, Some("10.0.0.1"), Attributes::default());
        for message in [new_route(&route), old_route(&route)] {
            assert_eq!(message.header.protocol, 117.into());
            assert_eq!(message.header.destination_prefix_length, 0);
            let named = [
                RouteAttribute::Table(254),
                RouteAttribute::Priority(98),
                RouteAttribute::Oif(3),
                RouteAttribute::Gateway("10.0.0.1".parse::<IpAddr>().unwrap().into()),
            ];
            assert_eq!(message.attributes, named);
        }
    }

    #[test]
    fn the_scope_of_a_new_route_is_the_link_where_ipv4_has_no_gateway() {
        for (family, gateway, scope) in [
            (Family::Ipv4, None, RouteScope::Link),
            (Family::Ipv4, Some("10.0.0.1"), RouteScope::Universe),
            (Family::Ipv4, Some("fe80::1"), RouteScope::Universe),
            (Family::Ipv6, None, RouteScope::Universe),
        ] {
            let route = route(family, gateway, Attributes::default());
            assert_eq!(new_route(&route).header.scope, scope);
            assert_eq!(old_route(&route).header.scope, RouteScope::NoWhere);
        }
    }

    #[test]
    fn an_ipv6_gateway_of_an_ipv4_route_goes_by_via() {
        let route = route(Family::Ipv4, Some("fe80::1"), Attributes::default());
        let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        assert_eq!(new_route(&route).attributes.last(), Some(&via));
    }

    #[test]
    fn each_of_several_hops_is_named_with_its_share() {
        let leg = |link, gateway: &str, weight: u16| Leg {
            hop: Hop { link: LinkIndex(link), gateway: Some(gateway.parse().unwrap()) },
            weight: weight.try_into().unwrap(),
        };
        let legs = Legs::of([leg(4, "10.0.1.1", 256), leg(3, "10.0.0.1", 3)]).unwrap();
        let attributes = Attributes { onlink: true, ..Attributes::default() };
        let route = OwnRoute::new(Family::Ipv4, TABLE_MAIN, 98, legs, attributes);
        for (message, onlink) in [(new_route(&route), true), (old_route(&route), false)] {
            assert_eq!(message.header.protocol, 117.into());
            let hop = |link, gateway: &str, hops| {
                let mut hop = RouteNextHop::default();
                (hop.interface_index, hop.hops) = (link, hops);
                hop.attributes = vec![RouteAttribute::Gateway(gateway.parse::<IpAddr>().unwrap().into())];
                hop.flags = if onlink { RouteNextHopFlags::Onlink } else { RouteNextHopFlags::empty() };
                hop
            };
            let named = [
                RouteAttribute::Table(254),
                RouteAttribute::Priority(98),
                RouteAttribute::MultiPath(vec![hop(3, "10.0.0.1", 2), hop(4, "10.0.1.1", 255)]),
            ];
            assert_eq!(message.attributes, named);
        }
    }

    #[test]
    fn what_a_pin_copies_is_written_as_it_was_read() {
        let attributes = Attributes {
            source: Some("10.0.0.2".parse().unwrap()),
            onlink: true,
            metrics: BTreeMap::from([(1, 4), (2, 1400)]),
            congestion_control: Some("reno".into()),
        };
        let message = new_route(&route(Family::Ipv4, Some("10.0.0.1"), attributes));
        assert_eq!(message.header.flags, RouteFlags::Onlink);
        let metric = |kind, value: &[u8]| RouteMetric::Other(DefaultNla::new(kind, value.to_vec()));
        let copied = [
            RouteAttribute::PrefSource("10.0.0.2".parse::<IpAddr>().unwrap().into()),
            RouteAttribute::Metrics(vec![
                metric(1, &4_u32.to_ne_bytes()),
                metric(2, &1400_u32.to_ne_bytes()),
                metric(16, b"reno\0"),
            ]),
        ];
        assert_eq!(message.attributes[4..], copied);
    }

    #[test]
    fn a_rule_names_its_preference_table_and_protocol() {
        for (form, table, suppressed) in
            [(RuleForm::MainWithoutDefault, TABLE_MAIN, true), (RuleForm::Pin, TABLE_PIN, false)]
        {
            let message = rule_message(&OwnRule::new(Family::Ipv6, form));
            let has = |attribute| message.attributes.contains(&attribute);
            assert!(has(RuleAttribute::Priority(32765)));
            assert!(has(RuleAttribute::Table(table)));
            assert!(has(RuleAttribute::Protocol(117.into())));
            assert_eq!(has(RuleAttribute::SuppressPrefixLen(0)), suppressed);
        }
    }

    #[test]
    fn a_rule_that_goes_on_elsewhere_names_no_table() {
        let mark = Mark { value: 0x78, mask: 0x78 };
        let message = rule_message(&OwnRule::new(Family::Ipv6, RuleForm::Past { mark }));
        assert_eq!(message.header.action, RuleAction::Goto);
        let named = [
            RuleAttribute::Priority(32199),
            RuleAttribute::Protocol(117.into()),
            RuleAttribute::Goto(32202),
            RuleAttribute::FwMark(0x78),
            RuleAttribute::FwMask(0x78),
        ];
        assert_eq!(message.attributes, named);
        let landing = rule_message(&OwnRule::new(Family::Ipv6, RuleForm::Landing { mark }));
        assert!(landing.attributes.starts_with(&[RuleAttribute::Priority(32202)]));
        assert!(landing.attributes.contains(&RuleAttribute::Table(255)));
    }

    #[test]
    fn outcomes_say_what_matters_to_the_operation() {
        let route = route(Family::Ipv4, Some("10.0.0.1"), Attributes::default());
        let (add, delete) = (Op::AddRoute(route.clone()), Op::DeleteRoute(route));
        for (op, errno, expected) in [
            (&add, libc::EEXIST, Outcome::Exists),
            (&add, libc::ENETUNREACH, Outcome::Refused(libc::ENETUNREACH)),
            (&add, libc::ENODEV, Outcome::Refused(libc::ENODEV)),
            (&delete, libc::ESRCH, Outcome::Absent),
            (&delete, libc::ENOENT, Outcome::Absent),
            (&delete, libc::ENODEV, Outcome::Absent),
            (&delete, libc::EPERM, Outcome::Refused(libc::EPERM)),
        ] {
            assert_eq!(outcome(op, refused(errno)), expected);
        }
        assert_eq!(outcome(&add, Ok(())), Outcome::Done);
    }
}
