//! The promises that are figures. They are measured one at a time, with nothing else running beside
//! them, and each is printed with the machine's own lateness.
#![allow(
    clippy::disallowed_macros,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test program with its own main: it may print and panic"
)]

mod crowd;
mod figures;
#[path = "../lab/scene.rs"]
#[allow(dead_code, reason = "the other test program uses the rest of it")]
mod scene;
mod steady;
mod switch;

use libtest_mimic::{Arguments, Trial};

fn main() {
    // Namespaces are entered while there is one thread.
    if let Err(error) = uplink_lab::enter() {
        panic!("{error}");
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let trials: Vec<Trial> =
        [switch::trials(), steady::trials(), crowd::trials()].into_iter().flatten().collect();
    libtest_mimic::run(&arguments, trials).exit();
}
