//! Everything that can happen to a host.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::{BoxedStrategy, Strategy, any, prop_oneof};
use proptest::sample::{select, subsequence};
use uplink_core::policy::{Match, Need, Placement, Policy, Preempt, UplinkPolicy, WithinTier};
use uplink_core::snapshot::{Family, Hop, LinkIndex, Mac, Route, Weight, protocol};

use crate::sim::bench::{Bench, Observer};
use crate::sim::site::{BOARD, MGMT, PORT, PORT_B, default_route, dpu_port, second_gateway};
use crate::sim::world::Gateway;
use crate::sim::{ms, secs};

/// Something that happens.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// Time passes.
    Pass(Duration),
    /// A link's gateways change.
    Gateways(LinkIndex, Health),
    /// A link's second gateways come, or change.
    Second(LinkIndex, Health),
    /// Carrier comes or goes.
    Carrier(LinkIndex, bool),
    /// An interface goes down or comes up, configured.
    Up(LinkIndex, bool),
    /// Addresses come or go.
    Addresses(LinkIndex, bool),
    /// A DHCP client writes down the link's gateway, or forgets it.
    Lease(LinkIndex, bool),
    /// Default routes come or go.
    Defaults(LinkIndex, bool),
    /// A DHCP client removes and lays everything anew, at once or with a gap.
    Renew(LinkIndex, Duration),
    /// The default route of a link gets another metric.
    Remetric(LinkIndex, Family, u32),
    /// Somebody lays one more default route.
    Append(LinkIndex, Family, u32),
    /// Somebody lays one to a link's second gateway.
    AppendSecond(LinkIndex, Family, u32),
    /// Somebody puts a default route where another stands, perhaps ours.
    Replace(LinkIndex, Family, u32),
    /// Somebody lays a default route that is not an ordinary one.
    Odd(Odd, Family, u32),
    /// Administrators' default routes go.
    AdminDefaultsGo,
    /// A router withdraws.
    Withdraw(LinkIndex),
    /// Somebody deletes our pins.
    PinsGo,
    /// The process does not run for a while.
    Stall(Duration),
    /// The machine sleeps.
    Suspend(Duration),
    /// The process is killed and started again.
    Restart,
    /// The process is killed after so many operations, and started again after a while.
    KillAfter(usize, Duration),
    /// The port's interface is made anew under another number.
    Rename,
    /// Another configuration.
    Configure(Box<Policy>),
    /// How fast silent removals are noticed.
    Observe(bool),
}

/// How a link's gateways are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Health {
    Well,
    Silent,
    Lossy(u32),
    FiltersEcho,
    OnlyForwards,
    AnswersOnly,
    /// Somebody else answers in its place.
    Stranger,
}

/// Default routes that somebody meant.
#[derive(Debug, Clone, Copy)]
pub(super) enum Odd {
    Refused,
    Multipath,
    LinkOnly(LinkIndex),
    Opaque,
}

/// A random sequence.
pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(event(), 1..30)
}

fn event() -> BoxedStrategy<Event> {
    let gateways = (link(), health()).prop_map(|(link, health)| Event::Gateways(link, health));
    prop_oneof![
        8 => span().prop_map(Event::Pass),
        5 => gateways,
        1 => (link(), health()).prop_map(|(link, health)| Event::Second(link, health)),
        3 => interface_event(),
        4 => route_event(),
        2 => process_event(),
    ]
    .boxed()
}

fn interface_event() -> BoxedStrategy<Event> {
    prop_oneof![
        (link(), any::<bool>()).prop_map(|(link, up)| Event::Carrier(link, up)),
        (link(), any::<bool>()).prop_map(|(link, up)| Event::Up(link, up)),
        (link(), any::<bool>()).prop_map(|(link, come)| Event::Addresses(link, come)),
        (link(), any::<bool>()).prop_map(|(link, held)| Event::Lease(link, held)),
        (link(), select(vec![ms(0), ms(3), ms(400)])).prop_map(|(link, gap)| Event::Renew(link, gap)),
        link().prop_map(Event::Withdraw),
        (0u8..1).prop_map(|_| Event::Rename),
    ]
    .boxed()
}

