//! A router advertisement, sent as a router sends one.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Doing, Result};
use crate::host::Host;

/// All nodes on the link (RFC 4291, section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// How much a router wants to be the default one (RFC 4191, section 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterPreference {
    /// Before the others.
    High,
    /// As those that say nothing.
    Medium,
    /// After the others.
    Low,
}

/// What a router says of itself (RFC 4861, section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertisement {
    /// For how many seconds it is a default router; 0 withdraws it.
    pub lifetime: u16,
    /// How much it wants to be one.
    pub preference: RouterPreference,
    /// The hop limit that hosts should use; 0 says nothing of it.
    pub hop_limit: u8,
}

impl Host {
    /// Sends a router advertisement to all nodes behind an interface, from the link-local address
    /// `from` of this host.
    ///
    /// # Errors
    /// If there is no such interface or address, or no permission.
    pub fn advertise(&self, interface: &str, from: Ipv6Addr, advertisement: Advertisement) -> Result<()> {
        let interface = interface.to_owned();
        self.run(move || {
            let index = if_nametoindex(interface.as_str()).doing(format!("find interface {interface}"))?;
            let at = |address| SocketAddr::from(SocketAddrV6::new(address, 0, 0, index)).into();
            let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))
                .doing("open a raw socket for an advertisement")?;
            // Hosts believe only what no router forwarded (RFC 4861, section 6.1.2).
            socket.set_multicast_hops_v6(255).doing("set the hop limit of an advertisement")?;
            socket.bind(&at(from)).doing(format!("bind to {from}"))?;
            let sent = socket.send_to(&message(advertisement), &at(ALL_NODES));
            sent.doing(format!("send an advertisement through {interface}")).map(drop)
        })
    }
}

/// The kernel adds the checksum (RFC 3542, section 3.1).
fn message(advertisement: Advertisement) -> [u8; 16] {
    const ROUTER_ADVERTISEMENT: u8 = 134;
    let preference = match advertisement.preference {
        RouterPreference::High => 0b01 << 3,
        RouterPreference::Medium => 0,
        RouterPreference::Low => 0b11 << 3,
    };
    let [high, low] = advertisement.lifetime.to_be_bytes();
    let mut message = [0; 16];
    message[0] = ROUTER_ADVERTISEMENT;
    message[4..8].copy_from_slice(&[advertisement.hop_limit, preference, high, low]);
    message
}
