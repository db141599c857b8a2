//! A router advertiser on a gateway: radvd. For what no radvd sends there is
//! [`Host::advertise`](crate::Host::advertise).

use std::net::Ipv6Addr;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::clock::now;
use crate::error::Result;
use crate::host::tool;
use crate::program::Program;
use crate::site::Uplink;

const CONFIG: &str = "/run/lab-radvd.conf";

/// A running advertiser; killed when dropped, and its router then stays one until its lifetime ends.
#[derive(Debug)]
pub struct RouterAdvertiser {
    program: Program,
}

impl RouterAdvertiser {
    /// Starts advertising an uplink's gateway as a default router for so many whole seconds, at least
    /// four, and the prefix of its link; every three to four seconds, and when asked.
    ///
    /// # Errors
    /// If radvd is not installed, or does not start.
    pub fn start(uplink: &Uplink, lifetime: Duration) -> Result<Self> {
        let [a, b, ..] = uplink.address6.segments();
        let prefix = Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0);
        uplink.gateway.write(
            CONFIG,
            format!(
                "interface lan {{\n AdvSendAdvert on;\n MinRtrAdvInterval 3;\n MaxRtrAdvInterval 4;\n \
                 AdvDefaultLifetime {};\n prefix {prefix}/64 {{}};\n}};\n",
                lifetime.as_secs()
            ),
        )?;
        let mut command = tool("radvd");
        command.args(["--nodaemon", "--config", CONFIG, "--logmethod", "stderr_clean", "--debug", "1"]);
        command.args(["--pidfile", "/run/lab-radvd.pid"]);
        let started = now();
        let program = Program::start(&uplink.gateway, "radvd", command)?;
        program.wait_for_line("that it started", started, |line| line.contains("started"))?;
        Ok(Self { program })
    }

    /// Ends it as an operator does: its last advertisement withdraws the router (lifetime 0).
    ///
    /// # Errors
    /// If it has ended.
    pub fn stop(self) -> Result<()> {
        let moment = now();
        self.program.signal(Signal::SIGTERM)?;
        self.program.wait_for_line("its last advertisement", moment, |line| {
            line.contains("returning from radvd main")
        })?;
        Ok(())
    }
}
