//! Hops that the kernel refuses.

use uplink_core::own::{Op, TABLE_TRIAL, probe_table};
use uplink_core::policy::WithinTier;
use uplink_core::snapshot::{Attributes, Family, LinkIndex, Route, TABLE_MAIN};
use uplink_core::status::{Aside, Cause, Health, Notice, Reason};

use crate::sim::bench::Bench;
use crate::sim::kernel::Errno;
use crate::sim::site::{BOARD, DPU, MGMT, PORT, PORT_B, addresses, default_route, steered_worker, worker};
use crate::sim::world::Gateway;
use crate::sim::{checks, ms, secs};

const DPU_B: &str = "dpu-0000:05:00.0";

/// `linux/rtnetlink.h`.
const RTAX_MTU: u16 = 2;

/// A worker with two BlueField ports; nothing runs yet.
fn two_ports(within_tier: WithinTier) -> Bench {
    let mut bench = worker();
    bench.plug_dpu(PORT_B, "ens2f0np0", 5);
    bench.lease(PORT_B);
    bench.policy.within_tier = within_tier;
    bench
}

/// A worker with two BlueField ports that both are in the pin.
fn two_pinned_ports() -> Bench {
    let mut bench = two_ports(WithinTier::Multipath);
    bench.start();
    bench.run(secs(45));
    assert_members(&bench, &[PORT, PORT_B]);
    bench
}

/// Nothing but the events of a change that concerns nobody's way.
fn something_changes(bench: &mut Bench) {
    bench.kernel.links.get_mut(&MGMT).expect("it is there").rp_filter ^= 2;
    bench.kernel.changes += 1;
}

#[track_caller]
fn assert_members(bench: &Bench, links: &[LinkIndex]) {
    for family in Family::ALL {
        let mut ways: Vec<LinkIndex> =
            bench.kernel.default_ways(family).into_iter().map(|hop| hop.link).collect();
        ways.sort();
        assert_eq!(ways, links, "{}: {family}: {:#?}", bench.now, bench.status());
        assert_eq!(bench.family(family).aside, None, "{family}");
    }
}

fn is_up(bench: &Bench, uplink: &str) -> bool {
    Family::ALL.iter().all(|family| bench.path(uplink, *family).is_some_and(|path| path.health == Health::Up))
}

fn told(bench: &Bench, wanted: impl Fn(&Notice) -> bool) -> usize {
    bench.notices.iter().filter(|(_, notice)| wanted(notice)).count()
}

#[test]
fn a_multipath_pin_is_laid_without_it() {
    let mut bench = two_ports(WithinTier::Multipath);
    bench.kernel.unreachable.insert(PORT_B);
    bench.start();
    bench.run(secs(5));
    assert_members(&bench, &[PORT]);
    assert_eq!(bench.health(DPU), Health::Up);
    assert_eq!(bench.health(DPU_B), Health::Down(Cause::Refused));
    bench.run(secs(600));
    assert_members(&bench, &[PORT]);

    bench.kernel.unreachable.clear();
    something_changes(&mut bench);
    let taken = bench.until(secs(2), |bench| is_up(bench, DPU_B)).expect("it is taken");
    assert!(taken <= ms(1100), "{taken:?}");
    bench.run(secs(40));
    assert_members(&bench, &[PORT, PORT_B]);
}

#[test]
fn a_member_that_is_refused_while_the_pin_moves_keeps_no_other_from_it() {
    let mut bench = two_pinned_ports();
    bench.kernel.unreachable.insert(PORT);
    bench.run(secs(60));
    // It stands.
    assert_members(&bench, &[PORT, PORT_B]);
    bench.pins_go();
    bench.run(ms(10));
    assert_members(&bench, &[PORT_B]);
    assert_eq!(bench.family(Family::Ipv4).reason, Reason::MemberFell(Cause::Refused));
}

#[test]
fn the_next_best_path_that_works_is_pinned() {
    let mut bench = two_ports(WithinTier::First);
    bench.kernel.unreachable.insert(PORT);
    bench.start();
    bench.run(secs(5));
    assert_members(&bench, &[PORT_B]);
    for family in Family::ALL {
        assert_eq!(bench.family(family).elected, [DPU_B]);
    }
    assert_eq!(bench.health(DPU), Health::Down(Cause::Refused));
    bench.kernel.unreachable.insert(PORT_B);
    bench.pins_go();
    bench.run(ms(10));
    bench.assert_way(MGMT);
    for family in Family::ALL {
        assert_eq!(bench.family(family).elected, [BOARD]);
        assert_eq!(bench.family(family).aside, None);
    }
}

