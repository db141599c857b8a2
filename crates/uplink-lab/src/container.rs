//! A container in which a real systemd boots, on a host's interfaces.
//!
//! Its files are those of a [`Tree`] with what is written lying in memory above, so that nothing is
//! left of it; they stay over a reboot, and a host's disk does. Its interfaces, routes and PCI bus are
//! the host's, so that everything that can be asked and done about a host can be about what booted.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{self, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use crate::clock::{now, pass};
use crate::error::{Doing, Error, Result};
use crate::host::{Child, Host, tmpfs, tool};
use crate::tree::Tree;

/// Where a host keeps the container's files.
const FOLDER: &str = "/run/lab-container";
/// The control groups: the one hierarchy, mounted afresh, also where the machine has others.
const GROUPS: &str = "/sys/fs/cgroup";
/// What our groups are called before the number of their process.
const GROUP: &str = "uplink-lab.";
/// What systemd-nspawn ends with when the inside asks for a reboot (`EXIT_FORCE_RESTART`,
/// shared/exit-status.h).
const REBOOT: i32 = 133;
/// The unit that shows the host's `/sys/class/net` and `/sys/bus` inside: systemd-nspawn mounts a sysfs
/// of its own over what it is told to bind there.
const SYSFS: &str = "\
[Unit]
Description=Shows the host's interfaces and buses
DefaultDependencies=no
Before=local-fs-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=mount --rbind /lab/net /sys/class/net
ExecStart=mount --rbind /lab/bus /sys/bus
";
/// How long the kernel may take to end what was killed.
const END_BOUND: Duration = Duration::from_secs(20);

/// A container, off or running; killed with everything in it when dropped.
#[derive(Debug)]
pub struct Container {
    /// The host's files, as every thread of this process finds them.
    host: PathBuf,
    /// Its control group, as the host finds it.
    group: String,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    nspawn: Child,
    notify: UnixDatagram,
}

impl Container {
    /// Where its host finds its files, for programs that take a `--root=`.
    pub const ROOT: &str = "/run/lab-container/root";

    /// Lays a container's files on a host: at most one each. It is off.
    ///
    /// # Errors
    /// If they cannot be mounted, which needs root.
    pub fn new(host: &Host, tree: &Tree) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (id, number) = (process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let group = format!("{GROUPS}{}/{GROUP}{id}.{number}", own_group()?);
        let (tree, own) = (tree.path().to_owned(), PathBuf::from(&group));
        host.run(move || {
            lay_files(&tree)?;
            let none = None::<&str>;
            mount(Some("cgroup2"), GROUPS, Some("cgroup2"), MsFlags::empty(), none)
                .doing("mount the control groups")?;
            sweep(own.parent().unwrap_or(&own));
            fs::create_dir(&own).doing(format!("make the control group {}", own.display()))
        })?;
        Ok(Self { host: host.path("/"), group, running: None })
    }

