//! The program that is tested, running on a host, and everything that can be seen of it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde_json::{Value, json};
use uplink_core::time::Instant;

use crate::clock::{now, pass};
use crate::error::{Doing, Error, Result};
use crate::host::{Child, Host};
use crate::program::read_lines;
use crate::record::{Record, Stamped};

/// Where the daemon listens for its client.
const SOCKET: &str = "/run/uplinkd/io.uplinkd";
/// Where the lab stands in for systemd.
const NOTIFY: &str = "/run/lab-notify";
/// Where the lab writes the daemon's configuration.
const CONFIG: &str = "/run/lab-uplinkd.toml";
/// How long the daemon may take for an answer to its client.
const ANSWER_BOUND: Duration = Duration::from_secs(20);

/// How a daemon is to be started.
#[derive(Debug, Clone)]
pub struct DaemonBuilder {
    binary: PathBuf,
    arguments: Vec<String>,
    config: Option<String>,
    watchdog: Option<Duration>,
}

impl DaemonBuilder {
    /// Writes this configuration on the host, and adds `--config FILE` to the arguments.
    #[must_use]
    pub fn config(mut self, toml: &str) -> Self {
        self.config = Some(toml.to_owned());
        self
    }

    /// Asks for signs of life as systemd does with `WatchdogSec=`.
    #[must_use]
    pub const fn watchdog(mut self, span: Duration) -> Self {
        self.watchdog = Some(span);
        self
    }

    /// Starts it on a host. One at a time per host.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(self, host: &Host) -> Result<Daemon> {
        let socket = host.path(NOTIFY);
        // Left by a daemon before, if there was one.
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).doing(format!("listen on {NOTIFY}"))?;
        let mut command = Command::new(&self.binary);
        command
            .args(&self.arguments)
            .env("NOTIFY_SOCKET", NOTIFY)
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(text) = self.config {
            host.write(CONFIG, text)?;
            command.args(["--config", CONFIG]);
        }
        if let Some(span) = self.watchdog {
            command.env("WATCHDOG_USEC", span.as_micros().to_string());
        }
        let started = now();
        Daemon::watch(host, host.spawn(command)?, notify, started)
    }
}

/// What a process costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Resident bytes.
    pub resident: u64,
    /// Resident bytes, shared pages counted by share.
    pub proportional: u64,
    /// Processor time since its start.
    pub cpu: Duration,
    /// Its threads.
    pub threads: usize,
    /// Its children.
    pub children: usize,
}

/// A running daemon, killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    started: Instant,
    socket: PathBuf,
    config: PathBuf,
    log: Arc<Record<String>>,
    notes: Arc<Record<String>>,
    notify: UnixDatagram,
    note_reader: Option<JoinHandle<()>>,
}

impl Daemon {
    /// A daemon of this binary with these arguments.
    #[must_use]
    pub fn of(binary: impl AsRef<Path>, arguments: &[&str]) -> DaemonBuilder {
        DaemonBuilder {
            binary: binary.as_ref().to_owned(),
            arguments: arguments.iter().map(ToString::to_string).collect(),
            config: None,
            watchdog: None,
        }
    }

    /// When it was started.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// What it wrote to standard output and error so far, by lines, stamped when they were read.
    #[must_use]
    pub fn log(&self) -> Vec<Stamped<String>> {
        self.log.all()
    }

    /// What it told systemd so far: `READY=1`, `STATUS=…`, `WATCHDOG=1`, one each.
    #[must_use]
    pub fn notes(&self) -> Vec<Stamped<String>> {
        self.notes.all()
    }

    /// The first line at or after `since` that `is_it` says yes to.
    ///
    /// # Errors
    /// [`Late`](Error::Late), naming `what` and with the log so far.
    pub fn wait_for_log(
        &self,
        what: &str,
        since: Instant,
        bound: Duration,
        mut is_it: impl FnMut(&str) -> bool,
    ) -> Result<Stamped<String>> {
        let found = self.log.wait_for(what, since, bound, |line| is_it(line));
        self.explain(found)
    }

