//! Path rules: what came in through an uplink is answered through it, whichever is elected.
//!
//! ```text
//! pod ─ bridge ─ worker ─ port ── gateway, strict ─┐
//!                       └ mgmt ── gateway, strict ─┴ internet: the client
//! ```

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};
use uplink_core::snapshot::Family;
use uplink_lab::{Host, Site, Uplink, now, pass};

use crate::capture::Capture;
use crate::lifecycle::end;
use crate::program::{uplinkctl, uplinkd};
use crate::scene::{END, INTERNET, Outcome, SOON, Scene, trial};

/// An answer that takes longer does not come.
const ANSWERED: Duration = Duration::from_secs(5);
/// As above, where none is expected.
const UNANSWERED: Duration = Duration::from_millis(400);

/// Where services listen.
const LISTENING: u16 = 8080;
/// The NodePort of a service that listens on the worker, at its other uplink's address.
const OF_HOST: u16 = 30001;
/// The NodePort of a service in the pod.
const OF_POD: u16 = 30002;

/// Where the pod is talked to, inside and outside.
const OF_TALK: u16 = 30003;

/// The pod's addresses.
const POD: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 244, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, 2))];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("path rules, port elected: every flow is answered where it came in, rp_filter 0, 1, 2", || {
            every_flow("port")
        }),
        trial("path rules, mgmt elected: every flow is answered where it came in, rp_filter 0, 1, 2", || {
            every_flow("mgmt")
        }),
        trial("path rules off: what comes in by the uplink that is not elected has no answer", without),
        trial(
            "seed defect 24c: path rules, untracked: a client on the management address is answered, untracked",
            untracked,
        ),
        trial("path rules where the kernel refuses marks: none, and it is said", refused),
        trial("path rules: stop, kill and cleanup leave nothing, src_valid_mark is put back", traceless),
        trial("path rules: a restart changes nothing", restarted),
        trial("path rules: a deleted table stands again at once", undone),
        trial("path rules: who undoes them is named with the setting that ends it", contest_named),
        trial("path rules: addresses are followed, those that come and go are left out", addresses),
        trial("path rules: turned off, they go; turned on, they come", switched),
        trial("path rules: with other bits, connections that had the old ones go on", other_bits),
        trial("path rules: a VPN's default route keeps its say", vpn),
        trial("path rules: a connection from an uplink's address outlives a planned switch", stays),
        trial("path rules beside a multipath pin: every flow is answered where it came in", shared),
        trial("path rules: what others mark stays as they marked it", marked_by_others),
        trial(
            "path rules: a translated connection that others mark is answered as without us",
            left_to_others,
        ),
        trial("path rules, strict check: what is only sent on comes back", sent_on),
    ]
}

/// The site with a pod, services, and routers that let through only what comes from their own subnet.
struct Stage {
    scene: Scene,
    pod: Host,
    services: Vec<Service>,
    captures: [Capture; 2],
}

/// Configuration with which this uplink is elected.
fn electing(interface: &str, more: &str) -> String {
    let other = if interface == "port" { "mgmt" } else { "port" };
    let uplink = |name: &str, tier| {
        format!("[[uplink]]\nname = \"{name}\"\nmatch = {{ interface = \"{name}\" }}\ntier = {tier}\n")
    };
    format!("{more}\n{}{}", uplink(interface, 1), uplink(other, 2))
}

impl Stage {
    fn set(elected: &str, more: &str) -> Result<Self, Failed> {
        let stage = Self::configured(&electing(elected, more))?;
        stage.scene.leads_to(elected)?;
        Ok(stage)
    }

    fn configured(toml: &str) -> Result<Self, Failed> {
        let site = Site::new()?;
        let pod = pod(&site)?;
        translate(&site)?;
        for uplink in [&site.port, &site.mgmt] {
            strict(uplink)?;
        }
        let services = vec![Service::start(&site.worker)?, Service::start(&pod)?];
        let captures = [Capture::start(&site.port.gateway)?, Capture::start(&site.mgmt.gateway)?];
        let scene = Scene::begin(site, toml)?;
        Ok(Self { scene, pod, services, captures })
    }

    /// Sets the worker's reverse-path check.
    fn check(&self, rp_filter: u8) -> Outcome {
        for of in ["all", "port", "mgmt", "bridge"] {
            let sysctl = format!("net/ipv4/conf/{of}/rp_filter");
            self.scene.site.worker.sysctl(&sysctl, &rp_filter.to_string())?;
        }
        Ok(())
    }

