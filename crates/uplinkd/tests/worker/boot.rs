//! From boot to stop, with nothing configured.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_lab::{Fault, now};

use crate::worker::{DPU, Outcome, SOON, UNIT, Worker, none_failed, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("boots_elects_before_kubelet_switches_comes_back_and_stops_without_trace", from_boot_to_stop),
        trial("runs_unprivileged_with_two_capabilities", unprivileged),
        trial("tells_its_status_to_every_user", tells_every_user),
    ]
}

/// The default `return_after`, twice: where this machine stands still, the path falls once more.
const BACK: Duration = Duration::from_secs(120);

fn from_boot_to_stop() -> Outcome {
    let mut worker = Worker::new()?;
    worker.boot()?;
    worker.kubelet_found("port")?;
    decided_before_kubelet(&worker)?;
    // A router may advertise itself later than a server answers.
    worker.leads_to("port", SOON)?;
    let lookups = worker.lookups()?;

    let broken = now();
    worker.site.port.cable.fault(&[Fault::Silent]);
    worker.moved(&lookups, "mgmt", broken, SOON)?;
    let healed = now();
    worker.site.port.cable.heal();
    worker.moved(&lookups, "port", healed, BACK)?;
    journal_tells(&worker)?;

    let (_, foreign) = worker.table()?;
    worker.systemctl(&["stop", UNIT])?;
    let (ours, after) = worker.table()?;
    if !ours.is_empty() || after != foreign {
        return Err(
            worker.explain(&format!("it left {ours:?}, and of others\n{after:#?}\nnot\n{foreign:#?}"))
        );
    }
    worker.leads_to("mgmt", SOON)?;
    if worker.container.command(&["test", "-e", "/run/uplinkd"]).is_ok() {
        return Err("it left /run/uplinkd".into());
    }
    none_failed(lookups)
}

/// systemd was told READY before it started kubelet.
fn decided_before_kubelet(worker: &Worker) -> Outcome {
    let micros =
        |unit: &str, name: &str| -> Result<u64, Failed> { Ok(worker.property(unit, name)?.parse()?) };
    let ready = micros(UNIT, "ActiveEnterTimestampMonotonic")?;
    let kubelet = micros("kubelet.service", "ExecMainStartTimestampMonotonic")?;
    if ready == 0 || ready > kubelet {
        return Err(worker.explain(&format!("ready at {ready} µs, kubelet at {kubelet} µs")));
    }
    Ok(())
}

/// The journal has the switch and the reason in fields to filter by.
fn journal_tells(worker: &Worker) -> Outcome {
    let journal = worker.journal(UNIT)?;
    for family in ["ipv4", "ipv6"] {
        let tells = journal.iter().any(|entry| {
            entry["NOTICE"] == "health"
                && entry["UPLINK"] == DPU
                && entry["FAMILY"] == family
                && entry["PRIORITY"] == "4"
                && entry["SYSLOG_IDENTIFIER"] == "uplinkd"
                && entry["_SYSTEMD_UNIT"] == UNIT
                && entry["MESSAGE"].as_str().is_some_and(|line| line.contains("up → down (gateway)"))
        });
        if !tells {
            return Err(worker.explain(&format!("nothing of {family} in the journal: {journal:#?}")));
        }
    }
    Ok(())
}

fn unprivileged() -> Outcome {
    let worker = Worker::running("")?;
    let process = worker.process()?.ok_or("it does not run")?;
    let status = worker.container.command(&["cat", &format!("/proc/{process}/status")])?;
    let user = worker.container.command(&["id", "--user", "uplinkd"])?;
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    // linux/capability.h: CAP_NET_ADMIN is 12, CAP_NET_RAW 13.
    let both = format!("{:016x}", 1 << 12 | 1 << 13);
    let users = vec![user.clone(); 4];
    for (key, expected) in [
        ("Uid", users),
        ("CapEff", vec![both.clone()]),
        ("CapPrm", vec![both.clone()]),
        ("CapBnd", vec![both]),
        ("NoNewPrivs", vec!["1".to_owned()]),
        // 2: a filter (seccomp(2)).
        ("Seccomp", vec!["2".to_owned()]),
    ] {
        let is = of(key);
        if is != expected || user == "0" {
            return Err(format!("{key} is {is:?}, not {expected:?}, of\n{status}").into());
        }
    }
    let security = worker.container.command(&["systemd-analyze", "--no-pager", "security", UNIT])?;
    let exposure =
        security.lines().find_map(|line| line.split("exposure level for uplinkd.service: ").nth(1));
    let exposure: f64 = exposure.and_then(|rest| rest.split(' ').next()).unwrap_or("none").parse()?;
    if exposure > 1.8 {
        return Err(format!("exposed: {exposure}\n{security}").into());
    }
    Ok(())
}

fn tells_every_user() -> Outcome {
    let worker = Worker::running("")?;
    let client = ["setpriv", "--reuid=nobody", "--clear-groups", "uplinkctl", "status"];
    let said = worker.container.command(&client)?;
    if !said.contains(DPU) {
        return Err(format!("the client says:\n{said}").into());
    }
    Ok(())
}
