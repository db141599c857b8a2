//! Reads rule messages.

use uplink_core::snapshot::{Family, Mark, Prefix, Rule};

use super::ip;
use crate::netlink::{Malformed, attributes, number};

/// Attributes of a rule (`linux/fib_rules.h`).
mod fra {
    pub(super) const DST: u16 = 1;
    pub(super) const SRC: u16 = 2;
    pub(super) const GOTO: u16 = 4;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const FWMARK: u16 = 10;
    pub(super) const SUPPRESS_IFGROUP: u16 = 13;
    pub(super) const SUPPRESS_PREFIXLEN: u16 = 14;
    pub(super) const TABLE: u16 = 15;
    pub(super) const FWMASK: u16 = 16;
    pub(super) const PAD: u16 = 18;
    pub(super) const PROTOCOL: u16 = 21;
}

/// The action `lookup` (`FR_ACT_TO_TBL`).
const LOOKUP: u8 = 1;

/// The action `goto` (`FR_ACT_GOTO`).
const GOTO: u8 = 2;

/// The kernel writes "suppress nothing" as -1.
const NOTHING: u32 = u32::MAX;

/// Flags that say what became of a rule and not what it selects: `FIB_RULE_PERMANENT`,
/// `FIB_RULE_UNRESOLVED`, `FIB_RULE_IIF_DETACHED`, `FIB_RULE_OIF_DETACHED`.
const STATE_FLAGS: u32 = 0x1 | 0x4 | 0x8 | 0x10;

/// It selects all other packets (`FIB_RULE_INVERT`).
const INVERTED: u32 = 0x2;

/// The rule that a message's payload describes; `None` if it is neither IPv4 nor IPv6.
pub(super) fn decode(payload: &[u8]) -> Result<Option<Rule>, Malformed> {
    // struct fib_rule_hdr, linux/fib_rules.h
    let (header, rest) = payload.split_first_chunk::<12>().ok_or(Malformed)?;
    let [family, to_length, from_length, tos, table, _, _, action, flags @ ..] = *header;
    let Some(family) = ip::family(family) else {
        return Ok(None);
    };
    let mut table = u32::from(table);
    let (mut mark, mut mask) = (0, 0);
    let mut rule = Rule {
        family,
        priority: 0,
        protocol: 0,
        table: None,
        goto: None,
        from: selector(family, from_length),
        to: selector(family, to_length),
        mark: None,
        suppress_prefix_length: None,
        more: tos != 0 || u32::from_ne_bytes(flags) & !STATE_FLAGS != 0,
    };
    for attribute in attributes(rest) {
        match attribute? {
            (fra::DST, value) => rule.to = Some(prefix(family, value, to_length)?),
            (fra::SRC, value) => rule.from = Some(prefix(family, value, from_length)?),
            (fra::PRIORITY, value) => rule.priority = number(value)?,
            (fra::GOTO, value) if action == GOTO => rule.goto = Some(number(value)?),
            (fra::TABLE, value) => table = number(value)?,
            (fra::PROTOCOL, value) => rule.protocol = *value.first().ok_or(Malformed)?,
            (fra::SUPPRESS_PREFIXLEN, value) => {
                rule.suppress_prefix_length = Some(number(value)?).filter(|&n| n != NOTHING);
            }
            (fra::SUPPRESS_IFGROUP, value) => rule.more |= number(value)? != NOTHING,
            (fra::FWMARK, value) => mark = number(value)?,
            (fra::FWMASK, value) => mask = number(value)?,
            (fra::PAD, _) => {}
            // Another selector or option, perhaps one that did not exist yet today.
            _ => rule.more = true,
        }
    }
    let inverted = u32::from_ne_bytes(flags) & INVERTED != 0;
    rule.mark = (mask != 0 && !inverted).then_some(Mark { value: mark, mask });
    rule.table = (action == LOOKUP && table != 0).then_some(table);
    Ok(Some(rule))
}

/// A selector without an address: a prefix of zeros, which the kernel does not write out.
fn selector(family: Family, length: u8) -> Option<Prefix> {
    (length > 0).then(|| Prefix { address: ip::unspecified(family), length })
}

fn prefix(family: Family, value: &[u8], length: u8) -> Result<Prefix, Malformed> {
    Ok(Prefix { address: ip::address(family, value)?, length })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

    use super::*;

    fn decoded(change: impl FnOnce(&mut RuleMessage)) -> Rule {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.table = 252;
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Priority(100),
            RuleAttribute::Table(70_000),
            RuleAttribute::Protocol(117.into()),
            RuleAttribute::SuppressPrefixLen(u32::MAX),
            RuleAttribute::SuppressIfGroup(u32::MAX),
        ];
        change(&mut message);
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        decode(&payload).unwrap().unwrap()
    }

    #[test]
    fn a_plain_rule_has_no_selectors() {
        let rule = Rule {
            family: Family::Ipv4,
            priority: 100,
            protocol: 117,
            table: Some(70_000),
            goto: None,
            from: None,
            to: None,
            mark: None,
            suppress_prefix_length: None,
            more: false,
        };
        assert_eq!(decoded(|_| {}), rule);
    }

    #[test]
    fn selectors_and_suppression_are_read() {
        let rule = decoded(|message| {
            message.header.src_len = 32;
            message.header.dst_len = 8;
            message.attributes.extend([
                RuleAttribute::Source("10.0.0.1".parse().unwrap()),
                RuleAttribute::Destination("11.0.0.0".parse().unwrap()),
                RuleAttribute::SuppressPrefixLen(0),
            ]);
        });
        assert_eq!(rule.from.unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(rule.to.unwrap().to_string(), "11.0.0.0/8");
        assert_eq!(rule.suppress_prefix_length, Some(0));
        assert!(!rule.more);
    }

    #[test]
    fn a_mark_has_a_mask() {
        let rule = decoded(|m| m.attributes.extend([RuleAttribute::FwMark(2), RuleAttribute::FwMask(0x1f)]));
        assert_eq!(rule.mark, Some(Mark { value: 2, mask: 0x1f }));
        assert!(!rule.more);
    }

    #[test]
    fn what_is_not_listed_is_more() {
        assert!(decoded(|m| m.attributes.push(RuleAttribute::IpProtocol(6.into()))).more);
        assert!(decoded(|m| m.attributes.push(RuleAttribute::SuppressIfGroup(3))).more);
        assert!(decoded(|m| m.header.tos = 4).more);
        assert!(decoded(|m| m.header.flags = RuleFlags::Invert).more);
        assert!(!decoded(|m| m.header.flags = RuleFlags::Permanent).more);
    }

    #[test]
    fn only_a_lookup_has_a_table() {
        assert_eq!(decoded(|m| m.header.action = RuleAction::Blackhole).table, None);
    }

    #[test]
    fn what_goes_on_elsewhere_says_where_whether_that_is_there_or_not() {
        for flags in [RuleFlags::empty(), RuleFlags::Unresolved] {
            let rule = decoded(|message| {
                message.header.action = RuleAction::Goto;
                message.header.flags = flags;
                message.attributes.push(RuleAttribute::Goto(200));
            });
            assert_eq!((rule.goto, rule.table, rule.more), (Some(200), None, false));
        }
        assert_eq!(decoded(|m| m.attributes.push(RuleAttribute::Goto(200))).goto, None);
    }
}