fn route_event() -> BoxedStrategy<Event> {
    let odd = prop_oneof![
        (0u8..1).prop_map(|_| Odd::Refused),
        (0u8..1).prop_map(|_| Odd::Multipath),
        (0u8..1).prop_map(|_| Odd::Opaque),
        link().prop_map(Odd::LinkOnly),
    ];
    prop_oneof![
        2 => (link(), any::<bool>()).prop_map(|(link, come)| Event::Defaults(link, come)),
        2 => (link(), family(), metric()).prop_map(|(link, family, metric)| Event::Remetric(link, family, metric)),
        2 => (link(), family(), metric()).prop_map(|(link, family, metric)| Event::Append(link, family, metric)),
        1 => (link(), family(), metric())
            .prop_map(|(link, family, metric)| Event::AppendSecond(link, family, metric)),
        1 => (link(), family(), metric()).prop_map(|(link, family, metric)| Event::Replace(link, family, metric)),
        1 => (odd, family(), metric()).prop_map(|(odd, family, metric)| Event::Odd(odd, family, metric)),
        1 => (0u8..1).prop_map(|_| Event::AdminDefaultsGo),
        1 => (0u8..1).prop_map(|_| Event::PinsGo),
    ]
    .boxed()
}

fn process_event() -> BoxedStrategy<Event> {
    prop_oneof![
        span().prop_map(Event::Stall),
        (1u64..4000).prop_map(|seconds| Event::Suspend(secs(seconds))),
        (0u8..1).prop_map(|_| Event::Restart),
        (0usize..4, span()).prop_map(|(operations, span)| Event::KillAfter(operations, span)),
        policy().prop_map(|policy| Event::Configure(Box::new(policy))),
        any::<bool>().prop_map(Event::Observe),
    ]
    .boxed()
}

fn link() -> impl Strategy<Value = LinkIndex> {
    select(vec![PORT, MGMT, PORT_B])
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
        3 => (0u8..1).prop_map(|_| Health::Well),
        3 => (0u8..1).prop_map(|_| Health::Silent),
        1 => (1u32..60).prop_map(Health::Lossy),
        1 => (0u8..1).prop_map(|_| Health::FiltersEcho),
        1 => (0u8..1).prop_map(|_| Health::OnlyForwards),
        1 => (0u8..1).prop_map(|_| Health::AnswersOnly),
        1 => (0u8..1).prop_map(|_| Health::Stranger),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    let patience = select(vec![ms(200), ms(300), secs(1), secs(3)]);
    let placement = select(vec![Placement::Auto, Placement::Main, Placement::Table]);
    let preempt = select(vec![Preempt::Always, Preempt::Boot, Preempt::Never]);
    let choices = (patience, placement, preempt, within_tier(), uplinks());
    choices.prop_map(|(patience, placement, preempt, within_tier, uplinks)| Policy {
        patience,
        placement,
        preempt,
        within_tier,
        uplinks,
        ..Policy::default()
    })
}

pub(super) fn within_tier() -> impl Strategy<Value = WithinTier> {
    select(vec![WithinTier::First, WithinTier::Multipath])
}

/// Names for links, for some or for none, by what may or may not change; in tiers of their own, or in
/// one.
fn uplinks() -> impl Strategy<Value = Vec<UplinkPolicy>> {
    let port = Match::Pci(dpu_port(3).address);
    let board = Match::Interface(BOARD.to_owned());
    let second = Match::Pci(dpu_port(5).address);
    let named = [("a", port.clone()), ("b", board.clone()), ("c", second), (BOARD, port), ("a", board)];
    (subsequence(named.to_vec(), 0..4), 1u32..4, weight()).prop_map(|(named, tiers, weight)| {
        let uplinks: BTreeMap<_, _> = named.into_iter().collect();
        let tier = |place: u32| 1 + place % tiers;
        (0..)
            .zip(uplinks)
            .map(|(place, (name, matching))| UplinkPolicy { weight, ..uplink(name, matching, tier(place)) })
            .collect()
    })
}

fn weight() -> impl Strategy<Value = Weight> {
    select(vec![Weight::ONE, Weight::MAX])
}

