//! What goes on after a switch, and what stays stuck: the figures of docs/after-a-switch.md.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use socket2::SockRef;
use uplink_core::snapshot::Family;
use uplink_core::time::Instant;
use uplink_lab::{Fault, Flow, Host, Site, now, pass};

use crate::paths::{pod, strict};
use crate::scene::{INTERNET, Outcome, PCI, Scene, trial};
use crate::sockets::Ill;

/// What is stuck, is for longer than this; what is not, says something every 10 ms.
const STUCK: Duration = Duration::from_secs(3);

pub(crate) fn trials() -> Vec<Trial> {
    let waits = |rules| move || waits(rules);
    vec![
        trial(
            "after a switch: with path rules, what has the port's address goes on with the port",
            waits("on"),
        ),
        trial("after a switch: without path rules, it waits until the port is elected again", waits("off")),
        trial(
            "after a switch: what a pod sends masqueraded goes on, its TCP connections are reset",
            masqueraded,
        ),
        trial(
            "after a switch: who waits for a neighbour that is gone is let go when the kernel gives up",
            parked,
        ),
    ]
}

/// Behind routers that let through only what comes from their own subnet, an old connection cannot go
/// by the other uplink.
fn waits(rules: &str) -> Outcome {
    let site = Site::new()?;
    for uplink in [&site.port, &site.mgmt] {
        strict(uplink)?;
    }
    site.worker.give_pci("port", PCI)?;
    let scene = Scene::begin(
        site,
        &format!("path_rules = \"{rules}\"\npatience = \"300ms\"\nreturn_after = \"2m\""),
    )?;
    scene.leads_to("port")?;
    let echoes = Echo::start(&scene.site.internet)?;
    let (worker, internet) = (&scene.site.worker, &scene.site.internet);
    let mut talks = Vec::new();
    for address in INTERNET {
        talks.push(Talk::start(worker, address)?);
    }
    let flows = [Flow::start(worker, internet, INTERNET[0])?, Flow::start(worker, internet, INTERNET[1])?];
    let heard = || -> Vec<u64> {
        let of_flows = flows.iter().map(|flow| flow.report().echoed);
        talks.iter().map(|talk| talk.echoed.load(Ordering::Relaxed)).chain(of_flows).collect()
    };
    scene.until("all talk", || Ok(heard().iter().all(|count| *count > 0)))?;
    Ill::Silent.befall(&scene)?;
    let before = heard();
    pass(Duration::from_secs(1));
    assert_eq!(heard(), before, "none goes on by the other uplink");
    let since = scene.site.port.cable.heal();
    if rules == "on" {
        for (at, before) in before.iter().enumerate() {
            scene.until(&format!("number {at} goes on"), || Ok(heard()[at] > *before))?;
        }
        println!("after {:?} all of them go on", now().since(since));
    } else {
        scene.becomes("port", Family::Ipv4, "up")?;
        scene.becomes("port", Family::Ipv6, "up")?;
        pass(STUCK);
        assert_eq!(heard(), before);
    }
    scene.leads_to("mgmt")?;
    for flow in &flows {
        assert_eq!(flow.report().broken, None);
    }
    drop((flows, talks, echoes));
    scene.finish()?;
    Ok(())
}

/// The kernel gives a masqueraded connection that leaves elsewhere a new address (`nf_nat_oif_changed` in
/// net/netfilter/nf_nat_core.c): UDP goes on, the peer of a TCP connection resets what it does not know.
fn masqueraded() -> Outcome {
    let site = Site::new()?;
    let pod = pod(&site)?;
    for family in ["ip", "ip6"] {
        let rules = format!(
            "add table {family} nat; \
             add chain {family} nat out {{ type nat hook postrouting priority srcnat; }}; \
             add rule {family} nat out oifname {{ port, mgmt }} masquerade"
        );
        site.worker.command("nft", &[rules])?;
    }
    site.worker.give_pci("port", PCI)?;
    let scene = Scene::begin(site, "patience = \"300ms\"")?;
    scene.leads_to("port")?;
    let echoes = Echo::start(&scene.site.internet)?;
    let talks = [Talk::start(&pod, INTERNET[0])?, Talk::start(&pod, INTERNET[1])?];
    let heard = |at: usize| talks[at].echoed.load(Ordering::Relaxed);
    let flows = INTERNET.map(|address| Flow::start(&pod, &scene.site.internet, address));
    let [Ok(v4), Ok(v6)] = flows else { return Err(format!("no flow: {flows:?}").into()) };
    scene.until("both talk", || Ok(heard(0) > 0 && heard(1) > 0))?;
    Ill::Silent.befall(&scene)?;
    let since = now();
    let before = [heard(0), heard(1)];
    for at in [0, 1] {
        scene.until("what the pod sends is answered", || Ok(heard(at) > before[at]))?;
    }
    println!("UDP of a pod goes on after {:?}", now().since(since));
    for flow in [&v4, &v6] {
        scene.until("the pod's connection is reset", || Ok(flow.report().broken.is_some()))?;
    }
    println!("TCP of a pod: {:?} after {:?}", v4.report().broken, now().since(since));
    drop((v4, v6, talks, echoes));
    scene.finish()?;
    drop(pod);
    Ok(())
}

