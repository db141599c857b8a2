//! Who undoes our pin: what the messages say that tell of it.

use std::collections::BTreeMap;
use std::fs;
use std::process;

use nix::libc::{RTM_DELROUTE, RTM_DELRULE, RTM_NEWROUTE};
use uplink_core::own::{OwnRoute, OwnRule, RuleForm, TABLE_MAIN_OR_PIN};
use uplink_core::plan::current_pin;
use uplink_core::snapshot::{Family, Snapshot, protocol};
use uplink_core::undone::{Program, Undoing, Undone};

use super::{route, rule};
use crate::netlink::Message;

/// No process has a larger number (`PID_MAX_LIMIT`, linux/threads.h). Ports beyond are those of a
/// program's further sockets, and name nobody.
const PROCESS_MAX: u32 = 4 * 1024 * 1024;

/// A thread of the kernel (`PF_KTHREAD`, linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// What others did to our pin since this was last taken: the last in each family, and the process.
#[derive(Default)]
pub(super) struct Undoings(BTreeMap<Family, (Undoing, u32)>);

impl Undoings {
    /// Notes what a message tells, before it is taken in.
    pub(super) fn note(&mut self, message: &Message<'_>, known: &Snapshot) {
        let another = (1..=PROCESS_MAX).contains(&message.port) && message.port != process::id();
        if let Some((family, how)) = another.then(|| undoing(message, known)).flatten() {
            self.0.insert(family, (how, message.port));
        }
    }

    /// Whether there is anything to hand over.
    pub(super) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Hands them over. It is now that their names are looked for: some programs live for a moment.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Undone> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|(family, (how, process))| {
            let stat = fs::read(format!("/proc/{process}/stat")).unwrap_or_default();
            Undone { family, how, by: Program { process, name: name(&String::from_utf8_lossy(&stat)) } }
        })
    }
}

/// What a message's act does to the pin of which family, if it does anything.
pub(super) fn undoing(message: &Message<'_>, known: &Snapshot) -> Option<(Family, Undoing)> {
    match message.kind {
        RTM_DELROUTE => {
            let gone = OwnRoute::claim(&route::decode(message.payload).ok()??.route)?;
            let table = gone.table();
            TABLE_MAIN_OR_PIN.contains(&table).then_some((gone.family(), Undoing::DeletesPin { table }))
        }
        RTM_DELRULE => {
            let gone = OwnRule::claim(&rule::decode(message.payload).ok()??)?;
            match gone.form() {
                RuleForm::MainWithoutDefault | RuleForm::Pin => Some((gone.family(), Undoing::DeletesRule)),
                RuleForm::Probe { .. } | RuleForm::Connection { .. } | RuleForm::Source { .. } => None,
            }
        }
        RTM_NEWROUTE => {
            let new = route::decode(message.payload).ok()??.route;
            let matters = new.is_default() && new.tos == 0 && new.protocol != protocol::UPLINKD;
            let pin = matters.then(|| current_pin(known, new.family)).flatten()?;
            let wins = new.table == pin.table() && new.metric <= pin.metric();
            wins.then_some((new.family, Undoing::Outranks { protocol: new.protocol }))
        }
        _ => None,
    }
}

/// What a process is called, by its `/proc/PID/stat` (proc(5)). The kernel's threads write no routes: a
/// number that is one of theirs is that of a process in another namespace.
pub(super) fn name(stat: &str) -> Option<String> {
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let flags: u32 = rest.split_whitespace().nth(6)?.parse().ok()?;
    let printable = || name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    (flags & KERNEL_THREAD == 0).then(printable)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
    use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
    use uplink_core::own::{PRIORITY_PIN, PRIORITY_PROBE, TABLE_PIN};
    use uplink_core::snapshot::TABLE_MAIN;

    use super::*;
    use crate::netlink::address_family;
    use crate::observe::state::State;

    const BY: u32 = 4711;

    fn bytes(message: &impl Emitable) -> Vec<u8> {
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        payload
    }

    fn route(protocol: u8, metric: u32) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family(Family::Ipv4);
        message.header.table = 254;
        message.header.protocol = protocol.into();
        message.header.kind = RouteType::Unicast;
        message.attributes = vec![RouteAttribute::Oif(1), RouteAttribute::Priority(metric)];
        message
    }

    fn rule(priority: u32) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = address_family(Family::Ipv6);
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Priority(priority),
            RuleAttribute::Table(TABLE_PIN),
            RuleAttribute::Protocol(protocol::UPLINKD.into()),
        ];
        message
    }

    /// What is noted of a message from this port while a pin of metric 98 stands.
    fn noted(kind: u16, port: u32, payload: &[u8]) -> Option<(Family, Undoing, u32)> {
        let mut state = State::new(|_| None);
        let pin = bytes(&route(protocol::UPLINKD, 98));
        state.take(&Message::told(RTM_NEWROUTE, 0, &pin)).unwrap();
        let mut undoings = Undoings::default();
        let mut message = Message::told(kind, 0, payload);
        message.port = port;
        undoings.note(&message, state.snapshot());
        undoings.0.into_iter().next().map(|(family, (how, process))| (family, how, process))
    }

    #[test]
    fn who_deletes_the_pin_or_its_rules_is_noted() {
        let pin = bytes(&route(protocol::UPLINKD, 98));
        let deletes = Undoing::DeletesPin { table: TABLE_MAIN };
        assert_eq!(noted(RTM_DELROUTE, BY, &pin), Some((Family::Ipv4, deletes, BY)));
        let rules = Some((Family::Ipv6, Undoing::DeletesRule, BY));
        assert_eq!(noted(RTM_DELRULE, BY, &bytes(&rule(PRIORITY_PIN))), rules);
        assert_eq!(noted(RTM_DELRULE, BY, &bytes(&rule(PRIORITY_PROBE))), None);
        assert_eq!(noted(RTM_DELROUTE, BY, &bytes(&route(protocol::DHCP, 98))), None);
    }

    #[test]
    fn who_lays_a_default_route_above_the_pin_is_noted() {
        for (metric, wins) in [(97, true), (98, true), (99, false)] {
            let outranks = Undoing::Outranks { protocol: protocol::STATIC };
            let expected = wins.then_some((Family::Ipv4, outranks, BY));
            assert_eq!(noted(RTM_NEWROUTE, BY, &bytes(&route(protocol::STATIC, metric))), expected);
        }
        assert_eq!(noted(RTM_NEWROUTE, BY, &bytes(&route(protocol::UPLINKD, 97))), None);
    }

    #[test]
    fn the_kernel_ourselves_and_further_sockets_name_nobody() {
        let pin = bytes(&route(protocol::UPLINKD, 98));
        for port in [0, process::id(), PROCESS_MAX + 1, u32::MAX - 4096] {
            assert_eq!(noted(RTM_DELROUTE, port, &pin), None);
        }
    }

    #[test]
    fn a_process_is_called_as_the_kernel_has_it() {
        let stat = |name: &str, flags: u32| format!("7 ({name}) S 1 7 7 0 -1 {flags} 93 0 0");
        for called in ["dhclient", "a) (b c"] {
            assert_eq!(name(&stat(called, 0x40_0100)).as_deref(), Some(called));
        }
        assert_eq!(name(&stat("a\u{1b}[2J", 0)).as_deref(), Some("a?[2J"));
        assert_eq!(name(&stat("kworker/0:1", KERNEL_THREAD | 0x40)), None);
        for nothing in ["", "7 (x", "7 (x) S 1"] {
            assert_eq!(name(nothing), None);
        }
    }
}
