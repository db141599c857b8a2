//! A worker with all that is installed on it.

use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use uplink_core::snapshot::{Family, protocol};
use uplink_core::time::Instant;
use uplink_lab::{
    Container, DhcpServer, INTERNET4, INTERNET6, Lookups, Offer, Route, RouterAdvertiser, Site, Tree, Uplink,
    now, pass,
};

use crate::netplan::Renderer;
use crate::{TREE, WITH_NETPLAN};

pub(crate) type Outcome = Result<(), Failed>;

/// What must happen at once, happens within this; generous, for machines that are busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The default `boot_wait`.
pub(crate) const BOOT_WAIT: Duration = Duration::from_secs(30);
/// A boot takes no longer than this, with a `boot_wait` in it.
pub(crate) const BOOTED: Duration = Duration::from_secs(75);
/// The internet in both families.
pub(crate) const INTERNET: [IpAddr; 2] = [IpAddr::V4(INTERNET4), IpAddr::V6(INTERNET6)];
/// The port's uplink, as it is called where nothing is configured.
pub(crate) const DPU: &str = "dpu-0000:03:00.0";
/// The unit.
pub(crate) const UNIT: &str = "uplinkd.service";

/// What the stand-in for kubelet found when it started.
const FOUND: &str = "/var/lib/kubelet/found";

/// What the stand-in for a mount over the network found when it was stopped.
const FOUND_LAST: &str = "/var/lib/mount/found";

/// What a package installs, from the repository's root.
const INSTALLED: [(&str, &str); 5] = [
    ("packaging/systemd/uplinkd.service", "/usr/lib/systemd/system/uplinkd.service"),
    ("packaging/systemd/uplinkd-cleanup.service", "/usr/lib/systemd/system/uplinkd-cleanup.service"),
    ("packaging/systemd/uplinkd-wanted.target", "/usr/lib/systemd/system/uplinkd-wanted.target"),
    ("packaging/sysusers.d/uplinkd.conf", "/usr/lib/sysusers.d/uplinkd.conf"),
    ("packaging/uplinkd.toml", "/etc/uplinkd/uplinkd.toml"),
];

/// How systemd-networkd is told what to do, where netplan does not say it.
const NETWORKS: [(&str, &str); 2] = [
    ("/etc/systemd/network/port.network", include_str!("files/port.network")),
    ("/etc/systemd/network/mgmt.network", include_str!("files/mgmt.network")),
];

/// What the site has beside it.
const SITE: [(&str, &str); 4] = [
    (
        "/etc/systemd/system/systemd-networkd-wait-online.service.d/any.conf",
        include_str!("files/wait-online.conf"),
    ),
    ("/usr/lib/systemd/system/kubelet.service", include_str!("files/kubelet.service")),
    ("/usr/lib/systemd/system/mount.service", include_str!("files/mount.service")),
    ("/etc/systemd/system/manage-default-route.service", include_str!("files/manage-default-route.service")),
];

/// A test by its name.
pub(crate) fn trial(name: &str, test: impl Fn() -> Outcome + Send + 'static) -> Trial {
    Trial::test(name, test)
}

/// A worker; it is off at first, and its cables are not plugged.
pub(crate) struct Worker {
    pub(crate) container: Container,
    _servers: [(DhcpServer, RouterAdvertiser); 2],
    pub(crate) site: Site,
}

impl Worker {
    /// A worker with a BlueField, both uplinks with DHCP and router advertisements, and management
    /// first by its metric.
    pub(crate) fn new() -> Result<Self, Failed> {
        let worker = Self::of(&TREE)?;
        for (path, text) in NETWORKS {
            worker.write(path, text)?;
        }
        Ok(worker)
    }

    /// As above, but that netplan says what both uplinks are, in this file, to whom; it has booted.
    pub(crate) fn planned(plan: &str, renderer: Renderer, toml: &str) -> Result<Self, Failed> {
        let mut worker = Self::of(&WITH_NETPLAN)?;
        let path = "/etc/netplan/lab.yaml";
        worker.write(path, plan)?;
        fs::set_permissions(worker.container.path(path), Permissions::from_mode(0o600))?;
        worker.write("/etc/uplinkd/uplinkd.toml", toml)?;
        let other = match renderer {
            Renderer::Networkd => "NetworkManager",
            Renderer::NetworkManager => "systemd-networkd",
        };
        let root = format!("--root={}", Container::ROOT);
        // It would wait for those that it is told to leave alone.
        let waits = "NetworkManager-wait-online.service";
        worker.site.worker.command("systemctl", &[&root, "mask", other, waits])?;
        worker.boot()?;
        Ok(worker)
    }

