//! A worker that boots: a real systemd, its journal, its network from DHCP by systemd-networkd, and
//! the daemon as its package installs it, in a container whose uplinks are the lab's.
//!
//! Needs root, and once the network, to build the container's files from this machine's mirror.
#![allow(
    clippy::disallowed_macros,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test program with its own main: it may print and panic"
)]

mod boot;
mod netplan;
mod outage;
mod service;
mod worker;

use std::path::Path;
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Trial};
use uplink_lab::Tree;

/// What the container is made of, beside what every Debian has.
const PACKAGES: [&str; 3] = ["systemd", "systemd-sysv", "iproute2"];

/// And what is needed to have netplan say what uplinks there are, to whichever renderer.
const NETPLAN: [&str; 8] = [
    "systemd",
    "systemd-sysv",
    "iproute2",
    "udev",
    "dbus",
    "libpam-systemd",
    "network-manager",
    "netplan.io",
];

/// The container's files before anything is installed.
static TREE: OnceLock<Tree> = OnceLock::new();

/// As above, with netplan; where that is asked for.
static WITH_NETPLAN: OnceLock<Tree> = OnceLock::new();

fn main() {
    let mut arguments = Arguments::from_args();
    if !arguments.list {
        // The network is here, and not in the namespaces.
        find(&TREE, &PACKAGES);
        if arguments.ignored || arguments.include_ignored {
            find(&WITH_NETPLAN, &NETPLAN);
        }
    }
    // Namespaces are entered while there is one thread.
    if let Err(error) = uplink_lab::enter() {
        panic!("{error}");
    }
    // They wait most of the time; more at once make each other late on two cores.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    let trials: Vec<Trial> = [boot::trials(), netplan::trials(), outage::trials(), service::trials()]
        .into_iter()
        .flatten()
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Finds or builds the tree with these packages.
fn find(tree: &OnceLock<Tree>, packages: &[&str]) {
    match Tree::debian(Path::new(env!("CARGO_TARGET_TMPDIR")), packages) {
        Ok(found) => tree.set(found).expect("nobody else sets it"),
        Err(error) => panic!("{error}"),
    }
}
