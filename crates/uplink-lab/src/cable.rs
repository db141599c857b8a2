//! A cable between a worker and a gateway: two veth pairs and, between them, a relay that can lose,
//! delay and tell apart what it carries.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::sys::time::TimeSpec;
use uplink_core::time::Instant;

use crate::clock::now;
use crate::error::{Doing, Result};
use crate::fault::{Fate, Fault, Way};
use crate::host::Host;
use crate::sys;

/// Length of `struct virtio_net_hdr` (linux/virtio_net.h), which stands before each frame.
const VNET_HEADER: usize = 10;

/// One end of a cable; as a direction, the end that a frame goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The worker's.
    Worker,
    /// The gateway's.
    Gateway,
}

impl End {
    const BOTH: [Self; 2] = [Self::Worker, Self::Gateway];

    /// The interface inside the cable.
    const fn inside(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Gateway => "gateway",
        }
    }

    /// The number of the interface inside the cable, which no interface of a host has: where the two
    /// numbers of a veth pair are the same, the kernel announces a change of carrier up to a second
    /// later, if any link of the machine changed shortly before (`linkwatch_urgent_event` in
    /// net/core/link_watch.c).
    const fn index(self) -> u32 {
        match self {
            Self::Worker => 1_000_001,
            Self::Gateway => 1_000_002,
        }
    }
}

/// What a cable carried towards one end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Frames handed over.
    pub carried: u64,
    /// Frames lost by faults.
    pub lost: u64,
    /// When the last frame was handed over.
    pub last: Option<Instant>,
}

/// A cable, whose two ends can be plugged into hosts, pulled out, and plugged again.
#[derive(Debug)]
pub struct Cable {
    wire: Host,
    shared: Arc<Shared>,
    relay: Mutex<Option<Relay>>,
}

/// What the relay and those who cause faults have in common.
#[derive(Debug)]
struct Shared {
    gateway: Vec<IpAddr>,
    worker_bound: Mutex<Direction>,
    gateway_bound: Mutex<Direction>,
}

#[derive(Debug, Default)]
struct Direction {
    way: Way,
    traffic: Traffic,
    overruns: u64,
}

#[derive(Debug)]
struct Relay {
    stop: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl Cable {
    /// A cable without anything at its ends. `gateway` are the addresses of the gateway that will
    /// stand at one end, by which faults know it.
    ///
    /// # Errors
    /// If its namespace cannot be made.
    pub fn new(name: &str, gateway: &[IpAddr]) -> Result<Self> {
        Ok(Self {
            wire: Host::wire(name)?,
            shared: Arc::new(Shared {
                gateway: gateway.to_vec(),
                worker_bound: Mutex::default(),
                gateway_bound: Mutex::default(),
            }),
            relay: Mutex::new(None),
        })
    }

    /// Plugs an end into a host: makes the interface there, with this Ethernet address, and sets it
    /// up. The cable carries as soon as both ends are plugged.
    ///
    /// # Errors
    /// If this end is plugged already, or the host has an interface of that name.
    pub fn plug(&self, end: End, host: &Host, interface: &str, mac: &str) -> Result<()> {
        let (inside, index, namespace) = (end.inside(), end.index(), host.namespace());
        self.wire.ip_batch(&format!(
            "link add {inside} index {index} type veth peer name {interface} address {mac} netns {namespace}\n\
             link set {inside} up\n"
        ))?;
        host.set_up(interface, true)?;
        self.restart()
    }

    /// Pulls an end out: the interface at the host is gone.
    ///
    /// # Errors
    /// If it is not plugged.
    pub fn unplug(&self, end: End) -> Result<Instant> {
        let moment = now();
        self.wire.ip(&format!("link delete {}", end.inside()))?;
        self.restart()?;
        Ok(moment)
    }

    /// Takes the carrier away from the interface at an end, or gives it back. The moment returned
    /// is right before the kernel was told.
    ///
    /// # Errors
    /// If the end is not plugged.
    pub fn carrier(&self, end: End, on: bool) -> Result<Instant> {
        self.wire.set_up(end.inside(), on)
    }

    /// From now on these faults, and no others, in both directions. The moment returned is right
    /// before the first frame that they apply to.
    pub fn fault(&self, faults: &[Fault]) -> Instant {
        let mut ways = End::BOTH.map(|end| self.shared.towards(end));
        let moment = now();
        for direction in &mut ways {
            direction.way.set(faults);
        }
        moment
    }

    /// From now on these faults, and no others, in the direction of one end.
    pub fn fault_towards(&self, end: End, faults: &[Fault]) -> Instant {
        let mut direction = self.shared.towards(end);
        let moment = now();
        direction.way.set(faults);
        moment
    }

    /// Ends all faults (not a lost carrier).
    pub fn heal(&self) -> Instant {
        self.fault(&[])
    }

    /// What was carried towards an end since the cable was made.
    #[must_use]
    pub fn traffic(&self, end: End) -> Traffic {
        self.shared.towards(end).traffic
    }

    /// Frames that the relay itself was too slow for. Anything but 0 spoils a measurement.
    #[must_use]
    pub fn overruns(&self) -> u64 {
        End::BOTH.iter().map(|&end| self.shared.towards(end).overruns).sum()
    }

    /// Starts the relay over the ends that are there now.
    fn restart(&self) -> Result<()> {
        let mut relay = lock(&self.relay);
        if let Some(old) = relay.take() {
            old.end();
        }
        let sockets = self.wire.run(|| End::BOTH.map(open));
        let [Some(worker), Some(gateway)] = sockets.map(Result::transpose) else {
            return Ok(()); // an end is not plugged
        };
        let (worker, gateway) = (worker?, gateway?);
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC).doing("make an eventfd for a cable")?);
        let (shared, stopped) = (Arc::clone(&self.shared), Arc::clone(&stop));
        let thread = self.wire.thread("relay", move || {
            sys::hurry();
            carry(&shared, &worker, &gateway, &stopped);
        })?;
        *relay = Some(Relay { stop, thread });
        Ok(())
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        if let Some(relay) = lock(&self.relay).take() {
            relay.end();
        }
    }
}

