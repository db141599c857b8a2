//! The layouts that hosts have: where the gateway of an uplink is written, and where it only seems to be.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use libtest_mimic::{Failed, Trial};
use nix::sys::signal::Signal;
use serde_json::Value;
use uplink_core::snapshot::Family;
use uplink_lab::{Daemon, Fault, Host, Site, now};

use crate::program::uplinkctl;
use crate::scene::{BRISK, END, INTERNET, Outcome, PATIENCE, PCI, SOON, STEADY, Scene, daemon, trial};

const DPU: &str = "dpu-0000:03:00.0";

/// A client: where it writes its lease of the port, and what of an address and its routers.
struct Client {
    file: fn(&Site) -> Result<String, Failed>,
    lease: fn(&str, &[&str]) -> String,
}

const NETWORKD: Client = Client {
    file: |site| Ok(format!("/run/systemd/netif/leases/{}", index(site)?)),
    lease: |address, routers| {
        let routers = match routers {
            [] => String::new(),
            routers => format!("ROUTER={}\n", routers.join(" ")),
        };
        format!(
            "# This is private data. Do not parse.\nADDRESS={address}\nNETMASK=255.255.255.0\n{routers}\
             SERVER_ADDRESS=10.0.120.4\nT1=1800\nT2=3150\nLIFETIME=3600\nDNS=10.0.120.53\n"
        )
    },
};

const NETWORK_MANAGER: Client = Client {
    file: |site| Ok(format!("/run/NetworkManager/devices/{}", index(site)?)),
    lease: |address, routers| {
        let routers = match routers {
            [] => String::new(),
            routers => format!("dhcp4.routers={}\n", routers.join(" ")),
        };
        format!(
            "[device]\nmanaged=true\nconnection-uuid=c0e690a0-c542-3ca2-9abc-460f34b08324\nnm-owned=false\n\
             \n[dhcp4]\ndhcp4.domain_name_servers=10.0.120.53\ndhcp4.ip_address={address}\n{routers}\
             dhcp4.subnet_mask=255.255.255.0\n"
        )
    },
};

const DHCLIENT: Client = Client {
    file: |_| Ok("/var/lib/dhcp/dhclient.port.leases".to_owned()),
    lease: |address, routers| {
        let routers = match routers {
            [] => String::new(),
            routers => format!("  option routers {};\n", routers.join(",")),
        };
        format!(
            "lease {{\n  interface \"port\";\n  fixed-address {address};\n  option subnet-mask 255.255.255.0;\n\
             {routers}  renew 4 2099/12/31 10:00:00;\n  expire 4 2099/12/31 12:00:00;\n}}\n"
        )
    },
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("layout: lease of systemd-networkd names the gateway", || named_by_lease(&NETWORKD)),
        trial("layout: lease of NetworkManager names the gateway", || named_by_lease(&NETWORK_MANAGER)),
        trial("layout: lease of dhclient names the gateway", || named_by_lease(&DHCLIENT)),
        trial("layout: lease that is there at start: the port is elected at boot", lease_at_start),
        trial("layout: lease that cannot be read: shown, and taken when it can be", unreadable_lease),
        trial(
            "layout: host routes to gateway and DNS servers: the lease says which is the gateway",
            host_routes,
        ),
        trial("layout: option-121 dummy route: its next hop is the gateway", dummy_route),
        trial("layout: DHCP without a router: shown with cause gateway, waits, nothing breaks", no_router),
        trial(
            "layout: routes of a CNI or routing daemon through another worker: never gateways",
            other_workers,
        ),
        trial("layout: static netplan: default routes of protocol static", static_routes),
        trial("layout: management behind br-dpu: the bridge is the fallback", management_behind_bridge),
        trial("layout: an address of the host itself: never a gateway, configured or learned", own_address),
        trial("layout: remembered gateway: known after a restart by prefix and MAC", remembered),
        trial("layout: remembered gateway: another one that answers for it is not trusted", stranger),
        trial("layout: remembered gateway: not in another prefix", other_prefix),
        trial("layout: memory of a version before gateways were remembered is read", older_memory),
    ]
}

/// The number of the worker's port.
fn index(site: &Site) -> Result<String, Failed> {
    let link = site.worker.ip("-o link show dev port")?;
    Ok(link.split(':').next().unwrap_or_default().to_owned())
}

/// Management has its default routes, the port only that of IPv6.
fn without_route() -> Result<Site, Failed> {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    site.worker.ip("-4 route delete default dev port")?;
    Ok(site)
}

/// The daemon has waited for a gateway of the port in vain.
fn waiting(site: Site) -> Result<Scene, Failed> {
    let scene = Scene::begin(site, &format!("{BRISK}boot_wait = \"500ms\"\n"))?;
    leads(&scene, Family::Ipv6, "port")?;
    waits(&scene)?;
    Ok(scene)
}

