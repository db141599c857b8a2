//! Reads the configuration file into a policy.
//!
//! The TOML tree is walked by hand and not derived: so every mistake, of syntax, of type or of
//! sense, is reported alike, with the exact place of the key or value and what to write instead.

mod field;
mod mistake;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use toml::de::DeTable;
use uplink_core::policy::{
    Match, Mode, Need, PathRules, Placement, Policy, Preempt, Target, UplinkPolicy, WithinTier,
};
use uplink_core::snapshot::{Family, Weight};

use self::field::{Field, Table};
pub(crate) use self::mistake::ConfigError;
use self::mistake::Mistake;

/// Where the configuration is read from when no file is named.
pub(crate) const DEFAULT_PATH: &str = "/etc/uplinkd/uplinkd.toml";

/// The keys that hold for all uplinks, and the list of these.
const KEYS: &[&str] = &[
    "mode",
    "patience",
    "return_after",
    "boot_wait",
    "preempt",
    "placement",
    "within_tier",
    "path_rules",
    "path_marks",
    "close_sockets",
    "uplink",
];

/// The largest file that is read, in bytes. 64 uplinks with everything said fit in a tenth of it.
const MAX_FILE: usize = 1024 * 1024;
/// The most uplinks: an order of magnitude above any host seen.
const MAX_UPLINKS: usize = 64;
/// The most targets of one uplink: each costs a probe every few seconds.
const MAX_TARGETS: u32 = 16;
/// The longest name of an uplink, in characters: it stands in tables and in the log.
const MAX_NAME: usize = 64;
/// The longest interface pattern, in bytes: alternative names have up to 127 (`ALTIFNAMSIZ`).
const MAX_PATTERN: usize = 127;
/// More patience than this is no longer a watch.
const MAX_PATIENCE: Duration = Duration::from_secs(60);
/// The longest wait for anything else.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// Targets are not asked more often: they are other people's machines.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// How often targets are asked when nothing is said.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

/// Reads the file at `path`, or the default one, which may be missing.
///
/// # Errors
/// The file cannot be read, or is not a configuration; a file that was named must exist.
pub(crate) fn load(path: Option<&Path>) -> Result<Policy, ConfigError> {
    let file = path.unwrap_or(Path::new(DEFAULT_PATH));
    let unreadable = |error| ConfigError::Unreadable { file: file.to_owned(), error };
    let mut bytes = Vec::new();
    match File::open(file) {
        Ok(open) => open.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?,
        Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Policy::default());
        }
        Err(error) => return Err(unreadable(error)),
    };
    let name = file.display().to_string();
    if bytes.len() > MAX_FILE {
        return Err(ConfigError::TooLarge { file: name });
    }
    match str::from_utf8(&bytes) {
        Ok(text) => parse(&name, text),
        Err(error) => Err(not_text(&name, &bytes, error.valid_up_to())),
    }
}

/// Reads `text` as a configuration. `file_name` is what the error calls it.
///
/// # Errors
/// The first mistake in the text.
pub(crate) fn parse(file_name: &str, text: &str) -> Result<Policy, ConfigError> {
    if text.len() > MAX_FILE {
        return Err(ConfigError::TooLarge { file: file_name.to_owned() });
    }
    document(text).map_err(|mistake| mistake.at(file_name, text))
}

/// The error for bytes that are not UTF-8 from `start` on.
fn not_text(file_name: &str, bytes: &[u8], start: usize) -> ConfigError {
    let shown = String::from_utf8_lossy(bytes);
    Mistake::new(start..start + 1, "this is not UTF-8 text", "save the file as UTF-8").at(file_name, &shown)
}

