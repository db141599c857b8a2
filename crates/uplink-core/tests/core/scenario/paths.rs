//! Path rules: what came in through an uplink is answered through it.

use std::net::IpAddr;

use uplink_core::event::Outcome;
use uplink_core::marks::{Check, Marked, OwnMarks, as_without_us};
use uplink_core::own::{Op, OwnRule, RuleForm, probe_table};
use uplink_core::policy::{PathRules, Policy};
use uplink_core::snapshot::{Address, Attributes, Family, LinkIndex, Mark, Prefix, Route, Rule};
use uplink_core::status::{Health, Notice, PathRulesState, path_rules_text};

use crate::sim::bench::Bench;
use crate::sim::kernel::{EEXIST, Errno};
use crate::sim::lookup::Packet;
use crate::sim::manager::by_mark;
use crate::sim::site::{
    BOARD, DPU, MGMT, PORT, addresses, default_route, gateway, second_gateway, steered_worker, worker,
};
use crate::sim::world::Gateway;
use crate::sim::{ms, secs};

const FAR: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 7));

/// A worker on which connections are tracked: the port is elected.
fn tracked_worker() -> Bench {
    let mut bench = worker();
    bench.kernel.tracked = true;
    bench.start();
    bench.run(secs(30));
    bench
}

/// Connections begin to be tracked, and this is said to our nftables table.
fn tracked_worker_refusing(errno: Errno) -> Bench {
    let mut bench = steered_worker();
    assert_eq!(sources(&bench), 8);
    bench.kernel.refuse_marks = Some(errno);
    bench.kernel.tracked = true;
    bench.kernel.changes += 1;
    bench.run(secs(1));
    bench
}

fn state(bench: &Bench) -> PathRulesState {
    bench.family(Family::Ipv4).path_rules
}

fn table(bench: &Bench, family: Family) -> Option<&OwnMarks> {
    bench.kernel.tables.iter().find(|table| table.family == family)
}

fn marked(bench: &Bench, link: LinkIndex) -> Option<Marked> {
    table(bench, Family::Ipv4)?.of(link).copied()
}

fn own_address(link: LinkIndex) -> IpAddr {
    addresses(link, Family::Ipv4)[0].prefix.address
}

/// The interface that a packet leaves by.
fn way(bench: &Bench, from: Option<IpAddr>, mark: u32) -> Option<LinkIndex> {
    let packet = Packet { to: FAR, from, mark, bound: None };
    bench.kernel.lookup(packet).ok().map(|hop| hop.link)
}

/// How many of our rules have such a form.
fn rules(bench: &Bench, is_it: impl Fn(RuleForm) -> bool) -> usize {
    bench.kernel.rules.iter().filter_map(OwnRule::claim).filter(|rule| is_it(rule.form())).count()
}

fn sources(bench: &Bench) -> usize {
    rules(bench, |form| matches!(form, RuleForm::Source { .. }))
}

fn connections(bench: &Bench) -> usize {
    rules(bench, |form| matches!(form, RuleForm::Connection { .. }))
}

/// What was refused and is not wanted any more is no reason to say so.
#[test]
fn a_refusal_is_told_as_long_as_what_is_refused_is_wanted() {
    let mut bench = tracked_worker();
    assert_eq!(state(&bench), PathRulesState::Connections);
    bench.kernel.refuse_tables.insert(probe_table(MGMT), Errno(22));
    let usual = default_route(MGMT, Family::Ipv4);
    let attributes = Attributes { metrics: [(2, 1400)].into(), ..usual.attributes.clone() };
    bench.kernel.replace_route(Route { attributes, ..usual.clone() }).expect("it is replaced");
    bench.run(secs(5));
    assert_eq!(state(&bench), PathRulesState::Rejected);
    bench.kernel.replace_route(usual).expect("it is replaced");
    bench.run(secs(65));
    assert_eq!(state(&bench), PathRulesState::Connections);
}

#[test]
fn where_nobody_tracks_connections_addresses_tell_enough() {
    let bench = steered_worker();
    assert_eq!(state(&bench), PathRulesState::Sources);
    for link in [PORT, MGMT] {
        assert_eq!(way(&bench, Some(own_address(link)), 0), Some(link));
    }
    // Two rules for each of two addresses in two families; no link-local ones.
    assert_eq!((sources(&bench), connections(&bench)), (8, 0));
    assert_eq!(bench.kernel.tables, []);
    bench.assert_way(PORT);
}

