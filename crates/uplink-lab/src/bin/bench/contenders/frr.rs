//! FRR: a default route by BGP, watched by BFD. Debian keeps its daemons out of the path.

use std::path::Path;

use uplink_lab::{Host, Result};

use super::words;
use crate::stage::{ADDRESS, GATEWAY, MGMT, MGMT_GATEWAY, PORT};

const DAEMONS: &str = "/usr/lib/frr";
const FOLDER: &str = "/run/frr";
const SCRIPT: &str = "/run/bench-frr.sh";
const CONFIG: &str = "/run/bench-frr.conf";

/// Why it cannot be measured here; none if it can.
pub(crate) fn missing() -> Option<String> {
    let found = Path::new(DAEMONS).join("bgpd").is_file();
    (!found).then(|| "FRR is not installed (Debian package frr)".to_owned())
}

/// At the worker, which is told its default route.
pub(crate) fn at_worker(worker: &Host, interval: u32) -> Result<Vec<String>> {
    // A metric's first byte is the distance that FRR gives a route of somebody else. Without one such
    // a route, management's default too, is preferred to all that BGP tells.
    let [port, mgmt] = [(251 << 24) + 101, (250_u32 << 24) + 100];
    let yielding = format!(
        "ip route del default dev {PORT}\n\
         ip route del default dev {MGMT}\n\
         ip route add default via {GATEWAY} dev {PORT} metric {port}\n\
         ip route add default via {MGMT_GATEWAY} dev {MGMT} metric {mgmt}\n"
    );
    start(worker, &yielding, &bgp(65001, ADDRESS, 65000, GATEWAY, interval, ""))
}

/// At the gateway, which tells it.
pub(crate) fn at_gateway(gateway: &Host, interval: u32) -> Result<Vec<String>> {
    let originate = format!("  neighbor {ADDRESS} default-originate\n");
    start(gateway, "", &bgp(65000, GATEWAY, 65001, ADDRESS, interval, &originate))
}

fn bgp(own_as: u32, own: &str, other_as: u32, other: &str, interval: u32, address_family: &str) -> String {
    format!(
        "router bgp {own_as}\n\
         \u{20}bgp router-id {own}\n\
         \u{20}no bgp ebgp-requires-policy\n\
         \u{20}neighbor {other} remote-as {other_as}\n\
         \u{20}neighbor {other} timers connect 1\n\
         \u{20}neighbor {other} bfd 3 {interval} {interval}\n\
         \u{20}address-family ipv4 unicast\n\
         \u{20} neighbor {other} activate\n\
         {address_family}\
         \u{20}exit-address-family\n"
    )
}

/// Its three daemons, as the user that its package makes, with all their files in a folder of the host's
/// own, and without a port of their own for commands (`-P 0`).
fn start(host: &Host, first: &str, config: &str) -> Result<Vec<String>> {
    host.write(CONFIG, config)?;
    let common = format!("--log stdout -P 0 --vty_socket {FOLDER} -z {FOLDER}/zserv.api");
    let run = |daemon: &str, config: &str| {
        format!("{DAEMONS}/{daemon} {common} -i {FOLDER}/{daemon}.pid -f {config} &\n")
    };
    let (zebra, bfdd, bgpd) = (run("zebra", "/dev/null"), run("bfdd", "/dev/null"), run("bgpd", CONFIG));
    host.write(
        SCRIPT,
        format!("{first}install -d -o frr -g frr {FOLDER}\n{zebra}sleep 1\n{bfdd}sleep 1\n{bgpd}wait\n"),
    )?;
    Ok(words(&["sh", SCRIPT]))
}
