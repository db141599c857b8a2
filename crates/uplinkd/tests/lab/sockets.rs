//! Closing the sockets that keep to the address of an uplink that is down.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use nix::libc::ECONNABORTED;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use uplink_lab::{End, Fault, Host, Uplink, pass};

use crate::scene::{BRISK, INTERNET, Outcome, Scene, trial};

/// How long a connection in the lab may take to be made.
const CONNECTED: Duration = Duration::from_secs(10);
/// Nothing happens to a socket that is left alone, in this time after a switch.
const LEFT_ALONE: Duration = Duration::from_millis(700);

/// Whom no gateway forwards to: groups and all, in IPv4 and in IPv6.
const EVERYBODY: [&[&str]; 2] = [&["239.1.2.3", "255.255.255.255"], &["ff05::1234"]];

pub(crate) fn trials() -> Vec<Trial> {
    let closed = |ill| move || closed(ill);
    vec![
        trial("sockets: closed when the port is silent, and only those", closed(Ill::Silent)),
        trial("sockets: closed when the port loses its carrier, and only those", closed(Ill::Carrier)),
        trial("sockets: closed when the port loses its addresses, and only those", closed(Ill::Addresses)),
        trial("sockets: left alone unless it is wanted", unwanted),
        trial("sockets: left alone when the port comes back, and at a restart", kept),
    ]
}

/// What befalls the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ill {
    Silent,
    Carrier,
    Addresses,
}

impl Ill {
    pub(crate) fn befall(self, scene: &Scene) -> Outcome {
        let port = &scene.site.port;
        match self {
            Self::Silent => drop(port.cable.fault(&[Fault::Silent])),
            Self::Carrier => drop(port.cable.carrier(End::Worker, false)?),
            Self::Addresses => {
                let Uplink { address4, address6, .. } = port;
                scene.write(&[
                    format!("address delete {address4}/24 dev port"),
                    format!("address delete {address6}/64 dev port"),
                ])?;
            }
        }
        scene.leads_to("mgmt")
    }
}

/// A socket of the worker's, and what it is connected to.
struct Held {
    what: String,
    near: Socket,
    _far: Option<Socket>,
}

impl Held {
    /// A TCP connection to an address of another host, from this address, or from what the routes give.
    fn tcp(from: &Host, source: Option<IpAddr>, to: &Host, address: IpAddr) -> Result<Self, Failed> {
        Self::connect(from, source, to, address, address)
    }

    /// The same by a socket of IPv6 that talks IPv4.
    fn mapped(from: &Host, to: &Host, address: Ipv4Addr) -> Result<Self, Failed> {
        Self::connect(from, None, to, address.into(), address.to_ipv6_mapped().into())
    }

