//! Socket options of netlink sockets.
