//! What our table consists of: three chains that packets come by, and some that only few of them see.
//!
//! - `in`, before packets are routed, behind the translation of destinations: a packet of the question
//!   that comes in by an uplink gives its connection the uplink's mark. Whatever else comes in, from a pod
//!   say, and belongs to such a connection, is marked as the connection is.
//! - `out`, for what the host itself sends, which is routed anew when its mark changes: the same.
//! - `end`, when a packet has been routed: the mark has done its work and goes, lest a tunnel that carries
//!   the packet on be routed by it.
//!
//! Each step costs every packet of the host some nanoseconds, and each chain of the kernel's, or a way to
//! another chain, some more. Most packets are to leave after few: what only questions need stands in a chain
//! for each uplink (`question-IFINDEX`), and what only packets with a mark need at the end in one (`unmark`).
//! For answers that does not pay: most of what has a mark is one, and there are few uplinks.
//!
//! What somebody else marked is his: a connection with any other bit is not marked, a packet with any of
//! our bits is not, and a socket's packet with any mark is not (a VPN's, which would be led into itself).
//! A mark goes only from a packet whose connection has the same one.
//!
//! An answer of a connection of others whose destination is translated has the listener's address, which may
//! be another uplink's: it gets the mark by which packets are routed as without us.

use uplink_core::marks::{Check, Marked, OwnMarks, as_without_us};
use uplink_core::snapshot::{Family, LinkIndex, Mark};

use super::wire;

/// Keys of what a packet is (`linux/netfilter/nf_tables.h`).
const META_MARK: u32 = 3;
const META_INTERFACE_IN: u32 = 4;
const META_INTERFACE_OUT: u32 = 5;
/// Keys of what its connection is.
const CONNECTION_DIRECTION: u32 = 1;
const CONNECTION_STATUS: u32 = 2;
const CONNECTION_MARK: u32 = 3;

/// The direction of the question (`IP_CT_DIR_ORIGINAL`), and of the answer (`IP_CT_DIR_REPLY`).
const ORIGINAL: u8 = 0;
const REPLY: u8 = 1;

/// The destination is translated (`IPS_DST_NAT`, `linux/netfilter/nf_conntrack_common.h`).
const TRANSLATED: u32 = 1 << 5;

/// What every comment of ours begins with, and the whole of the table's.
pub(super) const OURS: &str = "uplinkd";

/// A chain of our table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chain {
    /// Before packets are routed.
    In,
    /// What the host sends.
    Out,
    /// What has been routed.
    End,
    /// Packets of the question that came in by this uplink.
    Question(LinkIndex),
    /// Packets with a mark that have been routed.
    Unmark,
}

/// Where the kernel hands packets to a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hook {
    /// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`, `NF_INET_POST_ROUTING` (`linux/netfilter.h`).
    pub(super) number: u32,
    /// -100 is where destinations are translated, -150 where packets are marked
    /// (`linux/netfilter_ipv4.h`).
    pub(super) priority: i32,
    /// What kind of chain it takes.
    pub(super) kind: &'static str,
}

impl Chain {
    pub(super) fn name(self) -> String {
        match self {
            Self::In => "in".to_owned(),
            Self::Out => "out".to_owned(),
            Self::End => "end".to_owned(),
            Self::Question(link) => format!("question-{}", link.0),
            Self::Unmark => "unmark".to_owned(),
        }
    }

    /// None for a chain that packets only come to from others.
    pub(super) const fn hook(self) -> Option<Hook> {
        match self {
            Self::In => Some(Hook { number: 0, priority: -90, kind: "filter" }),
            Self::Out => Some(Hook { number: 3, priority: -150, kind: "route" }),
            Self::End => Some(Hook { number: 4, priority: -150, kind: "filter" }),
            Self::Question(_) | Self::Unmark => None,
        }
    }
}

/// A rule of our table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    /// Its chain.
    pub(super) chain: Chain,
    /// What people see of it, and what we know it by.
    pub(super) comment: String,
    /// What it does.
    pub(super) expressions: Vec<Expression>,
}

/// A step of a rule. All work on one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expression {
    /// Load what the packet is.
    LoadMeta(u32),
    /// Set that.
    SetMeta(u32),
    /// Load what its connection is.
    LoadConnection(u32),
    /// Set that.
    SetConnection(u32),
    /// Go on only if the register has these bytes, or has others.
    Compare {
        /// These.
        equal: bool,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Keep these bits, then flip those.
    Bits {
        /// Kept.
        keep: u32,
        /// Flipped.
        flip: u32,
    },
    /// Leave the chain.
    Return,
    /// Go on with that chain, and not with this one.
    Goto(Chain),
}

