//! Every manager of the network, and everything that happens to one or is asked of it: leases renewed,
//! rebound, lost and given back, with another address, gateway, metric; managers restarted, told to
//! configure anew, to take an interface down and up; each while all is well and while the port is silent.
//! With the real programs. `netplan apply`, with both renderers, is in the tests of the booted worker.
//!
//! | event | networkd | NetworkManager | udhcpc | dhclient | ifupdown |
//! | --- | --- | --- | --- | --- | --- |
//! | `Renew`, `Rebind`, `Refuse`, `Expire`, `Address` | yes | yes | yes | yes | yes |
//! | `Gateway` | yes | yes | yes | (1) | (1) |
//! | `Metric` | yes | yes | yes | (2) | yes |
//! | `Release` | (3) | (3) | yes | (4) | (4) |
//! | `Restart` | yes | yes | yes | yes | yes |
//! | `Reconfigure` | yes | yes | (5) | (5) | (5) |
//! | `DownUp` | yes | yes | (5) | (5) | yes |
//!
//! 1. Debian's script for dhclient lays routes with a new address only.
//! 2. That script takes no route away: the one of the metric before would stay.
//! 3. Their tools give a lease back by taking the interface down: `DownUp`.
//! 4. `dhclient -r`, which is what `ifdown` does: `DownUp` of ifupdown.
//! 5. They have no tool for that.
//!
//! Each of them checks that
//!
//! - an uplink carries traffic within 50 ms of the manager's last change, and path rules follow its
//!   addresses and its gateway as soon;
//! - nothing is lost but while the manager itself has taken an address away;
//! - routes, rules, nftables tables and settings of others are the same before and after;
//! - a stop leaves exactly what others laid.
//!
//! They are many, and slow: most are made by `cargo xtask managers` only.

use std::ops::Range;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::Family;
use uplink_core::time::Instant;
use uplink_lab::{Change, ClientKind, DhcpServer, Laid, Offer, Order, Uplink, now, pass};

use crate::leased::{GRACE, Leased, beside, has_default, is_default, is_theirs, last, other_gateway};
use crate::scene::{BRISK, INTERNET, Outcome, trial};

/// How long a manager may take: some ask for a lease again only after some time.
const MANAGER: Duration = Duration::from_secs(90);
/// The same, where a lease must end first.
const WITH_LEASE: Duration = Offer::LEASE.saturating_add(MANAGER);
/// A metric ahead of all.
const AHEAD: u32 = 50;

/// What happens to a manager, or is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// The lease is extended by the server that gave it.
    Renew,
    /// The server hears broadcasts only: at T2 the lease is extended by one (RFC 2131, section 4.4.5).
    Rebind,
    /// The lease is refused (`DHCPNAK`), and later given again.
    Refuse,
    /// The server says nothing until the lease has ended, and then speaks again.
    Expire,
    /// It is given another address, then the one before.
    Address,
    /// It is given another gateway, then the one before.
    Gateway,
    /// It is told to lay another metric, then the one before.
    Metric,
    /// It gives the lease back, and later asks for another.
    Release,
    /// It is ended and started again.
    Restart,
    /// It is told to configure an interface anew.
    Reconfigure,
    /// It is told to take an interface down, and later up.
    DownUp,
}

/// What a manager itself takes away meanwhile, and gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Nothing, or nothing that anything needs.
    Nothing,
    /// The default route of the elected uplink, for a moment. A pin stands beside it, but where it is the
    /// best anyway: there packets go to the silent port until a pin is laid.
    Route,
    /// An address of the elected uplink.
    One,
    /// Those of both.
    Both,
}

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Both uplinks are well; it happens to the port, which is elected.
    Healthy,
    /// The port is silent; it happens to management, which is elected.
    Outage,
}

