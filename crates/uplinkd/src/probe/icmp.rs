//! ICMP and ICMPv6 echo through one interface.

use std::io;
use std::net::IpAddr;

use socket2::Socket;
use uplink_core::event::{Answer, ProbeId};
use uplink_core::snapshot::{Family, LinkIndex};

use super::asked::Asked;
use super::wire::echo::Echo;
use super::{filter, socket};
use crate::clock;

/// The raw socket of one interface and family. Datagram sockets for ICMP would need no privilege,
/// but are refused by default (`ping_group_range`).
pub(super) struct Echoes {
    link: LinkIndex,
    family: Family,
    tag: u32,
    pub(super) socket: Socket,
}

impl Echoes {
    /// Opens it; `tag` marks the echoes of this process.
    pub(super) fn open(link: LinkIndex, family: Family, tag: u32) -> io::Result<Self> {
        let socket = socket::raw(family, link, &filter::echo_reply(family, tag))?;
        Ok(Self { link, family, tag, socket })
    }

    /// Sends an echo request.
    pub(super) fn ask(&self, id: ProbeId, nonce: u64, source: IpAddr, to: IpAddr) -> nix::Result<()> {
        let tag = self.tag;
        let message = Echo { tag, id, nonce }.request(self.family);
        socket::send_again(|| socket::send_from(&self.socket, self.link, source, to, &message))
    }

    /// Reads the replies that wait.
    pub(super) fn drain(&self, asked: &mut Asked, answers: &mut Vec<Answer>) {
        socket::each(&self.socket, |packet| answers.extend(self.answer(asked, packet)));
    }

    /// The answer that a packet is, if it is one.
    fn answer(&self, asked: &mut Asked, packet: &socket::Received<'_>) -> Option<Answer> {
        let echo = Echo::reply(self.family, packet.bytes)?;
        let at = asked.echoed(self.link, echo.id, echo.nonce, packet.from?)?;
        Some(Answer { id: echo.id, at: clock::from_wall(packet.stamp, at), mac: None })
    }
}
