//! The loop: feed the core, carry out what it says.
