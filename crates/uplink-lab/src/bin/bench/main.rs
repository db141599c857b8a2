//! The benchmark: what people use today for this job and `uplinkd`, in the same lab, one run.
//!
//! `cargo xtask bench` builds and names the daemon. Contenders are played one after the other, each
//! scene on a fresh site, with the same faults.
#![allow(clippy::disallowed_macros, reason = "a program for people at a terminal: printing is all it is for")]

mod big;
mod chart;
mod contenders;
mod machine;
mod plays;
mod readings;
mod report;
mod running;
mod scenes;
mod stage;
mod table;
mod throughput;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use uplink_lab::{Error, Lag, Result, now};

use crate::contenders::Contender;
use crate::readings::Readings;
use crate::report::Report;
use crate::scenes::{SCENES, Scene};

/// Measures uplinkd beside what people use today.
#[derive(Parser)]
struct Cli {
    /// The daemon to measure
    daemon: PathBuf,
    /// Everything, not only the quick selection: all contenders, all scenes
    #[arg(long)]
    all: bool,
    /// The seed script's own text, for which it is measured too
    #[arg(long, value_name = "FILE")]
    seed_script: Option<PathBuf>,
    /// Only contenders whose name contains this, and uplinkd; also one that is not in the selection
    #[arg(long, value_name = "NAME")]
    contender: Option<String>,
    /// Only scenes of the selection, or big hosts, whose title contains this
    #[arg(long, value_name = "TITLE")]
    scene: Option<String>,
    /// Only what path rules cost the packets of a host: throughput with and without them
    #[arg(long)]
    path_rules: bool,
    /// Only what big hosts cost: failovers beside those of an empty host, and processor time
    #[arg(long)]
    big: bool,
    /// Write all figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the most important figures as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    match bench(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe benchmark ends here: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Plays all scenes with all contenders, and tells what came of it.
fn bench(cli: &Cli) -> Result<()> {
    // First of all, while there is one thread.
    uplink_lab::enter()?;
    let machine = machine::describe();
    println!("{machine}\n");
    if cli.path_rules {
        return throughput::measure(&cli.daemon);
    }
    if cli.big {
        return big::measure(&cli.daemon, cli.scene.as_deref());
    }
    let (contenders, mut remarks) = present(cli);
    let scenes: Vec<Scene> =
        SCENES.into_iter().filter(|scene| is_wanted(cli.scene.as_deref(), scene.title)).collect();
    let (begun, lag) = (now(), Lag::start());
    let mut readings = Readings::default();
    for contender in &contenders {
        for scene in &scenes {
            remarks.extend(play(contender, scene, scene.runs(contender, cli.all), &mut readings));
        }
    }
    remarks.push(format!("the machine itself was late: {}", lag.stop()));
    remarks.push(format!("{} times the lab was too slow to see everything", readings.overruns()));
    remarks.push(format!("it took {:.0} s", now().since(begun).as_secs_f64()));
    let report = Report { machine, contenders: &contenders, scenes: &scenes, readings: &readings, remarks };
    print!("\n{report}");
    write(cli.json.as_deref(), &report.json())?;
    write(cli.svg.as_deref(), &report.svg())
}

/// Who takes part; what is to be said of them, and of those who do not.
fn present(cli: &Cli) -> (Vec<Contender>, Vec<String>) {
    let (mut contenders, mut remarks) = (Vec::new(), Vec::new());
    for contender in Contender::all(cli.daemon.clone(), cli.seed_script.clone()) {
        let name = contender.name();
        let wanted = match &cli.contender {
            _ if matches!(contender, Contender::Uplinkd(..)) => true,
            Some(part) => name.contains(part),
            None => cli.all || contender.is_quick(),
        };
        if !wanted {
            let why = if cli.contender.is_some() { "not asked for" } else { "only with --all" };
            remarks.push(format!("{name}: skipped: {why}"));
        } else if let Some(why) = contender.missing() {
            remarks.push(format!("{name}: skipped: {why}"));
        } else {
            remarks.push(format!("{name}: {}", contender.about()));
            contenders.push(contender);
        }
    }
    remarks.iter().for_each(|remark| println!("{remark}"));
    (contenders, remarks)
}

fn is_wanted(part: Option<&str>, name: &str) -> bool {
    part.is_none_or(|part| name.contains(part))
}

/// Plays a scene as often as it is to be; gives what went wrong.
fn play(contender: &Contender, scene: &Scene, runs: usize, readings: &mut Readings) -> Option<String> {
    for run in 1..=runs {
        println!("{}: {} ({run} of {runs})", contender.name(), scene.title);
        match scene.play(contender) {
            Ok(samples) => {
                let says_all = scene.says_all(&samples);
                readings.add(contender.name(), scene, samples);
                if says_all {
                    break;
                }
            }
            Err(error) => {
                let remark = format!("{}, {}: not measured: {error}", contender.name(), scene.title);
                println!("{remark}");
                return Some(remark);
            }
        }
    }
    None
}

fn write(path: Option<&Path>, text: &str) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, text)
        .map_err(|source| Error::System { what: format!("write {}", path.display()), source })
}
