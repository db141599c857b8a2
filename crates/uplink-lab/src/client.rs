//! The DHCP clients that workers have, as they are installed.

mod bus;
mod ifupdown;
mod network_manager;

use std::fmt;
use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use uplink_core::time::Instant;

use crate::background::Background;
use crate::clock::now;
use crate::error::{Doing, Error, Result};
use crate::host::{Host, tool};
use crate::program::Program;

/// A DHCP client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientKind {
    /// systemd-networkd, with a system bus for `networkctl`. It takes router advertisements, too. It
    /// needs root: it becomes another user, and a user namespace of this lab has one only.
    Networkd,
    /// NetworkManager with its own DHCP client, and a system bus for `nmcli`. It takes router
    /// advertisements, too.
    NetworkManager,
    /// udhcpc, with a script that does to addresses and routes what Debian's does, but that its
    /// routes have a metric.
    Udhcpc,
    /// ISC dhclient with Debian's own script, as ifupdown starts it.
    Dhclient,
    /// ifupdown, which starts and ends dhclient in the background.
    Ifupdown,
}

impl ClientKind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Networkd, Self::NetworkManager, Self::Udhcpc, Self::Dhclient, Self::Ifupdown];
}

impl fmt::Display for ClientKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Networkd => "networkd",
            Self::NetworkManager => "NetworkManager",
            Self::Udhcpc => "udhcpc",
            Self::Dhclient => "dhclient",
            Self::Ifupdown => "ifupdown",
        })
    }
}

/// An interface that a client looks after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managed {
    /// Its name.
    pub interface: &'static str,
    /// The metric of the routes that the client lays.
    pub metric: u32,
}

/// What a client can be told to do with an interface, by the tool that comes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// To configure it anew: `networkctl reconfigure`, `nmcli device reapply`.
    Reconfigure,
    /// To take it down: `networkctl down`, `nmcli connection down`, `ifdown`.
    Down,
    /// To take it up: `networkctl up`, `nmcli connection up`, `ifup`.
    Up,
}

/// A running client, killed when dropped; what it laid stays then.
#[derive(Debug)]
pub struct DhcpClient {
    kind: ClientKind,
    interfaces: Vec<Managed>,
    /// By interface, where there is one for each.
    programs: Vec<(&'static str, Program)>,
    /// By which its tools speak with it.
    bus: Option<Program>,
    /// What ifupdown started.
    background: Option<Background>,
}

impl DhcpClient {
    /// Starts a client for these interfaces of a host.
    ///
    /// # Errors
    /// If one of its programs is not installed, or does not start.
    pub fn start(kind: ClientKind, host: &Host, interfaces: &[Managed]) -> Result<Self> {
        let (mut bus, mut background) = (None, None);
        match kind {
            ClientKind::Networkd => {
                prepare_networkd(host, interfaces)?;
                bus = Some(bus::start(host)?);
            }
            ClientKind::NetworkManager => {
                network_manager::prepare(host, interfaces)?;
                bus = Some(bus::start(host)?);
            }
            ClientKind::Ifupdown => background = Some(ifupdown::start(host, interfaces)?),
            ClientKind::Udhcpc | ClientKind::Dhclient => {}
        }
        let programs = programs(kind, host, interfaces)?;
        Ok(Self { kind, interfaces: interfaces.to_vec(), programs, bus, background })
    }

    /// Ends it and starts it again, as the service manager does when it is told to. Gives the moment
    /// before.
    ///
    /// # Errors
    /// If it does not end, or not start.
    pub fn restart(&mut self, host: &Host) -> Result<Instant> {
        let moment = now();
        for order in [Order::Down, Order::Up] {
            for managed in &self.interfaces {
                if self.background.is_some() {
                    self.order(host, order, managed.interface)?;
                }
            }
        }
        self.programs.drain(..).try_for_each(|(_, program)| program.end())?;
        self.programs = programs(self.kind, host, &self.interfaces)?;
        Ok(moment)
    }

    /// Tells it to do something with an interface, and waits as long as its tool does. Gives the moment
    /// before.
    ///
    /// # Errors
    /// What the tool says; also if it has none.
    pub fn order(&self, host: &Host, order: Order, interface: &str) -> Result<Instant> {
        let moment = now();
        let (tool, words) = match (self.kind, order) {
            (ClientKind::Networkd, Order::Reconfigure) => ("networkctl", ["reconfigure"].as_slice()),
            (ClientKind::Networkd, Order::Down) => ("networkctl", ["down"].as_slice()),
            (ClientKind::Networkd, Order::Up) => ("networkctl", ["up"].as_slice()),
            (ClientKind::NetworkManager, Order::Reconfigure) => ("nmcli", ["device", "reapply"].as_slice()),
            (ClientKind::NetworkManager, Order::Down) => ("nmcli", ["connection", "down"].as_slice()),
            (ClientKind::NetworkManager, Order::Up) => ("nmcli", ["connection", "up"].as_slice()),
            (ClientKind::Ifupdown, Order::Down) => ("ifdown", [].as_slice()),
            (ClientKind::Ifupdown, Order::Up) => ("ifup", [].as_slice()),
            (ClientKind::Udhcpc | ClientKind::Dhclient, _) | (ClientKind::Ifupdown, Order::Reconfigure) => {
                return Err(Error::Unexpected(format!("{} has no tool for {order:?}", self.kind)));
            }
        };
        match &self.background {
            Some(background) => ifupdown::run(background, host, tool, interface)?,
            None => host.command(tool, &[words, &[interface]].concat()).map(drop)?,
        }
        Ok(moment)
    }

