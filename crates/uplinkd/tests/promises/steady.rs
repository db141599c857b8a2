//! What the daemon costs and does while nothing happens.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use libtest_mimic::Trial;
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, Protocol, Socket, Type};
use uplink_lab::{Site, now, pass, sleep_until};

use crate::scene::{Outcome, PCI, SOON, Scene, trial};

const SECONDS: u32 = 60;
const SPAN: Duration = Duration::from_secs(SECONDS as u64);
/// Of lookups and packets: the machine should be as idle as it can be.
const SPARSE: Duration = Duration::from_millis(100);
/// In each family the elected path is asked four times a second, the other once.
const PROBES_PER_SECOND: u32 = 10;
/// The promise is about what is shipped. A debug build is twice as large.
const RESIDENT_MAX: u64 = if cfg!(debug_assertions) { 10_000_000 } else { 5_000_000 };

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("a minute of steady state: no change, no process, under 5 MB", steady)]
}

fn steady() -> Outcome {
    let site = Site::new()?;
    site.worker.give_pci("port", PCI)?;
    let scene = Scene::paced(site, "", SPARSE)?;
    scene.leads_to("port")?;
    pass(Duration::from_secs(5));
    let (begin, before) = (now(), scene.daemon.cost()?);
    let gateway = scene.site.port.gateway4;
    let pinger = scene.site.worker.thread("pinger", move || ping(gateway))?;
    let mut children = 0;
    while now() < begin + SPAN {
        children = children.max(scene.daemon.cost()?.children);
        pass(SPARSE);
    }
    let after = scene.daemon.cost()?;
    let changed = scene.changes.since(begin);
    let bare = pinger.join().map_err(|_| "the pinger panicked")??;
    println!("steady state for {SPAN:?}, {PROBES_PER_SECOND} probes a second:");
    println!(
        "  daemon: {:?} of processor time, {} kB resident",
        after.cpu - before.cpu,
        after.resident / 1000
    );
    println!("  bare pinger at the same rate: {bare:?} of processor time");
    assert!(changed.iter().all(|change| change.what.route().is_none()), "{changed:?}");
    assert_eq!(scene.writes(begin)?, []);
    assert_eq!((children, after.threads), (0, before.threads));
    assert!(after.resident < RESIDENT_MAX, "{after:?}");
    scene.finish()?;
    Ok(())
}

/// Asks at the daemon's rate, one question and one answer at a time, and does nothing else; gives
/// the processor time of this thread.
fn ping(gateway: Ipv4Addr) -> std::io::Result<Duration> {
    let mut socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
    socket.connect(&SocketAddr::from((gateway, 0)).into())?;
    socket.set_read_timeout(Some(SOON))?;
    let (mut buffer, mut due, count) = ([0; 128], now(), PROBES_PER_SECOND * SECONDS);
    for _ in 0..count {
        // An echo request (RFC 792) of nothing but type and checksum: identifier and sequence are 0.
        socket.write_all(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0])?;
        while socket.read(&mut buffer)? != 28 {}
        due = due + Duration::from_secs(1) / PROBES_PER_SECOND;
        sleep_until(due);
    }
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}
