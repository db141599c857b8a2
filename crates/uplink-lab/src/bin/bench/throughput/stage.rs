//! Where path rules are measured.
//!
//! ```text
//! pod ─ bridge ─ worker ─ port ── client     veth pairs, nothing between them: what is measured is the kernel
//!                       └ mgmt ── gateway
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use uplink_lab::{Daemon, Error, Host, Result, now, pass};

use super::{CHUNK, CROWD, DATAGRAM, From, Kind, Laid, Run, What, answering};

/// How long the daemon may take to follow a change, and a question to arrive.
const BOUND: Duration = Duration::from_secs(20);
/// The worker's address on its port, and where it answers from.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 1, 2)), 7000);
/// Where the pod answers from, and where it is asked.
const POD: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 244, 0, 2)), 7000);
const NODE_PORT: SocketAddr = SocketAddr::new(SERVICE.ip(), 30000);
/// A client from elsewhere, and the first port it asks from.
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const ASKING: u16 = 8000;
/// Rules of the firewall that a packet passes on its way out.
pub(super) const FIREWALL: u16 = 20;

/// A worker with two uplinks and a pod, and who is behind them.
pub(super) struct Stage {
    worker: Host,
    pod: Host,
    client: Host,
    daemon: Daemon,
    service: UdpSocket,
    in_pod: UdpSocket,
    clients: Vec<UdpSocket>,
    _gateway: Host,
}

impl Stage {
    pub(super) fn set(daemon: &Path) -> Result<Self> {
        let worker = Host::new("worker")?;
        let (client, gateway) = (Host::new("client")?, Host::new("gateway")?);
        for (number, interface, neighbour) in [(1, "port", &client), (2, "mgmt", &gateway)] {
            uplink(&worker, number, interface, neighbour)?;
        }
        let pod = pod(&worker)?;
        // Somebody translates addresses, so that connections are tracked.
        let services = format!(
            "add table ip services; \
             add chain ip services in {{ type nat hook prerouting priority dstnat; }}; \
             add rule ip services in ip daddr {0} tcp dport {1} dnat to {POD}; \
             add rule ip services in ip daddr {0} udp dport {1} dnat to {POD}",
            NODE_PORT.ip(),
            NODE_PORT.port()
        );
        worker.command("nft", &[services])?;
        let daemon = Daemon::of(daemon, &["run"]).config(&policy(Laid::PathRules)).start(&worker)?;
        daemon.wait_ready(BOUND)?;
        let service = worker.run(|| answering_socket(SERVICE))?;
        let in_pod = pod.run(|| answering_socket(POD))?;
        let clients: Result<_> =
            client.run(|| (0..CROWD).map(|number| asking_socket(ASKING + number)).collect());
        Ok(Self { worker, pod, client, daemon, service, in_pod, clients: clients?, _gateway: gateway })
    }

    /// Answers as fast as one thread can.
    pub(super) fn run(&self, laid: Laid, kind: Kind) -> Result<Run> {
        self.daemon.reload(&policy(laid))?;
        self.await_state(if laid == Laid::PathRules { "connections" } else { "off" })?;
        if laid == Laid::Firewall {
            self.worker.command("nft", &[firewall()])?;
        }
        let run = match kind.what {
            What::Datagrams(clients) => self.datagrams(kind.from, clients),
            What::Stream => self.stream(kind.from),
        };
        if laid == Laid::Firewall {
            self.worker.command("nft", &["delete table ip firewall"])?;
        }
        run
    }

    fn datagrams(&self, from: From, clients: u16) -> Result<Run> {
        let (host, socket, asked) = match from {
            From::Worker => (&self.worker, &self.service, SERVICE),
            From::Pod => (&self.pod, &self.in_pod, NODE_PORT),
        };
        // By these the connections are known, and marked.
        for client in self.clients.iter().take(clients.into()) {
            client.send_to(b"?", asked).map_err(failed("ask the service"))?;
            socket.recv_from(&mut [0; 16]).map_err(failed("ask the service"))?;
        }
        let socket = socket.try_clone().map_err(failed("answer"))?;
        let answer = [b'!'; DATAGRAM];
        let mut ports = (ASKING..ASKING + clients).cycle();
        let answered = host.run(move || {
            answering(|| {
                let port = ports.next().unwrap_or(ASKING);
                socket.send_to(&answer, (CLIENT, port)).map(drop)
            })
        });
        answered.map_err(failed("answer"))
    }

