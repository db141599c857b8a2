//! Draws what happens.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};
use proptest::sample::{select, subsequence};
use uplink_core::memory::{Known, Memory, Remembered};
use uplink_core::own::TABLE_PIN;
use uplink_core::policy::{
    Match, Mode, Need, PathRules, Placement, Policy, Preempt, UplinkPolicy, WithinTier,
};
use uplink_core::snapshot::{Attributes, Family, Hop, LinkIndex, Mac, Mark, TABLE_MAIN, Weight};
use uplink_core::time::Instant;

use super::event::{Event, Health, Odd, Refusal, Write, targets};
use crate::sim::bench::Observer;
use crate::sim::manager::Vpn;
use crate::sim::site::{BOARD, DPU, MGMT, PORT, PORT_B, addresses, dpu_port, gateway};
use crate::sim::world::Gateway;
use crate::sim::{ms, secs};

/// A random sequence.
pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
    vec(event(), 1..30)
}

/// Anything that can happen.
pub(super) fn event() -> BoxedStrategy<Event> {
    prop_oneof![
        16 => span().prop_map(Event::Pass),
        10 => network_event(),
        12 => write().prop_map(Event::Write),
        2 => (0usize..4, write()).prop_map(|(operations, write)| Event::Meanwhile(operations, write)),
        3 => manager_event(),
        6 => process_event(),
        3 => pace_event(),
    ]
    .boxed()
}

fn network_event() -> BoxedStrategy<Event> {
    prop_oneof![
        8 => (link(), health()).prop_map(|(link, health)| Event::Gateways(link, health)),
        1 => (link(), health()).prop_map(|(link, health)| Event::Second(link, health)),
        1 => Just(Event::AllSilent),
        1 => any::<bool>().prop_map(Event::Targets),
        1 => Just(Event::Repair),
    ]
    .boxed()
}

/// What takes a program more than one instant.
fn manager_event() -> BoxedStrategy<Event> {
    let gap = || select(vec![ms(0), ms(3), ms(400), secs(3)]);
    prop_oneof![
        3 => (link(), gap()).prop_map(|(link, gap)| Event::Renew(link, gap)),
        1 => gap().prop_map(Event::Purge),
        1 => (link(), gap()).prop_map(|(link, gap)| Event::Replug(link, gap)),
    ]
    .boxed()
}

fn process_event() -> BoxedStrategy<Event> {
    prop_oneof![
        span().prop_map(Event::Stall),
        (1u64..4000).prop_map(|seconds| Event::Suspend(secs(seconds))),
        span().prop_map(Event::Stop),
        Just(Event::Restart),
        memory().prop_map(|memory| Event::Remember(Box::new(memory))),
        (0usize..4, span()).prop_map(|(operations, span)| Event::KillAfter(operations, span)),
        policy().prop_map(|policy| Event::Configure(Box::new(policy))),
    ]
    .boxed()
}

/// How quick everything is, and how well it is told.
fn pace_event() -> BoxedStrategy<Event> {
    let observer = prop_oneof![
        2 => Just(Observer::Prompt),
        1 => Just(Observer::Looks(ms(10))),
        1 => Just(Observer::Reordered(ms(10))),
        1 => (1u64..300).prop_map(|late| Observer::Loses(ms(late))),
    ];
    let late = select(vec![ms(0), ms(1), ms(20), ms(90)]);
    let slow = select(vec![ms(0), Duration::from_micros(50), ms(5), ms(60)]);
    let jitter = select(vec![ms(0), ms(2), ms(30)]);
    let refusal = prop_oneof![
        2 => Just(Refusal::Nothing),
        1 => Just(Refusal::Rules),
        1 => Just(Refusal::Marks),
        3 => link().prop_map(Refusal::Hops),
        1 => select(vec![TABLE_MAIN, TABLE_PIN]).prop_map(Refusal::Table),
    ];
    prop_oneof![
        3 => observer.prop_map(Event::Observe),
        2 => (late, slow).prop_map(|(late, slow)| Event::Lag(late, slow)),
        2 => (jitter, 1usize..3).prop_map(|(jitter, copies)| Event::Disorder(jitter, copies)),
        2 => refusal.prop_map(Event::Refuse),
    ]
    .boxed()
}

fn write() -> BoxedStrategy<Write> {
    prop_oneof![4 => interface(), 6 => route(), 1 => guest(), 2 => marks()].boxed()
}

