//! Closes packet sockets where nobody waits for it.

use std::thread::{self, JoinHandle};

use socket2::Socket;

/// Closes packet sockets on a thread of their own, one thread at a time: the kernel makes the closer
/// wait for an RCU grace period (`synchronize_net` in `packet_release`), 8 to 16 ms on an idle machine
/// and seconds on a busy one.
#[derive(Debug, Default)]
pub(super) struct Closer {
    waiting: Vec<Socket>,
    thread: Option<JoinHandle<()>>,
}

impl Closer {
    /// Closes these, and what waited while others were closed. Without a thread to be had they are
    /// closed here.
    pub(super) fn close(&mut self, sockets: impl IntoIterator<Item = Socket>) {
        self.waiting.extend(sockets);
        let busy = self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        if busy || self.waiting.is_empty() {
            return;
        }
        let sockets = std::mem::take(&mut self.waiting);
        self.thread = thread::Builder::new().name("close".to_owned()).spawn(move || drop(sockets)).ok();
    }
}

/// Closes these all at once and waits: at the end of the process the kernel would close one after the
/// other, and wait for a grace period with each.
pub(super) fn close_at_once(sockets: Vec<Socket>) {
    thread::scope(|scope| {
        for socket in sockets {
            // Without a thread to be had it is closed here.
            let _ = thread::Builder::new().name("close".to_owned()).spawn_scoped(scope, move || drop(socket));
        }
    });
}