#[test]
fn tracked_connections_are_marked_by_the_uplink_that_they_came_in_by() {
    let bench = tracked_worker();
    assert_eq!(state(&bench), PathRulesState::Connections);
    for link in [PORT, MGMT] {
        let Marked { mark, check, .. } = marked(&bench, link).expect("it is marked");
        assert_eq!(check, Check::No);
        assert_eq!(way(&bench, None, mark.value), Some(link));
        // The connection knows better than the address of the service that answers.
        assert_eq!(way(&bench, Some(own_address(PORT)), mark.value), Some(link));
        // Bits of others mean nothing to us.
        assert_eq!(way(&bench, None, mark.value | 0x4000), Some(link));
    }
    assert_eq!(way(&bench, None, 0x4000), Some(PORT));
    assert_eq!((sources(&bench), connections(&bench)), (8, 8));
    bench.assert_way(PORT);
}

#[test]
fn the_hosts_own_subnets_are_reached_as_ever() {
    let bench = tracked_worker();
    let mark = marked(&bench, MGMT).expect("it is marked").mark.value;
    let neighbour = IpAddr::from([10, 0, own_net(PORT), 77]);
    let packet = Packet { to: neighbour, from: None, mark, bound: None };
    assert_eq!(bench.kernel.lookup(packet).map(|hop| (hop.link, hop.gateway)), Ok((PORT, None)));
}

fn own_net(link: LinkIndex) -> u8 {
    match own_address(link) {
        IpAddr::V4(address) => address.octets()[2],
        IpAddr::V6(_) => 0,
    }
}

#[test]
fn one_path_needs_none() {
    let mut bench = worker();
    bench.kernel.tracked = true;
    bench.kernel.remove_link(PORT);
    bench.kernel.dpu_ports.clear();
    bench.start();
    bench.run(secs(60));
    assert_eq!(state(&bench), PathRulesState::Needless);
    assert_eq!(bench.writes(), 0);
}

#[test]
fn they_begin_when_somebody_begins_to_track() {
    let mut bench = steered_worker();
    bench.kernel.tracked = true;
    bench.kernel.changes += 1;
    bench.run(secs(1));
    assert_eq!(state(&bench), PathRulesState::Connections);
    assert_eq!(connections(&bench), 8);
}

#[test]
fn a_silent_path_keeps_its_connections_but_nothing_that_began_here() {
    let mut bench = tracked_worker();
    let mark = marked(&bench, MGMT).expect("it is marked").mark.value;
    bench.silence(MGMT);
    bench.run(secs(5));
    assert_eq!(way(&bench, None, mark), Some(MGMT));
    assert_eq!(way(&bench, Some(own_address(MGMT)), 0), Some(PORT));
    bench.revive(MGMT);
    bench.run(secs(60));
    assert_eq!(way(&bench, Some(own_address(MGMT)), 0), Some(MGMT));
}

#[test]
fn where_everybody_is_silent_nothing_changes() {
    let mut bench = tracked_worker();
    let writes = bench.writes();
    bench.silence(PORT);
    bench.silence(MGMT);
    bench.run(secs(60));
    assert_eq!(
        bench.path(DPU, Family::Ipv4).map(|path| path.health),
        Some(Health::Down(uplink_core::status::Cause::Shared))
    );
    assert_eq!(bench.writes(), writes);
}

#[test]
fn a_path_without_a_way_leaves_its_connections_to_the_others() {
    let mut bench = tracked_worker();
    let mark = marked(&bench, PORT).expect("it is marked").mark.value;
    bench.kernel.set_carrier(PORT, false);
    bench.run(secs(1));
    assert_eq!(way(&bench, None, mark), Some(MGMT));
    assert_eq!(way(&bench, Some(own_address(PORT)), 0), Some(MGMT));
    let kept = marked(&bench, MGMT);
    bench.kernel.set_carrier(PORT, true);
    bench.run(secs(60));
    assert_eq!(way(&bench, None, mark), Some(PORT));
    assert_eq!(marked(&bench, MGMT), kept, "who has a mark keeps it");
}

