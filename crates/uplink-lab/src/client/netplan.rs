//! netplan: one file for systemd-networkd and NetworkManager, which it writes the configuration of.

use crate::error::Result;
use crate::host::Host;

use super::{Managed, network_manager, network_path};

/// Where netplan finds its file, and writes what it makes of it.
const ROOT: &str = "/run/lab-netplan";

/// Who does what netplan says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Renderer {
    Networkd,
    NetworkManager,
}

/// Lets `netplan generate` write the configuration of these interfaces, instead of ours.
pub(super) fn generate(host: &Host, renderer: Renderer, interfaces: &[Managed]) -> Result<()> {
    let path = format!("{ROOT}/etc/netplan/lab.yaml");
    host.write(&path, plan(renderer, interfaces))?;
    host.command("chmod", &["600", &path])?;
    host.command("netplan", &["generate", "--root-dir", ROOT])?;
    for Managed { interface, .. } in interfaces {
        let (from, to, before) = match renderer {
            Renderer::Networkd => (
                format!("{ROOT}/run/systemd/network/10-netplan-{interface}.network"),
                "/run/systemd/network/".to_owned(),
                network_path(interface),
            ),
            Renderer::NetworkManager => (
                format!("{ROOT}/run/NetworkManager/system-connections/netplan-{interface}.nmconnection"),
                format!("{}/", network_manager::CONNECTIONS),
                network_manager::path(interface),
            ),
        };
        host.command("cp", &["--preserve", &from, &to])?;
        host.command("rm", &["--force", &before])?;
    }
    Ok(())
}

/// netplan(5).
fn plan(renderer: Renderer, interfaces: &[Managed]) -> String {
    let renderer = match renderer {
        Renderer::Networkd => "networkd",
        Renderer::NetworkManager => "NetworkManager",
    };
    let ethernets = interfaces.iter().map(|Managed { interface, metric }| {
        let overrides = format!("{{ route-metric: {metric} }}");
        format!(
            "    {interface}:\n      dhcp4: true\n      dhcp6: true\n      dhcp4-overrides: {overrides}\n      \
             dhcp6-overrides: {overrides}\n"
        )
    });
    let ethernets = ethernets.collect::<String>();
    format!("network:\n  version: 2\n  renderer: {renderer}\n  ethernets:\n{ethernets}")
}
