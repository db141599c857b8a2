//! A DHCP server on a gateway: dnsmasq, which says what it does line by line.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use uplink_core::time::Instant;

use crate::clock::now;
use crate::error::{Doing, Result};
use crate::host::tool;
use crate::program::Program;
use crate::site::Uplink;

/// Who gets which address; read again on SIGHUP.
const HOSTS: &str = "/run/lab-dhcp/hosts";
/// What else is offered; read again on SIGHUP.
const OPTIONS: &str = "/run/lab-dhcp/options";
/// Which leases are out.
const LEASES: &str = "/run/lab-dhcp/leases";

/// What a server offers to the one client that it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The client's address, in the server's /24; none to refuse it any, also the one it has.
    pub address: Option<Ipv4Addr>,
    /// The default router (option 3).
    pub router: Option<Ipv4Addr>,
    /// Destinations, each with its next hop (option 121, RFC 3442). Clients that know it ignore the
    /// router where it is given.
    pub routes: Vec<(String, Ipv4Addr)>,
    /// The name server (option 6).
    pub name_server: Option<Ipv4Addr>,
    /// After which time the client is to renew (T1, option 58), in whole seconds, of which dnsmasq takes
    /// no less than three. The lease is for [`LEASE`](Self::LEASE).
    pub renew_after: Duration,
}

impl Offer {
    /// How long a lease is: the least that dnsmasq gives.
    pub const LEASE: Duration = Duration::from_mins(2);

    /// An uplink's usual address and gateway, to be renewed every three seconds.
    #[must_use]
    pub const fn of(uplink: &Uplink) -> Self {
        Self {
            address: Some(uplink.address4),
            router: Some(uplink.gateway4),
            routes: Vec::new(),
            name_server: None,
            renew_after: Duration::from_secs(3),
        }
    }

    /// The form of dnsmasq's `--dhcp-hostsfile`.
    fn hosts(&self, mac: &str) -> String {
        self.address.map_or_else(String::new, |address| format!("{mac},{address}\n"))
    }

    /// The form of dnsmasq's `--dhcp-optsfile`. An option without a value is not sent.
    fn options(&self) -> String {
        let or_none = |address: Option<Ipv4Addr>| address.map_or_else(String::new, |a| format!(",{a}"));
        let (router, name_server) = (or_none(self.router), or_none(self.name_server));
        // systemd-networkd hears a refusal, which dnsmasq broadcasts, only once it has given up on its
        // own server: T2 (option 59) comes soon. But not at once: it makes both times a little random,
        // and asks nobody any more if T2 comes first.
        let t1 = self.renew_after.as_secs();
        let mut lines = format!("3{router}\n6{name_server}\n58,{t1}\n59,{}\n", t1 + 3);
        if !self.routes.is_empty() {
            let routes = self.routes.iter().map(|(destination, hop)| format!(",{destination},{hop}"));
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "121{}", routes.collect::<String>());
        }
        lines
    }
}

/// A running server, killed when dropped.
#[derive(Debug)]
pub struct DhcpServer {
    program: Program,
    mac: String,
    hosts: PathBuf,
    options: PathBuf,
}

impl DhcpServer {
    /// Starts a server on an uplink's gateway that makes this offer to the worker's interface.
    ///
    /// # Errors
    /// If dnsmasq is not installed, or does not start.
    pub fn start(uplink: &Uplink, offer: &Offer) -> Result<Self> {
        let (gateway, started) = (&uplink.gateway, now());
        let [a, b, c, _] = uplink.gateway4.octets();
        let (net, lease) = (Ipv4Addr::new(a, b, c, 0), Offer::LEASE.as_secs());
        let range = format!("--dhcp-range={net},static,255.255.255.0,{lease}");
        gateway.write(HOSTS, offer.hosts(&uplink.mac))?;
        gateway.write(OPTIONS, offer.options())?;
        let mut command = tool("dnsmasq");
        command.args([
            // Stays in the foreground, is no other user, and speaks to standard error.
            "--no-daemon",
            "--conf-file=/dev/null",
            "--port=0",
            "--interface=lan",
            "--bind-interfaces",
            "--no-ping",
            "--dhcp-authoritative",
            &format!("--dhcp-hostsfile={HOSTS}"),
            &format!("--dhcp-optsfile={OPTIONS}"),
            &format!("--dhcp-leasefile={LEASES}"),
            &range,
        ]);
        let program = Program::start(gateway, "dnsmasq", command)?;
        program.wait_for_line("that it read its options", started, |line| line.contains(OPTIONS))?;
        Ok(Self {
            program,
            mac: uplink.mac.clone(),
            hosts: gateway.path(HOSTS),
            options: gateway.path(OPTIONS),
        })
    }

    /// Makes another offer from now on: what the client has and may not have any longer is refused
    /// (`DHCPNAK`) when it renews. Gives the moment before.
    ///
    /// # Errors
    /// If the server has ended.
    pub fn offer(&self, offer: &Offer) -> Result<Instant> {
        let moment = now();
        for (path, text) in [(&self.hosts, offer.hosts(&self.mac)), (&self.options, offer.options())] {
            std::fs::write(path, text).doing(format!("write {}", path.display()))?;
        }
        self.program.signal(Signal::SIGHUP)?;
        self.program
            .wait_for_line("that it read its options again", moment, |line| line.contains(OPTIONS))?;
        Ok(moment)
    }

    /// Waits until the server confirms a lease (`DHCPACK`) after a moment; gives when it did.
    ///
    /// # Errors
    /// [`Late`](crate::Error::Late), with what the server said.
    pub fn wait_for_lease(&self, since: Instant) -> Result<Instant> {
        self.program.wait_for_line("DHCPACK", since, is_ack)
    }

    /// As above, for at most so long.
    ///
    /// # Errors
    /// As above.
    pub fn wait_long_for_lease(&self, since: Instant, bound: Duration) -> Result<Instant> {
        self.program.wait_long_for_line("DHCPACK", since, bound, is_ack)
    }

    /// What it said so far, for people.
    #[must_use]
    pub fn log(&self) -> String {
        format!("{}\n", self.program.log())
    }
}

fn is_ack(line: &str) -> bool {
    line.contains("DHCPACK(")
}
