//! Routes of somebody else in great number, and changes of them without pause: what a routing daemon
//! or a large cluster does to a host.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use uplink_core::snapshot::TABLE_MAIN;

use crate::clock::{now, sleep_until};
use crate::error::{Doing, Result};
use crate::host::Host;
use crate::kernel::messages;

/// The first of the many routes; each is a /24, one behind the other.
const MANY: u32 = u32::from_be_bytes([16, 0, 0, 0]);
/// The first of the routes that come and go; each is a /32.
const RESTLESS: u32 = u32::from_be_bytes([100, 64, 0, 0]);
/// How many of these there are.
const RESTLESS_COUNT: u32 = 1 << 16;
/// Who makes them: `RTPROT_BGP` (linux/rtnetlink.h).
const RTPROT_BGP: u8 = 186;
/// Who makes those that name a gateway: `RTPROT_DHCP`.
const RTPROT_DHCP: u8 = 16;
/// Requests in one datagram: it stays far below what a socket takes.
const BATCH: u32 = 500;
/// What changes comes in portions of so long.
const PORTION: Duration = Duration::from_millis(1);

impl Host {
    /// Lays so many IPv4 routes through an interface to one gateway, of protocol `bgp`, in the main
    /// table; none is a default route.
    ///
    /// # Errors
    /// What the kernel says; that there are more than the addresses allow.
    pub fn lay_crowd(&self, interface: &str, gateway: Ipv4Addr, count: u32) -> Result<()> {
        let (interface, host) = (interface.to_owned(), self.name().to_owned());
        self.run(move || {
            let mut crowd = Crowd::open(&interface, gateway, RTPROT_BGP)?;
            for first in (0..count).step_by(BATCH as usize) {
                let numbers = first..count.min(first + BATCH);
                crowd.send(numbers.map(|number| (true, MANY + (number << 8), 24)))?;
            }
            Ok::<(), io::Error>(())
        })
        .doing(format!("lay {count} routes on {host}"))
    }

    /// Adds so many routes as a DHCP client does, and deletes them again, as fast as the kernel does it:
    /// news for whoever looks for gateways, more than there is room for if he does not read it meanwhile.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flood_routes(&self, interface: &str, gateway: Ipv4Addr, count: u32) -> Result<()> {
        let (interface, host) = (interface.to_owned(), self.name().to_owned());
        self.run(move || {
            let mut crowd = Crowd::open(&interface, gateway, RTPROT_DHCP)?;
            for first in (0..count).step_by(BATCH as usize) {
                for add in [true, false] {
                    let numbers = first..count.min(first + BATCH);
                    crowd.send(numbers.map(|number| (add, MANY + (number << 8), 24)))?;
                }
            }
            Ok::<(), io::Error>(())
        })
        .doing(format!("flood {host} with routes"))
    }

    /// Tells so often of interfaces, as fast as the kernel does it: by another alias of the loopback
    /// interface, which matters to nobody.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn flood_links(&self, count: u32) -> Result<()> {
        self.ip_batch(
            &(0..count).map(|number| format!("link set dev lo alias {number}\n")).collect::<String>(),
        )
    }
}

/// Somebody who adds and deletes routes without pause.
#[derive(Debug)]
pub struct Churn {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    pause: AtomicBool,
    changes: AtomicU64,
    cpu_nanos: AtomicU64,
}

/// What was changed so far.
#[derive(Debug, Clone, Copy)]
pub struct Churned {
    /// Additions and deletions.
    pub changes: u64,
    /// The processor time that they took, which is that of all who listen, too: the kernel tells them
    /// before it returns.
    pub cpu: Duration,
}

