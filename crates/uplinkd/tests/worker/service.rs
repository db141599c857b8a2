//! What systemd does with the unit, and what of that a packet would notice: nothing.

use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use uplink_core::snapshot::protocol;
use uplink_lab::{Change, Changes, Stamped, now};

use crate::worker::{Outcome, SOON, UNIT, Worker, none_failed, trial};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("an_upgrade_and_a_restart_keep_the_pin", restart),
        trial("a_crash_is_restarted_and_loses_no_lookup", crash),
        trial("one_that_hangs_is_restarted_by_the_watchdog", watchdog),
        trial("after_the_start_limit_what_is_left_is_removed", start_limit),
        trial("a_stop_between_two_processes_leaves_nothing", stopped_between),
        trial("a_stop_at_any_moment_of_a_restart_leaves_nothing", stopped_in_a_restart),
        trial("who_undoes_the_pin_is_named_in_the_journal", names_who_undoes_it),
        trial("the_script_that_it_replaces_is_stopped", replaces_the_script),
        trial("a_wrong_configuration_is_not_tried_again_and_leaves_nothing", wrong_configuration),
    ]
}

/// No gateway is judged for a machine that stands still.
const PATIENT: &str = "patience = \"5s\"\n";
/// `WatchdogSec=`, and time to notice, to kill and to start.
const WATCHED: Duration = Duration::from_secs(30);
/// `StartLimitBurst=`.
const BURST: usize = 10;

/// As after an upgrade: a package puts another file in the place of the program's, then restarts it.
fn restart() -> Outcome {
    stays_while(|worker| {
        let (program, new) = ("/usr/bin/uplinkd", "/usr/bin/uplinkd.dpkg-new");
        worker.container.command(&["cp", "--preserve", program, new])?;
        worker.container.command(&["mv", new, program])?;
        worker.systemctl(&["restart", UNIT])?;
        Ok(())
    })
}

fn crash() -> Outcome {
    stays_while(|worker| {
        worker.systemctl(&["kill", "--kill-whom=main", "--signal=SIGKILL", UNIT])?;
        Ok(())
    })
}

fn watchdog() -> Outcome {
    stays_while(|worker| {
        worker.systemctl(&["kill", "--kill-whom=main", "--signal=SIGSTOP", UNIT])?;
        Ok(())
    })
}

/// What is ours stays, the same, and no lookup fails or changes, while the daemon's process is made to be
/// another.
fn stays_while(replace: impl Fn(&Worker) -> Outcome) -> Outcome {
    let worker = Worker::running(PATIENT)?;
    let first = worker.process()?.ok_or("it does not run")?;
    // In each family the pin, and for each of the uplinks the route of its own table and two path rules.
    worker.until("all is laid", SOON, || Ok(worker.table()?.0.len() == 2 * (1 + 2 * 3)))?;
    let (before, _) = worker.table()?;
    let (changes, lookups) = (Changes::start(&worker.site.worker)?, worker.lookups()?);
    let since = now();
    replace(&worker)?;
    runs_again(&worker, first)?;
    let (after, _) = worker.table()?;
    let ours = |change: &Stamped<Change>| change.what.protocol() == Some(protocol::UPLINKD);
    let written: Vec<_> = changes.since(since).into_iter().filter(ours).collect();
    if after != before || !written.is_empty() {
        return Err(worker.explain(&format!("{before:?} became {after:?} by {written:?}")));
    }
    let ways = lookups.report().changes;
    if ways.iter().any(|way| way.at > since && way.what.interface.as_deref() != Ok("port")) {
        return Err(worker.explain(&format!("lookups changed: {ways:?}")));
    }
    none_failed(lookups)
}

/// Waits until systemd has another process of it, which is ready.
fn runs_again(worker: &Worker, before: u32) -> Outcome {
    worker.until("another process is ready", WATCHED, || {
        let (state, process) = (worker.property(UNIT, "ActiveState")?, worker.process()?);
        Ok(state == "active" && process.is_some_and(|process| process != before))
    })
}

fn start_limit() -> Outcome {
    let worker = Worker::running(PATIENT)?;
    let lookups = worker.lookups()?;
    let mut last = 0;
    for _ in 0..=BURST {
        // Ended while it starts, or when it runs: both count.
        worker.until("another process", SOON, || {
            Ok(worker.process()?.is_some_and(|process| process != last) || failed(&worker)?)
        })?;
        let Some(process) = worker.process()? else { break };
        last = process;
        // It may have ended meanwhile.
        let _ = worker.systemctl(&["kill", "--kill-whom=main", "--signal=SIGKILL", UNIT]);
    }
    worker.until("the unit is given up", SOON, || failed(&worker))?;
    worker.until("nothing of ours is left", SOON, || Ok(worker.table()?.0.is_empty()))?;
    worker.leads_to("mgmt", SOON)?;
    none_failed(lookups)?;
    // Whoever puts it right starts it again.
    worker.systemctl(&["reset-failed", UNIT])?;
    worker.systemctl(&["start", UNIT])?;
    worker.leads_to("port", SOON)
}

