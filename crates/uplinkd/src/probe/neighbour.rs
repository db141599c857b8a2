//! Asking for an IPv6 neighbour through one Ethernet interface.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Socket, Type};
use uplink_core::event::Answer;
use uplink_core::snapshot::{Family, LinkIndex};

use super::asked::Asked;
use super::wire::neighbour;
use super::{filter, socket};
use crate::{clock, sys};

/// The hop limit of all neighbour discovery: what was forwarded does not have it (RFC 4861
/// section 7.1).
const HOP_LIMIT: u8 = 255;

/// The sockets of one interface.
pub(super) struct Solicitations {
    link: LinkIndex,
    pub(super) socket: Socket,
    /// Receives nothing; knows the interface's Ethernet address at any time.
    pub(super) interface: Socket,
}

impl Solicitations {
    /// Opens them.
    pub(super) fn open(link: LinkIndex) -> io::Result<Self> {
        let filter = filter::icmpv6(neighbour::ADVERTISEMENT);
        let socket = socket::raw(Family::Ipv6, link, &filter)?;
        socket.set_multicast_hops_v6(u32::from(HOP_LIMIT))?;
        socket.set_multicast_loop_v6(false)?;
        setsockopt(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
        Ok(Self { link, socket, interface: socket::packet(Type::DGRAM, link, 0, &filter::nothing())? })
    }

    /// Asks for `target` at its solicited-node group.
    pub(super) fn ask(&self, source: Ipv6Addr, target: Ipv6Addr) -> nix::Result<()> {
        let mac = sys::packet::own_mac(&self.interface).ok_or(Errno::ENODEV)?;
        let message = neighbour::solicitation(mac, target);
        let group = IpAddr::V6(neighbour::solicited_node(target));
        let source = IpAddr::V6(source);
        socket::send_again(|| socket::send_from(&self.socket, self.link, source, group, &message))
    }

    /// Reads the advertisements that wait.
    pub(super) fn drain(&self, asked: &mut Asked, answers: &mut Vec<Answer>) {
        socket::each(&self.socket, |packet| self.answer(asked, packet, answers));
    }

    /// The answers that a message gives.
    fn answer(&self, asked: &mut Asked, packet: &socket::Received<'_>, to: &mut Vec<Answer>) {
        if packet.hop_limit != Some(i32::from(HOP_LIMIT)) {
            return;
        }
        let Some(advertisement) = neighbour::advertisement(packet.bytes) else {
            return;
        };
        let stamp = |first| clock::from_wall(packet.stamp, first);
        let speaker = IpAddr::V6(advertisement.target);
        let answered = asked.spoke(self.link, speaker, None, stamp);
        let mac = advertisement.mac;
        to.extend(answered.into_iter().map(|(id, at)| Answer { id, at, mac }));
    }
}
