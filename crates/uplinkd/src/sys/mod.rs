//! The only place for `unsafe`: calls that no safe crate wraps. Each block states why it is sound.
#![allow(unsafe_code)]

pub(crate) mod netlink;
pub(crate) mod packet;
pub(crate) mod reactor;