    /// Lets it renew the lease of an interface now, where it can be told to: dhclient and NetworkManager
    /// renew when the server's T1 has passed, which udhcpc does not know. Gives the moment before.
    ///
    /// # Errors
    /// If it has ended, or what `networkctl` says.
    pub fn renew(&self, host: &Host, interface: &str) -> Result<Instant> {
        let moment = now();
        match self.kind {
            ClientKind::Networkd => host.command("networkctl", &["renew", interface]).map(drop)?,
            ClientKind::Udhcpc => self.signal(interface, Signal::SIGUSR1)?,
            ClientKind::NetworkManager | ClientKind::Dhclient | ClientKind::Ifupdown => {}
        }
        Ok(moment)
    }

    /// Waits until udhcpc has taken the lease that it asked for after a moment: asked again before, it gives
    /// up what it has and begins anew. The others bear that, and are not waited for.
    ///
    /// # Errors
    /// [`Late`](crate::Error::Late), with what it said.
    pub fn wait_for_lease(&self, interface: &str, since: Instant) -> Result<()> {
        if self.kind != ClientKind::Udhcpc {
            return Ok(());
        }
        let mut programs = self.programs.iter().filter(|(of, _)| *of == interface);
        programs.try_for_each(|(_, program)| {
            program.wait_for_line("its lease", since, |line| line.contains(" obtained from ")).map(drop)
        })
    }

    /// Lets it look after an interface otherwise: `networkctl reload`; `nmcli connection reload`, then
    /// `nmcli device reapply`; `ifdown`, then `ifup`; the others end and are started again. Gives the
    /// moment before.
    ///
    /// # Errors
    /// If that cannot be written, what the tool says, or if it does not end or not start.
    pub fn reload(&mut self, host: &Host, managed: &Managed) -> Result<Instant> {
        let moment = now();
        let before = self.interfaces.iter_mut().find(|before| before.interface == managed.interface);
        before.into_iter().for_each(|before| before.clone_from(managed));
        match self.kind {
            ClientKind::Networkd => {
                host.write(&network_path(managed.interface), network(managed))?;
                host.command("networkctl", &["reload"])?;
            }
            ClientKind::NetworkManager => {
                network_manager::write(host, managed)?;
                host.command("nmcli", &["connection", "reload"])?;
                self.order(host, Order::Reconfigure, managed.interface)?;
            }
            ClientKind::Udhcpc | ClientKind::Dhclient => {
                let at = self.programs.iter().position(|(of, _)| *of == managed.interface);
                if let Some(at) = at {
                    self.programs.swap_remove(at).1.end()?;
                }
                self.programs.extend(programs(self.kind, host, std::slice::from_ref(managed))?);
            }
            ClientKind::Ifupdown => {
                self.order(host, Order::Down, managed.interface)?;
                ifupdown::write(host, &self.interfaces)?;
                self.order(host, Order::Up, managed.interface)?;
            }
        }
        Ok(moment)
    }

    /// For how long NetworkManager keeps an address after it lost the lease and before it begins anew
    /// (`ipv4.dhcp-timeout`), in whole seconds.
    ///
    /// # Errors
    /// What `nmcli` says.
    pub fn give_up_after(&self, host: &Host, interface: &str, span: Duration) -> Result<()> {
        let seconds = span.as_secs().to_string();
        host.command("nmcli", &["device", "modify", interface, "ipv4.dhcp-timeout", &seconds]).map(drop)
    }

    /// Lets udhcpc give the lease of an interface back. Gives the moment before.
    ///
    /// # Errors
    /// If it has ended.
    pub fn release(&self, interface: &str) -> Result<Instant> {
        let moment = now();
        self.signal(interface, Signal::SIGUSR2).map(|()| moment)
    }

    /// What it said so far, for people.
    #[must_use]
    pub fn log(&self) -> String {
        let programs = self.bus.iter().chain(self.programs.iter().map(|(_, program)| program));
        programs.map(|program| format!("{}\n", program.log())).collect()
    }

