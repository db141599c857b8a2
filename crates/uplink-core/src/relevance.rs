//! Which interfaces can matter to the decision. All others are bystanders: the pods of a big host above
//! all, which come and go by the thousand.

use std::collections::BTreeSet;

use crate::discover::{is_dpu_port, is_match};
use crate::policy::{Match, Policy};
use crate::snapshot::{Address, Link, LinkIndex, LinkKind, Snapshot};

/// Tells what matters from what does not, by the policy and by what stands on the host.
#[derive(Debug, Clone, Default)]
pub struct Relevance {
    named: Vec<Match>,
    /// The interfaces that matter. One that ever did does until it is gone: it may be elected, or be
    /// remembered, without anything left in the kernel's tables to tell.
    links: BTreeSet<LinkIndex>,
}

impl Relevance {
    /// From now on these uplinks are named.
    pub fn set_policy(&mut self, policy: &Policy) {
        self.named = policy.uplinks.iter().map(|uplink| uplink.matching.clone()).collect();
    }

    /// Whether it matters what an interface is, that it comes or that it goes. What else makes one matter
    /// matters itself: a route through it, an interface enslaved to it.
    #[must_use]
    pub fn of_link(&self, link: &Link) -> bool {
        self.links.contains(&link.index)
            || link.kind == LinkKind::Loopback
            || link.pci.as_ref().is_some_and(is_dpu_port)
            || self.named.iter().any(|matching| is_match(matching, link))
    }

    /// Whether it matters what else is said of the interface with this number.
    #[must_use]
    pub fn of_index(&self, index: LinkIndex) -> bool {
        self.links.contains(&index)
    }

    /// Whether an address matters. A route may prefer one of another interface as its source, one that
    /// stands twice has no path rules, and none is a gateway; all can be of wider scope than a link only.
    #[must_use]
    pub fn of_address(&self, address: &Address) -> bool {
        self.links.contains(&address.link) || !address.link_local
    }

    /// What matters of a snapshot, which holds everything.
    #[must_use]
    pub fn part(&mut self, whole: &Snapshot) -> Snapshot {
        self.note(whole);
        let links = whole.links.iter().filter(|(index, _)| self.links.contains(index));
        Snapshot {
            links: links.map(|(index, link)| (*index, link.clone())).collect(),
            addresses: whole.addresses.iter().filter(|address| self.of_address(address)).cloned().collect(),
            routes: whole.routes.clone(),
            rules: whole.rules.clone(),
            dpu_ports: whole.dpu_ports.clone(),
            leases: whole.leases.clone(),
            rp_filter: whole.rp_filter,
            tracking: whole.tracking.clone(),
        }
    }

    /// Notes which interfaces matter now: those that say so themselves, those that routes or our marks
    /// lead to, and whatever any of these is enslaved to.
    fn note(&mut self, whole: &Snapshot) {
        let by_themselves = whole.links.values().filter(|link| self.of_link(link)).map(|link| link.index);
        let by_routes = whole.routes.iter().flat_map(|route| &route.hops).map(|hop| hop.link);
        let by_marks =
            whole.tracking.tables.iter().flat_map(|table| &table.uplinks).map(|marked| marked.link);
        let mut more: Vec<LinkIndex> = by_themselves.chain(by_routes).chain(by_marks).collect();
        let mut links = BTreeSet::new();
        while !more.is_empty() {
            more.retain(|index| links.insert(*index));
            more = more.iter().filter_map(|index| whole.links.get(index)?.master).collect();
        }
        self.links = links;
    }
}
