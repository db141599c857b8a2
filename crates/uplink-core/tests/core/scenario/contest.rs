//! Another program that keeps undoing what we write.

use uplink_core::own::probe_table;
use uplink_core::policy::Placement;
use uplink_core::snapshot::{Family, LinkIndex};
use uplink_core::status::{Aside, Notice, PathRulesState, path_rules_text};
use uplink_core::undone::Undoing;

use crate::sim::bench::Bench;
use crate::sim::kernel::Errno;
use crate::sim::lookup::Packet;
use crate::sim::site::{MGMT, PORT, addresses, gateway, steered_worker, worker};
use crate::sim::{ms, secs};

#[test]
fn who_deletes_the_pin_over_and_over_is_yielded_to_for_a_while() {
    let mut bench = steered_worker();
    let before = bench.pin_writes();
    for _ in 0..100 {
        bench.pins_go();
        bench.run(ms(50));
    }
    let written = bench.pin_writes() - before;
    assert!(written <= 60, "{written} writes");
    let said = bench
        .notices
        .iter()
        .any(|(_, notice)| matches!(notice, Notice::Aside { aside: Some(Aside::Contest), .. }));
    assert!(said);
    bench.run(secs(70));
    bench.assert_way(PORT);
    assert_eq!(bench.family(Family::Ipv4).aside, None);
}

/// A script of many programs, of which most have ended when they are looked for.
#[test]
fn who_undoes_the_pin_is_named_with_the_setting_that_ends_it() {
    let mut bench = steered_worker();
    for turn in 0..30 {
        bench.pins_go();
        bench.undone_by(Family::Ipv4, (turn == 5).then_some("cleaner"));
        bench.run(ms(20));
    }
    let ipv4 = bench.family(Family::Ipv4);
    assert_eq!(ipv4.aside, Some(Aside::Contest));
    let by = ipv4.undone_by.expect("it was told").by;
    assert_eq!(by.to_string(), "process 4711 (cleaner)");
    let named = |notice: &Notice| {
        let text = notice.to_string();
        text.contains("process 4711 (cleaner) deletes our route; to end it, ") && text.contains("placement")
    };
    assert!(bench.notices.iter().any(|(_, notice)| named(notice)), "{:?}", bench.notices);
    // Of the other family the kernel told nothing.
    let ipv6 = bench.family(Family::Ipv6);
    assert_eq!((ipv6.aside, ipv6.undone_by), (Some(Aside::Contest), None));
    bench.run(secs(70));
    assert_eq!(bench.family(Family::Ipv4).undone_by, None);
}

/// Rules, nftables table, and routes of the uplinks' own tables.
#[test]
fn who_undoes_path_rules_is_named_with_the_setting_that_ends_it() {
    let routes_go: fn(&mut Bench) = |bench| {
        let ours = |table| table >= probe_table(LinkIndex(0));
        bench.kernel.routes.retain(|route| !ours(route.table));
        bench.kernel.changes += 1;
    };
    for (undo, how, name, said) in [
        (
            (|bench| bench.path_rules_go()) as fn(&mut Bench),
            Undoing::DeletesPathRule,
            "systemd-network",
            "deletes our path rules; to end it, set ManageForeignRoutes=no and ManageForeignRoutingPolicy",
        ),
        (
            |bench| bench.marks_go(true),
            Undoing::ChangesMarks,
            "nft",
            "nftables table; to end it, let it flush",
        ),
        (routes_go, Undoing::DeletesWay, "cleaner", "own tables, or rules to them; to end it, let it leave"),
    ] {
        let mut bench = worker();
        bench.kernel.tracked = true;
        bench.start();
        bench.run(secs(20));
        for _ in 0..30 {
            undo(&mut bench);
            bench.undone_so(Family::Ipv4, how, Some(name));
            bench.run(ms(20));
        }
        let by = format!("held back: another program keeps undoing them: process 4711 ({name}) ");
        let [ipv4, ipv6] = [Family::Ipv4, Family::Ipv6].map(|family| bench.family(family));
        assert_eq!((ipv4.path_rules, ipv6.path_rules), (PathRulesState::Contest, PathRulesState::Contest));
        let text = path_rules_text(ipv4.path_rules, ipv4.obstacle.as_ref());
        assert!(text.contains(&by) && text.contains(said), "{text}");
        assert_eq!((ipv6.obstacle, ipv4.undone_by), (None, None), "who undoes the pin is another matter");
        let told = |bench: &Bench, text: &str| {
            let told = |notice: &Notice| {
                matches!(notice, Notice::PathRules { family: Family::Ipv4, .. })
                    && notice.to_string().contains(text)
            };
            bench.notices.iter().filter(|(_, notice)| told(notice)).count()
        };
        assert_eq!(told(&bench, &by), 1, "{:?}", bench.notices);
        bench.run(secs(70));
        assert_eq!(bench.family(Family::Ipv4).path_rules, PathRulesState::Connections);
        assert_eq!(told(&bench, "by connection and by source address"), 1);
    }
}

