//! Kills the real daemon in the lab, as often as one likes.

use clap::Args;

use crate::run::{Failure, cargo, step};

/// How often, and at which moments.
#[derive(Args)]
pub(crate) struct Kills {
    /// How often the daemon is killed and started again
    #[arg(long, default_value_t = 1000)]
    times: u64,
    /// Draws the moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Kills {
    /// Builds the daemon and the lab, and runs the one test that is left out otherwise.
    pub(crate) fn run(&self) -> Result<(), Failure> {
        let test = ["--package", "uplinkd", "--test", "lab"];
        step("build the daemon and the lab", || cargo([&["test", "--no-run"][..], &test].concat()).run())?;
        let named = ["--", "--exact", "killed by the thousand", "--ignored", "--nocapture"];
        step(&format!("kill it {} times", self.times), || {
            cargo([&["test", "--quiet"][..], &test, &named].concat())
                .env("KILLS_TIMES", &self.times.to_string())
                .env("KILLS_SEED", &self.seed.to_string())
                .run()
        })
    }
}
