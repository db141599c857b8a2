//! What path rules cost the packets of a host: the same answers with and without them, by turns.
//!
//! ```text
//! worker ─ port ── client      veth pairs, nothing between them: what is measured is the kernel
//!        └ mgmt ── gateway
//! ```
//!
//! A connection of the client came in by the elected uplink, and connections are tracked, for somebody
//! translates addresses. One thread of the worker answers as fast as it can. On a veth pair the sender's
//! thread carries its packets to the receiver's socket, so that its processor time is most of what they
//! cost. Small packets that are routed one by one are the worst case; those of a TCP stream pass the rules
//! 64 KB at a time, as everywhere where the kernel or the card cuts them.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};
use uplink_lab::{Daemon, Error, Host, Result, now, pass};

use crate::readings::median;

/// So often each of the two is measured, and for how long.
const ROUNDS: usize = 20;
const SPAN: Duration = Duration::from_millis(500);
/// How long the daemon may take to follow a change.
const BOUND: Duration = Duration::from_secs(20);
/// The worker's address on its port, and where it answers from.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 2)), 7000);
/// A client from elsewhere.
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// Writes between two looks at the clock.
const BURST: u64 = 64;
/// Bytes of a datagram, and of a write to a stream.
const DATAGRAM: usize = 64;
const CHUNK: usize = 64 << 10;

/// What is sent.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Small datagrams, each on its own.
    Datagrams,
    /// A TCP stream.
    Stream,
}

/// What one run gave.
#[derive(Debug, Clone, Copy)]
struct Run {
    /// Writes a second.
    pace: f64,
    /// Processor time of a write, in nanoseconds.
    cost: f64,
}

/// Measures, and tells.
pub(crate) fn measure(daemon: &Path) -> Result<()> {
    let stage = Stage::set(daemon)?;
    println!("answers of an elected uplink, connections tracked: with path rules beside without");
    for kind in [Kind::Datagrams, Kind::Stream] {
        let mut pairs = Vec::new();
        for round in 0..ROUNDS {
            // Whoever comes first finds another machine than who comes second.
            let order = if round % 2 == 0 { [true, false] } else { [false, true] };
            let first = stage.run(order[0], kind)?;
            let second = stage.run(order[1], kind)?;
            pairs.push(if order[0] { (first, second) } else { (second, first) });
        }
        println!("{}", told(kind, &pairs));
    }
    Ok(())
}

/// A worker with two uplinks, and who is behind them.
struct Stage {
    worker: Host,
    daemon: Daemon,
    service: UdpSocket,
    client: UdpSocket,
    neighbours: [Host; 2],
}

impl Stage {
    fn set(daemon: &Path) -> Result<Self> {
        let (worker, client, gateway) = (Host::new("worker")?, Host::new("client")?, Host::new("gateway")?);
        for (number, interface, neighbour) in [(1, "port", &client), (2, "mgmt", &gateway)] {
            let other = neighbour.namespace();
            worker.ip_batch(&format!(
                "link add {interface} type veth peer name lan netns {other}\n\
                 link set {interface} up\n\
                 address add 10.0.{number}.2/24 dev {interface}\n\
                 route add default via 10.0.{number}.1 dev {interface} metric {number}00 proto dhcp\n"
            ))?;
            neighbour.ip_batch(&format!(
                "link set lan up\n\
                 address add 10.0.{number}.1/24 dev lan\n\
                 address add {CLIENT}/32 dev lo\n"
            ))?;
        }
        // Somebody translates addresses, so that connections are tracked.
        let services = "add table ip services; \
            add chain ip services in { type nat hook prerouting priority dstnat; }; \
            add rule ip services in udp dport 30000 dnat to 10.0.1.2:7000";
        worker.command("nft", &[services])?;
        let daemon = Daemon::of(daemon, &["run"]).config(&policy(true)).start(&worker)?;
        daemon.wait_ready(BOUND)?;
        let service = worker.run(|| UdpSocket::bind(SERVICE));
        let asking = client.run(|| UdpSocket::bind((CLIENT, 7001)));
        let failed = |source| Error::System { what: "open a socket".to_owned(), source };
        let (service, asking) = (service.map_err(failed)?, asking.map_err(failed)?);
        let stage = Self { worker, daemon, service, client: asking, neighbours: [client, gateway] };
        stage.ask()?;
        Ok(stage)
    }

    /// A packet of the question, by which the connection is known and marked.
    fn ask(&self) -> Result<()> {
        let failed = |source| Error::System { what: "ask the service".to_owned(), source };
        self.service.set_read_timeout(Some(BOUND)).map_err(failed)?;
        self.client.send_to(b"?", SERVICE).map_err(failed)?;
        self.service.recv_from(&mut [0; 16]).map_err(failed)?;
        Ok(())
    }

