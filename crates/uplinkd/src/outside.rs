//! The decoders of bytes from outside, for fuzzing (`cargo xtask fuzz`), and to replay what it found.
//!
//! Each takes any bytes and panics if something is wrong with what was made of them.
#![allow(clippy::panic, reason = "only tests are built with this")]

use std::time::Duration;

use uplink_core::event::Input;
use uplink_core::memory::Memory;
use uplink_core::policy::Policy;
use uplink_core::snapshot::{Snapshot, Tracking};
use uplink_core::time::Instant;
use uplink_core::{Core, Start};

use crate::report::{systemd, varlink};
use crate::{capability, config, memory, nftables, observe, probe, sockets};

/// A decoder with its name.
pub type Decoder = (&'static str, fn(&[u8]));

/// All of them; each has a folder of its name in `fuzz/corpus`.
pub const DECODERS: [Decoder; 8] = [
    ("packet", probe::any_packet),
    ("netlink", netlink),
    ("nftables", marks),
    ("sockets", sockets::any_datagram),
    ("file", file),
    ("config", config),
    ("memory", remembered),
    ("control", control),
];

/// When the core begins: twenty seconds after boot.
const START: Instant = Instant::from_nanos(20_000_000_000);

/// Messages of the kernel; the core decides by what they say.
fn netlink(datagram: &[u8]) {
    decide(observe::any_datagram(datagram), Policy::default(), Memory::default());
}

/// Our nftables table, as the kernel tells it.
fn marks(dump: &[u8]) {
    let tables = Vec::from_iter(nftables::any_dump(dump));
    let tracking = Tracking { in_use: true, tables };
    decide(Snapshot { tracking, ..Snapshot::default() }, Policy::default(), Memory::default());
}

/// What a file of sysfs, of /proc or of a DHCP client may say, or a variable that systemd sets.
fn file(bytes: &[u8]) {
    observe::any_file(bytes);
    capability::any_status(bytes);
    systemd::any_address(bytes);
}

/// A configuration: what is taken has the bounds that the core counts on.
fn config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match config::parse("uplinkd.toml", text) {
        Ok(policy) => {
            assert!(policy.patience >= Policy::MIN_PATIENCE, "{policy:?}");
            decide(Snapshot::default(), policy, Memory::default());
        }
        Err(error) => assert!(!error.to_string().is_empty(), "a mistake without a word"),
    }
}

/// What an older, a newer or a dying process may have left.
fn remembered(bytes: &[u8]) {
    if let Ok(parsed) = memory::parse(bytes) {
        decide(Snapshot::default(), Policy::default(), parsed.memory);
    }
}

/// A client's request: the reply, if there is one, is a message.
fn control(request: &[u8]) {
    let core = start(Policy::default(), Memory::default());
    let status = core.status(START);
    let Some(reply) = varlink::any_request(request, &status).filter(|reply| !reply.is_empty()) else {
        return;
    };
    let message = reply.strip_suffix(b"\0").unwrap_or_else(|| panic!("without its end: {reply:?}"));
    let read = serde_json::from_slice::<serde_json::Value>(message);
    assert!(read.is_ok_and(|message| message.is_object()), "{reply:?}");
}

/// The core lives for a while with what was read.
fn decide(snapshot: Snapshot, policy: Policy, memory: Memory) {
    let mut now = START;
    let mut core = start(policy, memory);
    core.handle(Input::Snapshot(Box::new(snapshot)), now);
    for _ in 0..20 {
        while core.poll_output().is_some() {}
        now = core.deadline().min(now + Duration::from_secs(5));
        core.handle(Input::Deadline, now);
    }
    core.handle(Input::Stop, now);
    let left = serde_json::to_vec(&core.memory());
    let read = left.ok().and_then(|left| memory::parse(&left).ok());
    assert!(read.is_some_and(|read| read.unread.is_empty()), "a memory that cannot be read");
    let _ = core.status(now);
}

/// A core of the boot that the memory is of.
fn start(policy: Policy, memory: Memory) -> Core {
    let boot_id = memory.boot_id.clone();
    Core::new(Start { policy, memory, boot_id, machine: 1, now: START })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Every file of the corpus, and each of its beginnings and with a bit changed.
    #[test]
    fn the_corpus_is_survived() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, decode) in DECODERS {
            let files: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().collect();
            assert!(!files.is_empty(), "{name} has no corpus");
            for file in files {
                let bytes = fs::read(file.unwrap().path()).unwrap();
                decode(&bytes);
                for at in (0..bytes.len()).step_by(bytes.len() / 64 + 1) {
                    decode(&bytes[..at]);
                    let mut other = bytes.clone();
                    other[at] ^= 1 << (at % 8);
                    decode(&other);
                }
            }
        }
    }
}
