//! Our nftables table: writes it in one transaction, reads it back, and hears of changes.
//!
//! It speaks netlink itself, because what is needed is one table of a fixed form: the crates that know
//! nftables wrap a C library, are under another licence, or start the `nft` program.

mod connections;
mod events;
mod form;
mod wire;

use std::fs;
use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLMSG_DONE, NLMSG_ERROR,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::libc;
use socket2::SockRef;
use uplink_core::marks::OwnMarks;
use uplink_core::snapshot::{Family, Tracking};

use crate::netlink::{Message, RequestError, messages, verdict};

pub(crate) use events::Generations;
use wire::Batch;

/// The kernel answers within microseconds; this is for a machine under load.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How often a dump is begun again when somebody changed nftables under it.
const DUMP_ATTEMPTS: u32 = 8;

/// How many connections are tracked in this network namespace. More than none are as soon as anybody
/// asks for it: our own questions are connections, too.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";

/// A socket for requests to nftables.
pub(crate) struct Nftables {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Nftables {
    /// Opens the socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel has no netfilter.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        SockRef::from(&socket).set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(64 * 1024) })
    }

    /// Lays this table, in the place of ours if that stands, all in one step, and takes the marks that had
    /// other bits off connections. A table of the same name
    /// that is not ours is not touched.
    ///
    /// # Errors
    /// What the kernel says; `EEXIST` if the name is somebody else's.
    pub(crate) fn set(&mut self, marks: &OwnMarks) -> Result<(), RequestError> {
        let before = self.table(marks.family)?;
        let mut batch = Batch::begin(self.sequence);
        if before.is_some() {
            batch.push(marks.family, wire::DELTABLE, 0, wire::named_table());
        }
        batch.push(marks.family, wire::NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, wire::new_table());
        for chain in form::chains(marks) {
            batch.push(marks.family, wire::NEWCHAIN, NLM_F_CREATE, wire::new_chain(chain));
        }
        for rule in form::rules(marks) {
            let message = wire::new_rule(&rule);
            batch.push(marks.family, wire::NEWRULE, NLM_F_CREATE | wire::NLM_F_APPEND, message);
        }
        self.commit(batch)?;
        let bits = marks.uplinks.first().map(|marked| marked.mark.mask);
        before.iter().for_each(|before| self.take_off(before, bits));
        Ok(())
    }

    /// Deletes our table of this family, and takes its marks off connections.
    ///
    /// # Errors
    /// What the kernel says; `ENOENT` if there is none of ours.
    pub(crate) fn delete(&mut self, family: Family) -> Result<(), RequestError> {
        let Some(marks) = self.table(family)? else { return Err(RequestError::refused(libc::ENOENT)) };
        let mut batch = Batch::begin(self.sequence);
        batch.push(family, wire::DELTABLE, 0, wire::named_table());
        self.commit(batch)?;
        self.take_off(&marks, None);
        Ok(())
    }

