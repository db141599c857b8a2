//! A thin typed layer over netlink sockets.