    fn connect(
        from: &Host,
        source: Option<IpAddr>,
        to: &Host,
        address: IpAddr,
        named: IpAddr,
    ) -> Result<Self, Failed> {
        let listener = to.run(move || TcpListener::bind((address, 0)))?;
        let target = SocketAddr::new(named, listener.local_addr()?.port());
        let near = from.run(move || {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
            if let Some(source) = source {
                socket.bind(&SocketAddr::new(source, 0).into())?;
            }
            socket.connect_timeout(&target.into(), CONNECTED)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let (far, _) = listener.accept()?;
        Ok(Self { what: format!("TCP to {named}"), near, _far: Some(far.into()) })
    }

    /// A connection of several paths (RFC 8684), which has one so far: without that nobody tells the program.
    fn multipath(from: &Host, to: &Host, address: IpAddr) -> Result<Self, Failed> {
        let open = move || {
            let socket = Socket::new(
                Domain::for_address(SocketAddr::new(address, 0)),
                Type::STREAM,
                Some(Protocol::MPTCP),
            )?;
            Ok::<_, std::io::Error>(socket)
        };
        let listener = to.run(move || {
            let socket = open()?;
            socket.bind(&SocketAddr::new(address, 0).into())?;
            socket.listen(1)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let target = listener.local_addr()?;
        let near = from.run(move || {
            let socket = open()?;
            socket.connect_timeout(&target, CONNECTED)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let (mut far, _) = listener.accept()?;
        far.write_all(b"!")?;
        (&near).read_exact(&mut [0; 1])?;
        Ok(Self { what: format!("MPTCP to {address}"), near, _far: Some(far) })
    }

    /// A TCP connection by a socket that is bound to an interface: a new one would take the same.
    fn bound(from: &Host, interface: &str, to: &Host, address: IpAddr) -> Result<Self, Failed> {
        let listener = to.run(move || TcpListener::bind((address, 0)))?;
        let (target, device) = (listener.local_addr()?, interface.to_owned());
        let near = from.run(move || {
            let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
            socket.bind_device(Some(device.as_bytes()))?;
            socket.connect_timeout(&target.into(), CONNECTED)?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let (far, _) = listener.accept()?;
        Ok(Self { what: format!("TCP by {interface} to {address}"), near, _far: Some(far.into()) })
    }

    /// What the listener on the other host's side accepted: the worker's end of a connection to it.
    fn accepted(worker: &Host, address: IpAddr, client: &Host) -> Result<(Self, TcpListener), Failed> {
        let listener = worker.run(move || TcpListener::bind((address, 0)))?;
        let target = listener.local_addr()?;
        let far = client.run(move || std::net::TcpStream::connect_timeout(&target, CONNECTED))?;
        let (near, _) = listener.accept()?;
        let what = format!("TCP accepted at {address}");
        Ok((Self { what, near: near.into(), _far: Some(far.into()) }, listener))
    }

    /// A connected UDP socket, whose address the kernel chose.
    fn udp(from: &Host, address: IpAddr) -> Result<Self, Failed> {
        let any = unspecified(address);
        let near = from.run(move || {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect((address, 9))?;
            Ok::<_, std::io::Error>(socket)
        })?;
        Ok(Self { what: format!("UDP to {address}"), near: near.into(), _far: None })
    }

    /// A connected UDP socket with this address and port.
    fn udp_from(from: &Host, own: SocketAddr, address: IpAddr) -> Result<Self, Failed> {
        let near = from.run(move || {
            let socket = Socket::new(Domain::for_address(own), Type::DGRAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_broadcast(true)?;
            socket.bind(&own.into())?;
            socket.connect(&SocketAddr::new(address, 9).into())?;
            Ok::<_, std::io::Error>(socket)
        })?;
        Ok(Self { what: format!("UDP from {own} to {address}"), near, _far: None })
    }

    /// What a server of UDP has, as one of QUIC does: a socket for all, and one for a client.
    fn served(worker: &Host, own: IpAddr, client: IpAddr) -> Result<[Self; 2], Failed> {
        let all = worker.run(move || {
            let socket = Socket::new(Domain::for_address(SocketAddr::new(own, 0)), Type::DGRAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(unspecified(own), 0).into())?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let port = all.local_addr()?.as_socket().ok_or("no IP socket")?.port();
        let one = Self::udp_from(worker, SocketAddr::new(own, port), client)?;
        Ok([Self { what: "UDP for all".to_owned(), near: all, _far: None }, one])
    }

    fn own_address(&self) -> Result<IpAddr, Failed> {
        let own = self.near.local_addr()?.as_socket().ok_or("no IP socket")?;
        Ok(own.ip().to_canonical())
    }

    /// Whether it was closed: whoever uses it hears so.
    fn is_closed(&self) -> Result<bool, Failed> {
        match SockRef::from(&self.near).take_error()? {
            Some(error) if error.raw_os_error() == Some(ECONNABORTED) => Ok(true),
            Some(error) => Err(format!("{}: {error}", self.what).into()),
            None => Ok(false),
        }
    }
}

fn unspecified(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Sockets that keep to the port's addresses and go by its gateway.
fn by_the_port(scene: &Scene) -> Result<Vec<Held>, Failed> {
    let (worker, internet) = (&scene.site.worker, &scene.site.internet);
    let mut held = vec![Held::mapped(worker, internet, uplink_lab::INTERNET4)?];
    for (address, own) in INTERNET.into_iter().zip(addresses(&scene.site.port)) {
        held.push(Held::tcp(worker, None, internet, address)?);
        held.push(Held::tcp(worker, Some(own), internet, address)?);
        held.push(Held::udp(worker, address)?);
    }
    let own = addresses(&scene.site.port);
    for socket in &held {
        assert!(own.contains(&socket.own_address()?), "{}: {}", socket.what, socket.own_address()?);
    }
    Ok(held)
}

/// Sockets that a dead gateway of the port does not concern, or that nobody here can make anew; with the
/// listeners that must live as long.
fn others(scene: &Scene) -> Result<(Vec<Held>, Vec<TcpListener>), Failed> {
    let (worker, internet) = (&scene.site.worker, &scene.site.internet);
    let (port, mgmt) = (&scene.site.port, &scene.site.mgmt);
    let (mut held, mut listeners) = (Vec::new(), Vec::new());
    for (at, address) in INTERNET.into_iter().enumerate() {
        let (own, other) = (addresses(port)[at], addresses(mgmt)[at]);
        // Of the other uplink, in the port's own subnet, of this host, and of a client elsewhere.
        held.push(Held::tcp(worker, Some(other), internet, address)?);
        held.push(Held::tcp(
            worker,
            None,
            &port.gateway,
            [port.gateway4.into(), port.gateway6_global.into()][at],
        )?);
        held.push(Held::tcp(worker, Some(own), worker, own)?);
        held.push(Held::bound(worker, "port", internet, address)?);
        held.push(Held::multipath(worker, internet, address)?);
        held.extend(Held::served(worker, own, address)?);
        for group in EVERYBODY[at] {
            held.push(Held::udp_from(worker, SocketAddr::new(own, 0), group.parse()?)?);
        }
        let (accepted, listener) = Held::accepted(worker, own, internet)?;
        held.push(accepted);
        listeners.push(listener);
    }
    Ok((held, listeners))
}

fn addresses(uplink: &Uplink) -> [IpAddr; 2] {
    [uplink.address4.into(), uplink.address6.into()]
}

fn closing(more: &str) -> String {
    format!("{BRISK}close_sockets = \"on\"\n{more}")
}

fn closed(ill: Ill) -> Outcome {
    let scene = Scene::configured(&closing(""))?;
    let dead = by_the_port(&scene)?;
    let (alive, listeners) = others(&scene)?;
    ill.befall(&scene)?;
    for socket in &dead {
        scene.until(&format!("{} is closed", socket.what), || socket.is_closed())?;
    }
    for (address, own) in INTERNET.into_iter().zip(addresses(&scene.site.mgmt)) {
        let again = Held::tcp(&scene.site.worker, None, &scene.site.internet, address)?;
        assert_eq!(again.own_address()?, own);
    }
    // Without its address, the host reaches who is in its subnet by the other uplink, too; and nobody
    // reaches the address.
    let gone = if ill == Ill::Addresses { 3 } else { 0 };
    told(&scene, &format!("ipv4: closed {} sockets that kept to 10.0.120.2", 4 + gone))?;
    told(&scene, &format!("ipv6: closed {} sockets that kept to fd00:120::2", 3 + gone))?;
    pass(LEFT_ALONE);
    let in_subnet =
        |socket: &&Held| ["to 10.0.120.", "to fd00:120:"].iter().any(|to| socket.what.contains(to));
    for socket in alive.iter().filter(|socket| gone == 0 || !in_subnet(socket)) {
        assert!(!socket.is_closed()?, "{} is closed", socket.what);
    }
    drop(listeners);
    scene.finish_among()?;
    Ok(())
}

/// The log says so, now or soon.
fn told(scene: &Scene, what: &str) -> Outcome {
    scene.until(what, || Ok(scene.daemon.log().iter().any(|line| line.what.contains(what))))
}

fn unwanted() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    let sockets = by_the_port(&scene)?;
    Ill::Silent.befall(&scene)?;
    pass(LEFT_ALONE);
    for socket in &sockets {
        assert!(!socket.is_closed()?, "{} is closed", socket.what);
    }
    scene.finish()?;
    Ok(())
}

fn kept() -> Outcome {
    let mut scene = Scene::configured(&closing(""))?;
    scene.fail_over()?;
    let during = Held::tcp(&scene.site.worker, None, &scene.site.internet, INTERNET[0])?;
    assert_eq!(during.own_address()?, scene.site.mgmt.address4);
    scene.come_back()?;
    crate::lifecycle::end(&mut scene, nix::sys::signal::Signal::SIGUSR2)?;
    scene.start_again(&closing(""))?;
    scene.leads_to("port")?;
    pass(LEFT_ALONE);
    assert!(!during.is_closed()?, "{} is closed", during.what);
    scene.finish()?;
    Ok(())
}