/// A stop that comes while systemd restarts it finds no process that it could ask.
fn stopped_between() -> Outcome {
    let worker = Worker::running(PATIENT)?;
    let drop_in = "/etc/systemd/system/uplinkd.service.d/later.conf";
    worker.write(drop_in, "[Service]\nRestartSec=10s\n")?;
    worker.systemctl(&["daemon-reload"])?;
    let lookups = worker.lookups()?;
    let restarts = || worker.systemctl(&["restart", "--no-block", UNIT]).map(drop);
    let crashes = || {
        worker.systemctl(&["kill", "--kill-whom=main", "--signal=SIGKILL", UNIT])?;
        let waits = || Ok(worker.property(UNIT, "SubState")? == "auto-restart");
        worker.until("it waits to be started again", SOON, waits)
    };
    let ends: [&dyn Fn() -> Outcome; 2] = [&restarts, &crashes];
    for end in ends {
        worker.until("all is laid", SOON, || Ok(worker.table()?.0.len() == 2 * (1 + 2 * 3)))?;
        end()?;
        worker.systemctl(&["stop", UNIT])?;
        worker.until("nothing of ours is left", SOON, || Ok(worker.table()?.0.is_empty()))?;
        let state = worker.property(UNIT, "ActiveState")?;
        if state != "inactive" {
            return Err(worker.explain(&format!("it is {state}")));
        }
        worker.systemctl(&["start", UNIT])?;
        worker.leads_to("port", SOON)?;
    }
    none_failed(lookups)
}

/// As systemd passes from one process to the next, it sees no change of the unit in a stop.
fn stopped_in_a_restart() -> Outcome {
    let worker = Worker::running(PATIENT)?;
    // Two or three of a hundred come at such a moment on a quiet machine, ten on a busy one.
    for milliseconds in (0..12).cycle().take(24) {
        worker.until("all is laid", SOON, || Ok(worker.table()?.0.len() == 2 * (1 + 2 * 3)))?;
        let script =
            format!("systemctl restart --no-block {UNIT}; sleep 0.{milliseconds:03}; systemctl stop {UNIT}");
        worker.container.command(&["sh", "-c", &script])?;
        let what = format!("nothing of ours is left by a stop {milliseconds} ms after a restart");
        worker.until(&what, SOON, || Ok(worker.table()?.0.is_empty()))?;
        // So many starts at once count as failures.
        worker.systemctl(&["reset-failed", UNIT])?;
        worker.systemctl(&["start", UNIT])?;
    }
    Ok(())
}

/// Told once, by its exit code; and then it is as if nothing had been installed.
fn wrong_configuration() -> Outcome {
    const CONFIGURATION: &str = "/etc/uplinkd/uplinkd.toml";
    let worker = Worker::running(PATIENT)?;
    let lookups = worker.lookups()?;
    worker.write(CONFIGURATION, "patience = \"never\"\n")?;
    // One that runs keeps what it has.
    let _ = worker.systemctl(&["reload", UNIT]);
    worker.until("the mistake is told", SOON, || {
        let tells = |entry: &Value| entry["MESSAGE"].as_str().is_some_and(|line| line.contains("patience"));
        Ok(worker.journal(UNIT)?.iter().any(tells))
    })?;
    worker.leads_to("port", SOON)?;
    let restarted = worker.systemctl(&["restart", UNIT]);
    let state = ["ActiveState", "ExecMainStatus", "NRestarts"].map(|name| worker.property(UNIT, name));
    let state: Vec<String> = state.into_iter().collect::<Result<_, _>>()?;
    if restarted.is_ok() || state != ["failed", "78", "0"] {
        return Err(worker.explain(&format!("restart: {restarted:?}, {state:?}")));
    }
    worker.until("nothing of ours is left", SOON, || Ok(worker.table()?.0.is_empty()))?;
    none_failed(lookups)?;
    worker.write(CONFIGURATION, PATIENT)?;
    worker.systemctl(&["start", UNIT])?;
    worker.leads_to("port", SOON)
}

fn failed(worker: &Worker) -> Result<bool, Failed> {
    Ok(worker.property(UNIT, "ActiveState")? == "failed")
}

/// By the number of its process: what other users' processes are called is hidden from it.
fn names_who_undoes_it() -> Outcome {
    const SCRIPT: &str = "for turn in $(seq 150); do echo route delete default proto 117; sleep 0.02; done \
        | ip -4 -force -batch - 2> /dev/null; true";
    let worker = Worker::running(PATIENT)?;
    worker.container.command(&["sh", "-c", SCRIPT])?;
    worker.until("it is named", SOON, || {
        let named = |entry: &Value| {
            let line = entry["MESSAGE"].as_str().unwrap_or_default();
            let by_number = line.contains("process ") && line.contains(" deletes our route; to end it, ");
            entry["NOTICE"] == "aside" && by_number
        };
        Ok(worker.journal(UNIT)?.iter().any(named))
    })?;
    worker.leads_to("port", SOON)
}

fn replaces_the_script() -> Outcome {
    const SCRIPT: &str = "manage-default-route.service";
    let worker = Worker::running(PATIENT)?;
    worker.systemctl(&["start", SCRIPT])?;
    // Each stops the other.
    worker.until("uplinkd has stopped", SOON, || Ok(worker.property(UNIT, "ActiveState")? == "inactive"))?;
    worker.has_none_of_ours()?;
    worker.systemctl(&["start", UNIT])?;
    let state = worker.property(SCRIPT, "ActiveState")?;
    if state != "inactive" {
        return Err(worker.explain(&format!("{SCRIPT} is {state}")));
    }
    worker.leads_to("port", SOON)
}
