//! The path rules of an uplink as they stand, and as the uplink's addresses and routes say they should.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use serde_json::Value;
use uplink_core::own::{PRIORITY_CONNECTION, PRIORITY_SOURCE, probe_table};
use uplink_core::snapshot::{Family, LinkIndex, TABLE_MAIN, protocol};

use crate::error::{Doing, Error, Result};
use crate::host::Host;
use crate::kernel::Route;

/// What keeps an uplink's answers on it, in one family.
#[derive(Debug, PartialEq, Eq)]
pub struct Answers {
    /// The addresses whose packets keep to it.
    sources: BTreeSet<IpAddr>,
    /// Whether its connections are led by a mark.
    marked: bool,
    /// The gateway that they are led to.
    gateway: Option<IpAddr>,
}

impl Answers {
    /// Nothing keeps them.
    pub const NONE: Self = Self { sources: BTreeSet::new(), marked: false, gateway: None };

    /// Those that stand on a host.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn standing(host: &Host, family: Family, interface: &str) -> Result<Self> {
        let table = uplink_table(host, interface)?;
        let rules = shown(host, family, "rule show")?;
        let found = |priority: u32, table: u32, key: &'static str| -> BTreeSet<String> {
            let (table, ours) = (table.to_string(), protocol::UPLINKD.to_string());
            let is_it = |rule: &&Value| {
                rule["priority"] == priority && rule["table"] == table && rule["protocol"] == ours
            };
            rules.iter().filter(is_it).filter_map(|rule| rule[key].as_str().map(str::to_owned)).collect()
        };
        // Each stands twice: for what the main table knows beside its default routes, and for the uplink.
        let both = |[main, uplink]: [u32; 2], key| -> Vec<String> {
            let main = found(main, TABLE_MAIN, key);
            found(uplink, table, key).into_iter().filter(|it| main.contains(it)).collect()
        };
        let sources = both(PRIORITY_SOURCE, "src");
        let led = host.default_routes(family)?.into_iter().find(|route| route.table == table);
        Ok(Self {
            sources: sources.iter().map(|source| address(source)).collect::<Result<_>>()?,
            marked: !both(PRIORITY_CONNECTION, "fwmark").is_empty(),
            gateway: led.and_then(|route| route.gateway),
        })
    }

    /// Those that should stand on a host where connections are tracked, while the uplink is up: for all its
    /// lasting addresses, by the gateway of its own best default route.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn wanted(host: &Host, family: Family, interface: &str) -> Result<Self> {
        let is_own = |route: &Route| {
            route.protocol != protocol::UPLINKD && route.interface.as_deref() == Some(interface)
        };
        let own = host.default_routes(family)?.into_iter().filter(is_own);
        let addresses = shown(host, family, &format!("address show dev {interface} scope global"))?;
        let infos = addresses.iter().flat_map(|of| of["addr_info"].as_array().into_iter().flatten());
        let passing = ["tentative", "dadfailed", "deprecated", "temporary"];
        let lasting = infos.filter(|info| passing.iter().all(|flag| info[flag].is_null()));
        let sources = lasting.filter_map(|info| info["local"].as_str()).map(address);
        Ok(Self {
            sources: sources.collect::<Result<_>>()?,
            marked: true,
            gateway: own.min_by_key(|route| route.metric).and_then(|route| route.gateway),
        })
    }

    /// The uplink has an address.
    #[must_use]
    pub fn has_sources(&self) -> bool {
        !self.sources.is_empty()
    }

    /// The uplink has a gateway.
    #[must_use]
    pub const fn has_gateway(&self) -> bool {
        self.gateway.is_some()
    }

    /// Those of a path that is down.
    #[must_use]
    pub fn without_sources(self) -> Self {
        Self { sources: BTreeSet::new(), ..self }
    }
}

/// The table of an uplink's own.
///
/// # Errors
/// If there is no such interface.
pub fn uplink_table(host: &Host, interface: &str) -> Result<u32> {
    let text = host.ip(&format!("-o link show dev {interface}"))?;
    let index = text.split(':').next().and_then(|index| index.trim().parse().ok());
    let unreadable = || Error::Unexpected(format!("ip shows no number of {interface}: {text}"));
    Ok(probe_table(LinkIndex(index.ok_or_else(unreadable)?)))
}

fn address(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::Unexpected(format!("ip shows `{text}`, which is no address")))
}

/// What `ip` shows as data.
fn shown(host: &Host, family: Family, what: &str) -> Result<Vec<Value>> {
    let flag = match family {
        Family::Ipv4 => "-4",
        Family::Ipv6 => "-6",
    };
    let text = host.ip(&format!("-N -j {flag} {what}"))?;
    let list = if text.trim().is_empty() { "[]" } else { &text };
    serde_json::from_str(list).map_err(io::Error::from).doing(format!("read what `ip {what}` shows"))
}
