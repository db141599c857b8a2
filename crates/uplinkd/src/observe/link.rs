//! Reads link messages.

use std::fs;

use nix::libc;
use uplink_core::snapshot::{Link, LinkIndex, LinkKind, Mac};

use crate::netlink::{Malformed, attributes, number, text};

/// `AF_INET`, as the kind of an attribute.
const AF_INET: u16 = 2;

/// The settings of an interface in IPv4 (`IFLA_INET_CONF`, `linux/if_link.h`).
const IFLA_INET_CONF: u16 = 1;

/// Their numbers (`IPV4_DEVCONF_RP_FILTER`, `IPV4_DEVCONF_SRC_VMARK`, `linux/ip.h`).
const RP_FILTER: usize = 8;
const SRC_VALID_MARK: usize = 24;

/// The link that a `RTM_NEWLINK` or `RTM_DELLINK` payload describes, without its PCI function.
/// `None`: the message is not about a link as a whole.
///
/// Read by hand and not through `netlink-packet-route`, because such a message has two hundred
/// attributes that grow with every kernel, and six of them matter here.
pub(super) fn decode(payload: &[u8]) -> Result<Option<Link>, Malformed> {
    // struct ifinfomsg, linux/rtnetlink.h
    let (header, rest) = payload.split_first_chunk::<16>().ok_or(Malformed)?;
    let [family, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *header;
    if i32::from(family) != libc::AF_UNSPEC {
        return Ok(None);
    }
    let ethernet = u16::from_ne_bytes([t0, t1]) == libc::ARPHRD_ETHER;
    let flags = Flags(u32::from_ne_bytes([f0, f1, f2, f3]));
    let mut link = Link {
        index: LinkIndex(u32::from_ne_bytes([i0, i1, i2, i3])),
        name: String::new(),
        altnames: Vec::new(),
        kind: LinkKind::Other,
        up: flags.has(libc::IFF_UP),
        carrier: flags.has(libc::IFF_LOWER_UP) && flags.has(libc::IFF_RUNNING),
        mac: None,
        master: None,
        pci: None,
        rp_filter: 0,
        src_valid_mark: false,
    };
    for attribute in attributes(rest) {
        match attribute? {
            // An event of a wireless driver, with hardly anything else in it
            // (net/wireless/wext-core.c).
            (libc::IFLA_WIRELESS, _) => return Ok(None),
            (libc::IFLA_IFNAME, value) => link.name = text(value)?,
            (libc::IFLA_ADDRESS, value) if ethernet => link.mac = value.try_into().ok().map(Mac),
            (libc::IFLA_MASTER, value) => link.master = Some(LinkIndex(number(value)?)),
            (libc::IFLA_LINKINFO, value) => link.kind = kind(value)?,
            (libc::IFLA_PROP_LIST, value) => link.altnames = altnames(value)?,
            (libc::IFLA_AF_SPEC, value) => {
                (link.rp_filter, link.src_valid_mark) = reverse_path(value)?;
            }
            _ => {}
        }
    }
    if flags.has(libc::IFF_LOOPBACK) {
        link.kind = LinkKind::Loopback;
    }
    if link.name.is_empty() {
        return Err(Malformed);
    }
    Ok(Some(link))
}

/// `net.ipv4.conf.all.rp_filter`; 0 where it cannot be read. Netlink tells when it changes.
pub(super) fn rp_filter_of_all() -> u32 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/conf/all/rp_filter").unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// `ifi_flags`.
#[derive(Clone, Copy)]
struct Flags(u32);

impl Flags {
    fn has(self, flag: libc::c_int) -> bool {
        self.0 & flag.unsigned_abs() != 0
    }
}

/// The kind that `IFLA_LINKINFO` names. Hardware has none.
fn kind(info: &[u8]) -> Result<LinkKind, Malformed> {
    for attribute in attributes(info) {
        if let (libc::IFLA_INFO_KIND, value) = attribute? {
            return Ok(match text(value)?.as_str() {
                "bridge" => LinkKind::Bridge,
                "bond" | "team" => LinkKind::Bond,
                "vrf" => LinkKind::Vrf,
                "tun" | "wireguard" | "ipip" | "gre" | "gretap" | "ip6gre" | "ip6gretap" | "sit"
                | "ip6tnl" | "vti" | "vti6" | "xfrm" | "erspan" | "ip6erspan" => LinkKind::Tunnel,
                _ => LinkKind::Other,
            });
        }
    }
    Ok(LinkKind::Other)
}

/// What `IFLA_AF_SPEC` says of the check of IPv4 packets' way back: `rp_filter` and `src_valid_mark`.
fn reverse_path(families: &[u8]) -> Result<(u32, bool), Malformed> {
    let mut settings: &[u8] = &[];
    for family in attributes(families) {
        if let (AF_INET, value) = family? {
            for attribute in attributes(value) {
                if let (IFLA_INET_CONF, value) = attribute? {
                    settings = value;
                }
            }
        }
    }
    // A row of 32-bit numbers, the first of which is number 1.
    let setting = |at: usize| settings.chunks_exact(4).nth(at - 1).map_or(Ok(0), number);
    Ok((setting(RP_FILTER)?, setting(SRC_VALID_MARK)? != 0))
}

/// The names in `IFLA_PROP_LIST`.
fn altnames(list: &[u8]) -> Result<Vec<String>, Malformed> {
    let mut names = Vec::new();
    for attribute in attributes(list) {
        if let (libc::IFLA_ALT_IFNAME, value) = attribute? {
            names.push(text(value)?);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DefaultNla, Emitable};
    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::link::{
        AfSpecInet, AfSpecUnspec, InetDevConf, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType,
        LinkMessage, Prop,
    };

    use super::*;

    fn message(name: &str, flags: LinkFlags, more: Vec<LinkAttribute>) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 4;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = flags;
        message.attributes = vec![LinkAttribute::IfName(name.into())];
        message.attributes.extend(more);
        message
    }

    fn decoded(message: &LinkMessage) -> Result<Option<Link>, Malformed> {
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        decode(&payload)
    }

    fn of_kind(kind: InfoKind) -> LinkKind {
        let info = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)]);
        let message = message("x0", LinkFlags::Up, vec![info]);
        decoded(&message).unwrap().unwrap().kind
    }

    #[test]
    fn everything_that_matters_is_read() {
        let mut settings = InetDevConf::default();
        (settings.rp_filter, settings.src_vmark) = (1, 1);
        let message = message(
            "ens1f0np0",
            LinkFlags::Up | LinkFlags::LowerUp | LinkFlags::Running,
            vec![
                LinkAttribute::Address(vec![0xb8, 0x3f, 0xd2, 0, 0, 1]),
                LinkAttribute::Controller(9),
                LinkAttribute::PropList(vec![Prop::AltIfName("dpu".into())]),
                LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet(vec![AfSpecInet::DevConf(settings)])]),
            ],
        );
        let expected = Link {
            index: LinkIndex(4),
            name: "ens1f0np0".into(),
            altnames: vec!["dpu".into()],
            kind: LinkKind::Other,
            up: true,
            carrier: true,
            mac: Some(Mac([0xb8, 0x3f, 0xd2, 0, 0, 1])),
            master: Some(LinkIndex(9)),
            pci: None,
            rp_filter: 1,
            src_valid_mark: true,
        };
        assert_eq!(decoded(&message), Ok(Some(expected)));
    }

    #[test]
    fn a_carrier_needs_both_flags() {
        for (flags, carrier) in [
            (LinkFlags::Up, false),
            (LinkFlags::Up | LinkFlags::LowerUp, false),
            (LinkFlags::Up | LinkFlags::Running, false),
            (LinkFlags::LowerUp | LinkFlags::Running, true),
        ] {
            let link = decoded(&message("x0", flags, Vec::new())).unwrap().unwrap();
            assert_eq!(link.carrier, carrier, "{flags:?}");
        }
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(of_kind(InfoKind::Bridge), LinkKind::Bridge);
        assert_eq!(of_kind(InfoKind::Bond), LinkKind::Bond);
        assert_eq!(of_kind(InfoKind::Vrf), LinkKind::Vrf);
        assert_eq!(of_kind(InfoKind::Wireguard), LinkKind::Tunnel);
        assert_eq!(of_kind(InfoKind::Other("ip6gretap".into())), LinkKind::Tunnel);
        assert_eq!(of_kind(InfoKind::Veth), LinkKind::Other);
        let loopback = message("lo", LinkFlags::Loopback, Vec::new());
        assert_eq!(decoded(&loopback).unwrap().unwrap().kind, LinkKind::Loopback);
    }

    #[test]
    fn bridge_ports_and_wireless_events_are_not_links() {
        let mut port = message("x0", LinkFlags::Up, Vec::new());
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(decoded(&port), Ok(None));
        let event = LinkAttribute::Other(DefaultNla::new(libc::IFLA_WIRELESS, vec![0; 8]));
        assert_eq!(decoded(&message("x0", LinkFlags::Up, vec![event])), Ok(None));
    }

    #[test]
    fn a_short_message_is_malformed() {
        assert_eq!(decode(&[0; 15]), Err(Malformed));
        assert_eq!(decode(&[0; 16]), Err(Malformed));
    }
}
