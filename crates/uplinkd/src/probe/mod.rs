//! Sends probes, matches and stamps their answers.
