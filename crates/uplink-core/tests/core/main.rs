//! The core against a simulated kernel and world, in virtual time.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "this crate is a test as a whole, its helpers too: what fails, fails the test"
)]

mod property;
mod scenario;
mod sim;
