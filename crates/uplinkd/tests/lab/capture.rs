//! Captures what a host sees on the wire.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libtest_mimic::Failed;
use socket2::{Domain, Protocol, Socket, Type};
use uplink_lab::Host;

/// `ETH_P_ALL` (linux/if_ether.h).
const EVERYTHING: u16 = 3;

/// A packet socket that hears everything on all interfaces of a host; what is forwarded, twice.
pub(crate) struct Capture {
    socket: Socket,
}

impl Capture {
    pub(crate) fn start(host: &Host) -> Result<Self, Failed> {
        let protocol = Protocol::from(i32::from(EVERYTHING.to_be()));
        // Without the Ethernet header.
        let socket = host.run(move || Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol)))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(8 << 20)?;
        Ok(Self { socket })
    }

    /// Source and destination of every IP packet since the last call.
    pub(crate) fn packets(&self) -> Result<Vec<(IpAddr, IpAddr)>, Failed> {
        let mut packets = Vec::new();
        let mut buffer = [0; 2048];
        loop {
            match (&self.socket).read(&mut buffer) {
                Ok(length) => packets.extend(ends(&buffer[..length])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(packets),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Source and destination of an IP packet (RFC 791 section 3.1, RFC 8200 section 3).
fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let at = |from| Some(Ipv4Addr::from(*packet.get(from..)?.first_chunk::<4>()?).into());
            Some((at(12)?, at(16)?))
        }
        6 => {
            let at = |from| Some(Ipv6Addr::from(*packet.get(from..)?.first_chunk::<16>()?).into());
            Some((at(8)?, at(24)?))
        }
        _ => None,
    }
}
