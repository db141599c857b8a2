//! The kernel's tables of one host, with the rules by which the real one changes them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use uplink_core::event::Outcome;
use uplink_core::lease::Leases;
use uplink_core::marks::OwnMarks;
use uplink_core::own::{Op, OwnRoute, OwnRule, RuleForm};
use uplink_core::snapshot::{
    Address, Family, Hop, Link, LinkIndex, PciPort, Prefix, Route, RouteKind, RouterPreference, Rule,
    Snapshot, TABLE_MAIN, Tracking, Weight, protocol,
};

/// An error number of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

pub(crate) const ESRCH: Errno = Errno(3);
pub(crate) const EEXIST: Errno = Errno(17);
pub(crate) const ENODEV: Errno = Errno(19);
pub(crate) const EINVAL: Errno = Errno(22);
pub(crate) const ENETDOWN: Errno = Errno(100);
pub(crate) const ENETUNREACH: Errno = Errno(101);
pub(crate) const EHOSTUNREACH: Errno = Errno(113);

/// What IPv6 makes of a metric of 0 (`IP6_RT_PRIO_USER`, `include/net/ip6_route.h`).
const IPV6_USUAL_METRIC: u32 = 1024;

/// Tables, links and addresses. Connected routes are not kept: they follow from the addresses.
///
/// A route of several hops is one route in IPv4. In IPv6 each hop is a route of its own, with its own
/// protocol; those at one metric are shown as one (`fib6_add_rt2node` in net/ipv6/ip6_fib.c).
#[derive(Debug, Clone, Default)]
pub(crate) struct Kernel {
    pub(crate) links: BTreeMap<LinkIndex, Link>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) routes: Vec<Route>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) dpu_ports: Vec<PciPort>,
    /// What DHCP clients wrote down.
    pub(crate) leases: Leases,
    /// `net.ipv4.conf.all.rp_filter`.
    pub(crate) rp_filter: u32,
    /// Somebody lets connections be tracked.
    pub(crate) tracked: bool,
    /// Our nftables tables.
    pub(crate) tables: Vec<OwnMarks>,
    /// The answer to our nftables table, where the kernel has no such thing.
    pub(crate) refuse_marks: Option<Errno>,
    /// `net.ipv6.conf.all.forwarding`.
    pub(crate) forwarding: bool,
    /// IPv6 neighbours that do not answer.
    pub(crate) failed: BTreeSet<(LinkIndex, IpAddr)>,
    /// The answer to every rule that is added, where rules are not wanted or not built in.
    pub(crate) refuse_rules: Option<Errno>,
    /// The answer to every route of ours that is added in one of these tables.
    pub(crate) refuse_tables: BTreeMap<u32, Errno>,
    /// Every route of ours with a hop through one of these links is refused: its gateway is not on the link.
    pub(crate) unreachable: BTreeSet<LinkIndex>,
    /// Our routes cannot be deleted: they are not found, as if somebody had laid them over a next-hop
    /// object.
    pub(crate) undeletable: bool,
    /// Routes at these places of the main table are not seen.
    pub(crate) unseen: BTreeSet<(Family, u32)>,
    /// Counts changes, so that an observer knows when to look.
    pub(crate) changes: u64,
}

impl Kernel {
    /// A kernel as it boots: no links, the rules for `main` of both families.
    pub(crate) fn new() -> Self {
        let rule = |family| Rule {
            family,
            priority: 32766,
            protocol: protocol::KERNEL,
            table: Some(TABLE_MAIN),
            goto: None,
            from: None,
            to: None,
            mark: None,
            suppress_prefix_length: None,
            more: false,
        };
        Self { rules: Family::ALL.map(rule).to_vec(), ..Self::default() }
    }

