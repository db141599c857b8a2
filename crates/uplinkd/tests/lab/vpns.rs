//! VPNs that have a table and rules of their own: what they send for keeps its say, and their own packets
//! follow the pin.

use std::net::IpAddr;
use std::time::Duration;

use libtest_mimic::{Failed, Trial};
use uplink_lab::{Background, Fault, Host, INTERNET4, LookupReport, Lookups, Site, now, pass};

use crate::scene::{BRISK, INTERNET, Outcome, PCI, Scene, trial};

pub(crate) fn trials() -> Vec<Trial> {
    let table = format!("{BRISK}placement = \"table\"\n");
    let first = table.clone();
    vec![
        trial("vpn: wg-quick for everything: left alone, its packets follow the pin", || wg_quick(BRISK)),
        trial("vpn: wg-quick for everything, placement table: the same", move || wg_quick(&table)),
        trial("vpn: wg-quick for everything, up before uplinkd: no subnet is lost when it goes", || {
            wg_quick_first(BRISK)
        }),
        trial(
            "vpn: wg-quick for everything, up before uplinkd, placement table: no subnet is lost when it goes",
            move || wg_quick_first(&first),
        ),
        trial("vpn: a table and rules by mark: left alone, what is marked follows the pin", marked),
    ]
}

/// The tunnel's interface on both sides.
const TUNNEL: &str = "wg0";
/// wireguard-go sends from the address and interface that were answered last, until it hears of another
/// route; when it misses that, until a handshake was not answered: 15 s, and 5 s for its repetition.
const STICKY: Duration = Duration::from_secs(45);
/// What wg-quick marks its own packets with.
const WG_MARK: &str = "51820";
/// What Tailscale marks its own packets with.
const VPN_MARK: &str = "0x80000";
const CONFIG: &str = "/run/lab-wireguard/wg0.conf";

/// wg-quick(8), by wireguard-go where the kernel has no WireGuard.
fn wg_quick(toml: &str) -> Outcome {
    let scene = Scene::configured(toml)?;
    let (worker, internet) = (&scene.site.worker, &scene.site.internet);
    let [ours, theirs] = [Keys::new(worker)?, Keys::new(internet)?];
    let (here, there) = (Background::start(worker)?, Background::start(internet)?);
    answer(internet, &there, &theirs, &ours)?;
    worker.write(CONFIG, for_everything(&ours, &theirs))?;
    let since = scene.changes.caught_up()?;
    here.command(worker, "wg-quick", &["up", CONFIG])?;
    scene.leads_to(TUNNEL)?;
    arrives(&scene)?;
    // Its firewall makes the kernel track connections: path rules by mark follow.
    assert_eq!(scene.pin_writes(since)?, [], "nothing of this is ours to answer");
    let beside = scene.foreign()?;
    let goes_by = |uplink| {
        marked_lead_to(&scene, WG_MARK, uplink)?;
        arrives(&scene)?;
        scene.leads_to(TUNNEL)?;
        assert_eq!(scene.foreign()?, beside);
        Outcome::Ok(())
    };
    scene.site.port.cable.fault(&[Fault::Silent]);
    goes_by("mgmt")?;
    scene.site.port.cable.heal();
    goes_by("port")?;
    here.command(worker, "wg-quick", &["down", CONFIG])?;
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

/// It came up first, so that its rules stand behind ours. When it goes, it deletes rules like ours, too,
/// over and over until there are none that say what one of its own says.
fn wg_quick_first(toml: &str) -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let [ours, theirs] = [Keys::new(&site.worker)?, Keys::new(&site.internet)?];
    let (here, there) = (Background::start(&site.worker)?, Background::start(&site.internet)?);
    answer(&site.internet, &there, &theirs, &ours)?;
    site.worker.write(CONFIG, for_everything(&ours, &theirs))?;
    here.command(&site.worker, "wg-quick", &["up", CONFIG])?;
    let scene = Scene::begin(site, toml)?;
    marked_lead_to(&scene, WG_MARK, "port")?;
    scene.leads_to(TUNNEL)?;
    arrives(&scene)?;
    let worker = &scene.site.worker;
    let beside = [scene.site.mgmt.gateway4.into(), scene.site.mgmt.gateway6_global.into()];
    let lookups = Lookups::start(worker, &beside, Duration::from_millis(1))?;
    here.command(worker, "wg-quick", &["down", CONFIG])?;
    scene.leads_to("port")?;
    // The longest that we hold back for one that took so few rules.
    pass(Duration::from_millis(1500));
    let astray = longest_beside("mgmt", &beside, &lookups.stop());
    println!("management's subnet was reached elsewhere for {astray:?}");
    if astray > Duration::from_millis(300) {
        return Err(scene.explain(&format!("management's subnet was reached elsewhere for {astray:?}")));
    }
    scene.finish_among()?;
    Ok(())
}

