//! Turns netlink, sysfs and leases into one snapshot.
//!
//! The groups are joined first, then everything is read, then the messages tell what changed. A
//! message that was queued before or during a read is taken in after it: in the kernel's order, and
//! each says the whole state of one thing, so that whatever it says again does no harm and the
//! snapshot is right as soon as the queue is empty. What the kernel does without a message is
//! predicted where it can be, and leads to a fresh look at everything.

mod address;
mod ip;
mod lease;
mod link;
mod pci;
mod route;
mod rule;
mod state;
mod undone;

use std::io;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use nix::libc;
use uplink_core::policy::Policy;
use uplink_core::snapshot::{Address, Family, Link, LinkIndex, Rule, Snapshot, Tracking, protocol};
use uplink_core::time::Instant;
use uplink_core::undone::Undone;

use crate::clock;
use crate::netlink::{Event, Events, Malformed, Message, RequestError, Requests, address_family};
use crate::nftables::{self, Generations, Nftables};
use route::Kept;
use state::{Effect, Read, State};
use undone::Undoings;

/// How many unreadable messages lead to a fresh look, in the life of a process. Each may hide a
/// change; but a kernel that never sends readable ones must not make us read tables for ever.
const MALFORMED_LOOKS: u32 = 16;

/// So long after the end of a route's life it is looked whether it was prolonged. Within a hundredth of
/// a second the kernel says the same of an end as of none.
const LIFE_IS_OVER: Duration = Duration::from_millis(30);

/// Our nftables tables are read no more often: who changes nftables tells of every transaction, whatever
/// it is about, and there are hosts with hundreds a second. The first change is followed at once.
const TABLES_EVERY: Duration = Duration::from_millis(50);

/// How often we look whether connections are tracked by now: who begins tells nobody.
const TRACKED_EVERY: Duration = Duration::from_secs(1);

/// Why the kernel could not be observed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObserveError {
    /// A socket could not be opened.
    #[error("failed to open a netlink socket; Linux 4.20 or newer is needed")]
    Open(#[source] io::Error),
    /// The events could not be received.
    #[error("failed to receive the kernel's events")]
    Events(#[source] io::Error),
    /// A table could not be read.
    #[error("failed to read the kernel's {what}")]
    Dump {
        /// Which table.
        what: &'static str,
        /// Why.
        #[source]
        source: RequestError,
    },
}

/// What [`Observer::drain`] found, now or before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drained {
    /// What matters of the snapshot differs from what was taken last.
    pub(crate) changed: bool,
    /// The snapshot may be wrong: [`Observer::look`] is due, and stays so until it was taken.
    pub(crate) look: bool,
    /// Somebody undid something of ours.
    pub(crate) undone: bool,
}

impl Drained {
    /// Whether there is anything to be decided.
    pub(crate) const fn matters(self) -> bool {
        let Self { changed, look, undone } = self;
        changed || look || undone
    }
}

/// Follows what the kernel holds.
pub(crate) struct Observer {
    events: Events,
    requests: Requests,
    leases: lease::Reader,
    /// None where the kernel has no netfilter, or we may not ask it.
    nftables: Option<(Nftables, Generations)>,
    state: State,
    undoings: Undoings,
    malformed_looks: u32,
    /// What matters differs from what was taken.
    changed: bool,
    look_due: bool,
    /// When a route may vanish without a message, because it was laid for so long.
    ends_at: Instant,
    /// nftables changed since our tables were read.
    tables_due: bool,
    /// When they may be read again.
    tables_from: Instant,
    /// When we look again whether connections are tracked.
    tracked_from: Instant,
}

impl Observer {
    /// Joins the events and reads everything, in the network namespace of the calling thread, which
    /// must be within a tokio runtime.
    ///
    /// # Errors
    /// See [`ObserveError`].
    pub(crate) fn open() -> Result<Self, ObserveError> {
        let mut state = State::new(pci::behind);
        let (leases, first) = lease::Reader::start();
        state.replace_leases(first);
        let mut observer = Self {
            events: Events::open().map_err(ObserveError::Open)?,
            requests: Requests::open().map_err(ObserveError::Open)?,
            leases,
            nftables: Nftables::open().ok().zip(Generations::open().ok()),
            state,
            undoings: Undoings::default(),
            malformed_looks: MALFORMED_LOOKS,
            changed: true,
            look_due: true,
            ends_at: Instant::NEVER,
            tables_due: false,
            tables_from: Instant::BOOT,
            tracked_from: Instant::BOOT,
        };
        observer.look()?;
        Ok(observer)
    }

    /// What is known now.
    pub(crate) const fn snapshot(&self) -> &Snapshot {
        self.state.snapshot()
    }