    /// What an observer reports: of the routes only those that matter to the decision.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let matters = |route: &&Route| {
            let here = route.table == TABLE_MAIN && route.is_default();
            !self.unseen.contains(&(route.family, route.metric))
                && (here || route.protocol == protocol::UPLINKD || route.names_gateway())
        };
        Snapshot {
            links: self.links.clone(),
            addresses: self.addresses.clone(),
            routes: show_joined(self.routes.iter().filter(matters)),
            rules: self.rules.clone(),
            dpu_ports: self.dpu_ports.clone(),
            leases: self.leases.clone(),
            rp_filter: self.rp_filter,
            tracking: Tracking {
                in_use: self.tracked || !self.tables.is_empty(),
                tables: self.tables.clone(),
            },
        }
    }

    /// What is not ours.
    pub(crate) fn foreign(&self) -> (Vec<Route>, Vec<Rule>) {
        let routes = self.routes.iter().filter(|route| route.protocol != protocol::UPLINKD);
        let rules = self.rules.iter().filter(|rule| rule.protocol != protocol::UPLINKD);
        (routes.cloned().collect(), rules.cloned().collect())
    }

    /// The same host as if we had never been there.
    pub(crate) fn without_us(&self) -> Self {
        let (routes, rules) = self.foreign();
        Self { routes, rules, tables: Vec::new(), ..self.clone() }
    }

    /// The same host without the rules of others that come before the main table's.
    pub(crate) fn without_their_rules(&self) -> Self {
        let stays = |rule: &&Rule| matches!(rule.protocol, protocol::UPLINKD | protocol::KERNEL);
        Self { rules: self.rules.iter().filter(stays).cloned().collect(), ..self.clone() }
    }

    /// Our routes in the main table and the pin's.
    pub(crate) fn pins(&self, family: Family) -> Vec<OwnRoute> {
        let ours = |route: &&Route| route.family == family && route.protocol == protocol::UPLINKD;
        let own = show_joined(self.routes.iter().filter(ours));
        let own = own.iter().filter_map(OwnRoute::claim);
        own.filter(|route| uplink_core::own::TABLE_MAIN_OR_PIN.contains(&route.table())).collect()
    }

    /// Whether anything carries our protocol number.
    pub(crate) fn has_ours(&self) -> bool {
        self.routes.iter().any(|route| route.protocol == protocol::UPLINKD)
            || self.rules.iter().any(|rule| rule.protocol == protocol::UPLINKD)
            || !self.tables.is_empty()
    }

    /// Carries out one of our operations.
    pub(crate) fn carry_out(&mut self, op: &Op) -> Outcome {
        let done = match op {
            Op::AddRoute(route) => match self.refuse_tables.get(&route.table()) {
                Some(errno) => Err(*errno),
                None if route.legs().iter().any(|leg| self.unreachable.contains(&leg.hop.link)) => {
                    Err(ENETUNREACH)
                }
                None => self.add_route(as_route(route)),
            },
            Op::DeleteRoute(_) if self.undeletable => Err(ESRCH),
            Op::DeleteRoute(route) => self.delete_route(&as_route(route)),
            Op::AddRule(rule) => self.add_rule(as_rule(rule)),
            Op::DeleteRule(rule) => self.delete_rule(&as_rule(rule)),
            Op::SetMarks(marks) => self.set_marks(marks),
            Op::DeleteMarks(family) => self.delete_marks(*family),
            Op::CheckByMark { link, on } => self.check_by_mark(*link, *on),
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(EEXIST) => Outcome::Exists,
            Err(ESRCH | ENODEV) => Outcome::Absent,
            Err(Errno(number)) => Outcome::Refused(number),
        }
    }

    /// `ip route add`: exclusive by table, destination, type of service and metric.
    pub(crate) fn add_route(&mut self, mut route: Route) -> Result<(), Errno> {
        route.metric = effective_metric(&route);
        if self.routes.iter().any(|other| same_place(other, &route)) {
            return Err(EEXIST);
        }
        self.append_route(route)
    }

    /// `ip route append`: stands behind others of the same metric.
    pub(crate) fn append_route(&mut self, mut route: Route) -> Result<(), Errno> {
        route.metric = effective_metric(&route);
        self.check_route(&route)?;
        let stands = |hop: &Hop| {
            let there = |other: &Route| joined(other, &route) && other.hops.contains(hop);
            self.routes.iter().any(there)
        };
        if route.hops.iter().any(stands) {
            return Err(EEXIST);
        }
        self.changes += 1;
        self.routes.extend(apart(route));
        Ok(())
    }

    /// `ip route replace`: takes the place of whatever stands at its metric, of all hops that IPv6 joined
    /// there.
    pub(crate) fn replace_route(&mut self, mut route: Route) -> Result<(), Errno> {
        route.metric = effective_metric(&route);
        self.check_route(&route)?;
        self.changes += 1;
        let at = self.routes.iter().position(|other| same_place(other, &route));
        let all = at.and_then(|at| self.routes.get(at)).is_some_and(|old| joined(old, &route));
        if let Some(at) = at {
            self.routes.remove(at);
        }
        self.routes.retain(|other| !(all && joined(other, &route)));
        let at = at.unwrap_or(self.routes.len());
        self.routes.splice(at..at, apart(route));
        Ok(())
    }

    /// `RTM_DELROUTE` naming protocol, gateway and interface of each hop. An IPv4 metric of 0 is any metric.
    pub(crate) fn delete_route(&mut self, route: &Route) -> Result<(), Errno> {
        let any_metric = route.family == Family::Ipv4 && route.metric == 0;
        let wanted = Route { metric: effective_metric(route), ..route.clone() };
        let fits = |other: &Route| {
            (same_place(other, &wanted)
                || any_metric && same_place(&Route { metric: 0, ..other.clone() }, &wanted))
                && other.protocol == wanted.protocol
                && other.hops == wanted.hops
        };
        let at = self.routes.iter().position(fits).ok_or(ESRCH)?;
        self.routes.remove(at);
        self.changes += 1;
        Ok(())
    }

    /// Adds a rule behind all others of its preference, even if the same one is there: without
    /// `NLM_F_EXCL` the kernel does not look (`fib_newrule` in net/core/fib_rules.c).
    pub(crate) fn add_rule(&mut self, rule: Rule) -> Result<(), Errno> {
        if let Some(errno) = self.refuse_rules {
            return Err(errno);
        }
        let at = self.rules.iter().position(|other| other.priority > rule.priority);
        self.rules.insert(at.unwrap_or(self.rules.len()), rule);
        self.changes += 1;
        Ok(())
    }

    /// The preference of a rule that is added without one: right before all others
    /// (`fib_default_rule_pref` in net/core/fib_rules.c).
    pub(crate) fn next_priority(&self, family: Family) -> u32 {
        let rules = self.rules.iter().filter(|rule| rule.family == family);
        rules.map(|rule| rule.priority).min().unwrap_or(0).saturating_sub(1)
    }

    /// `ip rule del`, naming everything it has.
    pub(crate) fn delete_rule(&mut self, rule: &Rule) -> Result<(), Errno> {
        let at = self.rules.iter().position(|other| other == rule).ok_or(ESRCH)?;
        self.rules.remove(at);
        self.changes += 1;
        Ok(())
    }

    /// A batch to nftables: all of it or nothing.
    fn set_marks(&mut self, marks: &OwnMarks) -> Result<(), Errno> {
        if let Some(errno) = self.refuse_marks {
            return Err(errno);
        }
        self.tables.retain(|table| table.family != marks.family);
        self.tables.push(marks.clone());
        self.changes += 1;
        Ok(())
    }

    fn delete_marks(&mut self, family: Family) -> Result<(), Errno> {
        let at = self.tables.iter().position(|table| table.family == family).ok_or(ESRCH)?;
        self.tables.remove(at);
        self.changes += 1;
        Ok(())
    }

    fn check_by_mark(&mut self, link: LinkIndex, on: bool) -> Result<(), Errno> {
        self.links.get_mut(&link).ok_or(ENODEV)?.src_valid_mark = on;
        self.changes += 1;
        Ok(())
    }

    /// Adds an address, if its link is there.
    pub(crate) fn add_address(&mut self, address: Address) {
        if self.links.contains_key(&address.link) && !self.addresses.contains(&address) {
            self.addresses.push(address);
            self.changes += 1;
        }
    }

    /// Removes an address, and with it, silently, the routes that need it: those with that preferred
    /// source and those whose gateway is not on the link any more.
    pub(crate) fn remove_address(&mut self, address: &Address) {
        self.addresses.retain(|other| other != address);
        let source = Some(address.prefix.address);
        let routes = std::mem::take(&mut self.routes);
        let touched = |route: &Route| route.hops.iter().any(|hop| hop.link == address.link);
        let stays =
            |route: &Route| route.attributes.source != source && (!touched(route) || self.is_alive(route));
        self.routes = routes.into_iter().filter(stays).collect();
        self.changes += 1;
    }

    /// Sets an interface administratively up or down. Down takes all its routes with it, in IPv4
    /// without a word, and its IPv6 addresses. Of several hops its own are dead until it is up again
    /// (`fib_sync_down_dev` in net/ipv4/fib_semantics.c, `fib6_ifdown` in net/ipv6/route.c); in IPv6 so
    /// much as if they were gone, but that they come again by themselves.
    pub(crate) fn set_up(&mut self, index: LinkIndex, up: bool) {
        let Some(link) = self.links.get_mut(&index) else { return };
        (link.up, link.carrier) = (up, up);
        self.changes += 1;
        if !up {
            let routes = std::mem::take(&mut self.routes);
            let touched = |route: &Route| route.hops.iter().any(|hop| hop.link == index);
            let stays = |route: &Route| {
                let beside = |other: &&Route| joined(other, route) && self.is_alive(other);
                !touched(route) || self.is_alive(route) || routes.iter().any(|other| beside(&other))
            };
            self.routes = routes.iter().filter(|route| stays(route)).cloned().collect();
            self.addresses.retain(|address| {
                address.link != index || Family::of(address.prefix.address) == Family::Ipv4
            });
        }
    }

    /// Carrier comes or goes; the routes stay.
    pub(crate) fn set_carrier(&mut self, index: LinkIndex, carrier: bool) {
        if let Some(link) = self.links.get_mut(&index) {
            link.carrier = carrier && link.up;
            self.changes += 1;
        }
    }

    /// The interface is gone, and all that hung on it: in IPv4 routes of several hops, too, whole.
    pub(crate) fn remove_link(&mut self, index: LinkIndex) {
        self.set_up(index, false);
        self.routes.retain(|route| route.hops.iter().all(|hop| hop.link != index));
        self.links.remove(&index);
        self.addresses.retain(|address| address.link != index);
    }

    /// Whether a packet can leave by this hop.
    pub(crate) fn leads(&self, route: &Route, hop: &Hop) -> bool {
        self.links.get(&hop.link).is_some_and(|link| link.up) && self.reaches(route, hop)
    }

    /// Whether it has a hop that leads, or needs none.
    fn is_alive(&self, route: &Route) -> bool {
        route.hops.is_empty() || route.hops.iter().any(|hop| self.leads(route, hop))
    }

    fn check_route(&self, route: &Route) -> Result<(), Errno> {
        for hop in &route.hops {
            let link = self.links.get(&hop.link).ok_or(ENODEV)?;
            if !link.up {
                return Err(ENETDOWN);
            }
            if !self.reaches(route, hop) {
                return Err(if route.family == Family::Ipv4 { ENETUNREACH } else { EHOSTUNREACH });
            }
        }
        let local = |source| self.addresses.iter().any(|address| address.prefix.address == source);
        if route.attributes.source.is_some_and(|source| !local(source)) {
            return Err(EINVAL);
        }
        Ok(())
    }

    /// Whether the hop's gateway, if there is one, is on the link.
    fn reaches(&self, route: &Route, hop: &Hop) -> bool {
        let Some(gateway) = hop.gateway else { return true };
        let link_local = matches!(gateway, IpAddr::V6(address) if address.is_unicast_link_local());
        route.attributes.onlink
            || link_local
            || self.addresses.iter().any(|address| {
                let connected = address.link == hop.link && !address.no_prefix_route;
                connected && address.prefix.contains(gateway)
            })
    }
}