/// The longest time for which one of these addresses led elsewhere than through this interface.
fn longest_beside(interface: &str, addresses: &[IpAddr], asked: &LookupReport) -> Duration {
    let of = |address: &IpAddr| {
        let ways: Vec<_> = asked.changes.iter().filter(|way| way.what.to == *address).collect();
        let beside = ways.windows(2).map(|pair| match pair {
            [way, next] if way.what.interface.as_deref() != Ok(interface) => next.at.since(way.at),
            _ => Duration::ZERO,
        });
        beside.max().unwrap_or_default()
    };
    addresses.iter().map(of).max().unwrap_or_default()
}

/// As Tailscale does with an exit node: its own packets are marked and go by the main table, all others
/// by a table of its own.
fn marked() -> Outcome {
    let scene = Scene::configured(BRISK)?;
    let since = scene.changes.caught_up()?;
    scene.write(&["tuntap add dev vpn mode tun", "link set vpn up", "address add 192.0.2.2/32 dev vpn"])?;
    scene.write(&["address add fd00:99::2/128 dev vpn nodad"])?;
    for family in ["-4", "-6"] {
        worker_says(&scene, &format!("{family} route add default dev vpn table 52"))?;
        worker_says(&scene, &format!("{family} rule add pref 5210 fwmark 0x80000/0xff0000 lookup main"))?;
        worker_says(&scene, &format!("{family} rule add pref 5250 fwmark 0x80000/0xff0000 unreachable"))?;
        worker_says(&scene, &format!("{family} rule add pref 5270 lookup 52"))?;
    }
    scene.leads_to("vpn")?;
    assert_eq!(scene.writes(since)?, [], "nothing of this is ours to answer");
    let beside = scene.foreign()?;
    marked_lead_to(&scene, VPN_MARK, "port")?;
    scene.site.port.cable.fault(&[Fault::Silent]);
    marked_lead_to(&scene, VPN_MARK, "mgmt")?;
    scene.leads_to("vpn")?;
    scene.site.port.cable.heal();
    marked_lead_to(&scene, VPN_MARK, "port")?;
    scene.leads_to("vpn")?;
    assert_eq!(scene.foreign()?, beside);
    scene.finish_changed()?;
    Ok(())
}

fn worker_says(scene: &Scene, arguments: &str) -> Outcome {
    scene.site.worker.ip(arguments)?;
    Ok(())
}

/// Packets with the VPN's mark leave through this uplink, now or soon.
fn marked_lead_to(scene: &Scene, mark: &str, uplink: &str) -> Outcome {
    scene.until(&format!("what is marked leads to {uplink}"), || {
        let leads = |to| {
            let way = scene.site.worker.ip(&format!("route get {to} mark {mark}"))?;
            Ok::<_, Failed>(way.contains(&format!(" dev {uplink} ")))
        };
        Ok(leads(INTERNET[0])? && leads(INTERNET[1])?)
    })
}

/// Packets of both streams arrive.
fn arrives(scene: &Scene) -> Outcome {
    let since = now();
    for stream in &scene.streams {
        stream.wait_for_arrival(since, STICKY).map_err(|error| scene.explain(&error.to_string()))?;
    }
    Ok(())
}

/// A key pair of WireGuard.
struct Keys {
    private: String,
    public: String,
}

impl Keys {
    fn new(host: &Host) -> Result<Self, Failed> {
        let text = host.command("sh", &["-c", "k=$(wg genkey); echo $k; echo $k | wg pubkey"])?;
        let mut lines = text.lines().map(str::to_owned);
        let (Some(private), Some(public)) = (lines.next(), lines.next()) else {
            return Err(format!("no keys in {text}").into());
        };
        Ok(Self { private, public })
    }
}

/// The worker's configuration: all goes through the tunnel.
fn for_everything(ours: &Keys, theirs: &Keys) -> String {
    format!(
        "[Interface]\nPrivateKey = {}\nAddress = 192.0.2.2/32, fd00:99::2/128\n\
         [Peer]\nPublicKey = {}\nEndpoint = {INTERNET4}:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n",
        ours.private, theirs.public
    )
}

/// The other end of the tunnel.
fn answer(host: &Host, background: &Background, own: &Keys, peer: &Keys) -> Outcome {
    host.write(
        CONFIG,
        format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\nAddress = 192.0.2.1/32, fd00:99::1/128\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 192.0.2.2/32, fd00:99::2/128\n",
            own.private, peer.public
        ),
    )?;
    background.command(host, "wg-quick", &["up", CONFIG])?;
    Ok(())
}