/// All managers and events; what is made each time, and not only when asked for.
const CASES: &[(ClientKind, Event, Takes, &[When])] = {
    use ClientKind::{Dhclient, Ifupdown, NetworkManager, Networkd, Udhcpc};
    use Event::{
        Address, DownUp, Expire, Gateway, Metric, Rebind, Reconfigure, Refuse, Release, Renew, Restart,
    };
    use Takes::{Both, Nothing, One, Route};
    use When::{Healthy, Outage};
    &[
        // The slowest first.
        (Networkd, Expire, One, &[]),
        (NetworkManager, Expire, One, &[]),
        (Udhcpc, Expire, One, &[]),
        (Dhclient, Expire, One, &[]),
        (Ifupdown, Expire, One, &[]),
        (Udhcpc, Rebind, Nothing, &[]),
        (Networkd, Renew, Nothing, &[]),
        (Networkd, Rebind, Nothing, &[]),
        (Networkd, Refuse, One, &[]),
        (Networkd, Address, One, &[]),
        (Networkd, Gateway, Nothing, &[]),
        (Networkd, Metric, One, &[]),
        (Networkd, Restart, Both, &[Healthy, Outage]),
        (Networkd, Reconfigure, One, &[Healthy]),
        (Networkd, DownUp, One, &[]),
        (NetworkManager, Renew, Nothing, &[]),
        (NetworkManager, Rebind, Nothing, &[]),
        (NetworkManager, Refuse, One, &[]),
        (NetworkManager, Address, One, &[]),
        (NetworkManager, Gateway, Nothing, &[]),
        (NetworkManager, Metric, One, &[]),
        (NetworkManager, Restart, Nothing, &[Healthy]),
        (NetworkManager, Reconfigure, Nothing, &[Healthy]),
        (NetworkManager, DownUp, One, &[]),
        (Udhcpc, Renew, Nothing, &[]),
        (Udhcpc, Refuse, One, &[]),
        (Udhcpc, Address, One, &[]),
        (Udhcpc, Gateway, Route, &[]),
        (Udhcpc, Metric, One, &[]),
        (Udhcpc, Release, One, &[]),
        (Udhcpc, Restart, Both, &[]),
        (Dhclient, Renew, Nothing, &[]),
        (Dhclient, Rebind, Nothing, &[]),
        (Dhclient, Refuse, One, &[]),
        (Dhclient, Address, One, &[]),
        (Dhclient, Restart, Nothing, &[]),
        (Ifupdown, Renew, Nothing, &[]),
        (Ifupdown, Rebind, Nothing, &[]),
        (Ifupdown, Refuse, One, &[]),
        (Ifupdown, Address, One, &[]),
        (Ifupdown, Metric, One, &[]),
        (Ifupdown, Restart, Both, &[]),
        (Ifupdown, DownUp, One, &[Healthy]),
    ]
};

pub(crate) fn trials() -> Vec<Trial> {
    let each = CASES.iter().flat_map(|&(kind, event, takes, always)| {
        [When::Healthy, When::Outage].map(|when| {
            let case = Case { kind, event, when, takes };
            let name = format!("managers: {kind}: {event:?}, {when:?}: it takes {takes:?}, we nothing");
            trial(&name, move || case.show()).with_ignored_flag(!always.contains(&when))
        })
    });
    each.collect()
}

#[derive(Debug, Clone, Copy)]
struct Case {
    kind: ClientKind,
    event: Event,
    when: When,
    takes: Takes,
}

impl Case {
    fn show(&self) -> Outcome {
        let mut leased = Leased::offered(self.kind, BRISK, Offer::of)?;
        leased.scene.leads_to("port")?;
        self.gives_up_soon(&leased)?;
        if !self.is_told_by_server() {
            leased.seldom()?;
        }
        let before = leased.scene.site.worker.laid()?;
        let silent = match self.when {
            When::Healthy => None,
            When::Outage => Some(leased.fail_over()?),
        };
        let spans = self.happens(&mut leased)?;
        leased.scene.leads_to(self.when.elected())?;
        let mut outages = Vec::from_iter(silent);
        let mut taken = Vec::new();
        match (self.takes, self.when) {
            (Takes::Nothing, _) | (Takes::Route, When::Healthy) => {}
            (Takes::Route, When::Outage) | (Takes::One, When::Healthy) => outages.extend(spans),
            (Takes::One, When::Outage) | (Takes::Both, _) => taken.extend(spans),
        }
        if self.when == When::Outage {
            self.recover(&leased)?;
        }
        leased.stands(&before)?;
        leased.finish_taken(&outages, &taken)
    }

