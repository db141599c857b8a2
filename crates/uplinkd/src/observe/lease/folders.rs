//! Where DHCP clients keep their leases, and the reading of those folders. What is in them is untrusted:
//! only so many files are read, only files, and of each only so much.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc;
use uplink_core::lease::{Holder, Lease, Leases, Unreadable};
use uplink_core::snapshot::LinkIndex;

use super::{Written, dhclient, network_manager, networkd};
use crate::clock;

/// Of a longer file only the end is read: there a log has what is new, and all other files are a hundredth
/// of that.
const FILE_MAX_BYTES: u64 = 256 * 1024;

/// More files than any host has leases; the rest is not looked at.
const FILES_MAX: usize = 1024;

/// One folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    client: Client,
}

/// Whose folder it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Networkd,
    NetworkManager,
    Dhclient,
}

/// All folders, below `root`. The lease files of NetworkManager's own client (`/var/lib/NetworkManager`)
/// are not among them: they name no router.
pub(super) fn all(root: &Path) -> Vec<Folder> {
    [
        (Client::Networkd, "run/systemd/netif/leases"),
        (Client::NetworkManager, "run/NetworkManager/devices"),
        (Client::Dhclient, "var/lib/dhcp"),
    ]
    .map(|(client, path)| Folder { path: root.join(path), client })
    .to_vec()
}

impl Folder {
    /// Whether a file of this name may be a lease in it.
    pub(super) fn holds(&self, path: &Path) -> bool {
        self.client.is_lease(path)
    }
}

/// Everything that is in them.
pub(super) fn read(folders: &[Folder]) -> Leases {
    let mut leases = Leases::default();
    for folder in folders {
        let files = match files(folder) {
            Ok(files) => files,
            Err(error) => {
                leases.unreadable.extend(unreadable(None, &folder.path, &error));
                continue;
            }
        };
        for path in files {
            match text(&path) {
                Ok(text) => leases.held.extend(folder.client.leases(&path, &text)),
                Err(error) => {
                    let interface = folder.client.holder(&path);
                    leases.unreadable.extend(unreadable(interface, &path, &error));
                }
            }
        }
    }
    leases
}

/// The folder's files that may be leases, in the order of their names.
fn files(folder: &Folder) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(&folder.path)?.take(FILES_MAX);
    let mut files: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| folder.holds(path)).collect();
    files.sort();
    Ok(files)
}

/// The file's text, or its end.
fn text(path: &Path) -> io::Result<String> {
    // Whatever it is, opening it must not wait, as for a pipe's writer.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        skip_to_the_end(&mut file)?;
        file.take(FILE_MAX_BYTES).read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn skip_to_the_end(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    if length > FILE_MAX_BYTES {
        file.seek(SeekFrom::Start(length - FILE_MAX_BYTES))?;
    }
    Ok(())
}

/// What is not there is nothing to read.
fn unreadable(interface: Option<Holder>, path: &Path, error: &io::Error) -> Option<Unreadable> {
    let why = match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => return None,
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    Some(Unreadable { interface, path: path.display().to_string(), why })
}

impl Client {
    /// Whether a file of this name is a lease: temporary files lie beside them.
    fn is_lease(self, path: &Path) -> bool {
        match self {
            Self::Networkd | Self::NetworkManager => self.holder(path).is_some(),
            // `dhclient.leases`, `dhclient.eth0.leases`, `dhclient-eth0.leases`, `….lease`; but not those
            // that a server gave to others, `dhcpd.leases`, which may change all the time.
            Self::Dhclient => {
                let servers = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"dhcpd"));
                !servers && path.extension().is_some_and(|end| end == "leases" || end == "lease")
            }
        }
    }

    /// Whose lease a file is, if its name says that.
    fn holder(self, path: &Path) -> Option<Holder> {
        match self {
            Self::Networkd | Self::NetworkManager => {
                let index = path.file_name()?.to_str()?.parse().ok()?;
                Some(Holder::Index(LinkIndex(index)))
            }
            Self::Dhclient => None,
        }
    }

    /// The leases in a file.
    fn leases(self, path: &Path, text: &str) -> Vec<Lease> {
        let one = |written: Option<Written>| {
            let lease = self.holder(path).zip(written);
            lease.map(|(interface, written)| of(interface, written)).into_iter().collect()
        };
        match self {
            Self::Networkd => one(networkd::parse(text)),
            Self::NetworkManager => one(network_manager::parse(text)),
            Self::Dhclient => {
                let blocks = dhclient::parse(from_first_block(text), clock::wall());
                blocks.into_iter().map(|block| of(Holder::Name(block.interface), block.written)).collect()
            }
        }
    }
}

