//! A host: a thread with its own network and mount namespaces.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};
use uplink_core::time::Instant;

use crate::clock::now;
use crate::error::{Doing, Error, Result};
use crate::sys;

type Job = Box<dyn FnOnce() + Send>;

/// A machine of the lab. It has its own interfaces, routes, `/sys`, `/run`, `/var/lib` and
/// `/etc/resolv.conf`; its files and processes are otherwise those of this machine. It ends with
/// everything in it when dropped.
#[derive(Debug)]
pub struct Host {
    name: String,
    /// Its folder in `/proc`.
    task: String,
    namespace: String,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Starts a host with nothing but its loopback interface, which is up.
    ///
    /// # Errors
    /// If the namespaces or mounts cannot be made; [`enter`](crate::enter()) must have been called.
    pub fn new(name: &str) -> Result<Self> {
        Self::start(name, || {
            own_mounts()?;
            sys::set_up("lo", true).doing("set lo up")
        })
    }

    /// Starts what only has a network namespace: the inside of a cable.
    pub(crate) fn wire(name: &str) -> Result<Self> {
        // No IP of its own: nothing but what is relayed may be on the cable.
        Self::start(name, || {
            fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
                .doing("turn IPv6 off inside a cable")
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of its network namespace, as `ip link set … netns` takes it.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Runs `job` on this host and waits for it. Sockets that it makes belong to this host wherever
    /// they are used later. Not to be called by a job of the same host. Panics as the job does.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || {
            // The receiver waits below for as long as this runs.
            let _ = answer.send(catch_unwind(AssertUnwindSafe(job)));
        });
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
        match (sent, answered.recv()) {
            (Some(Ok(())), Ok(Ok(value))) => value,
            (_, Ok(Err(panic))) => resume_unwind(panic),
            // The thread ends in `drop` only, and no job can end it.
            _ => unreachable!("host {} is gone", self.name),
        }
    }

