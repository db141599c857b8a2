//! A steady stream of numbered packets, by which outages are measured.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::SockRef;
use uplink_core::time::Instant;

use crate::clock::{Lateness, now, pass, sleep_until};
use crate::error::{Doing, Result};
use crate::host::Host;
use crate::sys;

/// The usual pace: a thousand packets a second.
pub const STREAM_INTERVAL: Duration = Duration::from_millis(1);

/// How long a packet may be on the way, faults' delays included, before it counts as lost.
const ON_THE_WAY: Duration = Duration::from_millis(500);

/// How often the receiver looks whether it should end.
const GLANCE: Duration = Duration::from_millis(20);

/// A running stream of UDP packets. They are unconnected and bound to no address or interface, so
/// each goes wherever the routes lead at its moment.
#[derive(Debug)]
pub struct Stream {
    shared: Arc<Shared>,
    receiving: UdpSocket,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<()>>,
}

/// What became of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamReport {
    /// Packets that the sending kernel took.
    pub sent: u64,
    /// Packets that arrived.
    pub received: u64,
    /// Packets that were sent and did not arrive.
    pub lost: u64,
    /// Packets that the sending kernel refused: lookups that failed.
    pub failed: u64,
    /// Packets that arrived after one that was sent later.
    pub reordered: u64,
    /// Runs of packets that did not arrive or were refused, in order.
    pub gaps: Vec<Gap>,
    /// Packets that arrived and were lost for lack of room in the lab's own socket; anything but 0
    /// spoils the measurement.
    pub overruns: u64,
    /// How late packets were sent: an outage shorter than this may have gone unseen.
    pub lateness: Lateness,
    /// How long packets were on the way.
    pub delay: Lateness,
}

impl StreamReport {
    /// The longest time without a packet that arrived; zero if none was lost.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        let lengths = self.gaps.iter().map(|gap| gap.length);
        lengths.max().unwrap_or_default()
    }
}

/// An outage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// When the first packet that did not arrive was sent.
    pub at: Instant,
    /// From then to the sending of the next that arrived, or of the last one.
    pub length: Duration,
    /// How many did not arrive.
    pub packets: u64,
}

