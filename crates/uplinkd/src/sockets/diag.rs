//! Finds and destroys sockets over sock_diag(7).

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::libc;
use uplink_core::snapshot::Family;

use super::wire::{CLOSE, ESTABLISHED, Found, LISTEN, Protocol, SYN_SENT, Say};
use crate::netlink::{RequestError, Requests};

/// A netlink socket about sockets.
pub(super) struct Diag {
    requests: Requests,
}

impl Diag {
    /// Opens it in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel has nothing of the kind.
    pub(super) fn open() -> Result<Self, RequestError> {
        Ok(Self { requests: Requests::of(NETLINK_SOCK_DIAG)? })
    }

    /// Whether the kernel tells of sockets and destroys them.
    ///
    /// # Errors
    /// What it says if not: `EOPNOTSUPP` without `CONFIG_INET_DIAG_DESTROY`.
    pub(super) fn check(&mut self) -> Result<(), RequestError> {
        self.listening(Protocol::Tcp)?;
        self.destroy(Protocol::Tcp, &Found::NONE).map(|_| ())
    }

    /// The ports at which somebody hears everybody: there connections are accepted.
    ///
    /// # Errors
    /// As those of [`Diag::find`].
    pub(super) fn listening(&mut self, protocol: Protocol) -> Result<BTreeSet<u16>, RequestError> {
        let states = match protocol {
            Protocol::Tcp => LISTEN,
            Protocol::Udp => CLOSE,
        };
        let mut ports = BTreeSet::new();
        for family in Family::ALL {
            let found = self.dump(protocol, family, states, None)?;
            ports.extend(found.iter().map(Found::own_port));
        }
        Ok(ports)
    }

    /// TCP connections that stand or are being made, or connected UDP sockets, of this address.
    ///
    /// # Errors
    /// What the kernel says. One that tells nothing of UDP has no such sockets for us.
    pub(super) fn find(
        &mut self,
        protocol: Protocol,
        family: Family,
        address: IpAddr,
    ) -> Result<Vec<Found>, RequestError> {
        let states = match protocol {
            Protocol::Tcp => ESTABLISHED | SYN_SENT,
            Protocol::Udp => ESTABLISHED,
        };
        self.dump(protocol, family, states, Some(address))
    }

    /// Destroys a socket: who waits for it hears `ECONNABORTED`. Tells whether it was still there.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn destroy(&mut self, protocol: Protocol, socket: &Found) -> Result<bool, RequestError> {
        match self.requests.carry_out(Say::destroy(protocol, socket), 0) {
            Ok(()) => Ok(true),
            Err(RequestError::Refused { errno: libc::ENOENT, text: _ }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn dump(
        &mut self,
        protocol: Protocol,
        family: Family,
        states: u32,
        own: Option<IpAddr>,
    ) -> Result<Vec<Found>, RequestError> {
        let request = Say::tell_of(protocol, family, states, own);
        match self.requests.dump(&request, |message| Found::read(message.payload)) {
            Err(RequestError::Refused { errno: libc::ENOENT, text: _ }) if protocol == Protocol::Udp => {
                Ok(Vec::new())
            }
            found => found,
        }
    }
}
