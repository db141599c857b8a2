//! Where the kernel's routes lead now.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use nix::libc;
use uplink_core::snapshot::{Family, LinkIndex, Prefix};

use crate::netlink::{RequestError, Requests, address_family, attributes, number};

/// `struct rtmsg` (linux/rtnetlink.h).
const HEADER_BYTES: usize = 12;
/// Where the kind of route is in it.
const KIND_AT: usize = 7;

/// The interface by which a new socket, bound to nothing, would send to this address; none if it could not.
pub(super) fn to(requests: &mut Requests, address: IpAddr) -> Result<Option<LinkIndex>, RequestError> {
    // All fields but these stay 0, as the kernel demands.
    let mut request = RouteMessage::default();
    request.header.address_family = address_family(Family::of(address));
    request.header.destination_prefix_length = Prefix::host(address).length;
    request.attributes = vec![RouteAttribute::Destination(address.into())];
    match requests.ask(RouteNetlinkMessage::GetRoute(request), 0, |message| read(message.payload)) {
        Err(RequestError::Refused { errno: _, text: _ }) => Ok(None),
        way => way,
    }
}

/// The interface of the route in an answer; none if that leads to a group, or to all on the link: no gateway
/// forwards to those.
pub(super) fn read(payload: &[u8]) -> Option<LinkIndex> {
    if *payload.get(KIND_AT)? != libc::RTN_UNICAST {
        return None;
    }
    let mut attributes = attributes(payload.get(HEADER_BYTES..)?).flatten();
    let (_, link) = attributes.find(|(kind, _)| *kind == libc::RTA_OIF)?;
    number(link).ok().map(LinkIndex)
}