#[derive(Debug, Default)]
struct Shared {
    stop_sending: AtomicBool,
    stop_receiving: AtomicBool,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    /// By number.
    packets: Vec<Packet>,
    reordered: u64,
    highest: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Packet {
    due: Instant,
    sent: Instant,
    refused: bool,
    received: Option<Instant>,
}

impl Stream {
    /// Starts a stream from one host to an address of another, one packet in each interval.
    ///
    /// # Errors
    /// If the sockets cannot be opened.
    pub fn start(from: &Host, to: &Host, address: IpAddr, interval: Duration) -> Result<Self> {
        let any: SocketAddr = match address {
            IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let bind = move || UdpSocket::bind(any);
        let receiving = to.run(bind).doing("open a stream's receiver")?;
        let sending = from.run(bind).doing("open a stream's sender")?;
        sys::enlarge(&SockRef::from(&receiving));
        let port = receiving.local_addr().doing("read a stream's port")?.port();
        receiving.set_read_timeout(Some(GLANCE)).doing("set a stream's time limit")?;
        let shared = Arc::new(Shared::default());
        let (view, socket) = (Arc::clone(&shared), receiving.try_clone());
        let socket = socket.doing("share a stream's socket")?;
        let receiver = to.thread("stream", move || view.receive(&socket))?;
        let (view, target) = (Arc::clone(&shared), SocketAddr::new(address, port));
        let sender = from.thread("stream", move || view.send(&sending, target, interval))?;
        Ok(Self { shared, receiving, sender: Some(sender), receiver: Some(receiver) })
    }

    /// What became of the stream so far, without the packets that may still be on the way.
    #[must_use]
    pub fn report(&self) -> StreamReport {
        self.sum_up(now() - ON_THE_WAY)
    }

    /// Waits for the first packet that was sent at or after `since` to arrive.
    ///
    /// # Errors
    /// [`Late`](crate::Error::Late).
    pub fn wait_for_arrival(&self, since: Instant, bound: Duration) -> Result<Instant> {
        let end = now() + bound;
        loop {
            let log = self.shared.lock();
            let first = log.packets.partition_point(|packet| packet.sent < since);
            let fresh = log.packets.get(first..).unwrap_or_default();
            if let Some(arrived) = fresh.iter().find_map(|packet| packet.received) {
                return Ok(arrived);
            }
            drop(log);
            if now() >= end {
                return Err(crate::Error::Late { what: "a packet of the stream".to_owned(), bound });
            }
            pass(STREAM_INTERVAL);
        }
    }

    /// Ends the stream, and waits for packets on the way.
    #[must_use]
    pub fn stop(mut self) -> StreamReport {
        self.end();
        self.sum_up(Instant::NEVER)
    }

    fn end(&mut self) {
        self.shared.stop_sending.store(true, Ordering::Relaxed);
        // Neither thread panics.
        let _ = self.sender.take().map(JoinHandle::join);
        let end = now() + ON_THE_WAY;
        while self.shared.lock().is_missing_any() && now() < end {
            pass(STREAM_INTERVAL);
        }
        self.shared.stop_receiving.store(true, Ordering::Relaxed);
        let _ = self.receiver.take().map(JoinHandle::join);
    }

    /// Counts the packets sent before a moment.
    fn sum_up(&self, before: Instant) -> StreamReport {
        let log = self.shared.lock();
        let counted = log.packets.partition_point(|packet| packet.sent < before);
        let packets = log.packets.get(..counted).unwrap_or_default();
        let count = |is_it: fn(&Packet) -> bool| -> u64 {
            packets.iter().map(|packet| u64::from(is_it(packet))).sum()
        };
        StreamReport {
            sent: count(|packet| !packet.refused),
            received: count(|packet| packet.received.is_some()),
            lost: count(|packet| !packet.refused && packet.received.is_none()),
            failed: count(|packet| packet.refused),
            reordered: log.reordered,
            gaps: gaps(packets),
            overruns: sys::socket_drops(self.receiving.as_fd()).unwrap_or(0),
            lateness: Lateness::of(packets.iter().map(|p| p.sent.since(p.due)).collect()),
            delay: Lateness::of(packets.iter().filter_map(|p| Some(p.received?.since(p.sent))).collect()),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.sender.is_some() {
            self.end();
        }
    }
}

impl Shared {
    fn send(&self, socket: &UdpSocket, target: SocketAddr, interval: Duration) {
        sys::hurry();
        let mut due = now();
        for number in 0_u64.. {
            if self.stop_sending.load(Ordering::Relaxed) {
                return;
            }
            sleep_until(due);
            // Noted before it is sent, because it may arrive before this thread goes on.
            let packet = Packet { due, sent: now(), refused: false, received: None };
            self.lock().packets.push(packet);
            let refused = socket.send_to(&number.to_be_bytes(), target).is_err();
            if let Some(packet) = self.lock().packets.last_mut() {
                packet.refused = refused;
            }
            due = due + interval;
        }
    }

    fn receive(&self, socket: &UdpSocket) {
        sys::hurry();
        let mut buffer = [0; 8];
        while !self.stop_receiving.load(Ordering::Relaxed) {
            // Otherwise nothing came.
            if socket.recv(&mut buffer).is_ok() {
                self.lock().arrive(u64::from_be_bytes(buffer), now());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn arrive(&mut self, number: u64, at: Instant) {
        let Ok(number) = usize::try_from(number) else {
            return;
        };
        let Some(packet) = self.packets.get_mut(number) else {
            return; // not of this stream
        };
        packet.received.get_or_insert(at);
        self.reordered += u64::from(self.highest.is_some_and(|highest| number < highest));
        self.highest = self.highest.max(Some(number));
    }

    fn is_missing_any(&self) -> bool {
        // Looking from the end: the last ones are the ones on the way.
        let recent = self.packets.iter().rev().take_while(|packet| packet.received.is_none());
        recent.into_iter().any(|packet| !packet.refused)
    }
}

fn gaps(packets: &[Packet]) -> Vec<Gap> {
    let mut gaps = Vec::new();
    let mut open: Option<Gap> = None;
    for packet in packets {
        if let Some(gap) = &mut open {
            gap.length = packet.sent.since(gap.at);
        }
        if packet.received.is_some() {
            gaps.extend(open.take());
        } else {
            let start = Gap { at: packet.sent, length: Duration::ZERO, packets: 0 };
            open.get_or_insert(start).packets += 1;
        }
    }
    gaps.extend(open);
    gaps
}