#[test]
fn a_renewed_default_route_takes_no_connection_from_its_uplink() {
    let mut bench = tracked_worker();
    let mark = marked(&bench, MGMT).expect("it is marked").mark.value;
    bench.defaults_go(MGMT);
    bench.run(secs(3));
    assert_eq!(way(&bench, None, mark), Some(MGMT));
    // It is judged by nobody: nothing that begins here is kept on it.
    assert_eq!(way(&bench, Some(own_address(MGMT)), 0), Some(PORT));
    bench.addresses_go(MGMT);
    bench.run(secs(1));
    assert_eq!(marked(&bench, MGMT), None);
    bench.lease(MGMT);
    bench.run(secs(5));
    assert_eq!(way(&bench, Some(own_address(MGMT)), 0), Some(MGMT));
}

/// The pin waits for an answer, too: nothing moves to what is less proven.
#[test]
fn a_new_gateway_is_followed_when_it_has_answered() {
    let mut bench = tracked_worker();
    let mark = marked(&bench, MGMT).expect("it is marked").mark.value;
    let led = |bench: &Bench| {
        let packet = Packet { to: FAR, from: Some(own_address(MGMT)), mark, bound: None };
        bench.kernel.lookup(packet).ok().and_then(|hop| hop.gateway)
    };
    let (old, new) = (gateway(MGMT, Family::Ipv4), second_gateway(MGMT, Family::Ipv4));
    let mut route = default_route(MGMT, Family::Ipv4);
    route.hops[0].gateway = Some(new);
    bench.kernel.replace_route(route).expect("it is laid");
    bench.run(ms(900));
    assert_eq!(bench.path(BOARD, Family::Ipv4).and_then(|path| path.gateway), Some(new));
    assert_eq!(led(&bench), Some(old));
    bench.world.gateways.insert((MGMT, new), Gateway::well());
    bench.until(secs(3), |bench| led(bench) == Some(new)).expect("it is followed");
}

/// Without a mark of its own, what comes in by the elected uplink and is answered at another's address
/// would be led by that.
#[test]
fn however_few_marks_there_are_the_elected_uplink_has_one() {
    let mut bench = tracked_worker();
    let third = LinkIndex(20);
    bench.plug(third, "third");
    bench.lease(third);
    bench.configure(Policy { path_rules: PathRules::On(0x18), ..bench.policy.clone() });
    bench.run(secs(60));
    let marked = |bench: &Bench| [PORT, MGMT, third].map(|link| marked(bench, link).is_some());
    assert_eq!(marked(&bench), [true, true, false]);
    bench.silence(PORT);
    bench.silence(MGMT);
    bench.until(secs(10), |bench| bench.leaves_by(third)).expect("it is the only one");
    bench.run(secs(1));
    assert_eq!(marked(&bench).iter().filter(|marked| **marked).count(), 2);
    assert!(marked(&bench)[2]);
    bench.revive(PORT);
    bench.run(secs(90));
    bench.assert_way(PORT);
    assert!(marked(&bench)[0]);
}

/// The answer of a listener at another uplink's address, in a connection that others mark: it has all bits.
#[test]
fn what_has_all_bits_goes_as_without_us() {
    let mut bench = tracked_worker();
    let bits = marked(&bench, MGMT).expect("it is marked").mark.mask;
    assert_eq!(way(&bench, Some(own_address(MGMT)), bits), Some(PORT));
    assert_eq!(way(&bench, Some(own_address(PORT)), bits), Some(PORT));
    bench.silence(PORT);
    bench.run(secs(5));
    assert_eq!(way(&bench, Some(own_address(PORT)), bits), Some(MGMT));
}

#[test]
fn what_goes_on_elsewhere_than_our_rule_is_not_ours() {
    let bench = tracked_worker();
    let ours = bench.kernel.rules.iter().find(|rule| rule.goto.is_some()).expect("it is laid").clone();
    assert_eq!(OwnRule::claim(&ours).and_then(|rule| rule.goto()), ours.goto);
    let others = [
        Rule { goto: Some(32766), ..ours.clone() },
        Rule { mark: None, ..ours.clone() },
        Rule { from: Some(Prefix::host(own_address(MGMT))), ..ours.clone() },
        Rule { priority: 32100, ..ours.clone() },
        Rule { protocol: 4, ..ours },
    ];
    assert!(others.iter().all(|rule| OwnRule::claim(rule).is_none()));
}

