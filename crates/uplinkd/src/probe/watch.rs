//! Watching for packets that some router forwarded to us: IP packets to our Ethernet address from
//! outside the interface's own prefixes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use nix::libc;
use socket2::{Socket, Type};
use uplink_core::snapshot::{Family, LinkIndex, Prefix};
use uplink_core::time::Instant;

use super::wire::ip;
use super::{filter, socket};
use crate::clock;

/// How long a watch that rests is kept open, to be set again: opening and closing packet sockets at
/// the rate of a lossy or loaded link would cost more than the watching.
const KEPT: Duration = Duration::from_secs(60);

/// A packet socket on one interface, for one family.
pub(super) struct Watch {
    family: Family,
    except: Vec<Prefix>,
    /// When it was set. What the kernel received is not older.
    set: Instant,
    /// When it reported; it then rests until it is set again.
    resting: Option<Instant>,
    pub(super) socket: Socket,
}

impl Watch {
    /// Opens it and sets it.
    pub(super) fn open(link: LinkIndex, family: Family, except: &[Prefix]) -> io::Result<Self> {
        let protocol = match family {
            Family::Ipv4 => libc::ETH_P_IP,
            Family::Ipv6 => libc::ETH_P_IPV6,
        };
        let protocol = u16::try_from(protocol).map_err(io::Error::other)?;
        let mut watch = Self {
            family,
            except: Vec::new(),
            set: clock::now(),
            resting: None,
            socket: socket::packet(Type::DGRAM, link, protocol, &filter::nothing())?,
        };
        // One packet is enough to know, and the queue should hold few.
        watch.socket.set_recv_buffer_size(0)?;
        watch.set(except)?;
        Ok(watch)
    }

    /// Watches for the next packet from outside `except` that no neighbour sent; all others are
    /// dropped in the kernel.
    pub(super) fn set(&mut self, except: &[Prefix]) -> io::Result<()> {
        let never_forwarded = match self.family {
            Family::Ipv4 => &NEVER_FORWARDED_V4[..],
            Family::Ipv6 => &NEVER_FORWARDED_V6[..],
        };
        self.except = [never_forwarded, except].concat();
        let program = filter::forwarded(self.family, &self.except);
        self.socket.attach_filter(&program)?;
        if self.resting.take().is_some() {
            self.set = clock::now();
        }
        Ok(())
    }

    /// Whether it has reported and was not set again.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.resting.is_some_and(|since| now.since(since) > KEPT)
    }

    /// When the first forwarded packet came, if one has come since the watch was set.
    pub(super) fn drain(&mut self) -> Option<Instant> {
        let mut first = None;
        socket::each(&self.socket, |packet| {
            if first.is_none() && self.is_forwarded(packet.bytes) {
                first = Some(clock::from_wall(packet.stamp, self.set));
            }
        });
        if self.resting.is_some() {
            return None;
        }
        if first.is_some() {
            self.rest();
        }
        first
    }

    /// Whether a router must have sent this packet: the kernel's filter knows the first prefixes
    /// only.
    fn is_forwarded(&self, packet: &[u8]) -> bool {
        ip::source(self.family, packet)
            .is_some_and(|source| !self.except.iter().any(|prefix| prefix.contains(source)))
    }

    /// Receives nothing more until it is set again.
    pub(super) fn rest(&mut self) {
        if self.resting.is_some() {
            return;
        }
        self.resting = Some(clock::now());
        // Should the filter not be taken, then packets come, are read, and told to nobody.
        let _best_effort = self.socket.attach_filter(&filter::nothing());
        socket::each(&self.socket, |_| {});
    }
}

/// Sources that a router does not forward (RFC 1122 section 3.2.1.3, RFC 3927 section 2.7).
const NEVER_FORWARDED_V4: [Prefix; 4] =
    [v4([0, 0, 0, 0], 8), v4([127, 0, 0, 0], 8), v4([169, 254, 0, 0], 16), v4([224, 0, 0, 0], 3)];

/// Sources that a router does not forward (RFC 4291 section 2.5).
const NEVER_FORWARDED_V6: [Prefix; 3] = [v6(0, 127), v6(0xfe80, 10), v6(0xff00, 8)];

/// An IPv4 prefix.
const fn v4(octets: [u8; 4], length: u8) -> Prefix {
    let [a, b, c, d] = octets;
    Prefix { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), length }
}

/// An IPv6 prefix, by its first 16 bits.
const fn v6(first: u16, length: u8) -> Prefix {
    Prefix { address: IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0)), length }
}
