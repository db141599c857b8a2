//! The usual lab: a worker with a port and a management interface, or more, a gateway behind each, and
//! an internet behind all.
//!
//! ```text
//! worker ─ port ══ cable ══ lan ─ gateway ─ wan ── to-port ─┐
//!        └ mgmt ══ cable ══ lan ─ gateway ─ wan ── to-mgmt ─┴ internet
//! ```

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use uplink_core::snapshot::Family;
use uplink_core::time::Instant;

use crate::cable::{Cable, End};
use crate::clock::{now, pass};
use crate::error::{Error, Result};
use crate::host::Host;
use crate::kernel::Route;

/// The internet's address in IPv4.
pub const INTERNET4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// The internet's address in IPv6.
pub const INTERNET6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9);

/// How long a new site may take until its gateways answer.
const READY_BOUND: Duration = Duration::from_secs(20);

/// One of the worker's uplinks: what it is called, its addresses, its cable, its gateway.
#[derive(Debug)]
pub struct Uplink {
    /// The worker's interface: `port`, `mgmt`, or the name of a further one.
    pub interface: &'static str,
    /// Its Ethernet address, the same after each plugging.
    pub mac: String,
    /// The worker's address, in a /24.
    pub address4: Ipv4Addr,
    /// The worker's address, in a /64.
    pub address6: Ipv6Addr,
    /// The gateway's address.
    pub gateway4: Ipv4Addr,
    /// The gateway's link-local address, which default routes go by.
    pub gateway6: Ipv6Addr,
    /// The gateway's other address.
    pub gateway6_global: Ipv6Addr,
    /// The metric of the default routes that a site comes with.
    pub metric: u32,
    /// What faults are caused on.
    pub cable: Cable,
    /// The gateway: interface `lan` towards the worker, `wan` towards the internet.
    pub gateway: Host,
}

/// The usual lab.
#[derive(Debug)]
pub struct Site {
    /// The host that is tested.
    pub worker: Host,
    /// Its high-speed port: 10.0.120.2/24 and fd00:120::2/64.
    pub port: Uplink,
    /// Its management interface: 10.0.10.2/24 and fd00:10::2/64.
    pub mgmt: Uplink,
    /// Further uplinks: `third`, `fourth`, `fifth`.
    pub more: Vec<Uplink>,
    /// Everything behind the gateways; it has [`INTERNET4`] and [`INTERNET6`].
    pub internet: Host,
    /// The switch between the cables and the gateways where both uplinks are in one subnet.
    pub switch: Option<Host>,
}

/// How a site differs from the usual one.
#[derive(Debug, Clone, Copy)]
pub struct SiteBuilder {
    addresses: bool,
    default_routes: bool,
    port_plugged: bool,
    one_subnet: bool,
    more: usize,
}

impl SiteBuilder {
    /// The worker has so many further uplinks, at most three: 10.0.130.2/24 with metric 103, and so on.
    #[must_use]
    pub const fn more(mut self, count: usize) -> Self {
        self.more = count;
        self
    }

    /// The worker has addresses, and no default routes.
    #[must_use]
    pub const fn without_default_routes(mut self) -> Self {
        self.default_routes = false;
        self
    }

    /// The worker has neither addresses nor default routes.
    #[must_use]
    pub const fn without_addresses(mut self) -> Self {
        self.addresses = false;
        self
    }

    /// The worker has no port yet: see [`Site::plug`].
    #[must_use]
    pub const fn without_port(mut self) -> Self {
        self.port_plugged = false;
        self
    }

    /// Both uplinks are in the port's subnet, behind one switch: management is 10.0.120.3 and
    /// fd00:120::3 with the gateways 10.0.120.254 and fe80::2.
    #[must_use]
    pub const fn one_subnet(mut self) -> Self {
        self.one_subnet = true;
        self
    }

