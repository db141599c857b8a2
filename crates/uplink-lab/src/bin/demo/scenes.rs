//! What happens to the worker, one scene after the other.

use std::time::Duration;

use nix::sys::signal::Signal;
use uplink_core::snapshot::{Family, protocol};
use uplink_core::time::Instant;
use uplink_lab::{Change, End, Fault, Result, now, pass};

use crate::bench::{BOUND, Bench};
use crate::summary::{Row, Scene};

/// In this order.
pub(crate) const ALL: [fn(&mut Bench) -> Result<Row>; 10] = [
    start,
    gateway_silent,
    gateway_back,
    gateway_filters,
    pin_deleted,
    carrier_lost,
    carrier_back,
    all_silent,
    killed,
    stopped,
];

/// The default patience.
const PATIENCE: Duration = Duration::from_secs(1);
/// A silent gateway is left no later than this after it fell silent.
const SWITCH: Duration = Duration::from_millis(1100);
/// A lost carrier is left, and a table that others changed is right again, within this.
const AT_ONCE: Duration = Duration::from_millis(10);
/// How long a fault is watched that must not move anything.
const WATCHED: Duration = Duration::from_secs(4);

fn start(bench: &mut Bench) -> Result<Row> {
    let mut scene = Scene::begin("The daemon starts");
    bench.daemon.wait_ready(BOUND)?;
    bench.moves_to("port", bench.daemon.started())?;
    let losses = bench.losses(scene.begun);
    bench.tell();
    scene.check(bench.leads_to("port"), "the port is elected without being named anywhere");
    scene.lost_nothing(losses);
    Ok(scene.end(losses))
}

fn gateway_silent(bench: &mut Bench) -> Result<Row> {
    let scene = Scene::begin("The port's gateway falls silent");
    let fault = bench.site.port.cable.fault(&[Fault::Silent]);
    bench.fault(fault, "nothing passes the port's cable any more; the link stays up");
    let moved = bench.moves_to("mgmt", fault)?;
    pass(PATIENCE);
    let losses = bench.losses(scene.begun);
    bench.tell();
    print!("\n`uplinkctl status` in the middle of the outage:\n\n{}\n", shortened(&bench.status()?));
    Ok(scene.end(losses).took(moved.map(|at| at.since(fault)), SWITCH, "switched after the fault"))
}

fn gateway_back(bench: &mut Bench) -> Result<Row> {
    let scene = Scene::begin("The port's gateway answers again");
    let healed = bench.site.port.cable.heal();
    bench.fault(healed, "the port's cable carries again");
    comes_back(bench, scene)
}

fn gateway_filters(bench: &mut Bench) -> Result<Row> {
    let scene = Scene::begin("The gateway filters ICMP");
    let fault = bench.site.port.cable.fault(&[Fault::FiltersEcho]);
    bench.fault(fault, "the port's gateway answers no echo request any more, and still forwards");
    nothing_moves(bench, scene)
}

fn pin_deleted(bench: &mut Bench) -> Result<Row> {
    let mut scene = Scene::begin("Somebody deletes uplinkd's routes");
    bench.fault(now(), "`ip route flush proto 117`, in both families (it looks again until none is left)");
    for family in ["-4", "-6"] {
        bench.site.worker.ip(&format!("{family} route flush proto 117"))?;
    }
    let took = |family| {
        let of_family = |change: &Change| change.route().is_some_and(|route| route.family == family);
        let is_own = |change: &Change| change.protocol() == Some(protocol::UPLINKD) && of_family(change);
        let deleted = bench.changes.wait_for("the deletion", scene.begun, BOUND, |change| {
            matches!(change, Change::RouteDeleted(_)) && is_own(change)
        })?;
        let added = bench.changes.wait_for("our route again", deleted.at, BOUND, |change| {
            matches!(change, Change::RouteAdded(_)) && is_own(change)
        })?;
        Ok(added.at.since(deleted.at))
    };
    let took = [took(Family::Ipv4)?, took(Family::Ipv6)?];
    let losses = bench.losses(scene.begun);
    bench.tell();
    scene.check(bench.leads_to("port"), "everything goes out by the port again");
    scene.lost_nothing(losses);
    Ok(scene.end(losses).took(took, AT_ONCE, "restored after the kernel announced the deletion"))
}

fn carrier_lost(bench: &mut Bench) -> Result<Row> {
    let scene = Scene::begin("The port loses its carrier");
    let fault = bench.site.port.cable.carrier(End::Worker, false)?;
    bench.fault(fault, "the port's cable is cut");
    let moved = bench.moves_to("mgmt", fault)?;
    let noticed = bench.changes.wait_for(
        "the loss of the carrier",
        fault,
        BOUND,
        |change| matches!(change, Change::Link { interface, carrier: false, .. } if interface == "port"),
    )?;
    let losses = bench.losses(scene.begun);
    bench.tell();
    let took = moved.map(|at| at.since(noticed.at));
    Ok(scene.end(losses).took(took, AT_ONCE, "switched after the kernel announced it"))
}