    fn signal(&self, interface: &str, signal: Signal) -> Result<()> {
        let mut programs = self.programs.iter().filter(|(of, _)| *of == interface);
        programs.try_for_each(|(_, program)| program.signal(signal))
    }
}

/// Starts its daemons.
fn programs(kind: ClientKind, host: &Host, interfaces: &[Managed]) -> Result<Vec<(&'static str, Program)>> {
    match kind {
        ClientKind::Networkd => Ok(vec![("", networkd(host)?)]),
        ClientKind::NetworkManager => Ok(vec![("", network_manager::start(host)?)]),
        ClientKind::Udhcpc => interfaces.iter().map(|managed| udhcpc(host, managed)).collect(),
        ClientKind::Dhclient => interfaces.iter().map(|managed| dhclient(host, managed)).collect(),
        ClientKind::Ifupdown => Ok(Vec::new()),
    }
}

fn prepare_networkd(host: &Host, interfaces: &[Managed]) -> Result<()> {
    let users = fs::read_to_string("/proc/self/uid_map").doing("read which users there are")?;
    if users.split_whitespace().nth(2) == Some("1") {
        let why = "systemd-networkd becomes another user, and there is only one here: run this as root";
        return Err(Error::Unexpected(why.to_owned()));
    }
    for managed in interfaces {
        host.write(&network_path(managed.interface), network(managed))?;
    }
    // It waits for udev where /sys can be written (sd-device, `udev_available`).
    host.command("mount", &["-o", "remount,ro", "/sys"]).map(drop)
}

fn networkd(host: &Host) -> Result<Program> {
    let mut command = Command::new("/lib/systemd/systemd-networkd");
    command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").env("SYSTEMD_LOG_TARGET", "console");
    Program::start(host, "systemd-networkd", command)
}

fn network_path(interface: &str) -> String {
    format!("/run/systemd/network/10-{interface}.network")
}

/// systemd.network(5).
fn network(managed: &Managed) -> String {
    let Managed { interface, metric } = managed;
    format!(
        "[Match]\nName={interface}\n\
         [Network]\nDHCP=ipv4\nIPv6AcceptRA=yes\nLinkLocalAddressing=ipv6\n\
         [DHCPv4]\nRouteMetric={metric}\nSendHostname=no\nUseHostname=no\n\
         [IPv6AcceptRA]\nRouteMetric={metric}\nDHCPv6Client=no\n"
    )
}

const UDHCPC_SCRIPT: &str = "/run/lab-udhcpc";

/// As Debian's `/etc/udhcpc/default.script` treats addresses and routes: it takes any change of the
/// interface's default routes, our pin included, for a reason to lay its own anew.
const UDHCPC_STEPS: &str = r#"#!/bin/sh
case $1 in
bound | renew)
    busybox ifconfig "$interface" "$ip" netmask "$subnet"
    before=$(ip -4 route show dev "$interface" | awk '$1 == "default" { print $3 }')
    [ "$router" = "$before" ] && exit
    ip -4 route flush exact 0.0.0.0/0 dev "$interface"
    [ -z "$router" ] || ip -4 route add default via "$router" dev "$interface" metric "$IF_METRIC"
    ;;
deconfig)
    ip link set "$interface" up
    ip -4 address flush dev "$interface"
    ip -4 route flush dev "$interface"
    ;;
esac
"#;

fn udhcpc(host: &Host, managed: &Managed) -> Result<(&'static str, Program)> {
    let text = format!("{UDHCPC_SCRIPT}.{}", managed.interface);
    host.write(&text, UDHCPC_STEPS)?;
    // Anew for each, and not by this process: what is open for writing cannot be executed, and programs
    // that other threads are about to start have all that is open here.
    let script = format!("{text}.sh");
    host.command("install", &["-m", "755", &text, &script])?;
    let mut command = tool("udhcpc");
    command.args(["-f", "-s", &script, "-i", managed.interface, "-T", "1", "-A", "1"]);
    command.env("IF_METRIC", managed.metric.to_string());
    Ok((managed.interface, Program::start(host, "udhcpc", command)?))
}

/// What Debian's asks for, without names; it tries again soon.
const DHCLIENT_REQUEST: &str = "\
option rfc3442-classless-static-routes code 121 = array of unsigned integer 8;
request subnet-mask, broadcast-address, routers, domain-name-servers, rfc3442-classless-static-routes;
retry 1;
";

fn dhclient(host: &Host, managed: &Managed) -> Result<(&'static str, Program)> {
    let Managed { interface, metric } = managed;
    // One for each: dhclient maps it into memory and dies (SIGBUS) where it is cut short just then.
    let config = format!("/run/lab-dhclient.{interface}.conf");
    host.write(&config, DHCLIENT_REQUEST)?;
    host.write(&format!("/var/lib/dhcp/dhclient.{interface}.leases"), "")?;
    let mut command = tool("dhclient");
    command.args(["-4", "-d", "-cf", &config]);
    command.args(["-pf", &format!("/run/dhclient.{interface}.pid")]);
    command.args(["-lf", &format!("/var/lib/dhcp/dhclient.{interface}.leases")]);
    command.args(["-e", &format!("IF_METRIC={metric}"), interface]);
    Ok((interface, Program::start(host, "dhclient", command)?))
}
