//! Tells people and machines.

pub(crate) mod journal;
mod native;
#[cfg(test)]
mod sample;
pub(crate) mod systemd;
pub(crate) mod text;
pub(crate) mod varlink;
