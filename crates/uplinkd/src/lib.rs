//! Keeps a host's default route on its best working uplink.

mod alarm;
mod apply;
mod capability;
mod cleanup;
mod cli;
mod clock;
mod config;
mod daemon;
mod memory;
mod netlink;
mod nftables;
mod observe;
#[cfg(any(test, fuzzing))]
pub mod outside;
mod probe;
mod report;
mod sockets;
mod sys;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command, Run};
use config::ConfigError;
use daemon::{Daemon, DaemonError, Signals};
use report::varlink::{self, ServeError, Server};

/// The configuration is wrong (`EX_CONFIG`, sysexits.h): starting again would not help.
const EX_CONFIG: u8 = 78;

/// The bit of a file's mode that lets others than its owner and group read it.
const READABLE_FOR_OTHERS: u32 = 0o004;

/// Does what the command line says.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    report::journal::init();
    let done = match &cli.command {
        Command::Run(options) => run(options),
        Command::CheckConfig { file } => check_config(file.as_deref()),
        Command::Cleanup => cleanup(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", daemon::chain(&error));
            match error {
                Failure::Config(_) => ExitCode::from(EX_CONFIG),
                Failure::Capability(_)
                | Failure::Daemon(_)
                | Failure::Serve(_)
                | Failure::Cleanup(_)
                | Failure::System(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The daemon may not do its work.
    #[error(transparent)]
    Capability(#[from] capability::MissingCapability),
    /// The daemon cannot work.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The status cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Something of ours stays.
    #[error(transparent)]
    Cleanup(#[from] cleanup::CleanupError),
    /// No runtime, or nowhere to print.
    #[error("failed to start: {0}")]
    System(#[from] io::Error),
}

fn run(options: &Run) -> Result<(), Failure> {
    runtime()?.block_on(async {
        // First of all: whoever is stopped while it begins removes what the process before left, too.
        let signals = Signals::new()?;
        let policy = daemon::with_mode(config::load(options.config.as_deref())?, options.dry_run);
        capability::check(policy.mode)?;
        // Before anything is written: a second instance is refused. A dry run may stand beside it.
        let server =
            (!options.dry_run).then(|| Server::bind(Path::new(varlink::DEFAULT_PATH))).transpose()?;
        let config = options.config.clone().map(absolute);
        let daemon = Daemon::open(policy, config, options.dry_run, signals)?;
        if let Some(server) = server {
            tokio::spawn(server.serve(daemon.status()));
        }
        Ok(daemon.run().await?)
    })
}

fn check_config(file: Option<&Path>) -> Result<(), Failure> {
    config::load(file)?;
    let path = file.unwrap_or(Path::new(config::DEFAULT_PATH));
    let shown = path.display();
    let Ok(found) = fs::metadata(path) else {
        return Ok(writeln!(io::stdout(), "there is no {shown}: the defaults hold")?);
    };
    if found.permissions().mode() & READABLE_FOR_OTHERS == 0 {
        tracing::warn!(
            "not everybody may read {shown}, and the daemon runs as the user uplinkd, without rights to \
             files; `chmod a+r {shown}`"
        );
    }
    Ok(writeln!(io::stdout(), "{shown} is in order")?)
}

fn cleanup() -> Result<(), Failure> {
    // What a daemon that lives lays would be back at once.
    varlink::nobody_serves(Path::new(varlink::DEFAULT_PATH))?;
    let removed = runtime()?.block_on(async { cleanup::cleanup() })?;
    Ok(writeln!(io::stdout(), "removed {removed} routes, rules, nftables tables and settings of uplinkd")?)
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()
}

/// The file's place even if the working directory changed meanwhile.
fn absolute(file: PathBuf) -> PathBuf {
    std::path::absolute(&file).unwrap_or(file)
}
