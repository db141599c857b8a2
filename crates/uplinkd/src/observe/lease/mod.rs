//! Follows what the host's DHCP clients write down about their leases.
//!
//! They are read by a thread of their own, which does nothing else and sleeps until a file changes:
//! dhclient's are on a disk, and a disk that hangs must not hang the loop.

mod dhclient;
mod folders;
mod network_manager;
mod networkd;
mod watch;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::Notify;
use uplink_core::lease::Leases;

use folders::Folder;
use watch::Watch;

/// The first reading is waited for so long: what the process before us decided may follow from a lease.
const FIRST_READING: Duration = Duration::from_millis(250);

/// What a client wrote about one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    address: Ipv4Addr,
    routers: Vec<Ipv4Addr>,
}

/// The leases as they are read.
pub(super) struct Reader {
    readings: Receiver<Leases>,
    fresh: Arc<Notify>,
}

impl Reader {
    /// Begins to read and to watch; gives the first reading, if it comes in time.
    pub(super) fn start() -> (Self, Leases) {
        let (sender, readings) = mpsc::channel();
        let fresh = Arc::new(Notify::new());
        let told = Arc::clone(&fresh);
        let folders = folders::all(Path::new("/"));
        let thread = thread::Builder::new().name("leases".to_owned());
        if let Err(error) = thread.spawn(move || follow(&folders, &sender, &told)) {
            tracing::warn!("failed to start a thread: {error}; gateways are not learned from leases");
        }
        let first = readings.recv_timeout(FIRST_READING).unwrap_or_default();
        (Self { readings, fresh }, first)
    }

    /// Waits until there may be something to take.
    pub(super) async fn changed(&self) {
        self.fresh.notified().await;
    }

    /// The newest reading that was not taken yet.
    pub(super) fn take(&self) -> Option<Leases> {
        self.readings.try_iter().last()
    }
}

/// Reads everything again whenever something changes, until nobody wants to know.
fn follow(folders: &[Folder], readings: &Sender<Leases>, told: &Notify) {
    let mut watch = Watch::open().inspect_err(not_watched).ok();
    let (mut known, mut failing) = (None, false);
    loop {
        if let Some(watch) = &mut watch {
            // Before anything is read: what changes meanwhile is a reason to read again.
            let set = watch.set(folders);
            if let (Err(error), false) = (&set, failing) {
                not_watched(error);
            }
            failing = set.is_err();
        }
        let leases = folders::read(folders);
        if known.as_ref() != Some(&leases) {
            known = Some(leases.clone());
            if readings.send(leases).is_err() {
                return;
            }
            told.notify_one();
        }
        match watch.as_mut().map(Watch::wait) {
            Some(Ok(())) => {}
            Some(Err(error)) => return not_watched(&error),
            None => return,
        }
    }
}

fn not_watched(error: &nix::Error) {
    let remedy = match error {
        Errno::EMFILE => "; raise fs.inotify.max_user_instances and restart uplinkd",
        Errno::ENOSPC => "; raise fs.inotify.max_user_watches and restart uplinkd",
        _ => "",
    };
    tracing::warn!(
        "failed to watch the leases of DHCP clients: {error}; what they write later may not be seen{remedy}"
    );
}

/// Pairs of `key=value`, one a line.
fn values(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| line.trim().split_once('='))
}

/// More routers than any lease has; the rest is not looked at.
const ROUTERS_MAX: usize = 16;

/// Addresses with spaces between; what is none is left out.
fn addresses(list: &str) -> Vec<Ipv4Addr> {
    list.split_whitespace().filter_map(|word| word.parse().ok()).take(ROUTERS_MAX).collect()
}

/// What the file of any client may say, for tests with arbitrary bytes.
#[cfg(any(test, fuzzing))]
pub(super) fn any_file(text: &str) {
    let _ = (networkd::parse(text), network_manager::parse(text));
    let _ = dhclient::parse(text, Duration::ZERO);
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn written(address: &str, routers: &[&str]) -> Written {
        let routers = routers.iter().map(|router| router.parse().unwrap()).collect();
        Written { address: address.parse().unwrap(), routers }
    }

    /// Every beginning and every end of a text, the text with each byte made another, and each line twice.
    pub(super) fn never_panics<T>(text: &str, parse: impl Fn(&str) -> T) {
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            parse(&text[..at]);
            parse(&text[at..]);
            for other in ["\0", "\"", "{", "}", "=", "\n", "é"] {
                parse(&format!("{}{other}{}", &text[..at], &text[at..]));
            }
        }
    }

    #[test]
    fn addresses_are_bounded() {
        assert_eq!(addresses("10.0.0.1  fe80::1 10.0.0.2 x").len(), 2);
        assert_eq!(addresses(&"10.0.0.1 ".repeat(1000)).len(), ROUTERS_MAX);
    }
}
