//! What our table consists of: three chains.
//!
//! - `in`, before packets are routed, behind the translation of destinations: a packet of the question
//!   that comes in by an uplink gives its connection the uplink's mark. Whatever else comes in, from a pod
//!   say, and belongs to such a connection, is marked as the connection is.
//! - `out`, for what the host itself sends, which is routed anew when its mark changes: the same.
//! - `end`, when a packet has been routed: the mark has done its work and goes, lest a tunnel that carries
//!   the packet on be routed by it.
//!
//! What somebody else marked is his: a connection with any other bit is not marked, a packet with any of
//! our bits is not, and a socket's packet with any mark is not (a VPN's, which would be led into itself).
//! A mark goes only from a packet whose connection has the same one.

use uplink_core::marks::{Check, Marked, OwnMarks};
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

/// The direction of the question (`IP_CT_DIR_ORIGINAL`).
const ORIGINAL: u8 = 0;

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
}

impl Chain {
    pub(super) const ALL: [Self; 3] = [Self::In, Self::Out, Self::End];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
            Self::End => "end",
        }
    }

    /// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`, `NF_INET_POST_ROUTING` (`linux/netfilter.h`).
    pub(super) const fn hook(self) -> u32 {
        match self {
            Self::In => 0,
            Self::Out => 3,
            Self::End => 4,
        }
    }

    /// -100 is where destinations are translated, -150 where packets are marked
    /// (`linux/netfilter_ipv4.h`).
    pub(super) const fn priority(self) -> i32 {
        match self {
            Self::In => -90,
            Self::Out | Self::End => -150,
        }
    }

    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Out => "route",
            Self::In | Self::End => "filter",
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
}

/// All rules, chain by chain, in their order. Who changes what one does changes its comment: by that an
/// older process's table is told from ours.
pub(super) fn rules(marks: &OwnMarks) -> Vec<Rule> {
    let questions = marks.uplinks.iter().flat_map(question);
    let answers = |chain| marks.uplinks.iter().map(move |marked| answer(chain, marked));
    let ends = marks.uplinks.iter().map(end);
    questions.chain(answers(Chain::In)).chain(answers(Chain::Out)).chain(ends).collect()
}

/// The table that consists of these rules (chain and comment of each); none if neither the table itself nor a
/// rule says that it is ours.
pub(super) fn read(family: Family, says_ours: bool, rules: &[(String, String)]) -> Option<OwnMarks> {
    if !says_ours && !rules.iter().any(|(_, comment)| comment.starts_with(OURS)) {
        return None;
    }
    let uplinks = rules.iter().filter_map(|(_, comment)| read_comment(comment)).collect();
    let mut marks = OwnMarks { family, uplinks, intact: false };
    let expected = self::rules(&marks).into_iter().map(|rule| (rule.chain.name().to_owned(), rule.comment));
    marks.intact = rules.iter().cloned().eq(expected);
    Some(marks)
}

/// A packet of the question: its connection gets the uplink's mark. A question that is sent on gets none
/// itself, and is routed as ever; but where a strict reverse-path check looks at the mark, one with a
/// translated destination needs it.
fn question(marked: &Marked) -> Vec<Rule> {
    let Marked { link, mark, check } = *marked;
    let rule = |comment, rest: Vec<Expression>| Rule {
        chain: Chain::In,
        comment,
        expressions: [came_in_by(link), rest].concat(),
    };
    let of_nobody = connection_is(Mark { value: 0, mask: !mark.mask });
    let others = vec![
        Expression::LoadConnection(CONNECTION_MARK),
        Expression::Bits { keep: mark.mask, flip: 0 },
        Expression::Compare { equal: false, bytes: bytes(mark.value) },
        Expression::LoadConnection(CONNECTION_MARK),
        Expression::Bits { keep: !mark.mask, flip: mark.value },
        Expression::SetConnection(CONNECTION_MARK),
    ];
    let others = [of_nobody, others].concat();
    let translated = vec![
        Expression::LoadConnection(CONNECTION_STATUS),
        Expression::Bits { keep: TRANSLATED, flip: 0 },
        Expression::Compare { equal: false, bytes: bytes(0) },
    ];
    let checked = (check != Check::No).then(|| {
        let marked = [translated, connection_is(mark), unmarked(mark.mask), set(mark)];
        rule(format!("{OURS}: for the strict reverse-path check"), marked.concat())
    });
    let first = rule(comment(marked), others);
    let last = rule(format!("{OURS}: a question is routed as ever"), vec![Expression::Return]);
    let passed_on = (check != Check::No).then(|| answer_from_beyond(link));
    [Some(first), checked, Some(last), passed_on].into_iter().flatten().collect()
}

/// The question was sent on by another uplink without a mark, so the answer comes in by that: with a mark,
/// a strict check would ask for the way of the first uplink, and drop it. It is routed as ever. Where the
/// destination was translated the question had the mark, and the answer comes from where that leads.
fn answer_from_beyond(link: LinkIndex) -> Rule {
    let untranslated = [
        Expression::LoadConnection(CONNECTION_STATUS),
        Expression::Bits { keep: TRANSLATED, flip: 0 },
        Expression::Compare { equal: true, bytes: bytes(0) },
        Expression::Return,
    ];
    let comment = format!("{OURS}: nor is an answer marked that passes the strict check as ever");
    Rule { chain: Chain::In, comment, expressions: [by_interface(link), untranslated.to_vec()].concat() }
}

/// A packet of a connection that came in by an uplink gets its mark. What the host sends has been routed
/// once: if it leaves by that uplink already, it need not be routed anew, which costs most of all this.
fn answer(chain: Chain, marked: &Marked) -> Rule {
    let Marked { link, mark, check: _ } = *marked;
    let (astray, by_others) = match chain {
        Chain::Out => {
            let leaves = vec![
                Expression::LoadMeta(META_INTERFACE_OUT),
                Expression::Compare { equal: false, bytes: wire::interface(link) },
            ];
            (leaves, u32::MAX)
        }
        Chain::In | Chain::End => (Vec::new(), mark.mask),
    };
    let comment = format!("{OURS}: answers of mark {mark}");
    let expressions = [astray, connection_is(mark), unmarked(by_others), set(mark)].concat();
    Rule { chain, comment, expressions }
}

/// Takes the mark off.
fn end(marked: &Marked) -> Rule {
    let mark = marked.mark;
    let is_set = vec![
        Expression::LoadMeta(META_MARK),
        Expression::Bits { keep: mark.mask, flip: 0 },
        Expression::Compare { equal: true, bytes: bytes(mark.value) },
    ];
    let comment = format!("{OURS}: mark {mark} goes when the way is found");
    let expressions = [is_set, connection_is(mark), set(Mark { value: 0, ..mark })].concat();
    Rule { chain: Chain::End, comment, expressions }
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

fn bytes(number: u32) -> Vec<u8> {
    number.to_ne_bytes().to_vec()
}

fn came_in_by(link: LinkIndex) -> Vec<Expression> {
    let is_question = vec![
        Expression::LoadConnection(CONNECTION_DIRECTION),
        Expression::Compare { equal: true, bytes: vec![ORIGINAL] },
    ];
    [by_interface(link), is_question].concat()
}

fn by_interface(link: LinkIndex) -> Vec<Expression> {
    vec![
        Expression::LoadMeta(META_INTERFACE_IN),
        Expression::Compare { equal: true, bytes: wire::interface(link) },
    ]
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
        rules(marks).into_iter().map(|rule| (rule.chain.name().to_owned(), rule.comment)).collect()
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
