//! ifupdown as Debian has it: `ifup` and `ifdown`, which start and end dhclient with Debian's script.

use crate::background::Background;
use crate::error::Result;
use crate::host::Host;

use super::Managed;

const INTERFACES: &str = "/run/network/lab-interfaces";

/// Writes its file and takes the interfaces up.
pub(super) fn start(host: &Host, interfaces: &[Managed]) -> Result<Background> {
    write(host, interfaces)?;
    host.write("/var/lib/dhcp/lab", "")?;
    let background = Background::start(host)?;
    for managed in interfaces {
        run(&background, host, "ifup", managed.interface)?;
    }
    Ok(background)
}

/// Writes its file (interfaces(5)). The kernel takes router advertisements.
pub(super) fn write(host: &Host, interfaces: &[Managed]) -> Result<()> {
    let stanzas = interfaces
        .iter()
        .map(|Managed { interface, metric }| format!("iface {interface} inet dhcp\n metric {metric}\n"));
    host.write(INTERFACES, stanzas.collect::<String>())
}

/// Runs `ifup` or `ifdown`; of scripts that other packages bring, none.
pub(super) fn run(background: &Background, host: &Host, tool: &str, interface: &str) -> Result<()> {
    background.command(host, tool, &["--interfaces", INTERFACES, "--no-scripts", interface]).map(drop)
}
