//! The lab itself: does it do what tests and demo believe it does?

use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use uplink_lab::{Site, enter, now};

type Outcome = Result<(), Failed>;

fn main() {
    if let Err(error) = enter() {
        panic!("{error}");
    }
    let arguments = Arguments::from_args();
    let tests: &[(&str, fn() -> Outcome)] = &[("reach", reach)];
    let trials = tests
        .iter()
        .map(|&(name, test)| Trial::test(name, test))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn reach() -> Outcome {
    let start = now();
    let site = Site::new()?;
    eprintln!("built in {:?}", now().since(start));
    for (h, a) in [(&site.worker, "fd00:10::1"),(&site.worker, "2001:db8:2::2"),(&site.worker, "2001:db8:2::1"),(&site.mgmt.gateway, "2001:db8:2::1"), (&site.mgmt.gateway, "2001:db8:9::9"), (&site.internet, "2001:db8:2::2"), (&site.internet, "fd00:10::2")] {
        eprintln!("{} {a} {:?}", h.name(), h.ping(a.parse()?, None, Duration::from_millis(300)));
    }
    eprintln!("{}", site.mgmt.gateway.ip("-6 route")?);
    eprintln!("{}", site.internet.ip("-6 route")?);
    eprintln!("{}", site.worker.ip("-6 route")?);
    eprintln!("{}", site.worker.ip("-6 route get 2001:db8:9::9")?);
    for _ in 0..5 {
        eprintln!(
            "{:?}",
            site.worker
                .ping(uplink_lab::INTERNET4.into(), None, Duration::from_secs(1))?
        );
        eprintln!(
            "{:?}",
            site.worker
                .ping(uplink_lab::INTERNET6.into(), None, Duration::from_secs(1))?
        );
    }
    Ok(())
}
