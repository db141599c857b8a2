//! From what is elected and what the kernel has to the operations that are missing. Pure: `run`,
//! `--dry-run` and the property tests share it.

use std::collections::BTreeSet;

use crate::discover::{foreign_defaults, has_dpu_port, own_defaults};
use crate::own::{
    Legs, Op, OwnRoute, OwnRule, PRIORITY_PIN, RuleForm, TABLE_MAIN_OR_PIN, TABLE_PIN, probe_table,
    unsafe_rules,
};
use crate::paths::{self, PathWay};
use crate::policy::{PathRules, Placement, Policy};
use crate::snapshot::{
    Attributes, Family, Hop, LinkIndex, LinkKind, Prefix, Route, RouteKind, Snapshot, TABLE_MAIN, protocol,
};
use crate::status::Aside;

/// Where no foreign default route was ever seen, a new pin stands just below this metric, where a DHCP
/// client or netplan would lay one.
const USUAL_METRIC: u32 = 100;

/// Where a family's default route should lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// By these hops.
    pub legs: Legs,
    /// With these attributes.
    pub attributes: Attributes,
    /// None of it can be used now: a pin that leads there stays, but none is made.
    pub keep_only: bool,
    /// The lowest metric with room below that a foreign default route was ever seen with. Its owner
    /// may be about to lay it anew, and must not find its place taken.
    pub below: Option<u32>,
    /// The metric of the best foreign default route when that last was one that nobody meant. What
    /// somebody meant and laid behind it is not the best for good while that one is renewed.
    pub plain: Option<u32>,
    /// A metric of the main table that the kernel says is taken, though nothing is seen there.
    pub taken: Option<u32>,
    /// The pin that this process laid last: of its hops it is certain that they are ours.
    pub laid: Option<OwnRoute>,
}

impl Wanted {
    /// Whether a pin leads there. If none of it can be used, it is enough that some of it is the same.
    fn is_led_to(&self, pin: &OwnRoute) -> bool {
        let partly = || pin.legs().iter().any(|leg| self.legs.lead_to(&leg.hop));
        *pin.legs() == self.legs || (self.keep_only && partly())
    }
}

/// A target that is to be asked by a path's own way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeWay {
    /// The path's next hop.
    pub hop: Hop,
    /// What the path's default route says.
    pub attributes: Attributes,
    /// The uplink's address.
    pub from: Prefix,
    /// The target.
    pub to: Prefix,
}

/// What is missing in one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The operations for the pin, in an order in which no lookup ever fails.
    pub pin: Vec<Op>,
    /// Those for the routes of the uplinks' own tables and for the ways of probes to targets. Nothing that
    /// they do touches the pin's.
    pub ways: Vec<Op>,
    /// Those for path rules, which lead to the uplinks' own tables.
    pub paths: Vec<Op>,
    /// Somebody meant the route that is there.
    pub aside: Option<Aside>,
}

/// The operations that lead `family` from what the kernel has to what is wanted. With nothing
/// wanted and no ways, they remove all that is ours.
#[must_use]
pub fn plan(
    snapshot: &Snapshot,
    policy: &Policy,
    family: Family,
    wanted: Option<&Wanted>,
    ways: &[ProbeWay],
    path_ways: &[PathWay],
) -> Plan {
    let table = Table::read(snapshot, family, wanted);
    let ways = uplink_ways(snapshot, family, ways, path_ways);
    let bits = match policy.path_rules {
        PathRules::On(bits) if snapshot.tracking.in_use => Some(bits),
        PathRules::On(_) | PathRules::Off => None,
    };
    let paths = paths::plan(snapshot, family, path_ways, bits);
    let aside = table.aside(snapshot, policy, wanted.and_then(|wanted| wanted.plain));
    let wanted = wanted.filter(|_| aside.is_none());
    let (pin, no_room) = table.lead(policy.placement, wanted);
    Plan { pin, ways, paths, aside: aside.or(no_room) }
}

/// The metric of the best foreign default route, if nobody meant it.
pub(crate) fn plain_metric(snapshot: &Snapshot, policy: &Policy, family: Family) -> Option<u32> {
    let best = foreign_defaults(snapshot, family).next()?;
    meant(best, snapshot, policy).is_none().then_some(best.metric)
}

