//! What can be wrong with a cable or the gateway at its end, and what that means for a frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// One thing that is wrong, in one direction. Several at once add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing arrives.
    Silent,
    /// So many of a hundred frames are lost, the same ones for the same seed.
    Loss {
        /// 0 to 100.
        percent: u8,
        /// Where the row of chances starts.
        seed: u64,
    },
    /// Every frame arrives so much later.
    Delay(Duration),
    /// The gateway does not answer echo requests to itself; all else works.
    FiltersEcho,
    /// ARP, neighbour discovery and ICMP of the gateway itself are lost; it still forwards.
    ControlSilent,
    /// The gateway answers for itself and forwards nothing.
    NotForwarding,
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Arrives { after: Duration },
}

/// One direction of a cable: its faults and its chances.
#[derive(Debug, Default)]
pub(crate) struct Way {
    faults: Vec<Fault>,
    chance: u64,
}

impl Way {
    pub(crate) fn set(&mut self, faults: &[Fault]) {
        faults.clone_into(&mut self.faults);
        for fault in faults {
            if let Fault::Loss { seed, .. } = fault {
                self.chance = *seed;
            }
        }
    }

    /// Decides about one Ethernet frame on a cable whose gateway has these addresses.
    pub(crate) fn fate(&mut self, frame: &[u8], gateway: &[IpAddr]) -> Fate {
        let mut after = Duration::ZERO;
        if self.faults.is_empty() {
            return Fate::Arrives { after };
        }
        let packet = Packet::of(frame);
        for fault in &self.faults {
            let lost = match fault {
                Fault::Silent => true,
                Fault::Loss { percent, .. } => {
                    self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
                    mix(self.chance) % 100 < u64::from(*percent)
                }
                Fault::Delay(span) => {
                    after += *span;
                    false
                }
                Fault::FiltersEcho => packet.is_echo() && packet.concerns(gateway),
                Fault::ControlSilent => packet.is_control() && packet.concerns(gateway),
                Fault::NotForwarding => packet.is_unicast() && !packet.concerns(gateway),
            };
            if lost {
                return Fate::Lost;
            }
        }
        Fate::Arrives { after }
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood 2014): spreads a counter.
fn mix(counter: u64) -> u64 {
    let a = (counter ^ (counter >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let b = (a ^ (a >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    b ^ (b >> 31)
}

/// As much of a frame as a fault asks about.
#[derive(Debug, PartialEq, Eq)]
enum Packet {
    /// Neither ARP nor IP, or cut short.
    Other,
    /// ARP, with the sender's and the target's address.
    Arp(IpAddr, IpAddr),
    Ip {
        source: IpAddr,
        destination: IpAddr,
        icmp: Option<Icmp>,
    },
}

#[derive(Debug, PartialEq, Eq)]
enum Icmp {
    Echo,
    /// Neighbour solicitation or advertisement, with the address in question.
    Neighbour(IpAddr),
    Other,
}

impl Packet {
    /// Ethernet II; the layouts of RFC 826, 791, 792, 8200, 4443 and 4861.
    fn of(frame: &[u8]) -> Self {
        let parsed = match frame.get(12..14) {
            Some([0x08, 0x06]) => Self::arp(frame),
            Some([0x08, 0x00]) => Self::ipv4(frame.get(14..).unwrap_or_default()),
            Some([0x86, 0xdd]) => Self::ipv6(frame.get(14..).unwrap_or_default()),
            _ => None,
        };
        parsed.unwrap_or(Self::Other)
    }

    fn arp(frame: &[u8]) -> Option<Self> {
        Some(Self::Arp(v4(frame, 28)?, v4(frame, 38)?))
    }

    fn ipv4(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let first_fragment = packet.get(6)? & 0x1f == 0 && *packet.get(7)? == 0;
        let icmp = match (packet.get(9)?, packet.get(header)) {
            (1, Some(0 | 8)) if first_fragment => Some(Icmp::Echo),
            (1, _) => Some(Icmp::Other),
            _ => None,
        };
        Some(Self::Ip { source: v4(packet, 12)?, destination: v4(packet, 16)?, icmp })
    }

    fn ipv6(packet: &[u8]) -> Option<Self> {
        let icmp = match (packet.get(6)?, packet.get(40)) {
            (58, Some(128 | 129)) => Some(Icmp::Echo),
            (58, Some(135 | 136)) => Some(v6(packet, 48).map_or(Icmp::Other, Icmp::Neighbour)),
            (58, _) => Some(Icmp::Other),
            _ => None,
        };
        Some(Self::Ip { source: v6(packet, 8)?, destination: v6(packet, 24)?, icmp })
    }

    /// It is from the gateway, to it, or asks or tells about its address.
    fn concerns(&self, gateway: &[IpAddr]) -> bool {
        match self {
            Self::Other => false,
            Self::Arp(a, b) => gateway.contains(a) || gateway.contains(b),
            Self::Ip { source, destination, icmp } => {
                gateway.contains(source)
                    || gateway.contains(destination)
                    || matches!(icmp, Some(Icmp::Neighbour(about)) if gateway.contains(about))
            }
        }
    }

    fn is_echo(&self) -> bool {
        matches!(self, Self::Ip { icmp: Some(Icmp::Echo), .. })
    }

    fn is_control(&self) -> bool {
        matches!(self, Self::Arp(..) | Self::Ip { icmp: Some(_), .. })
    }

    /// An IP packet that a router would forward.
    fn is_unicast(&self) -> bool {
        match self {
            Self::Other | Self::Arp(..) => false,
            Self::Ip { destination, icmp, .. } => {
                let local = match destination {
                    IpAddr::V4(to) => to.is_multicast() || to.is_broadcast(),
                    IpAddr::V6(to) => to.is_multicast() || to.is_unicast_link_local(),
                };
                !local && !matches!(icmp, Some(Icmp::Neighbour(_)))
            }
        }
    }
}

fn v4(bytes: &[u8], offset: usize) -> Option<IpAddr> {
    let address: [u8; 4] = bytes.get(offset..offset + 4)?.try_into().ok()?;
    Some(Ipv4Addr::from(address).into())
}

fn v6(bytes: &[u8], offset: usize) -> Option<IpAddr> {
    let address: [u8; 16] = bytes.get(offset..offset + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(address).into())
}