    /// The first note to systemd at or after `since` that `is_it` says yes to.
    ///
    /// # Errors
    /// [`Late`](Error::Late), naming `what` and with the log so far.
    pub fn wait_for_note(
        &self,
        what: &str,
        since: Instant,
        bound: Duration,
        mut is_it: impl FnMut(&str) -> bool,
    ) -> Result<Stamped<String>> {
        let found = self.notes.wait_for(what, since, bound, |note| is_it(note));
        self.explain(found)
    }

    /// Waits until it has told systemd that it is ready, and gives the moment.
    ///
    /// # Errors
    /// [`Late`](Error::Late), with the log so far.
    pub fn wait_ready(&self, bound: Duration) -> Result<Instant> {
        let is_ready = |note: &str| note == "READY=1";
        let ready = self.wait_for_note("READY=1", self.started, bound, is_ready)?;
        Ok(ready.at)
    }

    /// Its status, as its client gets it.
    ///
    /// # Errors
    /// If it does not listen or answer, or answers with an error.
    pub fn status(&self) -> Result<Value> {
        self.call("io.uplinkd.GetStatus", &json!({}))
    }

    /// Calls a Varlink method and gives the parameters of the reply.
    ///
    /// # Errors
    /// If it does not listen or answer, or answers with an error.
    pub fn call(&self, method: &str, parameters: &Value) -> Result<Value> {
        let reply = self.exchange(method, parameters).doing(format!("call {method}"))?;
        let strange = |why: &str| {
            let reply = String::from_utf8_lossy(&reply);
            Error::Unexpected(format!("the reply to {method} {why}: {reply}"))
        };
        let mut value: Value = serde_json::from_slice(&reply).map_err(|_| strange("is no JSON"))?;
        if value.get("error").is_some() {
            return Err(strange("is an error"));
        }
        let parameters = value.get_mut("parameters").map(Value::take);
        Ok(parameters.unwrap_or_else(|| json!({})))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    /// Sends a signal, and gives the moment right before.
    ///
    /// # Errors
    /// If it has ended and was waited for.
    pub fn signal(&self, signal: Signal) -> Result<Instant> {
        let moment = now();
        self.child.signal(signal)?;
        Ok(moment)
    }

    /// Writes another configuration and lets it be read again, if it was started with one; gives the
    /// moment right before the signal.
    ///
    /// # Errors
    /// If it cannot be written, or the daemon has ended.
    pub fn reload(&self, toml: &str) -> Result<Instant> {
        fs::write(&self.config, toml).doing(format!("write {CONFIG}"))?;
        self.signal(Signal::SIGHUP)
    }

    /// Keeps it from running for so long, and gives the moment when it could go on.
    ///
    /// # Errors
    /// If it has ended and was waited for.
    pub fn stall(&self, span: Duration) -> Result<Instant> {
        self.signal(Signal::SIGSTOP)?;
        pass(span);
        self.signal(Signal::SIGCONT)
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.process().try_wait().doing("look for the daemon's end")
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`Late`](Error::Late), with the log so far.
    pub fn wait_end(&mut self, bound: Duration) -> Result<ExitStatus> {
        let end = now() + bound;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if now() >= end {
                let what = "the end of the daemon".to_owned();
                return self.explain(Err(Error::Late { what, bound }));
            }
            pass(Duration::from_millis(1));
        }
    }

    /// Asks it to end with SIGTERM, and waits for that.
    ///
    /// # Errors
    /// [`Late`](Error::Late), with the log so far.
    pub fn stop(&mut self, bound: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait_end(bound)
    }

    /// What it costs at the moment.
    ///
    /// # Errors
    /// If it has ended.
    pub fn cost(&self) -> Result<Cost> {
        let pid = self.pid();
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let rollup = fs::read_to_string(folder.join("smaps_rollup"));
        let rollup = rollup.doing("read the daemon's memory")?;
        let clock = clock_getcpuclockid(pid).doing("find the daemon's clock")?;
        let cpu = clock_gettime(clock).doing("read the daemon's clock")?;
        let tasks: Vec<PathBuf> = fs::read_dir(folder.join("task"))
            .doing("read the daemon's threads")?
            .filter_map(|task| Some(task.ok()?.path()))
            .collect();
        let children = tasks.iter().map(|task| {
            let list = fs::read_to_string(task.join("children"));
            Ok(list.doing("read the daemon's children")?.split_whitespace().count())
        });
        Ok(Cost {
            resident: bytes(&rollup, "Rss:"),
            proportional: bytes(&rollup, "Pss:"),
            cpu: cpu.into(),
            threads: tasks.len(),
            children: children.sum::<Result<usize>>()?,
        })
    }