    /// Connects from the internet to each service by each uplink; every packet of the answer must go by
    /// the gateway of the uplink that the question came by.
    fn all_flows(&self, what: &str) -> Outcome {
        let (port, mgmt) = (&self.scene.site.port, &self.scene.site.mgmt);
        for (by, uplink) in [(0, port), (1, mgmt)] {
            for (client, address) in
                INTERNET.into_iter().zip([IpAddr::V4(uplink.address4), uplink.address6.into()])
            {
                for service in [LISTENING, OF_HOST, OF_POD] {
                    let what = format!("{what}: {client} to {address} port {service}");
                    for capture in &self.captures {
                        capture.packets()?;
                    }
                    if !self.asks(client, SocketAddr::new(address, service), ANSWERED)? {
                        return Err(self.scene.explain(&format!("{what}: no answer\n{}", self.laid()?)));
                    }
                    let answers = |at: usize| {
                        let packets = self.captures[at].packets()?;
                        Ok::<_, Failed>(packets.iter().filter(|ends| **ends == (address, client)).count())
                    };
                    let (here, elsewhere) = (answers(by)?, answers(1 - by)?);
                    assert!(here >= 2 && elsewhere == 0, "{what}: {here} here, {elsewhere} elsewhere");
                }
            }
        }
        Ok(())
    }

    /// Whether a service greets the client.
    fn asks(&self, client: IpAddr, service: SocketAddr, within: Duration) -> Result<bool, Failed> {
        greets(&self.scene.site.internet, client, service, within)
    }

    /// Our rules and nftables tables.
    fn laid(&self) -> Result<String, Failed> {
        laid(&self.scene.site.worker)
    }

    /// What the status says of path rules in both families; where connections are marked, those of both
    /// uplinks are.
    fn becomes(&self, state: &str) -> Outcome {
        becomes(&self.scene, state)?;
        for (family, uplink) in
            Family::ALL.into_iter().flat_map(|family| [(family, "port"), (family, "mgmt")])
        {
            self.scene.until(&format!("{family}: {uplink} is marked"), || {
                let marked = !self.scene.path(uplink, family)?["path_rules"]["mark"].is_null();
                Ok(marked == (state == "connections"))
            })?;
        }
        Ok(())
    }

    fn finish(self) -> Outcome {
        // Streams of packets are no subject here: their answers are not routed as the lab's counters say.
        self.scene.finish()?;
        drop((self.services, self.pod));
        Ok(())
    }
}

fn becomes(scene: &Scene, state: &str) -> Outcome {
    for family in Family::ALL {
        scene.until(&format!("{family}: path rules are {state}"), || {
            Ok(scene.status_of(family, "path_rules")? == state)
        })?;
    }
    Ok(())
}

/// Rules and nftables tables of ours on a host.
fn laid(host: &Host) -> Result<String, Failed> {
    let mut text = String::new();
    for family in ["-4", "-6"] {
        let rules = host.ip(&format!("{family} rule show"))?;
        let ours = rules.lines().filter(|line| line.trim_end().ends_with("proto 117"));
        ours.for_each(|line| text.push_str(&format!("{family} {line}\n")));
    }
    let tables = host.command("nft", &["list", "tables"])?;
    for table in tables.lines().filter(|line| line.ends_with(" uplinkd")) {
        text.push_str(&host.command("nft", &[format!("list {table}")])?);
    }
    Ok(text)
}

/// `src_valid_mark` of an interface of the worker.
fn src_valid_mark(scene: &Scene, interface: &str) -> Result<String, Failed> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/src_valid_mark");
    let text = scene.site.worker.run(move || std::fs::read_to_string(path))?;
    Ok(text.trim().to_owned())
}

/// Whether a service greets a client of this host within some time.
fn greets(host: &Host, client: IpAddr, service: SocketAddr, within: Duration) -> Result<bool, Failed> {
    let greeted = host.run(move || match connect(client, service, within) {
        Ok(mut stream) => stream.read_exact(&mut [0; 2]).is_ok(),
        Err(_) => false,
    });
    Ok(greeted)
}

/// A connection from this address.
fn connect(client: IpAddr, service: SocketAddr, within: Duration) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(service), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    socket.set_read_timeout(Some(within))?;
    socket.connect_timeout(&service.into(), within)?;
    Ok(socket.into())
}

/// A service that greets whoever connects, in both families.
struct Service {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    fn start(host: &Host) -> Result<Self, Failed> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
            let listener = host.run(move || listen(any))?;
            let stop = Arc::clone(&stop);
            threads.push(host.thread("service", move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => drop((&stream).write_all(b"hi")),
                        Err(_) => pass(Duration::from_millis(2)),
                    }
                }
            })?);
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn listen(any: IpAddr) -> std::io::Result<TcpListener> {
    let at = SocketAddr::new(any, LISTENING);
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    if any.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&at.into())?;
    socket.listen(16)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A pod behind a bridge of the worker, which forwards.
pub(crate) fn pod(site: &Site) -> Result<Host, Failed> {
    let pod = Host::new("pod")?;
    pod.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
    let worker = &site.worker;
    worker.sysctls(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
    ])?;
    worker.ip_batch(&format!(
        "link add bridge type bridge forward_delay 0\n\
         link add to-pod type veth peer name eth0 netns {}\n\
         link set to-pod master bridge\n\
         link set bridge addrgenmode none\n\
         link set to-pod addrgenmode none\n\
         link set bridge up\n\
         link set to-pod up\n\
         address add 10.244.0.1/24 dev bridge\n\
         address add fd44::1/64 dev bridge nodad\n\
         address add fe80::1/64 dev bridge nodad\n",
        pod.namespace()
    ))?;
    pod.ip_batch(
        "link set eth0 up\n\
         address add 10.244.0.2/24 dev eth0\n\
         address add fd44::2/64 dev eth0 nodad\n\
         route add default via 10.244.0.1\n\
         -6 route add default via fd44::1\n",
    )
    .or_else(|_| pod.ip_batch("route add ::/0 via fd44::1\n"))?;
    // The bridge's carrier comes a moment later, and shows in the table.
    let end = now() + SOON;
    while worker.ip("route show table all")?.contains("linkdown") {
        if now() >= end {
            return Err("the bridge has no carrier".into());
        }
        pass(Duration::from_millis(1));
    }
    Ok(pod)
}

