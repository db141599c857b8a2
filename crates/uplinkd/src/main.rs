//! Keeps a host's default route on its best working uplink.

mod alarm;
mod apply;
mod cli;
mod clock;
mod config;
mod daemon;
mod memory;
mod netlink;
mod observe;
mod probe;
mod report;
mod sys;

fn main() {}