    fn of(tree: &OnceLock<Tree>) -> Result<Self, Failed> {
        let site = Site::builder().without_port().build()?;
        // Its addresses and routes go with it: here they come from systemd-networkd alone.
        site.unplug(&site.mgmt)?;
        site.worker.sysctl("net/ipv6/conf/default/accept_ra", "0")?;
        site.worker.give_pci("port", "0000:03:00.0")?;
        let servers = [serve(&site.port)?, serve(&site.mgmt)?];
        let tree = tree.get().ok_or("the tree is built in main")?;
        let worker = Self { container: Container::new(&site.worker, tree)?, _servers: servers, site };
        worker.install()?;
        Ok(worker)
    }

    /// One with this configuration that has booted; the port is elected.
    pub(crate) fn running(toml: &str) -> Result<Self, Failed> {
        let mut worker = Self::new()?;
        worker.write("/etc/uplinkd/uplinkd.toml", toml)?;
        worker.boot()?;
        worker.leads_to("port", SOON)?;
        Ok(worker)
    }

    /// Plugs the cables, switches it on, and waits until all has started.
    pub(crate) fn boot(&mut self) -> Outcome {
        for uplink in [&self.site.port, &self.site.mgmt] {
            self.site.plug(uplink)?;
        }
        self.container.switch_on(&self.site.worker)?;
        self.container.wait_booted(BOOTED)?;
        Ok(())
    }

    /// Lets it reboot: nothing of the running system stays, in the kernel neither.
    pub(crate) fn reboot(&mut self) -> Outcome {
        let found = self.container.path(FOUND);
        fs::remove_file(&found).map_err(|error| format!("no {}: {error}", found.display()))?;
        // Its own going down may end the command.
        let _ = self.container.command(&["systemctl", "--no-block", "reboot"]);
        if !self.container.wait_down(BOOTED)? {
            return Err(self.explain("it went down, but not to reboot"));
        }
        self.has_none_of_ours()?;
        for uplink in [&self.site.port, &self.site.mgmt] {
            self.site.unplug(uplink)?;
        }
        self.boot()
    }

    /// Runs `systemctl`.
    pub(crate) fn systemctl(&self, arguments: &[&str]) -> Result<String, Failed> {
        Ok(self.container.command(&[&["systemctl"], arguments].concat())?)
    }

    /// A property of a unit, as `systemctl show` has it.
    pub(crate) fn property(&self, unit: &str, name: &str) -> Result<String, Failed> {
        self.systemctl(&["show", "--value", "--property", name, unit])
    }

    /// The daemon's process in the container; none while there is none.
    pub(crate) fn process(&self) -> Result<Option<u32>, Failed> {
        let id = self.property(UNIT, "MainPID")?.parse()?;
        Ok((id != 0).then_some(id))
    }

    /// The stand-in for kubelet found that IPv4 leads to this interface, as a node's address does. A
    /// router may advertise itself only later.
    pub(crate) fn kubelet_found(&self, interface: &str) -> Outcome {
        self.found(FOUND, interface)
    }

    /// The stand-in for a mount found, when it went in the last shutdown, that IPv4 led to this interface.
    pub(crate) fn mount_found(&self, interface: &str) -> Outcome {
        self.found(FOUND_LAST, interface)
    }

    fn found(&self, path: &str, interface: &str) -> Outcome {
        let text = fs::read_to_string(self.container.path(path)).unwrap_or_default();
        if text.contains(&format!(" dev {interface} ")) {
            return Ok(());
        }
        Err(self.explain(&format!("{path} has {text:?}, not {interface}")))
    }

    /// What the journal has of a unit in this boot, as its fields.
    pub(crate) fn journal(&self, unit: &str) -> Result<Vec<Value>, Failed> {
        let text = self.container.command(&["journalctl", "--boot", "--output=json", "--unit", unit])?;
        let entries = text.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        entries.map_err(|error| format!("the journal's {text}: {error}").into())
    }

    /// Lookups of the internet, which may not fail.
    pub(crate) fn lookups(&self) -> Result<Lookups, Failed> {
        Ok(Lookups::start(&self.site.worker, &INTERNET, Duration::from_millis(2))?)
    }

    /// Waits until both families lead to this interface.
    pub(crate) fn leads_to(&self, interface: &str, bound: Duration) -> Outcome {
        self.until(&format!("all leads to {interface}"), bound, || {
            let way = |address| self.site.worker.ip(&format!("route get {address}"));
            let leads = |text: String| text.contains(&format!(" dev {interface} "));
            // Without any route `ip` fails.
            Ok(INTERNET.into_iter().all(|address| way(address).is_ok_and(leads)))
        })
    }

