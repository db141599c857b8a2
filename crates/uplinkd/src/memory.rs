//! Keeps the core's memory in a file.