#[test]
fn with_nothing_better_what_stands_stays() {
    let mut bench = steered_worker();
    bench.silence(PORT);
    bench.run(secs(3));
    bench.assert_way(MGMT);
    bench.silence(MGMT);
    bench.kernel.unreachable.insert(PORT);
    bench.revive(PORT);
    bench.run(secs(120));
    bench.assert_way(MGMT);
    bench.kernel.unreachable.clear();
    something_changes(&mut bench);
    let after = bench.until(secs(65), |bench| bench.leaves_by(PORT)).expect("it is laid");
    assert!(after <= secs(63), "{after:?}");
}

#[test]
fn it_is_told_once_and_tried_seldom() {
    let mut bench = worker();
    bench.kernel.unreachable.insert(PORT);
    bench.start();
    bench.run(secs(600));
    bench.assert_way(MGMT);
    let writes = bench.writes();
    assert!(writes < 60, "{writes} writes");
    // A pin, and the way of path rules, in each family.
    assert_eq!(told(&bench, |notice| matches!(notice, Notice::Refused { .. })), 4);
    let falls = |notice: &Notice| matches!(notice, Notice::Health { now: Health::Down(Cause::Refused), .. });
    assert_eq!(told(&bench, falls), 2, "one in each family");
    assert_eq!(told(&bench, |notice| matches!(notice, Notice::Aside { .. })), 0);
    let of_trials = |notice: &Notice| match notice {
        Notice::Wrote { op: Op::AddRoute(route) | Op::DeleteRoute(route), .. } => {
            route.table() == TABLE_TRIAL
        }
        _ => false,
    };
    assert_eq!(told(&bench, of_trials), 0);
}

#[test]
fn it_is_tried_at_once_when_something_changes_and_after_a_while_anyway() {
    for changes in [true, false] {
        let mut bench = worker();
        bench.kernel.unreachable.insert(PORT);
        bench.start();
        bench.run(secs(30));
        assert_eq!(bench.health(DPU), Health::Down(Cause::Refused));
        bench.kernel.unreachable.clear();
        if changes {
            let port = addresses(PORT, Family::Ipv4)[0].clone();
            bench.kernel.add_address(uplink_core::snapshot::Address {
                prefix: uplink_core::snapshot::Prefix { address: [10, 0, 120, 12].into(), ..port.prefix },
                ..port
            });
        }
        let most = if changes { ms(600) } else { secs(61) };
        let well = bench.until(most, |bench| is_up(bench, DPU));
        assert!(well.is_some(), "{changes}: {:#?}", bench.status());
        bench.run(secs(40));
        bench.assert_way(PORT);
    }
}

/// What cannot be told by the kernel's word alone: the same number is said of an attribute, or of us.
#[test]
fn what_is_refused_for_another_reason_is_no_hops_fault() {
    for errno in [1, 12, 22, 28, 95, 101, 105] {
        let mut bench = two_ports(WithinTier::Multipath);
        bench.kernel.refuse_tables.insert(TABLE_MAIN, Errno(errno));
        bench.start();
        bench.run(secs(60));
        for family in Family::ALL {
            assert_eq!(bench.family(family).aside, Some(Aside::Rejected), "{errno}");
            assert_eq!(bench.family(family).elected, [DPU, DPU_B], "{errno}");
        }
        assert_eq!(bench.health(DPU), Health::Up, "{errno}");
        assert!(bench.writes() < 160, "{errno}: {} writes", bench.writes());
    }
}

/// Nor what is refused for all: that we may write at all is not asked of a hop.
#[test]
fn who_may_not_write_at_all_blames_no_hop() {
    let mut bench = worker();
    for table in [TABLE_MAIN, TABLE_TRIAL] {
        bench.kernel.refuse_tables.insert(table, Errno(1));
    }
    bench.start();
    bench.run(secs(60));
    assert_eq!(bench.health(DPU), Health::Up);
    assert_eq!(bench.family(Family::Ipv4).aside, Some(Aside::Rejected));
}

