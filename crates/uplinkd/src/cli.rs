//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Keeps the default route on the best working uplink.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Judge the uplinks and keep the default route on the best one, until SIGTERM
    Run(Run),
    /// Read a configuration and say what is wrong with it
    CheckConfig {
        /// The file; /etc/uplinkd/uplinkd.toml if none is named
        file: Option<PathBuf>,
    },
    /// Remove every route and rule that uplinkd made, after a daemon that could not do so itself
    Cleanup,
}

/// How to run.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The configuration; without it /etc/uplinkd/uplinkd.toml is read, if it is there
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Write no route and no rule; say what would be written
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_commands_are_understood() {
        Cli::command().debug_assert();
        let cli = Cli::parse_from(["uplinkd", "run", "--config", "a.toml", "--dry-run"]);
        assert!(matches!(cli.command, Command::Run(Run { config: Some(_), dry_run: true })));
        let cli = Cli::parse_from(["uplinkd", "check-config"]);
        assert!(matches!(cli.command, Command::CheckConfig { file: None }));
        assert!(Cli::try_parse_from(["uplinkd"]).is_err());
    }
}
