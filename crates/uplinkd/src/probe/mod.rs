//! Asks gateways and targets, and hears their answers. Knows nothing of routes.
//!
//! Each question leaves by one interface and no other, from one of its addresses; what comes back
//! is matched to a question, stamped by the kernel, and given to the core as [`Input`].

mod arp;
mod asked;
mod closer;
mod filter;
mod icmp;
mod neighbour;
mod socket;
mod tcp;
mod watch;
mod wire;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::Socket;
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use uplink_core::event::{Input, Probe, ProbeId, Question};
use uplink_core::snapshot::{Family, LinkIndex, Prefix};

use crate::clock;
use crate::sys::reactor::register;
use arp::Arp;
use asked::Asked;
use closer::Closer;
use icmp::Echoes;
use neighbour::Solicitations;
use tcp::{Connect, Progress};
use watch::Watch;

/// Most connections that are being made at one time; the oldest makes room.
const CONNECTS_MAX: usize = 256;
/// Most of them to one target through one interface. One that is silent is asked every 250 ms: so each
/// question still has the second after which it is late.
const CONNECTS_TO_ONE: usize = 4;

/// All sockets that questions leave by.
pub(crate) struct Prober {
    /// Readable when any socket below is.
    ready: AsyncFd<Ready>,
    asked: Asked,
    /// Marks the echoes of this process.
    tag: u32,
    echoes: BTreeMap<(LinkIndex, Family), Echoes>,
    arps: BTreeMap<LinkIndex, Arp>,
    solicitations: BTreeMap<LinkIndex, Solicitations>,
    connects: BTreeMap<ProbeId, Connect>,
    watches: BTreeMap<(LinkIndex, Family), Watch>,
    closer: Closer,
}

