//! Programs that go into the background, and end with what holds them all the same.

use crate::clock::now;
use crate::error::Result;
use crate::host::{Host, tool};
use crate::program::Program;

/// Where programs run that leave others behind: all of them are killed when this is dropped.
#[derive(Debug)]
pub struct Background {
    /// Holds a process namespace; its only child is the first process in that.
    holder: Program,
}

impl Background {
    /// Makes one on a host.
    ///
    /// # Errors
    /// If a process namespace cannot be made.
    pub fn start(host: &Host) -> Result<Self> {
        let mut command = tool("unshare");
        command.args(["--pid", "--fork", "--kill-child", "sh", "-c", "echo held; exec sleep infinity"]);
        let started = now();
        let holder = Program::start(host, "unshare", command)?;
        // Before, what is run would be in nobody's namespace, and stay.
        holder.wait_for_line("a process namespace", started, |line| line == "held")?;
        Ok(Self { holder })
    }

    /// Runs a program to its end and gives what it printed; what it started in the background stays.
    ///
    /// # Errors
    /// If it cannot be started, or fails.
    pub fn command(&self, host: &Host, program: &str, arguments: &[&str]) -> Result<String> {
        let namespace = format!("--pid=/proc/{}/ns/pid_for_children", self.holder.pid());
        host.command("nsenter", &[&[namespace.as_str(), "--", program], arguments].concat())
    }
}
