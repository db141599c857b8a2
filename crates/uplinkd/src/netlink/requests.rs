//! The socket that asks: requests with acknowledgement, and dumps. Both block; the kernel answers
//! within the call.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use socket2::SockRef;

use super::{DATAGRAM_MAX_BYTES, Malformed, Message, attributes, messages, text};
use crate::sys;

/// The kernel answers within microseconds; a machine under load, or a long hold of its routing
/// lock, within this.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How often a dump is begun again when the table changed under it. A dump takes a millisecond or
/// two, a busy Kubernetes node changes its links thirty times a second.
const DUMP_ATTEMPTS: u32 = 8;

/// The text of an extended acknowledgement (`NLMSGERR_ATTR_MSG`, `linux/netlink.h`).
const ERROR_TEXT: u16 = 1;

/// What precedes the attributes of an extended acknowledgement: the error number and the header of
/// the request (`struct nlmsgerr`).
const ERROR_HEADER_BYTES: usize = 4 + 16;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The socket failed, or the kernel did not answer in time.
    #[error("failed to talk to the kernel over netlink")]
    Socket(#[from] io::Error),
    /// The kernel said no.
    #[error("the kernel refused: {}{}{text}", io::Error::from_raw_os_error(*.errno),
        if .text.is_empty() { "" } else { ": " })]
    Refused {
        /// Its error number.
        errno: i32,
        /// Its reason in words; empty if it gave none.
        text: String,
    },
    /// The table changed during every attempt to read it.
    #[error("the kernel's table changed during {DUMP_ATTEMPTS} dumps in a row; try again later")]
    Unsteady,
    /// An answer that cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl RequestError {
    /// A refusal by us and not by the kernel, in its manner.
    pub(crate) const fn refused(errno: i32) -> Self {
        Self::Refused { errno, text: String::new() }
    }

    /// The error number that tells most about it.
    pub(crate) fn errno(&self) -> i32 {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Socket(error) => error.raw_os_error().unwrap_or(nix::libc::EIO),
            Self::Unsteady => nix::libc::EAGAIN,
            Self::Malformed(_) => nix::libc::EBADMSG,
        }
    }
}

/// What can be asked over netlink.
pub(crate) trait Request: NetlinkSerializable + Into<NetlinkPayload<Self>> {}

impl<T: NetlinkSerializable + Into<NetlinkPayload<T>>> Request for T {}

