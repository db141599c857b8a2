//! Lets every manager of the network do everything that it can be told to.

use crate::deps;
use crate::run::{Failure, cargo, step};

/// Tests at a time: they wait most of the time, and more make each other late.
const AT_A_TIME: &str = "6";

/// Builds the daemon, the lab and the booted worker, and runs those of their tests, most of which are left
/// out otherwise.
pub(crate) fn run() -> Result<(), Failure> {
    step("programs that tests need", || deps::programs(&deps::FOR_TESTS))?;
    step("build", || cargo(["build", "--workspace", "--all-targets"]).run())?;
    let of = |test: &str, named: &str| {
        let program = ["test", "--quiet", "--package", "uplinkd", "--test", test, "--", named];
        let how = ["--include-ignored", "--nocapture", "--test-threads", AT_A_TIME];
        cargo([&program[..], &how].concat()).run()
    };
    step("every manager and event", || of("lab", "managers: "))?;
    step("netplan apply, which takes some minutes the first time", || of("worker", "netplan_apply_by_"))
}
