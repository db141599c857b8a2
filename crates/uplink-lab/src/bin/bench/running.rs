//! A contender at work, in a PID namespace of its own, so that everything it starts is counted and
//! ends with it.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use uplink_lab::{Child, Error, Host, Result, now, pass, tool};

use crate::contenders::Contender;

/// Where a unit's output goes, on its host's own `/run`.
const LOG: &str = "/run/bench.log";
/// What systemd would do for each: wait for what it leaves behind, start it again 1 s after it ends.
const UNIT: &str = "while :; do \"$@\"; sleep 1; done";
/// How long the namespace may take to be there.
const BOUND: Duration = Duration::from_secs(5);
/// proc(5) counts the time of ended children in these: `USER_HZ` is 100.
const TICK: Duration = Duration::from_millis(10);

/// A running contender; it ends with everything that it started when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    /// The first process of its namespace, which stands in for systemd.
    init: Pid,
    /// Ours to end; behind it, in a namespace of its own, what it needs at the gateway.
    _children: [Option<Child>; 2],
}

/// What a contender has used and uses, all its processes together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Processor time since the start; exact to the nanosecond for what still runs, to 10 ms for what
    /// has ended.
    pub(crate) cpu: Duration,
    /// Resident bytes.
    pub(crate) resident: u64,
    /// Resident bytes, shared pages counted by share.
    pub(crate) proportional: u64,
    /// Processes and threads started since the start.
    pub(crate) started: u64,
}

impl Running {
    /// Starts a contender on a worker, and what it needs on the gateway of its port.
    pub(crate) fn start(contender: &Contender, worker: &Host, gateway: &Host) -> Result<Self> {
        let peer = contender.set_up_gateway(gateway)?.map(|command| unit(gateway, &command)).transpose()?;
        let child = unit(worker, &contender.set_up(worker)?)?;
        let end = now() + BOUND;
        loop {
            if let Some(init) = first_child(child.pid()) {
                return Ok(Self { init, _children: [Some(child), peer] });
            }
            if now() >= end {
                let what = format!("the first process of {}", contender.name());
                return Err(Error::Late { what, bound: BOUND });
            }
            pass(Duration::from_millis(1));
        }
    }

    /// What it has used so far, and what it holds now.
    pub(crate) fn cost(&self) -> Result<Cost> {
        let mut cost = Cost { cpu: Duration::ZERO, resident: 0, proportional: 0, started: self.numbers()? };
        for process in self.processes()? {
            // What has ended since it was listed is counted with its parent.
            let Some(used) = cpu(process) else { continue };
            cost.cpu += used;
            if process != self.init {
                let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).unwrap_or_default();
                cost.resident += bytes(&rollup, "Rss:");
                cost.proportional += bytes(&rollup, "Pss:");
            }
        }
        Ok(cost)
    }

    /// The next number of a process in its namespace: they are given one after the other. Asking
    /// takes one.
    fn numbers(&self) -> Result<u64> {
        let asked = tool("nsenter")
            .args(["--target", &self.init.to_string(), "--pid", "sh", "-c", "echo $$"])
            .output()
            .map_err(|source| Error::System { what: "run nsenter".to_owned(), source })?;
        let number = String::from_utf8_lossy(&asked.stdout).trim().parse();
        number.map_err(|_| Error::Unexpected("nsenter did not tell the number of a process".to_owned()))
    }

    fn processes(&self) -> Result<Vec<Pid>> {
        let namespace = |process: &Path| fs::read_link(process.join("ns/pid")).ok();
        let own = namespace(&Path::new("/proc").join(self.init.to_string()));
        let folder = fs::read_dir("/proc");
        let folder = folder.map_err(|source| Error::System { what: "read /proc".to_owned(), source })?;
        Ok(folder
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let number = path.file_name()?.to_str()?.parse().ok()?;
                (own.is_some() && namespace(&path) == own).then(|| Pid::from_raw(number))
            })
            .collect())
    }
}

/// The last that a unit of a host said.
pub(crate) fn last_words(host: &Host) -> String {
    let log = fs::read(host.path(LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").trim().to_owned()
}

/// Starts a command as a unit in a PID namespace of its own.
fn unit(host: &Host, command: &[String]) -> Result<Child> {
    let log = || File::create(host.path(LOG)).and_then(|log| Ok((log.try_clone()?, log)));
    let (output, errors) = log().map_err(|source| Error::System { what: format!("make {LOG}"), source })?;
    let mut unshare = tool("unshare");
    unshare
        .args(["--pid", "--fork", "--kill-child=SIGKILL", "sh", "-c", UNIT, "unit"])
        .args(command)
        .env_remove("JOURNAL_STREAM")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    host.spawn(unshare)
}

/// The child that `unshare --fork` has, once it has one.
fn first_child(parent: Pid) -> Option<Pid> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
}

/// Processor time of a process and of its ended children.
fn cpu(process: Pid) -> Option<Duration> {
    let own: Duration = clock_gettime(clock_getcpuclockid(process).ok()?).ok()?.into();
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second field, a name in parentheses, may have anything in it. Fields 16 and 17 are wanted;
    // behind the name comes field 3.
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = fields.split_whitespace().skip(13).take(2);
    let ticks: u32 = ticks.filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
    Some(own + TICK * ticks)
}

/// A line such as `Rss:    1234 kB` of `smaps_rollup` (proc(5)).
fn bytes(rollup: &str, key: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}