impl Churn {
    /// Starts so many changes a second, half of them additions, of IPv4 routes through an interface
    /// to a gateway.
    ///
    /// # Errors
    /// If there is no such interface, or no socket.
    pub fn start(host: &Host, interface: &str, gateway: Ipv4Addr, per_second: u32) -> Result<Self> {
        let (shared, interface) = (Arc::new(Shared::default()), interface.to_owned());
        let crowd =
            host.run(move || Crowd::open(&interface, gateway, RTPROT_BGP)).doing("open a netlink socket")?;
        let view = Arc::clone(&shared);
        let thread = host.thread("churn", move || view.churn(crowd, per_second / 1000))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Lets it rest, or go on: within two milliseconds.
    pub fn pause(&self, pause: bool) {
        self.shared.pause.store(pause, Ordering::Relaxed);
    }

    /// What it did so far.
    #[must_use]
    pub fn so_far(&self) -> Churned {
        Churned {
            changes: self.shared.changes.load(Ordering::Relaxed),
            cpu: Duration::from_nanos(self.shared.cpu_nanos.load(Ordering::Relaxed)),
        }
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Why it ended early shows in the number of changes.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    /// Adds each restless route, and deletes it when it comes by again.
    fn churn(&self, mut crowd: Crowd, per_portion: u32) -> io::Result<()> {
        let (mut due, mut next) = (now(), 0);
        while !self.stop.load(Ordering::Relaxed) {
            if self.pause.load(Ordering::Relaxed) {
                due = now() + PORTION;
                sleep_until(due);
                continue;
            }
            let numbers = (next..next + per_portion).map(|number| {
                let added = (number / RESTLESS_COUNT).is_multiple_of(2);
                (added, RESTLESS + number % RESTLESS_COUNT, 32)
            });
            crowd.send(numbers)?;
            next = (next + per_portion) % (2 * RESTLESS_COUNT);
            self.changes.fetch_add(per_portion.into(), Ordering::Relaxed);
            let cpu: Duration = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into();
            let nanos = u64::try_from(cpu.as_nanos()).unwrap_or(u64::MAX);
            self.cpu_nanos.store(nanos, Ordering::Relaxed);
            due = due + PORTION;
            sleep_until(due);
        }
        Ok(())
    }
}

/// A socket and the way of all its routes.
struct Crowd {
    socket: Socket,
    interface: u32,
    gateway: Ipv4Addr,
    protocol: u8,
}

impl Crowd {
    fn open(interface: &str, gateway: Ipv4Addr, protocol: u8) -> io::Result<Self> {
        let interface = if_nametoindex(interface)?;
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Self { socket, interface, gateway, protocol })
    }

    /// Adds (or deletes) routes by first address and length, in one datagram; the kernel carries all of
    /// them out before it returns.
    fn send(&mut self, routes: impl Iterator<Item = (bool, u32, u8)>) -> io::Result<()> {
        let mut datagram = Vec::new();
        let mut routes = routes.peekable();
        while let Some((add, to, length)) = routes.next() {
            let request = self.route(to, length);
            let (request, change) = match add {
                true => (RouteNetlinkMessage::NewRoute(request), NLM_F_CREATE | NLM_F_EXCL),
                false => (RouteNetlinkMessage::DelRoute(request), 0),
            };
            let mut message = NetlinkMessage::from(request);
            // A refusal is answered whether it was asked for or not; success is only of the last.
            let acknowledged = if routes.peek().is_none() { NLM_F_ACK } else { 0 };
            message.header.flags = NLM_F_REQUEST | change | acknowledged;
            message.finalize();
            let start = datagram.len();
            datagram.resize(start + message.buffer_len(), 0);
            message.serialize(datagram.get_mut(start..).unwrap_or_default());
        }
        self.socket.send(&datagram, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        for message in messages(&answer) {
            if let Ok(NetlinkPayload::Error(refusal)) = message.map(|message| message.payload)
                && refusal.code.is_some()
            {
                return Err(refusal.to_io());
            }
        }
        Ok(())
    }

    fn route(&self, to: u32, length: u8) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.destination_prefix_length = length;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.header.protocol = self.protocol.into();
        message.attributes = vec![
            RouteAttribute::Table(TABLE_MAIN),
            RouteAttribute::Destination(Ipv4Addr::from(to).into()),
            RouteAttribute::Oif(self.interface),
            RouteAttribute::Gateway(self.gateway.into()),
        ];
        message
    }
}
