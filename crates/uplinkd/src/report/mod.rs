//! Tells people and machines.
