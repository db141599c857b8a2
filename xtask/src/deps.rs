//! What the project depends on: programs on the machine, crates in the lock file.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::run::{Failure, cargo, program};

/// A program and the Debian package that has it.
type Needed = (&'static str, &'static str);

/// Programs that the demo runs.
pub(crate) const FOR_DEMO: [Needed; 1] = [("ip", "iproute2")];

/// Programs that the benchmark cannot do without.
pub(crate) const FOR_BENCH: [Needed; 3] =
    [("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")];

/// Programs that the benchmark compares with, what these run, and a DHCP client and its server. Not
/// FRR: its package starts routing daemons, which nobody should get unasked.
pub(crate) const FOR_COMPARISON: [Needed; 5] = [
    ("dhclient", "isc-dhcp-client"),
    ("dnsmasq", "dnsmasq-base"),
    ("fping", "fping"),
    ("keepalived", "keepalived"),
    ("ping", "iputils-ping"),
];

/// Programs that the tests run.
pub(crate) const FOR_TESTS: [Needed; 21] = [
    ("NetworkManager", "network-manager"),
    ("busybox", "busybox"),
    ("dbus-daemon", "dbus-daemon"),
    ("debootstrap", "debootstrap"),
    ("dhclient", "isc-dhcp-client"),
    ("dnsmasq", "dnsmasq-base"),
    ("ifup", "ifupdown"),
    ("ip", "iproute2"),
    ("networkctl", "systemd"),
    ("nft", "nftables"),
    ("nmcli", "network-manager"),
    ("nsenter", "util-linux"),
    ("radvd", "radvd"),
    ("setpriv", "util-linux"),
    ("systemd-analyze", "systemd"),
    ("systemd-nspawn", "systemd-container"),
    ("systemd-sysusers", "systemd"),
    ("udhcpc", "udhcpc"),
    ("unshare", "util-linux"),
    ("wg-quick", "wireguard-tools"),
    ("wireguard-go", "wireguard-go"),
];

/// Packages that manage a machine's network once they are started, and the unit that does it. Tests start
/// what they need in namespaces; the machine's network is nobody's business.
const NOT_STARTED: [(&str, &str); 2] =
    [("ifupdown", "networking.service"), ("network-manager", "NetworkManager.service")];

/// Asked by Debian's packages whether they may start a daemon; 101 forbids it (invoke-rc.d(8)).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// All that the core may depend on: serde, and what its derive macros are built from. None of it
/// does I/O, reads a clock or starts a thread, so the core cannot either, but by the standard library,
/// of which clippy.toml bans clocks, sleeping and printing.
const CORE_MAY_USE: [&str; 8] =
    ["proc-macro2", "quote", "serde", "serde_core", "serde_derive", "syn", "unicode-ident", "uplink-core"];

/// Installs the programs that are missing where that is possible, else names them.
pub(crate) fn programs(needed: &[Needed]) -> Result<(), Failure> {
    let packages: Vec<&str> = missing(needed).into_iter().collect();
    if packages.is_empty() {
        return Ok(());
    }
    let named = packages.join(" ");
    let root = program("id", ["-u"]).output()?.trim() == "0";
    if !root || !on_path("apt-get") {
        return Err(Failure::Other(format!("install these packages first (Debian names): {named}")));
    }
    println!("installing {named}");
    install(&packages)?;
    let still: Vec<&str> = missing(needed).into_iter().collect();
    if still.is_empty() {
        return Ok(());
    }
    Err(Failure::Other(format!("these packages lack a program that is needed: {}", still.join(" "))))
}

/// Installs packages; no daemon of theirs is started, now or at the next boot.
fn install(packages: &[&str]) -> Result<(), Failure> {
    let apt = |arguments: &[&str]| {
        program("apt-get", arguments.iter().copied()).env("DEBIAN_FRONTEND", "noninteractive").run()
    };
    let failed = |what: &str, error: io::Error| Failure::Other(format!("failed to {what} {POLICY}: {error}"));
    let policy = Path::new(POLICY);
    apt(&["update", "--quiet"])?;
    let own = !policy.exists();
    if own {
        fs::write(policy, "#!/bin/sh\nexit 101\n").map_err(|error| failed("write", error))?;
        fs::set_permissions(policy, Permissions::from_mode(0o755)).map_err(|error| failed("write", error))?;
    }
    let options = ["install", "--quiet", "--yes", "--no-install-recommends"];
    let installed = apt(&[&options, packages].concat());
    if own {
        fs::remove_file(policy).map_err(|error| failed("remove", error))?;
    }
    installed?;
    NOT_STARTED
        .iter()
        .filter(|(package, _)| packages.contains(package))
        .try_for_each(|(_, unit)| program("systemctl", ["--no-reload", "disable", unit]).run())
}

/// Packages of programs that are not on the path.
fn missing(needed: &[Needed]) -> BTreeSet<&'static str> {
    needed.iter().filter(|(name, _)| !on_path(name)).map(|&(_, package)| package).collect()
}

/// Whether a program can be run. Administrators' folders are often not on the path of a user.
fn on_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(name).is_file())
}

/// The core's normal dependencies are known not to do I/O.
pub(crate) fn core_is_pure() -> Result<(), Failure> {
    let tree = cargo([
        "tree",
        "--package",
        "uplink-core",
        "--edges",
        "normal,build",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ])
    .output()?;
    let strangers: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| !CORE_MAY_USE.contains(name))
        .collect();
    if strangers.is_empty() {
        return Ok(());
    }
    Err(Failure::Other(format!(
        "uplink-core must not do I/O, but depends on {strangers:?}; move that to a crate at the edge"
    )))
}

/// Dependencies have a licence, a source and one version as deny.toml says.
pub(crate) fn deny() -> Result<(), Failure> {
    if cargo(["deny", "--version"]).output().is_err() {
        println!("installing cargo-deny, which takes some minutes");
        cargo(["install", "--locked", "cargo-deny"]).run()?;
    }
    cargo(["deny", "check", "bans", "licenses", "sources"]).run()
}