    /// Waits until something is so.
    pub(crate) fn until(
        &self,
        what: &str,
        bound: Duration,
        is_so: impl Fn() -> Result<bool, Failed>,
    ) -> Outcome {
        let end = now() + bound;
        while !is_so()? {
            if now() >= end {
                return Err(self.explain(&format!("not so within {bound:?}: {what}")));
            }
            pass(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The worker's routes and rules as text: ours, and those of others.
    pub(crate) fn table(&self) -> Result<(Vec<String>, Vec<String>), Failed> {
        let mark = format!(" proto {} ", protocol::UPLINKD);
        let table = self.site.worker.table_text()?;
        let lines = table.lines().map(str::to_owned);
        Ok(lines.partition(|line| format!("{line} ").contains(&mark)))
    }

    /// Nothing in the kernel is ours.
    pub(crate) fn has_none_of_ours(&self) -> Outcome {
        let (ours, _) = self.table()?;
        if ours.is_empty() { Ok(()) } else { Err(self.explain(&format!("left: {ours:?}"))) }
    }

    /// No route of ours outranks the others.
    pub(crate) fn has_no_pin(&self) -> Outcome {
        for family in Family::ALL {
            if let Some(pin) = self.site.worker.default_routes(family)?.into_iter().find(Route::is_pin) {
                return Err(self.explain(&format!("a pin: {pin:?}")));
            }
        }
        Ok(())
    }

    /// Waits until lookups saw both families move to this interface.
    pub(crate) fn moved(&self, lookups: &Lookups, to: &str, since: Instant, bound: Duration) -> Outcome {
        for address in INTERNET {
            lookups.wait_for(address, to, since, bound).map_err(|error| self.explain(&error.to_string()))?;
        }
        Ok(())
    }

    /// Writes one of its files.
    pub(crate) fn write(&self, path: &str, text: &str) -> Outcome {
        let path = self.container.path(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        Ok(fs::write(path, text)?)
    }

    /// A failure with all that may tell why.
    pub(crate) fn explain(&self, what: &str) -> Failed {
        let said = |program: &[&str]| self.container.command(program).unwrap_or_else(|e| e.to_string());
        format!(
            "{what}\nnow: {}\ntable:\n{}\nunits:\n{}\njournal:\n{}\nconsole:\n{}",
            now(),
            self.site.worker.table_text().unwrap_or_else(|error| error.to_string()),
            said(&["systemctl", "list-units", "--failed", "--no-legend"]),
            said(&["journalctl", "--boot", "--no-hostname", "--output=short-monotonic", "--lines=200"]),
            self.container.console(),
        )
        .into()
    }

    /// Installs what the package will, and what the site has beside it.
    fn install(&self) -> Outcome {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let daemon = PathBuf::from(env!("CARGO_BIN_EXE_uplinkd"));
        let client = daemon.with_file_name("uplinkctl");
        if !client.is_file() {
            let client = client.display();
            return Err(format!("{client} is not built; run `cargo build -p uplinkctl` first").into());
        }
        self.copy(&daemon, "/usr/bin/uplinkd")?;
        self.copy(&client, "/usr/bin/uplinkctl")?;
        for (from, to) in INSTALLED {
            self.copy(&repository.join(from), to)?;
        }
        for (path, text) in SITE {
            self.write(path, text)?;
        }
        let root = format!("--root={}", Container::ROOT);
        let host = &self.site.worker;
        host.command("systemd-sysusers", &[&root, "uplinkd.conf"])?;
        let enable = ["enable", "uplinkd", "kubelet", "mount", "systemd-networkd"];
        host.command("systemctl", &[&[root.as_str()], enable.as_slice()].concat())?;
        // No housekeeping at a time of its own choice.
        host.command("systemctl", &[root.as_str(), "mask", "timers.target", "getty.target"])?;
        Ok(())
    }

    /// Copies a file, which keeps its mode.
    fn copy(&self, from: &Path, to: &str) -> Outcome {
        let path = self.container.path(to);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(from, path).map_err(|error| format!("{}: {error}", from.display()))?;
        Ok(())
    }
}

/// Serves what the site's plan says this uplink has; not as often as tests of the clients need it.
fn serve(uplink: &Uplink) -> Result<(DhcpServer, RouterAdvertiser), Failed> {
    let offer = Offer { renew_after: Duration::from_secs(50), ..Offer::of(uplink) };
    let advertiser = RouterAdvertiser::start(uplink, Duration::from_secs(1800))?;
    Ok((DhcpServer::start(uplink, &offer)?, advertiser))
}

/// No lookup failed.
pub(crate) fn none_failed(lookups: Lookups) -> Outcome {
    let report = lookups.stop();
    if report.failed == 0 && report.asked > 0 {
        return Ok(());
    }
    Err(format!("{} of {} lookups failed: {:?}", report.failed, report.asked, report.changes).into())
}