fn interface() -> BoxedStrategy<Write> {
    prop_oneof![
        2 => (link(), any::<bool>()).prop_map(|(link, up)| Write::Carrier(link, up)),
        2 => (link(), any::<bool>()).prop_map(|(link, up)| Write::Up(link, up)),
        2 => (link(), any::<bool>()).prop_map(|(link, come)| Write::Addresses(link, come)),
        1 => (link(), any::<bool>()).prop_map(|(link, held)| Write::Lease(link, held)),
        1 => link().prop_map(Write::Readdress),
        1 => link().prop_map(Write::Withdraw),
        1 => Just(Write::Rename),
        1 => any::<bool>().prop_map(Write::SecondCard),
    ]
    .boxed()
}

fn route() -> BoxedStrategy<Write> {
    let odd = prop_oneof![
        Just(Odd::Refused),
        Just(Odd::Multipath),
        Just(Odd::Opaque),
        link().prop_map(Odd::LinkOnly)
    ];
    let place = || (link(), family(), metric());
    let regateway = (link(), family(), health());
    prop_oneof![
        2 => (link(), any::<bool>()).prop_map(|(link, come)| Write::Defaults(link, come)),
        2 => place().prop_map(|(link, family, metric)| Write::Remetric(link, family, metric)),
        1 => (link(), any::<bool>()).prop_map(|(link, demoted)| Write::Demote(link, demoted)),
        1 => regateway.prop_map(|(link, family, health)| Write::Regateway(link, family, health)),
        2 => place().prop_map(|(link, family, metric)| Write::Append(link, family, metric)),
        1 => place().prop_map(|(link, family, metric)| Write::AppendSecond(link, family, metric)),
        1 => place().prop_map(|(link, family, metric)| Write::Replace(link, family, metric)),
        1 => family().prop_map(Write::BestDefaultGoes),
        1 => (odd, family(), metric()).prop_map(|(odd, family, metric)| Write::Odd(odd, family, metric)),
        2 => Just(Write::AdminDefaultsGo),
        1 => Just(Write::PinsGo),
    ]
    .boxed()
}

/// Programs that come and go, with interfaces, tables and rules of their own.
fn guest() -> BoxedStrategy<Write> {
    let vpn = prop_oneof![
        option::of(select(vec![5270, 32_000, 32_765])).prop_map(Vpn::Rules),
        metric().prop_map(Vpn::Main),
    ];
    prop_oneof![
        (0u32..5).prop_map(Write::Pods),
        vpn.prop_map(Write::Vpn),
        Just(Write::VpnGoes),
        any::<bool>().prop_map(Write::Forwarding),
    ]
    .boxed()
}

/// What matters to path rules.
fn marks() -> BoxedStrategy<Write> {
    let mark = select(vec![(0x200, 0xf00), (1, u32::MAX), (0x10, u32::MAX)]);
    let mark = mark.prop_map(|(value, mask)| Mark { value, mask });
    prop_oneof![
        3 => Just(Write::Track),
        3 => (link(), 0u32..3).prop_map(|(link, rp_filter)| Write::Check(link, rp_filter)),
        2 => any::<bool>().prop_map(Write::MarksGo),
        2 => Just(Write::PathRulesGo),
        1 => (family(), mark).prop_map(|(family, mark)| Write::ByMark(family, mark)),
        1 => Just(Write::ByMarkGoes),
    ]
    .boxed()
}

/// The second card is there at times only.
fn link() -> impl Strategy<Value = LinkIndex> {
    prop_oneof![3 => Just(PORT), 3 => Just(MGMT), 2 => Just(PORT_B)]
}

fn family() -> impl Strategy<Value = Family> {
    select(Family::ALL.to_vec())
}

/// Metrics close to each other, to zero, and to where the pin stands.
fn metric() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..6, 45u32..52, 98u32..102, 508u32..514]
}

fn span() -> impl Strategy<Value = Duration> {
    prop_oneof![(0u64..400).prop_map(ms), (400u64..3000).prop_map(ms), (3u64..20).prop_map(secs)]
}

