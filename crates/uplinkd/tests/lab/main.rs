//! The daemon on real packets: each test checks the kernel's table, its answers to lookups, and a
//! stream of packets, in both families where they apply.
#![allow(
    clippy::disallowed_macros,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test program with its own main: it may print and panic"
)]

mod advertisements;
mod aftermath;
mod aside;
mod boot;
mod capture;
mod configuration;
mod control;
mod crowds;
mod dhcp;
mod ipv6;
mod kills;
mod layouts;
mod leased;
mod lifecycle;
mod links;
mod loss;
mod managers;
mod paths;
mod placement;
mod program;
mod routes;
mod scene;
mod seed;
mod silence;
mod sockets;
mod stalls;
mod targets;
mod tiers;
mod ties;
mod uplinks;
mod vpns;

use libtest_mimic::{Arguments, Trial};

/// One entry a subject.
const SUBJECTS: &[fn() -> Vec<Trial>] = &[
    advertisements::trials,
    aftermath::trials,
    aside::trials,
    boot::trials,
    configuration::trials,
    control::trials,
    crowds::trials,
    dhcp::trials,
    ipv6::trials,
    kills::trials,
    layouts::trials,
    lifecycle::trials,
    links::trials,
    loss::trials,
    managers::trials,
    paths::trials,
    placement::trials,
    routes::trials,
    seed::trials,
    silence::trials,
    sockets::trials,
    stalls::trials,
    targets::trials,
    ties::trials,
    tiers::trials,
    uplinks::trials,
    vpns::trials,
];

fn main() {
    // Namespaces are entered while there is one thread.
    if let Err(error) = uplink_lab::enter() {
        panic!("{error}");
    }
    let mut arguments = Arguments::from_args();
    // More hosts at a time than this make each other late on two cores.
    arguments.test_threads = arguments.test_threads.or(Some(4));
    let trials: Vec<Trial> = SUBJECTS.iter().flat_map(|subject| subject()).collect();
    libtest_mimic::run(&arguments, trials).exit();
}