/// Whether a pin that outranks the foreign routes leads by this hop.
pub(crate) fn is_pinned(snapshot: &Snapshot, family: Family, hop: &Hop) -> bool {
    let lowest = foreign_defaults(snapshot, family).next().map(|route| route.metric);
    let outranks =
        |pin: &OwnRoute| pin.table() == TABLE_PIN || lowest.is_none_or(|lowest| pin.metric() < lowest);
    current_pin(snapshot, family).is_some_and(|pin| outranks(&pin) && pin.legs().lead_to(hop))
}

/// Whether a lookup without our pin would go by this hop.
pub(crate) fn foreign_lead_to(snapshot: &Snapshot, family: Family, hop: &Hop) -> bool {
    Table::read(snapshot, family, None).foreign_lead_to(&hop.clone().into())
}

/// The pin that decides lookups now.
#[must_use]
pub fn current_pin(snapshot: &Snapshot, family: Family) -> Option<OwnRoute> {
    let rules = snapshot.rules.iter().filter(|rule| rule.family == family).filter_map(OwnRule::claim);
    let in_table = rules.into_iter().any(|rule| rule.form() == RuleForm::Pin);
    let place = if in_table { TABLE_PIN } else { TABLE_MAIN };
    own_defaults(snapshot, family).filter(|pin| pin.table() == place).min_by_key(OwnRoute::metric)
}

/// The route that decides lookups in an interface's own table.
pub(crate) fn own_default(snapshot: &Snapshot, family: Family, link: LinkIndex) -> Option<OwnRoute> {
    let table = probe_table(link);
    own_defaults(snapshot, family).filter(|route| route.table() == table).min_by_key(OwnRoute::metric)
}

/// One family's default routes and our rules, as the kernel has them.
struct Table<'a> {
    family: Family,
    foreign: Vec<&'a Route>,
    /// Own routes in the main table and the pin's table.
    pins: Vec<OwnRoute>,
    /// The lowest metric in the main table at which the kernel may have joined a foreign route with ours.
    joined: Option<u32>,
    rules: Vec<OwnRule>,
    /// Somebody laid a rule at our preference after us: it must not be passed over.
    behind: bool,
}

enum Place {
    /// In the main table.
    Main {
        /// At one of these metrics, but not 0. Two are enough to switch; the third is for the case that one
        /// of them is taken.
        free: [u32; 3],
        /// What stands below this need not move.
        below: u32,
    },
    /// In our own table.
    Table,
}

impl<'a> Table<'a> {
    fn read(snapshot: &'a Snapshot, family: Family, wanted: Option<&Wanted>) -> Self {
        let rules = snapshot.rules.iter().filter(|rule| rule.family == family).filter_map(OwnRule::claim);
        let own = own_defaults(snapshot, family).filter(|route| TABLE_MAIN_OR_PIN.contains(&route.table()));
        let (joined, whole): (Vec<_>, Vec<_>) = own.partition(|route| may_be_joined(route, wanted));
        Self {
            family,
            foreign: foreign_defaults(snapshot, family).collect(),
            joined: joined.iter().map(OwnRoute::metric).min(),
            pins: whole.into_iter().chain(joined.iter().flat_map(OwnRoute::hop_by_hop)).collect(),
            rules: rules.collect(),
            behind: foreign_rule_behind_ours(snapshot, family),
        }
    }

    /// Whether the best foreign default is one that somebody meant to have the last word: not one
    /// that waits behind the metric of a `plain` one.
    fn aside(&self, snapshot: &Snapshot, policy: &Policy, plain: Option<u32>) -> Option<Aside> {
        let best = self.foreign.first().filter(|best| plain.is_none_or(|plain| best.metric <= plain))?;
        meant(best, snapshot, policy)
    }

