//! The DHCP clients that workers have, as they are installed.

use std::fmt;
use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use uplink_core::time::Instant;

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
    /// udhcpc, with a script that does to addresses and routes what Debian's does, but that its
    /// routes have a metric.
    Udhcpc,
    /// ISC dhclient with Debian's own script, as ifupdown starts it.
    Dhclient,
}

impl ClientKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Networkd, Self::Udhcpc, Self::Dhclient];
}

impl fmt::Display for ClientKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Networkd => "networkd",
            Self::Udhcpc => "udhcpc",
            Self::Dhclient => "dhclient",
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

/// A running client, killed when dropped; what it laid stays then.
#[derive(Debug)]
pub struct DhcpClient {
    kind: ClientKind,
    /// By interface, where there is one for each.
    programs: Vec<(&'static str, Program)>,
}

impl DhcpClient {
    /// Starts a client for these interfaces of a host.
    ///
    /// # Errors
    /// If one of its programs is not installed, or does not start.
    pub fn start(kind: ClientKind, host: &Host, interfaces: &[Managed]) -> Result<Self> {
        let programs = match kind {
            ClientKind::Networkd => networkd(host, interfaces),
            ClientKind::Udhcpc => interfaces.iter().map(|managed| udhcpc(host, managed)).collect(),
            ClientKind::Dhclient => interfaces.iter().map(|managed| dhclient(host, managed)).collect(),
        };
        Ok(Self { kind, programs: programs? })
    }

    /// Lets it renew the lease of an interface now, where it can be told to: dhclient renews when the
    /// server's T1 has passed, which udhcpc does not know. Gives the moment before.
    ///
    /// # Errors
    /// If it has ended, or what `networkctl` says.
    pub fn renew(&self, host: &Host, interface: &str) -> Result<Instant> {
        let moment = now();
        match self.kind {
            ClientKind::Networkd => host.command("networkctl", &["renew", interface]).map(drop)?,
            ClientKind::Udhcpc => self.signal(interface, Signal::SIGUSR1)?,
            ClientKind::Dhclient => {}
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

    /// Lets systemd-networkd look after an interface otherwise, as `networkctl reload` does. Gives the
    /// moment before.
    ///
    /// # Errors
    /// If that cannot be written, or what `networkctl` says, as it does for another client.
    pub fn reload(&self, host: &Host, managed: &Managed) -> Result<Instant> {
        host.write(&network_path(managed), network(managed))?;
        let moment = now();
        host.command("networkctl", &["reload"]).map(|_| moment)
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
        self.programs.iter().map(|(_, program)| format!("{}\n", program.log())).collect()
    }

    fn signal(&self, interface: &str, signal: Signal) -> Result<()> {
        let mut programs = self.programs.iter().filter(|(of, _)| *of == interface);
        programs.try_for_each(|(_, program)| program.signal(signal))
    }
}

/// Where systemd-networkd and `networkctl` look for the system bus.
const BUS: &str = "/run/dbus/system_bus_socket";
const BUS_CONFIG: &str = "/run/dbus/lab.conf";
/// Everybody on the host may say everything.
const BUS_POLICY: &str = r#"<busconfig>
<listen>unix:path=/run/dbus/system_bus_socket</listen>
<policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
</policy>
</busconfig>
"#;

fn networkd(host: &Host, interfaces: &[Managed]) -> Result<Vec<(&'static str, Program)>> {
    let users = fs::read_to_string("/proc/self/uid_map").doing("read which users there are")?;
    if users.split_whitespace().nth(2) == Some("1") {
        let why = "systemd-networkd becomes another user, and there is only one here: run this as root";
        return Err(Error::Unexpected(why.to_owned()));
    }
    host.write(BUS_CONFIG, BUS_POLICY)?;
    let mut command = tool("dbus-daemon");
    command.args(["--config-file", BUS_CONFIG, "--nofork", "--nopidfile", "--print-address"]);
    let started = now();
    let bus = Program::start(host, "dbus-daemon", command)?;
    bus.wait_for_line("its address", started, |line| line.contains(BUS))?;
    for managed in interfaces {
        host.write(&network_path(managed), network(managed))?;
    }
    // It waits for udev where /sys can be written (sd-device, `udev_available`).
    host.command("mount", &["-o", "remount,ro", "/sys"])?;
    let mut command = Command::new("/lib/systemd/systemd-networkd");
    command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").env("SYSTEMD_LOG_TARGET", "console");
    let daemon = Program::start(host, "systemd-networkd", command)?;
    Ok(vec![("", bus), ("", daemon)])
}

fn network_path(managed: &Managed) -> String {
    format!("/run/systemd/network/10-{}.network", managed.interface)
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