/// NodePorts on both uplinks' addresses, as kube-proxy lays them: to a listener at the address of the
/// *other* uplink, and to the pod.
fn translate(site: &Site) -> Outcome {
    let (port, mgmt) = (&site.port, &site.mgmt);
    for (family, word, port, mgmt, pod) in [
        ("ip", "ip", port.address4.to_string(), mgmt.address4.to_string(), POD[0].to_string()),
        ("ip6", "ip6", format!("{}", port.address6), format!("{}", mgmt.address6), POD[1].to_string()),
    ] {
        let to = |address: &str, port: u16| match family {
            "ip" => format!("{address}:{port}"),
            _ => format!("[{address}]:{port}"),
        };
        let rules = format!(
            "add table {family} services; \
             add chain {family} services in {{ type nat hook prerouting priority dstnat; }}; \
             add rule {family} services in {word} daddr {port} tcp dport {OF_HOST} dnat to {}; \
             add rule {family} services in {word} daddr {mgmt} tcp dport {OF_HOST} dnat to {}; \
             add rule {family} services in {word} daddr {{ {port}, {mgmt} }} tcp dport {OF_POD} dnat to {}",
            to(&mgmt, LISTENING),
            to(&port, LISTENING),
            to(&pod, LISTENING),
        );
        site.worker.command("nft", &[rules])?;
    }
    Ok(())
}

/// Lets a gateway drop what does not come from where an answer would go (RFC 3704), in both families.
pub(crate) fn strict(uplink: &Uplink) -> Outcome {
    let gateway = &uplink.gateway;
    for of in ["all", "lan", "wan"] {
        gateway.sysctl(&format!("net/ipv4/conf/{of}/rp_filter"), "1")?;
    }
    let rules = "add table ip6 strict; \
        add chain ip6 strict in { type filter hook prerouting priority raw; }; \
        add rule ip6 strict in iifname lan ip6 saddr != fe80::/10 fib saddr . iif oif missing drop";
    gateway.command("nft", &[rules])?;
    Ok(())
}

fn every_flow(elected: &str) -> Outcome {
    let stage = Stage::set(elected, "")?;
    stage.becomes("connections")?;
    for rp_filter in [0, 1, 2] {
        stage.check(rp_filter)?;
        let needed = if rp_filter == 1 { "1" } else { "0" };
        for interface in ["port", "mgmt"] {
            stage.scene.until(&format!("src_valid_mark of {interface} is {needed}"), || {
                let shown = &stage.scene.path(interface, Family::Ipv4)?["path_rules"]["src_valid_mark"];
                Ok(src_valid_mark(&stage.scene, interface)? == needed && *shown == (rp_filter == 1))
            })?;
        }
        stage.all_flows(&format!("{elected} elected, rp_filter {rp_filter}"))?;
    }
    stage.finish()
}

fn without() -> Outcome {
    for (elected, other) in [("port", 1), ("mgmt", 0)] {
        let stage = Stage::set(elected, "path_rules = \"off\"")?;
        stage.becomes("off")?;
        let uplink = [&stage.scene.site.port, &stage.scene.site.mgmt][other];
        for rp_filter in [0, 1, 2] {
            stage.check(rp_filter)?;
            for (client, address) in
                INTERNET.into_iter().zip([uplink.address4.into(), uplink.address6.into()])
            {
                for service in [LISTENING, OF_HOST, OF_POD] {
                    let answered = stage.asks(client, SocketAddr::new(address, service), UNANSWERED)?;
                    assert!(!answered, "{address} port {service} answers, rp_filter {rp_filter}");
                }
            }
        }
        assert_eq!(stage.laid()?, "");
        stage.finish()?;
    }
    Ok(())
}