    /// It happens when the lease is renewed, which is often until the server says otherwise.
    const fn is_told_by_server(&self) -> bool {
        match self.event {
            Event::Renew | Event::Rebind | Event::Refuse | Event::Address | Event::Gateway => true,
            Event::Expire
            | Event::Metric
            | Event::Release
            | Event::Restart
            | Event::Reconfigure
            | Event::DownUp => false,
        }
    }

    /// Gives when something was taken, if anything was.
    fn happens(&self, leased: &mut Leased) -> Result<Vec<Range<Instant>>, Failed> {
        let (begun, interface) = (now(), self.when.elected());
        let order =
            |leased: &Leased, order| Ok(leased.client.order(&leased.scene.site.worker, order, interface)?);
        let span = match self.event {
            Event::Renew => self.extended(leased, || leased.renewed(interface))?,
            Event::Rebind => self.extended(leased, || leased.rebound(interface))?,
            Event::Refuse => return self.refused(leased),
            Event::Expire => return self.expired(leased),
            Event::Address | Event::Gateway => return self.offered(leased),
            Event::Metric => return self.preferred(leased),
            Event::Restart => {
                let since = leased.restart()?;
                self.carries(leased, &["port", "mgmt"], since)?
            }
            Event::Reconfigure => {
                let since = order(leased, Order::Reconfigure)?;
                self.carries(leased, &[interface], since)?
            }
            Event::DownUp => {
                self.loses(leased, || order(leased, Order::Down))?;
                let since = order(leased, Order::Up)?;
                self.carries(leased, &[interface], since)?
            }
            Event::Release => {
                self.loses(leased, || Ok(leased.client.release(interface)?))?;
                let since = leased.client.renew(&leased.scene.site.worker, interface)?;
                self.carries(leased, &[interface], since)?
            }
        };
        Ok(vec![begun..span.end])
    }

    /// The manager is at work on these interfaces; an uplink carries traffic when it is done.
    fn carries(
        &self,
        leased: &Leased,
        interfaces: &[&str],
        since: Instant,
    ) -> Result<Range<Instant>, Failed> {
        leased.endures(&Family::ALL, interfaces, || {
            // NetworkManager configures anew within the order, and asks for no other lease.
            if (self.kind, self.event) != (ClientKind::NetworkManager, Event::Reconfigure) {
                leased.given_again(self.when, since)?;
            }
            Ok(since)
        })
    }

    /// A lease is extended: nothing of ours is written, unless udhcpc's script took the pin away.
    fn extended(
        &self,
        leased: &Leased,
        act: impl FnOnce() -> Result<Instant, Failed>,
    ) -> Result<Range<Instant>, Failed> {
        let (since, marks) = (leased.scene.changes.caught_up()?, leased.marks()?);
        let span = leased.endures(&[Family::Ipv4], &[self.when.elected()], act)?;
        if leased.marks()? != marks {
            return Err(leased.told(&format!("marks were laid anew; before:\n{marks}")));
        }
        if self.kind != ClientKind::Udhcpc {
            leased.wrote_nothing(since)?;
        }
        Ok(span)
    }

    fn refused(&self, leased: &Leased) -> Result<Vec<Range<Instant>>, Failed> {
        let (begun, interface) = (now(), self.when.elected());
        self.loses(leased, || {
            let nothing = Offer { address: None, ..last(leased.uplink(interface)) };
            let since = leased.renew_with(interface, &nothing)?;
            leased.lost_address(interface, since)?;
            Ok(since)
        })?;
        let since = leased.server(interface).offer(&last(leased.uplink(interface)))?;
        Ok(vec![begun..self.carries(leased, &[interface], since)?.end])
    }

    fn expired(&self, leased: &Leased) -> Result<Vec<Range<Instant>>, Failed> {
        let interface = self.when.elected();
        let mut lost = now();
        leased.deaf(interface, "", || {
            self.loses(leased, || {
                lost = leased.lost_address(interface, now())?;
                Ok(lost)
            })
        })?;
        Ok(vec![lost..self.carries(leased, &[interface], now())?.end])
    }