/// An older process gave it to an uplink, which gets another.
#[test]
fn no_uplink_keeps_the_mark_that_has_all_bits() {
    let mut bench = tracked_worker();
    let all = as_without_us(marked(&bench, MGMT).expect("it is marked").mark.mask);
    let uplinks = bench.kernel.tables.iter_mut().flat_map(|table| &mut table.uplinks);
    uplinks.filter(|marked| marked.link == MGMT).for_each(|marked| marked.mark = all);
    bench.kernel.changes += 1;
    bench.run(secs(5));
    assert_ne!(marked(&bench, MGMT).map(|marked| marked.mark), Some(all));
    assert_eq!(way(&bench, Some(own_address(MGMT)), all.value), Some(PORT));
}

#[test]
fn however_many_uplinks_there_are_the_elected_one_has_a_mark() {
    let mut bench = tracked_worker();
    let more: Vec<LinkIndex> = (20..30).map(LinkIndex).collect();
    for link in &more {
        bench.plug(*link, &format!("more{}", link.0));
        bench.lease(*link);
    }
    bench.run(secs(60));
    let last = LinkIndex(29);
    assert!(marked(&bench, last).is_none());
    let kept = marked(&bench, LinkIndex(21));
    assert!(kept.is_some());
    for link in [PORT, MGMT].iter().chain(&more).filter(|link| **link != last) {
        bench.silence(*link);
    }
    bench.until(secs(10), |bench| bench.leaves_by(last)).expect("it is the only one");
    bench.run(secs(1));
    assert!(marked(&bench, last).is_some());
    assert_eq!(marked(&bench, LinkIndex(21)), kept, "who has a mark keeps it");
}

/// A driver that starts again: connections of before keep their mark, and their uplink.
#[test]
fn an_interface_that_is_made_anew_has_the_mark_that_it_had() {
    let mut bench = tracked_worker();
    let mark = marked(&bench, MGMT).expect("it is marked").mark;
    let again = LinkIndex(13);
    bench.unplug(MGMT);
    bench.run(secs(2));
    assert_eq!((marked(&bench, MGMT), way(&bench, None, mark.value)), (None, Some(PORT)));
    bench.plug(again, BOARD);
    bench.lease(again);
    bench.run(secs(10));
    assert_eq!(marked(&bench, again).map(|marked| marked.mark), Some(mark));
    assert_eq!(way(&bench, None, mark.value), Some(again));
    let old = |rule: &OwnRule| rule.table() == Some(probe_table(MGMT));
    assert!(!bench.kernel.rules.iter().filter_map(OwnRule::claim).any(|rule| old(&rule)));
    assert!(!bench.kernel.routes.iter().any(|route| route.table == probe_table(MGMT)));
}

/// It leads through nothing while it is on both: whoever moves it decides a moment later.
#[test]
fn an_address_that_moves_between_uplinks_is_followed() {
    let mut bench = tracked_worker();
    let own = addresses(MGMT, Family::Ipv4)[0].clone();
    let wanders = IpAddr::from([10, 0, own_net(MGMT), 20]);
    let on = |link| Address { link, prefix: Prefix { address: wanders, length: 24 }, ..own.clone() };
    let leads = |bench: &mut Bench, link| {
        let led = |bench: &Bench| way(bench, Some(wanders), 0) == Some(link);
        bench.until(ms(10), led).expect("it is followed");
        bench.run(ms(200));
        assert!(led(bench));
    };
    bench.kernel.add_address(on(MGMT));
    leads(&mut bench, MGMT);
    bench.kernel.add_address(on(PORT));
    leads(&mut bench, PORT);
    bench.kernel.remove_address(&on(MGMT));
    leads(&mut bench, PORT);
    assert_eq!(sources(&bench), 10);
    bench.kernel.add_address(on(MGMT));
    bench.kernel.remove_address(&on(PORT));
    leads(&mut bench, MGMT);
    assert_eq!(sources(&bench), 10);
}

