//! The core against a simulated kernel and world, in virtual time.

mod property;
mod scenario;
mod sim;