/// The port has no IPv4 gateway, management carries IPv4.
fn waits(scene: &Scene) -> Outcome {
    leads(scene, Family::Ipv4, "mgmt")?;
    scene.becomes(DPU, Family::Ipv4, "gateway")?;
    let path = scene.path(DPU, Family::Ipv4)?;
    assert!(path["gateway"].is_null() && path["learned"].is_null(), "{path}");
    Ok(())
}

fn leads(scene: &Scene, family: Family, interface: &str) -> Outcome {
    let [ipv4, ipv6] = INTERNET;
    let address = if family == Family::Ipv4 { ipv4 } else { ipv6 };
    scene.until(&format!("{address} leads to {interface}"), || {
        Ok(scene.way_to(address).as_deref() == Some(interface))
    })
}

/// The port's IPv4 gateway is known from there and carries IPv4.
fn carries(scene: &Scene, learned: &str) -> Outcome {
    leads(scene, Family::Ipv4, "port")?;
    scene.becomes(DPU, Family::Ipv4, "up")?;
    let path = scene.path(DPU, Family::Ipv4)?;
    assert_eq!((&path["gateway"], &path["learned"]), (&"10.0.120.1".into(), &learned.into()), "{path}");
    Ok(())
}

fn named_by_lease(client: &Client) -> Outcome {
    let scene = waiting(without_route()?)?;
    let file = (client.file)(&scene.site)?;
    let write = |address, routers: &[&str]| scene.site.worker.write(&file, (client.lease)(address, routers));
    write("10.0.120.9", &["10.0.120.1"])?;
    scene.stays(PATIENCE)?;
    waits(&scene)?;
    write("10.0.120.2", &["10.0.10.1"])?;
    scene.stays(PATIENCE)?;
    waits(&scene)?;
    // As a client replaces its file.
    let beside = format!("{file}.new");
    scene.site.worker.write(&beside, (client.lease)("10.0.120.2", &["10.0.120.1", "10.0.120.7"]))?;
    fs::rename(scene.site.worker.path(&beside), scene.site.worker.path(&file))?;
    carries(&scene, "lease")?;
    fault_and_back(&scene)?;
    let since = now();
    fs::remove_file(scene.site.worker.path(&file))?;
    scene.until("it is remembered", || Ok(scene.path(DPU, Family::Ipv4)?["learned"] == "memory"))?;
    scene.stays(PATIENCE)?;
    assert_eq!(scene.writes(since)?, [], "the same gateway");
    scene.finish()?;
    Ok(())
}

fn fault_and_back(scene: &Scene) -> Outcome {
    scene.fail_over()?;
    scene.come_back()
}

fn lease_at_start() -> Outcome {
    let site = without_route()?;
    site.worker.write(&(NETWORKD.file)(&site)?, (NETWORKD.lease)("10.0.120.2", &["10.0.120.1"]))?;
    let mut scene = Scene::begin(site, "")?;
    carries(&scene, "lease")?;
    let since = now();
    scene.daemon.signal(Signal::SIGUSR2)?;
    scene.daemon.wait_end(END)?;
    scene.start_again("")?;
    carries(&scene, "lease")?;
    scene.stays(PATIENCE)?;
    assert_eq!(scene.writes(since)?, [], "a restart changes nothing");
    scene.finish()?;
    Ok(())
}

/// Root without the right to read everything is as the daemon's own user: it reads what it is let to.
fn unreadable_lease() -> Outcome {
    const RIGHTS: &str = "-all,+net_admin,+net_raw";
    const HINT: &str = "permission denied; let uplinkd read it, or configure the gateway";
    let site = without_route()?;
    let file = (NETWORKD.file)(&site)?;
    site.worker.write(&file, (NETWORKD.lease)("10.0.120.2", &["10.0.120.1"]))?;
    let may_read =
        |host: &Host, path: &str, mode| fs::set_permissions(host.path(path), Permissions::from_mode(mode));
    may_read(&site.worker, &file, 0o000)?;
    let arguments = ["--bounding-set", RIGHTS, "--inh-caps", RIGHTS, env!("CARGO_BIN_EXE_uplinkd"), "run"];
    let daemon = Daemon::of("setpriv", &arguments).config(&format!("{BRISK}boot_wait = \"500ms\"\n"));
    let scene = Scene::of(site, daemon, STEADY)?;
    waits(&scene)?;
    let shows = |path: &str| -> Outcome {
        scene.until(&format!("status names {path}"), || {
            let said = uplinkctl(&scene.site.worker, &["status"])?.said;
            Ok(said.contains(&format!("a lease is unreadable: {path}: {HINT}")))
        })
    };
    shows(&file)?;
    let folder = "/run/systemd/netif/leases";
    may_read(&scene.site.worker, folder, 0o000)?;
    shows(folder)?;
    may_read(&scene.site.worker, &file, 0o644)?;
    may_read(&scene.site.worker, folder, 0o755)?;
    carries(&scene, "lease")?;
    assert_eq!(scene.path(DPU, Family::Ipv4)?["unreadable_lease"], Value::Null);
    scene.finish()?;
    Ok(())
}

