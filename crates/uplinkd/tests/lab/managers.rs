//! What managers of the network do beside leases: restarted, told to configure anew or to apply netplan's
//! file, taken down and up, a lease given back, a server that answers only broadcasts; each while all is
//! well and while the port is silent. With the real programs, as in `dhcp`.
//!
//! There are many, and they are slow: most are made with `-- --include-ignored managers:` only.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_core::snapshot::Family;
use uplink_core::time::Instant;
use uplink_lab::{ClientKind, Offer, Order, Uplink, now, pass};

use crate::dhcp::{Leased, has_default, last};
use crate::scene::{BRISK, INTERNET, Outcome, trial};

/// How long a manager may take: some ask for a lease again only after some seconds.
const MANAGER: Duration = Duration::from_secs(60);

/// What happens to a manager, or is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// It is ended and started again.
    Restart,
    /// It is told to configure an interface anew.
    Reconfigure,
    /// It is told to take an interface down, and later up.
    DownUp,
    /// `netplan apply`, after one that made netplan's file count.
    Netplan,
    /// It gives a lease back, and later asks for another.
    Release,
    /// The server hears broadcasts only: at T2 the lease is extended by one (RFC 2131, section 4.4.5).
    Rebind,
}

/// What a manager itself takes away meanwhile, and gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Nothing, or nothing that anything needs.
    Nothing,
    /// The addresses of one uplink, while another works.
    One,
    /// The addresses of all uplinks that work.
    All,
}

/// When it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// Both uplinks are well; it happens to the port, which is elected.
    Healthy,
    /// The port is silent; it happens to management, which is elected.
    Outage,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    kind: ClientKind,
    event: Event,
    when: When,
    takes: Takes,
    /// Made each time, and not only when asked for.
    always: bool,
}

/// All managers and events.
const CASES: &[Case] = {
    use ClientKind::{Dhclient, Ifupdown, NetworkManager, Networkd, Udhcpc};
    use Event::{DownUp, Netplan, Rebind, Reconfigure, Release, Restart};
    use Takes::{All, Nothing, One};
    use When::{Healthy, Outage};
    &[
        each_time(Networkd, Restart, Healthy, All),
        each_time(Networkd, Restart, Outage, All),
        each_time(Networkd, Reconfigure, Healthy, One),
        if_asked(Networkd, Reconfigure, Outage, All),
        if_asked(Networkd, DownUp, Healthy, One),
        if_asked(Networkd, DownUp, Outage, All),
        each_time(NetworkManager, Restart, Healthy, Nothing),
        if_asked(NetworkManager, Restart, Outage, Nothing),
        each_time(NetworkManager, Reconfigure, Healthy, Nothing),
        if_asked(NetworkManager, Reconfigure, Outage, Nothing),
        if_asked(NetworkManager, DownUp, Healthy, One),
        if_asked(NetworkManager, DownUp, Outage, All),
        // netplan has systemd-networkd reload and then reconfigure at once: seen to leave it without an address
        // that it had just been given, once in some ten runs.
        if_asked(Networkd, Netplan, Healthy, All),
        if_asked(Networkd, Netplan, Outage, All),
        if_asked(NetworkManager, Netplan, Healthy, All),
        if_asked(NetworkManager, Netplan, Outage, All),
        if_asked(Udhcpc, Restart, Healthy, All),
        if_asked(Udhcpc, Restart, Outage, All),
        if_asked(Udhcpc, Release, Healthy, One),
        if_asked(Udhcpc, Release, Outage, All),
        if_asked(Dhclient, Restart, Healthy, Nothing),
        if_asked(Dhclient, Restart, Outage, Nothing),
        each_time(Ifupdown, DownUp, Healthy, One),
        if_asked(Ifupdown, DownUp, Outage, All),
        if_asked(Ifupdown, Restart, Healthy, All),
        if_asked(Networkd, Rebind, Healthy, Nothing),
        if_asked(Networkd, Rebind, Outage, Nothing),
        if_asked(NetworkManager, Rebind, Healthy, Nothing),
        if_asked(NetworkManager, Rebind, Outage, Nothing),
        if_asked(Dhclient, Rebind, Healthy, Nothing),
        if_asked(Dhclient, Rebind, Outage, Nothing),
    ]
};

const fn each_time(kind: ClientKind, event: Event, when: When, takes: Takes) -> Case {
    Case { kind, event, when, takes, always: true }
}

const fn if_asked(kind: ClientKind, event: Event, when: When, takes: Takes) -> Case {
    Case { kind, event, when, takes, always: false }
}

