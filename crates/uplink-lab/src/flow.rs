//! A TCP connection that talks steadily, to see whether it survives a switch.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use uplink_core::time::Instant;

use crate::clock::{now, sleep_until};
use crate::error::{Doing, Result};
use crate::host::Host;
use crate::record::Stamped;

/// How often each side looks whether it should end.
const GLANCE: Duration = Duration::from_millis(10);
/// How long the connection may take to be made.
const CONNECT_BOUND: Duration = Duration::from_secs(20);

/// A running connection: one side says something every 10 ms, the other echoes it.
#[derive(Debug)]
pub struct Flow {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What became of a connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowReport {
    /// Bytes that came back.
    pub echoed: u64,
    /// The longest time between two echoes.
    pub longest_silence: Duration,
    /// What ended it, if anything did.
    pub broken: Option<Stamped<String>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    report: Mutex<FlowReport>,
}

impl Flow {
    /// Connects from one host to an address of another, by whatever way the routes lead.
    ///
    /// # Errors
    /// If the connection cannot be made.
    pub fn start(from: &Host, to: &Host, address: IpAddr) -> Result<Self> {
        let any: IpAddr = match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let listener = to.run(move || TcpListener::bind((any, 0))).doing("listen for a flow")?;
        let port = listener.local_addr().doing("read a flow's port")?.port();
        let target = SocketAddr::new(address, port);
        let connect = move || TcpStream::connect_timeout(&target, CONNECT_BOUND);
        let near = from.run(connect).doing(format!("connect to {target}"))?;
        let (far, _) = listener.accept().doing("accept a flow")?;
        prepare(&near).doing("prepare a flow")?;
        prepare(&far).doing("prepare a flow")?;
        let shared = Arc::new(Shared::default());
        let (talking, echoing) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            from.thread("flow", move || talking.talk(near))?,
            to.thread("flow", move || echoing.echo(far))?,
        ];
        Ok(Self { shared, threads })
    }

    /// What became of it so far.
    #[must_use]
    pub fn report(&self) -> FlowReport {
        let report = self.shared.report.lock();
        report.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it.
    #[must_use]
    pub fn stop(mut self) -> FlowReport {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // Neither thread panics.
            let _ = thread.join();
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn talk(&self, mut stream: TcpStream) {
        let mut last = now();
        let mut due = last;
        let mut buffer = [0; 4096];
        while !self.stop.load(Ordering::Relaxed) {
            sleep_until(due);
            due = due + GLANCE;
            let heard = stream.write_all(b"uplink?\n").and_then(|()| stream.read(&mut buffer));
            match heard {
                Ok(0) => return self.note_end("closed by the other side".to_owned()),
                Ok(bytes) => self.note_echo(bytes, &mut last),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return self.note_end(error.to_string()),
            }
        }
    }

    fn echo(&self, mut stream: TcpStream) {
        let mut buffer = [0; 4096];
        while !self.stop.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(bytes) => {
                    // What breaks it is noted on the other side.
                    let _ = stream.write_all(buffer.get(..bytes).unwrap_or_default());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    fn note_echo(&self, bytes: usize, last: &mut Instant) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let moment = now();
        report.echoed += bytes as u64;
        report.longest_silence = report.longest_silence.max(moment.since(*last));
        *last = moment;
    }

    fn note_end(&self, what: String) {
        // The other side may see the stop first.
        if self.stop.load(Ordering::Relaxed) {
            return;
        }
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.broken = Some(Stamped { at: now(), what });
    }
}

fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(GLANCE))?;
    stream.set_write_timeout(Some(GLANCE))
}
