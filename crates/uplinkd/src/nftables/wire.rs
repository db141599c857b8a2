//! Messages of nftables (`linux/netfilter/nf_tables.h`): what of them our table needs. Numbers are in
//! network order there, registers' contents in the machine's.

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use nix::libc;
use uplink_core::marks::TABLE;
use uplink_core::snapshot::{Family, LinkIndex, Mark};
use uplink_core::undone::Program;

use super::form::{Chain, Expression, Hook, OURS, Rule};
use crate::netlink::{attributes, text};

/// The number of nftables among the subsystems (`NFNL_SUBSYS_NFTABLES`, `linux/netfilter/nfnetlink.h`).
const SUBSYSTEM: u16 = 10;

/// The messages that begin and end a transaction (`NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`).
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

pub(super) const NEWTABLE: u16 = SUBSYSTEM << 8;
pub(super) const GETTABLE: u16 = SUBSYSTEM << 8 | 1;
pub(super) const DELTABLE: u16 = SUBSYSTEM << 8 | 2;
pub(super) const NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
pub(super) const NEWRULE: u16 = SUBSYSTEM << 8 | 6;
pub(super) const GETRULE: u16 = SUBSYSTEM << 8 | 7;
/// Told after each transaction of anybody.
pub(super) const NEWGEN: u16 = SUBSYSTEM << 8 | 15;

/// Messages about connections (`IPCTNL_MSG_CT_NEW`, `IPCTNL_MSG_CT_GET` of `NFNL_SUBSYS_CTNETLINK`,
/// `linux/netfilter/nfnetlink_conntrack.h`).
pub(super) const NEWCONNECTION: u16 = 1 << 8;
pub(super) const GETCONNECTION: u16 = 1 << 8 | 1;

/// Attributes of a connection: its question's ends, its mark, in which zone it is, and which bits of the mark
/// are meant (`CTA_TUPLE_ORIG`, `CTA_MARK`, `CTA_ZONE`, `CTA_MARK_MASK`).
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_MARK: u16 = 8;
const CTA_ZONE: u16 = 18;
const CTA_MARK_MASK: u16 = 21;

/// Behind the other rules of its chain.
pub(super) const NLM_F_APPEND: u16 = 0x800;

/// A nest of attributes (`NLA_F_NESTED`).
const NESTED: u16 = 0x8000;

/// The one register that is used (`NFT_REG_1`), and that of the verdict (`NFT_REG_VERDICT`).
const REGISTER: u32 = 1;
const REGISTER_OF_VERDICT: u32 = 0;

/// `NFT_GOTO`: go on with another chain, and do not come back. `NFT_RETURN`: leave the chain.
const GOTO: i32 = -4;
const RETURN: i32 = -5;

/// Comments stand in the user data of a rule or a table as type, length, text with its zero: so `nft` shows
/// them (`NFTNL_UDATA_RULE_COMMENT`, `NFTNL_UDATA_TABLE_COMMENT` of libnftnl).
const COMMENT: u8 = 0;

/// Messages that the kernel carries out all, or none.
pub(super) struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
    /// Where the last message begins.
    last: usize,
}

impl Batch {
    /// With numbers that follow this one.
    pub(super) fn begin(sequence: u32) -> Self {
        let sequence = sequence.wrapping_add(1);
        Self { bytes: frame(libc::AF_UNSPEC, SUBSYSTEM, BATCH_BEGIN, 0, sequence, &[]), sequence, last: 0 }
    }

    /// One more message.
    pub(super) fn push(&mut self, family: Family, kind: u16, flags: u16, attributes: Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        self.last = self.bytes.len();
        self.bytes.extend(message(family, kind, flags, self.sequence, &attributes));
    }