#[test]
fn each_family_has_them_for_the_paths_that_it_has() {
    let mut bench = tracked_worker();
    bench
        .forget_routes(|route| route.family == Family::Ipv6 && route.hops.iter().any(|hop| hop.link == MGMT));
    for address in addresses(MGMT, Family::Ipv6) {
        bench.kernel.remove_address(&address);
    }
    bench.run(secs(2));
    assert_eq!((sources(&bench), connections(&bench)), (4, 4));
    assert_eq!(bench.family(Family::Ipv6).path_rules, PathRulesState::Needless);
    assert!(table(&bench, Family::Ipv6).is_none() && table(&bench, Family::Ipv4).is_some());
    assert!(
        !bench
            .kernel
            .routes
            .iter()
            .any(|route| { route.family == Family::Ipv6 && route.table >= probe_table(LinkIndex(0)) })
    );
    bench.lease(MGMT);
    bench.run(secs(10));
    assert_eq!((sources(&bench), connections(&bench)), (8, 8));
}

#[test]
fn a_restart_writes_nothing() {
    let mut bench = tracked_worker();
    let writes = bench.writes();
    bench.restart();
    bench.run(secs(60));
    assert_eq!(bench.writes(), writes);
}

#[test]
fn a_stop_leaves_nothing_and_puts_the_sysctl_back() {
    let mut bench = worker();
    bench.kernel.tracked = true;
    bench.kernel.rp_filter = 1;
    let operators = bench.kernel.links.get_mut(&MGMT).expect("it is there");
    operators.src_valid_mark = true;
    bench.start();
    bench.run(secs(30));
    assert_eq!(marked(&bench, PORT).map(|marked| marked.check), Some(Check::MarkedByUs));
    assert_eq!(marked(&bench, MGMT).map(|marked| marked.check), Some(Check::Marked));
    assert!(bench.kernel.links[&PORT].src_valid_mark);
    // Who killed us lets the next process know.
    bench.restart();
    bench.run(secs(30));
    bench.stop();
    assert!(!bench.kernel.has_ours(), "{:#?}", bench.kernel);
    assert!(!bench.kernel.links[&PORT].src_valid_mark);
    assert!(bench.kernel.links[&MGMT].src_valid_mark, "that was the operator's");
}

#[test]
fn who_flushes_nftables_does_not_make_us_forget_the_sysctl() {
    let mut bench = worker();
    (bench.kernel.tracked, bench.kernel.rp_filter) = (true, 1);
    bench.start();
    bench.run(secs(30));
    bench.kernel.tables.clear();
    bench.kernel.changes += 1;
    bench.run(secs(1));
    assert_eq!(marked(&bench, PORT).map(|marked| marked.check), Some(Check::MarkedByUs));
    bench.stop();
    assert!(bench.kernel.links.values().all(|link| !link.src_valid_mark));
}

#[test]
fn where_others_use_our_bits_nothing_is_marked() {
    let mut bench = tracked_worker();
    let others = |value, mask| by_mark(Family::Ipv4, Mark { value, mask });
    // Cilium's, Tailscale's, and one of a person.
    for (rule, collides) in [
        (others(0x200, 0xf00), false),
        (others(0x80000, 0xff_0000), false),
        (others(1, u32::MAX), false),
        (others(0x10, u32::MAX), true),
    ] {
        bench.kernel.rules.insert(1, rule.clone());
        bench.kernel.changes += 1;
        bench.run(secs(1));
        let expected = if collides { PathRulesState::ForeignMarks } else { PathRulesState::Connections };
        assert_eq!(state(&bench), expected, "{rule:?}");
        let text = path_rules_text(expected, bench.family(Family::Ipv4).obstacle.as_ref());
        let named =
            "none: rule 9 of others (fwmark 0x10/0xffffffff) looks at bits of our marks; choose others";
        assert_eq!(text.contains(named), collides, "{text}");
        let families = bench.kernel.tables.iter().map(|table| table.family).collect::<Vec<_>>();
        assert_eq!(families.contains(&Family::Ipv4), !collides, "{rule:?}");
        assert!(families.contains(&Family::Ipv6));
        bench.kernel.rules.retain(|other| *other != rule);
        bench.kernel.changes += 1;
        bench.run(secs(1));
        assert_eq!(state(&bench), PathRulesState::Connections);
    }
    let told = bench.notices.iter().filter(|(_, notice)| matches!(notice, Notice::PathRules { .. }));
    assert_eq!(told.count(), 2, "when it begins, and when it is over");
}

