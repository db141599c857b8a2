//! Asks uplinkd what it does and why.

mod client;
mod metrics;
#[cfg(any(test, fuzzing))]
pub mod outside;
mod show;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;
use thiserror::Error;
use uplink_core::wire::GetStatus;

use crate::client::ClientError;

/// Asks uplinkd what it does and why.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    /// What to ask.
    #[command(subcommand)]
    command: Command,
}

/// What to ask.
#[derive(Debug, Subcommand)]
enum Command {
    /// Show the uplinks, which is elected in each family and why, and what changed last
    Status {
        /// Print what the daemon sends, as JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Print the same as metrics for Prometheus, in the OpenMetrics text format
    Metrics {
        #[command(flatten)]
        daemon: Daemon,
    },
}

/// Whom to ask.
#[derive(Debug, Args)]
struct Daemon {
    /// The daemon's socket
    #[arg(long, value_name = "PATH", default_value = "/run/uplinkd/io.uplinkd")]
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, Error)]
enum Failure {
    /// The daemon did not give one.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It could not be printed.
    #[error("failed to print: {0}")]
    Print(#[from] io::Error),
}

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read us has seen enough (`uplinkctl status | head -1`).
        Err(Failure::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // If standard error is closed, the exit code still tells.
            let _ = writeln!(io::stderr(), "uplinkctl: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Asks, and prints the answer.
fn run(cli: &Cli) -> Result<(), Failure> {
    let text = match &cli.command {
        Command::Status { json: true, daemon } => {
            let reply = daemon.status()?;
            format!("{:#}\n", reply.get("status").unwrap_or(&reply))
        }
        Command::Status { json: false, daemon } => {
            let GetStatus { status } = client::decode(daemon.status()?)?;
            show::status(&status)
        }
        Command::Metrics { daemon } => match daemon.status() {
            Ok(reply) => {
                let GetStatus { status } = client::decode(reply)?;
                metrics::text(Some(status))
            }
            Err(ClientError::NotRunning(_)) => metrics::text(None),
            Err(error) => return Err(error.into()),
        },
    };
    Ok(io::stdout().write_all(text.as_bytes())?)
}

impl Daemon {
    fn status(&self) -> Result<Value, ClientError> {
        client::call(&self.socket, "io.uplinkd.GetStatus")
    }
}