#[test]
fn what_the_kernel_refuses_of_path_rules_is_no_contest() {
    let mut bench = worker();
    bench.kernel.refuse_rules = Some(Errno(95));
    bench.start();
    bench.run(secs(60));
    let ipv4 = bench.family(Family::Ipv4);
    assert_eq!((ipv4.path_rules, ipv4.obstacle), (PathRulesState::Rejected, None));
    bench.assert_way(PORT);
    bench.kernel.refuse_rules = None;
    bench.run(secs(70));
    assert_eq!(bench.family(Family::Ipv4).path_rules, PathRulesState::Sources);
}

#[test]
fn an_undone_pin_is_laid_again_within_a_moment() {
    let mut bench = steered_worker();
    for _ in 0..5 {
        bench.pins_go();
        let after = bench.until(secs(1), |bench| bench.leaves_by(PORT)).expect("it is laid again");
        assert!(after <= ms(1), "{after:?}");
        bench.run(secs(3));
    }
}

#[test]
fn a_contest_does_not_keep_anybody_on_a_dead_path() {
    let mut bench = steered_worker();
    for family in Family::ALL {
        bench.remetric(PORT, family, 20);
        bench.remetric(MGMT, family, 30);
    }
    bench.run(secs(1));
    bench.silence(PORT);
    bench.run(secs(3));
    bench.assert_way(MGMT);
    for _ in 0..100 {
        bench.pins_go();
        bench.run(ms(50));
    }
    bench.silence(MGMT);
    bench.revive(PORT);
    bench.run(secs(70));
    bench.assert_way(PORT);
}

/// `wg-quick down` deletes whatever looks up `main` without its default routes, over and over.
#[test]
fn no_rule_of_ours_leads_the_hosts_subnets_astray_for_long() {
    for tracked in [false, true] {
        let mut bench = worker();
        bench.policy.placement = Placement::Table;
        bench.kernel.tracked = tracked;
        bench.start();
        bench.run(secs(20));
        bench.assert_way(PORT);
        let own = addresses(MGMT, Family::Ipv4)[0].prefix.address;
        let leads = |bench: &Bench, from| {
            let packet = Packet { to: gateway(MGMT, Family::Ipv4), from, mark: 0, bound: None };
            bench.kernel.lookup(packet).map(|hop| hop.link)
        };
        for _ in 0..100 {
            bench.kernel.rules.retain(|rule| rule.suppress_prefix_length.is_none());
            bench.kernel.changes += 1;
            bench.run(ms(20));
            for from in [None, Some(own)] {
                assert_eq!(leads(&bench, from), Ok(MGMT), "{from:?}");
            }
        }
        assert_eq!(bench.family(Family::Ipv4).aside, Some(Aside::Contest));
        bench.run(secs(70));
        bench.assert_way(PORT);
        assert_eq!(bench.family(Family::Ipv4).aside, None);
    }
}
