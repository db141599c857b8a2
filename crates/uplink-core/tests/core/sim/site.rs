//! The usual host: a BlueField port and a management interface, each with a gateway, both families.

use std::net::IpAddr;

use uplink_core::snapshot::{
    Address, Attributes, Family, Hop, Link, LinkIndex, LinkKind, Mac, PciAddress, PciPort, Prefix, Route,
    RouteKind, RouterPreference, TABLE_MAIN, protocol,
};
use uplink_core::status::{Health, Reason};

use super::bench::{Bench, Elected};
use super::kernel::everywhere;
use super::world::Gateway;

/// The BlueField port.
pub(crate) const PORT: LinkIndex = LinkIndex(2);
/// The management interface.
pub(crate) const MGMT: LinkIndex = LinkIndex(3);
/// The second BlueField card's port, where there is one.
pub(crate) const PORT_B: LinkIndex = LinkIndex(4);

/// What the BlueField port's uplink is called.
pub(crate) const DPU: &str = "dpu-0000:03:00.0";
/// What the management interface's uplink is called.
pub(crate) const BOARD: &str = "eno1";

/// Both are up, answer and forward; management's default routes come first, as the kernel sees it.
pub(crate) fn worker() -> Bench {
    let mut bench = Bench::new(1);
    bench.plug_dpu(PORT, "ens1f0np0", 3);
    bench.plug(MGMT, BOARD);
    for link in [PORT, MGMT] {
        bench.lease(link);
    }
    bench
}

/// A worker whose daemon has decided: the pin is on the port.
pub(crate) fn steered_worker() -> Bench {
    let mut bench = worker();
    bench.start();
    bench.run(std::time::Duration::from_secs(20));
    bench.assert_way(PORT);
    bench
}

/// A plain network function of the card on bus `bus`.
pub(crate) fn dpu_port(bus: u8) -> PciPort {
    PciPort {
        address: PciAddress { domain: 0, bus, slot: 0, function: 0 },
        vendor: 0x15b3,
        device: 0xa2dc,
        class: 0x0002_0000,
        virtual_function: false,
        port_name: Some("p0".to_owned()),
    }
}

/// An interface that is up and has a carrier.
pub(crate) fn link(index: LinkIndex, name: &str) -> Link {
    Link {
        index,
        name: name.to_owned(),
        altnames: Vec::new(),
        kind: LinkKind::Other,
        up: true,
        carrier: true,
        mac: Some(Mac([2, 0, 0, 0, 0, u8::try_from(index.0).unwrap_or(0)])),
        master: None,
        pci: None,
        rp_filter: 0,
        src_valid_mark: false,
    }
}

/// The gateway that a link's DHCP server or router names.
pub(crate) fn gateway(link: LinkIndex, family: Family) -> IpAddr {
    let net = net(link);
    match family {
        Family::Ipv4 => IpAddr::from([10, 0, net, 1]),
        Family::Ipv6 => IpAddr::from([0xfe80, 0, 0, 0, 0, 0, u16::from(net), 1]),
    }
}

/// Another gateway on a link, which answers where the world has one.
pub(crate) fn second_gateway(link: LinkIndex, family: Family) -> IpAddr {
    match gateway(link, family) {
        IpAddr::V4(address) => IpAddr::V4((address.to_bits() + 253).into()),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() + 253).into()),
    }
}

/// The addresses of a link; IPv6 has a link-local one as well.
pub(crate) fn addresses(link: LinkIndex, family: Family) -> Vec<Address> {
    let net = net(link);
    let address = |address: IpAddr, length, link_local| Address {
        link,
        prefix: Prefix { address, length },
        link_local,
        usable: true,
        unpreferred: false,
        no_prefix_route: false,
    };
    match family {
        Family::Ipv4 => vec![address(IpAddr::from([10, 0, net, 11]), 24, false)],
        Family::Ipv6 => vec![
            address(IpAddr::from([0xfe80, 0, 0, 0, 0, 0, u16::from(net), 11]), 64, true),
            address(IpAddr::from([0x2001, 0xdb8, u16::from(net), 0, 0, 0, 0, 11]), 64, false),
        ],
    }
}

/// The default route that a link's manager lays.
pub(crate) fn default_route(link: LinkIndex, family: Family) -> Route {
    let metric = match (link, family) {
        (PORT, Family::Ipv4) => 100,
        (MGMT, Family::Ipv4) => 50,
        (_, Family::Ipv4) => 200 + link.0,
        (PORT, Family::Ipv6) => 1024,
        (MGMT, Family::Ipv6) => 512,
        (_, Family::Ipv6) => 2000 + link.0,
    };
    let protocol = match family {
        Family::Ipv4 => protocol::DHCP,
        Family::Ipv6 => protocol::RA,
    };
    let hops = vec![Hop { link, gateway: Some(gateway(link, family)) }];
    Route { metric, protocol, hops, ..plain_default(family) }
}

