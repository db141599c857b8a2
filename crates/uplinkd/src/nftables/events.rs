//! Hears that somebody changed nftables, whatever it was: there is one message for each transaction.

use std::io;
use std::task::{Context, Poll, Waker};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::libc::{BPF_ABS, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
use socket2::{SockFilter, SockRef};
use tokio::io::unix::AsyncFd;

use uplink_core::undone::Program;

use super::wire::{self, NEWGEN};
use crate::netlink::{Message, messages, names_another};
use crate::sys;

/// `NFNLGRP_NFTABLES` (`linux/netfilter/nfnetlink.h`).
const GROUP: u32 = 7;

/// `nlmsg_type`, 16 bits.
const TYPE: u32 = 4;

/// A socket that is told of each new generation of the rules.
pub(crate) struct Generations {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
    authors: Authors,
}

/// Who changed nftables since this was last taken.
#[derive(Debug, Default)]
enum Authors {
    /// Nobody.
    #[default]
    Nobody,
    /// This program alone, maybe by several processes.
    One(Program),
    /// Several, or some that cannot be told, or we ourselves.
    Several,
}

impl Authors {
    /// And this one.
    fn add(&mut self, author: Option<Program>) {
        *self = match (std::mem::take(self), author) {
            (Self::Nobody, Some(author)) => Self::One(author),
            (Self::One(one), Some(author)) if one.name == author.name => Self::One(author),
            (Self::Nobody | Self::One(_) | Self::Several, _) => Self::Several,
        };
    }
}

impl Generations {
    /// Opens the socket in the network namespace of the calling thread, which must be within a tokio
    /// runtime.
    ///
    /// # Errors
    /// The kernel has no netfilter, or we may not listen.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        // Who replaces ten thousand rules tells of each of them; it is enough to hear the end.
        SockRef::from(&socket).attach_filter(&filter())?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_non_blocking(true)?;
        socket.add_membership(GROUP)?;
        Ok(Self {
            socket: sys::reactor::register(socket)?,
            buffer: Vec::with_capacity(4096),
            authors: Authors::default(),
        })
    }

    /// Waits until there is something to drain. May be cancelled at any time; may return although
    /// there is nothing.
    ///
    /// # Errors
    /// Those of the runtime's reactor.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await?.retain_ready();
        Ok(())
    }

    /// Whether anything changed since the last call. What cannot be received is a change.
    pub(crate) fn drain(&mut self) -> bool {
        let ready = self.socket.poll_read_ready(&mut Context::from_waker(Waker::noop()));
        let mut any = false;
        loop {
            self.buffer.clear();
            match self.socket.get_ref().recv(&mut self.buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) => {
                    any = true;
                    let told = messages(&self.buffer).flatten().filter(|message| message.kind == NEWGEN);
                    told.for_each(|message| self.authors.add(author(&message)));
                }
                Err(_) => {
                    any = true;
                    self.authors.add(None);
                }
            }
        }
        if let Poll::Ready(Ok(mut ready)) = ready {
            ready.clear_ready();
        }
        any
    }

    /// The program that alone changed nftables since this was last asked, if there is one.
    pub(crate) fn take_author(&mut self) -> Option<Program> {
        match std::mem::take(&mut self.authors) {
            Authors::One(author) => Some(author),
            Authors::Nobody | Authors::Several => None,
        }
    }
}

/// Who made a transaction. Ports beyond those of processes are those of further sockets: some of them are
/// ours.
fn author(message: &Message<'_>) -> Option<Program> {
    names_another(message.port).then(|| wire::read_author(message.payload)).flatten()
}

/// A classic BPF program that passes what ends a transaction.
fn filter() -> [SockFilter; 4] {
    [
        instruction(BPF_LD | BPF_ABS | BPF_H, TYPE, 0),
        // The filter loads numbers in network order, netlink writes them in the machine's.
        instruction(BPF_JMP | BPF_JEQ | BPF_K, u32::from(NEWGEN.to_be()), 1),
        instruction(BPF_RET | BPF_K, u32::MAX, 0),
        instruction(BPF_RET | BPF_K, 0, 0),
    ]
}

/// One instruction; the codes of classic BPF are 16 bits wide.
fn instruction(code: u32, value: u32, otherwise: u8) -> SockFilter {
    #[allow(clippy::cast_possible_truncation)]
    let code = code as u16;
    SockFilter::new(code, 0, otherwise, value)
}
