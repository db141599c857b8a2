//! Reboots in the middle of an outage: the worker comes up on the uplink that works.

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use uplink_lab::{End, Fault, Uplink};

use crate::worker::{BOOT_WAIT, Outcome, SOON, UNIT, Worker, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_reboot_while_the_port_is_silent_comes_up_on_management", port_silent),
        trial("a_reboot_while_management_is_silent_comes_up_on_the_port", mgmt_silent),
    ]
}

/// With the gateway its DHCP server is silent, too: the port has a carrier and nothing else, and is
/// waited for as long as `boot_wait` says.
fn port_silent() -> Outcome {
    let worker = rebooted(|worker| &worker.site.port, "mgmt")?;
    let waited = until_ready(&worker)?;
    if waited + 1_000_000 < BOOT_WAIT.as_micros() || waited > (BOOT_WAIT + SOON).as_micros() {
        return Err(worker.explain(&format!("ready after {waited} µs, boot_wait is {BOOT_WAIT:?}")));
    }
    // What did not work at boot is taken when it does, without the damping of one that fell. A switch
    // that comes back does so with its links, else a DHCP client would not ask for a minute.
    let cable = &worker.site.port.cable;
    cable.carrier(End::Worker, false)?;
    cable.heal();
    cable.carrier(End::Worker, true)?;
    worker.leads_to("port", SOON)
}

fn mgmt_silent() -> Outcome {
    let worker = rebooted(|worker| &worker.site.mgmt, "port")?;
    let waited = until_ready(&worker)?;
    if waited > SOON.as_micros() {
        return Err(worker.explain(&format!("ready after {waited} µs, though the port works")));
    }
    Ok(())
}

/// A worker without configuration that was rebooted while one of its gateways says nothing; kubelet
/// found the other.
fn rebooted(broken: impl Fn(&Worker) -> &Uplink, works: &str) -> Result<Worker, Failed> {
    let mut worker = Worker::running("")?;
    broken(&worker).cable.fault(&[Fault::Silent]);
    for family in ["ipv4", "ipv6"] {
        worker.until(&format!("{family}: the outage is told"), SOON, || {
            let fell = |entry: &Value| {
                let line = entry["MESSAGE"].as_str().unwrap_or_default();
                entry["FAMILY"] == family && line.contains("up → down (gateway)")
            };
            Ok(worker.journal()?.iter().any(fell))
        })?;
    }
    worker.leads_to(works, SOON)?;
    worker.reboot()?;
    worker.kubelet_found(works)?;
    // In IPv6 too, when its router has advertised itself.
    worker.leads_to(works, SOON)?;
    Ok(worker)
}

/// How long the unit took until it was ready, in microseconds.
fn until_ready(worker: &Worker) -> Result<u128, Failed> {
    let at = |name: &str| -> Result<u128, Failed> { Ok(worker.property(UNIT, name)?.parse()?) };
    Ok(at("ActiveEnterTimestampMonotonic")?.saturating_sub(at("InactiveExitTimestampMonotonic")?))
}