    /// The operations after which lookups go where they should, and whether there is no room for them.
    fn lead(&self, placement: Placement, wanted: Option<&Wanted>) -> (Vec<Op>, Option<Aside>) {
        // A pin that leads there already stays when others come to lead there, too: one of them may be
        // gone for the moment of a renewal only.
        let needed = |wanted: &&Wanted| !self.foreign_lead_to(&wanted.legs) || self.pinned_to(wanted);
        let Some(wanted) = wanted.filter(needed) else { return (self.remove_all(), None) };
        let ops = match self.placement(placement, wanted.below) {
            Some(Place::Main { free, below }) => {
                self.pin(wanted, TABLE_MAIN, free, below).map(|pin| self.back_from_table(pin))
            }
            // In vain: it stays for the time when the route that refuses is not the best any more.
            Some(Place::Table) if self.refuses() => {
                let leads = self.pinned_to(wanted);
                return (if leads { Vec::new() } else { self.remove_all() }, Some(Aside::Refused));
            }
            Some(Place::Table) => self
                .pin(wanted, TABLE_PIN, [1, 2, 3], 4)
                .map(|pin| [pin, self.add_rules(), self.remove(TABLE_MAIN)].concat()),
            None => {
                // A pin that led elsewhere would be tended by nobody.
                let leads = self.decides().is_some_and(|pin| wanted.is_led_to(pin));
                return (if leads { Vec::new() } else { self.remove_all() }, Some(Aside::NoRoom));
            }
        };
        (ops.unwrap_or_default(), None)
    }

    /// The way back from `table` to a pin in main: our rules go only when main leads where they do. But where
    /// they are in vain they go first: with the pin they would lead by what is left in our own table.
    fn back_from_table(&self, pin: Vec<Op>) -> Vec<Op> {
        let table = [self.remove_rules(), self.remove(TABLE_PIN)].concat();
        let asks_main =
            self.pin_rules().next().is_some_and(|rule| rule.form() == RuleForm::MainWithoutDefault);
        let mut pins = self.pins.iter().filter(|pin| pin.table() == TABLE_MAIN);
        let outranked = pins.any(|pin| self.lowest().is_some_and(|lowest| pin.metric() < lowest));
        let in_vain = self.refuses() && asks_main && !outranked;
        if in_vain { [table, pin].concat() } else { [pin, table].concat() }
    }

    /// Whether a lookup without our pin would go where it should.
    fn foreign_lead_to(&self, legs: &Legs) -> bool {
        let (Some(best), Some(hop)) = (self.foreign.first(), legs.single()) else { return false };
        // Among equals the kernel chooses, not we.
        let equals = self.foreign.iter().take_while(|route| route.metric == best.metric);
        equals.into_iter().all(|route| route.single_hop() == Some(hop))
    }

    /// Whether a pin that outranks the foreign routes leads where it should.
    fn pinned_to(&self, wanted: &Wanted) -> bool {
        let outranks = |pin: &OwnRoute| {
            pin.table() == TABLE_PIN || self.lowest().is_none_or(|lowest| pin.metric() < lowest)
        };
        self.pins.iter().any(|pin| wanted.is_led_to(pin) && outranks(pin))
    }

    /// The pin that lookups go by.
    fn decides(&self) -> Option<&OwnRoute> {
        let place = if self.in_table() { TABLE_PIN } else { TABLE_MAIN };
        let best = self.pins.iter().filter(|pin| pin.table() == place).min_by_key(|pin| pin.metric());
        best.filter(|pin| place == TABLE_PIN || self.lowest().is_none_or(|lowest| pin.metric() < lowest))
    }

    /// Whether the best foreign default refuses. Our rules do not suppress such a route
    /// (`fib_rules_lookup` in net/core/fib_rules.c): what stands in our own table is in vain.
    fn refuses(&self) -> bool {
        self.foreign.first().is_some_and(|best| best.kind == RouteKind::Refused)
    }

    /// Whether a pin in our own table outranks the main table.
    fn in_table(&self) -> bool {
        self.rules.iter().any(|rule| rule.form() == RuleForm::Pin)
            && self.pins.iter().any(|pin| pin.table() == TABLE_PIN)
            && !self.refuses()
    }

    /// The lowest metric in the main table that a foreign default route stands at.
    fn lowest(&self) -> Option<u32> {
        self.foreign.first().map(|route| route.metric).into_iter().chain(self.joined).min()
    }

    fn placement(&self, placement: Placement, below: Option<u32>) -> Option<Place> {
        let lowest = self.lowest().into_iter().chain(below).min().unwrap_or(USUAL_METRIC);
        let main = has_room_below(lowest).then(|| Place::Main {
            free: [lowest - 1, lowest - 2, lowest - 3],
            below: self.lowest().unwrap_or(u32::MAX),
        });
        match placement {
            Placement::Main => main,
            Placement::Table => Some(Place::Table),
            // What outranks every metric already need not move because the metrics changed.
            Placement::Auto if self.in_table() => Some(Place::Table),
            Placement::Auto => main.or(Some(Place::Table)),
        }
    }