fn effective_metric(route: &Route) -> u32 {
    if route.family == Family::Ipv6 && route.metric == 0 { IPV6_USUAL_METRIC } else { route.metric }
}

fn same_place(a: &Route, b: &Route) -> bool {
    (a.family, a.table, a.tos, a.metric) == (b.family, b.table, b.tos, b.metric)
        && a.destination.length == b.destination.length
        && (a.is_default() || a.destination == b.destination)
}

/// Whether IPv6 makes one route of this one and its equals (`rt6_qualify_for_ecmp` in
/// include/net/ip6_route.h). Those of protocol `ra` are taken for the kernel's own, which do not join.
fn joins(route: &Route) -> bool {
    route.family == Family::Ipv6
        && route.kind == RouteKind::Unicast
        && route.protocol != protocol::RA
        && !route.by_object
        && route.hops.iter().all(|hop| hop.gateway.is_some())
}

/// Whether these two are hops of one route in IPv6.
pub(crate) fn joined(one: &Route, other: &Route) -> bool {
    joins(one) && joins(other) && same_place(one, other)
}

/// The routes that a request lays.
fn apart(route: Route) -> Vec<Route> {
    if !joins(&route) {
        return vec![route];
    }
    let weights = route.weights.iter().copied().chain(std::iter::repeat(Weight::ONE));
    let leg = |(hop, weight): (&Hop, Weight)| Route {
        hops: vec![hop.clone()],
        weights: vec![weight],
        ..route.clone()
    };
    route.hops.iter().zip(weights).map(leg).collect()
}