    /// Answers as fast as one thread can.
    fn run(&self, with: bool, kind: Kind) -> Result<Run> {
        self.daemon.reload(&policy(with))?;
        self.await_state(if with { "connections" } else { "off" })?;
        self.ask()?;
        let failed = |source| Error::System { what: "answer".to_owned(), source };
        let measured = match kind {
            Kind::Datagrams => {
                let service = self.service.try_clone().map_err(failed)?;
                let answer = [b'!'; DATAGRAM];
                self.worker.run(move || answering(|| service.send_to(&answer, (CLIENT, 7001)).map(drop)))
            }
            Kind::Stream => {
                let mut stream = self.stream().map_err(failed)?;
                let chunk = vec![b'!'; CHUNK];
                self.worker.run(move || answering(|| stream.write_all(&chunk)))
            }
        };
        measured.map_err(failed)
    }

    /// A connection that the client made, and reads until it ends.
    fn stream(&self) -> std::io::Result<TcpStream> {
        let listener = self.worker.run(|| TcpListener::bind(SERVICE))?;
        let asking = self.neighbours[0].run(|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(CLIENT.into(), 0).into())?;
            socket.connect(&SERVICE.into())?;
            Ok::<_, std::io::Error>(TcpStream::from(socket))
        })?;
        let (stream, _) = listener.accept()?;
        std::thread::spawn(move || {
            let mut buffer = vec![0; CHUNK];
            while (&asking).read(&mut buffer).is_ok_and(|read| read > 0) {}
        });
        Ok(stream)
    }

    fn await_state(&self, wanted: &str) -> Result<()> {
        let end = now() + BOUND;
        loop {
            let status = self.daemon.status()?;
            // IPv4 comes first.
            if status.pointer("/status/families/0/path_rules").is_some_and(|state| state == wanted) {
                return Ok(());
            }
            if now() >= end {
                return Err(Error::Late { what: format!("path rules that are {wanted}"), bound: BOUND });
            }
            pass(Duration::from_millis(5));
        }
    }
}

/// The port is elected; path rules are laid, or not.
fn policy(with: bool) -> String {
    let path_rules = if with { "on" } else { "off" };
    let uplink = |name| format!("[[uplink]]\nname = \"{name}\"\nmatch = {{ interface = \"{name}\" }}\n");
    format!("path_rules = \"{path_rules}\"\n{}{}", uplink("port"), uplink("mgmt"))
}

/// Writes for a while; to be called on the thread that is measured.
fn answering(mut write: impl FnMut() -> std::io::Result<()>) -> std::io::Result<Run> {
    let (begun, used) = (now(), cpu());
    let mut written = 0_u64;
    while now().since(begun) < SPAN {
        for _ in 0..BURST {
            write()?;
        }
        written += BURST;
    }
    let (span, used) = (now().since(begun), cpu().saturating_sub(used));
    #[allow(clippy::cast_precision_loss, reason = "some hundred thousand")]
    let written = written as f64;
    Ok(Run { pace: written / span.as_secs_f64(), cost: used.as_secs_f64() * 1e9 / written })
}

/// Processor time of the calling thread.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Into::into)
}

/// The medians of both, and of how many times as much it is with path rules.
fn told(kind: Kind, pairs: &[(Run, Run)]) -> String {
    let (title, thing) = match kind {
        Kind::Datagrams => ("datagrams of 64 bytes", "packet"),
        Kind::Stream => ("a TCP stream", "64 KB"),
    };
    let line = |what: &str, unit: &str, of: fn(&Run) -> f64| {
        let with = median(pairs.iter().map(|(with, _)| of(with)));
        let without = median(pairs.iter().map(|(_, without)| of(without)));
        let ratio = median(pairs.iter().map(|(with, without)| of(with) / of(without)));
        format!("  {what}: {with:.0} beside {without:.0} {unit}{thing}, median ratio {ratio:.3}")
    };
    let pace = line("pace", "a second, each a ", |run| run.pace);
    let cost = line("cost", "ns of CPU a ", |run| run.cost);
    format!("{title}, {} pairs\n{pace}\n{cost}", pairs.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_pairs() {
        let run = |pace, cost| Run { pace, cost };
        let pairs = [
            (run(90.0, 110.0), run(100.0, 100.0)),
            (run(180.0, 55.0), run(200.0, 50.0)),
            (run(95.0, 100.0), run(95.0, 100.0)),
        ];
        let text = told(Kind::Datagrams, &pairs);
        assert!(text.contains("pace: 95 beside 100 a second, each a packet, median ratio 0.900"), "{text}");
        assert!(text.contains("cost: 100 beside 100 ns of CPU a packet, median ratio 1.100"), "{text}");
    }
}
