//! Who undoes what we wrote: what the messages say that tell of it.

use std::collections::BTreeMap;
use std::fs;

use nix::libc::{RTM_DELROUTE, RTM_DELRULE, RTM_NEWROUTE};
use uplink_core::own::{OwnRoute, OwnRule, RuleForm, TABLE_MAIN_OR_PIN};
use uplink_core::plan::current_pin;
use uplink_core::snapshot::{Family, Snapshot, Tracking, protocol};
use uplink_core::undone::{Part, Program, Undoing, Undone};

use super::{route, rule};
use crate::netlink::{Message, names_another};

/// A thread of the kernel (`PF_KTHREAD`, linux/sched.h).
const KERNEL_THREAD: u32 = 0x0020_0000;

/// What others did to what is ours since this was last taken: the last to each part of each family, and the
/// process.
#[derive(Default)]
pub(super) struct Undoings(BTreeMap<(Family, Part), (Undoing, By)>);

/// Who did it.
enum By {
    /// The process of this number.
    Process(u32),
    /// The program that the kernel named.
    Program(Program),
}

impl Undoings {
    /// Notes what a message tells, before it is taken in.
    pub(super) fn note(&mut self, message: &Message<'_>, known: &Snapshot) {
        if let Some((family, how)) = names_another(message.port).then(|| undoing(message, known)).flatten() {
            self.0.insert((family, how.part()), (how, By::Process(message.port)));
        }
    }

    /// Notes what became of our nftables tables while nobody but this program changed nftables.
    pub(super) fn note_tables(&mut self, before: &Tracking, now: &Tracking, author: &Program) {
        let stood = before.tables.iter().filter(|table| table.intact);
        for table in stood.filter(|table| !now.tables.contains(table)) {
            let how = Undoing::ChangesMarks;
            self.0.insert((table.family, how.part()), (how, By::Program(author.clone())));
        }
    }

    /// Whether there is anything to hand over.
    pub(super) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Hands them over. It is now that their names are looked for: some programs live for a moment.
    pub(super) fn take(&mut self) -> impl Iterator<Item = Undone> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|((family, _), (how, by))| {
            let by = match by {
                By::Process(process) => program(process),
                By::Program(program) => program,
            };
            Undone { family, how, by }
        })
    }
}

/// The program of a process of this number, if there still is one. systemd itself lays no routes: number 1
/// is that of the first process of a container.
fn program(process: u32) -> Program {
    if process == 1 {
        return Program { process, name: None };
    }
    let stat = fs::read(format!("/proc/{process}/stat")).unwrap_or_default();
    Program { process, name: name(&String::from_utf8_lossy(&stat)) }
}

/// What a message's act does to what is ours, and in which family, if it does anything.
pub(super) fn undoing(message: &Message<'_>, known: &Snapshot) -> Option<(Family, Undoing)> {
    match message.kind {
        RTM_DELROUTE => {
            let gone = OwnRoute::claim(&route::decode(message.payload).ok()??.route)?;
            let how = match gone.table() {
                table if TABLE_MAIN_OR_PIN.contains(&table) => Undoing::DeletesPin { table },
                _ => Undoing::DeletesWay,
            };
            Some((gone.family(), how))
        }
        RTM_DELRULE => {
            let gone = OwnRule::claim(&rule::decode(message.payload).ok()??)?;
            let how = match gone.form() {
                RuleForm::MainWithoutDefault | RuleForm::Pin => Undoing::DeletesRule,
                RuleForm::Probe { .. } => Undoing::DeletesWay,
                RuleForm::Connection { .. }
                | RuleForm::Source { .. }
                | RuleForm::Past { .. }
                | RuleForm::Landing { .. } => Undoing::DeletesPathRule,
            };
            Some((gone.family(), how))
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
    use uplink_core::marks::OwnMarks;
    use uplink_core::own::{PRIORITY_CONNECTION, PRIORITY_PIN, TABLE_PIN, probe_table};
    use uplink_core::snapshot::{LinkIndex, TABLE_MAIN};

    use super::*;
    use std::process;

    use crate::netlink::{PROCESS_MAX, address_family};
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
        undoings.0.into_iter().next().map(|((family, _), (how, by))| match by {
            By::Process(process) => (family, how, process),
            By::Program(program) => (family, how, program.process),
        })
    }

    #[test]
    fn who_deletes_the_pin_or_its_rules_is_noted() {
        let pin = bytes(&route(protocol::UPLINKD, 98));
        let deletes = Undoing::DeletesPin { table: TABLE_MAIN };
        assert_eq!(noted(RTM_DELROUTE, BY, &pin), Some((Family::Ipv4, deletes, BY)));
        let rules = Some((Family::Ipv6, Undoing::DeletesRule, BY));
        assert_eq!(noted(RTM_DELRULE, BY, &bytes(&rule(PRIORITY_PIN))), rules);
        assert_eq!(noted(RTM_DELRULE, BY, &bytes(&rule(32764))), None, "it is none of ours");
        assert_eq!(noted(RTM_DELROUTE, BY, &bytes(&route(protocol::DHCP, 98))), None);
    }

    #[test]
    fn who_deletes_path_rules_or_the_routes_of_own_tables_is_noted() {
        let mut way = route(protocol::UPLINKD, 1);
        way.attributes.push(RouteAttribute::Table(probe_table(LinkIndex(1))));
        assert_eq!(noted(RTM_DELROUTE, BY, &bytes(&way)), Some((Family::Ipv4, Undoing::DeletesWay, BY)));
        let mut path = rule(PRIORITY_CONNECTION[1]);
        path.attributes.extend([RuleAttribute::FwMark(8), RuleAttribute::FwMask(0x78)]);
        path.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::Table(_)));
        path.attributes.push(RuleAttribute::Table(probe_table(LinkIndex(1))));
        let undone = Some((Family::Ipv6, Undoing::DeletesPathRule, BY));
        assert_eq!(noted(RTM_DELRULE, BY, &bytes(&path)), undone);
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
    fn who_changes_our_nftables_table_is_noted() {
        let table = OwnMarks { family: Family::Ipv6, uplinks: Vec::new(), intact: true };
        let tracking = |tables| Tracking { in_use: true, tables };
        let (stands, gone) = (tracking(vec![table.clone()]), tracking(Vec::new()));
        let changed = tracking(vec![OwnMarks { intact: false, ..table }]);
        let by = Program { process: BY, name: Some("nft".to_owned()) };
        for (before, now, undone) in [
            (&stands, &gone, true),
            (&stands, &changed, true),
            (&stands, &stands, false),
            (&changed, &gone, false),
        ] {
            let mut undoings = Undoings::default();
            undoings.note_tables(before, now, &by);
            let undone =
                undone.then(|| Undone { family: Family::Ipv6, how: Undoing::ChangesMarks, by: by.clone() });
            assert_eq!(undoings.take().next(), undone);
        }
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

    #[test]
    fn a_containers_first_process_is_not_called_as_the_hosts() {
        assert_eq!(program(1), Program { process: 1, name: None });
        assert!(program(process::id()).name.is_some());
    }
}