    /// From now on, what matters is by this policy; [`Observer::take`] it anew.
    pub(crate) fn set_policy(&mut self, policy: &Policy) {
        self.state.set_policy(policy);
    }

    /// What matters of what is known now.
    pub(crate) fn take(&mut self) -> Snapshot {
        self.changed = false;
        self.state.part()
    }

    /// When [`Observer::drain`] is due although nothing may happen until then.
    pub(crate) fn deadline(&self) -> Instant {
        if self.tables_due { self.ends_at.min(self.tables_from) } else { self.ends_at }
    }

    /// Waits until there is something to drain. May be cancelled at any time; may return although
    /// there is nothing.
    ///
    /// # Errors
    /// Those of the runtime's reactor.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        let generations = async {
            match &self.nftables {
                Some((_, generations)) => generations.readable().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            events = self.events.readable() => events,
            generations = generations => generations,
            () = self.leases.changed() => Ok(()),
        }
    }

    /// Takes in all events that are there, without waiting. Where that shows too little, a look is due.
    ///
    /// # Errors
    /// [`ObserveError::Events`]: no more events will come.
    pub(crate) fn drain(&mut self) -> Result<Drained, ObserveError> {
        let (mut effect, mut overrun) = (Effect::default(), false);
        let changed = self.nftables.as_mut().is_some_and(|(_, generations)| generations.drain());
        effect.tracking |= changed;
        let (state, undoings, looks) = (&mut self.state, &mut self.undoings, &mut self.malformed_looks);
        let mut unreadable = || {
            let look = *looks > 0;
            *looks = looks.saturating_sub(1);
            Effect { look, ..Effect::default() }
        };
        let take = |event: Event<'_>| {
            let more = match event {
                Event::Message(message) => {
                    undoings.note(&message, state.snapshot());
                    state.take(&message).unwrap_or_else(|Malformed| unreadable())
                }
                Event::Malformed => unreadable(),
                Event::Overrun => {
                    overrun = true;
                    Effect::LOOK
                }
            };
            effect = effect.and(more);
        };
        let received = self.events.drain(take);
        received.map_err(ObserveError::Events)?;
        if overrun {
            effect = effect.and(self.ask_for_links());
        }
        if let Some(leases) = self.leases.take() {
            effect.changed |= self.state.replace_leases(leases);
        }
        Ok(self.follow(effect))
    }

    /// Who undid something of ours since this was asked last, as far as the events told.
    pub(crate) fn take_undone(&mut self) -> impl Iterator<Item = Undone> + use<> {
        self.undoings.take()
    }

    /// Reads what events only hint at.
    fn follow(&mut self, effect: Effect) -> Drained {
        let Effect { mut changed, look, rules, ports, tracking } = effect;
        let now = clock::now();
        self.look_due |= look;
        if now >= self.ends_at {
            self.ends_at = Instant::NEVER;
            // Only routes of IPv6 have lives. The other table is often the larger one.
            match self.read_routes_of(Family::Ipv6, None) {
                Ok(routes) => changed |= self.state.replace_routes(Family::Ipv6, routes),
                Err(_) => self.look_due = true,
            }
        }
        self.ends_at = self.ends_at.min(self.first_end(now));
        if rules {
            match self.read_rules() {
                Ok(rules) => changed |= self.state.replace_rules(rules),
                // A moment's lack of memory, say. The look that is due now tells if it fails again.
                Err(_) => self.look_due = true,
            }
        }
        self.tables_due |= tracking;
        // A look at a file holds up no decision.
        let idle = !changed && !self.changed && !self.look_due;
        if (idle && self.begins_to_track(now)) || (self.tables_due && now >= self.tables_from) {
            changed |= self.follow_tables(now);
        }
        if ports {
            changed |= self.state.replace_ports(pci::dpu_ports());
        }
        self.changed |= changed;
        Drained { changed: self.changed, look: self.look_due, undone: self.undoings.any() }
    }

    /// Asks for the links that matter, one by one: the news that a carrier is lost may be among those that
    /// are, and must not wait until large tables are read.
    fn ask_for_links(&mut self) -> Effect {
        let mut effect = Effect::default();
        for index in self.state.links_that_matter() {
            let request = RouteNetlinkMessage::GetLink(ask_for_link(Some(index)));
            effect = effect.and(match self.requests.ask(request, 0, |m| link::decode(m.payload).ok()?) {
                Ok(Some(link)) => self.state.set_link(link),
                Err(RequestError::Refused { errno: libc::ENODEV, text: _ }) => self.state.remove_link(index),
                // The look that is due tells if it fails again.
                Ok(None) | Err(_) => Effect::default(),
            });
        }
        effect
    }

    /// Whether somebody has begun to track connections, as far as it is time to look.
    fn begins_to_track(&mut self, now: Instant) -> bool {
        if self.state.snapshot().tracking.in_use || now < self.tracked_from {
            return false;
        }
        self.tracked_from = now + TRACKED_EVERY;
        nftables::is_tracked()
    }

    /// Reads our nftables tables again. Returns whether they differ.
    fn follow_tables(&mut self, now: Instant) -> bool {
        (self.tables_due, self.tables_from) = (false, now + TABLES_EVERY);
        // Who changes them after this makes a read due again.
        let author = self.nftables.as_mut().and_then(|(_, generations)| generations.take_author());
        match self.read_tracking() {
            Ok(tracking) => {
                if let Some(author) = author {
                    self.undoings.note_tables(&self.state.snapshot().tracking, &tracking, &author);
                }
                self.state.replace_tracking(tracking)
            }
            Err(_) => {
                self.look_due = true;
                false
            }
        }
    }

    /// Reads everything again. Returns whether the snapshot differs from what was taken last.
    ///
    /// # Errors
    /// See [`ObserveError`]; the snapshot may differ then, too.
    pub(crate) fn look(&mut self) -> Result<bool, ObserveError> {
        self.events.renew();
        // What is queued now is older than what is read below, and need not cause another look.
        self.drain()?;
        self.ends_at = Instant::NEVER;
        let read = Read {
            // First, because it waits for the kernel's routing lock: a change that sent its first
            // message has then done all its silent work, too.
            links: self.read_links()?,
            addresses: self.read_addresses()?,
            routes: self.read_routes(None)?,
            rules: self.read_rules()?,
            dpu_ports: pci::dpu_ports(),
            rp_filter: link::rp_filter_of_all(),
            // The pin does not depend on it; the next change of nftables tells it again.
            tracking: self.read_tracking().unwrap_or_else(|_| self.state.snapshot().tracking.clone()),
        };
        self.look_due = false;
        self.tables_due = false;
        self.changed |= self.state.replace(read);
        self.ends_at = self.first_end(clock::now());
        Ok(self.changed)
    }

    /// When the first of the routes that were told of just now may vanish.
    fn first_end(&mut self, now: Instant) -> Instant {
        self.state.take_end().map_or(Instant::NEVER, |left| now + left + LIFE_IS_OVER)
    }

    /// Reads own routes, and all rules, again: after something was applied. Reads everything instead if
    /// that is due.
    ///
    /// The kernel picks the routes out, but walks its whole table to do so: 20 µs on a usual host,
    /// 12 ms for each 100,000 routes.
    ///
    /// # Errors
    /// See [`ObserveError`].
    pub(crate) fn look_at_own(&mut self) -> Result<(), ObserveError> {
        if self.drain()?.look {
            self.look()?;
            return Ok(());
        }
        // What was applied may be one of them, and must be seen before it is missed.
        self.changed |= self.tables_due && self.follow_tables(clock::now());
        let own = self.read_routes(Some(protocol::UPLINKD))?;
        let rules = self.read_rules()?;
        let effect = self.state.replace_own(own);
        self.changed |= effect.changed | self.state.replace_rules(rules);
        self.look_due |= effect.look;
        if self.look_due {
            self.look()?;
        }
        Ok(())
    }

    fn read_tracking(&mut self) -> Result<Tracking, ObserveError> {
        let before = self.state.snapshot().tracking.in_use;
        let tables = self.nftables.as_mut().map(|(tables, _)| tables);
        nftables::read(tables, before).map_err(|source| ObserveError::Dump { what: "nftables", source })
    }

    fn read_links(&mut self) -> Result<Vec<Link>, ObserveError> {
        let request = RouteNetlinkMessage::GetLink(ask_for_link(None));
        self.read("links", &request, |m| link::decode(m.payload).ok()?)
    }

    fn read_addresses(&mut self) -> Result<Vec<Address>, ObserveError> {
        let mut addresses = Vec::new();
        for family in Family::ALL {
            let mut request = AddressMessage::default();
            request.header.family = address_family(family);
            let request = RouteNetlinkMessage::GetAddress(request);
            addresses.extend(self.read("addresses", &request, |m| {
                of(family, m).and_then(|m| address::decode(m.payload).ok()?)
            })?);
        }
        Ok(addresses)
    }

    /// All routes that are kept, or those of one protocol, which the kernel then picks out.
    fn read_routes(&mut self, protocol: Option<u8>) -> Result<Vec<Kept>, ObserveError> {
        let mut routes = Vec::new();
        for family in Family::ALL {
            routes.extend(self.read_routes_of(family, protocol)?);
        }
        Ok(routes)
    }

    /// The same of one family.
    fn read_routes_of(&mut self, family: Family, protocol: Option<u8>) -> Result<Vec<Kept>, ObserveError> {
        // All fields but these stay 0, which means any: a type or a table would filter, too.
        let mut request = RouteMessage::default();
        request.header.address_family = address_family(family);
        request.header.protocol = protocol.unwrap_or_default().into();
        let request = RouteNetlinkMessage::GetRoute(request);
        self.read("routes", &request, |m| {
            of(family, m).and_then(|m| route::decode(m.payload).ok()?).filter(|kept| !kept.is_elsewhere())
        })
    }

    fn read_rules(&mut self) -> Result<Vec<Rule>, ObserveError> {
        let mut rules = Vec::new();
        for family in Family::ALL {
            let mut request = RuleMessage::default();
            request.header.family = address_family(family);
            let request = RouteNetlinkMessage::GetRule(request);
            rules.extend(
                self.read("rules", &request, |m| {
                    of(family, m).and_then(|m| rule::decode(m.payload).ok()?)
                })?,
            );
        }
        Ok(rules)
    }

    /// Reads one table. A message that cannot be read is left out: reading it again would not help.
    fn read<T>(
        &mut self,
        what: &'static str,
        request: &RouteNetlinkMessage,
        keep: impl Fn(&Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, ObserveError> {
        match self.requests.dump(request, keep) {
            // A kernel without IPv6 has nothing of it.
            Err(error) if error.errno() == libc::EAFNOSUPPORT => Ok(Vec::new()),
            other => other.map_err(|source| ObserveError::Dump { what, source }),
        }
    }
}

/// What asks for this link, or for all.
fn ask_for_link(index: Option<LinkIndex>) -> LinkMessage {
    let mut request = LinkMessage::default();
    request.header.index = index.map_or(0, |index| index.0);
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    request
}

/// The message, if it is about this family. A kernel without IPv6 answers a request for it with what
/// it has of all others (`rtnetlink_rcv_msg` in net/core/rtnetlink.c).
fn of<'a>(family: Family, message: &'a Message<'a>) -> Option<&'a Message<'a>> {
    let first = message.payload.first().copied()?;
    (ip::family(first) == Some(family)).then_some(message)
}