    /// How many of the kernel's messages about changes the socket on which it listens now had no room for.
    ///
    /// # Errors
    /// If it has ended.
    pub fn overruns(&self) -> Result<u64> {
        let folder = PathBuf::from(format!("/proc/{}", self.pid()));
        let open = fs::read_dir(folder.join("fd")).doing("read the daemon's descriptors")?;
        let open = open.filter_map(|descriptor| fs::read_link(descriptor.ok()?.path()).ok());
        let its: Vec<String> = open.map(|target| target.to_string_lossy().into_owned()).collect();
        let sockets = fs::read_to_string(folder.join("net/netlink"));
        let sockets = sockets.doing("read the netlink sockets beside the daemon's")?;
        // Protocol, drops and inode are the second, ninth and tenth column.
        let drops = sockets.lines().filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let is_its =
                columns.get(1) == Some(&"0") && its.contains(&format!("socket:[{}]", columns.get(9)?));
            is_its.then(|| columns.get(8)?.parse::<u64>().ok()).flatten()
        });
        Ok(drops.sum())
    }

    fn watch(host: &Host, mut child: Child, notify: UnixDatagram, started: Instant) -> Result<Self> {
        let (log, notes) = (Arc::new(Record::new()), Arc::new(Record::new()));
        if let Some(stream) = child.process().stdout.take() {
            let log = Arc::clone(&log);
            host.thread("output", move || read_lines(stream, &log))?;
        }
        if let Some(stream) = child.process().stderr.take() {
            let log = Arc::clone(&log);
            host.thread("log", move || read_lines(stream, &log))?;
        }
        let (socket, record) = (notify.try_clone(), Arc::clone(&notes));
        let socket = socket.doing("share the notify socket")?;
        let note_reader = host.thread("notes", move || read_notes(&socket, &record))?;
        Ok(Self {
            child,
            started,
            socket: host.path(SOCKET),
            config: host.path(CONFIG),
            log,
            notes,
            notify,
            note_reader: Some(note_reader),
        })
    }

    /// One message there and one back, each ended by a zero byte (varlink.org).
    fn exchange(&self, method: &str, parameters: &Value) -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(ANSWER_BOUND))?;
        stream.set_write_timeout(Some(ANSWER_BOUND))?;
        let call = json!({ "method": method, "parameters": parameters });
        stream.write_all(format!("{call}\0").as_bytes())?;
        let mut reply = Vec::new();
        BufReader::new(stream).read_until(0, &mut reply)?;
        reply.pop();
        Ok(reply)
    }

    /// Adds the log to an error: without it nobody can tell why something did not come.
    fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| match error {
            Error::Late { what, bound } => {
                let log: Vec<String> =
                    self.log().iter().map(|line| format!("\n  {} {}", line.at, line.what)).collect();
                let what = format!("{what} (the daemon's log: {})", log.concat());
                Error::Late { what, bound }
            }
            other => other,
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill();
        // Wakes the reader of notes, which ends then and does not panic. Those of the log end with
        // the daemon's streams.
        let _ = self.notify.shutdown(Shutdown::Both);
        let _ = self.note_reader.take().map(JoinHandle::join);
    }
}

/// Datagrams of lines (`sd_notify(3)`).
fn read_notes(socket: &UnixDatagram, notes: &Record<String>) {
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = socket.recv(&mut buffer) {
        let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
        text.lines().for_each(|line| notes.push(line.to_owned()));
    }
}

/// A line such as `Rss:    1234 kB` of `smaps_rollup` (proc(5)).
fn bytes(rollup: &str, key: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}
