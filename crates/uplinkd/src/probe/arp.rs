//! Asking for an IPv4 neighbour through one Ethernet interface.
//!
//! By a packet socket, not by the kernel's own neighbour table: this asks each time, and says who
//! answered and when.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use socket2::{Socket, Type};
use uplink_core::event::Answer;
use uplink_core::snapshot::LinkIndex;

use super::asked::Asked;
use super::wire::arp;
use super::{filter, socket};
use crate::{clock, sys};

/// The packet socket of one interface, kept: behind its filter it costs nothing.
pub(super) struct Arp {
    link: LinkIndex,
    pub(super) socket: Socket,
}

impl Arp {
    /// Opens it.
    pub(super) fn open(link: LinkIndex) -> io::Result<Self> {
        let socket = socket::packet(Type::RAW, link, arp::ETHERTYPE, &filter::arp_reply())?;
        Ok(Self { link, socket })
    }

    /// Asks everybody on the link who has `target`.
    pub(super) fn ask(&self, source: Ipv4Addr, target: Ipv4Addr) -> nix::Result<()> {
        let mac = sys::packet::own_mac(&self.socket).ok_or(Errno::ENODEV)?;
        let frame = arp::request(mac, source, target);
        socket::send_again(|| send(self.socket.as_raw_fd(), &frame, MsgFlags::MSG_DONTWAIT).map(drop))
    }

    /// Reads the replies that wait.
    pub(super) fn drain(&self, asked: &mut Asked, answers: &mut Vec<Answer>) {
        socket::each(&self.socket, |packet| self.answer(asked, packet, answers));
    }

    /// The answers that a frame gives.
    fn answer(&self, asked: &mut Asked, packet: &socket::Received<'_>, to: &mut Vec<Answer>) {
        let Some(reply) = arp::reply(packet.bytes) else {
            return;
        };
        let asker = Some(IpAddr::V4(reply.target));
        let stamp = |first| clock::from_wall(packet.stamp, first);
        let answered = asked.spoke(self.link, IpAddr::V4(reply.sender), asker, stamp);
        let mac = Some(reply.mac);
        to.extend(answered.into_iter().map(|(id, at)| Answer { id, at, mac }));
    }
}
