//! Carries out operations on the kernel's tables and reports what it said.
//!
//! An [`Op`] can describe own routes and rules only, and every request below carries our protocol
//! number: there is no way to write anything else.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::libc;
use tracing::debug;
use uplink_core::event::Outcome;
use uplink_core::own::{Op, OwnRoute, OwnRule, RuleForm};
use uplink_core::snapshot::{Attributes, Family, Prefix, protocol};

use crate::netlink::{RequestError, Requests};

/// Only if it is not there yet. Never `NLM_F_REPLACE`: that destroys whatever stands at the metric.
const ADD: u16 = NLM_F_CREATE | NLM_F_EXCL;

/// The number of the metric that is a text (`RTAX_CC_ALGO`, `linux/rtnetlink.h`).
const RTAX_CC_ALGO: u16 = 16;

/// Could not make ready to change routes.
#[derive(Debug, thiserror::Error)]
#[error("failed to open a netlink socket; Linux 4.20 or newer is needed")]
pub(crate) struct ApplyError(#[from] io::Error);

/// Writes own routes and rules.
pub(crate) struct Applier {
    requests: Requests,
}

impl Applier {
    /// Opens a socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// Those of the system calls.
    pub(crate) fn open() -> Result<Self, ApplyError> {
        Ok(Self { requests: Requests::open()? })
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
            Op::AddRule(rule) => (RouteNetlinkMessage::NewRule(rule_message(rule)), ADD),
            Op::DeleteRule(rule) => (RouteNetlinkMessage::DelRule(rule_message(rule)), 0),
        };
        self.requests.carry_out(request, flags)
    }
}

/// What the kernel's answer means for this operation.
fn outcome(op: &Op, result: Result<(), RequestError>) -> Outcome {
    let Err(error) = result else {
        return Outcome::Done;
    };
    match (op, error) {
        (Op::AddRoute(_) | Op::AddRule(_), RequestError::Refused { errno: libc::EEXIST, .. }) => {
            Outcome::Exists
        }
        (
            Op::DeleteRoute(_) | Op::DeleteRule(_),
            RequestError::Refused { errno: libc::ESRCH | libc::ENOENT | libc::ENODEV, .. },
        ) => Outcome::Absent,
        (_, error) => Outcome::Refused(error.errno()),
    }
}

/// A route to be added.
fn new_route(route: &OwnRoute) -> RouteMessage {
    let mut message = named_route(route);
    let Attributes { source, onlink, metrics: _, congestion_control: _ } = route.attributes();
    message.header.scope = match (route.family(), route.hop().gateway) {
        (Family::Ipv4, None) => RouteScope::Link,
        (Family::Ipv4, Some(_)) | (Family::Ipv6, _) => RouteScope::Universe,
    };
    if *onlink {
        message.header.flags = RouteFlags::Onlink;
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

/// What tells an own route from all others: protocol, table, metric, gateway and interface.
fn named_route(route: &OwnRoute) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = number(route.family());
    message.header.protocol = protocol::UPLINKD.into();
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Table(route.table()),
        RouteAttribute::Priority(route.metric()),
        RouteAttribute::Oif(route.hop().link.0),
    ];
    let gateway = route.hop().gateway.map(|gateway| match gateway {
        IpAddr::V6(gateway) if route.family() == Family::Ipv4 => {
            RouteAttribute::Via(RouteVia::Inet6(gateway))
        }
        gateway => RouteAttribute::Gateway(gateway.into()),
    });
    message.attributes.extend(gateway);
    message
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
    message.header.family = number(rule.family());
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority()),
        RuleAttribute::Table(rule.table()),
        RuleAttribute::Protocol(protocol::UPLINKD.into()),
    ];
    match rule.form() {
        RuleForm::MainWithoutDefault => {
            message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
        }
        RuleForm::Pin => {}
        RuleForm::Probe { from, to, link: _ } => {
            let Prefix { address, length } = from;
            message.header.src_len = length;
            message.attributes.push(RuleAttribute::Source(address));
            let Prefix { address, length } = to;
            message.header.dst_len = length;
            message.attributes.push(RuleAttribute::Destination(address));
        }
    }
    message
}

const fn number(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}