#[test]
fn a_strict_check_is_not_made_to_look_at_marks_of_others() {
    let mut bench = tracked_worker();
    // A transparent proxy's: with the mark, its packets would come from nowhere.
    bench.kernel.rules.insert(1, by_mark(Family::Ipv4, Mark { value: 0x200, mask: 0xf00 }));
    bench.kernel.rp_filter = 1;
    bench.kernel.changes += 1;
    bench.run(secs(1));
    assert_eq!(state(&bench), PathRulesState::ForeignMarks);
    let text = path_rules_text(state(&bench), bench.family(Family::Ipv4).obstacle.as_ref());
    assert!(
        text.contains("rule 9 of others (fwmark 0x200/0xf00)") && text.contains("rp_filter = 2"),
        "{text}"
    );
    assert_eq!((sources(&bench), connections(&bench)), (4, 4), "IPv6 has no such check");
    assert!(bench.kernel.links.values().all(|link| !link.src_valid_mark));
    // A loose one needs nothing.
    bench.kernel.rp_filter = 2;
    bench.kernel.changes += 1;
    bench.run(secs(1));
    assert_eq!(state(&bench), PathRulesState::Connections);
    // And one that looks at marks already is as it was.
    bench.kernel.rp_filter = 1;
    bench.kernel.links.values_mut().for_each(|link| link.src_valid_mark = true);
    bench.kernel.changes += 1;
    bench.run(secs(1));
    assert_eq!(state(&bench), PathRulesState::Connections);
}

#[test]
fn the_sysctl_is_set_only_while_a_strict_check_demands_it() {
    let mut bench = tracked_worker();
    for (of_all, of_port, needed) in [(1, 0, true), (2, 1, false), (0, 1, true), (0, 0, false)] {
        bench.kernel.rp_filter = of_all;
        bench.kernel.links.get_mut(&PORT).expect("it is there").rp_filter = of_port;
        bench.kernel.changes += 1;
        bench.run(secs(1));
        assert_eq!(bench.kernel.links[&PORT].src_valid_mark, needed, "{of_all} {of_port}");
        let shown = bench.path(DPU, Family::Ipv4).and_then(|path| path.path_rules);
        assert_eq!(shown.map(|rules| rules.src_valid_mark), Some(needed));
    }
}

#[test]
fn without_marks_there_are_no_source_rules_where_connections_are_tracked() {
    let mut bench = tracked_worker_refusing(Errno(95));
    assert_eq!(state(&bench), PathRulesState::Refused);
    assert_eq!((sources(&bench), connections(&bench)), (0, 0));
    let writes = bench.writes();
    bench.run(secs(600));
    assert!(bench.writes() - writes < 60, "{} writes", bench.writes() - writes);
    let told = bench.notices.iter().filter(|(_, notice)| matches!(notice, Notice::Refused { .. }));
    assert_eq!(told.count(), 2, "one in each family");
    bench.assert_way(PORT);
    // A module was loaded.
    bench.kernel.refuse_marks = None;
    bench.run(secs(70));
    assert_eq!(state(&bench), PathRulesState::Connections);
    assert_eq!((sources(&bench), connections(&bench)), (8, 8));
}

#[test]
fn a_table_of_the_same_name_is_told_from_a_kernel_without() {
    let mut bench = tracked_worker_refusing(EEXIST);
    assert_eq!(state(&bench), PathRulesState::Taken);
    assert_eq!((sources(&bench), connections(&bench)), (0, 0));
    bench.kernel.refuse_marks = None;
    bench.run(secs(70));
    assert_eq!(state(&bench), PathRulesState::Connections);
}

#[test]
fn who_deletes_them_over_and_over_does_not_keep_the_pin() {
    let mut bench = tracked_worker();
    for _ in 0..200 {
        bench.kernel.tables.clear();
        bench.kernel.rules.retain(|rule| rule.protocol != uplink_core::snapshot::protocol::UPLINKD);
        bench.kernel.changes += 1;
        bench.run(ms(20));
    }
    assert_eq!(state(&bench), PathRulesState::Contest);
    bench.pins_go();
    let after = bench.until(secs(1), |bench| bench.leaves_by(PORT)).expect("it is laid again");
    assert!(after <= ms(1), "{after:?}");
    bench.run(secs(70));
    assert_eq!(state(&bench), PathRulesState::Connections);
    assert_eq!((sources(&bench), connections(&bench)), (8, 8));
}

