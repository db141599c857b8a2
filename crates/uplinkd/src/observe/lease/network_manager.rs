//! Reads what NetworkManager writes about a device (`nm_config_device_state_write` in
//! src/core/nm-config.c): a keyfile, with the DHCP options in group `dhcp4`, each with the group's name
//! before its own (measured with 1.42). The lease files of its own client below `/var/lib/NetworkManager`
//! hold the address only.

use super::{Written, addresses};

/// What the file says; none if the device has no lease.
pub(super) fn parse(text: &str) -> Option<Written> {
    let (mut address, mut routers) = (None, Vec::new());
    let mut in_group = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_group = line == "[dhcp4]";
        } else if let Some((key, value)) = line.split_once('=').filter(|_| in_group) {
            match key.trim().trim_start_matches("dhcp4.") {
                "ip_address" => address = value.trim().parse().ok(),
                "routers" => routers = addresses(value),
                _ => {}
            }
        }
    }
    Some(Written { address: address?, routers })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{never_panics, written};
    use super::*;

    /// As version 1.42 of Debian 12 writes it.
    const FILE: &str = "\
[device]
managed=true
perm-hw-addr-fake=E2:44:2B:42:80:A2
connection-uuid=c0e690a0-c542-3ca2-9abc-460f34b08324
nm-owned=false
route-metric-default-effective=100
next-server=10.0.120.1

[dhcp4]
dhcp4.broadcast_address=10.0.120.255
dhcp4.dhcp_lease_time=3600
dhcp4.dhcp_server_identifier=10.0.120.1
dhcp4.expiry=1795430759
dhcp4.ip_address=10.0.120.58
dhcp4.rfc3442_classless_static_routes=169.254.99.100/32 10.0.120.1
dhcp4.routers=10.0.120.1 10.0.120.2
dhcp4.subnet_mask=255.255.255.0
";

    #[test]
    fn the_lease_of_a_device_is_read() {
        assert_eq!(parse(FILE), Some(written("10.0.120.58", &["10.0.120.1", "10.0.120.2"])));
    }

    #[test]
    fn a_device_without_a_lease_has_none() {
        assert_eq!(parse("[device]\nmanaged=true\nip_address=10.0.0.1\n"), None);
        assert_eq!(parse("[dhcp4]\ndhcp4.routers=10.0.120.1\n"), None);
        assert_eq!(parse("[dhcp4]\ndhcp4.ip_address=10.0.0.5\n"), Some(written("10.0.0.5", &[])));
        assert_eq!(parse("dhcp4.ip_address=10.0.0.5\n[dhcp6]\ndhcp4.ip_address=10.0.0.5\n"), None);
    }

    #[test]
    fn nothing_makes_it_panic() {
        never_panics(FILE, parse);
    }
}
