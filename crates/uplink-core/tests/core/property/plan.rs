//! The plan alone, from any table to what is wanted.

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::{prop_assert, prop_assert_eq, proptest};
use uplink_core::event::Outcome;
use uplink_core::own::{Leg, Legs, Op, OwnRoute, OwnRule, RuleForm, TABLE_PIN, probe_table};
use uplink_core::plan::{ProbeWay, Wanted, current_pin, plan};
use uplink_core::policy::{Placement, Policy};
use uplink_core::snapshot::{Attributes, Family, LinkIndex, Prefix, Route, RouteKind, TABLE_MAIN, protocol};
use uplink_core::status::Aside;

use super::config;
use crate::sim::kernel::Kernel;
use crate::sim::lookup::Packet;
use crate::sim::site::{MGMT, PORT, addresses, default_route, plain_default, worker};

const THIRD: LinkIndex = LinkIndex(5);

/// What is wanted.
#[derive(Debug, Clone, Copy)]
enum To {
    One(LinkIndex),
    Both,
}

/// What stands in the table before.
#[derive(Debug, Clone)]
enum Standing {
    Foreign(LinkIndex, u32),
    /// A default route that is no way anywhere.
    Odd(RouteKind, u32),
    Pin(LinkIndex, u32, u32),
    /// A pin over both links, at a metric of the main table or our own, and whether another program
    /// appended a route of its own there.
    Multipath(u32, u32, bool),
    /// Rules of ours, as somebody may have left them.
    Rules(Vec<RuleForm>),
}

fn standing() -> impl Strategy<Value = Standing> {
    let link = || select(vec![PORT, MGMT]);
    let metric = || prop_oneof![1u32..6, 40u32..60];
    prop_oneof![
        (link(), metric()).prop_map(|(link, metric)| Standing::Foreign(link, metric)),
        (select(vec![RouteKind::Refused, RouteKind::Other]), metric())
            .prop_map(|(kind, metric)| Standing::Odd(kind, metric)),
        (link(), select(vec![TABLE_MAIN, TABLE_PIN]), metric())
            .prop_map(|(link, table, metric)| Standing::Pin(link, table, metric)),
        (select(vec![TABLE_MAIN, TABLE_PIN]), metric(), any::<bool>())
            .prop_map(|(table, metric, appended)| Standing::Multipath(table, metric, appended)),
        vec(select(vec![RuleForm::MainWithoutDefault, RuleForm::Pin]), 1..4).prop_map(Standing::Rules),
    ]
}

/// Both links' hops with shares.
fn both(family: Family) -> Legs {
    let leg = |link, weight: u16| Leg {
        hop: default_route(link, family).hops[0].clone(),
        weight: weight.try_into().expect("a weight"),
    };
    Legs::of([leg(PORT, 2), leg(MGMT, 5)]).expect("two")
}

fn kernel(family: Family, standing: &[Standing]) -> Kernel {
    let mut bench = worker();
    bench.plug(THIRD, "eno9");
    bench.addresses_come(THIRD);
    let mut kernel = bench.kernel;
    kernel.routes.clear();
    for one in standing {
        match one {
            Standing::Foreign(link, metric) => {
                let route = default_route(*link, family);
                let _ = kernel.add_route(Route { metric: *metric, protocol: protocol::STATIC, ..route });
            }
            Standing::Odd(kind, metric) => {
                let _ = kernel.add_route(Route { metric: *metric, kind: *kind, ..plain_default(family) });
            }
            Standing::Pin(link, table, metric) => {
                let hop = default_route(*link, family).hops[0].clone();
                let pin = OwnRoute::new(family, *table, *metric, hop, Attributes::default());
                let _ = kernel.carry_out(&Op::AddRoute(pin));
            }
            Standing::Multipath(table, metric, appended) => {
                let pin = OwnRoute::new(family, *table, *metric, both(family), Attributes::default());
                let _ = kernel.carry_out(&Op::AddRoute(pin));
                if *appended && *table == TABLE_MAIN {
                    let route = default_route(THIRD, family);
                    let _ =
                        kernel.append_route(Route { metric: *metric, protocol: protocol::STATIC, ..route });
                }
            }
            Standing::Rules(forms) => {
                for form in forms {
                    let _ = kernel.carry_out(&Op::AddRule(OwnRule::new(family, *form)));
                }
            }
        }
    }
    kernel
}