    /// Builds it, and waits until the gateways answer in both families if the worker has addresses.
    ///
    /// # Errors
    /// If namespaces or interfaces cannot be made, or a gateway does not answer.
    pub fn build(self) -> Result<Site> {
        let internet = Host::new("internet")?;
        internet.sysctls(QUIET)?;
        // Its answers that come out of one gateway find their way to the worker by the other.
        internet.sysctls(FORWARDING)?;
        internet.sysctl("net/ipv4/conf/all/accept_local", "1")?;
        let switch = self.one_subnet.then(switch).transpose()?;
        let port = PORT.build(&internet, switch.as_ref())?;
        let mgmt = if self.one_subnet { MGMT_BESIDE_PORT } else { MGMT };
        let mgmt = mgmt.build(&internet, switch.as_ref())?;
        let more = MORE.iter().take(self.more).map(|plan| plan.build(&internet, None));
        let more = more.collect::<Result<_>>()?;
        let worker = Host::new("worker")?;
        worker.sysctls(QUIET)?;
        let site = Site { worker, port, mgmt, more, internet, switch };
        site.route_back(self.one_subnet)?;
        let port = self.port_plugged.then_some(&site.port);
        for uplink in port.into_iter().chain([&site.mgmt]).chain(&site.more) {
            site.plug(uplink)?;
            if !self.addresses {
                continue;
            }
            site.lay_addresses(uplink, uplink.interface)?;
            if self.default_routes {
                site.lay_default(uplink, uplink.interface, uplink.metric)?;
            }
            site.await_gateway(uplink)?;
        }
        Ok(site)
    }
}

impl Site {
    /// The usual one: default routes in both families, management with metric 100 and the port with
    /// 101, of protocol `dhcp`.
    ///
    /// # Errors
    /// See [`SiteBuilder::build`].
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// One that differs from the usual.
    #[must_use]
    pub const fn builder() -> SiteBuilder {
        SiteBuilder { addresses: true, default_routes: true, port_plugged: true, one_subnet: false, more: 0 }
    }

    /// All uplinks: the port, management, and further ones.
    pub fn uplinks(&self) -> impl Iterator<Item = &Uplink> {
        [&self.port, &self.mgmt].into_iter().chain(&self.more)
    }

    /// Plugs an uplink's cable into the worker; the interface is up, without addresses.
    ///
    /// # Errors
    /// If it is plugged already.
    pub fn plug(&self, uplink: &Uplink) -> Result<()> {
        let (interface, mac) = (uplink.interface, uplink.mac.as_str());
        uplink.cable.plug(End::Worker, &self.worker, interface, mac)
    }

    /// Pulls an uplink's cable out of the worker: the interface is gone. The moment is right before.
    ///
    /// # Errors
    /// If it is not plugged.
    pub fn unplug(&self, uplink: &Uplink) -> Result<Instant> {
        uplink.cable.unplug(End::Worker)
    }

