//! Reads rule messages.

use uplink_core::snapshot::{Family, Prefix, Rule};

use super::ip;
use crate::netlink::{Malformed, attributes, number};

/// Attributes of a rule (`linux/fib_rules.h`).
mod fra {
    pub(super) const DST: u16 = 1;
    pub(super) const SRC: u16 = 2;
    pub(super) const PRIORITY: u16 = 6;
    pub(super) const SUPPRESS_IFGROUP: u16 = 13;
    pub(super) const SUPPRESS_PREFIXLEN: u16 = 14;
    pub(super) const TABLE: u16 = 15;
    pub(super) const PAD: u16 = 18;
    pub(super) const PROTOCOL: u16 = 21;
}

/// The action `lookup` (`FR_ACT_TO_TBL`).
const LOOKUP: u8 = 1;

/// The kernel writes "suppress nothing" as -1.
const NOTHING: u32 = u32::MAX;

/// Flags that say what became of a rule and not what it selects: `FIB_RULE_PERMANENT`,
/// `FIB_RULE_UNRESOLVED`, `FIB_RULE_IIF_DETACHED`, `FIB_RULE_OIF_DETACHED`.
const STATE_FLAGS: u32 = 0x1 | 0x4 | 0x8 | 0x10;

/// The rule that a message's payload describes; `None` if it is neither IPv4 nor IPv6.
pub(super) fn decode(payload: &[u8]) -> Result<Option<Rule>, Malformed> {
    // struct fib_rule_hdr, linux/fib_rules.h
    let (header, rest) = payload.split_first_chunk::<12>().ok_or(Malformed)?;
    let [family, to_length, from_length, tos, table, _, _, action, flags @ ..] = *header;
    let Some(family) = ip::family(family) else {
        return Ok(None);
    };
    let mut table = u32::from(table);
    let mut rule = Rule {
        family,
        priority: 0,
        protocol: 0,
        table: None,
        from: selector(family, from_length),
        to: selector(family, to_length),
        suppress_prefix_length: None,
        more: tos != 0 || u32::from_ne_bytes(flags) & !STATE_FLAGS != 0,
    };
    for attribute in attributes(rest) {
        match attribute? {
            (fra::DST, value) => rule.to = Some(prefix(family, value, to_length)?),
            (fra::SRC, value) => rule.from = Some(prefix(family, value, from_length)?),
            (fra::PRIORITY, value) => rule.priority = number(value)?,
            (fra::TABLE, value) => table = number(value)?,
            (fra::PROTOCOL, value) => rule.protocol = *value.first().ok_or(Malformed)?,
            (fra::SUPPRESS_PREFIXLEN, value) => {
                rule.suppress_prefix_length = Some(number(value)?).filter(|&n| n != NOTHING);
            }
            (fra::SUPPRESS_IFGROUP, value) => rule.more |= number(value)? != NOTHING,
            (fra::PAD, _) => {}
            // Another selector or option, perhaps one that did not exist yet today.
            _ => rule.more = true,
        }
    }
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