fn host_routes() -> Outcome {
    let site = without_route()?;
    site.port.gateway.ip("address add 10.0.120.53/32 dev lan")?;
    // As systemd-networkd lays them (`dhcp4_request_route_to_gateway`, `…_to_dns`).
    site.worker.ip_batch(
        "route add 10.0.120.53 dev port proto dhcp scope link src 10.0.120.2 metric 100\n\
         route add 10.0.120.1 dev port proto dhcp scope link src 10.0.120.2 metric 100\n",
    )?;
    let scene = waiting(site)?;
    let file = (NETWORKD.file)(&scene.site)?;
    scene.site.worker.write(&file, (NETWORKD.lease)("10.0.120.2", &["10.0.120.1"]))?;
    carries(&scene, "lease")?;
    scene.finish()?;
    Ok(())
}

fn dummy_route() -> Outcome {
    let site = without_route()?;
    site.worker.ip("route add 169.254.99.100/32 via 10.0.120.1 dev port proto dhcp metric 101")?;
    let scene = Scene::begin(site, BRISK)?;
    carries(&scene, "dhcp")?;
    fault_and_back(&scene)?;
    scene.finish()?;
    Ok(())
}

fn no_router() -> Outcome {
    let site = without_route()?;
    site.worker.write(&(NETWORKD.file)(&site)?, (NETWORKD.lease)("10.0.120.2", &[]))?;
    let scene = waiting(site)?;
    let since = now();
    scene.stays(2 * PATIENCE)?;
    assert_eq!(scene.writes(since)?, []);
    scene.site.mgmt.cable.fault(&[Fault::Silent]);
    scene.stays(2 * PATIENCE)?;
    scene.site.mgmt.cable.heal();
    waits(&scene)?;
    scene.finish()?;
    Ok(())
}

fn other_workers() -> Outcome {
    /// The names are those of `linux/rtnetlink.h`.
    const PROTOCOLS: [(&str, u8); 18] = [
        ("boot", 3),
        ("static", 4),
        ("gated", 8),
        ("mrt", 10),
        ("zebra", 11),
        ("bird", 12),
        ("dnrouted", 13),
        ("xorp", 14),
        ("ntk", 15),
        ("mrouted", 17),
        ("keepalived", 18),
        ("babel", 42),
        ("openr", 99),
        ("bgp", 186),
        ("isis", 187),
        ("ospf", 188),
        ("rip", 189),
        ("eigrp", 192),
    ];
    let site = without_route()?;
    // It answers whoever asks it, as another worker would.
    site.port.gateway.ip("address add 10.0.120.77/24 dev lan")?;
    let scene = waiting(site)?;
    for (name, protocol) in PROTOCOLS {
        scene.write(&[
            format!("route add 10.244.{protocol}.0/24 via 10.0.120.77 dev port proto {protocol}"),
            format!("route add 10.245.{protocol}.1/32 via 10.0.120.77 dev port proto {protocol} onlink"),
        ])?;
        let path = scene.path(DPU, Family::Ipv4)?;
        assert!(path["gateway"].is_null(), "{name}: {path}");
    }
    scene.stays(PATIENCE)?;
    waits(&scene)?;
    let asked = |line: &str| line.contains("10.0.120.77");
    assert!(!scene.daemon.log().iter().any(|line| asked(&line.what)));
    scene.finish_changed()?;
    Ok(())
}

fn static_routes() -> Outcome {
    let site = Site::builder().without_default_routes().build()?;
    site.worker.give_pci("port", PCI)?;
    for (uplink, metric) in [(&site.port, 101), (&site.mgmt, 100)] {
        let (v4, v6, interface) = (uplink.gateway4, uplink.gateway6, uplink.interface);
        site.worker.ip_batch(&format!(
            "route add 0.0.0.0/0 via {v4} dev {interface} proto static metric {metric}\n\
             route add ::/0 via {v6} dev {interface} proto static metric {metric}\n"
        ))?;
    }
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    carries(&scene, "route")?;
    fault_and_back(&scene)?;
    scene.finish()?;
    Ok(())
}