    /// The bytes, and the number of the message that is acknowledged if all went well.
    pub(super) fn end(mut self) -> (Vec<u8>, u32) {
        // `nlmsg_flags` of the last one.
        if let Some(flags) = self.bytes.get_mut(self.last + 6..self.last + 8)
            && let Ok(bytes) = <[u8; 2]>::try_from(&*flags)
        {
            flags.copy_from_slice(&(u16::from_ne_bytes(bytes) | NLM_F_ACK).to_ne_bytes());
        }
        let end = self.sequence.wrapping_add(1);
        self.bytes.extend(frame(libc::AF_UNSPEC, SUBSYSTEM, BATCH_END, 0, end, &[]));
        (self.bytes, self.sequence)
    }
}

/// One message.
pub(super) fn message(family: Family, kind: u16, flags: u16, sequence: u32, attributes: &[u8]) -> Vec<u8> {
    let family = match family {
        Family::Ipv4 => libc::NFPROTO_IPV4,
        Family::Ipv6 => libc::NFPROTO_IPV6,
    };
    frame(family, 0, kind, flags, sequence, attributes)
}

/// `struct nlmsghdr` and `struct nfgenmsg` with what follows.
fn frame(family: i32, resource: u16, kind: u16, flags: u16, sequence: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + 4 + rest.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::new();
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    // The kernel fills in who we are.
    bytes.extend([0; 4]);
    // Family, version 0, resource.
    bytes.extend([u8::try_from(family).unwrap_or(0), 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(rest);
    bytes
}

/// Attributes that name our table (`NFTA_TABLE_NAME`).
pub(super) fn named_table() -> Vec<u8> {
    string(1, TABLE)
}

/// Attributes of the table when it is made: its user data say whose it is, as a comment.
pub(super) fn new_table() -> Vec<u8> {
    // NFTA_TABLE_NAME, NFTA_TABLE_USERDATA
    [string(1, TABLE), attribute(6, &user_data(OURS))].concat()
}

/// Whether a table that the kernel described says that it is ours. Kernels before 5.10 do not keep that.
pub(super) fn says_ours(payload: &[u8]) -> bool {
    let comment = |(kind, value)| (kind == 6).then(|| read_comment(value)).flatten();
    let mut known = attributes(payload.get(4..).unwrap_or_default()).map_while(Result::ok);
    known.find_map(comment).is_some_and(|comment| comment == OURS)
}

/// Attributes that ask for the rules of our table (`NFTA_RULE_TABLE`).
pub(super) fn rules_of_table() -> Vec<u8> {
    string(1, TABLE)
}

/// Attributes of a new chain.
pub(super) fn new_chain(chain: Chain) -> Vec<u8> {
    // NFTA_CHAIN_TABLE, _NAME
    let named = [string(1, TABLE), string(3, &chain.name())].concat();
    let Some(Hook { number, priority, kind }) = chain.hook() else { return named };
    // NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY
    let hook = [be32(1, number), be32(2, priority.cast_unsigned())].concat();
    // NFTA_CHAIN_HOOK, _TYPE
    [named, nest(4, &hook), string(7, kind)].concat()
}

/// Attributes of a new rule.
pub(super) fn new_rule(rule: &Rule) -> Vec<u8> {
    // NFTA_LIST_ELEM
    let expressions: Vec<u8> = rule.expressions.iter().flat_map(|e| nest(1, &expression(e))).collect();
    // NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS, _USERDATA
    let data = attribute(7, &user_data(&rule.comment));
    [string(1, TABLE), string(2, &rule.chain.name()), nest(4, &expressions), data].concat()
}

/// Chain and comment of a rule of our table that the kernel described; none if it is of another.
pub(super) fn read_rule(payload: &[u8]) -> Option<(String, String)> {
    let (mut table, mut chain, mut comment) = (String::new(), String::new(), String::new());
    for attribute in attributes(payload.get(4..)?) {
        match attribute.ok()? {
            (1, value) => table = text(value).ok()?,
            (2, value) => chain = text(value).ok()?,
            (7, value) => comment = read_comment(value).unwrap_or_default(),
            _ => {}
        }
    }
    (table == TABLE).then_some((chain, comment))
}

/// Attributes that ask for the connections with a mark.
pub(super) fn connections_of(mark: Mark) -> Vec<u8> {
    [be32(CTA_MARK, mark.value), be32(CTA_MARK_MASK, mark.mask)].concat()
}

/// Attributes that take these bits off the connection that the kernel described.
pub(super) fn unmarked_connection(payload: &[u8], bits: u32) -> Option<Vec<u8>> {
    let (mut ends, mut zone) = (None, Vec::new());
    for known in attributes(payload.get(4..)?) {
        match known.ok()? {
            (CTA_TUPLE_ORIG, value) => ends = Some(nest(CTA_TUPLE_ORIG, value)),
            (CTA_ZONE, value) => zone = attribute(CTA_ZONE, value),
            _ => {}
        }
    }
    Some([ends?, zone, be32(CTA_MARK, 0), be32(CTA_MARK_MASK, bits)].concat())
}

/// Who made the transaction that a message of a new generation tells of.
pub(super) fn read_author(payload: &[u8]) -> Option<Program> {
    let (mut process, mut name) = (None, None);
    for attribute in attributes(payload.get(4..)?) {
        match attribute.ok()? {
            // NFTA_GEN_PROC_PID, in the machine's first namespace, and NFTA_GEN_PROC_NAME
            (2, value) => process = Some(u32::from_be_bytes(value.try_into().ok()?)),
            (3, value) => name = text(value).ok(),
            _ => {}
        }
    }
    let printable = |name: String| name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    Some(Program { process: process?, name: name.map(printable) })
}

fn user_data(comment: &str) -> Vec<u8> {
    let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
    [&[COMMENT, length], comment.as_bytes(), &[0]].concat()
}

fn read_comment(data: &[u8]) -> Option<String> {
    let (&[kind, length], rest) = data.split_first_chunk::<2>()?;
    (kind == COMMENT).then(|| text(rest.get(..usize::from(length))?).ok()).flatten()
}

/// NFTA_EXPR_NAME and NFTA_EXPR_DATA.
fn expression(expression: &Expression) -> Vec<u8> {
    let register = |kind| be32(kind, REGISTER);
    let (name, data) = match expression {
        // NFTA_META_DREG, _KEY
        Expression::LoadMeta(key) => ("meta", [register(1), be32(2, *key)].concat()),
        // NFTA_META_KEY, _SREG
        Expression::SetMeta(key) => ("meta", [be32(2, *key), register(3)].concat()),
        // NFTA_CT_DREG, _KEY
        Expression::LoadConnection(key) => ("ct", [register(1), be32(2, *key)].concat()),
        // NFTA_CT_KEY, _SREG
        Expression::SetConnection(key) => ("ct", [be32(2, *key), register(4)].concat()),
        // NFTA_CMP_SREG, _OP, _DATA
        Expression::Compare { equal, bytes } => {
            ("cmp", [register(1), be32(2, u32::from(!equal)), nest(3, &attribute(1, bytes))].concat())
        }
        // NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR
        Expression::Bits { keep, flip } => {
            let value = |kind, number: u32| nest(kind, &attribute(1, &number.to_ne_bytes()));
            let bits = [register(1), register(2), be32(3, 4), value(4, *keep), value(5, *flip)];
            ("bitwise", bits.concat())
        }
        // NFTA_VERDICT_CODE, _CHAIN
        Expression::Return => ("immediate", verdict(&be32(1, RETURN.cast_unsigned()))),
        Expression::Goto(chain) => {
            let to = [be32(1, GOTO.cast_unsigned()), string(2, &chain.name())].concat();
            ("immediate", verdict(&to))
        }
    };
    [string(1, name), nest(2, &data)].concat()
}

/// NFTA_IMMEDIATE_DREG, _DATA { NFTA_DATA_VERDICT }
fn verdict(what: &[u8]) -> Vec<u8> {
    [be32(1, REGISTER_OF_VERDICT), nest(2, &nest(2, what))].concat()
}

/// The value with which packets of an interface are compared.
pub(super) fn interface(link: LinkIndex) -> Vec<u8> {
    link.0.to_ne_bytes().to_vec()
}

fn be32(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn string(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn nest(kind: u16, inner: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, inner)
}

/// `struct nlattr` with its value, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
