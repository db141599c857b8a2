//! A TCP connection as a question: whether somebody answers, be it with a refusal.

use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::time::Duration;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use uplink_core::event::{Answer, Probe, ProbeId};
use uplink_core::snapshot::LinkIndex;
use uplink_core::time::Instant;

use super::socket;

/// Longest time that a connection is waited for: the core does not remember older questions to targets.
const PATIENCE: Duration = Duration::from_secs(4);

/// A connection that is being made.
pub(super) struct Connect {
    pub(super) link: LinkIndex,
    pub(super) to: SocketAddr,
    id: ProbeId,
    asked: Instant,
    pub(super) socket: Socket,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// No word yet.
    Waiting,
    /// Somebody answered.
    Answered(Answer),
    /// It failed, without an answer from the one who was asked.
    Failed,
}

impl Connect {
    /// Opens a socket and begins to connect.
    pub(super) fn open(probe: &Probe, to: SocketAddr, asked: Instant) -> io::Result<Self> {
        let kind = Type::STREAM.nonblocking();
        let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
        socket::bind_device(&socket, probe.link)?;
        // Closing resets the connection: neither side keeps anything of it.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.bind(&on_link(SocketAddr::new(probe.source, 0), probe.link).into())?;
        match socket.connect(&on_link(to, probe.link).into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => Err(error),
            Ok(()) | Err(_) => Ok(Self { link: probe.link, to, id: probe.id, asked, socket }),
        }
    }

    /// Whether it has been waited for long enough.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.since(self.asked) > PATIENCE
    }

    /// Looks how far it is. There is no receive stamp for a connection: `now` is the answer's time.
    pub(super) fn look(&self, now: Instant) -> Progress {
        let answered = Progress::Answered(Answer { id: self.id, at: now, mac: None });
        match self.socket.take_error() {
            // Refused, or made and broken before we looked: a packet said so.
            Ok(Some(error)) if is_word(&error) => answered,
            Ok(Some(_)) | Err(_) => Progress::Failed,
            Ok(None) if self.socket.peer_addr().is_ok() => answered,
            Ok(None) => Progress::Waiting,
        }
    }
}

/// Whether the one who was asked must have caused this error.
fn is_word(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// The address, with the interface named where IPv6 needs it.
fn on_link(address: SocketAddr, link: LinkIndex) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, link.0).into()
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}