/// The routes as a dump shows them.
fn show_joined<'a>(routes: impl Iterator<Item = &'a Route>) -> Vec<Route> {
    let mut shown: Vec<Route> = Vec::new();
    for route in routes {
        match shown.iter_mut().find(|other| joined(other, route)) {
            Some(first) => {
                first.hops.extend(route.hops.iter().cloned());
                first.weights.extend(&route.weights);
            }
            None => shown.push(route.clone()),
        }
    }
    for route in shown.iter_mut().filter(|route| route.hops.len() < 2) {
        route.weights.clear();
    }
    shown
}

/// The destination of a default route.
pub(crate) const fn everywhere(family: Family) -> Prefix {
    let address = match family {
        Family::Ipv4 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        Family::Ipv6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    };
    Prefix { address, length: 0 }
}

fn as_route(own: &OwnRoute) -> Route {
    Route {
        family: own.family(),
        table: own.table(),
        destination: everywhere(own.family()),
        tos: 0,
        metric: own.metric(),
        preference: RouterPreference::default(),
        protocol: protocol::UPLINKD,
        kind: RouteKind::Unicast,
        hops: own.legs().iter().map(|leg| leg.hop.clone()).collect(),
        weights: if own.legs().single().is_some() {
            Vec::new()
        } else {
            own.legs().iter().map(|leg| leg.weight).collect()
        },
        by_object: false,
        attributes: own.attributes().clone(),
    }
}

fn as_rule(own: &OwnRule) -> Rule {
    let (from, to, mark) = match own.form() {
        RuleForm::MainWithoutDefault | RuleForm::Pin => (None, None, None),
        RuleForm::Probe { from, to, .. } => (Some(from), Some(to), None),
        RuleForm::Connection { mark, .. } | RuleForm::Past { mark } | RuleForm::Landing { mark } => {
            (None, None, Some(mark))
        }
        RuleForm::Source { from, .. } => (Some(from), None, None),
    };
    Rule {
        family: own.family(),
        priority: own.priority(),
        protocol: protocol::UPLINKD,
        table: own.table(),
        goto: own.goto(),
        from,
        to,
        mark,
        suppress_prefix_length: own.suppresses_default().then_some(0),
        more: false,
    }
}