/// Why there can be no prober.
#[derive(Debug, Error)]
pub(crate) enum ProbeError {
    /// No epoll set.
    #[error("cannot make the set of probe sockets: {0}; raise the limit of open files")]
    Set(#[source] io::Error),
    /// No random numbers.
    #[error("cannot read random numbers from /dev/urandom: {0}")]
    Random(#[source] io::Error),
}

/// Why a question was not asked.
#[derive(Debug, Error)]
pub(crate) enum AskError {
    /// The addresses are of two families: the question makes no sense.
    #[error("cannot ask {to} from {from}: not of one address family")]
    Family {
        /// Whom.
        to: IpAddr,
        /// Our address.
        from: IpAddr,
    },
    /// No socket.
    #[error("cannot open a socket on interface {} for {what}: {source}{}", link.0, remedy(source))]
    Open {
        /// What for.
        what: &'static str,
        /// Where.
        link: LinkIndex,
        /// What the kernel said.
        source: io::Error,
    },
    /// The socket does not take the packet.
    #[error("cannot send {what} to {to} from {from} through interface {}: {source}", link.0)]
    Send {
        /// What.
        what: &'static str,
        /// Whom.
        to: IpAddr,
        /// Our address.
        from: IpAddr,
        /// Where.
        link: LinkIndex,
        /// What the kernel said.
        source: Errno,
    },
    /// No random numbers.
    #[error("cannot read random numbers from /dev/urandom: {0}")]
    Random(#[source] io::Error),
}

impl Drop for Prober {
    fn drop(&mut self) {
        closer::close_at_once(self.packet_sockets(|_| true));
    }
}

impl Prober {
    /// A prober without sockets: they are opened when first needed. Must be called within the
    /// runtime.
    ///
    /// # Errors
    /// The process has no file descriptor left, or there are no random numbers.
    pub(crate) fn new() -> Result<Self, ProbeError> {
        let epoll =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(|error| ProbeError::Set(error.into()))?;
        let ready = register(Ready(epoll)).map_err(ProbeError::Set)?;
        let mut asked = Asked::new().map_err(ProbeError::Random)?;
        let random = asked.random().map_err(ProbeError::Random)?;
        #[expect(clippy::cast_possible_truncation, reason = "half of a random number is one")]
        let tag = random as u32;
        Ok(Self {
            ready,
            asked,
            tag,
            echoes: BTreeMap::new(),
            arps: BTreeMap::new(),
            solicitations: BTreeMap::new(),
            connects: BTreeMap::new(),
            watches: BTreeMap::new(),
            closer: Closer::default(),
        })
    }

    /// Sends a probe.
    ///
    /// # Errors
    /// It was not sent: the core must be told with [`Input::Unsent`].
    pub(crate) fn ask(&mut self, probe: &Probe) -> Result<(), AskError> {
        self.purge();
        let from = probe.source;
        let to = match probe.question {
            Question::Echo(to) | Question::Neighbour(to) => to,
            Question::Connect(to) => to.ip(),
        };
        if Family::of(to) != Family::of(from) {
            return Err(AskError::Family { to, from });
        }
        match probe.question {
            Question::Echo(to) => self.echo(probe, to),
            Question::Neighbour(to) => self.neighbour(probe, to),
            Question::Connect(to) => self.connect(probe, to),
        }
    }

    /// Reports the next packet that comes through `link` from outside `except`, once.
    ///
    /// # Errors
    /// The packet socket cannot be had: nothing will be reported.
    pub(crate) fn watch(
        &mut self,
        link: LinkIndex,
        family: Family,
        except: &[Prefix],
    ) -> Result<(), AskError> {
        let watch = match self.watches.entry((link, family)) {
            Entry::Occupied(watch) => watch.into_mut().set(except),
            Entry::Vacant(place) => Watch::open(link, family, except)
                .and_then(|new| self.ready.get_ref().add(&new.socket, EpollFlags::EPOLLIN).map(|()| new))
                .map(|new| {
                    place.insert(new);
                }),
        };
        watch.map_err(unopened("watching", link))
    }

    /// Stops watching.
    pub(crate) fn unwatch(&mut self, link: LinkIndex, family: Family) {
        if let Some(watch) = self.watches.get_mut(&(link, family)) {
            watch.rest();
        }
    }

    /// Closes all sockets of an interface that is gone.
    pub(crate) fn forget(&mut self, link: LinkIndex) {
        self.asked.forget(link);
        self.echoes.retain(|(at, _), _| *at != link);
        self.connects.retain(|_, connect| connect.link != link);
        let sockets = self.packet_sockets(|at| at == link);
        self.closer.close(sockets);
    }

    /// Takes the packet sockets of interfaces away.
    fn packet_sockets(&mut self, of: impl Fn(LinkIndex) -> bool) -> Vec<Socket> {
        let arps = self.arps.extract_if(.., |link, _| of(*link)).map(|(_, arp)| arp.socket);
        let solicitations = self.solicitations.extract_if(.., |link, _| of(*link));
        let watches = self.watches.extract_if(.., |(link, _), _| of(*link)).map(|(_, watch)| watch.socket);
        arps.chain(solicitations.map(|(_, s)| s.interface)).chain(watches).collect()
    }

    /// Returns when [`Prober::drain`] has something to read. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        loop {
            let mut guard = self.ready.readable().await?;
            if guard.get_inner().any()? {
                guard.retain_ready();
                return Ok(());
            }
            guard.clear_ready();
        }
    }

    /// All that came in since the last time, without waiting. A bounded number from each socket; if
    /// that was not all, [`Prober::readable`] returns at once.
    pub(crate) fn drain(&mut self) -> Vec<Input> {
        let mut answers = Vec::new();
        for echoes in self.echoes.values() {
            echoes.drain(&mut self.asked, &mut answers);
        }
        for arp in self.arps.values() {
            arp.drain(&mut self.asked, &mut answers);
        }
        for solicitations in self.solicitations.values() {
            solicitations.drain(&mut self.asked, &mut answers);
        }
        let now = clock::now();
        self.connects.retain(|_, connect| match connect.look(now) {
            Progress::Waiting => true,
            Progress::Failed => false,
            Progress::Answered(answer) => {
                answers.push(answer);
                false
            }
        });
        let mut inputs: Vec<Input> = answers.into_iter().map(Input::Answer).collect();
        for (&(link, family), watch) in &mut self.watches {
            let seen = watch.drain();
            inputs.extend(seen.map(|at| Input::Forwarded { link, family, at }));
        }
        inputs
    }

    /// Sends an echo request.
    fn echo(&mut self, probe: &Probe, to: IpAddr) -> Result<(), AskError> {
        let what = "an echo request";
        let key = (probe.link, Family::of(to));
        let echoes = match self.echoes.entry(key) {
            Entry::Occupied(echoes) => echoes.into_mut(),
            Entry::Vacant(place) => {
                let echoes = Echoes::open(key.0, key.1, self.tag).and_then(|echoes| {
                    self.ready.get_ref().add(&echoes.socket, EpollFlags::EPOLLIN).map(|()| echoes)
                });
                place.insert(echoes.map_err(unopened(what, probe.link))?)
            }
        };
        let nonce = self.asked.echo(probe, to, clock::now());
        let nonce = nonce.map_err(AskError::Random)?;
        let sent = echoes.ask(probe.id, nonce, probe.source, to);
        if sent.is_err_and(socket::is_stale) {
            self.echoes.remove(&key);
        }
        self.noted(probe, sent).map_err(unsent(what, probe, to))
    }

    /// Asks for a neighbour.
    fn neighbour(&mut self, probe: &Probe, to: IpAddr) -> Result<(), AskError> {
        match (probe.source, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => self.arp(probe, from, to),
            (IpAddr::V6(from), IpAddr::V6(to)) => self.solicit(probe, from, to),
            (from, to) => Err(AskError::Family { to, from }),
        }
    }

    /// Asks for an IPv4 neighbour.
    fn arp(&mut self, probe: &Probe, from: Ipv4Addr, to: Ipv4Addr) -> Result<(), AskError> {
        let what = "an ARP request";
        let arp = match self.arps.entry(probe.link) {
            Entry::Occupied(arp) => arp.into_mut(),
            Entry::Vacant(place) => {
                let arp = Arp::open(probe.link)
                    .and_then(|arp| self.ready.get_ref().add(&arp.socket, EpollFlags::EPOLLIN).map(|()| arp));
                place.insert(arp.map_err(unopened(what, probe.link))?)
            }
        };
        self.asked.neighbour(probe, to.into(), clock::now());
        let sent = arp.ask(from, to);
        if sent.is_err_and(socket::is_stale) {
            let stale = self.arps.remove(&probe.link);
            self.closer.close(stale.map(|arp| arp.socket));
        }
        self.noted(probe, sent).map_err(unsent(what, probe, to.into()))
    }

    /// Asks for an IPv6 neighbour.
    fn solicit(&mut self, probe: &Probe, from: Ipv6Addr, to: Ipv6Addr) -> Result<(), AskError> {
        let what = "a neighbour solicitation";
        let solicitations = match self.solicitations.entry(probe.link) {
            Entry::Occupied(solicitations) => solicitations.into_mut(),
            Entry::Vacant(place) => {
                let opened = Solicitations::open(probe.link)
                    .and_then(|new| self.ready.get_ref().add(&new.socket, EpollFlags::EPOLLIN).map(|()| new));
                place.insert(opened.map_err(unopened(what, probe.link))?)
            }
        };
        self.asked.neighbour(probe, to.into(), clock::now());
        let sent = solicitations.ask(from, to);
        if sent.is_err_and(socket::is_stale) {
            let stale = self.solicitations.remove(&probe.link);
            self.closer.close(stale.map(|s| s.interface));
        }
        self.noted(probe, sent).map_err(unsent(what, probe, to.into()))
    }

    /// Begins a connection.
    fn connect(&mut self, probe: &Probe, to: SocketAddr) -> Result<(), AskError> {
        self.make_room(probe.link, to);
        let connect = Connect::open(probe, to, clock::now())
            .and_then(|connect| {
                self.ready.get_ref().add(&connect.socket, EpollFlags::EPOLLOUT).map(|()| connect)
            })
            .map_err(unopened("a TCP connection", probe.link))?;
        self.connects.insert(probe.id, connect);
        Ok(())
    }

    /// Gives up the oldest connections where there are too many, to this target or in all.
    fn make_room(&mut self, link: LinkIndex, to: SocketAddr) {
        let alike = self.connects.iter().filter(|(_, connect)| (connect.link, connect.to) == (link, to));
        let oldest = alike.map(|(id, _)| *id).nth_back(CONNECTS_TO_ONE - 1);
        if let Some(id) = oldest {
            self.connects.remove(&id);
        }
        if self.connects.len() >= CONNECTS_MAX {
            self.connects.pop_first();
        }
    }

    /// Passes on how sending went; what was not sent has no answer.
    fn noted(&mut self, probe: &Probe, sent: nix::Result<()>) -> nix::Result<()> {
        if sent.is_err() {
            self.asked.withdraw(probe.id);
        }
        sent
    }

    /// Closes what has been waited for long enough.
    fn purge(&mut self) {
        let now = clock::now();
        self.connects.retain(|_, connect| !connect.is_over(now));
        let over = self.watches.extract_if(.., |_, watch| watch.is_over(now));
        self.closer.close(over.map(|(_, watch)| watch.socket));
    }
}

/// What to do where that is known.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; give the service CAP_NET_RAW",
        _ => "",
    }
}

