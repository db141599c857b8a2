//! The plan of path rules alone, from any state to what is wanted.

use proptest::collection::vec;
use proptest::prelude::{Strategy, any};
use proptest::sample::select;
use proptest::{prop_assert, prop_assert_eq, proptest};
use uplink_core::event::Outcome;
use uplink_core::marks::{Check, Marked, OwnMarks, as_without_us};
use uplink_core::own::{Lookup, Op, OwnRule, RuleForm};
use uplink_core::paths::{PathWay, sources};
use uplink_core::plan::plan;
use uplink_core::policy::{PathRules, Policy};
use uplink_core::snapshot::{Attributes, Family, LinkIndex, Mark, Prefix};

use super::config;
use crate::sim::kernel::Kernel;
use crate::sim::lookup::Packet;
use crate::sim::site::{MGMT, PORT, default_route, worker};

/// Rules and a table of ours, as somebody may have left them.
#[derive(Debug, Clone)]
struct Left {
    rules: Vec<RuleForm>,
    table: Option<(Vec<Marked>, bool)>,
}

fn link() -> impl Strategy<Value = LinkIndex> {
    select(vec![PORT, MGMT, LinkIndex(9)])
}

fn mark() -> impl Strategy<Value = Mark> {
    (1u32..4, select(vec![0x1f, 0xff])).prop_map(|(value, mask)| Mark { value, mask })
}

fn rule() -> impl Strategy<Value = RuleForm> {
    let to = (link(), any::<bool>())
        .prop_map(|(link, main)| if main { Lookup::MainWithoutDefault } else { Lookup::Uplink(link) });
    (to, mark(), 1u8..3, 0..4).prop_map(|(to, mark, from, form)| {
        let all = as_without_us(mark.mask);
        match form {
            0 => RuleForm::Connection { mark, to },
            1 => RuleForm::Past { mark: all },
            2 => RuleForm::Landing { mark: all },
            _ => RuleForm::Source { from: Prefix::host([10, 0, from, 11].into()), to },
        }
    })
}

fn left() -> impl Strategy<Value = Left> {
    let check = select(vec![Check::No, Check::Marked, Check::MarkedByUs]);
    let marked = (link(), mark(), check).prop_map(|(link, mark, check)| Marked { link, mark, check });
    let table = proptest::option::of((vec(marked, 0..3), any::<bool>()));
    (vec(rule(), 0..8), table).prop_map(|(rules, table)| Left { rules, table })
}

fn kernel(left: &Left, strict: bool) -> Kernel {
    let mut kernel = worker().kernel;
    (kernel.tracked, kernel.rp_filter) = (true, u32::from(strict));
    for form in &left.rules {
        let _ = kernel.carry_out(&Op::AddRule(OwnRule::new(Family::Ipv4, *form)));
    }
    if let Some((marked, intact)) = &left.table {
        // No two links have one mark, nor does one link have two.
        let mut uplinks: Vec<Marked> = Vec::new();
        for one in marked {
            if uplinks.iter().all(|other| other.link != one.link && other.mark.value != one.mark.value) {
                uplinks.push(*one);
            }
        }
        for one in &uplinks {
            let set = one.check == Check::MarkedByUs;
            kernel.links.get_mut(&one.link).into_iter().for_each(|link| link.src_valid_mark = set);
        }
        kernel.tables.push(OwnMarks { family: Family::Ipv4, uplinks, intact: *intact });
    }
    kernel
}

proptest! {
    #![proptest_config(config(2048))]

    /// Whatever was left: no operation fails or touches what is not ours, no source rule is added before
    /// connections are marked, a second plan finds nothing to do, and packets go where they should.
    #[test]
    fn leads_path_rules_from_any_state(left in left(), strict in any::<bool>(), on in any::<bool>(), links in vec(select(vec![PORT, MGMT]), 0..3)) {
        let mut kernel = kernel(&left, strict);
        let mut ways: Vec<PathWay> = Vec::new();
        for link in links {
            let way = PathWay {
                hop: default_route(link, Family::Ipv4).hops[0].clone(),
                attributes: Attributes::default(),
                sources: sources(&kernel.snapshot(), link, Family::Ipv4),
                keep_only: false,
                check_set: false,
            };
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        let path_rules = if on { PathRules::On(0x1f) } else { PathRules::Off };
        if !on {
            ways.clear();
        }
        let policy = Policy { path_rules, ..Policy::default() };
        let planned = plan(&kernel.snapshot(), &policy, Family::Ipv4, None, &[], &ways);
        for op in planned.ways.iter().chain(&planned.paths) {
            let before = kernel.clone();
            prop_assert_eq!(kernel.carry_out(op), Outcome::Done, "{}", op);
            prop_assert_eq!(before.foreign(), kernel.foreign());
            if let Op::AddRule(rule) = op && let RuleForm::Source { to: Lookup::Uplink(link), .. } = rule.form() {
                prop_assert!(kernel.tables.iter().any(|table| table.of(link).is_some()), "{} comes too soon", op);
            }
        }
        let again = plan(&kernel.snapshot(), &policy, Family::Ipv4, None, &[], &ways);
        prop_assert_eq!((again.ways, again.paths), (Vec::new(), Vec::new()));
        for way in &ways {
            let to = [198, 51, 100, 7].into();
            let marked = kernel.tables[0].of(way.hop.link).copied().expect("it is marked");
            let by_mark = kernel.lookup(Packet { to, from: None, mark: marked.mark.value, bound: None });
            prop_assert_eq!(by_mark, Ok(way.hop.clone()));
            let from = Some(way.sources[0].address);
            prop_assert_eq!(kernel.lookup(Packet { to, from, mark: 0, bound: None }), Ok(way.hop.clone()));
            let as_without_us = Packet { to, from, mark: 0x1f, bound: None };
            prop_assert_eq!(kernel.lookup(as_without_us).ok(), kernel.default_way(Family::Ipv4).ok());
            prop_assert_eq!(kernel.links[&way.hop.link].src_valid_mark, strict);
        }
        if ways.is_empty() {
            prop_assert!(!kernel.has_ours());
            prop_assert!(kernel.links.values().all(|link| !link.src_valid_mark));
        }
    }
}
