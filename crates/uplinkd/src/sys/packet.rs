//! The addresses of packet sockets, packet(7).

use std::io;

use nix::libc;
use socket2::{SockAddr, SockAddrStorage, Socket};
use uplink_core::snapshot::{LinkIndex, Mac};

/// `ARPHRD_ETHER` (linux/if_arp.h).
const ETHERNET: u16 = 1;

/// Binds a packet socket to an interface and one Ethernet protocol; with 0 it receives nothing.
///
/// # Errors
/// There is no such interface.
pub(crate) fn bind(socket: &Socket, link: LinkIndex, protocol: u16) -> io::Result<()> {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is plain integers, smaller than the storage, and the storage is zeroed.
    let address: &mut libc::sockaddr_ll = unsafe { storage.view_as() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = i32::try_from(link.0).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of_val(address)).map_err(io::Error::other)?;
    // SAFETY: the storage holds an initialised `sockaddr_ll`, of this length, whose family says so.
    let address = unsafe { SockAddr::new(storage, length) };
    socket.bind(&address)
}

/// The present Ethernet address of the interface that a packet socket is bound to; none if the
/// interface is gone or not Ethernet.
pub(crate) fn own_mac(socket: &Socket) -> Option<Mac> {
    let address = socket.local_addr().ok()?;
    if i32::from(address.family()) != libc::AF_PACKET {
        return None;
    }
    let mut storage = address.as_storage();
    // SAFETY: `sockaddr_ll` is plain integers and smaller than the storage, which was zeroed before
    // the kernel wrote an address of this family to it.
    let address: &libc::sockaddr_ll = unsafe { storage.view_as() };
    let octets = address.sll_addr.first_chunk()?;
    (address.sll_hatype == ETHERNET && address.sll_halen == 6).then_some(Mac(*octets))
}