    /// Our table of this family, if there is one.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn table(&mut self, family: Family) -> Result<Option<OwnMarks>, RequestError> {
        let mut says_ours = false;
        let found = self.ask(family, wire::GETTABLE, NLM_F_ACK, &wire::named_table(), |message| {
            says_ours |= wire::says_ours(message.payload);
        });
        match found {
            Err(error) if is_absent(error.errno()) => return Ok(None),
            found => found?,
        };
        for _ in 0..DUMP_ATTEMPTS {
            let (mut rules, mut steady) = (Vec::new(), true);
            self.ask(family, wire::GETRULE, NLM_F_DUMP, &wire::rules_of_table(), |message| {
                steady &= message.flags & NLM_F_DUMP_INTR == 0;
                rules.extend(wire::read_rule(message.payload));
            })?;
            if steady {
                return Ok(form::read(family, says_ours, &rules));
            }
        }
        Err(RequestError::Unsteady)
    }

    /// Sends a batch and waits for the kernel's word on it: the acknowledgement of its last message, or an
    /// error of any.
    fn commit(&mut self, batch: Batch) -> Result<(), RequestError> {
        let first = self.sequence;
        let (bytes, last) = batch.end();
        // The message that ends the batch has the next number.
        self.sequence = last.wrapping_add(1);
        self.socket.send(&bytes, 0)?;
        self.answer(first, last, |_| ())
    }

    fn ask(
        &mut self,
        family: Family,
        kind: u16,
        flags: u16,
        attributes: &[u8],
        each: impl FnMut(&Message<'_>),
    ) -> Result<(), RequestError> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = wire::message(family, kind, flags, self.sequence, attributes);
        self.socket.send(&request, 0)?;
        self.answer(self.sequence.wrapping_sub(1), self.sequence, each)
    }

    /// Hands over what comes until the kernel has answered the messages behind number `before`, up to
    /// `last`. What is left of the answer to an earlier batch that failed is skipped.
    fn answer(
        &mut self,
        before: u32,
        last: u32,
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<(), RequestError> {
        let is_ours =
            |sequence: u32| (1..=last.wrapping_sub(before)).contains(&sequence.wrapping_sub(before));
        loop {
            self.buffer.clear();
            self.socket.recv(&mut self.buffer, 0)?;
            for message in messages(&self.buffer) {
                let message = message?;
                match message.kind {
                    _ if !is_ours(message.sequence) => {}
                    NLMSG_ERROR => {
                        verdict(&message)?;
                        if message.sequence == last {
                            return Ok(());
                        }
                    }
                    NLMSG_DONE => return verdict(&message),
                    _ => each(&message),
                }
            }
        }
    }
}

/// There is no such table, or nothing like tables in this kernel, or we may not look.
const fn is_absent(errno: i32) -> bool {
    matches!(errno, libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL | libc::EPERM | libc::EAFNOSUPPORT)
}

/// What is so of connection tracking. `before` is whether it was in use: nobody tells when that ends, and
/// a table that stays does no harm.
pub(crate) fn read(tables: Option<&mut Nftables>, before: bool) -> Result<Tracking, RequestError> {
    let mut found = Vec::new();
    if let Some(nftables) = tables {
        for family in Family::ALL {
            found.extend(nftables.table(family)?);
        }
    }
    Ok(Tracking { in_use: before || !found.is_empty() || is_tracked(), tables: found })
}

/// Our table as the messages of a dump describe it, for tests with arbitrary bytes. What is read is what we
/// would lay.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_dump(datagram: &[u8]) -> Option<OwnMarks> {
    let rules: Vec<_> =
        messages(datagram).flatten().filter_map(|message| wire::read_rule(message.payload)).collect();
    let says_ours = messages(datagram).flatten().any(|message| wire::says_ours(message.payload));
    for message in messages(datagram).flatten() {
        let _ = wire::unmarked_connection(message.payload, u32::MAX);
    }
    let author = messages(datagram).flatten().find_map(|message| wire::read_author(message.payload));
    let name = author.and_then(|author| author.name).unwrap_or_default();
    assert!(!name.contains(char::is_control), "{name:?}");
    let marks = form::read(Family::Ipv4, says_ours, &rules)?;
    let laid: Vec<u8> = form::rules(&marks)
        .iter()
        .flat_map(|rule| wire::message(Family::Ipv4, wire::NEWRULE, 0, 1, &wire::new_rule(rule)))
        .collect();
    let again: Vec<_> =
        messages(&laid).flatten().filter_map(|message| wire::read_rule(message.payload)).collect();
    let read = form::read(Family::Ipv4, true, &again);
    assert_eq!(read, Some(OwnMarks { intact: true, ..marks.clone() }), "what is laid is not read back");
    Some(marks)
}

/// Whether any connection is tracked here.
pub(crate) fn is_tracked() -> bool {
    fs::read_to_string(COUNT).is_ok_and(|count| count.trim() != "0")
}