/// A default route of an administrator that leads nowhere yet.
pub(crate) fn plain_default(family: Family) -> Route {
    Route {
        family,
        table: TABLE_MAIN,
        destination: everywhere(family),
        tos: 0,
        metric: 0,
        preference: RouterPreference::default(),
        protocol: protocol::STATIC,
        kind: RouteKind::Unicast,
        hops: Vec::new(),
        by_object: false,
        weights: Vec::new(),
        attributes: Attributes::default(),
    }
}

impl Bench {
    /// Plugs in an interface with a gateway at the other end.
    pub(crate) fn plug(&mut self, index: LinkIndex, name: &str) {
        self.kernel.links.insert(index, link(index, name));
        self.kernel.changes += 1;
        for family in Family::ALL {
            self.world.gateways.insert((index, gateway(index, family)), Gateway::well());
        }
    }

    /// Plugs in a BlueField port on bus `bus`.
    pub(crate) fn plug_dpu(&mut self, index: LinkIndex, name: &str, bus: u8) {
        self.plug(index, name);
        let pci = dpu_port(bus);
        self.kernel.dpu_ports.retain(|port| port.address != pci.address);
        self.kernel.dpu_ports.push(PciPort { port_name: None, ..pci.clone() });
        self.kernel.links.get_mut(&index).expect("just plugged").pci = Some(pci);
    }

    /// The interface is pulled out.
    pub(crate) fn unplug(&mut self, index: LinkIndex) {
        self.kernel.remove_link(index);
    }

    /// The interface is there again, as at first, and configured; nothing if it is there.
    pub(crate) fn plug_again(&mut self, index: LinkIndex) {
        if self.kernel.links.contains_key(&index) {
            return;
        }
        let gateways = self.world.gateways.clone();
        match index {
            PORT => self.plug_dpu(PORT, "ens1f0np0", 3),
            PORT_B => self.plug_dpu(PORT_B, "ens2f0np0", 5),
            _ => self.plug(index, BOARD),
        }
        self.world.gateways.extend(gateways);
        self.lease(index);
    }

    /// Changes both families' gateways of a link.
    pub(crate) fn gateways(&mut self, link: LinkIndex, change: impl Fn(&mut Gateway)) {
        for ((at, _), gateway) in &mut self.world.gateways {
            if *at == link {
                change(gateway);
            }
        }
    }

    /// The link's gateways fall silent.
    pub(crate) fn silence(&mut self, link: LinkIndex) {
        self.gateways(link, |gateway| *gateway = Gateway::silent());
    }

    /// The link's gateways are well again.
    pub(crate) fn revive(&mut self, link: LinkIndex) {
        self.gateways(link, |gateway| *gateway = Gateway::well());
    }

    /// Whether both families' packets leave by `link`.
    pub(crate) fn leaves_by(&self, link: LinkIndex) -> bool {
        Family::ALL.iter().all(|family| self.way(*family) == Some(link))
    }

    /// The link by which a family's packets leave.
    pub(crate) fn way(&self, family: Family) -> Option<LinkIndex> {
        self.kernel.default_way(family).ok().map(|hop| hop.link)
    }

    /// What a path's health is.
    #[track_caller]
    pub(crate) fn health(&self, uplink: &str) -> Health {
        let [ipv4, ipv6] = Family::ALL.map(|family| self.path(uplink, family).map(|path| path.health));
        assert_eq!(ipv4, ipv6, "both families fare alike");
        ipv4.expect("the path is shown")
    }

    /// How often a family changed its mind after the first decision.
    pub(crate) fn moves(&self, family: Family) -> usize {
        self.elections.iter().filter(|e| e.family == family && !e.before.is_empty()).count()
    }

    /// Neither family changed its mind after the first decision.
    #[track_caller]
    pub(crate) fn assert_never_moved(&self) {
        for family in Family::ALL {
            assert_eq!(self.moves(family), 0, "{family}: {:#?}", self.elections);
        }
    }

    /// After the first decision, only members of the pin were added.
    #[track_caller]
    pub(crate) fn assert_never_moved_but_joined(&self) {
        let joined = |e: &Elected| e.before.is_empty() || e.reason == Reason::MemberJoined;
        assert!(self.elections.iter().all(joined), "{:#?}", self.elections);
    }

    /// Both families' packets leave by `link`.
    #[track_caller]
    pub(crate) fn assert_way(&self, link: LinkIndex) {
        for family in Family::ALL {
            assert_eq!(self.way(family), Some(link), "{}: {family}: {:#?}", self.now, self.status());
        }
    }
}

fn net(link: LinkIndex) -> u8 {
    match link {
        PORT => 120,
        MGMT => 10,
        LinkIndex(other) => u8::try_from(150 + other % 100).unwrap_or(150),
    }
}
