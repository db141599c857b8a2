//! The only door through which time comes in.