#[test]
fn a_path_that_others_routes_lead_to_needs_no_route_of_ours() {
    let mut bench = worker();
    bench.start();
    bench.run(secs(5));
    bench.kernel.unreachable.insert(PORT);
    for family in Family::ALL {
        bench.remetric(PORT, family, 20);
    }
    bench.run(secs(1));
    bench.pins_go();
    bench.run(secs(60));
    bench.assert_way(PORT);
    bench.assert_never_moved();
    checks::table_agrees(&bench);
}

/// The gateway that the pin still leads by, while the next one never answered, is no path's any more.
#[test]
fn a_refused_way_by_the_gateway_before_is_tried_seldom() {
    for rival in [true, false] {
        let mut bench = steered_worker();
        bench.kernel.unreachable.insert(PORT);
        if !rival {
            bench.silence(MGMT);
        }
        let before = bench.writes();
        bench.regateway(PORT, Family::Ipv4, Gateway::silent());
        bench.remetric(MGMT, Family::Ipv4, 20);
        bench.run(secs(20));
        let writes = bench.writes() - before;
        assert!(writes < 40, "{rival}: {writes} writes");
        if rival {
            assert_eq!(bench.way(Family::Ipv4), Some(MGMT));
            assert_eq!(bench.family(Family::Ipv4).elected, [BOARD]);
        }
    }
}

/// The kernel goes on using a member that fell until the pin is laid anew, and takes none by the other: then
/// there is something better than half the traffic.
#[test]
fn a_member_that_fell_is_left_although_the_other_is_refused() {
    let mut bench = two_pinned_ports();
    bench.kernel.unreachable.insert(PORT);
    bench.silence(PORT_B);
    bench.run(secs(5));
    bench.assert_way(MGMT);
    for family in Family::ALL {
        assert_eq!(bench.family(family).elected, [BOARD]);
    }
}

/// What stands of path rules works, although it could not be laid anew.
#[test]
fn path_rules_of_a_pinned_path_stay() {
    let mut bench = worker();
    bench.kernel.tracked = true;
    bench.start();
    bench.run(secs(30));
    bench.assert_way(PORT);
    let standing = |bench: &Bench| {
        let table = probe_table(PORT);
        let rules = bench.kernel.rules.iter().filter(|rule| rule.table == Some(table)).count();
        let routes = bench.kernel.routes.iter().filter(|route| route.table == table).count();
        let marked = bench.kernel.tables.iter().filter(|own| own.of(PORT).is_some()).count();
        (rules, routes, marked)
    };
    let before = standing(&bench);
    assert!(before.0 >= 4 && before.1 >= 2 && before.2 == 2, "{before:?}");
    bench.kernel.unreachable.insert(PORT);
    for family in Family::ALL {
        let usual = default_route(PORT, family);
        let attributes = Attributes { metrics: [(RTAX_MTU, 1400)].into(), ..usual.attributes.clone() };
        bench.kernel.replace_route(Route { attributes, ..usual }).expect("it is replaced");
    }
    bench.run(secs(90));
    bench.assert_way(PORT);
    assert_eq!(standing(&bench), before);
}

#[test]
fn what_is_left_of_a_trial_goes() {
    let mut bench = worker();
    bench.kernel.unreachable.insert(PORT);
    bench.start();
    bench.run(secs(3));
    bench.kernel.unreachable.clear();
    something_changes(&mut bench);
    let trial = |(_, op, _): &(_, Op, _)| matches!(op, Op::AddRoute(route) if route.table() == TABLE_TRIAL);
    let before = bench.operations.iter().filter(|op| trial(op)).count();
    bench.kill_after = Some(1);
    bench.run(secs(2));
    assert!(bench.operations.iter().filter(|op| trial(op)).count() > before, "{:#?}", bench.operations);
    assert!(bench.kernel.routes.iter().any(|route| route.table == TABLE_TRIAL));
    bench.start();
    bench.run(secs(2));
    assert!(bench.kernel.routes.iter().all(|route| route.table != TABLE_TRIAL));
    bench.stop();
    assert!(!bench.kernel.has_ours());
}