/// The end of a log may begin anywhere, even within quotation marks; each block begins on a line of its
/// own.
fn from_first_block(text: &str) -> &str {
    let first = if text.starts_with("lease ") { Some(0) } else { text.find("\nlease ") };
    first.and_then(|at| text.get(at..)).unwrap_or_default()
}

fn of(interface: Holder, written: Written) -> Lease {
    Lease { interface, address: written.address, routers: written.routers }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    /// A root of its own for a test.
    struct Root(PathBuf);

    impl Root {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("uplinkd-leases-{}-{name}", std::process::id()));
            let root = Self(path);
            for folder in all(&root.0) {
                fs::create_dir_all(folder.path).unwrap();
            }
            root
        }

        fn write(&self, path: &str, text: impl AsRef<[u8]>) {
            fs::write(self.0.join(path), text).unwrap();
        }

        fn read(&self) -> Leases {
            read(&all(&self.0))
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn lease(interface: Holder, address: &str, router: &str) -> Lease {
        Lease { interface, address: address.parse().unwrap(), routers: vec![router.parse().unwrap()] }
    }

    fn index(index: u32) -> Holder {
        Holder::Index(LinkIndex(index))
    }

    #[test]
    fn the_leases_of_all_clients_are_read() {
        let root = Root::new("all");
        root.write("run/systemd/netif/leases/3", "ADDRESS=10.0.0.5\nROUTER=10.0.0.1\n");
        root.write("run/systemd/netif/leases/.#3abc", "ADDRESS=10.0.0.5\nROUTER=10.0.0.9\n");
        root.write(
            "run/NetworkManager/devices/4",
            "[dhcp4]\ndhcp4.ip_address=10.0.1.5\ndhcp4.routers=10.0.1.1\n",
        );
        let block = "lease {\n interface \"x\";\n fixed-address 10.0.2.5;\n option routers 10.0.2.1;\n}\n";
        root.write("var/lib/dhcp/dhclient.x.leases", block);
        root.write("var/lib/dhcp/dhclient.x.leases.bak", block);
        let held = vec![
            lease(index(3), "10.0.0.5", "10.0.0.1"),
            lease(index(4), "10.0.1.5", "10.0.1.1"),
            lease(Holder::Name("x".to_owned()), "10.0.2.5", "10.0.2.1"),
        ];
        assert_eq!(root.read(), Leases { held, unreadable: Vec::new() });
    }

    #[test]
    fn of_a_long_log_the_end_counts() {
        let root = Root::new("long");
        let block = |router: u32| {
            format!(
                "lease {{\n interface \"x\";\n fixed-address 10.0.2.5;\n option host-name \"{}\";\n \
                 option routers 10.0.2.{router};\n}}\n",
                "\\\" { ".repeat(50)
            )
        };
        let log: String = (0..2_000).map(|n| block(n % 200)).chain([block(254)]).collect();
        assert!(log.len() as u64 > FILE_MAX_BYTES);
        root.write("var/lib/dhcp/dhclient.leases", log);
        let held = vec![lease(Holder::Name("x".to_owned()), "10.0.2.5", "10.0.2.254")];
        assert_eq!(root.read().held, held);
    }

    #[test]
    fn what_is_no_file_or_no_text_is_no_lease() {
        let root = Root::new("hostile");
        let leases = root.0.join("run/systemd/netif/leases");
        mkfifo(&leases.join("3"), Mode::S_IRUSR).unwrap();
        fs::create_dir(leases.join("4")).unwrap();
        symlink("/dev/zero", leases.join("5")).unwrap();
        symlink("nowhere", leases.join("6")).unwrap();
        root.write("run/systemd/netif/leases/7", [0xff; 600_000]);
        root.write("run/systemd/netif/leases/-8", "ADDRESS=10.0.0.5\n");
        root.write("run/systemd/netif/leases/99999999999", "ADDRESS=10.0.0.5\n");
        assert_eq!(root.read(), Leases::default());
    }

    #[test]
    fn folders_that_do_not_exist_hold_nothing() {
        assert_eq!(read(&all(Path::new("/nonexistent"))), Leases::default());
    }

    #[test]
    fn what_may_not_be_read_is_named() {
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        let path = Path::new("/run/systemd/netif/leases/3");
        let named = unreadable(Some(index(3)), path, &denied).unwrap();
        assert_eq!(named.to_string(), "/run/systemd/netif/leases/3: permission denied");
        assert_eq!(unreadable(None, path, &io::Error::from(ErrorKind::NotFound)), None);
    }
}