fn carrier_back(bench: &mut Bench) -> Result<Row> {
    let scene = Scene::begin("The port's carrier is back");
    let healed = bench.site.port.cable.carrier(End::Worker, true)?;
    bench.fault(healed, "the port's cable is whole again; a second fall in ten minutes doubles the wait");
    comes_back(bench, scene)
}

fn all_silent(bench: &mut Bench) -> Result<Row> {
    let mut scene = Scene::begin("Both gateways fall silent");
    let (port, mgmt) = (&bench.site.port.cable, &bench.site.mgmt.cable);
    mgmt.fault(&[Fault::Silent]);
    let fault = port.fault(&[Fault::Silent]);
    bench.fault(fault, "nothing passes either cable any more");
    pass(3 * PATIENCE);
    mgmt.heal();
    let healed = port.heal();
    bench.fault(healed, "both cables carry again, management's first");
    pass(3 * PATIENCE);
    let losses = bench.losses(scene.begun);
    bench.tell();
    scene.check(unmoved(bench, scene.begun), "no route was changed: there was no better place to go");
    Ok(scene.end(losses))
}

fn killed(bench: &mut Bench) -> Result<Row> {
    let mut scene = Scene::begin("The daemon dies, and starts again");
    let killed = bench.daemon.signal(Signal::SIGKILL)?;
    bench.fault(killed, "the daemon is killed (SIGKILL)");
    bench.daemon.wait_end(BOUND)?;
    pass(PATIENCE);
    bench.tell();
    bench.start_again()?;
    bench.fault(bench.daemon.started(), "the daemon is started again, as systemd would");
    bench.daemon.wait_ready(BOUND)?;
    pass(PATIENCE);
    let losses = bench.losses(scene.begun);
    bench.tell();
    scene
        .check(unmoved(bench, scene.begun), "no route was changed: the next process took over what it found");
    scene.lost_nothing(losses);
    Ok(scene.end(losses))
}

fn stopped(bench: &mut Bench) -> Result<Row> {
    let mut scene = Scene::begin("The daemon is stopped");
    let cost = bench.daemon.cost()?;
    let stopped = bench.daemon.signal(Signal::SIGTERM)?;
    bench.fault(stopped, "SIGTERM, as `systemctl stop` sends it");
    let status = bench.daemon.wait_end(BOUND)?;
    let after = bench.site.worker.table_text()?;
    let losses = bench.losses(scene.begun);
    bench.tell();
    scene.check(status.success(), "it ended by itself, without an error");
    let lines = after.lines().count();
    let same =
        format!("no trace: all {lines} routes and rules of the worker are as they were before the start");
    scene.check(after == bench.before, &same);
    scene.lost_nothing(losses);
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit behind the point")]
    let megabytes = cost.resident as f64 / 1e6;
    let small = format!(
        "it was small: {megabytes:.1} MB resident (promised: under 5), {} thread{}, {} child processes",
        cost.threads,
        if cost.threads == 1 { "" } else { "s" },
        cost.children
    );
    scene.check(megabytes < 5.0 && cost.children == 0, &small);
    Ok(scene.end(losses))
}

/// A status with the latest of its last changes only; the others are above in the timeline.
fn shortened(status: &str) -> String {
    const LATEST: usize = 4;
    let lines: Vec<&str> = status.lines().collect();
    let changes =
        lines.iter().position(|line| line.starts_with("Last changes")).map_or(lines.len(), |at| at + 1);
    let cut = changes..lines.len().saturating_sub(LATEST).max(changes);
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        if number == cut.start && !cut.is_empty() {
            text.push_str("             [...]\n");
        }
        if !cut.contains(&number) {
            text.push_str(format!("  {line}").trim_end());
            text.push('\n');
        }
    }
    text
}

/// The port works again: waits for the return, in which nothing may be lost.
fn comes_back(bench: &Bench, mut scene: Scene) -> Result<Row> {
    bench.moves_to("port", scene.begun)?;
    let losses = bench.losses(scene.begun);
    bench.tell();
    scene.lost_nothing(losses);
    Ok(scene.end(losses))
}

/// The port has a fault that must not move anything; ends it.
fn nothing_moves(bench: &Bench, mut scene: Scene) -> Result<Row> {
    pass(WATCHED);
    bench.fault(bench.site.port.cable.heal(), "the fault is over");
    let losses = bench.losses(scene.begun);
    bench.tell();
    scene.check(unmoved(bench, scene.begun), "no route was changed: it does its work");
    scene.lost_nothing(losses);
    Ok(scene.end(losses))
}

/// No default route was added or deleted by anybody since a moment, and the port is in use.
fn unmoved(bench: &Bench, since: Instant) -> bool {
    bench.default_routes(since).is_empty() && bench.leads_to("port")
}
