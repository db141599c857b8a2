//! Everything that can happen to a host.

use std::collections::BTreeSet;
use std::time::Duration;

use uplink_core::memory::Memory;
use uplink_core::policy::{Policy, Target};
use uplink_core::snapshot::{Family, Hop, LinkIndex, Mac, Mark, Route, protocol};

use crate::sim::bench::{Bench, Observer};
use crate::sim::checks;
use crate::sim::kernel::Errno;
use crate::sim::manager::Vpn;
use crate::sim::site::{MGMT, PORT, PORT_B, default_route, dpu_port, gateway, second_gateway};
use crate::sim::world::Gateway;

/// `EPERM`: no reason that will pass by itself.
const EPERM: Errno = Errno(1);

/// Something that happens.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// Time passes.
    Pass(Duration),
    /// A link's gateways change.
    Gateways(LinkIndex, Health),
    /// A link's second gateways come, or change.
    Second(LinkIndex, Health),
    /// All gateways fall silent.
    AllSilent,
    /// What is behind the gateways answers, or does not.
    Targets(bool),
    /// All is well again.
    Repair,
    /// What happens to interfaces and in tables, in one instant.
    Write(Write),
    /// The same between two operations of ours, when so many were carried out.
    Meanwhile(usize, Write),
    /// A DHCP client removes and lays everything anew, with a gap.
    Renew(LinkIndex, Duration),
    /// networkd starts anew: what it did not lay goes, what it did is laid again after a while.
    Purge(Duration),
    /// An interface goes and comes again.
    Replug(LinkIndex, Duration),
    /// The process does not run for a while.
    Stall(Duration),
    /// The machine sleeps.
    Suspend(Duration),
    /// The process is asked to end, and started again after a while.
    Stop(Duration),
    /// The process is killed and started again.
    Restart,
    /// The process is killed and started again with something else in its memory.
    Remember(Box<Memory>),
    /// The process is killed after so many operations, and started again after a while.
    KillAfter(usize, Duration),
    /// Another configuration.
    Configure(Box<Policy>),
    /// How the observer learns of changes.
    Observe(Observer),
    /// How late the loop's timer comes, and how long the kernel takes for an operation.
    Lag(Duration, Duration),
    /// How much longer answers may take, and how often each comes.
    Disorder(Duration, usize),
    /// What the kernel does not take from us.
    Refuse(Refusal),
}

/// What somebody does to interfaces and tables.
#[derive(Debug, Clone)]
pub(super) enum Write {
    /// Carrier comes or goes.
    Carrier(LinkIndex, bool),
    /// An interface goes down or comes up, configured.
    Up(LinkIndex, bool),
    /// Addresses come or go.
    Addresses(LinkIndex, bool),
    /// The DHCP server gives other addresses.
    Readdress(LinkIndex),
    /// A DHCP client writes down the link's gateway, or forgets it.
    Lease(LinkIndex, bool),
    /// Default routes come or go.
    Defaults(LinkIndex, bool),
    /// The default route of a link gets another metric.
    Remetric(LinkIndex, Family, u32),
    /// NetworkManager adds 20,000 to the metrics of a link, or takes them off again.
    Demote(LinkIndex, bool),
    /// The default route of a link leads to its second gateway, which is like that.
    Regateway(LinkIndex, Family, Health),
    /// Somebody lays one more default route.
    Append(LinkIndex, Family, u32),
    /// Somebody lays one to a link's second gateway.
    AppendSecond(LinkIndex, Family, u32),
    /// Somebody puts a default route where another stands, perhaps ours.
    Replace(LinkIndex, Family, u32),
    /// Somebody deletes the best default route.
    BestDefaultGoes(Family),
    /// Somebody lays a default route that is not an ordinary one.
    Odd(Odd, Family, u32),
    /// Administrators' default routes go.
    AdminDefaultsGo,
    /// A router withdraws.
    Withdraw(LinkIndex),
    /// Somebody deletes our pins.
    PinsGo,
    /// A CNI has so many pods.
    Pods(u32),
    /// A VPN comes up.
    Vpn(Vpn),
    /// The VPN goes down.
    VpnGoes,
    /// The second card is plugged in, or pulled out.
    SecondCard(bool),
    /// The port's interface gets another name.
    Rename,
    /// The host forwards IPv6, or does not.
    Forwarding(bool),
    /// Somebody begins to track connections.
    Track,
    /// The reverse-path check of a link.
    Check(LinkIndex, u32),
    /// Somebody flushes nftables, or changes our table.
    MarksGo(bool),
    /// Somebody deletes the rules of ours that are not the pin's.
    PathRulesGo,
    /// Somebody routes by these bits of the marks.
    ByMark(Family, Mark),
    /// Nobody does any more.
    ByMarkGoes,
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

/// What the kernel says no to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Refusal {
    Nothing,
    Rules,
    Table(u32),
    /// Any hop through a link.
    Hops(LinkIndex),
    Marks,
}

