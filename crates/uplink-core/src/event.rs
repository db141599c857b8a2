//! What goes into the core and what comes out of it. Both can be written down: a recording is a test.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::own::Op;
use crate::policy::Policy;
use crate::snapshot::{Family, LinkIndex, Mac, Prefix, Snapshot};
use crate::status::Notice;
use crate::time::Instant;
use crate::undone::Undone;

/// Something that happened outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// The kernel's state, whole: after a change, and after every [`Output::Apply`].
    Snapshot(Box<Snapshot>),
    /// A probe was answered, in time or late.
    Answer(Answer),
    /// A probe could not be sent. It will have no answer, but nor was it lost on the way.
    Unsent(ProbeId),
    /// A watched interface received a packet that some router forwarded to us.
    Forwarded {
        /// The interface.
        link: LinkIndex,
        /// The packet's family.
        family: Family,
        /// When the kernel received it.
        at: Instant,
    },
    /// What the kernel said to the operations of the first [`Output::Apply`] that awaits it, in their
    /// order; the operations after the first failure were not tried.
    Applied(Vec<Outcome>),
    /// The sockets of [`Output::CloseSockets`] were looked for, and so many closed.
    Closed {
        /// What was asked.
        closing: Closing,
        /// How many sockets were closed.
        sockets: usize,
    },
    /// The kernel closes no sockets for us: its error number.
    CannotClose(i32),
    /// Another program undid something of ours; the snapshot that shows it comes with this or after it.
    Undone(Undone),
    /// The operator's configuration was read again.
    Policy(Box<Policy>),
    /// It was read again, and has a mistake: this one. What was in force stays so.
    Misconfigured(String),
    /// The deadline has come; nothing else happened.
    Deadline,
    /// We are asked to end: remove what is ours ([`Output::Apply`] follows if there is anything).
    Stop,
}

/// Something to be done outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Send this probe.
    Ask(Probe),
    /// Report the next packet that a router forwards to us through this interface, once, as
    /// [`Input::Forwarded`].
    Watch {
        /// The interface.
        link: LinkIndex,
        /// Packets of this family.
        family: Family,
        /// The interface's own prefixes: a packet from one of them was not forwarded.
        except: Vec<Prefix>,
    },
    /// Stop watching.
    Unwatch {
        /// The interface.
        link: LinkIndex,
        /// The family.
        family: Family,
    },
    /// Carry these out in order, stop at the first failure; answer with [`Input::Applied`]. There may be
    /// several in one turn, and one's failure is no reason not to carry out the next. After the last,
    /// look at the kernel's own routes and rules afresh, and give the result as [`Input::Snapshot`].
    Apply(Vec<Op>),
    /// Close the sockets that cannot go on, aside from all else; answer with [`Input::Closed`] or
    /// [`Input::CannotClose`].
    CloseSockets(Closing),
    /// Every family is decided, or the wait is over: tell whoever waits for us.
    Ready,
    /// Something that people should be told.
    Notice(Notice),
    /// What should survive a restart has changed: write it down.
    Remember,
}

/// Which sockets are to be closed: TCP connections that began on this host and connected UDP sockets with
/// one of these addresses, whose peer is reached through another uplink now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// The uplink that is down.
    pub uplink: String,
    /// The family of its addresses.
    pub family: Family,
    /// The addresses that it has, or had until it went down.
    pub addresses: Vec<IpAddr>,
    /// The interfaces of the uplinks that are elected instead. Who is reached through none of them (in
    /// the uplink's own subnet, a pod, this host) was not reached through the dead gateway, or would not
    /// be by a new connection.
    pub elected: Vec<LinkIndex>,
}

/// Tells one probe from all others of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProbeId(pub u64);

/// One question, to be sent through one interface and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Names it in the answer.
    pub id: ProbeId,
    /// The interface that it leaves by.
    pub link: LinkIndex,
    /// The address that it is sent from, one of the interface's own.
    pub source: IpAddr,
    /// What is asked.
    pub question: Question,
}

/// What a probe asks. The family is that of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// ICMP or ICMPv6 echo.
    Echo(IpAddr),
    /// ARP request or neighbour solicitation.
    Neighbour(IpAddr),
    /// A TCP connection; a refusal is an answer too.
    Connect(SocketAddr),
}

/// The answer to a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The probe.
    pub id: ProbeId,
    /// When the kernel received it.
    pub at: Instant,
    /// The answerer's Ethernet address, where the answer says so (ARP, neighbour advertisement).
    pub mac: Option<Mac>,
}

/// What the kernel said to one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// What should be added is there already, or its place is taken (`EEXIST`).
    Exists,
    /// What should be deleted is not there (`ESRCH`, `ENOENT`, `ENODEV`).
    Absent,
    /// Anything else, with the kernel's error number.
    Refused(i32),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("done"),
            Self::Exists => f.write_str("its place is taken"),
            Self::Absent => f.write_str("it is not there"),
            // The number in the system's words; nothing is asked for that.
            Self::Refused(errno) => io::Error::from_raw_os_error(*errno).fmt(f),
        }
    }
}