    /// Where one of its files is found, but for those below `/run`, which it makes when it boots.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.on_host(&format!("{FOLDER}/root{path}"))
    }

    /// Switches it on. PCI functions must have been given before.
    ///
    /// # Errors
    /// If `systemd-nspawn` cannot be started, or it is on.
    pub fn switch_on(&mut self, host: &Host) -> Result<()> {
        if self.running.is_some() {
            return Err(Error::Unexpected("the container is on already".into()));
        }
        let socket = format!("{FOLDER}/notify");
        // Left by the boot before, if there was one.
        let _ = fs::remove_file(self.on_host(&socket));
        let notify = UnixDatagram::bind(self.on_host(&socket)).doing(format!("listen on {socket}"))?;
        let console = self.on_host(&format!("{FOLDER}/console"));
        let console = File::create(console).doing("write the console's log")?;
        // In its control group before it is anything else.
        let mut command = tool("sh");
        command
            .args(["-c", r#"echo $$ >"$0/cgroup.procs" && exec "$@""#, &self.group])
            // If any of this is killed, so is all that runs inside: systemd-nspawn alone leaves it.
            .args(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["systemd-nspawn", "--boot", "--quiet", "--machine=worker", "--settings=no"])
            .args(["--register=no", "--keep-unit", "--notify-ready=yes", "--link-journal=no"])
            .args(["--resolv-conf=off", "--timezone=off", "--network-namespace-path=/proc/self/ns/net"])
            .args(["--bind=/sys/class/net:/lab/net", "--bind=/sys/bus:/lab/bus"])
            // Which it has of itself only in a network that systemd-nspawn made.
            .arg("--capability=CAP_NET_ADMIN")
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "network")
            .arg(format!("--directory={FOLDER}/root"))
            .env("NOTIFY_SOCKET", socket)
            .stdin(Stdio::null())
            .stderr(console.try_clone().doing("share the console's log")?)
            .stdout(console);
        self.running = Some(Running { nspawn: host.spawn(command)?, notify });
        Ok(())
    }

    /// Waits until its systemd has started everything that it was to start.
    ///
    /// # Errors
    /// [`Late`](Error::Late), with what the console shows.
    pub fn wait_booted(&self, bound: Duration) -> Result<()> {
        let late = || Error::Late { what: format!("the end of the boot\n{}", self.console()), bound };
        let notify = &self.running.as_ref().ok_or_else(late)?.notify;
        let end = now() + bound;
        let mut buffer = [0; 4096];
        loop {
            let left = end.since(now());
            if left.is_zero() {
                return Err(late());
            }
            notify.set_read_timeout(Some(left)).doing("set a time limit")?;
            // An error is the time limit's, which is looked at above.
            let length = notify.recv(&mut buffer).unwrap_or(0);
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            if text.lines().any(|line| line == "READY=1") {
                return Ok(());
            }
        }
    }

    /// Runs a program inside, as root, and gives what it printed.
    ///
    /// # Errors
    /// If it is off, or the program cannot be started or fails.
    pub fn command<S: AsRef<OsStr>>(&self, program: &[S]) -> Result<String> {
        let leader = self.leader()?.to_string();
        let mut command = tool("nsenter");
        command
            .args(["--target", &leader, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"])
            .args(["--root", "--wd", "--"])
            .args(program)
            .stdin(Stdio::null());
        let output = command.output().doing("start nsenter; is it installed?")?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            return Ok(said(&output.stdout));
        }
        let said = [said(&output.stdout), said(&output.stderr)].join("\n");
        let words: Vec<_> = program.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        Err(Error::Command { command: format!("{} in the container", words.join(" ")), said })
    }

    /// Waits until it goes down by itself, to be switched on again: what a host's power does at a
    /// reboot. Whether it asked for one.
    ///
    /// # Errors
    /// [`Late`](Error::Late), with what the console shows.
    pub fn wait_down(&mut self, bound: Duration) -> Result<bool> {
        let end = now() + bound;
        loop {
            let ended = self.ended()?;
            if let Some(status) = ended {
                self.switch_off()?;
                return Ok(status.code() == Some(REBOOT));
            }
            if now() >= end {
                let what = format!("the end of the container\n{}", self.console());
                return Err(Error::Late { what, bound });
            }
            pass(Duration::from_millis(5));
        }
    }

    /// Cuts its power, if it is on.
    ///
    /// # Errors
    /// If something inside does not end.
    pub fn switch_off(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        let group = self.on_host(&self.group);
        // Everything at once; older kernels (before 5.14) kill what is inside with its parent.
        let _ = fs::write(group.join("cgroup.kill"), "1");
        running.nspawn.kill();
        let end = now() + END_BOUND;
        while populated(&group) {
            if now() >= end {
                return Err(Error::Late { what: "the end of all in the container".into(), bound: END_BOUND });
            }
            pass(Duration::from_millis(5));
        }
        remove_groups_in(&group);
        Ok(())
    }

    /// The end of what it wrote to its console.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = fs::read(self.on_host(&format!("{FOLDER}/console"))).unwrap_or_default();
        let start = bytes.len().saturating_sub(4000);
        String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        let off = || Error::Unexpected("the container is off".into());
        let running = self.running.as_mut().ok_or_else(off)?;
        running.nspawn.process().try_wait().doing("look for the container's end")
    }

    /// Its process 1, as this machine numbers it.
    fn leader(&self) -> Result<u32> {
        let file = self.on_host(&format!("{}/payload/init.scope/cgroup.procs", self.group));
        let text = fs::read_to_string(file).doing("find the container's process 1; is it on?")?;
        let first = text.lines().next().and_then(|line| line.parse().ok());
        first.ok_or_else(|| Error::Unexpected("the container has no process 1".into()))
    }

    fn on_host(&self, path: &str) -> PathBuf {
        self.host.join(path.trim_start_matches('/'))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What did not end in time ends with this process at the latest.
        let _ = self.switch_off();
        let _ = fs::remove_dir(self.on_host(&self.group));
    }
}

/// Mounts a tree with room above it for what is written.
fn lay_files(tree: &Path) -> Result<()> {
    fs::create_dir(FOLDER).doing(format!("make {FOLDER}"))?;
    tmpfs(FOLDER)?;
    for folder in ["written", "work", "root"] {
        let path = Path::new(FOLDER).join(folder);
        fs::create_dir(&path).doing(format!("make {}", path.display()))?;
    }
    let lower = tree.display();
    let options = format!("lowerdir={lower},upperdir={FOLDER}/written,workdir={FOLDER}/work");
    let root = Path::new(FOLDER).join("root");
    mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .doing(format!("lay files above {lower}"))?;
    let units = root.join("etc/systemd/system");
    let wants = units.join("local-fs-pre.target.wants");
    fs::create_dir_all(&wants)
        .and_then(|()| fs::write(units.join("lab-sysfs.service"), SYSFS))
        .and_then(|()| symlink("../lab-sysfs.service", wants.join("lab-sysfs.service")))
        .doing("write the unit lab-sysfs.service")
}

/// The control group of this process in the one hierarchy (cgroups(7)), without a final slash.
fn own_group() -> Result<String> {
    let text = fs::read_to_string("/proc/self/cgroup").doing("read /proc/self/cgroup")?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"));
    let own = own.map(|path| path.trim_end_matches('/').to_owned());
    own.ok_or_else(|| Error::Unexpected("this machine has no control groups of version 2".into()))
}

/// Whether any process is in a group or below.
fn populated(group: &Path) -> bool {
    let events = fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

/// Removes the groups of laboratories that were killed.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.strip_prefix(GROUP)?.split('.').next());
        if of.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            remove_groups_in(&entry.path());
            // Refused where a process is left.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Removes the empty groups in a group.
fn remove_groups_in(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups_in(&entry.path());
            let _: io::Result<()> = fs::remove_dir(entry.path());
        }
    }
}
