//! Keeps the memory in a file from one process to the next.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use uplink_core::memory::Memory;

/// Where systemd keeps our files of this boot, when it does not say. In memory, never on a disk: a
/// disk that hangs must not hang the loop.
const DEFAULT_FOLDER: &str = "/run/uplinkd";

/// The largest file that is read, in bytes: 64 uplinks with ten falls each have a quarter of it.
const MAX_FILE: u64 = 256 * 1024;

/// The file.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    /// The last attempt to write failed and was told: it need not be told again.
    failing: bool,
}

impl Store {
    /// The file in `$RUNTIME_DIRECTORY` (systemd.exec(5)), or in the folder that it would name.
    pub(crate) fn new() -> Self {
        let folder = std::env::var_os("RUNTIME_DIRECTORY").unwrap_or_else(|| DEFAULT_FOLDER.into());
        Self::at(&PathBuf::from(folder))
    }

    /// The file in this folder.
    fn at(folder: &Path) -> Self {
        Self { path: folder.join("memory.json"), failing: false }
    }

    /// What the process before left. Nothing, if that cannot be read: it is told, and we start
    /// afresh.
    pub(crate) fn read(&self) -> Memory {
        let mut bytes = Vec::new();
        let read = File::open(&self.path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Memory::default(),
            Err(error) => self.unusable(&error),
            Ok(_) if bytes.len() as u64 > MAX_FILE => self.unusable(&"it is too large"),
            Ok(_) => match parse(&bytes) {
                Ok(memory) => return memory,
                Err(error) => self.unusable(&error),
            },
        }
        Memory::default()
    }

    /// Replaces the file in one step.
    pub(crate) fn write(&mut self, memory: &Memory) {
        match self.replace(memory) {
            Ok(()) => self.failing = false,
            Err(error) if !self.failing => {
                self.failing = true;
                tracing::warn!(
                    "failed to write {}: {error}; a restart will begin without memory",
                    self.path.display()
                );
            }
            Err(_) => {}
        }
    }

    fn replace(&self, memory: &Memory) -> io::Result<()> {
        let new = self.path.with_extension("json.new");
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&new, serde_json::to_vec(memory)?)?;
        fs::rename(&new, &self.path)
    }

    fn unusable(&self, why: &dyn std::fmt::Display) {
        tracing::warn!("failed to read {}: {why}; beginning without memory", self.path.display());
    }
}

/// What the file says.
pub(crate) fn parse(bytes: &[u8]) -> serde_json::Result<Memory> {
    serde_json::from_slice(bytes)
}

/// Names this boot of the machine; empty if the kernel does not say.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

/// A number that differs from machine to machine and stays the same on each; 0 if it has no id.
/// The id itself is confidential (machine-id(5)), so this is a hash of it.
pub(crate) fn machine_number() -> u64 {
    fs::read("/etc/machine-id").map_or(0, |id| hash(id.trim_ascii()))
}

/// 0 for nothing.
fn hash(id: &[u8]) -> u64 {
    if id.is_empty() {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(id);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uplink_core::memory::{Known, Remembered};
    use uplink_core::snapshot::{Attributes, Family, Hop, LinkIndex, Mac, Prefix};
    use uplink_core::time::Instant;

    /// A store in a folder of its own, which does not exist yet.
    fn store(name: &str) -> (Store, PathBuf) {
        let folder = std::env::temp_dir().join(format!("uplinkd-memory-{}-{name}", std::process::id()));
        (Store::at(&folder), folder)
    }

    #[test]
    fn what_is_written_is_read() {
        let (mut store, folder) = store("round");
        assert_eq!(store.read(), Memory::default());
        let memory = Memory {
            boot_id: boot_id(),
            ready: true,
            paths: vec![Remembered {
                uplink: "dpu".to_owned(),
                family: Family::Ipv6,
                falls: vec![Instant::from_nanos(7)],
                returning: true,
                gateway: Some(Known {
                    hop: Hop { link: LinkIndex(3), gateway: Some("fe80::1".parse().unwrap()) },
                    prefix: Some("fe80::2".parse().map(|address| Prefix { address, length: 64 }).unwrap()),
                    mac: Some(Mac([2, 0, 0, 0, 0, 1])),
                    attributes: Attributes { metrics: [(2, 1400)].into(), ..Attributes::default() },
                    order: 100,
                }),
            }],
        };
        store.write(&memory);
        assert_eq!(store.read(), memory);
        let names: Vec<_> = fs::read_dir(&folder).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_is_damaged_or_too_large_is_nothing() {
        let (store, folder) = store("damaged");
        fs::create_dir_all(&folder).unwrap();
        let gateway =
            br#"{"paths":[{"uplink":"x","family":"ipv4","falls":[],"returning":false,"gateway":{}}]}"#;
        for bytes in [&b"{\"boot_id\": \"x"[..], b"", b"\xff", b"[]", gateway, &[b' '; 300_000]] {
            fs::write(&store.path, bytes).unwrap();
            assert_eq!(store.read(), Memory::default());
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told_once() {
        let (mut store, folder) = store("blocked");
        fs::write(&folder, "a file where the folder should be").unwrap();
        store.write(&Memory::default());
        assert!(store.failing);
        fs::remove_file(&folder).unwrap();
        store.write(&Memory::default());
        assert!(!store.failing);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn machines_differ() {
        assert_eq!(hash(b""), 0);
        assert_ne!(hash(b"8f6c1d0a"), hash(b"8f6c1d0b"));
        assert_eq!(boot_id().len(), 36);
    }
}
