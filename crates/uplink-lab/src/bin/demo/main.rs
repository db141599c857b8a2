//! The demo: a worker with two uplinks, the real daemon, faults, and what they cost.
//!
//! `demo DAEMON CLIENT` with the paths of the two programs; `cargo xtask demo` builds and names
//! them. It fails if anything did not happen as promised.
#![allow(clippy::disallowed_macros, reason = "a program for people at a terminal: printing is all it is for")]

mod bench;
mod scenes;
mod summary;
mod timeline;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use uplink_lab::Result;

use crate::bench::Bench;
use crate::summary::Row;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [daemon, client] = arguments.as_slice() else {
        eprintln!("usage: demo DAEMON CLIENT (or `cargo xtask demo`, which builds both)");
        return ExitCode::FAILURE;
    };
    match demo(daemon, client) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nThe demo ends here: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Plays all scenes and sums up; whether everything happened as promised.
fn demo(daemon: &Path, client: &Path) -> Result<bool> {
    // First of all, while there is one thread.
    uplink_lab::enter()?;
    print!("{}", timeline::introduction());
    let mut bench = Bench::begin(daemon, client)?;
    let mut rows = Vec::new();
    for scene in scenes::ALL {
        match scene(&mut bench) {
            Ok(row) => rows.push(row),
            Err(error) => {
                bench.tell();
                print_rows(&rows);
                return Err(error);
            }
        }
    }
    print_rows(&rows);
    let kept = bench.end().tell(&rows) & rows.iter().all(Row::is_kept);
    println!(
        "\n{}",
        if kept { "Everything happened as promised." } else { "NOT everything happened as promised." }
    );
    Ok(kept)
}

fn print_rows(rows: &[Row]) {
    print!("\n{}", summary::table(rows));
}
