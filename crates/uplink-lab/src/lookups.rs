//! A thread that asks a host's kernel for the way, without pause: no lookup may ever fail.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use uplink_core::time::Instant;

use crate::clock::{now, sleep_until};
use crate::error::{Doing, Result};
use crate::host::Host;
use crate::kernel::{Names, ask_on, lookup_message, read_route};
use crate::record::{Record, Stamped};
use crate::sys;

/// The kernel's answer to a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// The address that was looked up.
    pub to: IpAddr,
    /// The interface that a packet would leave by, or why there is none.
    pub interface: std::result::Result<String, String>,
}

/// What was asked and answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupReport {
    /// Lookups in all.
    pub asked: u64,
    /// Lookups without an answer.
    pub failed: u64,
    /// The first answer for each address, and each that differs from the one before.
    pub changes: Vec<Stamped<Way>>,
}

/// Lookups, going on until stopped.
#[derive(Debug)]
pub struct Lookups {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    asked: AtomicU64,
    failed: AtomicU64,
    changes: Record<Way>,
}

impl Lookups {
    /// Looks these addresses up on a host, all of them once in each interval; an interval of zero
    /// means as fast as the machine can.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn start(host: &Host, addresses: &[IpAddr], interval: Duration) -> Result<Self> {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            changes: Record::new(),
        });
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto().map(|_| socket)
        };
        let socket = host.run(open).doing("open a netlink socket")?;
        let (addresses, view) = (addresses.to_vec(), Arc::clone(&shared));
        let thread = host.thread("lookups", move || view.ask(&socket, &addresses, interval))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits until a lookup of this address is answered with this interface.
    ///
    /// # Errors
    /// [`Late`](crate::Error::Late).
    pub fn wait_for(
        &self,
        to: IpAddr,
        interface: &str,
        since: Instant,
        bound: Duration,
    ) -> Result<Stamped<Way>> {
        let what = format!("a lookup of {to} answered with {interface}");
        self.shared
            .changes
            .wait_for(&what, since, bound, |way| way.to == to && way.interface.as_deref() == Ok(interface))
    }

    /// What was asked and answered so far.
    #[must_use]
    pub fn report(&self) -> LookupReport {
        LookupReport {
            asked: self.shared.asked.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            changes: self.shared.changes.all(),
        }
    }

    /// Ends asking.
    #[must_use]
    pub fn stop(mut self) -> LookupReport {
        self.end();
        self.report()
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // The thread does not panic.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Lookups {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn ask(&self, socket: &Socket, addresses: &[IpAddr], interval: Duration) {
        if !interval.is_zero() {
            // What it saw late would be dated late.
            sys::hurry();
        }
        let mut last: Vec<Option<Way>> = vec![None; addresses.len()];
        let mut due = now();
        while !self.stop.load(Ordering::Relaxed) {
            for (&to, last) in addresses.iter().zip(&mut last) {
                let way = look_up(socket, to);
                self.asked.fetch_add(1, Ordering::Relaxed);
                self.failed.fetch_add(way.interface.is_err().into(), Ordering::Relaxed);
                if last.as_ref() != Some(&way) {
                    self.changes.push(way.clone());
                    *last = Some(way);
                }
            }
            due = due + interval;
            if !interval.is_zero() {
                sleep_until(due);
            }
        }
    }
}

fn look_up(socket: &Socket, to: IpAddr) -> Way {
    let answers = ask_on(socket, lookup_message(to), 0).map_err(|error| error.to_string());
    let interface = answers.and_then(|answers| {
        // Interfaces can be renamed, so their names are asked for each time.
        let mut names = Names::default();
        let route = answers.iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => read_route(route, &mut names),
            _ => None,
        });
        let interface = route.and_then(|route| route.interface);
        interface.ok_or_else(|| "an answer without an interface".to_owned())
    });
    Way { to, interface }
}
