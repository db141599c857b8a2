//! What was asked and not answered yet: by this a received packet is known as an answer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::net::IpAddr;

use uplink_core::event::{Probe, ProbeId};
use uplink_core::snapshot::LinkIndex;
use uplink_core::time::Instant;

/// Most questions kept, over a minute of the fastest asking: an answer that comes still later is
/// not known any more.
const KEPT_MAX: usize = 1024;

/// The questions of all interfaces, and the source of the numbers by which echoes are known.
pub(super) struct Asked {
    questions: BTreeMap<ProbeId, Question>,
    /// 64 random numbers a read.
    random: BufReader<File>,
}

/// One question to one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Question {
    link: LinkIndex,
    source: IpAddr,
    to: IpAddr,
    proof: Proof,
    at: Instant,
}

/// By what an answer is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// It repeats this number.
    Nonce(u64),
    /// It speaks for the address that was asked for: ARP and neighbour discovery repeat nothing.
    Address,
}

impl Asked {
    /// Nothing asked yet.
    ///
    /// # Errors
    /// `/dev/urandom` cannot be opened.
    pub(super) fn new() -> io::Result<Self> {
        let random = BufReader::with_capacity(512, File::open("/dev/urandom")?);
        Ok(Self { questions: BTreeMap::new(), random })
    }

    /// A number that nobody can know.
    ///
    /// # Errors
    /// The kernel gives none.
    pub(super) fn random(&mut self) -> io::Result<u64> {
        let mut number = [0; 8];
        self.random.read_exact(&mut number)?;
        Ok(u64::from_ne_bytes(number))
    }

    /// Notes an echo; gives the number that its answer must repeat.
    ///
    /// # Errors
    /// There is no random number.
    pub(super) fn echo(&mut self, probe: &Probe, to: IpAddr, now: Instant) -> io::Result<u64> {
        let nonce = self.random()?;
        self.note(probe, to, Proof::Nonce(nonce), now);
        Ok(nonce)
    }

    /// Notes that a neighbour was asked for.
    pub(super) fn neighbour(&mut self, probe: &Probe, to: IpAddr, now: Instant) {
        self.note(probe, to, Proof::Address, now);
    }

    /// Takes back what could not be sent.
    pub(super) fn withdraw(&mut self, id: ProbeId) {
        self.questions.remove(&id);
    }

    /// The interface is gone, and all answers with it.
    pub(super) fn forget(&mut self, link: LinkIndex) {
        self.questions.retain(|_, question| question.link != link);
    }

    /// An echo reply came from `from` through `link`: when its question was asked, if there is one.
    /// A second reply finds none.
    pub(super) fn echoed(
        &mut self,
        link: LinkIndex,
        id: ProbeId,
        nonce: u64,
        from: IpAddr,
    ) -> Option<Instant> {
        let question = self.questions.get(&id).filter(|question| {
            question.link == link && question.to == from && question.proof == Proof::Nonce(nonce)
        })?;
        let at = question.at;
        self.questions.remove(&id);
        Some(at)
    }

    /// The neighbour `from` spoke through `link`, to `to` where that is known, at the moment that
    /// `at` gives when told the earliest possible one. It answers all who asked for it until then,
    /// since its answer does not tell them apart: those, oldest first, and the moment.
    pub(super) fn spoke(
        &mut self,
        link: LinkIndex,
        from: IpAddr,
        to: Option<IpAddr>,
        at: impl FnOnce(Instant) -> Instant,
    ) -> Vec<(ProbeId, Instant)> {
        let answers = |question: &Question| {
            question.proof == Proof::Address
                && question.link == link
                && question.to == from
                && to.is_none_or(|to| to == question.source)
        };
        let Some(first) = self.questions.values().find(|question| answers(question)) else {
            return Vec::new();
        };
        let at = at(first.at);
        self.questions
            .extract_if(.., |_, question| answers(question) && question.at <= at)
            .map(|(id, _)| (id, at))
            .collect()
    }

    /// Notes a question; the oldest makes room.
    fn note(&mut self, probe: &Probe, to: IpAddr, proof: Proof, at: Instant) {
        if self.questions.len() >= KEPT_MAX {
            self.questions.pop_first();
        }
        let question = Question { link: probe.link, source: probe.source, to, proof, at };
        self.questions.insert(probe.id, question);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uplink_core::event;

    use super::*;

    const LINK: LinkIndex = LinkIndex(3);

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn probe(id: u64) -> Probe {
        Probe { id: ProbeId(id), link: LINK, source: address(7), question: event::Question::Echo(address(1)) }
    }

    fn second(n: u64) -> Instant {
        Instant::BOOT + Duration::from_secs(n)
    }

    #[test]
    fn an_echo_is_answered_once_by_whom_it_asked_through_its_link() {
        let mut asked = Asked::new().unwrap();
        let nonce = asked.echo(&probe(1), address(1), second(5)).unwrap();
        let id = ProbeId(1);
        assert_eq!(asked.echoed(LINK, id, nonce ^ 1, address(1)), None, "forged");
        assert_eq!(asked.echoed(LINK, id, nonce, address(2)), None, "another host");
        assert_eq!(asked.echoed(LinkIndex(4), id, nonce, address(1)), None, "another link");
        assert_eq!(asked.echoed(LINK, ProbeId(2), nonce, address(1)), None, "never asked");
        assert_eq!(asked.spoke(LINK, address(1), None, |at| at), [], "not by ARP");
        assert_eq!(asked.echoed(LINK, id, nonce, address(1)), Some(second(5)));
        assert_eq!(asked.echoed(LINK, id, nonce, address(1)), None, "a duplicate");
    }

    #[test]
    fn a_neighbour_answers_all_who_asked_before_it_spoke() {
        let mut asked = Asked::new().unwrap();
        for n in 1..=4 {
            asked.neighbour(&probe(n), address(1), second(n));
        }
        asked.neighbour(&probe(5), address(2), second(1));
        let other = asked.spoke(LINK, address(1), Some(address(8)), |_| second(9));
        assert_eq!(other, [], "to another address of ours");
        let spoke = |asked: &mut Asked, at| asked.spoke(LINK, address(1), Some(address(7)), |_| at);
        let answered = [1, 2, 3].map(|n| (ProbeId(n), second(3)));
        assert_eq!(spoke(&mut asked, second(3)), answered);
        assert_eq!(spoke(&mut asked, second(6)), [(ProbeId(4), second(6))]);
    }

    #[test]
    fn withdrawn_forgotten_and_too_old_questions_have_no_answer() {
        let mut asked = Asked::new().unwrap();
        asked.neighbour(&probe(1), address(1), second(1));
        asked.withdraw(ProbeId(1));
        asked.neighbour(&probe(2), address(1), second(1));
        asked.forget(LINK);
        assert_eq!(asked.questions.len(), 0);
        for id in 0..2_000 {
            asked.neighbour(&probe(id), address(1), second(1));
        }
        assert_eq!(asked.questions.len(), KEPT_MAX);
        assert!(asked.questions.contains_key(&ProbeId(1_999)));
    }
}