    /// Another address or gateway is offered, then those before.
    fn offered(&self, leased: &Leased) -> Result<Vec<Range<Instant>>, Failed> {
        let interface = self.when.elected();
        let uplink = leased.uplink(interface);
        let usual = Offer::of(uplink);
        let other = if self.event == Event::Address {
            Offer { address: Some(beside(uplink.address4, 7)), ..usual }
        } else {
            Offer { router: Some(other_gateway(uplink)?), ..usual }
        };
        let offers = [other, last(uplink)].into_iter();
        let spans = offers.map(|offer| {
            let act = || leased.renew_with(interface, &offer);
            let span = leased.changed(interface, act, is_default(interface))?;
            leased.scene.leads_to(interface)?;
            Ok(span)
        });
        spans.collect()
    }

    /// Another metric, then the one before.
    fn preferred(&self, leased: &mut Leased) -> Result<Vec<Range<Instant>>, Failed> {
        let interface = self.when.elected();
        let usual = leased.uplink(interface).metric;
        let spans = [AHEAD, usual].map(|metric| {
            let since = leased.reload(interface, metric)?;
            let laid = |change: &Change| {
                is_default(interface)(change) && change.route().is_some_and(|route| route.metric == metric)
            };
            leased.scene.changes.wait_for("the route of another metric", since, MANAGER, laid)?;
            leased.endures(&Family::ALL, &[interface], || {
                leased.has_defaults(interface)?;
                Ok(since)
            })
        });
        spans.into_iter().collect()
    }

    /// The port is well again, and all comes back to it.
    fn recover(&self, leased: &Leased) -> Outcome {
        let site = &leased.scene.site;
        site.port.cable.heal();
        // The dhclient that ifup started there has given up for five minutes; who looks after the host does
        // not wait for that.
        if (self.kind, self.event) == (ClientKind::Ifupdown, Event::Restart) {
            leased.client.order(&site.worker, Order::Down, "port")?;
            leased.client.order(&site.worker, Order::Up, "port")?;
        }
        leased.has_defaults("port")?;
        leased.scene.leads_to("port")
    }

    /// NetworkManager keeps an address for long without a lease. Told otherwise, it asks for one anew.
    fn gives_up_soon(&self, leased: &Leased) -> Outcome {
        if self.kind != ClientKind::NetworkManager || !matches!(self.event, Event::Refuse | Event::Expire) {
            return Ok(());
        }
        let interface = self.when.elected();
        let since = now();
        leased.client.give_up_after(&leased.scene.site.worker, interface, GRACE)?;
        leased.given_again(self.when, since)?;
        leased.quiet(|_| true)
    }

    /// The elected uplink loses its address: the other carries on at once, if that works.
    fn loses(&self, leased: &Leased, act: impl FnOnce() -> Result<Instant, Failed>) -> Outcome {
        let elected = self.when.elected();
        match self.when {
            When::Healthy => {
                leased.endures(&Family::ALL, &[elected], act)?;
                let leads = || leased.scene.way_to(INTERNET[0]).as_deref() == Some("mgmt");
                leased.within("it leads to mgmt", || Ok(leads()))
            }
            When::Outage => {
                act()?;
                let has = || has_default(&leased.scene.site, Family::Ipv4, elected);
                leased.within("its default route is gone", || Ok(!has()?))
            }
        }
    }
}

impl When {
    const fn elected(self) -> &'static str {
        match self {
            Self::Healthy => "port",
            Self::Outage => "mgmt",
        }
    }
}

impl Leased {
    /// From the next renewal on, which this waits for, leases are renewed once a minute.
    fn seldom(&self) -> Outcome {
        for (server, uplink) in self.servers.iter().zip([self.port(), self.mgmt()]) {
            let since = server.offer(&last(uplink))?;
            self.client.renew(&self.scene.site.worker, uplink.interface)?;
            server.wait_for_lease(since)?;
            // The server's word comes first; then a script may take the routes away for a moment.
            self.client.wait_for_lease(uplink.interface, since)?;
            self.settled(Family::Ipv4, &[uplink.interface], since);
        }
        self.quiet(|_| true)
    }

    fn restart(&mut self) -> Result<Instant, Failed> {
        Ok(self.client.restart(&self.scene.site.worker)?)
    }

