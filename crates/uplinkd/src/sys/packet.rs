//! Packet sockets and their addresses.

use std::{io, ptr};

use nix::libc;
use nix::sys::socket::{LinkAddr, SockaddrLike};
use uplink_core::snapshot::LinkIndex;

/// The address that binds a packet socket to an interface and one Ethernet protocol, packet(7).
///
/// # Errors
/// `InvalidInput` if no interface can have such an index.
pub(crate) fn address(link: LinkIndex, protocol: u16) -> io::Result<LinkAddr> {
    let raw = libc::sockaddr_ll {
        sll_family: libc::sa_family_t::try_from(libc::AF_PACKET).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(link.0).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&raw)).ok();
    // SAFETY: `raw` is a whole, initialised `sockaddr_ll` whose family says so, and it outlives the
    // call, which copies it.
    let address = unsafe { LinkAddr::from_raw(ptr::from_ref(&raw).cast(), length) };
    address.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
