//! Keeps the memory in a file from one process to the next.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
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
                Ok(Parsed { memory, unread }) => {
                    for what in unread {
                        tracing::warn!("{} has {what} that is not understood: left out", self.path.display());
                    }
                    return memory;
                }
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

/// What a file says, and what of it was not understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// What was.
    pub(crate) memory: Memory,
    /// What was not, in words.
    pub(crate) unread: Vec<String>,
}

/// The file, its paths not looked into yet.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Paths {
    boot_id: String,
    ready: bool,
    paths: Vec<Value>,
}

/// What the file says. Another version may have written it: what it knew of one path is no reason to
/// forget the others, nor its gateway the damping.
pub(crate) fn parse(bytes: &[u8]) -> serde_json::Result<Parsed> {
    let Paths { boot_id, ready, paths } = serde_json::from_slice(bytes)?;
    let mut parsed = Parsed { memory: Memory { boot_id, ready, paths: Vec::new() }, unread: Vec::new() };
    for mut path in paths {
        let name = path.get("uplink").and_then(Value::as_str).unwrap_or("?").to_owned();
        let mut read = serde_json::from_value(path.clone());
        if read.is_err() && path.as_object_mut().is_some_and(|path| path.remove("gateway").is_some()) {
            read = serde_json::from_value(path);
            parsed.unread.extend(read.is_ok().then(|| format!("a gateway of {name}")));
        }
        match read {
            Ok(path) => parsed.memory.paths.push(path),
            Err(_) => parsed.unread.push(format!("a path of {name}")),
        }
    }
    Ok(parsed)
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
                link: Some(LinkIndex(3)),
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
        for bytes in [&b"{\"boot_id\": \"x"[..], b"", b"\xff", b"7", b"{\"paths\": 7}", &[b' '; 300_000]] {
            fs::write(&store.path, bytes).unwrap();
            assert_eq!(store.read(), Memory::default());
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_another_version_wrote_is_read_as_far_as_it_is_understood() {
        let fallen = r#""family":"ipv4","falls":[7],"returning":true"#;
        let written = format!(
            r#"{{"version":9,"boot_id":"b","ready":true,"paths":[
                {{"uplink":"older",{fallen}}},
                {{"uplink":"newer",{fallen},"gateway":{{"hops":[]}},"more":1}},
                {{"uplink":"strange","family":"ipx"}}, 7]}}"#
        );
        let Parsed { memory, unread } = parse(written.as_bytes()).unwrap();
        assert_eq!((memory.boot_id.as_str(), memory.ready), ("b", true));
        let falls: Vec<_> =
            memory.paths.iter().map(|path| (path.uplink.as_str(), path.falls.len())).collect();
        assert_eq!(falls, [("older", 1), ("newer", 1)]);
        assert_eq!(unread, ["a gateway of newer", "a path of strange", "a path of ?"]);
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
