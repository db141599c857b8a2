//! Reads a lease as systemd-networkd writes it (`dhcp_lease_save` in
//! src/libsystemd-network/sd-dhcp-lease.c): lines such as `ROUTER=10.0.0.1 10.0.0.2`, or, in the newest
//! versions, JSON.

use std::net::Ipv4Addr;

use serde::Deserialize;

use super::{Written, addresses, values};

/// What the file says; none if it holds no lease.
pub(super) fn parse(text: &str) -> Option<Written> {
    if text.trim_start().starts_with('{') {
        let lease: Json = serde_json::from_str(text).ok()?;
        let routers = lease.routers.into_iter().map(Ipv4Addr::from).collect();
        return Some(Written { address: lease.address.into(), routers });
    }
    let mut written = None;
    let mut routers = Vec::new();
    for (key, value) in values(text) {
        match key {
            "ADDRESS" => written = value.parse().ok(),
            "ROUTER" => routers = addresses(value),
            _ => {}
        }
    }
    Some(Written { address: written?, routers })
}

/// The members that matter. Addresses are lists of their four bytes.
#[derive(Deserialize)]
struct Json {
    #[serde(rename = "Address")]
    address: [u8; 4],
    #[serde(rename = "Router", default)]
    routers: Vec<[u8; 4]>,
}

#[cfg(test)]
mod tests {
    use super::super::tests::{never_panics, written};
    use super::*;

    /// As version 252 writes it, with an option 121.
    const LINES: &str = "\
# This is private data. Do not parse.
ADDRESS=10.0.120.58
NETMASK=255.255.255.0
ROUTER=10.0.120.1 10.0.120.2
SERVER_ADDRESS=10.0.120.1
NEXT_SERVER=10.0.120.1
BROADCAST=10.0.120.255
T1=1800
T2=3150
LIFETIME=3600
DNS=10.0.0.53
CLASSLESS_ROUTES=169.254.99.100/32,10.0.120.1
CLIENTID=ffb6220feb00020000ab11
";

    /// As the newest versions write it, in one line.
    const JSON: &str = r#"{"Address":[10,0,120,58],"AddressString":"10.0.120.58","Netmask":[255,255,255,0],"Router":[[10,0,120,1],[10,0,120,2]],"LifetimeUSec":3600000000}"#;

    #[test]
    fn both_forms_are_read() {
        let expected = written("10.0.120.58", &["10.0.120.1", "10.0.120.2"]);
        assert_eq!(parse(LINES), Some(expected.clone()));
        assert_eq!(parse(JSON), Some(expected));
    }

    #[test]
    fn a_lease_need_not_name_a_router() {
        let bare = Some(written("10.0.120.58", &[]));
        assert_eq!(parse("ADDRESS=10.0.120.58\n"), bare);
        assert_eq!(parse("ADDRESS=10.0.120.58\nROUTER=\n"), bare);
        assert_eq!(parse("ADDRESS=10.0.120.58\nROUTER=gateway fe80::1\n"), bare);
        assert_eq!(parse(r#"{"Address":[10,0,120,58]}"#), bare);
    }

    #[test]
    fn what_is_no_lease_is_none() {
        for text in ["", "# nothing\n", "ROUTER=10.0.120.1\n", "ADDRESS=10.0.120\n", "{", "{}", "[]"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(parse(r#"{"Address":[10,0,120,580]}"#), None);
    }

    #[test]
    fn nothing_makes_it_panic() {
        for whole in [LINES, JSON] {
            never_panics(whole, parse);
        }
    }
}