/// All chains, in the order in which they are made, by which the kernel tells of their rules.
pub(super) fn chains(marks: &OwnMarks) -> Vec<Chain> {
    let questions = marks.uplinks.iter().map(|marked| Chain::Question(marked.link));
    let first = [Chain::In, Chain::Out, Chain::End];
    first.into_iter().chain(questions).chain([Chain::Unmark]).collect()
}

/// All rules, chain by chain, in their order. Who changes what one does changes its comment: by that an
/// older process's table is told from ours.
pub(super) fn rules(marks: &OwnMarks) -> Vec<Rule> {
    let uplinks = &marks.uplinks;
    uplinks
        .iter()
        .flat_map(came_in)
        .chain(uplinks.iter().map(answer))
        .chain(uplinks.iter().map(sent))
        .chain(marks.bits().map(sent_of_others))
        .chain(marks.bits().map(routed))
        .chain(uplinks.iter().flat_map(question))
        .chain(uplinks.iter().map(unmark))
        .chain(marks.bits().map(unmark_of_others))
        .collect()
}

/// The table that consists of these rules (chain and comment of each); none if neither the table itself nor a
/// rule says that it is ours.
pub(super) fn read(family: Family, says_ours: bool, rules: &[(String, String)]) -> Option<OwnMarks> {
    if !says_ours && !rules.iter().any(|(_, comment)| comment.starts_with(OURS)) {
        return None;
    }
    let uplinks = rules.iter().filter_map(|(_, comment)| read_comment(comment)).collect();
    let mut marks = OwnMarks { family, uplinks, intact: false };
    let expected = self::rules(&marks).into_iter().map(|rule| (rule.chain.name(), rule.comment));
    marks.intact = rules.iter().cloned().eq(expected);
    Some(marks)
}

/// `in`: what is a packet of the question goes to the chain for those.
///
/// Another that comes in by an uplink with a strict check may be the answer to a question that was sent on by
/// it without a mark: with one, the check would ask for the way of the first uplink, and drop it. It is
/// routed as ever. Where the destination was translated the question had the mark, and the answer comes from
/// where that leads.
fn came_in(marked: &Marked) -> Vec<Rule> {
    let Marked { link, mark: _, check } = *marked;
    let rule = |comment, rest: Vec<Expression>| {
        let by_uplink = vec![
            Expression::LoadMeta(META_INTERFACE_IN),
            Expression::Compare { equal: true, bytes: wire::interface(link) },
        ];
        Rule { chain: Chain::In, comment, expressions: [by_uplink, rest].concat() }
    };
    let is_question = vec![
        Expression::LoadConnection(CONNECTION_DIRECTION),
        Expression::Compare { equal: true, bytes: vec![ORIGINAL] },
        Expression::Goto(Chain::Question(link)),
    ];
    let from_beyond = (check != Check::No).then(|| {
        let comment = format!("{OURS}: nor is an answer marked that passes the strict check as ever");
        rule(comment, [translated(false), vec![Expression::Return]].concat())
    });
    [Some(rule(comment(marked), is_question)), from_beyond].into_iter().flatten().collect()
}

/// `in`: another packet of a connection that came in by an uplink gets its mark.
fn answer(marked: &Marked) -> Rule {
    let mark = marked.mark;
    let expressions = [connection_is(mark), unmarked(mark.mask), set(mark)].concat();
    Rule { chain: Chain::In, comment: format!("{OURS}: answers of mark {mark}"), expressions }
}

/// `out`: a packet of a connection that came in by an uplink gets its mark. It has been routed once: if it
/// leaves by that uplink already, it need not be routed anew, which costs most of all this. The connection
/// is looked at first, because most have no mark.
fn sent(marked: &Marked) -> Rule {
    let leaves_elsewhere = vec![
        Expression::LoadMeta(META_INTERFACE_OUT),
        Expression::Compare { equal: false, bytes: wire::interface(marked.link) },
    ];
    let mark = marked.mark;
    let expressions = [connection_is(mark), leaves_elsewhere, unmarked(u32::MAX), set(mark)].concat();
    let comment = format!("{OURS}: answers of mark {mark} that would leave elsewhere");
    Rule { chain: Chain::Out, comment, expressions }
}

/// `out`: an answer of a connection of others, whose source is not the address that was asked, is routed as
/// without us. The connection is looked at first, because few are marked by others.
fn sent_of_others(bits: u32) -> Rule {
    let is_answer = vec![
        Expression::LoadConnection(CONNECTION_DIRECTION),
        Expression::Compare { equal: true, bytes: vec![REPLY] },
    ];
    let expressions =
        [of_others(bits), translated(true), is_answer, unmarked(u32::MAX), set(as_without_us(bits))].concat();
    let comment = format!("{OURS}: translated answers that others mark get mark {}", as_without_us(bits));
    Rule { chain: Chain::Out, comment, expressions }
}