/// The snapshot that the messages of a datagram make, for tests with arbitrary bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_datagram(datagram: &[u8]) -> Snapshot {
    let mut state = State::new(|_| None);
    let mut rules = Vec::new();
    for message in crate::netlink::messages(datagram).flatten() {
        crate::netlink::any_verdict(&message);
        if message.kind == libc::RTM_NEWRULE {
            rules.extend(rule::decode(message.payload).ok().flatten());
        }
        let _ = undone::undoing(&message, state.snapshot());
        let _ = state.take(&message);
    }
    state.replace_rules(rules);
    state.snapshot().clone()
}

/// What a file of sysfs or a DHCP client may say, for tests with arbitrary bytes.
#[cfg(any(test, fuzzing))]
pub(crate) fn any_file(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    pci::any_value(text);
    let _ = undone::name(text);
    lease::any_file(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `test` with an observer of whatever network this is.
    fn with_observer(test: impl FnOnce(Observer)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async { test(Observer::open().unwrap()) });
    }

    #[test]
    fn who_changes_nftables_all_the_time_does_not_make_us_read_all_the_time() {
        with_observer(|mut observer| {
            observer.tables_from = clock::now() + Duration::from_secs(60);
            observer.follow(Effect { tracking: true, ..Effect::default() });
            assert!(observer.tables_due && observer.deadline() <= observer.tables_from);
            // What we did ourselves is looked at, whoever else is at work.
            observer.look_at_own().unwrap();
            assert!(!observer.tables_due);
        });
    }

    #[test]
    fn a_life_that_ends_is_no_reason_to_read_everything() {
        with_observer(|mut observer| {
            observer.ends_at = clock::now();
            assert!(!observer.follow(Effect::default()).look);
            assert!(observer.ends_at > clock::now());
            observer.ends_at = clock::now();
            observer.requests = Requests::unheard().unwrap();
            assert!(observer.follow(Effect::default()).look, "unless that fails");
        });
    }

    #[test]
    fn rules_that_cannot_be_read_make_a_look_due_and_nothing_worse() {
        with_observer(|mut observer| {
            observer.requests = Requests::unheard().unwrap();
            let rules = observer.snapshot().rules.clone();
            let drained = observer.follow(Effect::RULES.and(Effect::CHANGED));
            assert_eq!(drained, Drained { changed: true, look: true, undone: false });
            assert_eq!(observer.snapshot().rules, rules);
            assert!(observer.look().is_err());
            assert!(observer.drain().unwrap().look, "it stays due until it was taken");
        });
    }
}