impl Event {
    /// Lets it happen.
    pub(super) fn happen(&self, bench: &mut Bench) {
        match self {
            Self::Pass(span) => bench.run(*span),
            Self::Gateways(link, health) => set_gateways(bench, *link, *health),
            Self::Second(link, health) => {
                for family in Family::ALL {
                    bench.world.gateways.insert((*link, second_gateway(*link, family)), health.gateway());
                }
            }
            Self::AllSilent => {
                [PORT, MGMT, PORT_B].into_iter().for_each(|link| set_gateways(bench, link, Health::Silent));
            }
            Self::Targets(answer) => {
                bench.world.targets = if *answer { all_targets() } else { BTreeSet::new() }
            }
            Self::Repair => repair(bench),
            Self::Write(write) => write.happen(bench),
            Self::Meanwhile(operations, write) => {
                let write = write.clone();
                bench.meanwhile = Some((*operations, Box::new(move |bench| write.happen(bench))));
            }
            Self::Renew(link, gap) => {
                bench.addresses_go(*link);
                bench.run(*gap);
                bench.lease(*link);
            }
            Self::Purge(gap) => {
                bench.purge();
                bench.run(*gap);
                [PORT, MGMT, PORT_B].into_iter().for_each(|link| bench.lease(link));
            }
            Self::Replug(link, gap) => {
                bench.unplug(*link);
                bench.run(*gap);
                bench.plug_again(*link);
            }
            Self::Stall(span) => bench.stall(*span),
            Self::Suspend(span) => bench.suspend(*span),
            Self::Stop(span) => {
                bench.stop();
                checks::nothing_is_left(bench);
                bench.run(*span);
                bench.start();
            }
            Self::Restart => bench.restart(),
            Self::Remember(memory) => {
                bench.memory = (**memory).clone();
                bench.fallen.clear();
                bench.restart();
            }
            Self::KillAfter(operations, span) => {
                bench.kill_after = Some(*operations);
                bench.run(*span);
                bench.restart();
            }
            Self::Configure(policy) => bench.configure((**policy).clone()),
            Self::Observe(observer) => bench.observer = *observer,
            Self::Lag(timer, operation) => (bench.lateness, bench.slowness) = (*timer, *operation),
            Self::Disorder(jitter, copies) => (bench.world.jitter, bench.world.copies) = (*jitter, *copies),
            Self::Refuse(refusal) => {
                all_is_taken(bench);
                let kernel = &mut bench.kernel;
                match refusal {
                    Refusal::Nothing => {}
                    Refusal::Rules => kernel.refuse_rules = Some(EPERM),
                    Refusal::Table(number) => kernel.refuse_tables = [(*number, EPERM)].into(),
                    Refusal::Hops(link) => kernel.unreachable = [*link].into(),
                    Refusal::Marks => kernel.refuse_marks = Some(EPERM),
                }
            }
        }
    }
}

