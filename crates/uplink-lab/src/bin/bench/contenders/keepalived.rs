//! keepalived (keepalived.conf(5)).
//!
//! A VRRP instance needs an address of its own; nobody uses this one. The priority is the highest that
//! is not the owner's: after a loss it waits `(256 - priority) / 256` of a second longer (RFC 5798,
//! section 6.1).

use uplink_lab::{Host, Result};

use super::words;
use crate::stage::{ADDRESS, GATEWAY, PORT};

const CONFIG: &str = "/run/bench-keepalived.conf";

/// At the worker, judging by a ping.
pub(crate) fn with_ping(worker: &Host) -> Result<Vec<String>> {
    let script = format!(
        "vrrp_script gateway {{\n\
         \u{20}   script \"/usr/bin/ping -n -q -c 1 -W 1 -I {PORT} {GATEWAY}\"\n\
         \u{20}   interval 1\n\
         \u{20}   fall 2\n\
         \u{20}   rise 2\n\
         }}\n"
    );
    start(worker, &(script + &instance("track_script")))
}

/// At the worker, judging by BFD.
pub(crate) fn with_bfd(worker: &Host) -> Result<Vec<String>> {
    start(worker, &(bfd("gateway", ADDRESS, GATEWAY) + &instance("track_bfd")))
}

/// At the gateway, answering to that.
pub(crate) fn at_gateway(gateway: &Host) -> Result<Vec<String>> {
    start(gateway, &bfd("worker", GATEWAY, ADDRESS))
}

fn start(host: &Host, config: &str) -> Result<Vec<String>> {
    let global = "global_defs {\n    script_user root\n    enable_script_security\n}\n";
    host.write(CONFIG, format!("{global}{config}"))?;
    Ok(words(&["keepalived", "--dont-fork", "--log-console", "--use-file", CONFIG]))
}

/// The port's instance, which is ill when what it tracks is.
fn instance(tracks: &str) -> String {
    format!(
        "vrrp_instance port {{\n\
         \u{20}   state BACKUP\n\
         \u{20}   interface {PORT}\n\
         \u{20}   virtual_router_id 51\n\
         \u{20}   priority 254\n\
         \u{20}   advert_int 1\n\
         \u{20}   virtual_ipaddress {{\n        10.0.120.251/32 dev {PORT}\n    }}\n\
         \u{20}   virtual_routes {{\n        0.0.0.0/0 via {GATEWAY} dev {PORT} metric 50\n    }}\n\
         \u{20}   {tracks} {{\n        gateway\n    }}\n\
         }}\n"
    )
}

fn bfd(name: &str, own: &str, other: &str) -> String {
    format!(
        "bfd_instance {name} {{\n\
         \u{20}   source_ip {own}\n\
         \u{20}   neighbor_ip {other}\n\
         \u{20}   min_rx 50\n\
         \u{20}   min_tx 50\n\
         \u{20}   multiplier 3\n\
         }}\n"
    )
}