/// Source rules alone would send the answers of translated connections astray, which go well without us.
#[test]
fn what_makes_source_rules_safe_is_not_undone_without_them() {
    let flush: fn(&mut Bench) = |bench| bench.marks_go(true);
    let delete_connections: fn(&mut Bench) = |bench| {
        let connection = |rule: &Rule| {
            OwnRule::claim(rule).is_some_and(|rule| matches!(rule.form(), RuleForm::Connection { .. }))
        };
        bench.kernel.rules.retain(|rule| !connection(rule));
        bench.kernel.changes += 1;
    };
    for undo in [flush, delete_connections] {
        let mut bench = tracked_worker();
        let writes = bench.writes();
        for _ in 0..200 {
            undo(&mut bench);
            bench.run(ms(20));
        }
        assert_eq!(state(&bench), PathRulesState::Contest);
        assert_eq!((sources(&bench), connections(&bench)), (0, 0));
        assert!(bench.writes() - writes < 1500, "{} writes", bench.writes() - writes);
        bench.run(secs(70));
        assert_eq!(state(&bench), PathRulesState::Connections);
        assert_eq!((sources(&bench), connections(&bench)), (8, 8));
    }
}

#[test]
fn who_flushes_nftables_over_and_over_does_not_keep_the_sysctl_set() {
    let mut bench = worker();
    (bench.kernel.tracked, bench.kernel.rp_filter) = (true, 1);
    bench.start();
    bench.run(secs(30));
    assert!(bench.kernel.links[&PORT].src_valid_mark);
    // Once, and the check is not strict any more.
    bench.marks_go(true);
    bench.kernel.rp_filter = 2;
    bench.run(secs(1));
    assert!(!bench.kernel.links[&PORT].src_valid_mark);
    bench.kernel.rp_filter = 1;
    bench.kernel.changes += 1;
    bench.run(secs(1));
    assert!(bench.kernel.links[&PORT].src_valid_mark);
    for _ in 0..200 {
        bench.marks_go(true);
        bench.run(ms(20));
    }
    assert_eq!(state(&bench), PathRulesState::Contest);
    bench.stop();
    assert!(!bench.kernel.has_ours());
    assert!(bench.kernel.links.values().all(|link| !link.src_valid_mark));
}

#[test]
fn addresses_that_change_often_are_no_contest() {
    let mut bench = steered_worker();
    let own = addresses(MGMT, Family::Ipv4)[0].clone();
    let prefix = Prefix { address: IpAddr::from([10, 0, own_net(MGMT), 20]), length: 24 };
    let another = Address { prefix, ..own };
    for _ in 0..20 {
        bench.kernel.add_address(another.clone());
        bench.until(ms(10), |bench| sources(bench) == 10).expect("it has rules");
        bench.run(ms(300));
        bench.kernel.remove_address(&another);
        bench.until(ms(10), |bench| sources(bench) == 8).expect("they are gone");
        bench.run(ms(300));
        assert_eq!(state(&bench), PathRulesState::Sources);
    }
}

/// Somebody wants what the host sends by the port to have management's address: it does not go by
/// management for that.
#[test]
fn an_address_that_the_default_route_of_another_uplink_prefers_does_not_lead() {
    let mut bench = worker();
    let mut route = default_route(PORT, Family::Ipv4);
    route.attributes.source = Some(own_address(MGMT));
    bench.kernel.replace_route(route).expect("it is laid");
    bench.start();
    bench.run(secs(20));
    bench.assert_way(PORT);
    assert_eq!(way(&bench, Some(own_address(MGMT)), 0), Some(PORT));
    assert_eq!(way(&bench, Some(own_address(PORT)), 0), Some(PORT));
    assert_eq!(state(&bench), PathRulesState::Sources);
}

#[test]
fn a_table_that_somebody_changed_is_laid_anew() {
    let mut bench = tracked_worker();
    bench.kernel.tables[0].intact = false;
    bench.kernel.changes += 1;
    bench.until(ms(10), |bench| bench.kernel.tables.iter().all(|table| table.intact)).expect("it is mended");
}