/// The whole file.
fn document(text: &str) -> Result<Policy, Mistake> {
    let tree = DeTable::parse(text).map_err(|error| {
        Mistake::new(
            error.span().unwrap_or(0..0),
            error.message(),
            "correct the TOML here; its rules are at https://toml.io/en/v1.1.0",
        )
    })?;
    let table = Table::new(tree.get_ref(), tree.span(), KEYS, |_| None)?;
    let default = Policy::default();
    let within_tier = table.read("within_tier", default.within_tier, |field| {
        field.choice(&[("first", WithinTier::First), ("multipath", WithinTier::Multipath)])
    })?;
    Ok(Policy {
        mode: table.read("mode", default.mode, |field| {
            field.choice(&[("steer", Mode::Steer), ("observe", Mode::Observe)])
        })?,
        patience: table
            .read("patience", default.patience, |field| field.duration(Policy::MIN_PATIENCE, MAX_PATIENCE))?,
        return_after: table
            .read("return_after", default.return_after, |field| field.duration(Duration::ZERO, MAX_WAIT))?,
        boot_wait: table
            .read("boot_wait", default.boot_wait, |field| field.duration(Duration::ZERO, MAX_WAIT))?,
        preempt: table.read("preempt", default.preempt, |field| {
            field.choice(&[("always", Preempt::Always), ("boot", Preempt::Boot), ("never", Preempt::Never)])
        })?,
        placement: table.read("placement", default.placement, |field| {
            field.choice(&[("auto", Placement::Auto), ("main", Placement::Main), ("table", Placement::Table)])
        })?,
        path_rules: path_rules(&table)?,
        within_tier,
        close_sockets: table.read("close_sockets", default.close_sockets, |field| {
            field.choice(&[("off", false), ("on", true)])
        })?,
        uplinks: table.read("uplink", Vec::new(), |field| uplinks(field, within_tier))?,
    })
}

/// Whether answers keep to the uplink of their question, and which bits of the marks are for that.
fn path_rules(table: &Table<'_>) -> Result<PathRules, Mistake> {
    let bits = table.read("path_marks", PathRules::USUAL_BITS, |field| marks(&field))?;
    table.read("path_rules", PathRules::On(bits), |field| {
        field.choice(&[("on", PathRules::On(bits)), ("off", PathRules::Off)])
    })
}

/// Bits of a mark that stand together.
fn marks(field: &Field<'_>) -> Result<u32, Mistake> {
    let remedy = format!(
        "write bits that nobody else on the host uses, without quotes, such as {:#x}",
        PathRules::USUAL_BITS
    );
    let bits = field.integer(0, u32::MAX).map_err(|mistake| mistake.with_remedy(&remedy))?;
    let row = bits.checked_shr(bits.trailing_zeros()).unwrap_or(0);
    if row.count_ones() < PathRules::MIN_BITS || row.count_ones() != row.trailing_ones() {
        let message = format!("these are not {} or more bits in a row", PathRules::MIN_BITS);
        return Err(field.wrong(message, remedy));
    }
    Ok(bits)
}

/// All `[[uplink]]` tables, which must differ in name and in what they match.
fn uplinks(field: Field<'_>, within_tier: WithinTier) -> Result<Vec<UplinkPolicy>, Mistake> {
    let mut uplinks: Vec<UplinkPolicy> = Vec::new();
    for item in field.list(MAX_UPLINKS, "write [[uplink]], with two brackets, before the keys of each")? {
        let known = ["name", "match", "tier", "weight", "gateway", "targets", "need", "interval"];
        let table = item.table(&known, elsewhere)?;
        let uplink = uplink(&table, within_tier)?;
        if let Some(twin) = uplinks.iter().find(|other| other.name == uplink.name) {
            return Err(table.must("name")?.wrong(
                format!("there is an uplink named {:?} already", twin.name),
                "give each uplink a name of its own",
            ));
        }
        if let Some(twin) = uplinks.iter().find(|other| other.matching == uplink.matching) {
            return Err(table.must("match")?.wrong(
                format!("the uplink {:?} matches this already", twin.name),
                "match a different interface, or remove one of the two",
            ));
        }
        uplinks.push(uplink);
    }
    Ok(uplinks)
}

/// Where a key belongs that an `[[uplink]]` does not have.
fn elsewhere(key: &str) -> Option<String> {
    match key {
        "interface" | "mac" | "pci" => Some(format!("write match = {{ {key} = … }}")),
        key if KEYS.contains(&key) => {
            Some(format!("`{key}` holds for all uplinks: write it before the first [[uplink]]"))
        }
        _ => None,
    }
}

