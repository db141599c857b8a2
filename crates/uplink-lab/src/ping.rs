//! An echo request, for asking whether something can be reached.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::{now, pass};
use crate::error::{Doing, Result};
use crate::host::Host;

/// How long to wait for one answer before asking again.
const ONCE: Duration = Duration::from_millis(100);

impl Host {
    /// Asks for an echo, again and again until it comes or the bound is reached, and gives the
    /// round trip of the request that was answered. `device` makes it leave by that interface.
    ///
    /// # Errors
    /// If there is no such interface, or no permission. An unreachable address is no error.
    pub fn ping(&self, address: IpAddr, device: Option<&str>, bound: Duration) -> Result<Option<Duration>> {
        let device = device.map(ToOwned::to_owned);
        self.run(move || {
            let socket = open(address, device.as_deref())?;
            let to = destination(address, device.as_deref())?;
            let end = now() + bound;
            for sequence in 0..=u16::MAX {
                if let Some(round_trip) = once(&socket, to, sequence)? {
                    return Ok(Some(round_trip));
                }
                if now() >= end {
                    break;
                }
            }
            Ok(None)
        })
    }
}

fn open(address: IpAddr, device: Option<&str>) -> Result<Socket> {
    let (domain, protocol) = match address {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).doing("open a raw socket")?;
    if let Some(device) = device {
        let result = socket.bind_device(Some(device.as_bytes()));
        result.doing(format!("bind to {device}"))?;
    }
    Ok(socket)
}

fn destination(address: IpAddr, device: Option<&str>) -> Result<SocketAddr> {
    Ok(match (address, device) {
        (IpAddr::V6(address), Some(device)) => {
            let scope = if_nametoindex(device).doing(format!("find interface {device}"))?;
            SocketAddrV6::new(address, 0, 0, scope).into()
        }
        _ => SocketAddr::new(address, 0),
    })
}

/// One request. None if it cannot be sent, or is not answered within [`ONCE`].
fn once(socket: &Socket, to: SocketAddr, sequence: u16) -> Result<Option<Duration>> {
    let sent = now();
    let request = request(to, sequence, sent.as_nanos());
    // Connected, it receives from this address only.
    if socket.connect(&to.into()).is_err() || socket.send(&request).is_err() {
        // Without a route, or before the link is up. There is nothing to wait for: let it pass.
        pass(Duration::from_millis(1));
        return Ok(None);
    }
    loop {
        let left = (sent + ONCE).since(now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left)).doing("set a socket's time limit")?;
        let mut buffer = [0; 256];
        match (&mut &*socket).read(&mut buffer) {
            // In IPv4 the answer stands behind its IP header.
            Ok(length) if buffer.get(..length).unwrap_or_default().ends_with(&request[4..]) => {
                return Ok(Some(now().since(sent)));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            // Another's answer, or a pending error of an earlier request.
            Ok(_) | Err(_) => {}
        }
    }
}

/// An echo request (RFC 792, RFC 4443). Behind the checksum stand an identifier, the sequence and
/// the moment, which all come back and together are nobody else's.
fn request(to: SocketAddr, sequence: u16, moment: u64) -> [u8; 16] {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut request = [0; 16];
    request[0] = kind;
    request[4..6].copy_from_slice(b"UL");
    request[6..8].copy_from_slice(&sequence.to_be_bytes());
    request[8..].copy_from_slice(&moment.to_be_bytes());
    // The kernel fills in ICMPv6 checksums on raw sockets (RFC 3542 section 3.1), not ICMP's.
    let checksum = checksum(&request);
    request[2..4].copy_from_slice(&checksum.to_be_bytes());
    request
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u64 =
        bytes.chunks(2).map(|pair| pair.iter().fold(0, |word, &byte| word << 8 | u64::from(byte))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}