#[test]
fn addresses_that_come_and_go_have_no_rules() {
    let mut bench = steered_worker();
    let own = addresses(MGMT, Family::Ipv4)[0].clone();
    let at = |last, length| Prefix { address: IpAddr::from([10, 0, own_net(MGMT), last]), length };
    for address in [
        Address { prefix: at(20, 32), ..own.clone() },
        Address { prefix: at(21, 24), unpreferred: true, ..own.clone() },
        Address { prefix: at(22, 24), usable: false, ..own.clone() },
        // Here and there: it wanders.
        Address { prefix: at(23, 24), ..own.clone() },
        Address { prefix: at(23, 24), link: PORT, ..own.clone() },
    ] {
        bench.kernel.add_address(address);
    }
    bench.run(secs(1));
    assert_eq!(sources(&bench), 8);
    let lasting = Address { prefix: at(24, 24), ..own };
    bench.kernel.add_address(lasting.clone());
    bench.until(ms(10), |bench| sources(bench) == 10).expect("it has rules");
    bench.kernel.remove_address(&lasting);
    bench.until(ms(10), |bench| sources(bench) == 8).expect("they are gone");
}

#[test]
fn they_are_bounded_in_number() {
    let mut bench = tracked_worker();
    let own = addresses(MGMT, Family::Ipv4)[0].clone();
    for last in 30..90 {
        let prefix = Prefix { address: IpAddr::from([10, 0, own_net(MGMT), last]), length: 24 };
        bench.kernel.add_address(Address { prefix, ..own.clone() });
    }
    for number in 20..40 {
        bench.plug(LinkIndex(number), &format!("more{number}"));
        bench.lease(LinkIndex(number));
    }
    bench.run(secs(60));
    for family in Family::ALL {
        let ours = bench.kernel.rules.iter().filter(|rule| rule.family == family).filter_map(OwnRule::claim);
        assert!(ours.count() <= 8 * (2 + 2 * 8), "{family}");
        assert!(table(&bench, family).is_some_and(|table| table.uplinks.len() == 8));
    }
}

#[test]
fn one_option_turns_them_off_and_another_changes_the_bits() {
    let mut bench = tracked_worker();
    bench.configure(Policy { path_rules: PathRules::On(0x7000), ..bench.policy.clone() });
    bench.run(secs(1));
    assert_eq!(
        marked(&bench, PORT).map(|marked| (marked.mark.value, marked.mark.mask)),
        Some((0x1000, 0x7000))
    );
    assert_eq!((sources(&bench), connections(&bench)), (8, 8));
    bench.configure(Policy { path_rules: PathRules::Off, ..bench.policy.clone() });
    bench.run(secs(1));
    assert_eq!(state(&bench), PathRulesState::Off);
    assert_eq!((sources(&bench), connections(&bench)), (0, 0));
    assert_eq!(bench.kernel.tables, []);
}

#[test]
fn killed_anywhere_in_the_writing_the_next_process_completes_it() {
    for after in 0..60 {
        let mut bench = worker();
        bench.kernel.tracked = true;
        bench.kernel.rp_filter = 1;
        bench.kill_after = Some(after);
        bench.start();
        bench.run(secs(5));
        bench.kill();
        bench.start();
        bench.run(secs(30));
        assert_eq!((sources(&bench), connections(&bench)), (8, 8), "killed after {after} operations");
        assert!(bench.operations.iter().all(|(_, _, outcome)| *outcome == Outcome::Done));
        bench.kill_after = Some(after);
        bench.stop_or_be_killed();
        bench.start();
        bench.run(secs(5));
        bench.stop();
        assert!(!bench.kernel.has_ours(), "killed after {after} operations");
        assert!(bench.kernel.links.values().all(|link| !link.src_valid_mark));
    }
}

#[test]
fn operations_say_what_they_do() {
    let bench = tracked_worker();
    let said: Vec<String> = bench.operations.iter().map(|(_, op, _)| op.to_string()).collect();
    for expected in [
        "lay ipv4 nftables table uplinkd:",
        "add ipv4 rule 32100: fwmark 0x8/0x78 lookup main suppress_prefixlength 0",
        "add ipv4 rule 32201: from ",
    ] {
        assert!(said.iter().any(|said| said.starts_with(expected)), "{expected} not in {said:#?}");
    }
    assert!(!said.iter().any(|said| said.contains("src_valid_mark")));
    let op = Op::CheckByMark { link: LinkIndex(3), on: true };
    assert_eq!(op.to_string(), "set src_valid_mark of ifindex 3 to 1");
}
