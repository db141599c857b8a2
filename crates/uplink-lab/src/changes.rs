//! A listener that stamps every change to a host's routes, rules, links and addresses.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CpuSet;
use nix::sys::eventfd::{EfdFlags, EventFd};
use socket2::{SockFilter, SockRef};
use uplink_core::snapshot::Family;
use uplink_core::time::Instant;

use crate::clock::{ANY_PROCESSOR, now, processors, stay_on};
use crate::error::{Doing, Error, Result};
use crate::host::Host;
use crate::kernel::{Names, Route, loopback_message, messages, read_route};
use crate::record::{Record, Stamped};
use crate::sys;

/// The kernel's news groups that are joined (`RTNLGRP_*`, linux/rtnetlink.h): link, IPv4 address,
/// route and rule, IPv6 address, route and rule, next hop.
const GROUPS: [u32; 8] = [1, 5, 7, 8, 9, 11, 19, 32];

/// The kernel answers a question about an interface within this, and the listener reads the answer.
const CAUGHT_UP: Duration = Duration::from_secs(20);

/// What the kernel said has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A route was added or replaced.
    RouteAdded(Route),
    /// A route was deleted.
    RouteDeleted(Route),
    /// A rule was added.
    RuleAdded(Rule),
    /// A rule was deleted.
    RuleDeleted(Rule),
    /// An interface was made, or something about it changed.
    Link {
        /// Its name.
        interface: String,
        /// Whether it is set up.
        up: bool,
        /// Whether it has a carrier.
        carrier: bool,
    },
    /// An interface is gone.
    LinkDeleted {
        /// Its name.
        interface: String,
    },
    /// An address was added or renewed.
    AddressAdded {
        /// Its interface.
        interface: String,
        /// The address.
        address: IpAddr,
    },
    /// An address was deleted.
    AddressDeleted {
        /// Its interface.
        interface: String,
        /// The address.
        address: IpAddr,
    },
    /// Anything else, such as a next-hop object.
    Other,
}

impl Change {
    /// The route that was added or deleted.
    #[must_use]
    pub const fn route(&self) -> Option<&Route> {
        match self {
            Self::RouteAdded(route) | Self::RouteDeleted(route) => Some(route),
            _ => None,
        }
    }

    /// A route in this table, or a rule that leads to it, was added or deleted.
    #[must_use]
    pub fn is_in_table(&self, family: Family, table: u32) -> bool {
        match self {
            Self::RouteAdded(route) | Self::RouteDeleted(route) => {
                (route.family, route.table) == (family, table)
            }
            Self::RuleAdded(rule) | Self::RuleDeleted(rule) => (rule.family, rule.table) == (family, table),
            _ => false,
        }
    }

    /// The protocol of the route or rule that was added or deleted.
    #[must_use]
    pub const fn protocol(&self) -> Option<u8> {
        match self {
            Self::RouteAdded(route) | Self::RouteDeleted(route) => Some(route.protocol),
            Self::RuleAdded(rule) | Self::RuleDeleted(rule) => Some(rule.protocol),
            _ => None,
        }
    }
}

/// A policy rule, as far as tests ask about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// Its preference.
    pub priority: u32,
    /// The table that it leads to.
    pub table: u32,
    /// Who made it: `RTPROT_*`.
    pub protocol: u8,
    /// Where packets that it matches come from.
    pub source: Option<IpAddr>,
    /// Where packets that it matches go.
    pub destination: Option<IpAddr>,
}

/// A running listener.
#[derive(Debug)]
pub struct Changes {
    heard: Arc<Heard>,
    /// Number of the last question of [`Changes::caught_up`].
    asked: AtomicU32,
    threads: Vec<JoinHandle<()>>,
}

/// What the listener shares with those who ask.
#[derive(Debug)]
struct Heard {
    socket: Socket,
    /// The socket's netlink port.
    port: u32,
    /// Interfaces that were named. Who holds it reads: in the kernel's order, each message once.
    names: Mutex<Names>,
    seen: Record<Change>,
    /// Numbers of our own questions that were answered.
    answered: Record<u32>,
    overruns: AtomicU64,
    stop: EventFd,
}