impl Write {
    /// Lets it happen.
    fn happen(&self, bench: &mut Bench) {
        match self {
            Self::Carrier(link, carrier) => bench.kernel.set_carrier(*link, *carrier),
            Self::Up(link, true) => bench.up(*link),
            Self::Up(link, false) => bench.down(*link),
            Self::Addresses(link, true) => bench.addresses_come(*link),
            Self::Addresses(link, false) => bench.addresses_go(*link),
            Self::Readdress(link) => bench.readdress(*link),
            Self::Lease(link, held) => bench.write_lease(*link, *held),
            Self::Defaults(link, true) => bench.defaults_come(*link),
            Self::Defaults(link, false) => bench.defaults_go(*link),
            Self::Remetric(link, family, metric) => bench.remetric(*link, *family, *metric),
            Self::Demote(link, demoted) => bench.demote(*link, *demoted),
            Self::Regateway(link, family, health) => bench.regateway(*link, *family, health.gateway()),
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
            Self::BestDefaultGoes(family) => bench.best_default_goes(*family),
            Self::Odd(Odd::Refused, family, metric) => bench.refuse(*family, *metric),
            Self::Odd(Odd::Multipath, family, metric) => bench.multipath(*family, *metric, &[PORT, MGMT]),
            Self::Odd(Odd::Opaque, family, metric) => bench.opaque(*family, *metric),
            Self::Odd(Odd::LinkOnly(link), family, metric) => bench.link_default(*family, *metric, *link),
            Self::AdminDefaultsGo => bench.admin_defaults_go(),
            Self::Withdraw(link) => bench.router_withdraws(*link),
            Self::PinsGo => bench.pins_go(),
            Self::Pods(count) => bench.pods(*count),
            Self::Vpn(vpn) => bench.vpn(*vpn),
            Self::VpnGoes => bench.vpn_goes(),
            Self::SecondCard(true) => bench.plug_again(PORT_B),
            Self::SecondCard(false) => bench.unplug(PORT_B),
            Self::Rename => {
                let name = bench.kernel.links.get(&PORT).map(|link| format!("{:.11}x", link.name));
                name.into_iter().for_each(|name| bench.rename(PORT, &name));
            }
            Self::Forwarding(forwarding) => bench.kernel.forwarding = *forwarding,
            Self::Track => {
                bench.kernel.tracked = true;
                bench.kernel.changes += 1;
            }
            Self::Check(link, rp_filter) => {
                bench.kernel.links.get_mut(link).into_iter().for_each(|link| link.rp_filter = *rp_filter);
                bench.kernel.changes += 1;
            }
            Self::MarksGo(whole) => bench.marks_go(*whole),
            Self::PathRulesGo => bench.path_rules_go(),
            Self::ByMark(family, mark) => bench.routes_by_mark(*family, *mark),
            Self::ByMarkGoes => bench.nobody_routes_by_mark(),
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

/// The targets that configurations name, two of each family.
pub(super) fn targets() -> [Target; 4] {
    ["203.0.113.1", "203.0.113.2", "2001:db8:ffff::1", "2001:db8:ffff::2"]
        .map(|address| Target::Icmp(address.parse().expect("an address")))
}

/// All interfaces as they should be, and nobody else at work, whatever happened before.
pub(super) fn repair(bench: &mut Bench) {
    bench.vpn_goes();
    bench.forget_routes(Route::is_default);
    bench.world.targets = all_targets();
    (bench.world.jitter, bench.world.copies) = (Duration::ZERO, 1);
    (bench.lateness, bench.slowness, bench.meanwhile) = (Duration::ZERO, Duration::ZERO, None);
    all_is_taken(bench);
    bench.nobody_routes_by_mark();
    let second = Some(PORT_B).filter(|second| bench.kernel.links.contains_key(second));
    if second.is_none() {
        bench.kernel.dpu_ports.retain(|port| port.address == dpu_port(3).address);
    }
    for link in [PORT, MGMT].into_iter().chain(second) {
        bench.plug_again(link);
        bench.kernel.set_carrier(link, true);
        bench.addresses_go(link);
        bench.up(link);
        set_gateways(bench, link, Health::Well);
    }
}

/// The kernel refuses nothing that it can do.
fn all_is_taken(bench: &mut Bench) {
    let kernel = &mut bench.kernel;
    (kernel.refuse_rules, kernel.refuse_marks) = (None, None);
    kernel.refuse_tables.clear();
    kernel.unreachable.clear();
}

/// Their addresses.
pub(super) fn all_targets() -> BTreeSet<std::net::IpAddr> {
    targets().map(|target| target.address()).into()
}

/// Both families' gateways of a link, and what the kernel thinks of the one whose neighbour is dead.
fn set_gateways(bench: &mut Bench, link: LinkIndex, health: Health) {
    bench.gateways(link, |gateway| *gateway = health.gateway());
    let dead = (link, gateway(link, Family::Ipv6));
    match health {
        Health::Silent => bench.kernel.failed.insert(dead),
        Health::Well
        | Health::Lossy(_)
        | Health::FiltersEcho
        | Health::OnlyForwards
        | Health::AnswersOnly
        | Health::Stranger => bench.kernel.failed.remove(&dead),
    };
}

/// A default route of an administrator through a link's gateway.
fn admins(link: LinkIndex, family: Family, metric: u32) -> Route {
    Route { metric, protocol: protocol::STATIC, ..default_route(link, family) }
}
