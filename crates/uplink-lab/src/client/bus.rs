//! A system bus on a host, for the managers that speak with their tools over one.

use crate::clock::now;
use crate::error::Result;
use crate::host::{Host, tool};
use crate::program::Program;

/// Where managers and their tools look for it.
const BUS: &str = "/run/dbus/system_bus_socket";
const CONFIG: &str = "/run/dbus/lab.conf";
/// Everybody on the host may say everything.
const POLICY: &str = r#"<busconfig>
<listen>unix:path=/run/dbus/system_bus_socket</listen>
<policy context="default">
<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
</policy>
</busconfig>
"#;

/// Starts it.
pub(super) fn start(host: &Host) -> Result<Program> {
    host.write(CONFIG, POLICY)?;
    let mut command = tool("dbus-daemon");
    command.args(["--config-file", CONFIG, "--nofork", "--nopidfile", "--print-address"]);
    let started = now();
    let bus = Program::start(host, "dbus-daemon", command)?;
    bus.wait_for_line("its address", started, |line| line.contains(BUS))?;
    Ok(bus)
}