    /// Makes the pin in `table` lead where it should: adds the new one before it deletes the old. None
    /// if there is no such pin and none may be made: what stands, wherever, stays.
    fn pin(&self, wanted: &Wanted, table: u32, free: [u32; 3], below: u32) -> Option<Vec<Op>> {
        let mut pins: Vec<&OwnRoute> = self.pins.iter().filter(|pin| pin.table() == table).collect();
        pins.sort_by_key(|pin| pin.metric());
        let highest = free.into_iter().fold(1, u32::max);
        let fits = |pin: &OwnRoute| {
            wanted.is_led_to(pin)
                && pin.metric() < below
                && (wanted.keep_only || *pin.attributes() == wanted.attributes)
        };
        let delete = |pins: Vec<&OwnRoute>| delete_pins(pins, &wanted.legs);
        if let Some(good) = pins.iter().position(|pin| fits(pin)) {
            pins.remove(good);
            return Some(delete(pins));
        }
        if wanted.keep_only {
            return None;
        }
        // A crash between an add and a delete leaves two: the one that decides lookups stays longest.
        let best = pins.first().map(|pin| pin.metric());
        let (decide, spare) = pins.into_iter().partition(|pin| Some(pin.metric()) == best);
        let is_free = |metric: &u32| {
            *metric > 0
                && wanted.taken.filter(|_| table == TABLE_MAIN) != Some(*metric)
                && best != Some(*metric)
        };
        let metric = free.into_iter().find(is_free);
        let new = OwnRoute::new(
            self.family,
            table,
            metric.unwrap_or(highest),
            wanted.legs.clone(),
            wanted.attributes.clone(),
        );
        let mut ops = delete(spare);
        ops.push(Op::AddRoute(new));
        ops.extend(delete(decide));
        Some(ops)
    }

    /// First everything of main but its defaults, then the pin: the other way round, the host's own
    /// subnets would be reached through the pin for a moment.
    fn add_rules(&self) -> Vec<Op> {
        let rule = |form| OwnRule::new(self.family, form);
        let forms: Vec<RuleForm> = self.pin_rules().map(OwnRule::form).collect();
        match forms.as_slice() {
            [RuleForm::MainWithoutDefault, RuleForm::Pin] if !self.behind => Vec::new(),
            [RuleForm::MainWithoutDefault] if !self.behind => vec![Op::AddRule(rule(RuleForm::Pin))],
            // New ones behind, then the old ones away: the first that is alike is the old one.
            _ => {
                let add = [RuleForm::MainWithoutDefault, RuleForm::Pin].map(|form| Op::AddRule(rule(form)));
                add.into_iter().chain(self.remove_rules()).collect()
            }
        }
    }

    fn remove_rules(&self) -> Vec<Op> {
        let mut rules: Vec<OwnRule> = self.pin_rules().cloned().collect();
        rules.sort_by_key(|rule| rule.form() != RuleForm::Pin);
        rules.into_iter().map(Op::DeleteRule).collect()
    }

    fn pin_rules(&self) -> impl Iterator<Item = &OwnRule> {
        self.rules.iter().filter(|rule| matches!(rule.form(), RuleForm::MainWithoutDefault | RuleForm::Pin))
    }

    fn remove_all(&self) -> Vec<Op> {
        [self.remove_rules(), self.remove(TABLE_PIN), self.remove(TABLE_MAIN)].concat()
    }

    fn remove(&self, table: u32) -> Vec<Op> {
        self.pins.iter().filter(|pin| pin.table() == table).flat_map(delete_whole).collect()
    }
}

