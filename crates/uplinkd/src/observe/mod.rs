//! Turns netlink and sysfs into one snapshot.