impl Changes {
    /// Starts listening on a host. From the return on nothing is missed.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn start(host: &Host) -> Result<Self> {
        Self::listen(host, &[], vec![ANY_PROCESSOR])
    }

    /// As [`start`](Self::start), but deaf to all routes that are no default routes: the kernel leaves
    /// them out, so that ten thousand changes a second cost nearly nothing. And it listens on each
    /// processor: who walks a large table in the kernel keeps a processor for 60 ms, and who waits to run
    /// there is moved to another only at one of its ticks.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn start_without_crowd(host: &Host) -> Result<Self> {
        Self::listen(host, &WITHOUT_CROWD, processors())
    }

    fn listen(host: &Host, filter: &'static [SockFilter], processors: Vec<Option<CpuSet>>) -> Result<Self> {
        let (socket, port) = host.run(|| open(filter)).doing("open a netlink socket")?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).doing("make an eventfd")?;
        let (seen, answered, names) = (Record::new(), Record::new(), Mutex::default());
        let heard =
            Arc::new(Heard { socket, port, names, seen, answered, overruns: AtomicU64::new(0), stop });
        let mut changes = Self { heard, asked: AtomicU32::new(0), threads: Vec::new() };
        for processor in processors {
            let heard = changes.heard.clone();
            changes.threads.push(host.thread("changes", move || {
                sys::hurry();
                stay_on(processor);
                listen(&heard);
            })?);
        }
        Ok(changes)
    }

    /// Waits until all that the kernel has announced is read, and gives the moment: what happened before
    /// is stamped earlier, however late the listener was.
    ///
    /// # Errors
    /// If the kernel cannot be asked, the listener does not get that far, or it was ever overrun: then
    /// nobody knows what happened.
    pub fn caught_up(&self) -> Result<Instant> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed) + 1;
        // The answer to a question stands in the socket's queue behind all that was announced before it.
        let mut message = NetlinkMessage::from(loopback_message());
        message.header.flags = NLM_F_REQUEST;
        message.header.sequence_number = number;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.heard.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0).doing("ask for an interface")?;
        let answer = |answered: &u32| *answered == number;
        self.heard.answered.wait_for("the listener", Instant::BOOT, CAUGHT_UP, answer)?;
        match self.overruns() {
            0 => Ok(now()),
            times => Err(Error::Unexpected(format!("the listener for changes was overrun {times} times"))),
        }
    }

    /// Everything so far, in the kernel's order.
    #[must_use]
    pub fn all(&self) -> Vec<Stamped<Change>> {
        self.heard.seen.all()
    }

    /// Everything since a moment.
    #[must_use]
    pub fn since(&self, moment: Instant) -> Vec<Stamped<Change>> {
        let mut all = self.all();
        all.retain(|change| change.at >= moment);
        all
    }

    /// Additions and deletions of default routes in any table since a moment.
    #[must_use]
    pub fn default_routes(&self, since: Instant) -> Vec<Stamped<Change>> {
        let mut all = self.since(since);
        all.retain(|change| change.what.route().is_some_and(Route::is_default));
        all
    }

    /// How many additions and deletions of routes and rules since a moment carry this protocol.
    #[must_use]
    pub fn of_protocol(&self, protocol: u8, since: Instant) -> usize {
        let same = |change: &&Stamped<Change>| change.what.protocol() == Some(protocol);
        self.since(since).iter().filter(same).count()
    }

    /// The first change at or after `since` that `is_it` says yes to; waits at most so long.
    ///
    /// # Errors
    /// [`Late`](crate::Error::Late), naming `what`.
    pub fn wait_for(
        &self,
        what: &str,
        since: Instant,
        bound: Duration,
        is_it: impl FnMut(&Change) -> bool,
    ) -> Result<Stamped<Change>> {
        self.heard.seen.wait_for(what, since, bound, is_it)
    }

    /// How often the kernel had more to say than the socket had room for. Anything but 0 means that
    /// changes were missed.
    #[must_use]
    pub fn overruns(&self) -> u64 {
        self.heard.overruns.load(Ordering::Relaxed)
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        // An eventfd takes 2^64 writes, and the listener does not panic.
        let _ = self.heard.stop.write(1);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A classic BPF program that passes every message but those of routes whose `rtm_dst_len` (byte 17)
/// is not 0. It loads numbers in network order, netlink writes them in the machine's.
const WITHOUT_CROWD: [SockFilter; 7] = {
    const LOAD_HALF_AT: u16 = 0x28;
    const LOAD_BYTE_AT: u16 = 0x30;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_HALF_AT, 0, 0, 4),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, libc::RTM_NEWROUTE.to_be() as u32),
        SockFilter::new(JUMP_IF_EQUAL, 0, 2, libc::RTM_DELROUTE.to_be() as u32),
        SockFilter::new(LOAD_BYTE_AT, 0, 0, 17),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
};

