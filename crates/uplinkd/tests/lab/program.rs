//! Programs that run to their end on a host.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Failed;
use uplink_lab::{Host, now, pass};

use crate::scene::SOON;

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Its exit code; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// What it wrote to standard output and error.
    pub(crate) said: String,
}

/// Runs the daemon's program; it must end by itself.
pub(crate) fn uplinkd(host: &Host, arguments: &[&str]) -> Result<Ended, Failed> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uplinkd"));
    command.args(arguments);
    run(host, command)
}

/// Runs the client, which must have been built beside the daemon.
pub(crate) fn uplinkctl(host: &Host, arguments: &[&str]) -> Result<Ended, Failed> {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_uplinkd")).with_file_name("uplinkctl");
    if !program.is_file() {
        let program = program.display();
        return Err(format!("{program} is not built; run `cargo build -p uplinkctl` first").into());
    }
    let mut command = Command::new(program);
    command.args(arguments);
    run(host, command)
}

/// Runs a program that says little and must end by itself.
pub(crate) fn run(host: &Host, mut command: Command) -> Result<Ended, Failed> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = format!("{command:?}");
    let mut child = host.spawn(command)?;
    let end = now() + SOON;
    let status = loop {
        if let Some(status) = child.process().try_wait()? {
            break status;
        }
        if now() >= end {
            return Err(format!("{name} did not end within {SOON:?}").into());
        }
        pass(Duration::from_millis(2));
    };
    let mut said = String::new();
    if let Some(mut stream) = child.process().stdout.take() {
        stream.read_to_string(&mut said)?;
    }
    if let Some(mut stream) = child.process().stderr.take() {
        stream.read_to_string(&mut said)?;
    }
    Ok(Ended { code: status.code(), said })
}