/// A socket for requests, one at a time.
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    /// Opens the socket in the network namespace of the calling thread, for links, addresses, routes, rules.
    ///
    /// # Errors
    /// Those of the system calls; kernels before 4.20 lack strict checking.
    pub(crate) fn open() -> io::Result<Self> {
        Self::of(NETLINK_ROUTE)
    }

    /// As [`Requests::open`], for another protocol of netlink.
    ///
    /// # Errors
    /// As above; the kernel may not have it.
    pub(crate) fn of(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // A connected netlink socket takes messages from its peer only: the kernel, port 0.
        socket.connect(&SocketAddr::new(0, 0))?;
        // Without this an acknowledgement repeats the whole request before its text.
        socket.set_cap_ack(true)?;
        sys::netlink::check_strictly(&socket)?;
        sys::netlink::explain_refusals(&socket)?;
        SockRef::from(&socket).set_read_timeout(Some(ANSWER_MAX))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM_MAX_BYTES) })
    }

    /// A socket whose requests reach nobody: that of a protocol in which the kernel has no say.
    #[cfg(test)]
    pub(crate) fn unheard() -> io::Result<Self> {
        let mut socket = Socket::new(netlink_sys::protocols::NETLINK_USERSOCK)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, buffer: Vec::new() })
    }

    /// Has the kernel carry out a request. `flags` are the `NLM_F_*` that make its meaning.
    ///
    /// # Errors
    /// [`RequestError::Refused`] is the kernel's answer; after any other error it is not known
    /// whether the request was carried out.
    pub(crate) fn carry_out(&mut self, request: impl Request, flags: u16) -> Result<(), RequestError> {
        self.ask(request, flags, |_| None::<()>).map(|_| ())
    }

    /// Has the kernel carry out a request that it answers with a message: what `keep` makes of that.
    ///
    /// # Errors
    /// As those of [`Requests::carry_out`].
    pub(crate) fn ask<T>(
        &mut self,
        request: impl Request,
        flags: u16,
        keep: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Option<T>, RequestError> {
        let sequence = self.send(request, NLM_F_ACK | flags)?;
        let mut kept = None;
        loop {
            for message in messages(self.receive()?) {
                let message = message?;
                match message.kind {
                    _ if message.sequence != sequence => {}
                    NLMSG_ERROR => return verdict(&message).map(|()| kept),
                    _ => kept = keep(&message),
                }
            }
        }
    }

    /// Reads a table: whatever `keep` makes of its messages, in the kernel's order. Begins again
    /// when the table changed meanwhile.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub(crate) fn dump<T>(
        &mut self,
        request: &(impl Request + Clone),
        keep: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, RequestError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut kept = Vec::new();
            let steady = self.dump_once(request.clone(), |message| kept.extend(keep(message)))?;
            if steady {
                return Ok(kept);
            }
        }
        Err(RequestError::Unsteady)
    }

    /// Whether the table stayed as it was during the dump.
    fn dump_once(
        &mut self,
        request: impl Request,
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<bool, RequestError> {
        let sequence = self.send(request, NLM_F_DUMP)?;
        let mut steady = true;
        loop {
            for message in messages(self.receive()?) {
                let message = message?;
                if message.sequence != sequence {
                    continue;
                }
                steady &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    NLMSG_DONE | NLMSG_ERROR => return verdict(&message).map(|()| steady),
                    _ => each(&message),
                }
            }
        }
    }

    /// Sends a request and returns its number.
    fn send(&mut self, request: impl Request, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }

    /// The next datagram.
    fn receive(&mut self) -> io::Result<&[u8]> {
        self.buffer.clear();
        let length = self.socket.recv(&mut self.buffer, nix::libc::MSG_TRUNC)?;
        if length > self.buffer.len() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(&self.buffer)
    }
}

/// What the kernel says at the end of a dump or to a request: both begin with a negative error
/// number or 0.
pub(crate) fn verdict(message: &Message<'_>) -> Result<(), RequestError> {
    let code = message.payload.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 {
        return Ok(());
    }
    let has_text = message.kind == NLMSG_ERROR && message.flags & NLM_F_ACK_TLVS != 0;
    let text = has_text
        .then(|| message.payload.get(ERROR_HEADER_BYTES..))
        .flatten()
        .into_iter()
        .flat_map(attributes)
        .flatten()
        .find(|(kind, _)| *kind == ERROR_TEXT)
        .and_then(|(_, value)| text(value).ok());
    Err(RequestError::Refused { errno: code.saturating_neg(), text: text.unwrap_or_default() })
}

/// The kernel's verdict in a message, for tests with arbitrary bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_verdict(message: &Message<'_>) {
    let _ = verdict(message).map_err(|error| (error.errno(), error.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, flags: u16, payload: &[u8]) -> Result<(), RequestError> {
        verdict(&Message { kind, flags, sequence: 1, port: 0, payload })
    }

    #[test]
    fn zero_or_nothing_is_success() {
        assert!(answer(NLMSG_ERROR, 0, &[0; 20]).is_ok());
        assert!(answer(NLMSG_DONE, 0, &[]).is_ok());
    }

    #[test]
    fn a_refusal_has_a_number_and_sometimes_words() {
        let mut payload = (-17_i32).to_ne_bytes().to_vec();
        payload.extend([0; 16]);
        payload.extend([8, 0, 1, 0, b'N', b'o', b'.', 0]);
        let told = answer(NLMSG_ERROR, NLM_F_ACK_TLVS, &payload).unwrap_err();
        assert_eq!(told.to_string(), "the kernel refused: File exists (os error 17): No.");
        assert_eq!(told.errno(), 17);
        let silent = answer(NLMSG_ERROR, 0, &payload).unwrap_err();
        assert_eq!(silent.to_string(), "the kernel refused: File exists (os error 17)");
    }
}
