//! NetworkManager with its own DHCP client, told of its connections by keyfiles.

use crate::error::Result;
use crate::host::{Host, tool};
use crate::program::Program;

use super::Managed;

const CONFIG: &str = "/run/lab-nm/NetworkManager.conf";
/// Empty: nothing that is installed on the machine counts here.
const MORE_CONFIG: &str = "/run/lab-nm/conf.d";
/// Where its connections are.
pub(super) const CONNECTIONS: &str = "/run/lab-nm/system-connections";

/// NetworkManager.conf(5): it touches nothing but addresses and routes, and no interface without a
/// connection.
const SETTINGS: &str = "\
[main]
plugins=keyfile
dhcp=internal
dns=none
rc-manager=unmanaged
systemd-resolved=false
hostname-mode=none
no-auto-default=*
auth-polkit=false
[connectivity]
enabled=false
";

/// Writes its settings and connections.
pub(super) fn prepare(host: &Host, interfaces: &[Managed]) -> Result<()> {
    host.write(CONFIG, format!("{SETTINGS}[keyfile]\npath={CONNECTIONS}\n"))?;
    host.write(&format!("{MORE_CONFIG}/empty.conf"), "")?;
    interfaces.iter().try_for_each(|managed| write(host, managed))?;
    // It waits for udev where /sys can be written (`nmp_utils_sysctl_open_netdir`, nm-linux-platform.c).
    host.command("mount", &["-o", "remount,ro", "/sys"]).map(drop)
}

/// Starts it.
pub(super) fn start(host: &Host) -> Result<Program> {
    let mut command = tool("NetworkManager");
    command.args(["--no-daemon", "--config", CONFIG, "--config-dir", MORE_CONFIG, "--log-level", "INFO"]);
    Program::start(host, "NetworkManager", command)
}

/// Writes the connection of an interface; who reads it takes it only from root, and for itself alone.
pub(super) fn write(host: &Host, managed: &Managed) -> Result<()> {
    let path = path(managed.interface);
    host.write(&path, connection(managed))?;
    host.command("chmod", &["600", &path]).map(drop)
}

/// Where the connection of an interface is.
pub(super) fn path(interface: &str) -> String {
    format!("{CONNECTIONS}/{interface}.nmconnection")
}

/// nm-settings-keyfile(5).
fn connection(managed: &Managed) -> String {
    let Managed { interface, metric } = managed;
    format!(
        "[connection]\nid={interface}\ntype=ethernet\ninterface-name={interface}\nautoconnect-retries=0\n\
         [ipv4]\nmethod=auto\nroute-metric={metric}\ndhcp-timeout=2147483647\ndhcp-send-hostname=false\n\
         [ipv6]\nmethod=auto\nroute-metric={metric}\naddr-gen-mode=eui64\n"
    )
}