impl Relay {
    fn end(self) {
        // An eventfd takes 2^64 writes, and the relay does not panic.
        let _ = self.stop.write(1);
        let _ = self.thread.join();
    }
}

impl Shared {
    fn towards(&self, end: End) -> MutexGuard<'_, Direction> {
        lock(match end {
            End::Worker => &self.worker_bound,
            End::Gateway => &self.gateway_bound,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens an end from inside the cable; none if it is not plugged.
fn open(end: End) -> Result<Option<OwnedFd>> {
    match sys::packet_socket(end.inside()) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) if error.raw_os_error() == Some(Errno::ENODEV as i32) => Ok(None),
        Err(error) => Err(error).doing("open a packet socket inside a cable"),
    }
}

/// Carries frames both ways until told to stop.
fn carry(shared: &Shared, worker: &OwnedFd, gateway: &OwnedFd, stop: &EventFd) {
    let mut buffer = vec![0; 1 << 17];
    let mut lanes = [Lane::new(worker, gateway, End::Gateway), Lane::new(gateway, worker, End::Worker)];
    loop {
        let due = lanes.iter().filter_map(Lane::due).min();
        let timeout = due.map(|due| TimeSpec::from_duration(due.since(now())));
        let mut polled = [
            PollFd::new(worker.as_fd(), PollFlags::POLLIN),
            PollFd::new(gateway.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        ];
        if ppoll(&mut polled, timeout, None).is_err_and(|error| error != Errno::EINTR) {
            return;
        }
        let [.., stopped] = &polled;
        if stopped.any().unwrap_or(true) {
            return;
        }
        for lane in &mut lanes {
            lane.take_in(shared, &mut buffer);
            lane.hand_over(shared);
        }
    }
}

/// One direction of the relay.
struct Lane<'a> {
    from: &'a OwnedFd,
    to: &'a OwnedFd,
    end: End,
    /// Delayed frames, in the order in which they came.
    delayed: VecDeque<(Instant, Vec<u8>)>,
}

impl<'a> Lane<'a> {
    fn new(from: &'a OwnedFd, to: &'a OwnedFd, end: End) -> Self {
        Self { from, to, end, delayed: VecDeque::new() }
    }

    fn due(&self) -> Option<Instant> {
        self.delayed.front().map(|&(due, _)| due)
    }

    /// Reads what has come, and passes on what is not delayed.
    fn take_in(&mut self, shared: &Shared, buffer: &mut [u8]) {
        loop {
            let length = match recv(self.from.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                // The interface went down: it is told once, and there may be frames behind it.
                Err(Errno::ENETDOWN | Errno::EINTR) => continue,
                Err(_) => break,
            };
            let raw = buffer.get(..length).unwrap_or_default();
            let frame = raw.get(VNET_HEADER..).unwrap_or_default();
            let mut direction = shared.towards(self.end);
            match direction.way.fate(frame, &shared.gateway) {
                Fate::Lost => direction.traffic.lost += 1,
                Fate::Arrives { after } if after.is_zero() && self.delayed.is_empty() => {
                    self.send(&mut direction, raw);
                }
                Fate::Arrives { after } => self.delayed.push_back((now() + after, raw.to_vec())),
            }
        }
        if let Ok(drops @ 1..) = sys::packet_drops(self.from.as_fd()) {
            shared.towards(self.end).overruns += drops;
        }
    }

    /// Passes on the delayed frames whose time has come.
    fn hand_over(&mut self, shared: &Shared) {
        while let Some((_, raw)) = self.delayed.pop_front_if(|(due, _)| *due <= now()) {
            self.send(&mut shared.towards(self.end), &raw);
        }
    }

    fn send(&self, direction: &mut Direction, raw: &[u8]) {
        let sent = send(self.to.as_raw_fd(), raw, MsgFlags::empty());
        // A cable whose other end is down loses what is sent, as a real one does.
        if sent.is_ok() {
            direction.traffic.carried += 1;
            direction.traffic.last = Some(now());
        }
    }
}