/// Whether some of the hops in the main table may be another program's. IPv6 joins a route that is
/// appended at our pin's metric with it into one of several hops. Of what this process laid it is known
/// which are ours; of what it found, it is not, unless it is just what is wanted: then it can stay. Where
/// there is no room below it to evade to, it is taken for ours.
fn may_be_joined(route: &OwnRoute, wanted: Option<&Wanted>) -> bool {
    let known = wanted.and_then(|wanted| wanted.laid.as_ref()).is_some_and(|laid| {
        (laid.table(), laid.metric()) == (TABLE_MAIN, route.metric())
            && route.legs().iter().all(|leg| laid.legs().lead_to(&leg.hop))
    });
    let as_wanted = wanted.is_some_and(|wanted| *route.legs() == wanted.legs);
    let several = route.legs().single().is_none();
    let joins = route.family() == Family::Ipv6 && route.table() == TABLE_MAIN && several;
    joins && !known && !as_wanted && has_room_below(route.metric())
}

/// Why a foreign default route is none that we outrank: somebody meant it.
fn meant(route: &Route, snapshot: &Snapshot, policy: &Policy) -> Option<Aside> {
    let configured = !policy.uplinks.is_empty();
    match (route.kind, route.hops.as_slice()) {
        (RouteKind::Refused, _) => (!configured).then_some(Aside::Refused),
        (RouteKind::Other, _) => (!configured).then_some(Aside::Opaque),
        (RouteKind::Unicast, [hop]) => {
            let link = snapshot.links.get(&hop.link)?;
            let named = policy.uplinks.iter().any(|uplink| crate::discover::is_match(&uplink.matching, link));
            (link.kind == LinkKind::Tunnel && !named).then_some(Aside::Tunnel)
        }
        (RouteKind::Unicast, _) if has_dpu_port(snapshot) && is_tie(route, snapshot) => None,
        (RouteKind::Unicast, _) => (!configured).then_some(Aside::Multipath),
    }
}

/// Whether a route of several hops is one because IPv6 joined what was laid one by one with equal
/// metrics (`rt6_qualify_for_ecmp` in include/net/ip6_route.h), as netplan does for all uplinks. The kernel
/// does not tell; but nobody means a multipath of what the network named, nor of what netplan wrote for
/// one interface each.
fn is_tie(route: &Route, snapshot: &Snapshot) -> bool {
    let mut links = BTreeSet::new();
    let each_its_own = route.hops.iter().filter(|hop| links.insert(hop.link)).count() == route.hops.len();
    let tunnel = |link| snapshot.links.get(link).is_some_and(|link| link.kind == LinkKind::Tunnel);
    let laid_one_by_one = match route.protocol {
        protocol::RA | protocol::DHCP => true,
        protocol::STATIC => each_its_own,
        _ => false,
    };
    route.family == Family::Ipv6 && laid_one_by_one && !route.by_object && !links.iter().any(tunnel)
}

/// Takes away the pin's rule where it stands without the one for `main`.
pub(crate) fn without_unsafe_rules(snapshot: &Snapshot, family: Family) -> Vec<Op> {
    let rules = snapshot.rules.iter().filter(|rule| rule.family == family).filter_map(OwnRule::claim);
    let of_pin = |rule: &OwnRule| matches!(rule.form(), RuleForm::MainWithoutDefault | RuleForm::Pin);
    let rules: Vec<OwnRule> = rules.filter(of_pin).collect();
    unsafe_rules(&rules).cloned().map(Op::DeleteRule).collect()
}

/// Whether two metrics below this one can be ours, neither of them 0.
pub(crate) const fn has_room_below(metric: u32) -> bool {
    metric >= 3
}

/// Deletes pins. Where lookups can see them go hop by hop, the hops that are wanted go last.
fn delete_pins(pins: Vec<&OwnRoute>, wanted: &Legs) -> Vec<Op> {
    let lead_on = |route: &OwnRoute| route.legs().iter().any(|leg| wanted.lead_to(&leg.hop));
    let mut ops: Vec<Op> = pins.into_iter().flat_map(delete_whole).collect();
    ops.sort_by_key(|op| matches!(op, Op::DeleteRoute(route) if lead_on(route)));
    ops
}

/// Deletes a route in one step in IPv4, and hop by hop in IPv6, where each is a route of its own.
fn delete_whole(route: &OwnRoute) -> Vec<Op> {
    match route.family() {
        Family::Ipv4 => vec![Op::DeleteRoute(route.clone())],
        Family::Ipv6 => route.hop_by_hop().map(Op::DeleteRoute).collect(),
    }
}

