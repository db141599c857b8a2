//! What is at the other end of the cables: gateways, and targets behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use uplink_core::event::{Answer, Probe, ProbeId, Question};
use uplink_core::snapshot::{Family, LinkIndex, Mac};
use uplink_core::time::Instant;

use super::kernel::Kernel;
use super::lookup::Packet;

/// A gateway, and how well it is.
#[derive(Debug, Clone)]
pub(crate) struct Gateway {
    /// Its side of the link's round trip.
    pub(crate) latency: Duration,
    /// How many questions in a hundred get no answer.
    pub(crate) loss: u32,
    /// Answers ICMP echo.
    pub(crate) echo: bool,
    /// Answers ARP and neighbour solicitations.
    pub(crate) neighbour: bool,
    /// Forwards packets, so that targets behind it can answer.
    pub(crate) forwards: bool,
    /// Somebody beyond it keeps sending us packets.
    pub(crate) busy: bool,
    /// Its Ethernet address, which only neighbours are told.
    pub(crate) mac: Mac,
}

impl Gateway {
    /// One that answers and forwards.
    pub(crate) const fn well() -> Self {
        Self {
            latency: Duration::from_micros(300),
            loss: 0,
            echo: true,
            neighbour: true,
            forwards: true,
            busy: false,
            mac: Mac([2, 0, 0, 0, 1, 1]),
        }
    }

    /// Neither answers nor forwards.
    pub(crate) const fn silent() -> Self {
        Self { echo: false, neighbour: false, forwards: false, ..Self::well() }
    }

    fn answers(&self, question: Question) -> bool {
        match question {
            Question::Echo(_) => self.echo,
            Question::Neighbour(_) => self.neighbour,
            Question::Connect(_) => false,
        }
    }
}

/// Every gateway by the link that leads to it, and all targets.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) gateways: BTreeMap<(LinkIndex, IpAddr), Gateway>,
    /// The targets that answer whoever reaches them.
    pub(crate) targets: BTreeSet<IpAddr>,
    /// Questions to these cannot be sent.
    pub(crate) unsendable: BTreeSet<IpAddr>,
    /// The newest answer that came through each link.
    pub(crate) heard: BTreeMap<(LinkIndex, Family), Heard>,
    /// Answers take longer by up to this, each by another time: they overtake each other.
    pub(crate) jitter: Duration,
    /// So often each answer comes.
    pub(crate) copies: usize,
    asked: BTreeMap<ProbeId, (Instant, Probe)>,
    random: u64,
}

/// The newest answer that came through a link.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard {
    /// When its question was asked.
    pub(crate) asked: Instant,
    /// When it came.
    pub(crate) at: Instant,
}

/// What becomes of a probe.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It could not be sent.
    Unsent,
    /// Nobody answers.
    Lost,
    /// The answer arrives then.
    Answered(Answer),
}

impl World {
    /// A world whose losses follow from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            gateways: BTreeMap::new(),
            targets: BTreeSet::new(),
            unsendable: BTreeSet::new(),
            heard: BTreeMap::new(),
            jitter: Duration::ZERO,
            copies: 1,
            asked: BTreeMap::new(),
            random: seed,
        }
    }

    /// The same world with other losses.
    pub(crate) fn reseed(&mut self, seed: u64) {
        self.random = seed;
    }

    /// Sends a probe on its way.
    pub(crate) fn send(&mut self, kernel: &Kernel, probe: &Probe, now: Instant) -> Fate {
        let up = kernel.links.get(&probe.link).is_some_and(|link| link.up);
        let sourced = kernel.addresses.iter().any(|address| address.prefix.address == probe.source);
        if !up || !sourced || self.unsendable.contains(&asked_address(probe.question)) {
            return Fate::Unsent;
        }
        if !kernel.links.get(&probe.link).is_some_and(|link| link.carrier) {
            return Fate::Lost;
        }
        self.asked.insert(probe.id, (now, *probe));
        let address = asked_address(probe.question);
        let found = self.gateways.get(&(probe.link, address));
        let mac =
            found.map(|gateway| gateway.mac).filter(|_| matches!(probe.question, Question::Neighbour(_)));
        let latency = match found {
            Some(gateway) => gateway.answers(probe.question).then_some((gateway.loss, gateway.latency)),
            None => self.behind(kernel, probe, address),
        };
        let answered = latency.filter(|(loss, _)| self.dice() >= *loss);
        let Some((_, latency)) = answered else { return Fate::Lost };
        let longer = if self.jitter.is_zero() { Duration::ZERO } else { self.jitter * self.dice() / 100 };
        Fate::Answered(Answer { id: probe.id, at: now + latency + longer, mac })
    }

    /// Whether a question to it is out, or was lost.
    pub(crate) fn awaits(&self, address: IpAddr) -> bool {
        self.asked.values().any(|(_, probe)| asked_address(probe.question) == address)
    }

    /// An answer has come in.
    pub(crate) fn hear(&mut self, answer: Answer) {
        if let Some((asked, probe)) = self.asked.remove(&answer.id) {
            let family = Family::of(asked_address(probe.question));
            self.heard.insert((probe.link, family), Heard { asked, at: answer.at });
        }
    }

    /// Whether packets that a router forwarded keep coming in through the link.
    pub(crate) fn forwards_to(&self, kernel: &Kernel, link: LinkIndex, family: Family) -> bool {
        let carrier = kernel.links.get(&link).is_some_and(|link| link.carrier);
        carrier
            && self.gateways.iter().any(|((at, address), gateway)| {
                *at == link && Family::of(*address) == family && gateway.busy && gateway.forwards
            })
    }

    /// The loss and latency of a target that is asked by the way the kernel's tables give.
    fn behind(&self, kernel: &Kernel, probe: &Probe, target: IpAddr) -> Option<(u32, Duration)> {
        let packet = Packet { to: target, from: Some(probe.source), mark: 0, bound: Some(probe.link) };
        let hop = kernel.lookup(packet).ok()?;
        let gateway = self.gateways.get(&(hop.link, hop.gateway?))?;
        let latency = gateway.latency + Duration::from_millis(2);
        (gateway.forwards && self.targets.contains(&target)).then_some((gateway.loss, latency))
    }

    /// A number from 0 to 99 (SplitMix64).
    fn dice(&mut self) -> u32 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((bits ^ (bits >> 31)) % 100).unwrap_or(0)
    }
}

fn asked_address(question: Question) -> IpAddr {
    match question {
        Question::Echo(address) | Question::Neighbour(address) => address,
        Question::Connect(address) => address.ip(),
    }
}
