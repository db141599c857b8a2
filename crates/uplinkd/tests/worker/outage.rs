//! Reboots in the middle of an outage: the worker comes up on the uplink that works.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use uplink_lab::{End, Fault, INTERNET4, Uplink};

use crate::worker::{BOOT_WAIT, Outcome, SOON, UNIT, Worker, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_reboot_while_the_port_is_silent_comes_up_on_management", port_silent),
        trial(
            "a_reboot_while_a_port_with_the_best_metric_is_silent_comes_up_on_management",
            static_port_silent,
        ),
        trial("a_reboot_while_management_is_silent_comes_up_on_the_port", mgmt_silent),
        trial("a_connection_by_a_silent_port_is_closed_if_that_is_wanted", connection_closed),
    ]
}

/// With the gateway its DHCP server is silent, too: the port has a carrier and nothing else, and is
/// waited for as long as `boot_wait` says.
fn port_silent() -> Outcome {
    let worker = rebooted(Worker::running("")?, |worker| &worker.site.port, "mgmt")?;
    waited_for_the_port(&worker)?;
    // What did not work at boot is taken when it does, without the damping of one that fell. A switch
    // that comes back does so with its links, else a DHCP client would not ask for a minute.
    let cable = &worker.site.port.cable;
    cable.carrier(End::Worker, false)?;
    worker.until("systemd-networkd has noticed", SOON, || {
        let journal = worker.journal("systemd-networkd.service")?;
        Ok(journal.iter().any(|entry| entry["MESSAGE"] == "port: Lost carrier"))
    })?;
    cable.heal();
    cable.carrier(End::Worker, true)?;
    worker.leads_to("port", SOON)
}

/// With an address and a default route of its own, which would win: without us all would be sent
/// there.
fn static_port_silent() -> Outcome {
    let mut worker = Worker::new()?;
    worker.write("/etc/systemd/network/port.network", include_str!("files/port-static.network"))?;
    worker.boot()?;
    worker.leads_to("port", SOON)?;
    let worker = rebooted(worker, |worker| &worker.site.port, "mgmt")?;
    waited_for_the_port(&worker)?;
    worker.site.port.cable.heal();
    worker.leads_to("port", SOON)?;
    worker.has_no_pin()
}

fn mgmt_silent() -> Outcome {
    let worker = rebooted(Worker::running("")?, |worker| &worker.site.mgmt, "port")?;
    let waited = until_ready(&worker)?;
    if waited > SOON.as_micros() {
        return Err(worker.explain(&format!("ready after {waited} µs, though the port works")));
    }
    Ok(())
}

/// What the unit permits is enough to close sockets of others.
fn connection_closed() -> Outcome {
    let worker = Worker::running("close_sockets = \"on\"\n")?;
    let (site, to) = (&worker.site, (INTERNET4, 8080));
    let listener = site.internet.run(move || TcpListener::bind(to))?;
    let client = site.worker.run(move || TcpStream::connect(to))?;
    assert_eq!(client.local_addr()?.ip(), site.port.address4);
    site.port.cable.fault(&[Fault::Silent]);
    worker.until("the connection is closed", SOON, || {
        let error = client.take_error()?;
        Ok(error.is_some_and(|error| error.kind() == ErrorKind::ConnectionAborted))
    })?;
    drop(listener);
    Ok(())
}

/// The same worker, rebooted while one of its gateways says nothing; kubelet found the other.
fn rebooted(mut worker: Worker, broken: impl Fn(&Worker) -> &Uplink, works: &str) -> Result<Worker, Failed> {
    broken(&worker).cable.fault(&[Fault::Silent]);
    worker.until("the outage is told", SOON, || {
        let tells = |entry: &Value| {
            let line = entry["MESSAGE"].as_str().unwrap_or_default();
            entry["FAMILY"] == "ipv4" && line.contains("→ down (gateway)")
        };
        Ok(worker.journal(UNIT)?.iter().any(tells))
    })?;
    worker.leads_to(works, SOON)?;
    worker.reboot()?;
    worker.mount_found(works)?;
    worker.kubelet_found(works)?;
    // In IPv6 too, when its router has advertised itself.
    worker.leads_to(works, SOON)?;
    Ok(worker)
}

/// It was ready after `boot_wait`, not before and not much later.
fn waited_for_the_port(worker: &Worker) -> Outcome {
    let waited = until_ready(worker)?;
    if waited + 1_000_000 < BOOT_WAIT.as_micros() || waited > (BOOT_WAIT + SOON).as_micros() {
        return Err(worker.explain(&format!("ready after {waited} µs, boot_wait is {BOOT_WAIT:?}")));
    }
    Ok(())
}

/// How long the unit took until it was ready, in microseconds.
fn until_ready(worker: &Worker) -> Result<u128, Failed> {
    let at = |name: &str| -> Result<u128, Failed> { Ok(worker.property(UNIT, name)?.parse()?) };
    Ok(at("ActiveEnterTimestampMonotonic")?.saturating_sub(at("InactiveExitTimestampMonotonic")?))
}
