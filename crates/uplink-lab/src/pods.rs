//! Interfaces of somebody else in great number, some of which come and go without pause: what a CNI
//! does on a worker full of pods.

use std::io::{self, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::{now, sleep_until};
use crate::error::Result;
use crate::host::{Host, tool};

/// The bridge that all of them are ports of.
const BRIDGE: &str = "pods";
/// How many pods that come and go are there at a time.
const LIVES: u64 = 8;

/// Pods on a host: pairs of interfaces, one end in the pod, the other a port of a bridge. All but the
/// bridge end with this.
#[derive(Debug)]
pub struct Pods {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// All pods are in its namespace, one end each.
    _inside: Host,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    made: AtomicU64,
}

impl Pods {
    /// Makes so many pods that stay, and then so many a minute that come and go.
    ///
    /// # Errors
    /// What `ip` says; if there is no room for another host or thread.
    pub fn start(host: &Host, standing: u32, per_minute: u32) -> Result<Self> {
        let inside = Host::new("pods")?;
        host.ip(&format!("link add {BRIDGE} up type bridge"))?;
        let namespace = inside.namespace().to_owned();
        let stay: String = (0..standing).map(|number| come("stay", number.into(), &namespace)).collect();
        host.ip_batch(&stay)?;
        let shared = Arc::new(Shared::default());
        let view = Arc::clone(&shared);
        let thread = (per_minute > 0).then(|| {
            let every = Duration::from_secs(60) / per_minute;
            host.thread("pods", move || view.come_and_go(&namespace, every))
        });
        Ok(Self { shared, thread: thread.transpose()?, _inside: inside })
    }

    /// No more come or go.
    pub fn rest(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Why it ended early shows in the number of pods.
        let _ = self.thread.take().map(JoinHandle::join);
    }

    /// How many of those that come and go were made so far.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.shared.made.load(Ordering::Relaxed)
    }
}

impl Drop for Pods {
    fn drop(&mut self) {
        self.rest();
    }
}

impl Shared {
    fn come_and_go(&self, namespace: &str, every: Duration) -> io::Result<()> {
        let mut due = now();
        for number in 0_u64.. {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let gone = number.checked_sub(LIVES).map(|gone| format!("link delete go{gone}\n"));
            ip(&(come("go", number, namespace) + &gone.unwrap_or_default()))?;
            self.made.fetch_add(1, Ordering::Relaxed);
            due = due + every;
            sleep_until(due);
        }
        Ok(())
    }
}

/// What makes a pod's interface, in words of `ip`.
fn come(name: &str, number: u64, namespace: &str) -> String {
    format!(
        "link add {name}{number} type veth peer name in-{name}{number} netns {namespace}\n\
         link set {name}{number} up master {BRIDGE}\n"
    )
}

/// Runs `ip` on the host of this thread.
fn ip(lines: &str) -> io::Result<()> {
    let mut command = tool("ip");
    let mut child = command.args(["-batch", "-"]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut orders) = child.stdin.take() {
        orders.write_all(lines.as_bytes())?;
    }
    match child.wait()?.success() {
        true => Ok(()),
        false => Err(io::Error::other("ip failed")),
    }
}
