//! Closes sockets that keep to the address of an uplink that is down, aside from the loop: a host can have
//! hundreds of thousands.

mod diag;
mod way;
mod wire;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use tokio::sync::Notify;
use uplink_core::event::{Closing, Input};
use uplink_core::snapshot::Family;

use crate::netlink::{RequestError, Requests};
use diag::Diag;
use wire::Protocol;
#[cfg(any(test, fuzzing))]
pub(crate) use wire::any_datagram;

/// No more sockets than this are closed when an uplink falls: what is not closed ends by itself, later.
const MAX_SOCKETS: usize = 200_000;

/// Each one closed sends a packet through the elected uplink, and its program connects again there: at
/// most 20,000 in a second, or they would drown the answers by which that uplink is judged.
const PORTION: usize = 100;
const PAUSE: Duration = Duration::from_millis(5);

/// Sockets are closed by a thread of their own each time, which tells when it is done.
pub(crate) struct Sockets {
    sender: Sender<Input>,
    told: Receiver<Input>,
    fresh: Arc<Notify>,
}

impl Sockets {
    /// Nothing is done yet.
    pub(crate) fn new() -> Self {
        let (sender, told) = mpsc::channel();
        Self { sender, told, fresh: Arc::new(Notify::new()) }
    }

    /// Finds out whether the kernel closes sockets; tells only if it does not.
    pub(crate) fn check(&self) {
        self.aside(|| {
            let checked = Diag::open().and_then(|mut diag| diag.check());
            checked.err().map(|error| Input::CannotClose(error.errno()))
        });
    }

    /// Closes these, and tells how many.
    pub(crate) fn close(&self, closing: Closing) {
        self.aside(|| {
            Some(match close(&closing) {
                Ok(sockets) => Input::Closed { closing, sockets },
                Err(error) => Input::CannotClose(error.errno()),
            })
        });
    }

    /// Waits until there may be something to take.
    pub(crate) async fn done(&self) {
        self.fresh.notified().await;
    }

    /// What was done and not taken yet.
    pub(crate) fn take(&self) -> impl Iterator<Item = Input> {
        self.told.try_iter()
    }

    fn aside(&self, job: impl FnOnce() -> Option<Input> + Send + 'static) {
        let (sender, fresh) = (self.sender.clone(), Arc::clone(&self.fresh));
        let work = move || {
            // Nobody wants to know any more at the end of the process.
            let _ = job().map(|input| sender.send(input));
            fresh.notify_one();
        };
        if let Err(error) = thread::Builder::new().name("sockets".to_owned()).spawn(work) {
            tracing::warn!("failed to start a thread: {error}; no sockets are closed");
        }
    }
}

/// Closes the sockets with these addresses whose peers are reached by an elected uplink now. Who was
/// accepted by a listener is left: a new connection is its peer's to make. So is who is bound to an
/// interface, for a new connection would take the same; and what is one path of several.
fn close(closing: &Closing) -> Result<usize, RequestError> {
    let mut diag = Diag::open()?;
    let mut ways = Ways { requests: Requests::open()?, closing, known: BTreeMap::new() };
    let (mut ordered, mut closed) = (0_usize, 0);
    for protocol in Protocol::ALL {
        let listening = diag.listening(protocol)?;
        for (family, address) in socket_addresses(closing) {
            for socket in diag.find(protocol, family, address)? {
                let accepted = listening.contains(&socket.own_port());
                let kept = accepted || socket.is_bound() || socket.is_multipath();
                if closed < MAX_SOCKETS && !kept && ways.lead_to(socket.peer())? {
                    closed += usize::from(diag.destroy(protocol, &socket)?);
                    ordered += 1;
                    if ordered.is_multiple_of(PORTION) {
                        pause();
                    }
                }
            }
        }
    }
    Ok(closed)
}

/// Lets others have the uplink for a moment.
#[allow(clippy::disallowed_methods, reason = "the thread is our own, and the loop does not wait for it")]
fn pause() {
    thread::sleep(PAUSE);
}

/// An address with the families of sockets that can have it: one of IPv6 can talk IPv4.
fn socket_addresses(closing: &Closing) -> impl Iterator<Item = (Family, IpAddr)> {
    let families = match closing.family {
        Family::Ipv4 => Family::ALL.as_slice(),
        Family::Ipv6 => &[Family::Ipv6],
    };
    families.iter().flat_map(|family| closing.addresses.iter().map(|address| (*family, *address)))
}

/// By which uplink peers are reached, each looked up once.
struct Ways<'a> {
    requests: Requests,
    closing: &'a Closing,
    known: BTreeMap<IpAddr, bool>,
}

impl Ways<'_> {
    /// Whether a new connection to this peer would leave by an elected uplink.
    fn lead_to(&mut self, peer: IpAddr) -> Result<bool, RequestError> {
        if let Some(known) = self.known.get(&peer) {
            return Ok(*known);
        }
        let way = way::to(&mut self.requests, peer)?;
        let lead = way.is_some_and(|link| self.closing.elected.contains(&link));
        self.known.insert(peer, lead);
        Ok(lead)
    }
}