    /// Waits until the servers that can be heard have confirmed a lease, and the default routes are
    /// there.
    fn given_again(&self, when: When, since: Instant) -> Outcome {
        let interface = when.elected();
        self.server(interface).wait_long_for_lease(since, MANAGER)?;
        self.has_defaults(interface)
    }

    /// Waits until an interface has the manager's default routes, and an IPv6 address that was found to be
    /// its alone.
    fn has_defaults(&self, interface: &str) -> Outcome {
        let site = &self.scene.site;
        let has = |family| has_default(site, family, interface);
        let show = format!("-6 -o address show dev {interface} scope global -tentative");
        self.within(&format!("{interface} has default routes and an address"), || {
            Ok(has(Family::Ipv4)? && has(Family::Ipv6)? && !site.worker.ip(&show)?.is_empty())
        })
    }

    fn uplink(&self, interface: &str) -> &Uplink {
        if interface == "port" { self.port() } else { self.mgmt() }
    }

    fn server(&self, interface: &str) -> &DhcpServer {
        &self.servers[usize::from(interface == "mgmt")]
    }

    /// Lets a lease be renewed, if need be waits for it. Gives the moment before.
    fn renewed(&self, interface: &str) -> Result<Instant, Failed> {
        let since = self.client.renew(&self.scene.site.worker, interface)?;
        self.server(interface).wait_for_lease(since)?;
        self.client.wait_for_lease(interface, since)?;
        Ok(since)
    }

    /// The server of an uplink hears no renewal, until a lease was extended all the same. Gives the moment
    /// before.
    fn rebound(&self, interface: &str) -> Result<Instant, Failed> {
        let since = now();
        let to_server = format!("ip daddr {}", self.uplink(interface).gateway4);
        self.deaf(interface, &to_server, || {
            self.server(interface).wait_long_for_lease(since, WITH_LEASE)?;
            Ok(())
        })?;
        Ok(since)
    }

    /// The server of an uplink does not hear what matches this while something is done.
    fn deaf(&self, interface: &str, to: &str, act: impl FnOnce() -> Outcome) -> Outcome {
        let gateway = &self.uplink(interface).gateway;
        gateway.command(
            "nft",
            &[&format!(
                "add table ip deaf; add chain ip deaf in {{ type filter hook input priority 0; }}; \
                 add rule ip deaf in {to} udp dport 67 drop"
            )],
        )?;
        act()?;
        gateway.command("nft", &["delete table ip deaf"])?;
        Ok(())
    }

    /// Waits until an interface has lost an IPv4 address; gives when it did.
    fn lost_address(&self, interface: &str, since: Instant) -> Result<Instant, Failed> {
        let is_gone = |change: &Change| {
            matches!(change, Change::AddressDeleted { .. }) && is_theirs(change, Family::Ipv4, interface)
        };
        let gone = self.scene.changes.wait_for("the address's end", since, WITH_LEASE, is_gone);
        gone.map(|gone| gone.at).map_err(|error| self.told(&error.to_string()))
    }

    /// Our nftables tables, with the handles of what is in them: new ones where anything was laid anew.
    fn marks(&self) -> Result<String, Failed> {
        let list =
            |family| self.scene.site.worker.command("nft", &["-a", "list", "table", family, "uplinkd"]);
        Ok(list("ip")? + &list("ip6")?)
    }

    /// All that is not ours is as it was before.
    fn stands(&self, before: &Laid) -> Outcome {
        let worker = &self.scene.site.worker;
        let same = self.within("what others laid is as it was", || {
            // What takes many programs to see is not looked at all the time.
            pass(Duration::from_millis(100));
            Ok(worker.laid()?.others == before.others)
        });
        same.or_else(|error| {
            let changed = worker.laid()?.difference(before);
            Err(format!("{}\nchanged:\n{changed}", error.message().unwrap_or_default()).into())
        })
    }

    /// Waits until something is so, as long as a manager may take.
    fn within(&self, what: &str, is_so: impl Fn() -> Result<bool, Failed>) -> Outcome {
        let end = now() + MANAGER;
        while !is_so()? {
            if now() >= end {
                return Err(self.told(&format!("not so within {MANAGER:?}: {what}")));
            }
            pass(Duration::from_millis(5));
        }
        Ok(())
    }
}