/// Packets for a neighbour that does not answer are kept by the kernel until it gives the neighbour up, and
/// fill the buffer of the socket that sent them.
fn parked() -> Outcome {
    let scene = Scene::configured("patience = \"300ms\"")?;
    let (worker, port) = (&scene.site.worker, &scene.site.port);
    let senders = [Busy::start(worker, INTERNET[0])?, Busy::start(worker, INTERNET[1])?];
    port.cable.fault(&[Fault::Silent]);
    scene.write(&[
        format!("neighbour delete {} dev port", port.gateway4),
        format!("neighbour delete {} dev port", port.gateway6),
    ])?;
    scene.leads_to("mgmt")?;
    let moved = now();
    for (address, sender) in INTERNET.into_iter().zip(&senders) {
        scene.until("a sender is let go", || Ok(sender.sends(moved + Duration::from_millis(400))))?;
        let waited = sender.longest();
        println!(
            "{address}: one send waited for {waited:?}, until {:?} after the switch",
            now().since(moved)
        );
        assert!(waited > Duration::from_secs(1), "{address}: {waited:?}");
    }
    // Who opens a socket now has nothing to wait for.
    let fresh = Busy::start(worker, INTERNET[0])?;
    scene.until("a new sender sends", || Ok(fresh.sends(now() - GLANCE)))?;
    drop((senders, fresh));
    scene.finish()?;
    Ok(())
}

/// Sends back what comes, in both families, from the address that was asked.
struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Where.
const ECHO: u16 = 7;

impl Echo {
    fn start(host: &Host) -> Result<Self, Failed> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for address in INTERNET {
            let socket = host.run(move || UdpSocket::bind((address, ECHO)))?;
            socket.set_read_timeout(Some(GLANCE))?;
            let stop = Arc::clone(&stop);
            threads.push(host.thread("echo", move || {
                let mut buffer = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        let _ = socket.send_to(&buffer[..length], from);
                    }
                }
            })?);
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        end(&self.stop, &mut self.threads);
    }
}

/// How often threads look whether they should end.
const GLANCE: Duration = Duration::from_millis(10);

/// Talks to the echo by a connected UDP socket, whose address the kernel chooses.
struct Talk {
    echoed: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Talk {
    fn start(host: &Host, to: IpAddr) -> Result<Self, Failed> {
        let socket = host.run(move || {
            let socket = UdpSocket::bind((unspecified(to), 0))?;
            socket.connect(SocketAddr::new(to, ECHO))?;
            socket.set_read_timeout(Some(GLANCE))?;
            Ok::<_, std::io::Error>(socket)
        })?;
        let (echoed, stop) = (Arc::<AtomicU64>::default(), Arc::new(AtomicBool::new(false)));
        let (count, ended) = (Arc::clone(&echoed), Arc::clone(&stop));
        let thread = host.thread("talk", move || {
            while !ended.load(Ordering::Relaxed) {
                let _ = socket.send(b"uplink?");
                let heard = socket.recv(&mut [0; 64]).is_ok();
                count.fetch_add(u64::from(heard), Ordering::Relaxed);
            }
        })?;
        Ok(Self { echoed, stop, threads: vec![thread] })
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        end(&self.stop, &mut self.threads);
    }
}

/// Sends more than its buffer holds, and notes for how long it was kept waiting.
struct Busy {
    sent: Arc<Mutex<Sent>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// The last packet that the kernel took, and the longest that it took for one.
struct Sent {
    last: Instant,
    longest: Duration,
}

/// A buffer of 64 KiB as the kernel counts, a third of the usual: neighbours' queues hold as much as a
/// usual one.
const BUFFER: usize = 32 * 1024;

impl Busy {
    fn start(host: &Host, to: IpAddr) -> Result<Self, Failed> {
        let socket = host.run(move || UdpSocket::bind((unspecified(to), 0)))?;
        SockRef::from(&socket).set_send_buffer_size(BUFFER)?;
        let sent = Arc::new(Mutex::new(Sent { last: now(), longest: Duration::ZERO }));
        let stop = Arc::new(AtomicBool::new(false));
        let (noted, ended) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = host.thread("busy", move || {
            while !ended.load(Ordering::Relaxed) {
                let before = now();
                let _ = socket.send_to(&[0; 1200], SocketAddr::new(to, 9));
                let mut noted = noted.lock().unwrap();
                noted.last = now();
                noted.longest = noted.longest.max(noted.last.since(before));
                drop(noted);
                pass(Duration::from_millis(2));
            }
        })?;
        Ok(Self { sent, stop, threads: vec![thread] })
    }

    /// Whether it has sent anything since.
    fn sends(&self, since: Instant) -> bool {
        self.sent.lock().unwrap().last > since
    }

    fn longest(&self) -> Duration {
        self.sent.lock().unwrap().longest
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        end(&self.stop, &mut self.threads);
    }
}

fn end(stop: &AtomicBool, threads: &mut Vec<JoinHandle<()>>) {
    stop.store(true, Ordering::Relaxed);
    for thread in threads.drain(..) {
        let _ = thread.join();
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}
