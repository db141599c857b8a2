//! Packets as bytes: pure functions, no sockets. Whatever the bytes are, decoding does not fail
//! otherwise than by `None`.

pub(super) mod arp;
pub(super) mod echo;
pub(super) mod ip;
pub(super) mod neighbour;

/// Takes the next `N` bytes off the front.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*first)
}

/// Reads `packet` as everything that a socket of ours may take it for.
#[cfg(any(test, fuzzing))]
pub(super) fn read_as_any(packet: &[u8]) {
    for family in uplink_core::snapshot::Family::ALL {
        let _ = (echo::Echo::reply(family, packet), ip::source(family, packet));
    }
    let _ =
        (ip::v4_payload(packet), ip::checksum(packet), arp::reply(packet), neighbour::advertisement(packet));
}
