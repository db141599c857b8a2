//! The plan alone, from any table to what is wanted.

use proptest::collection::vec;
use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::{prop_assert, prop_assert_eq, proptest};
use uplink_core::event::Outcome;
use uplink_core::own::{Op, OwnRoute, OwnRule, RuleForm, TABLE_PIN};
use uplink_core::plan::{Wanted, plan};
use uplink_core::policy::{Placement, Policy};
use uplink_core::snapshot::{Attributes, Family, LinkIndex, Route, RouteKind, TABLE_MAIN, protocol};
use uplink_core::status::Aside;

use super::config;
use crate::sim::kernel::Kernel;
use crate::sim::lookup::NoWay;
use crate::sim::site::{MGMT, PORT, default_route, plain_default, worker};

/// What stands in the table before.
#[derive(Debug, Clone)]
enum Standing {
    Foreign(LinkIndex, u32),
    /// A default route that is no way anywhere.
    Odd(RouteKind, u32),
    Pin(LinkIndex, u32, u32),
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
        vec(select(vec![RuleForm::MainWithoutDefault, RuleForm::Pin]), 1..4).prop_map(Standing::Rules),
    ]
}

fn kernel(family: Family, standing: &[Standing]) -> Kernel {
    let mut kernel = worker().kernel;
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
        to in select(vec![None, Some(PORT), Some(MGMT)]),
        placement in select(vec![Placement::Auto, Placement::Main, Placement::Table]),
        keep_only in any::<bool>(),
        plain in select(vec![None, Some(3), Some(50)]),
    ) {
        let mut kernel = kernel(family, &standing);
        // Our rules do not suppress a route that refuses: in its own table the pin is in vain.
        let refused = kernel.without_us().default_way(family) == Err(NoWay::Refused);
        let placement = if refused && placement == Placement::Table { Placement::Auto } else { placement };
        let policy = Policy { placement, ..Policy::default() };
        let wanted = to.map(|link| Wanted {
            hop: default_route(link, family).hops[0].clone(),
            attributes: Attributes::default(),
            keep_only,
            below: None,
            plain,
            taken: None,
        });
        let planned = plan(&kernel.snapshot(), &policy, family, wanted.as_ref(), &[]);
        for op in &planned.pin {
            let before = kernel.clone();
            prop_assert_eq!(kernel.carry_out(op), Outcome::Done, "{}", op);
            prop_assert_eq!(before.foreign(), kernel.foreign());
            let lost = before.default_way(family).is_ok() && kernel.default_way(family).is_err();
            // Where somebody meant that there is no way, there is none.
            let meant = matches!(planned.aside, Some(Aside::Refused | Aside::Multipath | Aside::Tunnel | Aside::Opaque));
            prop_assert!(!(lost && wanted.is_some() && !meant), "{} took the way", op);
            prop_assert!(!(keep_only && matches!(op, Op::AddRoute(_))), "{} is not to be made", op);
            if let Op::AddRoute(route) = op && route.table() == TABLE_MAIN {
                let mut foreign = kernel.foreign().0.into_iter();
                prop_assert!(foreign.all(|other| other.metric > route.metric()), "{} is not below", op);
            }
        }
        let again = plan(&kernel.snapshot(), &policy, family, wanted.as_ref(), &[]);
        prop_assert_eq!(&again.pin, &Vec::new());
        if let Some(wanted) = wanted {
            let leads = kernel.default_way(family) == Ok(wanted.hop);
            match planned.aside {
                None => prop_assert!(leads || keep_only),
                Some(Aside::NoRoom) => prop_assert!(leads || !kernel.has_ours() || keep_only),
                Some(_) => prop_assert!(!kernel.has_ours()),
            }
        }
        if to.is_none() {
            prop_assert!(!kernel.has_ours());
        }
    }
}
