//! Real servers on the gateways: dnsmasq gives the worker its address, its gateway, and in IPv6 the
//! prefix and itself as router.

use std::process::Stdio;

use libtest_mimic::Failed;
use uplink_lab::{Child, Uplink, tool};

/// Serves what the site's plan says this uplink has.
pub(crate) fn serve(uplink: &Uplink) -> Result<Child, Failed> {
    let (address, gateway, mac) = (uplink.address4, uplink.gateway4, &uplink.mac);
    let prefix = uplink.gateway6_global;
    let mut command = tool("dnsmasq");
    command
        .args(["--no-daemon", "--conf-file=/dev/null", "--port=0"])
        .args(["--interface=lan", "--no-ping", "--dhcp-authoritative"])
        .arg("--dhcp-leasefile=/run/dnsmasq.leases")
        .arg(format!("--dhcp-range={address},{address},255.255.255.0,1h"))
        .arg(format!("--dhcp-host={mac},{address}"))
        .arg(format!("--dhcp-option=option:router,{gateway}"))
        .args(["--enable-ra", &format!("--dhcp-range={prefix},ra-only")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(uplink.gateway.spawn(command)?)
}
