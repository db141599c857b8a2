//! What stands on a host: what is ours, and what others laid.

use std::collections::BTreeSet;
use std::fs;

use crate::error::Result;
use crate::host::Host;

/// Settings that can matter to which way packets go, by their place below `/proc/sys/net`. Not all that there
/// are: who reads `addr_gen_mode` or `stable_secret` spins, and takes a whole processor, until the kernel's
/// lock of links and routes is free (net/ipv6/addrconf.c).
const SETTINGS: [(&str, &[&str]); 2] = [
    ("ipv4", &["rp_filter", "src_valid_mark", "arp_announce", "arp_filter", "arp_ignore", "forwarding"]),
    ("ipv6", &["accept_ra", "accept_ra_defrtr", "autoconf", "disable_ipv6", "forwarding", "use_tempaddr"]),
];
/// The interfaces whose settings are shown, where they exist.
const INTERFACES: [&str; 4] = ["all", "default", "port", "mgmt"];

/// Routes, rules, nftables tables and settings of interfaces, as sorted text: equal texts mean that they are
/// the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    /// What uplinkd laid and set (`src_valid_mark`); empty if nothing.
    pub ours: String,
    /// All else.
    pub others: String,
}

impl Laid {
    /// What others laid that is another now, line by line: as it was before, and as it is.
    #[must_use]
    pub fn difference(&self, before: &Self) -> String {
        let lines = |of: &Self| of.others.lines().map(str::to_owned).collect::<BTreeSet<_>>();
        let (before, now) = (lines(before), lines(self));
        let gone = before.difference(&now).map(|line| format!("- {line}\n"));
        gone.chain(now.difference(&before).map(|line| format!("+ {line}\n"))).collect()
    }
}

impl Host {
    /// What stands on this host.
    ///
    /// # Errors
    /// What `ip` or `nft` says.
    pub fn laid(&self) -> Result<Laid> {
        let (mut ours, mut others) = (Vec::new(), Vec::new());
        let mut put = |is_ours: bool, line: &str| {
            if is_ours { &mut ours } else { &mut others }.push(line.to_owned());
        };
        let table = self.table_text()?;
        table.lines().for_each(|line| put(format!("{line} ").contains(" proto 117 "), line));
        for table in self.command("nft", &["list", "tables"])?.lines() {
            put(table.ends_with(" uplinkd"), &self.command("nft", &[format!("list {table}")])?);
        }
        for (setting, value) in self.run(settings) {
            let set_by_us = setting.ends_with("/src_valid_mark");
            // One that is not set says nothing.
            if !(set_by_us && value == "0") {
                put(set_by_us, &format!("{setting} {value}"));
            }
        }
        Ok(Laid { ours: ours.join("\n"), others: others.join("\n") })
    }
}

/// Those of the host that this is run on, each with its value.
fn settings() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (family, names) in SETTINGS {
        for (interface, name) in INTERFACES.iter().flat_map(|of| names.iter().map(move |name| (of, name))) {
            let setting = format!("{family}/conf/{interface}/{name}");
            if let Ok(value) = fs::read_to_string(format!("/proc/sys/net/{setting}")) {
                found.push((setting, value.trim().to_owned()));
            }
        }
    }
    found
}