fn health() -> impl Strategy<Value = Health> {
    prop_oneof![
        3 => Just(Health::Well),
        3 => Just(Health::Silent),
        1 => (1u32..60).prop_map(Health::Lossy),
        1 => Just(Health::FiltersEcho),
        1 => Just(Health::OnlyForwards),
        1 => Just(Health::AnswersOnly),
        1 => Just(Health::Stranger),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let patience = select(vec![ms(200), ms(300), secs(1), secs(3)]);
    let placement = select(vec![Placement::Auto, Placement::Main, Placement::Table]);
    let preempt = select(vec![Preempt::Always, Preempt::Boot, Preempt::Never]);
    let mode = prop_oneof![7 => Just(Mode::Steer), 1 => Just(Mode::Observe)];
    let path_rules = prop_oneof![
        4 => Just(PathRules::default()),
        1 => Just(PathRules::Off),
        1 => Just(PathRules::On(0x3000)),
    ];
    let all = (mode, patience, placement, preempt, path_rules, within_tier(), uplinks());
    all.prop_map(|(mode, patience, placement, preempt, path_rules, within_tier, uplinks)| Policy {
        mode,
        patience,
        placement,
        preempt,
        path_rules,
        within_tier,
        close_sockets: true,
        uplinks,
        ..Policy::default()
    })
}

/// Whether the members of a tier share the traffic.
pub(super) fn within_tier() -> impl Strategy<Value = WithinTier> {
    select(vec![WithinTier::First, WithinTier::Multipath])
}

/// Names for links, for some or for none, by what may or may not change; in tiers of their own, or in
/// one; with gateways and targets.
fn uplinks() -> impl Strategy<Value = Vec<UplinkPolicy>> {
    let port = (Match::Pci(dpu_port(3).address), PORT);
    let board = (Match::Interface(BOARD.to_owned()), MGMT);
    let second = (Match::Pci(dpu_port(5).address), PORT_B);
    let named = [("a", port.clone()), ("b", board.clone()), ("c", second), (BOARD, port), ("a", board)];
    let asked = prop_oneof![2 => Just(Vec::new()), 1 => subsequence(targets().to_vec(), 1..4)];
    let need = select(vec![Need::Any, Need::All, Need::AtLeast(1)]);
    let weight = select(vec![Weight::ONE, Weight::MAX]);
    let all = (subsequence(named.to_vec(), 0..4), 1u32..4, weight, asked, need, any::<bool>());
    all.prop_map(|(named, tiers, weight, asked, need, gateways)| {
        let uplinks: BTreeMap<_, _> = named.into_iter().collect();
        let named = (0..).zip(uplinks).map(|(place, (name, (matching, link)))| UplinkPolicy {
            name: name.to_owned(),
            matching,
            tier: 1 + place % tiers,
            weight,
            gateways: Family::ALL
                .into_iter()
                .filter(|_| gateways)
                .map(|family| gateway(link, family))
                .collect(),
            targets: asked.clone(),
            need,
            interval: secs(5),
        });
        named.collect()
    })
}

/// What may stand in a file that somebody damaged, or an older process wrote.
fn memory() -> impl Strategy<Value = Memory> {
    let moment = prop_oneof![any::<u64>(), 0u64..100_000_000_000].prop_map(Instant::from_nanos);
    let uplink = select(vec![DPU, BOARD, "a", "b", ""]);
    let falls = (vec(moment, 0..20), any::<bool>());
    let path = (uplink, family(), option::of(link()), falls, option::of(known()));
    let path = path.prop_map(|(uplink, family, link, (falls, returning), gateway)| Remembered {
        uplink: uplink.to_owned(),
        family,
        link,
        falls,
        returning,
        gateway,
    });
    let boot = select(vec!["this boot", "another", ""]);
    (boot, any::<bool>(), vec(path, 0..6)).prop_map(|(boot, ready, paths)| Memory {
        boot_id: boot.to_owned(),
        ready,
        paths,
    })
}

/// A gateway that may have worked, or may never have been.
fn known() -> impl Strategy<Value = Known> {
    let prefix = |link, family| addresses(link, family).into_iter().next_back().map(|own| own.prefix);
    let mac = select(vec![None, Some(Gateway::well().mac), Some(Mac([2, 0, 0, 0, 9, 9]))]);
    (link(), link(), family(), family(), mac, any::<u32>()).prop_map(
        move |(link, other, family, another, mac, order)| Known {
            hop: Hop { link, gateway: Some(gateway(other, another)) },
            prefix: prefix(link, family),
            mac,
            attributes: Attributes::default(),
            order,
        },
    )
}