    /// Starts a thread that lives on this host.
    ///
    /// # Errors
    /// If the machine has no room for another thread.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        body: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        let builder = thread::Builder::new().name(format!("{} {name}", self.name));
        self.run(move || builder.spawn(body)).doing(format!("start thread {name} on {}", self.name))
    }

    /// Runs a program on this host to its end and gives what it printed.
    ///
    /// # Errors
    /// If it cannot be started, or fails.
    pub fn command<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Result<String> {
        let mut command = tool(program);
        command.args(arguments);
        self.finish(command, String::new())
    }

    /// Runs `ip` with these arguments, separated by spaces.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        self.command("ip", &arguments)
    }

    /// Runs many `ip` commands, one a line, in one process; stops at the first that fails.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        let mut command = tool("ip");
        command.args(["-batch", "-"]);
        self.finish(command, lines.to_owned()).map(drop)
    }

    /// Starts a program that stays; its output is thrown away unless the command says otherwise.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        let what = format!("start {program} on {}; is it installed?", self.name);
        sys::die_with_parent(&mut command);
        let child = self.run(move || command.spawn()).doing(what)?;
        Ok(Child { child })
    }

    /// Writes a sysctl of this host, named by its path below `/proc/sys`.
    ///
    /// # Errors
    /// If there is no such sysctl, or it refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        self.sysctls(&[(name, value)])
    }

    /// Writes many sysctls of this host.
    ///
    /// # Errors
    /// If there is no such sysctl, or it refuses the value.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<()> {
        let settings: Vec<(String, String)> =
            settings.iter().map(|&(name, value)| (format!("/proc/sys/{name}"), value.to_owned())).collect();
        self.run(move || {
            settings.iter().try_for_each(|(path, value)| {
                fs::write(path, value).doing(format!("write {value} to {path}"))
            })
        })
    }

    /// Sets an interface up or down by the shortest way, and gives the moment right before.
    ///
    /// # Errors
    /// If there is no such interface.
    pub fn set_up(&self, interface: &str, up: bool) -> Result<Instant> {
        let (interface, host) = (interface.to_owned(), self.name.clone());
        self.run(move || {
            let moment = now();
            let state = if up { "up" } else { "down" };
            sys::set_up(&interface, up).doing(format!("set {interface} of {host} {state}"))?;
            Ok(moment)
        })
    }

    /// Where a path of this host is found from any other thread of this process.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("{}/root{path}", self.task))
    }

    /// Writes a file as this host sees it (below `/run` and `/var/lib` it is the host's own), and makes
    /// the folders that it is in.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> Result<()> {
        let file = self.path(path);
        let folder = file.parent().map_or(Ok(()), fs::create_dir_all);
        folder.and_then(|()| fs::write(&file, text)).doing(format!("write {path} of {}", self.name))
    }

    fn start(name: &str, prepare: impl FnOnce() -> Result<()> + Send + 'static) -> Result<Self> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (ready, readied) = mpsc::sync_channel(1);
        let body = move || {
            let prepared = unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
                .doing("make namespaces for a host (was `enter` called?)")
                .and_then(|()| prepare());
            // The receiver waits below.
            let _ = ready.send(prepared.map(|()| gettid()));
            todo.into_iter().for_each(|job| job());
        };
        let thread =
            thread::Builder::new().name(name.to_owned()).spawn(body).doing(format!("start host {name}"))?;
        let tid = readied.recv().map_err(|_| Error::Unexpected(format!("host {name} died at birth")))??;
        let task = format!("/proc/{}/task/{tid}", process::id());
        Ok(Self {
            name: name.to_owned(),
            namespace: format!("{task}/ns/net"),
            task,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    fn finish(&self, mut command: Command, input: String) -> Result<String> {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        let line = format!("{} on {}", words.join(" "), self.name);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.run(move || command.spawn()).doing(format!("start {line}; is it installed?"))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that fails early does not read to the end, and says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().doing(format!("wait for {line}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(Error::Command {
                command: line,
                said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            })
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // Jobs' panics are caught, so there is nothing to report.
            let _ = thread.join();
        }
    }
}

/// A program that is looked for in the folders of the system's tools too, which are not in every
/// user's `PATH`.
#[must_use]
pub fn tool(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// A program that runs on a host, killed when dropped (or when the host ends).
#[derive(Debug)]
pub struct Child {
    child: process::Child,
}

impl Child {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        // Process ids fit: the kernel's limit is 2^22.
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(0))
    }

    /// The process itself, for its standard streams and its end.
    pub fn process(&mut self) -> &mut process::Child {
        &mut self.child
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        // Both fail only if it has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it has been waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).doing(format!("send {signal} to {}", self.pid()))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What programs that configure the network write, with which the machine must not be harmed.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Gives this thread its own `/sys`, `/run`, `/var/lib`, `/etc/resolv.conf` and empty `/etc/uplinkd`.
fn own_mounts() -> Result<()> {
    let none = None::<&str>;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none).doing("mount a fresh sysfs")?;
    for path in ["/run", "/var/lib"] {
        tmpfs(path)?;
        let own = format!("{path}/uplinkd");
        fs::create_dir(&own).doing(format!("make {own}"))?;
    }
    if Path::new("/etc/uplinkd").exists() {
        tmpfs("/etc/uplinkd")?;
    }
    own_file(RESOLV_CONF, "/run/lab-resolv.conf")
}

/// Mounts the new, empty file `own` over `path` for this thread, if that exists.
fn own_file(path: &str, own: &str) -> Result<()> {
    if !Path::new(path).exists() {
        return Ok(());
    }
    fs::write(own, "").doing(format!("write {own}"))?;
    let none = None::<&str>;
    mount(Some(own), path, none, MsFlags::MS_BIND, none).doing(format!("mount an own file on {path}"))
}

/// Mounts an empty, writable folder over `path` for this thread.
pub(crate) fn tmpfs(path: &str) -> Result<()> {
    let options = Some("mode=0755");
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), options)
        .doing(format!("mount a tmpfs on {path}"))
}