    fn stream(&self, from: From) -> Result<Run> {
        let (host, listening, asked) = match from {
            From::Worker => (&self.worker, SERVICE, SERVICE),
            From::Pod => (&self.pod, POD, NODE_PORT),
        };
        let mut stream = self.connected(host, listening, asked).map_err(failed("connect to the service"))?;
        let chunk = vec![b'!'; CHUNK];
        host.run(move || answering(|| stream.write_all(&chunk))).map_err(failed("answer"))
    }

    /// A connection that the client made, and reads until it ends.
    fn connected(&self, host: &Host, listening: SocketAddr, asked: SocketAddr) -> std::io::Result<TcpStream> {
        let listener = host.run(move || TcpListener::bind(listening))?;
        let asking = self.client.run(move || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&SocketAddr::new(CLIENT.into(), 0).into())?;
            socket.connect(&asked.into())?;
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

fn uplink(worker: &Host, number: u8, interface: &str, neighbour: &Host) -> Result<()> {
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
    ))
}

/// A pod behind a bridge of the worker, which forwards.
fn pod(worker: &Host) -> Result<Host> {
    let pod = Host::new("pod")?;
    worker.sysctl("net/ipv4/ip_forward", "1")?;
    worker.ip_batch(&format!(
        "link add bridge type bridge forward_delay 0\n\
         link add to-pod type veth peer name eth0 netns {}\n\
         link set to-pod master bridge\n\
         link set bridge up\n\
         link set to-pod up\n\
         address add 10.244.0.1/24 dev bridge\n",
        pod.namespace()
    ))?;
    pod.ip_batch(&format!(
        "link set eth0 up\n\
         address add {}/24 dev eth0\n\
         route add default via 10.244.0.1\n",
        POD.ip()
    ))?;
    // The bridge's carrier comes a moment later, and shows in the table.
    let end = now() + BOUND;
    while worker.ip("route show")?.contains("linkdown") {
        if now() >= end {
            return Err(Error::Late { what: "the carrier of the bridge".to_owned(), bound: BOUND });
        }
        pass(Duration::from_millis(1));
    }
    Ok(pod)
}

/// What could not be done.
fn failed(what: &str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::System { what: what.to_owned(), source }
}

fn answering_socket(at: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(at).map_err(failed("open a socket"))?;
    socket.set_read_timeout(Some(BOUND)).map_err(failed("open a socket"))?;
    Ok(socket)
}

/// A client's socket. It reads nothing: what fills its short queue is dropped there.
fn asking_socket(port: u16) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(failed("open a socket"))?;
    socket.set_recv_buffer_size(0).map_err(failed("open a socket"))?;
    socket.bind(&SocketAddr::new(CLIENT.into(), port).into()).map_err(failed("open a socket"))?;
    Ok(socket.into())
}

/// The port is elected; path rules are laid, or not.
fn policy(laid: Laid) -> String {
    let path_rules = match laid {
        Laid::PathRules => "on",
        Laid::Nothing | Laid::Firewall => "off",
    };
    let uplink = |name| format!("[[uplink]]\nname = \"{name}\"\nmatch = {{ interface = \"{name}\" }}\n");
    format!("path_rules = \"{path_rules}\"\n{}{}", uplink("port"), uplink("mgmt"))
}

/// Drops what is sent to ports that nobody uses here, one rule for each, half of them TCP's.
fn firewall() -> String {
    let mut text = "add table ip firewall; ".to_owned();
    for hook in ["output", "forward"] {
        text += &format!("add chain ip firewall {hook} {{ type filter hook {hook} priority filter; }}; ");
        for number in 0..FIREWALL {
            let protocol = if number % 2 == 0 { "tcp" } else { "udp" };
            text += &format!("add rule ip firewall {hook} {protocol} dport {} drop; ", 100 + number);
        }
    }
    text
}