fn open(filter: &[SockFilter]) -> std::io::Result<(Socket, u32)> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    if !filter.is_empty() {
        // Before the groups are joined, so that nothing else ever gets into the queue.
        SockRef::from(&socket).attach_filter(filter)?;
    }
    let address = socket.bind_auto()?;
    socket.set_non_blocking(true)?;
    sys::enlarge(&SockRef::from(&socket));
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    Ok((socket, address.port_number()))
}

fn listen(heard: &Heard) {
    loop {
        let (socket, stop) = (heard.socket.as_fd(), heard.stop.as_fd());
        let mut polled = [PollFd::new(socket, PollFlags::POLLIN), PollFd::new(stop, PollFlags::POLLIN)];
        // It fails when interrupted, or out of memory; either way asking again is right.
        let _ = poll(&mut polled, PollTimeout::NONE);
        if polled[1].any().unwrap_or(true) {
            return;
        }
        heard.read();
    }
}

impl Heard {
    /// Takes in the next datagram; nothing if somebody else took it.
    fn read(&self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match self.socket.recv_from_full() {
            Ok((datagram, _)) => {
                for message in messages(&datagram) {
                    self.take_in(message, &mut names);
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.overruns.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }

    fn take_in(
        &self,
        message: std::result::Result<NetlinkMessage<RouteNetlinkMessage>, String>,
        names: &mut Names,
    ) {
        match message {
            // What is announced bears the port of who changed it.
            Ok(answer) if answer.header.port_number == self.port => {
                self.answered.push(answer.header.sequence_number);
            }
            Ok(announced) => self.seen.push(read(announced.payload, names)),
            Err(_) => self.seen.push(Change::Other),
        }
    }
}

fn read(payload: NetlinkPayload<RouteNetlinkMessage>, names: &mut Names) -> Change {
    let NetlinkPayload::InnerMessage(message) = payload else {
        return Change::Other;
    };
    let change = match &message {
        RouteNetlinkMessage::NewRoute(route) => read_route(route, names).map(Change::RouteAdded),
        RouteNetlinkMessage::DelRoute(route) => read_route(route, names).map(Change::RouteDeleted),
        RouteNetlinkMessage::NewRule(rule) => read_rule(rule).map(Change::RuleAdded),
        RouteNetlinkMessage::DelRule(rule) => read_rule(rule).map(Change::RuleDeleted),
        RouteNetlinkMessage::NewLink(link) => {
            let interface = link_name(link, names);
            let flags = link.header.flags;
            Some(Change::Link {
                interface,
                up: flags.contains(LinkFlags::Up),
                carrier: flags.contains(LinkFlags::LowerUp),
            })
        }
        RouteNetlinkMessage::DelLink(link) => Some(Change::LinkDeleted { interface: link_name(link, names) }),
        RouteNetlinkMessage::NewAddress(message) => {
            let interface = names.of(message.header.index);
            address(message).map(|address| Change::AddressAdded { interface, address })
        }
        RouteNetlinkMessage::DelAddress(message) => {
            let interface = names.of(message.header.index);
            address(message).map(|address| Change::AddressDeleted { interface, address })
        }
        _ => None,
    };
    change.unwrap_or(Change::Other)
}

fn link_name(link: &LinkMessage, names: &mut Names) -> String {
    for attribute in &link.attributes {
        if let LinkAttribute::IfName(name) = attribute {
            names.learn(link.header.index, name);
        }
    }
    names.of(link.header.index)
}

fn address(message: &AddressMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    })
}

/// Reads a rule; none if it is of a family that the lab does not know.
fn read_rule(message: &RuleMessage) -> Option<Rule> {
    let family = match message.header.family {
        AddressFamily::Inet => Family::Ipv4,
        AddressFamily::Inet6 => Family::Ipv6,
        _ => return None,
    };
    let mut rule = Rule {
        family,
        priority: 0,
        table: message.header.table.into(),
        protocol: 0,
        source: None,
        destination: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
            RuleAttribute::Source(source) => rule.source = Some(*source),
            RuleAttribute::Destination(to) => rule.destination = Some(*to),
            _ => {}
        }
    }
    Some(rule)
}
