//! Notices when leases change: inotify(7) on their folders, and on all folders above those, in which they
//! may appear one day.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use super::folders::Folder;

/// What happens to a lease. dhclient appends to a file that it keeps open.
const IN_A_FOLDER: AddWatchFlags = AddWatchFlags::IN_ONLYDIR
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE);

/// What happens to a folder that leads to one.
const ABOVE: AddWatchFlags = AddWatchFlags::IN_ONLYDIR
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVE);

/// What is watched.
pub(super) struct Watch {
    inotify: Inotify,
    /// Of the folders above: what in them leads on.
    above: BTreeMap<WatchDescriptor, Vec<OsString>>,
    /// Those with leases.
    folders: BTreeMap<WatchDescriptor, Folder>,
}

impl Watch {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// The kernel's: this user watches too much already.
    pub(super) fn open() -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        Ok(Self { inotify, above: BTreeMap::new(), folders: BTreeMap::new() })
    }

    /// Watches whatever there is of these. Downwards: what appears below a watched folder is noticed.
    ///
    /// # Errors
    /// The kernel's: what is still to be watched is not. This user watches too much already, say.
    pub(super) fn set(&mut self, folders: &[Folder]) -> nix::Result<()> {
        self.above.clear();
        self.folders.clear();
        for folder in folders {
            let mut way: Vec<&Path> = folder.path.ancestors().collect();
            way.reverse();
            for (upper, lower) in way.iter().zip(way.iter().skip(1)) {
                let Some(watched) = self.add(upper, ABOVE)? else { break };
                self.above.entry(watched).or_default().extend(lower.file_name().map(OsString::from));
            }
            if let Some(watched) = self.add(&folder.path, IN_A_FOLDER)? {
                self.folders.insert(watched, folder.clone());
            }
        }
        Ok(())
    }

    /// Watches a folder; none where it is not there, of which one above says when it is, or not for us:
    /// that cannot be read either, and is shown as that.
    fn add(&self, folder: &Path, what: AddWatchFlags) -> nix::Result<Option<WatchDescriptor>> {
        match self.inotify.add_watch(folder, what) {
            Ok(watched) => Ok(Some(watched)),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Waits until something changed.
    ///
    /// # Errors
    /// The kernel's; nothing is watched any more.
    pub(super) fn wait(&mut self) -> nix::Result<()> {
        loop {
            match self.inotify.read_events() {
                Ok(events) if events.iter().any(|event| self.matters(event)) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// It is about a lease, or about a folder that leads to one.
    fn matters(&self, event: &InotifyEvent) -> bool {
        let Some(name) = &event.name else { return true };
        match (self.above.get(&event.wd), self.folders.get(&event.wd)) {
            (Some(leads_on), _) => leads_on.contains(name),
            (None, Some(folder)) => folder.holds(Path::new(name)),
            (None, None) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;
    use std::path::PathBuf;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::super::folders;
    use super::*;

    /// Watches below a root of its own, while the test changes things.
    struct Watched {
        root: PathBuf,
        noticed: mpsc::Receiver<()>,
    }

    impl Watched {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("uplinkd-watch-{}-{name}", std::process::id()));
            fs::create_dir_all(root.join("var/lib")).unwrap();
            let folders = folders::all(&root);
            let mut watch = Watch::open().unwrap();
            let (sender, noticed) = mpsc::channel();
            thread::spawn(move || {
                loop {
                    watch.set(&folders).unwrap();
                    if sender.send(()).is_err() {
                        return;
                    }
                    watch.wait().unwrap();
                }
            });
            let watched = Self { root, noticed };
            watched.settles();
            watched
        }

        /// Something was noticed, and nothing more is.
        fn settles(&self) {
            self.noticed.recv_timeout(Duration::from_secs(10)).unwrap();
            while self.noticed.recv_timeout(Duration::from_millis(50)).is_ok() {}
        }

        fn notices(&self, change: impl FnOnce(&Path)) {
            change(&self.root);
            self.settles();
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }

    #[test]
    fn folders_that_appear_go_and_come_again_are_noticed() {
        let watched = Watched::new("appear");
        let folder = "run/systemd/netif/leases";
        for _ in 0..2 {
            watched.notices(|root| fs::create_dir(root.join("run")).unwrap());
            watched.notices(|root| fs::create_dir_all(root.join(folder)).unwrap());
            watched.notices(|root| fs::write(root.join(folder).join("3"), "ADDRESS=10.0.0.5").unwrap());
            watched.notices(|root| fs::remove_dir_all(root.join("run")).unwrap());
        }
    }

    #[test]
    fn files_that_are_replaced_appended_to_and_deleted_are_noticed() {
        let watched = Watched::new("files");
        watched.notices(|root| fs::create_dir_all(root.join("var/lib/dhcp")).unwrap());
        let file = |root: &Path| root.join("var/lib/dhcp/dhclient.leases");
        watched.notices(|root| fs::write(file(root), "lease {").unwrap());
        let mut open = OpenOptions::new().append(true).open(file(&watched.root)).unwrap();
        watched.notices(|_| open.write_all(b"}").unwrap());
        watched.notices(|root| {
            fs::write(root.join("new"), "").unwrap();
            fs::rename(root.join("new"), file(root)).unwrap();
        });
        watched.notices(|root| fs::remove_file(file(root)).unwrap());
    }

    #[test]
    fn what_leads_to_no_lease_is_not_looked_at() {
        let watched = Watched::new("others");
        watched.notices(|root| fs::create_dir_all(root.join("var/lib/dhcp")).unwrap());
        fs::create_dir(watched.root.join("home")).unwrap();
        fs::write(watched.root.join("var/lib/other"), "").unwrap();
        // A DHCP server's, which may write a hundred a second.
        fs::write(watched.root.join("var/lib/dhcp/dhcpd.leases"), "").unwrap();
        assert!(watched.noticed.recv_timeout(Duration::from_millis(100)).is_err());
    }

    #[test]
    fn what_the_kernel_does_not_watch_is_no_secret() {
        let mut watch = Watch::open().unwrap();
        assert_eq!(watch.set(&folders::all(Path::new("/nonexistent"))), Ok(()));
        // The limit of watches is the whole machine's; this one is only ours.
        let too_long = Path::new("/").join("x".repeat(300));
        assert_eq!(watch.set(&folders::all(&too_long)), Err(Errno::ENAMETOOLONG));
    }
}