/// Tells that no socket could be opened for `what`.
fn unopened(what: &'static str, link: LinkIndex) -> impl FnOnce(io::Error) -> AskError {
    move |source| AskError::Open { what, link, source }
}

/// Tells that `what` could not be sent.
fn unsent(what: &'static str, probe: &Probe, to: IpAddr) -> impl FnOnce(Errno) -> AskError {
    let (from, link) = (probe.source, probe.link);
    move |source| AskError::Send { what, to, from, link, source }
}

/// The set of all our sockets, as one descriptor. What is in it is found by trying: sockets are
/// few, and an empty one costs less than a microsecond.
struct Ready(Epoll);

impl Ready {
    /// Adds a socket; closing it takes it out.
    fn add(&self, socket: &Socket, event: EpollFlags) -> io::Result<()> {
        Ok(self.0.add(socket, EpollEvent::new(event, 0))?)
    }

    /// Whether any of them has something to read.
    fn any(&self) -> io::Result<bool> {
        let ready = self.0.wait(&mut [EpollEvent::empty()], EpollTimeout::ZERO)?;
        Ok(ready > 0)
    }
}

impl AsFd for Ready {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl AsRawFd for Ready {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// What the sockets would make of a packet, for tests with arbitrary bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_packet(packet: &[u8]) {
    wire::read_as_any(packet);
}
