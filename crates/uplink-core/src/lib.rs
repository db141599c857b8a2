//! Judges uplinks and plans the default route.
//!
//! This crate does no I/O, reads no clock, starts no thread: it is fed [`event::Input`] and the
//! time, and gives back [`event::Output`] and the moment it wants to be called again.

mod contest;
mod core;
pub mod discover;
mod elect;
pub mod event;
mod judge;
pub mod lease;
pub mod marks;
pub mod memory;
pub mod own;
pub mod paths;
pub mod plan;
pub mod policy;
pub mod relevance;
pub mod snapshot;
pub mod status;
pub mod time;
pub mod undone;
pub mod wire;

pub use crate::core::{Core, Start};