pub(crate) fn trials() -> Vec<Trial> {
    let named = |case: &'static Case| {
        let Case { kind, event, when, takes, always } = case;
        let name = format!("managers: {kind}: {event:?}, {when:?}: it takes {takes:?}, we nothing");
        trial(&name, || case.show()).with_ignored_flag(!always)
    };
    CASES.iter().map(named).collect()
}

impl Case {
    fn show(&self) -> Outcome {
        let mut leased = Leased::offered(self.kind, BRISK, Offer::of)?;
        leased.scene.leads_to("port")?;
        if self.event != Event::Rebind {
            leased.seldom()?;
        }
        let mut taken = Vec::new();
        if self.event == Event::Netplan {
            let begun = now();
            taken.push(begun..self.happens(&mut leased, When::Healthy)?);
            leased.scene.leads_to("port")?;
        }
        let before = leased.scene.foreign()?;
        let silent = match self.when {
            When::Healthy => None,
            When::Outage => Some(leased.fail_over()?),
        };
        let begun = now();
        let span = self.happens(&mut leased, self.when)?;
        leased.scene.leads_to(self.when.elected())?;
        let mut outages = Vec::from_iter(silent);
        match self.takes {
            Takes::Nothing => {}
            Takes::One => outages.push(begun..span),
            Takes::All => taken.push(begun..span),
        }
        if self.when == When::Outage {
            leased.recover()?;
        }
        leased.stands(&before)?;
        leased.finish_taken(&outages, &taken)
    }

    /// Gives when it was over.
    fn happens(&self, leased: &mut Leased, when: When) -> Result<Instant, Failed> {
        let interface = when.elected();
        let both = ["port", "mgmt"];
        let order =
            |leased: &Leased, order| Ok(leased.client.order(&leased.scene.site.worker, order, interface)?);
        let carries = |leased: &Leased, interfaces: &[&str], since, asks: bool| {
            leased.endures(&Family::ALL, interfaces, || {
                if asks {
                    leased.given_again(when, since)?;
                }
                Ok(since)
            })
        };
        let span = match self.event {
            Event::Restart => {
                let since = leased.restart()?;
                carries(leased, &both, since, true)?
            }
            Event::Netplan => {
                let since = leased.client.netplan_apply(&leased.scene.site.worker)?;
                carries(leased, &both, since, true)?
            }
            Event::Reconfigure => {
                let since = order(leased, Order::Reconfigure)?;
                // NetworkManager does so within the order, and asks for no other lease.
                carries(leased, &[interface], since, self.kind == ClientKind::Networkd)?
            }
            Event::DownUp => {
                self.loses(leased, || order(leased, Order::Down))?;
                let since = order(leased, Order::Up)?;
                carries(leased, &[interface], since, true)?
            }
            Event::Release => {
                self.loses(leased, || Ok(leased.client.release(interface)?))?;
                let since = leased.client.renew(&leased.scene.site.worker, interface)?;
                carries(leased, &[interface], since, true)?
            }
            Event::Rebind => leased.endures(&Family::ALL, &[interface], || leased.rebinds(interface))?,
        };
        Ok(span.end)
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
        self.servers[usize::from(interface == "mgmt")].wait_for_lease(since)?;
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

    /// The server of an uplink hears no renewal, until a lease was extended all the same.
    fn rebinds(&self, interface: &str) -> Result<Instant, Failed> {
        let [port, mgmt] = &self.servers;
        let (server, Uplink { gateway, gateway4, .. }) =
            if interface == "port" { (port, self.port()) } else { (mgmt, self.mgmt()) };
        gateway.command(
            "nft",
            &[&format!(
                "add table ip deaf; add chain ip deaf in {{ type filter hook input priority 0; }}; \
             add rule ip deaf in ip daddr {gateway4} udp dport 67 drop"
            )],
        )?;
        let since = now();
        server.wait_for_lease(since)?;
        gateway.command("nft", &["delete table ip deaf"])?;
        Ok(since)
    }

    /// The port is well again, and all comes back to it.
    fn recover(&self) -> Outcome {
        self.scene.site.port.cable.heal();
        self.has_defaults("port")?;
        self.scene.leads_to("port")
    }

    /// All that is not ours is as it was before.
    fn stands(&self, before: &str) -> Outcome {
        let same = self.within("what others laid is as it was", || Ok(self.scene.foreign()? == before));
        same.map_err(|error| {
            let now = self.scene.foreign().unwrap_or_default();
            format!("{}\nbefore:\n{before}\nnow:\n{now}", error.message().unwrap_or_default()).into()
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