/// One `[[uplink]]`.
fn uplink(table: &Table<'_>, within_tier: WithinTier) -> Result<UplinkPolicy, Mistake> {
    let targets = table.read("targets", Vec::new(), targets)?;
    Ok(UplinkPolicy {
        name: name(&table.must("name")?)?,
        matching: matching(&table.must("match")?)?,
        tier: table.read("tier", 1, |field| field.integer(1, 1000))?,
        weight: table.read("weight", Weight::ONE, |field| weight(&field, within_tier))?,
        gateways: table.read("gateway", Vec::new(), gateways)?,
        need: table.read("need", Need::Any, |field| need(&field, &targets))?,
        targets,
        interval: table.read("interval", DEFAULT_INTERVAL, |field| field.duration(MIN_INTERVAL, MAX_WAIT))?,
    })
}

/// Its share of a multipath route.
fn weight(field: &Field<'_>, within_tier: WithinTier) -> Result<Weight, Mistake> {
    if within_tier == WithinTier::First {
        return Err(field.wrong(
            "a weight has no meaning here: one uplink of a tier carries the default route",
            "add within_tier = \"multipath\" before the first [[uplink]], or remove `weight`",
        ));
    }
    let weight = field.integer(u16::from(Weight::ONE).into(), u16::from(Weight::MAX).into())?;
    // It was just seen to fit.
    Ok(u16::try_from(weight).ok().and_then(|weight| Weight::try_from(weight).ok()).unwrap_or(Weight::MAX))
}

/// What an uplink is called.
fn name(field: &Field<'_>) -> Result<String, Mistake> {
    let name = field.text("\"dpu\"")?;
    let length = name.chars().count();
    let printable = name.chars().all(|c| !c.is_control()) && name.trim() == name;
    if length == 0 || length > MAX_NAME || !printable {
        return Err(field.wrong(
            format!("a name has 1 to {MAX_NAME} printable characters and no space at either end"),
            "write a short name such as \"dpu\"",
        ));
    }
    Ok(name.to_owned())
}

/// How its interface is recognised: exactly one way.
fn matching(field: &Field<'_>) -> Result<Match, Mistake> {
    let table = field.table(&["interface", "mac", "pci"], |_| None)?;
    let one = table.only_one(
        "write one of interface = \"ens1f*\", mac = \"b8:3f:d2:00:00:01\" or pci = \"0000:03:00.0\"",
    )?;
    let wrong = |error: String, see| one.wrong(error, format!("write it as `{see}` shows it"));
    match one.key() {
        "mac" => {
            let mac = one.text("\"b8:3f:d2:00:00:01\"")?.parse();
            mac.map(Match::Mac).map_err(|error| wrong(error, "ip link"))
        }
        "pci" => {
            let pci = one.text("\"0000:03:00.0\"")?.parse();
            pci.map(Match::Pci).map_err(|error| wrong(error, "lspci -D"))
        }
        _ => pattern(&one).map(Match::Interface),
    }
}

/// A name or glob that an interface can have (`dev_valid_name` in the kernel's net/core/dev.c).
fn pattern(field: &Field<'_>) -> Result<String, Mistake> {
    let pattern = field.text("\"ens1f*\"")?;
    let possible = pattern.chars().all(|c| c != '/' && c != ':' && !c.is_whitespace() && !c.is_control());
    if pattern.is_empty() || pattern.len() > MAX_PATTERN || !possible {
        return Err(field.wrong(
            format!("no interface can have this name: 1 to {MAX_PATTERN} bytes, no `/`, `:` or space"),
            "write a name as `ip link` shows it; `*` stands for any characters, `?` for one",
        ));
    }
    Ok(pattern.to_owned())
}

