//! The core against a simulated kernel and world, in virtual time.

mod scenario;
mod sim;