    /// Gives an interface of the worker the uplink's addresses, and waits until the kernel has them
    /// in use: those of IPv6 it takes a moment later.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn lay_addresses(&self, uplink: &Uplink, interface: &str) -> Result<()> {
        let (v4, v6) = (uplink.address4, uplink.address6);
        self.worker.ip_batch(&format!(
            "address add {v4}/24 dev {interface}\n\
             address add {v6}/64 dev {interface} nodad\n"
        ))?;
        self.await_address(v6)
    }

    /// Gives the worker default routes of protocol `dhcp` through an interface to the uplink's
    /// gateway.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn lay_default(&self, uplink: &Uplink, interface: &str, metric: u32) -> Result<()> {
        let (v4, v6) = (uplink.gateway4, uplink.gateway6);
        self.worker.ip_batch(&format!(
            "route add 0.0.0.0/0 via {v4} dev {interface} proto 16 metric {metric}\n\
             route add ::/0 via {v6} dev {interface} proto 16 metric {metric}\n"
        ))
    }

    /// Waits until an IPv6 address of the worker can be used: the kernel adds its local route a moment
    /// after the address.
    ///
    /// # Errors
    /// If it does not within a few seconds.
    pub fn await_address(&self, address: Ipv6Addr) -> Result<()> {
        let end = now() + READY_BOUND;
        let is_local = |route: &Route| route.destination == address && route.length == 128;
        while !self.worker.routes(Family::Ipv6)?.iter().any(is_local) {
            if now() >= end {
                return Err(Error::Late {
                    what: format!("the local route of {address}"),
                    bound: READY_BOUND,
                });
            }
            pass(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Waits until the uplink's gateway answers the worker in both families.
    ///
    /// # Errors
    /// If it does not within a few seconds.
    pub fn await_gateway(&self, uplink: &Uplink) -> Result<()> {
        for gateway in [IpAddr::from(uplink.gateway4), uplink.gateway6.into()] {
            let device = Some(uplink.interface);
            if self.worker.ping(gateway, device, READY_BOUND)?.is_none() {
                return Err(Error::Late {
                    what: format!("an answer of {gateway} on {}", uplink.interface),
                    bound: READY_BOUND,
                });
            }
        }
        Ok(())
    }

    /// Lets both gateways hide the worker's IPv4 addresses behind their own (masquerade), as most
    /// do: a connection then belongs to the gateway that it began with.
    ///
    /// # Errors
    /// If `nft` is not installed or refuses.
    pub fn masquerade(&self) -> Result<()> {
        const RULES: &str = "add table ip lab; \
            add chain ip lab out { type nat hook postrouting priority srcnat; }; \
            add rule ip lab out oifname wan masquerade";
        for uplink in self.uplinks() {
            uplink.gateway.command("nft", &[RULES])?;
        }
        Ok(())
    }

    /// The internet's way back to the worker's addresses.
    fn route_back(&self, one_subnet: bool) -> Result<()> {
        let (length4, length6) = if one_subnet { (32, 128) } else { (24, 64) };
        let mut lines = format!("address add {INTERNET4}/32 dev lo\naddress add {INTERNET6}/128 dev lo\n");
        for (uplink, net) in self.uplinks().zip(1..) {
            let (v4, v6) = if one_subnet {
                (uplink.address4, uplink.address6)
            } else {
                let [a, b, c, _] = uplink.address4.octets();
                let [d, e, ..] = uplink.address6.segments();
                (Ipv4Addr::new(a, b, c, 0), Ipv6Addr::new(d, e, 0, 0, 0, 0, 0, 0))
            };
            // Writing to a String cannot fail.
            let _ = write!(
                lines,
                "route add {v4}/{length4} via 198.18.{net}.2\nroute add {v6}/{length6} via 2001:db8:{net}::2\n"
            );
        }
        self.internet.ip_batch(&lines)
    }
}

/// Settings of every host: new namespaces may have inherited the machine's own.
const QUIET: &[(&str, &str)] = &[
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/arp_ignore", "0"),
    ("net/ipv4/conf/default/arp_ignore", "0"),
    ("net/ipv4/conf/all/arp_announce", "0"),
    ("net/ipv4/conf/default/arp_announce", "0"),
    ("net/ipv4/conf/all/ignore_routes_with_linkdown", "0"),
    ("net/ipv4/conf/default/ignore_routes_with_linkdown", "0"),
    // Addresses can be used at once, as after a second on a real link.
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];

/// Settings of whatever forwards, beside [`QUIET`].
const FORWARDING: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
];

/// The plan of one uplink: what is known of it before anything is built.
struct Plan {
    /// Names the interface and tells the nets behind the gateway apart.
    interface: &'static str,
    number: u8,
    metric: u32,
    /// Third byte of the subnet, and the second group of its IPv6 prefix.
    subnet: (u8, u16),
    /// Last byte of the worker's address.
    worker: u8,
    /// Last byte of the gateway's IPv4 address.
    gateway4: u8,
    /// Last group of the gateway's IPv6 addresses.
    gateway6: u16,
}

const PORT: Plan = Plan {
    interface: "port",
    number: 1,
    metric: 101,
    subnet: (120, 0x120),
    worker: 2,
    gateway4: 1,
    gateway6: 1,
};

const MGMT: Plan = Plan { interface: "mgmt", number: 2, metric: 100, subnet: (10, 0x10), ..PORT };

/// Management in the port's subnet.
const MGMT_BESIDE_PORT: Plan = Plan { subnet: PORT.subnet, worker: 3, gateway4: 254, gateway6: 2, ..MGMT };

/// Further uplinks.
const MORE: [Plan; 3] = [
    Plan { interface: "third", number: 3, metric: 103, subnet: (130, 0x130), ..PORT },
    Plan { interface: "fourth", number: 4, metric: 104, subnet: (140, 0x140), ..PORT },
    Plan { interface: "fifth", number: 5, metric: 105, subnet: (150, 0x150), ..PORT },
];

impl Plan {
    const fn v4(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, self.subnet.0, last)
    }

    const fn v6(&self, last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, self.subnet.1, 0, 0, 0, 0, 0, last)
    }

    /// Builds the gateway, its link to the internet, and the cable, which is not yet plugged into
    /// the worker.
    fn build(&self, internet: &Host, switch: Option<&Host>) -> Result<Uplink> {
        let interface = self.interface;
        let gateway6 = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, self.gateway6);
        let (gateway4, gateway6_global) = (self.v4(self.gateway4), self.v6(self.gateway6));
        let gateway = Host::new(&format!("gateway of {interface}"))?;
        gateway.sysctls(QUIET)?;
        gateway.sysctls(FORWARDING)?;
        // Its only link-local address is the one it is given below, by which faults know it.
        gateway.sysctl("net/ipv6/conf/default/addr_gen_mode", "1")?;
        let own = [gateway4.into(), gateway6.into(), gateway6_global.into()];
        let cable = Cable::new(&format!("cable of {interface}"), &own)?;
        let mac = format!("02:00:00:01:00:{:02x}", self.number);
        match switch {
            None => cable.plug(End::Gateway, &gateway, "lan", &mac)?,
            Some(switch) => {
                cable.plug(End::Gateway, switch, interface, &mac)?;
                let (to, gateway) = (format!("gw-{interface}"), gateway.namespace());
                switch.ip_batch(&format!(
                    "link set {interface} master switch\n\
                     link add {to} master switch up type veth peer name lan netns {gateway}\n"
                ))?;
            }
        }
        let (net, far) = (self.number, internet.namespace());
        gateway.ip_batch(&format!(
            "link set lan up\n\
             address add {gateway4}/24 dev lan\n\
             address add {gateway6}/64 dev lan nodad\n\
             address add {gateway6_global}/64 dev lan nodad\n\
             link add wan type veth peer name to-{interface} netns {far}\n\
             link set wan addrgenmode eui64 up\n\
             address add 198.18.{net}.2/30 dev wan\n\
             address add 2001:db8:{net}::2/64 dev wan nodad\n\
             route add 0.0.0.0/0 via 198.18.{net}.1\n\
             route add ::/0 via 2001:db8:{net}::1\n"
        ))?;
        internet.ip_batch(&format!(
            "link set to-{interface} up\n\
             address add 198.18.{net}.1/30 dev to-{interface}\n\
             address add 2001:db8:{net}::1/64 dev to-{interface} nodad\n"
        ))?;
        Ok(Uplink {
            interface,
            mac: format!("02:00:00:00:00:{:02x}", self.number),
            address4: self.v4(self.worker),
            address6: self.v6(self.worker.into()),
            gateway4,
            gateway6,
            gateway6_global,
            metric: self.metric,
            cable,
            gateway,
        })
    }
}

/// A bridge, named `switch`, that forwards at once.
fn switch() -> Result<Host> {
    let host = Host::new("switch")?;
    host.sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    host.ip("link add switch up type bridge forward_delay 0")?;
    Ok(host)
}