/// The gateways, at most one per family.
fn gateways(field: Field<'_>) -> Result<Vec<IpAddr>, Mistake> {
    let mut gateways: Vec<IpAddr> = Vec::new();
    for item in field.list(Family::ALL.len(), "write it as gateway = [\"10.0.120.1\"]")? {
        let address = item.text("\"10.0.120.1\"")?.parse().map_err(|_| {
            item.wrong("this is not an IP address", "write an address such as \"10.0.120.1\" or \"fe80::1\"")
        })?;
        host_address(&item, address)?;
        let family = Family::of(address);
        if gateways.iter().any(|other| Family::of(*other) == family) {
            return Err(item.wrong(
                format!("this uplink has an {family} gateway already"),
                "keep one gateway per family; name a second uplink for a second gateway",
            ));
        }
        gateways.push(address);
    }
    Ok(gateways)
}

/// The targets behind the gateway.
fn targets(field: Field<'_>) -> Result<Vec<Target>, Mistake> {
    let mut targets = Vec::new();
    for item in field.list(MAX_TARGETS as usize, "write it as targets = [{ icmp = \"10.0.0.53\" }]")? {
        let target = target(&item)?;
        if targets.contains(&target) {
            return Err(item.wrong(format!("{target} is asked already"), "remove one of the two"));
        }
        targets.push(target);
    }
    Ok(targets)
}

/// One target: exactly one kind of question.
fn target(field: &Field<'_>) -> Result<Target, Mistake> {
    let table = field.table(&["icmp", "tcp"], |_| None)?;
    let one = table.only_one("write one of { icmp = \"10.0.0.53\" } or { tcp = \"10.0.0.10:6443\" }")?;
    let target = match one.key() {
        "icmp" => Target::Icmp(one.text("\"10.0.0.53\"")?.parse().map_err(|_| {
            one.wrong(
                "this is not an IP address",
                "write an address such as \"10.0.0.53\" or \"2001:db8::53\"",
            )
        })?),
        _ => Target::Tcp(socket_address(&one)?),
    };
    host_address(&one, target.address())?;
    if matches!(target.address(), IpAddr::V6(address) if address.is_unicast_link_local())
        || matches!(target.address(), IpAddr::V4(address) if address.is_link_local())
    {
        return Err(one.wrong(
            "a link-local address is never behind a gateway",
            "name something that the gateway has to forward to",
        ));
    }
    Ok(target)
}

/// An address with a port.
fn socket_address(field: &Field<'_>) -> Result<SocketAddr, Mistake> {
    field
        .text("\"10.0.0.10:6443\"")?
        .parse()
        .ok()
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or_else(|| {
            field.wrong(
                "this is not an IP address with a port",
                "write it such as \"10.0.0.10:6443\" or \"[2001:db8::10]:6443\"",
            )
        })
}

/// Refuses an address that cannot belong to another machine.
fn host_address(field: &Field<'_>, address: IpAddr) -> Result<(), Mistake> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if broadcast || mapped || address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return Err(field.wrong(
            format!("{address} is not the address of another machine"),
            "write a unicast address that is not a loopback address",
        ));
    }
    Ok(())
}

/// How many of the targets must answer; never more than a family has, it would be down for ever.
fn need(field: &Field<'_>, targets: &[Target]) -> Result<Need, Mistake> {
    let remedy =
        || format!("write \"any\", \"all\", or a whole number from 1 to {MAX_TARGETS} without quotes");
    if field.is_text() {
        let word = field.choice(&[("any", Need::Any), ("all", Need::All)]);
        return word.map_err(|mistake| mistake.with_remedy(remedy()));
    }
    let wanted = field.integer(1, MAX_TARGETS).map_err(|mistake| mistake.with_remedy(remedy()))?;
    let mut counts: BTreeMap<Family, u32> = BTreeMap::new();
    for target in targets {
        *counts.entry(Family::of(target.address())).or_default() += 1;
    }
    if counts.is_empty() {
        return Err(
            field.wrong("this uplink has no targets that could answer", "add targets, or remove `need`")
        );
    }
    for (family, count) in counts {
        if wanted > count {
            return Err(field.wrong(
                format!("{wanted} must answer, but only {count} {family} target is given"),
                "add targets of this family, or need fewer; the number holds for each family",
            ));
        }
    }
    Ok(Need::AtLeast(wanted))
}
