//! Reads the configuration file into a policy.