/// `end`: what has a mark goes to the chain for that.
fn routed(bits: u32) -> Rule {
    let has_mark = vec![
        Expression::LoadMeta(META_MARK),
        Expression::Bits { keep: bits, flip: 0 },
        Expression::Compare { equal: false, bytes: bytes(0) },
        Expression::Goto(Chain::Unmark),
    ];
    Rule { chain: Chain::End, comment: format!("{OURS}: the way is found"), expressions: has_mark }
}

/// `question-IFINDEX`: the connection gets the uplink's mark. A question that is sent on gets none itself,
/// and is routed as ever; but where a strict reverse-path check looks at the mark, one with a translated
/// destination needs it.
fn question(marked: &Marked) -> Vec<Rule> {
    let Marked { link, mark, check } = *marked;
    let rule = |comment, expressions: Vec<Vec<Expression>>| Rule {
        chain: Chain::Question(link),
        comment,
        expressions: expressions.concat(),
    };
    let has_another = vec![
        Expression::LoadConnection(CONNECTION_MARK),
        Expression::Bits { keep: mark.mask, flip: 0 },
        Expression::Compare { equal: false, bytes: bytes(mark.value) },
    ];
    let of_nobody = connection_is(Mark { value: 0, mask: !mark.mask });
    let give = vec![
        Expression::LoadConnection(CONNECTION_MARK),
        Expression::Bits { keep: !mark.mask, flip: mark.value },
        Expression::SetConnection(CONNECTION_MARK),
    ];
    let first = rule(format!("{OURS}: unless it is marked by others"), vec![has_another, of_nobody, give]);
    let checked = (check != Check::No).then(|| {
        let needed = vec![translated(true), connection_is(mark), unmarked(mark.mask), set(mark)];
        rule(format!("{OURS}: for the strict reverse-path check"), needed)
    });
    let checked_of_others = (check != Check::No).then(|| {
        let mark = as_without_us(mark.mask);
        let needed = vec![of_others(mark.mask), translated(true), unmarked(mark.mask), set(mark)];
        rule(format!("{OURS}: for the strict reverse-path check, if others mark it"), needed)
    });
    [Some(first), checked, checked_of_others].into_iter().flatten().collect()
}

/// `unmark`: takes the mark off.
fn unmark(marked: &Marked) -> Rule {
    let mark = marked.mark;
    let is_set = vec![
        Expression::LoadMeta(META_MARK),
        Expression::Bits { keep: mark.mask, flip: 0 },
        Expression::Compare { equal: true, bytes: bytes(mark.value) },
    ];
    let comment = format!("{OURS}: mark {mark} goes when the way is found");
    let expressions = [is_set, connection_is(mark), set(Mark { value: 0, ..mark })].concat();
    Rule { chain: Chain::Unmark, comment, expressions }
}

/// `unmark`: takes off what an answer of a connection of others got, or its question.
fn unmark_of_others(bits: u32) -> Rule {
    let mark = as_without_us(bits);
    let is_set = vec![
        Expression::LoadMeta(META_MARK),
        Expression::Bits { keep: bits, flip: 0 },
        Expression::Compare { equal: true, bytes: bytes(mark.value) },
    ];
    let comment = format!("{OURS}: mark {mark} goes when the way is found");
    let expressions = [is_set, of_others(bits), translated(true), set(Mark { value: 0, ..mark })].concat();
    Rule { chain: Chain::Unmark, comment, expressions }
}

/// Goes on only if the connection has bits of others and none of ours.
fn of_others(bits: u32) -> Vec<Expression> {
    let any = vec![
        Expression::LoadConnection(CONNECTION_MARK),
        Expression::Bits { keep: !bits, flip: 0 },
        Expression::Compare { equal: false, bytes: bytes(0) },
    ];
    [any, connection_is(Mark { value: 0, mask: bits })].concat()
}

/// Goes on only if these bits of the connection's mark are so.
fn connection_is(mark: Mark) -> Vec<Expression> {
    vec![
        Expression::LoadConnection(CONNECTION_MARK),
        Expression::Bits { keep: mark.mask, flip: 0 },
        Expression::Compare { equal: true, bytes: bytes(mark.value) },
    ]
}

/// Goes on only if none of these bits of the packet's mark are set.
fn unmarked(bits: u32) -> Vec<Expression> {
    vec![
        Expression::LoadMeta(META_MARK),
        Expression::Bits { keep: bits, flip: 0 },
        Expression::Compare { equal: true, bytes: bytes(0) },
    ]
}

/// Goes on only if the destination is translated, or is not.
fn translated(is: bool) -> Vec<Expression> {
    vec![
        Expression::LoadConnection(CONNECTION_STATUS),
        Expression::Bits { keep: TRANSLATED, flip: 0 },
        Expression::Compare { equal: !is, bytes: bytes(0) },
    ]
}

