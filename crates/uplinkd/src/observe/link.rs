//! Reads link messages.

use nix::libc;
use uplink_core::snapshot::{Link, LinkIndex, LinkKind, Mac};

use crate::netlink::{Malformed, attributes, number, text};

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