/// Whether a rule of others stands behind one of ours at the same preference.
fn foreign_rule_behind_ours(snapshot: &Snapshot, family: Family) -> bool {
    let rules = snapshot.rules.iter().filter(|rule| rule.family == family && rule.priority == PRIORITY_PIN);
    rules.skip_while(|rule| OwnRule::claim(rule).is_none()).any(|rule| OwnRule::claim(rule).is_none())
}

fn delete(pins: Vec<&OwnRoute>) -> Vec<Op> {
    pins.into_iter().cloned().map(Op::DeleteRoute).collect()
}

/// The routes of the uplinks' own tables, and the rules that lead probes to targets through the path they
/// judge.
fn uplink_ways(snapshot: &Snapshot, family: Family, ways: &[ProbeWay], path_ways: &[PathWay]) -> Vec<Op> {
    let routes: Vec<OwnRoute> = own_defaults(snapshot, family)
        .filter(|route| !TABLE_MAIN_OR_PIN.contains(&route.table()))
        .flat_map(|route| route.hop_by_hop().collect::<Vec<_>>())
        .collect();
    let rules: Vec<OwnRule> = snapshot
        .rules
        .iter()
        .filter(|rule| rule.family == family)
        .filter_map(OwnRule::claim)
        .filter(|rule| matches!(rule.form(), RuleForm::Probe { .. }))
        .collect();
    let mut wanted_routes: Vec<OwnRoute> = Vec::new();
    let mut wanted_rules: Vec<OwnRule> = Vec::new();
    let probed = ways.iter().map(|way| (&way.hop, &way.attributes));
    let kept = path_ways.iter().filter(|way| {
        !way.keep_only || routes.iter().any(|route| route.table() == probe_table(way.hop.link))
    });
    for (hop, attributes) in probed.chain(kept.map(|way| (&way.hop, &way.attributes))) {
        let metric = free_metric(&routes, hop, attributes);
        let route = OwnRoute::new(family, probe_table(hop.link), metric, hop.clone(), attributes.clone());
        if !wanted_routes.contains(&route) {
            wanted_routes.push(route);
        }
    }
    for way in ways {
        let link: LinkIndex = way.hop.link;
        let rule = OwnRule::new(family, RuleForm::Probe { from: way.from, to: way.to, link });
        if !wanted_rules.contains(&rule) {
            wanted_rules.push(rule);
        }
    }
    let mut seen = BTreeSet::new();
    let double = |rule: &OwnRule, seen: &mut BTreeSet<String>| !seen.insert(rule.to_string());
    let add_routes = wanted_routes.iter().filter(|route| !routes.contains(route)).cloned().map(Op::AddRoute);
    let add_rules = wanted_rules.iter().filter(|rule| !rules.contains(rule)).cloned().map(Op::AddRule);
    let delete_rules: Vec<Op> = rules
        .iter()
        .filter(|rule| double(rule, &mut seen) || !wanted_rules.contains(rule))
        .cloned()
        .map(Op::DeleteRule)
        .collect();
    // The route that decides lookups stays until the new one stands; the others are in its way.
    let stale = routes.iter().filter(|route| !wanted_routes.contains(route));
    let (last, spare): (Vec<&OwnRoute>, Vec<&OwnRoute>) =
        stale.partition(|route| decides(&routes, route.table()) == Some(route));
    delete(spare)
        .into_iter()
        .chain(add_routes)
        .chain(add_rules)
        .chain(delete_rules)
        .chain(delete(last))
        .collect()
}

/// The route that decides lookups in an uplink's table.
fn decides(routes: &[OwnRoute], table: u32) -> Option<&OwnRoute> {
    routes.iter().filter(|route| route.table() == table).min_by_key(|route| route.metric())
}

/// The metric in an uplink's table of the route that leads there already, or else the first that the one
/// that decides there does not have.
fn free_metric(routes: &[OwnRoute], hop: &Hop, attributes: &Attributes) -> u32 {
    let table = probe_table(hop.link);
    let leads =
        |route: &&OwnRoute| route.table() == table && route.leads_to(hop) && route.attributes() == attributes;
    let taken = decides(routes, table).map(OwnRoute::metric);
    routes.iter().find(leads).map_or(if taken == Some(1) { 2 } else { 1 }, OwnRoute::metric)
}
