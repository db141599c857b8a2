//! The project's commands: `cargo xtask demo`, `test`, `bench`, `soak`, `kills`, `managers`, `fuzz`,
//! `planted` and `install-deps`.
//!
//! Each is a list of steps; a step is named when it begins, timed, and the first that fails ends it.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    reason = "a command for people at a terminal: it prints, and it times its steps"
)]

mod deps;
mod fuzz;
mod kills;
mod managers;
mod planted;
mod run;
mod soak;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::run::{Failure, cargo, program, step};

/// The project's commands.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

/// What to do.
#[derive(Subcommand)]
enum Task {
    /// Show the daemon at work: a worker with two uplinks, faults, and what was lost; about a minute
    Demo,
    /// Install or name what is missing, then run every check and every test
    Test,
    /// Measure the daemon beside what people use today: a table, and files if asked; under 20 minutes,
    /// with --all some hours
    Bench {
        /// Handed on to the benchmark; `-- --help` lists what there is
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
    /// Let anything happen to simulated hosts, and check the promises after every step
    Soak(soak::Soak),
    /// Kill the daemon at random moments in the lab: no lookup may fail
    Kills(kills::Kills),
    /// Let every manager of the network do everything that it can be told to, healthy and in an outage
    Managers,
    /// Feed arbitrary bytes to a decoder of the daemon
    Fuzz(fuzz::Fuzz),
    /// Plant known bugs in the core, one at a time, and show which tests find them
    Planted,
    /// Install or name the programs that tests and demo need
    InstallDeps,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Task::Demo => demo(),
        Task::Test => test(),
        Task::Bench { options } => bench(&options),
        Task::Soak(soak) => soak.run(),
        Task::Kills(kills) => kills.run(),
        Task::Managers => managers::run(),
        Task::Fuzz(fuzz) => fuzz.run(),
        Task::Planted => planted::find(),
        Task::InstallDeps => step("programs that tests need", || deps::programs(&deps::FOR_TESTS)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nxtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the real daemon and the demo with optimisation, and runs the demo.
fn demo() -> Result<(), Failure> {
    step("programs that the demo needs", || deps::programs(&deps::FOR_DEMO))?;
    step("build with optimisation, which takes some minutes the first time", || {
        cargo(["build", "--release", "-p", "uplinkd", "-p", "uplinkctl", "-p", "uplink-lab"]).run()
    })?;
    let built = run::release()?;
    let [demo, daemon, client] = ["demo", "uplinkd", "uplinkctl"].map(|name| built.join(name));
    program(demo, []).args([daemon, client]).run()
}

/// Builds the real daemon and the benchmark with optimisation, and runs the benchmark where we are.
fn bench(options: &[OsString]) -> Result<(), Failure> {
    step("programs that the benchmark needs", || deps::programs(&deps::FOR_BENCH))?;
    // Without these there is less to compare with; the benchmark says what it skipped.
    if let Err(failure) = step("programs to compare with", || deps::programs(&deps::FOR_COMPARISON)) {
        println!("{failure}");
    }
    step("build with optimisation, which takes some minutes the first time", || {
        cargo(["build", "--release", "-p", "uplinkd", "-p", "uplink-lab"]).run()
    })?;
    let built = run::release()?;
    let here = std::env::current_dir()
        .map_err(|error| Failure::Other(format!("failed to find the current folder: {error}")))?;
    program(built.join("bench"), []).within(&here).args([built.join("uplinkd")]).args(options).run()
}

/// Every check and every test; what is quick to fail comes first.
fn test() -> Result<(), Failure> {
    step("programs that tests need", || deps::programs(&deps::FOR_TESTS))?;
    step("format", || cargo(["fmt", "--all", "--check"]).run())?;
    step("the core does no I/O", deps::core_is_pure)?;
    step("build", || cargo(["build", "--workspace", "--all-targets"]).run())?;
    step("lints", || cargo(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]).run())?;
    step("documentation", || {
        cargo(["doc", "--workspace", "--no-deps", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings")
            .run()
    })?;
    step("licences, sources and duplicates of dependencies", deps::deny)?;
    // The same random histories each time: a check of one change does not stumble on the luck of another.
    let tests =
        || cargo(["test", "--workspace", "--exclude", "uplinkd"]).env("PROPTEST_RNG_SEED", "117").run();
    step("tests", tests)?;
    step("tests of the daemon", || cargo(["test", "--package", "uplinkd", "--lib", "--test", "lab"]).run())?;
    step("a worker that boots, which takes some minutes the first time", || {
        cargo(["test", "--package", "uplinkd", "--test", "worker"]).run()
    })?;
    step("promises that are figures, one at a time, as released", || {
        cargo(["test", "--release", "--package", "uplinkd", "--test", "promises"]).run()
    })
}
