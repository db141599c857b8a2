//! Packet sockets and their addresses.
