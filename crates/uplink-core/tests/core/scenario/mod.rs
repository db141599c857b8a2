//! What the daemon does on a host, told by behaviour.

mod silence;
