//! The lab itself: does it do what tests and demo believe it does?

use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use uplink_core::snapshot::Family;
use uplink_lab::{
    Changes, End, Fault, INTERNET4, INTERNET6, Lag, Lookups, STREAM_INTERVAL, Site, Stream, enter, now, pass,
};

type Outcome = Result<(), Failed>;

const BOUND: Duration = Duration::from_secs(2);
/// Long enough for an answer to come, where none must.
const SILENCE: Duration = Duration::from_millis(150);

fn main() {
    if let Err(error) = enter() {
        panic!("{error}");
    }
    let arguments = Arguments::from_args();
    let tests: &[(&str, fn() -> Outcome)] =
        &[("both uplinks reach the internet", reach), ("stream", stream), ("changes and lookups", changes)];
    let trials = tests.iter().map(|&(name, test)| Trial::test(name, test)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn reach() -> Outcome {
    let start = now();
    let site = Site::new()?;
    let built = now().since(start);
    for uplink in [&site.port, &site.mgmt] {
        site.worker.ip(&format!("route replace default via {} metric 1", uplink.gateway4))?;
        site.worker
            .ip(&format!("route replace ::/0 via {} dev {} metric 1", uplink.gateway6, uplink.interface))?;
        for address in [INTERNET4.into(), INTERNET6.into()] {
            let mut best = BOUND;
            for _ in 0..20 {
                let answer = site.worker.ping(address, None, BOUND)?;
                best = best.min(answer.ok_or("no answer")?);
            }
            eprintln!("{} {address}: round trip {best:?}", uplink.interface);
            let route = site.worker.lookup(address)?;
            assert_eq!(route.interface.as_deref(), Some(uplink.interface));
        }
    }
    eprintln!("site built in {built:?}");
    Ok(())
}

fn stream() -> Outcome {
    let site = Site::new()?;
    let lag = Lag::start();
    for address in [INTERNET4.into(), INTERNET6.into()] {
        let stream = Stream::start(&site.worker, &site.internet, address, STREAM_INTERVAL)?;
        pass(Duration::from_secs(1));
        let at = site.mgmt.cable.fault(&[Fault::Silent]);
        pass(Duration::from_millis(200));
        let healed = site.mgmt.cable.heal();
        stream.wait_for_arrival(healed, BOUND)?;
        let report = stream.stop();
        eprintln!("fault {at}, healed {healed}, {report:?}");
    }
    eprintln!("machine: {}", lag.stop());
    eprintln!("{:?}", site.mgmt.cable.traffic(End::Gateway));
    Ok(())
}

fn changes() -> Outcome {
    let site = Site::new()?;
    let changes = Changes::start(&site.worker)?;
    let lookups =
        Lookups::start(&site.worker, &[INTERNET4.into(), INTERNET6.into()], Duration::from_millis(1))?;
    let before = site.worker.table_text()?;
    let start = now();
    site.worker.ip("route add default via 10.0.120.1 proto 117 metric 98")?;
    lookups.wait_for(INTERNET4.into(), "port", start, BOUND)?;
    site.worker.ip("route del default proto 117")?;
    lookups.wait_for(INTERNET4.into(), "mgmt", now(), BOUND)?;
    assert_eq!(before, site.worker.table_text()?);
    let down = site.port.cable.carrier(End::Worker, false)?;
    let event = changes.wait_for(
        "carrier loss",
        down,
        BOUND,
        |c| matches!(c, uplink_lab::Change::Link{interface, carrier: false, ..} if interface == "port"),
    )?;
    eprintln!("carrier loss seen after {:?}", event.at.since(down));
    for c in changes.since(start) {
        eprintln!("{c:?}");
    }
    eprintln!("{:?}", lookups.stop());
    eprintln!("{before}");
    eprintln!("{:?}", site.worker.default_routes(Family::Ipv4)?);
    Ok(())
}
