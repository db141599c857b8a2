//! A program that stays on a host and whose output is kept.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use uplink_core::time::Instant;

use crate::clock::{now, pass};
use crate::error::{Doing, Error, Result};
use crate::host::{Child, Host};
use crate::record::Record;

/// How long a program may take for what it should do at once, and a DHCP client for its first lease:
/// some wait a few seconds before they begin.
const BOUND: Duration = Duration::from_secs(20);

/// A running program, killed when dropped.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    log: Arc<Record<String>>,
}

impl Program {
    /// Starts a program on a host.
    ///
    /// # Errors
    /// If it cannot be started, which says that it should be installed.
    pub(crate) fn start(host: &Host, name: &str, mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = host.spawn(command)?;
        let log = Arc::new(Record::new());
        let process = child.process();
        let output: Option<Box<dyn Read + Send>> = process.stdout.take().map(|stream| Box::new(stream) as _);
        let errors: Option<Box<dyn Read + Send>> = process.stderr.take().map(|stream| Box::new(stream) as _);
        for stream in [output, errors].into_iter().flatten() {
            let log = Arc::clone(&log);
            // Ends with the program's stream.
            host.thread(name, move || read_lines(stream, &log))?;
        }
        Ok(Self { name: format!("{name} on {}", host.name()), child, log })
    }

    /// Waits until it says something; gives when it did.
    ///
    /// # Errors
    /// [`Late`](Error::Late), naming `what` and with all that it said.
    pub(crate) fn wait_for_line(
        &self,
        what: &str,
        since: Instant,
        is_it: impl FnMut(&str) -> bool,
    ) -> Result<Instant> {
        self.wait_long_for_line(what, since, BOUND, is_it)
    }

    /// As above, for at most so long.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn wait_long_for_line(
        &self,
        what: &str,
        since: Instant,
        bound: Duration,
        mut is_it: impl FnMut(&str) -> bool,
    ) -> Result<Instant> {
        let found = self.log.wait_for(what, since, bound, |line| is_it(line));
        found.map(|line| line.at).map_err(|error| match error {
            Error::Late { what, bound } => {
                let what = format!("{what} of {}\n{}", self.name, self.log());
                Error::Late { what, bound }
            }
            other => other,
        })
    }

    /// What it said so far, for people.
    pub(crate) fn log(&self) -> String {
        let lines = self.log.all().into_iter().map(|line| format!("\n  {} {}", line.at, line.what));
        format!("{} said:{}", self.name, lines.collect::<String>())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// Ends it as a service manager does, and waits until it has.
    ///
    /// # Errors
    /// [`Late`](Error::Late), with all that it said; it is killed then.
    pub(crate) fn end(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let end = now() + BOUND;
        while self.child.process().try_wait().doing("wait for a program")?.is_none() {
            if now() >= end {
                return Err(Error::Late { what: format!("the end of {}", self.log()), bound: BOUND });
            }
            pass(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it has ended and was waited for.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.child.signal(signal)
    }
}

/// Keeps what a program prints, by lines, until it ends.
pub(crate) fn read_lines(stream: impl Read, log: &Record<String>) {
    for line in BufReader::new(stream).lines().map_while(std::result::Result::ok) {
        log.push(line);
    }
}