fn bytes(number: u32) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}

/// Gives the packet this mark, and leaves its other bits.
fn set(mark: Mark) -> Vec<Expression> {
    vec![
        Expression::LoadMeta(META_MARK),
        Expression::Bits { keep: !mark.mask, flip: mark.value },
        Expression::SetMeta(META_MARK),
    ]
}

/// Says of an uplink all that must be read back.
fn comment(marked: &Marked) -> String {
    let Marked { link, mark, check } = marked;
    let check = match check {
        Check::No => "",
        Check::Marked => ", checked strictly",
        Check::MarkedByUs => ", checked strictly, src_valid_mark set by us",
    };
    format!("{OURS}: questions by ifindex {} get mark {mark}{check}", link.0)
}

fn read_comment(text: &str) -> Option<Marked> {
    let rest = text.strip_prefix(OURS)?.strip_prefix(": questions by ifindex ")?;
    let (link, rest) = rest.split_once(" get mark ")?;
    let (mark, check) = rest.split_once(", ").unwrap_or((rest, ""));
    let (value, mask) = mark.split_once('/')?;
    let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let marked = Marked {
        link: LinkIndex(link.parse().ok()?),
        mark: Mark { value: number(value)?, mask: number(mask)? },
        check: match check {
            "" => Check::No,
            "checked strictly" => Check::Marked,
            "checked strictly, src_valid_mark set by us" => Check::MarkedByUs,
            _ => return None,
        },
    };
    // What we did not write, we do not read.
    (comment(&marked) == text).then_some(marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(checks: &[Check]) -> OwnMarks {
        let uplinks = (1..).zip(checks).map(|(number, check)| {
            let mark = Mark { value: number, mask: 0x1f };
            Marked { link: LinkIndex(number + 10), mark, check: *check }
        });
        OwnMarks { family: Family::Ipv4, uplinks: uplinks.collect(), intact: true }
    }

    fn described(marks: &OwnMarks) -> Vec<(String, String)> {
        rules(marks).into_iter().map(|rule| (rule.chain.name(), rule.comment)).collect()
    }

    #[test]
    fn what_is_laid_is_read_back() {
        for checks in [&[][..], &[Check::No], &[Check::MarkedByUs, Check::No, Check::Marked]] {
            let marks = marks(checks);
            assert_eq!(read(Family::Ipv4, true, &described(&marks)), Some(marks));
        }
    }

    #[test]
    fn whatever_is_missing_or_added_shows() {
        let whole = described(&marks(&[Check::No, Check::MarkedByUs]));
        for missing in 0..whole.len() {
            let mut rules = whole.clone();
            rules.remove(missing);
            assert!(!read(Family::Ipv4, false, &rules).unwrap().intact, "without {missing}");
        }
        let mut more = whole;
        more.push(("in".to_owned(), String::new()));
        assert!(!read(Family::Ipv4, false, &more).unwrap().intact);
        assert_eq!(read(Family::Ipv4, true, &[]).unwrap().uplinks, [], "flushed");
    }

    #[test]
    fn a_table_of_an_earlier_form_is_read_and_not_intact() {
        let marks = marks(&[Check::MarkedByUs]);
        let earlier = [
            (
                "in",
                "uplinkd: questions by ifindex 11 get mark 0x1/0x1f, checked strictly, src_valid_mark set by us",
            ),
            ("in", "uplinkd: a question is routed as ever"),
            ("in", "uplinkd: answers of mark 0x1/0x1f"),
            ("out", "uplinkd: answers of mark 0x1/0x1f"),
            ("end", "uplinkd: mark 0x1/0x1f goes when the way is found"),
        ];
        let earlier = earlier.map(|(chain, comment)| (chain.to_owned(), comment.to_owned()));
        let read = read(Family::Ipv4, true, &earlier);
        assert_eq!(read, Some(OwnMarks { intact: false, ..marks }), "whose src_valid_mark is known");
    }

    #[test]
    fn a_table_of_somebody_else_is_not_ours() {
        assert_eq!(read(Family::Ipv4, false, &[("in".to_owned(), "mine".to_owned())]), None);
        assert_eq!(read(Family::Ipv4, false, &[]), None, "it may have chains with a policy, and sets");
    }

    #[test]
    fn a_comment_that_we_would_not_write_is_not_read() {
        for text in [
            "uplinkd: questions by ifindex 4 get mark 0x01/0x1f",
            "uplinkd: questions by ifindex 4 get mark 0x1/0x1f, by the way",
            "questions by ifindex 4 get mark 0x1/0x1f",
        ] {
            assert_eq!(read_comment(text), None, "{text}");
        }
    }
}