fn uplink(name: &str, matching: Match, tier: u32) -> UplinkPolicy {
    UplinkPolicy {
        name: name.to_owned(),
        matching,
        tier,
        weight: Weight::ONE,
        gateways: Vec::new(),
        targets: Vec::new(),
        need: Need::Any,
        interval: secs(5),
    }
}

impl Event {
    /// Lets it happen.
    pub(super) fn happen(&self, bench: &mut Bench) {
        match self {
            Self::Pass(span) => bench.run(*span),
            Self::Gateways(link, health) => bench.gateways(*link, |gateway| *gateway = health.gateway()),
            Self::Second(link, health) => {
                for family in Family::ALL {
                    bench.world.gateways.insert((*link, second_gateway(*link, family)), health.gateway());
                }
            }
            Self::Carrier(link, carrier) => bench.kernel.set_carrier(*link, *carrier),
            Self::Up(link, true) => bench.up(*link),
            Self::Up(link, false) => bench.down(*link),
            Self::Addresses(link, true) => bench.addresses_come(*link),
            Self::Addresses(link, false) => bench.addresses_go(*link),
            Self::Lease(link, held) => bench.write_lease(*link, *held),
            Self::Defaults(link, true) => bench.defaults_come(*link),
            Self::Defaults(link, false) => bench.defaults_go(*link),
            Self::Renew(link, gap) => {
                bench.addresses_go(*link);
                bench.run(*gap);
                bench.lease(*link);
            }
            Self::Remetric(link, family, metric) => bench.remetric(*link, *family, *metric),
            Self::Append(link, family, metric) => {
                let _ = bench.kernel.append_route(admins(*link, *family, *metric));
            }
            Self::AppendSecond(link, family, metric) => {
                let hops = vec![Hop { link: *link, gateway: Some(second_gateway(*link, *family)) }];
                let _ = bench.kernel.append_route(Route { hops, ..admins(*link, *family, *metric) });
            }
            Self::Replace(link, family, metric) => {
                let _ = bench.kernel.replace_route(admins(*link, *family, *metric));
            }
            Self::Odd(Odd::Refused, family, metric) => bench.refuse(*family, *metric),
            Self::Odd(Odd::Multipath, family, metric) => bench.multipath(*family, *metric, &[PORT, MGMT]),
            Self::Odd(Odd::Opaque, family, metric) => bench.opaque(*family, *metric),
            Self::Odd(Odd::LinkOnly(link), family, metric) => bench.link_default(*family, *metric, *link),
            Self::AdminDefaultsGo => bench.admin_defaults_go(),
            Self::Withdraw(link) => bench.router_withdraws(*link),
            Self::PinsGo => bench.pins_go(),
            Self::Stall(span) => bench.stall(*span),
            Self::Suspend(span) => bench.suspend(*span),
            Self::Restart => bench.restart(),
            Self::KillAfter(operations, span) => {
                bench.kill_after = Some(*operations);
                bench.run(*span);
                bench.restart();
            }
            Self::Rename => {
                if let Some(link) = bench.kernel.links.get_mut(&PORT) {
                    link.name.push('x');
                    link.name.truncate(12);
                    bench.kernel.changes += 1;
                }
            }
            Self::Configure(policy) => bench.configure((**policy).clone()),
            Self::Observe(prompt) => {
                bench.observer = if *prompt { Observer::Prompt } else { Observer::Looks(ms(10)) };
            }
        }
    }
}

impl Health {
    fn gateway(self) -> Gateway {
        match self {
            Self::Well => Gateway::well(),
            Self::Silent => Gateway::silent(),
            Self::Lossy(loss) => Gateway { loss, ..Gateway::well() },
            Self::FiltersEcho => Gateway { echo: false, ..Gateway::well() },
            Self::OnlyForwards => Gateway { echo: false, neighbour: false, busy: true, ..Gateway::well() },
            Self::AnswersOnly => Gateway { forwards: false, ..Gateway::well() },
            Self::Stranger => Gateway { mac: Mac([2, 0, 0, 0, 9, 9]), ..Gateway::well() },
        }
    }
}

/// A default route of an administrator through a link's gateway.
fn admins(link: LinkIndex, family: Family, metric: u32) -> Route {
    Route { metric, protocol: protocol::STATIC, ..default_route(link, family) }
}
