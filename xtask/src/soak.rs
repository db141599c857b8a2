//! Lets anything happen to simulated hosts, for as long as one likes.

use clap::Args;

use crate::run::{Failure, cargo, step};

/// How long, and where to begin.
#[derive(Args)]
pub(crate) struct Soak {
    /// Steps of all seeds together: a step is one turn of the core with all that it brings about
    #[arg(long, default_value_t = 10_000_000)]
    steps: u64,
    /// Seeds, each with a history of its own
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave out all events but these, as a failure names them
    #[arg(long)]
    only: Option<String>,
}

impl Soak {
    /// Builds the simulator with optimisation and every check, and runs it on all cores.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let test = ["--package", "uplink-core", "--test", "core"];
        let built = ["test", "--quiet", "--profile", "soak", "--no-run"];
        step("build the simulator with optimisation", || cargo([&built[..], &test].concat()).run())?;
        let run = ["test", "--quiet", "--profile", "soak"];
        let named = ["--", "--exact", "property::soak::by_the_million", "--ignored", "--nocapture"];
        let mut program = cargo([&run[..], &test, &named].concat())
            .env("SOAK_STEPS", &self.steps.to_string())
            .env("SOAK_SEEDS", &self.seeds.to_string())
            .env("SOAK_SEED", &self.seed.to_string())
            .env("RUST_BACKTRACE", "0");
        if let Some(only) = &self.only {
            program = program.env("SOAK_ONLY", only);
        }
        step("soak", || program.run())
    }
}