/// Nobody lets connections be tracked here, and we do not make anybody.
fn untracked() -> Outcome {
    let site = Site::new()?;
    for uplink in [&site.port, &site.mgmt] {
        strict(uplink)?;
    }
    let service = Service::start(&site.worker)?;
    let scene = Scene::begin(site, &electing("port", ""))?;
    becomes(&scene, "sources")?;
    for rp_filter in ["0", "1", "2"] {
        for of in ["all", "port", "mgmt"] {
            scene.site.worker.sysctl(&format!("net/ipv4/conf/{of}/rp_filter"), rp_filter)?;
        }
        for uplink in [&scene.site.port, &scene.site.mgmt] {
            for (client, address) in
                INTERNET.into_iter().zip([uplink.address4.into(), uplink.address6.into()])
            {
                let to = SocketAddr::new(address, LISTENING);
                let answered = greets(&scene.site.internet, client, to, ANSWERED)?;
                assert!(
                    answered,
                    "{address}, rp_filter {rp_filter}: no answer\n{}",
                    laid(&scene.site.worker)?
                );
            }
        }
    }
    let worker = &scene.site.worker;
    assert!(!laid(worker)?.contains("table ip"), "{}", laid(worker)?);
    let count = worker.run(|| std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"));
    assert!(count.is_err() || count.is_ok_and(|count| count.trim() == "0"), "connections are tracked");
    scene.finish()?;
    drop(service);
    Ok(())
}

/// A table of our name that is somebody else's is left alone, with rules or without; without marks, source
/// rules would send the answers of translated connections astray, so none are laid.
fn refused() -> Outcome {
    let site = Site::new()?;
    let pod = pod(&site)?;
    translate(&site)?;
    let services = (Service::start(&site.worker)?, Service::start(&pod)?);
    site.worker.command(
        "nft",
        &["add table ip uplinkd; add chain ip uplinkd mine; add rule ip uplinkd mine counter comment \"mine\"; \
           add table ip6 uplinkd; add set ip6 uplinkd mine { type ipv6_addr; }; \
           add chain ip6 uplinkd in { type filter hook forward priority 0; policy drop; }"],
    )?;
    let foreign = |worker: &Host| {
        ["ip", "ip6"].map(|family| worker.command("nft", &["list", "table", family, "uplinkd"]))
    };
    let before = foreign(&site.worker);
    let scene = Scene::begin(site, &electing("port", ""))?;
    becomes(&scene, "taken")?;
    assert_eq!(foreign(&scene.site.worker).map(Result::unwrap), before.map(Result::unwrap));
    assert!(!laid(&scene.site.worker)?.contains("proto 117"), "{}", laid(&scene.site.worker)?);
    // As without us.
    let port: IpAddr = scene.site.port.address4.into();
    assert!(greets(&scene.site.internet, INTERNET[0], SocketAddr::new(port, OF_HOST), ANSWERED)?);
    // The table is free: path rules are laid.
    for family in ["ip", "ip6"] {
        scene.site.worker.command("nft", &["delete", "table", family, "uplinkd"])?;
    }
    becomes(&scene, "connections")?;
    scene.finish()?;
    drop((services, pod));
    Ok(())
}

fn traceless() -> Outcome {
    let mut stage = Stage::set("port", "")?;
    let ruleset = |stage: &Stage| stage.scene.site.worker.command("nft", &["list", "ruleset"]);
    stage.check(1)?;
    stage.becomes("connections")?;
    stage.scene.until("src_valid_mark is set", || Ok(src_valid_mark(&stage.scene, "mgmt")? == "1"))?;
    // Killed: everything stays, and works on.
    end(&mut stage.scene, Signal::SIGKILL)?;
    stage.all_flows("after a crash")?;
    let cleaned = uplinkd(&stage.scene.site.worker, &["cleanup"])?;
    assert_eq!(cleaned.code, Some(0), "{}", cleaned.said);
    assert_eq!(stage.laid()?, "");
    assert_eq!(src_valid_mark(&stage.scene, "mgmt")?, "0");
    assert_eq!(stage.scene.site.worker.table_text()?, stage.scene.before);
    let clean = ruleset(&stage)?;
    assert!(clean.contains("services"), "{clean}");
    // Stopped: the same.
    stage.scene.start_again(&electing("port", ""))?;
    stage.becomes("connections")?;
    stage.scene.until("src_valid_mark is set", || Ok(src_valid_mark(&stage.scene, "mgmt")? == "1"))?;
    stage.scene.daemon.stop(END)?;
    assert_eq!(stage.laid()?, "");
    assert_eq!(src_valid_mark(&stage.scene, "mgmt")?, "0");
    assert_eq!(ruleset(&stage)?, clean);
    assert_eq!(stage.scene.site.worker.table_text()?, stage.scene.before);
    // What an operator set before us stays set.
    stage.scene.site.worker.sysctl("net/ipv4/conf/mgmt/src_valid_mark", "1")?;
    stage.scene.start_again(&electing("port", ""))?;
    stage.becomes("connections")?;
    stage.all_flows("src_valid_mark was set")?;
    stage.scene.daemon.stop(END)?;
    assert_eq!(src_valid_mark(&stage.scene, "mgmt")?, "1");
    Ok(())
}

fn restarted() -> Outcome {
    let mut stage = Stage::set("port", "")?;
    stage.check(1)?;
    stage.becomes("connections")?;
    stage.all_flows("before")?;
    let with_handles = |stage: &Stage| {
        let worker = &stage.scene.site.worker;
        Ok::<_, Failed>((laid(worker)?, worker.command("nft", &["-a", "list", "ruleset"])?))
    };
    let before = with_handles(&stage)?;
    let since = now();
    end(&mut stage.scene, Signal::SIGUSR2)?;
    stage.scene.start_again(&electing("port", ""))?;
    stage.becomes("connections")?;
    pass(Duration::from_secs(2));
    // Handles are new when anything is laid anew.
    assert_eq!(with_handles(&stage)?, before);
    assert_eq!(stage.scene.writes(since)?, []);
    stage.all_flows("after")?;
    stage.finish()
}

fn undone() -> Outcome {
    let stage = Stage::set("port", "")?;
    stage.becomes("connections")?;
    let before = stage.laid()?;
    let worker = &stage.scene.site.worker;
    for undo in [
        "delete table ip uplinkd; delete table ip6 uplinkd",
        "flush table ip uplinkd",
        "flush chain ip6 uplinkd out",
        "insert rule ip uplinkd in counter drop",
    ] {
        worker.command("nft", &[undo])?;
        stage.scene.until(&format!("after {undo} all stands again"), || {
            Ok(sorted(&stage.laid()?) == sorted(&before))
        })?;
        stage.all_flows(undo)?;
    }
    worker.ip("-4 rule delete preference 32101")?;
    worker.ip("-6 rule delete preference 32201")?;
    stage.scene.until("deleted rules stand again", || Ok(sorted(&stage.laid()?) == sorted(&before)))?;
    stage.finish()
}

/// One program deletes the nftables table over and over, and another the rules of the other family.
fn contest_named() -> Outcome {
    let stage = Stage::set("port", "")?;
    stage.becomes("connections")?;
    let worker = &stage.scene.site.worker;
    // What is not there cannot be deleted.
    let nft = || drop(worker.command("nft", &["delete table ip uplinkd"]));
    names(&stage.scene, Family::Ipv4, "(nft) deletes or changes our nftables table; to end it, let", nft)?;
    let mut ip = Command::new("ip");
    ip.args(["-6", "-force", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut other = worker.spawn(ip)?;
    let mut orders = other.process().stdin.take().ok_or("it takes no orders")?;
    let ip = || {
        let _ = writeln!(orders, "rule delete preference 32101");
        pass(Duration::from_millis(2));
    };
    names(&stage.scene, Family::Ipv6, "(ip) deletes our path rules; to end it, let", ip)?;
    drop(orders);
    stage.becomes("connections")?;
    stage.all_flows("when the others have given up")?;
    stage.finish()
}

/// Undoes path rules until log, status and metrics tell who does.
fn names(scene: &Scene, family: Family, named: &str, mut undo: impl FnMut()) -> Outcome {
    let told = |said: &str| {
        said.contains("path rules: held back: another program keeps undoing them: process ")
            && said.contains(named)
    };
    let program = named[1..].split(')').next().unwrap_or_default();
    let sample = |line: &str| {
        line.starts_with(&format!("uplinkd_path_rules_undone{{family=\"{family}\",process="))
            && line.ends_with(&format!(",name=\"{program}\"}} 1.0"))
    };
    let since = now();
    loop {
        (0..10).for_each(|_| undo());
        let [status, metrics] = ["status", "metrics"].map(|what| uplinkctl(&scene.site.worker, &[what]));
        let (status, metrics) = (status?.said, metrics?.said);
        if status.lines().any(told) && metrics.lines().any(sample) {
            break;
        }
        if now() >= since + 4 * SOON {
            return Err(scene.explain(&format!("not named: {named}\n{status}\n{metrics}")));
        }
    }
    scene.daemon.wait_for_log("who it is", since, SOON, told)?;
    assert!(scene.status_of(family, "undone_by")?.is_null(), "the pin is another matter");
    Ok(())
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn addresses() -> Outcome {
    let stage = Stage::set("port", "")?;
    stage.becomes("connections")?;
    let worker = &stage.scene.site.worker;
    let led = || -> Result<Vec<String>, Failed> {
        let laid = stage.laid()?;
        let lines = laid.lines().filter(|line| line.contains("32201:"));
        Ok(lines.filter_map(|line| line.split_whitespace().nth(3)).map(str::to_owned).collect())
    };
    let usual = led()?;
    assert_eq!(usual.len(), 4, "{usual:?}");
    worker.ip_batch(
        "address add 10.0.10.7/24 dev mgmt\n\
         address add fd00:10::7/64 dev mgmt nodad\n\
         address add 10.0.10.8/32 dev mgmt\n\
         address add fd00:10::8/128 dev mgmt nodad\n\
         address add fd00:10::9/64 dev mgmt nodad preferred_lft 0\n",
    )?;
    let with_new = |led: Vec<String>| {
        let new: Vec<_> = led.into_iter().filter(|from| !usual.contains(from)).collect();
        new == ["10.0.10.7", "fd00:10::7"]
    };
    stage.scene.until("the lasting new addresses are led, no other", || Ok(with_new(led()?)))?;
    worker.ip_batch("address delete 10.0.10.7/24 dev mgmt\naddress delete fd00:10::7/64 dev mgmt\n")?;
    stage.scene.until("those that went are not led", || Ok(led()? == usual))?;
    worker.ip_batch(
        "address delete 10.0.10.8/32 dev mgmt\n\
         address delete fd00:10::8/128 dev mgmt\n\
         address delete fd00:10::9/64 dev mgmt\n",
    )?;
    stage.finish()
}

fn switched() -> Outcome {
    let stage = Stage::set("port", "")?;
    stage.becomes("connections")?;
    stage.scene.daemon.reload(&electing("port", "path_rules = \"off\""))?;
    stage.becomes("off")?;
    stage.scene.until("nothing is laid", || Ok(stage.laid()?.is_empty()))?;
    stage.scene.daemon.reload(&electing("port", "path_marks = 0x7000000"))?;
    stage.becomes("connections")?;
    stage.scene.until("other bits are used", || Ok(stage.laid()?.contains("fwmark 0x1000000/0x7000000")))?;
    assert!(!stage.laid()?.contains("/0x78"), "{}", stage.laid()?);
    stage.all_flows("with other bits")?;
    stage.finish()
}

/// To the pod by management while the port is elected: without a mark, answers would go by the port. When all
/// is over, no connection has bits of ours.
fn other_bits() -> Outcome {
    let stage = Stage::set("port", "")?;
    stage.becomes("connections")?;
    let (worker, internet) = (&stage.scene.site.worker, &stage.scene.site.internet);
    let mgmt: [IpAddr; 2] = [stage.scene.site.mgmt.address4.into(), stage.scene.site.mgmt.address6.into()];
    let old = "postrouting priority 300; }; add rule inet watch out ct mark & 0x78 != 0 counter comment old; \
               add rule inet watch out ct mark & 0x7000000 != 0 counter comment new";
    let watch = format!("add table inet watch; add chain inet watch out {{ type filter hook {old}");
    let mut streams = Vec::new();
    for (client, address) in INTERNET.into_iter().zip(mgmt) {
        let listener = stage
            .pod
            .run(move || TcpListener::bind(SocketAddr::new(POD[usize::from(address.is_ipv6())], OF_TALK)))?;
        let (family, word, pod) = match address {
            IpAddr::V4(_) => ("ip", "ip", format!("{}:{OF_TALK}", POD[0])),
            IpAddr::V6(_) => ("ip6", "ip6", format!("[{}]:{OF_TALK}", POD[1])),
        };
        let rule =
            format!("add rule {family} services in {word} daddr {address} tcp dport {OF_TALK} dnat to {pod}");
        worker.command("nft", &[rule])?;
        let near = internet.run(move || connect(client, SocketAddr::new(address, OF_TALK), ANSWERED))?;
        let (far, _) = listener.accept()?;
        streams.push((near, far));
    }
    let talk = |what: &str| -> Outcome {
        for (near, far) in &streams {
            let mut heard = [0; 2];
            far.set_read_timeout(Some(ANSWERED))?;
            (&mut &*near).write_all(b"hi").and_then(|()| (&mut &*far).read_exact(&mut heard))?;
            let answered = (&mut &*far).write_all(b"ho").and_then(|()| (&mut &*near).read_exact(&mut heard));
            answered.map_err(|error| format!("{what}: {error}\n{}", stage.laid().unwrap_or_default()))?;
        }
        Ok(())
    };
    let seen = |which: &str| -> Result<bool, Failed> {
        let counted = worker.command("nft", &["list table inet watch"])?;
        let lines = counted.lines().filter(|line| line.contains(&format!("\"{which}\"")));
        Ok(lines.into_iter().any(|line| !line.contains("packets 0 ")))
    };
    talk("before")?;
    stage.scene.daemon.reload(&electing("port", "path_marks = 0x7000000"))?;
    stage.scene.until("other bits are used", || {
        Ok(stage.laid()?.matches("fwmark 0x1000000/0x7000000").count() == 4)
    })?;
    talk("with other bits")?;
    worker.command("nft", &[&watch])?;
    talk("with other bits, again")?;
    assert!(seen("new")? && !seen("old")?, "{}", worker.command("nft", &["list table inet watch"])?);
    stage.scene.daemon.reload(&electing("port", "path_rules = \"off\""))?;
    stage.becomes("off")?;
    stage.scene.until("nothing is laid", || Ok(stage.laid()?.is_empty()))?;
    worker.command("nft", &["delete table inet watch"])?;
    worker.command("nft", &[&watch])?;
    // The answer is lost now, but was seen on its way.
    for (near, far) in &streams {
        (&mut &*near).write_all(b"hi").and_then(|()| (&mut &*far).read_exact(&mut [0; 2]))?;
    }
    assert!(!seen("new")? && !seen("old")?, "{}", worker.command("nft", &["list table inet watch"])?);
    worker.command("nft", &["delete table inet watch"])?;
    drop(streams);
    stage.finish()
}

/// As wg-quick lays it: its own table behind a rule at 32764.
fn vpn() -> Outcome {
    let stage = Stage::set("port", "")?;
    stage.becomes("connections")?;
    let worker = &stage.scene.site.worker;
    for (family, peer) in [("-4", "192.0.2.1/24"), ("-6", "fd99::1/64")] {
        if family == "-4" {
            worker.ip("link add vpn type veth peer name vpn-far")?;
            worker.ip("link set vpn up")?;
            worker.ip("link set vpn-far up")?;
        }
        worker.ip(&format!("{family} address add {peer} dev vpn"))?;
        worker.ip(&format!("{family} route add default dev vpn table 51820"))?;
        worker.ip(&format!("{family} rule add lookup main suppress_prefixlength 0 preference 32763"))?;
        worker.ip(&format!("{family} rule add not fwmark 0xca6c lookup 51820 preference 32764"))?;
    }
    let (port, mgmt) = (&stage.scene.site.port, &stage.scene.site.mgmt);
    for (at, family) in ["-4", "-6"].into_iter().enumerate() {
        let way = |from: &str| worker.ip(&format!("{family} route get {} {from}", INTERNET[at]));
        assert!(way("")?.contains("dev vpn"), "{}", way("")?);
        for uplink in [port, mgmt] {
            let own: IpAddr = [uplink.address4.into(), IpAddr::V6(uplink.address6)][at];
            let bound = way(&format!("from {own}"))?;
            assert!(bound.contains(&format!("dev {}", uplink.interface)), "{bound}");
        }
    }
    stage.all_flows("beside a VPN")?;
    for family in ["-4", "-6"] {
        worker.ip(&format!("{family} rule delete preference 32763"))?;
        worker.ip(&format!("{family} rule delete preference 32764"))?;
    }
    worker.ip("link delete vpn")?;
    stage.scene.leads_to("port")?;
    stage.finish()
}

/// Behind gateways that masquerade, a connection that goes on by another one is broken. One that is sent
/// from management's address stays with it when the port comes back.
fn stays() -> Outcome {
    let site = Site::new()?;
    site.masquerade()?;
    let scene = Scene::begin(site, &electing("port", "return_after = \"1s\"\npatience = \"300ms\""))?;
    scene.leads_to("port")?;
    becomes(&scene, "sources")?;
    scene.fail_over()?;
    let flow = uplink_lab::Flow::start(&scene.site.worker, &scene.site.internet, INTERNET[0])
        .map_err(|error| scene.explain(&error.to_string()))?;
    scene.come_back()?;
    let before = flow.report().echoed;
    scene.until("the connection goes on", || {
        let report = flow.report();
        match &report.broken {
            Some(_) => Err(format!("the connection is broken: {report:?}").into()),
            None => Ok(report.echoed > before + 800),
        }
    })?;
    drop(flow);
    scene.finish()?;
    Ok(())
}

/// Without path rules, half of the answers would go by the other member.
fn shared() -> Outcome {
    let uplink = |name| format!("[[uplink]]\nname = \"{name}\"\nmatch = {{ interface = \"{name}\" }}\n");
    let both = format!("within_tier = \"multipath\"\n{}{}", uplink("port"), uplink("mgmt"));
    let stage = Stage::configured(&both)?;
    let worker = &stage.scene.site.worker;
    for family in ["ipv4", "ipv6"] {
        worker.sysctl(&format!("net/{family}/fib_multipath_hash_policy"), "1")?;
    }
    stage.becomes("connections")?;
    for family in Family::ALL {
        stage.scene.pinned(family, "both", |pins| matches!(pins, [pin] if pin.hops == 2))?;
    }
    for rp_filter in [0, 1, 2, 0] {
        stage.check(rp_filter)?;
        stage.scene.until("the check is followed", || {
            Ok(src_valid_mark(&stage.scene, "mgmt")? == if rp_filter == 1 { "1" } else { "0" })
        })?;
        stage.all_flows(&format!("both elected, rp_filter {rp_filter}"))?;
    }
    stage.finish()
}

/// Somebody marks connections and what the host sends, with all bits of the marks.
fn marked_by_others() -> Outcome {
    let stage = Stage::set("port", "")?;
    stage.becomes("connections")?;
    let worker = &stage.scene.site.worker;
    let (questions, answers) = (format!("tcp dport {LISTENING}"), format!("tcp sport {LISTENING}"));
    worker.command(
        "nft",
        &[format!(
            "add table ip others; \
             add chain ip others in {{ type filter hook prerouting priority mangle; }}; \
             add rule ip others in {questions} ct mark set 1; \
             add chain ip others out {{ type filter hook output priority raw; }}; \
             add rule ip others out {answers} meta mark set 0xca6c; \
             add chain ip others arrived {{ type filter hook input priority 0; }}; \
             add rule ip others arrived {questions} ct mark != 1 counter comment changed; \
             add chain ip others left {{ type filter hook postrouting priority 0; }}; \
             add rule ip others left {answers} meta mark != 0xca6c counter comment changed; \
             add rule ip others left {answers} meta mark 0xca6c ct mark 1 counter comment same"
        )],
    )?;
    let port: IpAddr = stage.scene.site.port.address4.into();
    let mgmt: IpAddr = stage.scene.site.mgmt.address4.into();
    for address in [port, mgmt] {
        // The listener's own address leads the answer.
        assert!(stage.asks(INTERNET[0], SocketAddr::new(address, LISTENING), ANSWERED)?, "{address}");
    }
    let counted = worker.command("nft", &["list", "table", "ip", "others"])?;
    let of = |what: &str| counted.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();
    let none = |line: &&str| line.contains("packets 0 ");
    assert!(of("\"changed\"").iter().all(none) && !of("\"same\"").iter().any(none), "{counted}");
    worker.command("nft", &["delete", "table", "ip", "others"])?;
    // Who routes by one of our bits, by hand: none in that family.
    worker.ip("rule add fwmark 0x10 lookup 100 preference 100")?;
    let state = |wanted: &str| {
        stage.scene.until(&format!("path rules are {wanted}"), || {
            Ok(stage.scene.status_of(Family::Ipv4, "path_rules")? == wanted)
        })
    };
    state("foreign_marks")?;
    let shown = uplinkctl(worker, &["status"])?.said;
    let named = "path rules: none: rule 100 of others (fwmark 0x10/0xffffffff) looks at bits of our marks";
    assert!(shown.contains(named), "{shown}");
    assert!(!stage.laid()?.contains("-4 "), "{}", stage.laid()?);
    worker.ip("rule delete fwmark 0x10 lookup 100 preference 100")?;
    state("connections")?;
    stage.all_flows("when the others are gone")?;
    stage.finish()
}

/// A NodePort by the elected uplink to a listener at the other uplink's address, in connections of others: the
/// listener's address does not lead its answers. It leads those that nobody translates.
///
/// Only TCP is looked at: the kernel's own reports of groups have what it left in the place of their mark.
fn left_to_others() -> Outcome {
    let stage = Stage::set("port", "")?;
    stage.becomes("connections")?;
    let worker = &stage.scene.site.worker;
    worker.command(
        "nft",
        &[format!(
            "add table inet others; \
             add chain inet others in {{ type filter hook prerouting priority mangle; }}; \
             add rule inet others in tcp dport {{ {OF_HOST}, {LISTENING} }} ct mark set 1; \
             add chain inet others left {{ type filter hook postrouting priority 0; }}; \
             add rule inet others left meta l4proto tcp meta mark != 0 counter comment marked; \
             add rule inet others left tcp sport {LISTENING} ct mark != 1 counter comment marked"
        )],
    )?;
    let (port, mgmt) = (&stage.scene.site.port, &stage.scene.site.mgmt);
    for rp_filter in [0, 1, 2] {
        stage.check(rp_filter)?;
        let needed = if rp_filter == 1 { "1" } else { "0" };
        stage.scene.until("the check is followed", || Ok(src_valid_mark(&stage.scene, "port")? == needed))?;
        for (client, (elected, other)) in INTERNET.into_iter().zip([
            (IpAddr::V4(port.address4), IpAddr::V4(mgmt.address4)),
            (port.address6.into(), mgmt.address6.into()),
        ]) {
            for (address, service) in [(elected, OF_HOST), (elected, LISTENING), (other, LISTENING)] {
                let what = format!("{client} to {address} port {service}, rp_filter {rp_filter}");
                let answered = stage.asks(client, SocketAddr::new(address, service), ANSWERED)?;
                assert!(answered, "{what}: no answer\n{}", stage.laid()?);
            }
        }
    }
    let counted = worker.command("nft", &["list", "table", "inet", "others"])?;
    assert_eq!(counted.matches("counter packets 0 ").count(), 2, "{counted}");
    worker.command("nft", &["delete", "table", "inet", "others"])?;
    stage.finish()
}

/// The worker is also the router of management's network, and masquerades.
fn sent_on() -> Outcome {
    let site = Site::new()?;
    site.worker.sysctl("net/ipv4/ip_forward", "1")?;
    let masquerade = "add table ip nat; add chain ip nat out { type nat hook postrouting priority srcnat; }; \
        add rule ip nat out ip saddr 10.0.10.0/24 oifname port masquerade";
    site.worker.command("nft", &[masquerade])?;
    let service = Service::start(&site.internet)?;
    let neighbour = &site.mgmt.gateway;
    neighbour.ip(&format!("route replace {}/32 via {}", INTERNET[0], site.mgmt.address4))?;
    let scene = Scene::begin(site, &electing("port", ""))?;
    scene.leads_to("port")?;
    scene.until("connections are followed", || {
        Ok(scene.status_of(Family::Ipv4, "path_rules")? == "connections")
    })?;
    let asks = || {
        let (neighbour, to) = (&scene.site.mgmt.gateway, SocketAddr::new(INTERNET[0], LISTENING));
        greets(neighbour, scene.site.mgmt.gateway4.into(), to, ANSWERED)
    };
    assert!(asks()?, "without a check");
    scene.site.worker.sysctl("net/ipv4/conf/all/rp_filter", "1")?;
    scene.until("the strict check looks at marks", || Ok(src_valid_mark(&scene, "port")? == "1"))?;
    assert!(asks()?, "with a strict check\n{}", laid(&scene.site.worker)?);
    scene.finish()?;
    drop(service);
    Ok(())
}