fn management_behind_bridge() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    site.worker.ip_batch(
        "link add br-dpu up type bridge forward_delay 0\n\
         link set mgmt master br-dpu\n\
         address flush dev mgmt scope global\n\
         route delete ::/0 dev mgmt proto 16\n",
    )?;
    site.lay_addresses(&site.mgmt, "br-dpu")?;
    site.lay_default(&site.mgmt, "br-dpu", 5)?;
    let scene = Scene::begin(site, BRISK)?;
    scene.leads_to("port")?;
    assert_eq!(scene.uplink("br-dpu")?["tier"], 2);
    let fault = scene.site.port.cable.fault(&[Fault::Silent]);
    scene.moves_to("br-dpu", fault, SOON)?;
    scene.come_back()?;
    scene.site.mgmt.cable.fault(&[Fault::Silent]);
    for family in Family::ALL {
        scene.becomes("br-dpu", family, "gateway")?;
    }
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}

/// A process knew the port's gateway, and another starts when its default route is gone.
fn restarted(between: impl FnOnce(&Site) -> Outcome) -> Result<Scene, Failed> {
    let mut scene = Scene::configured(BRISK)?;
    scene.until("who the gateway is was written down", || {
        // It comes with the first decision, after READY.
        let memory = fs::read_to_string(scene.site.worker.path("/run/uplinkd/memory.json"));
        Ok(memory.is_ok_and(|memory| memory.contains("02:00:00:01:00:01")))
    })?;
    scene.daemon.signal(Signal::SIGUSR2)?;
    scene.daemon.wait_end(END)?;
    scene.site.worker.ip("-4 route delete default dev port proto dhcp")?;
    between(&scene.site)?;
    scene.start_again(BRISK)?;
    Ok(scene)
}

fn remembered() -> Outcome {
    let scene = restarted(|_| Ok(()))?;
    carries(&scene, "memory")?;
    scene.stays(PATIENCE)?;
    assert_eq!(scene.writes(scene.daemon.started())?, [], "the pin of the process before stays");
    let said = uplinkctl(&scene.site.worker, &["status"])?.said;
    assert!(said.contains("10.0.120.1 (memory)"), "{said}");
    fault_and_back(&scene)?;
    scene.finish_changed()?;
    Ok(())
}

fn stranger() -> Outcome {
    let scene = restarted(|site| {
        site.port.gateway.ip("link set lan address 02:00:00:01:00:99")?;
        Ok(())
    })?;
    scene.becomes(DPU, Family::Ipv4, "gateway")?;
    leads(&scene, Family::Ipv4, "mgmt")?;
    let path = scene.path(DPU, Family::Ipv4)?;
    assert!(path["learned"] == "memory" && path["last_answer_us"].is_null(), "{path}");
    let told = |line: &str| line.contains("02:00:00:01:00:99 answers, which is not the gateway");
    scene.daemon.wait_for_log("who answers", scene.daemon.started(), SOON, told)?;
    // The one that is remembered comes back.
    scene.site.port.gateway.ip("link set lan address 02:00:00:01:00:01")?;
    carries(&scene, "memory")?;
    scene.finish_changed()?;
    Ok(())
}

fn other_prefix() -> Outcome {
    let scene = restarted(|site| {
        site.worker.ip_batch(
            "address add 10.0.120.2/25 dev port\n\
             address delete 10.0.120.2/24 dev port\n",
        )?;
        Ok(())
    })?;
    waits(&scene)?;
    scene.finish_changed()?;
    Ok(())
}

/// The kernel takes such a route, and the host would answer itself.
fn own_address() -> Outcome {
    let site = without_route()?;
    let own = site.port.address4;
    site.worker.ip(&format!("route add default via {own} dev port metric 5"))?;
    let learned = Scene::begin(site, &format!("{BRISK}boot_wait = \"500ms\"\n"))?;
    let toml = format!(
        "{BRISK}boot_wait = \"500ms\"\n[[uplink]]\nname = \"dpu-0000:03:00.0\"\n\
         match = {{ interface = \"port\" }}\ngateway = [\"{own}\"]\n"
    );
    let configured = Scene::begin(without_route()?, &toml)?;
    for scene in [learned, configured] {
        leads(&scene, Family::Ipv6, "port")?;
        leads(&scene, Family::Ipv4, "mgmt")?;
        scene.becomes(DPU, Family::Ipv4, "gateway")?;
        scene.finish()?;
    }
    Ok(())
}

fn older_memory() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let memory = format!(
        r#"{{"boot_id":"{}","ready":true,"paths":[{{"uplink":"{DPU}","family":"ipv4","falls":[],"returning":true}}]}}"#,
        boot.trim()
    );
    site.worker.write("/run/uplinkd/memory.json", memory)?;
    let scene = Scene::of(site, daemon(BRISK), STEADY)?;
    scene.becomes(DPU, Family::Ipv4, "up")?;
    let path = scene.path(DPU, Family::Ipv4)?;
    assert!(!path["returns_us"].is_null(), "that it fell was read: {path}");
    scene.leads_to("port")?;
    scene.finish()?;
    Ok(())
}