proptest! {
    #![proptest_config(config(2048))]

    /// One plan leads from any table to what is wanted: no operation fails, changes what is not ours,
    /// or takes a way from a packet; a second plan finds nothing to do.
    #[test]
    fn leads_from_any_table_to_what_is_wanted(
        family in select(Family::ALL.to_vec()),
        standing in vec(standing(), 0..8),
        to in select(vec![None, Some(To::One(PORT)), Some(To::One(MGMT)), Some(To::Both)]),
        laid in any::<bool>(),
        placement in select(vec![Placement::Auto, Placement::Main, Placement::Table]),
        keep_only in any::<bool>(),
        plain in select(vec![None, Some(3), Some(50)]),
    ) {
        let mut kernel = kernel(family, &standing);
        let policy = Policy { placement, ..Policy::default() };
        let wanted = to.map(|to| Wanted {
            legs: match to {
                To::One(link) => default_route(link, family).hops[0].clone().into(),
                To::Both => both(family),
            },
            attributes: Attributes::default(),
            keep_only,
            below: None,
            plain,
            taken: None,
            // Another process may have laid it.
            laid: current_pin(&kernel.snapshot(), family).filter(|pin| laid && *pin.legs() == both(family)),
        });
        let mut planned = plan(&kernel.snapshot(), &policy, family, wanted.as_ref(), &[], &[]);
        let hidden = standing.iter().any(|one| matches!(one, Standing::Multipath(_, _, true)));
        // What IPv6 joined with ours is seen when ours is gone.
        for _ in 0..if hidden { 3 } else { 1 } {
            for op in &planned.pin {
                let before = kernel.clone();
                let foreign = matches!(op, Op::DeleteRoute(route) if route.legs().first().hop.link == THIRD);
                let expected = if foreign { Outcome::Absent } else { Outcome::Done };
                prop_assert_eq!(kernel.carry_out(op), expected, "{}", op);
                prop_assert_eq!(before.foreign(), kernel.foreign());
                let lost = before.default_way(family).is_ok() && kernel.default_way(family).is_err();
                // Where somebody meant that there is no way, there is none.
                let meant = matches!(planned.aside, Some(Aside::Refused | Aside::Multipath | Aside::Tunnel | Aside::Opaque));
                prop_assert!(!(lost && wanted.is_some() && !meant), "{} took the way", op);
                prop_assert!(!(keep_only && matches!(op, Op::AddRoute(_))), "{} is not to be made", op);
                if let Op::AddRoute(route) = op && route.table() == TABLE_MAIN {
                    let mut foreign = kernel.foreign().0.into_iter();
                    // Below these there is no room, and what is joined with ours there is not seen.
                    let below = |other: Route| other.metric > route.metric() || hidden && other.metric < 3;
                    prop_assert!(foreign.all(below), "{} is not below", op);
                }
            }
            if hidden {
                planned = plan(&kernel.snapshot(), &policy, family, wanted.as_ref(), &[], &[]);
            }
        }
        let again = plan(&kernel.snapshot(), &policy, family, wanted.as_ref(), &[], &[]);
        prop_assert_eq!(&again.pin, &Vec::new());
        if let Some(wanted) = wanted {
            let ways = kernel.default_ways(family);
            let leads = wanted.legs.iter().map(|leg| &leg.hop).eq(&ways) || wanted.legs.single() == ways.first();
            match planned.aside {
                None => prop_assert!(leads || keep_only),
                Some(Aside::NoRoom) => prop_assert!(leads || !kernel.has_ours() || keep_only),
                // In its own table a pin is in vain while a route refuses, but need not go for that.
                Some(Aside::Refused) => {
                    let leads = |pin: &OwnRoute| {
                        let partly = || pin.legs().iter().any(|leg| wanted.legs.lead_to(&leg.hop));
                        *pin.legs() == wanted.legs || keep_only && partly()
                    };
                    prop_assert!(!kernel.has_ours() || kernel.pins(family).iter().any(leads));
                }
                Some(_) => prop_assert!(!kernel.has_ours()),
            }
        }
        if to.is_none() {
            prop_assert!(!kernel.has_ours());
        }
    }
}

/// The way of a probe through a link to one of a few targets, by its gateway or another.
fn way() -> impl Strategy<Value = (ProbeWay, u32)> {
    (select(vec![PORT, MGMT]), 1u8..4, any::<bool>(), 1u32..5).prop_map(|(link, to, other, metric)| {
        let [address] = addresses(link, Family::Ipv4).try_into().expect("it has one");
        let mut hop = default_route(link, Family::Ipv4).hops[0].clone();
        if other {
            hop.gateway = Some(address.prefix.address);
        }
        let to = Prefix::host([203, 0, 113, to].into());
        let from = Prefix::host(address.prefix.address);
        (ProbeWay { hop, attributes: Attributes::default(), from, to }, metric)
    })
}

proptest! {
    #![proptest_config(config(2048))]

    /// Whatever an earlier process left of the ways of its probes: no operation fails, a second plan
    /// finds nothing to do, and what is wanted stands alone.
    #[test]
    fn leads_probes_from_any_table(
        standing in vec((way(), any::<bool>()), 0..8),
        wanted in vec(way(), 0..6),
    ) {
        let mut kernel = kernel(Family::Ipv4, &[]);
        for ((way, metric), rule) in &standing {
            let (table, link) = (probe_table(way.hop.link), way.hop.link);
            let route = OwnRoute::new(Family::Ipv4, table, *metric, way.hop.clone(), Attributes::default());
            let _ = kernel.carry_out(&Op::AddRoute(route));
            let form = RuleForm::Probe { from: way.from, to: way.to, link };
            if *rule {
                let _ = kernel.carry_out(&Op::AddRule(OwnRule::new(Family::Ipv4, form)));
            }
        }
        // A path has one gateway.
        let mut ways: Vec<ProbeWay> = Vec::new();
        for (way, _) in wanted {
            if ways.iter().all(|other| other.hop.link != way.hop.link || other.hop == way.hop) {
                ways.push(way);
            }
        }
        let policy = Policy::default();
        let planned = plan(&kernel.snapshot(), &policy, Family::Ipv4, None, &ways, &[]);
        prop_assert_eq!(&planned.pin, &Vec::new());
        for op in &planned.ways {
            prop_assert_eq!(kernel.carry_out(op), Outcome::Done, "{}", op);
        }
        let again = plan(&kernel.snapshot(), &policy, Family::Ipv4, None, &ways, &[]);
        prop_assert_eq!(&again.ways, &Vec::new());
        for way in &ways {
            let (from, bound) = (Some(way.from.address), Some(way.hop.link));
            let led = kernel.lookup(Packet { to: way.to.address, from, mark: 0, bound });
            prop_assert_eq!(led, Ok(way.hop.clone()));
        }
        prop_assert!(!ways.is_empty() || !kernel.has_ours());
    }
}
