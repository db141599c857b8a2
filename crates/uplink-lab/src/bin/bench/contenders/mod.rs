//! Who is compared: what each is, and how it is set up the way its own users do.

mod fping;
mod frr;
mod keepalived;

use std::path::PathBuf;

use uplink_lab::{Error, Host, Result, tool};

/// Where ours has its configuration, on the worker's own `/run`.
const UPLINKD_CONFIG: &str = "/run/bench-uplinkd.toml";

/// A program that keeps the default route.
#[derive(Debug, Clone)]
pub(crate) enum Contender {
    /// Ours, as it is released, and what its configuration says.
    Uplinkd(PathBuf, &'static str),
    /// The script that it replaces.
    Seed(Option<PathBuf>),
    /// keepalived with a ping.
    Keepalived,
    /// fping and a loop, in the manner of dpinger.
    Fping,
    /// As many of these as it takes to ask what ours asks.
    FpingEqual,
    /// keepalived with BFD.
    KeepalivedBfd,
    /// FRR with BGP and BFD, which asks every so many milliseconds.
    Frr(u32),
}

impl Contender {
    /// All of them, ours first.
    pub(crate) fn all(daemon: PathBuf, seed_script: Option<PathBuf>) -> Vec<Self> {
        vec![
            Self::Uplinkd(daemon, ""),
            Self::Seed(seed_script),
            Self::Keepalived,
            Self::Fping,
            Self::FpingEqual,
            Self::KeepalivedBfd,
            Self::Frr(300),
            Self::Frr(50),
        ]
    }

    /// Ours, coming back as soon as it may, so that a fault can follow on another; none for others.
    pub(crate) fn in_haste(&self) -> Option<Self> {
        let Self::Uplinkd(binary, _) = self else { return None };
        Some(Self::Uplinkd(binary.clone(), "return_after = \"0s\"\n"))
    }

    /// A few words for its line.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Uplinkd(..) => "uplinkd",
            Self::Seed(_) => "seed script",
            Self::Keepalived => "keepalived",
            Self::Fping => "fping loop",
            Self::FpingEqual => "4 fping loops",
            Self::KeepalivedBfd => "keepalived BFD",
            Self::Frr(300) => "FRR BGP+BFD",
            Self::Frr(_) => "FRR BGP+BFD, quick",
        }
    }

    /// How it is set up.
    pub(crate) const fn about(&self) -> &'static str {
        match self {
            Self::Uplinkd(..) => {
                "release build, empty configuration (patience 1 s, return after 30 s): asks both gateways \
                 in both families, 10 questions a second"
            }
            Self::Seed(_) => {
                "unmodified, IPv4 and the port only; started again 1 s after it ends, as its unit says"
            }
            Self::Keepalived => {
                "a VRRP instance on the port without peers, its default route in virtual_routes, a \
                 track_script that pings the gateway every second (fall 2, rise 2); IPv4 and the port only"
            }
            Self::Fping => {
                "fping every 500 ms bound to the port; its default route is added after 3 answers in a \
                 row and deleted after 3 losses in a row; IPv4 and the port only, 2 questions a second"
            }
            Self::FpingEqual => {
                "the same with as many questions as uplinkd asks: both gateways in both families, those \
                 of the port every 250 ms, those of management every second"
            }
            Self::KeepalivedBfd => "as keepalived, with BFD instead of the ping, 3 x 50 ms",
            Self::Frr(300) => {
                "a default route by BGP, BFD at its default of 3 x 300 ms; IPv4 and the port only"
            }
            Self::Frr(_) => "a default route by BGP, BFD 3 x 50 ms",
        }
    }

    /// Whether the gateway must run something for it. Where it does not, ours has to be better.
    pub(crate) const fn needs_gateway(&self) -> bool {
        match self {
            Self::Uplinkd(..) | Self::Seed(_) | Self::Keepalived | Self::Fping | Self::FpingEqual => false,
            Self::KeepalivedBfd | Self::Frr(_) => true,
        }
    }

    /// Whether the quick selection has it.
    pub(crate) const fn is_quick(&self) -> bool {
        match self {
            Self::Uplinkd(..) | Self::Seed(_) | Self::Keepalived | Self::Fping => true,
            Self::FpingEqual | Self::KeepalivedBfd | Self::Frr(_) => false,
        }
    }

    /// Why it cannot be measured here; none if it can.
    pub(crate) fn missing(&self) -> Option<String> {
        match self {
            Self::Uplinkd(..) => None,
            Self::Seed(None) => Some("its text is not part of this project: name it by --seed-script".into()),
            Self::Seed(Some(script)) if !script.is_file() => Some(format!("{} is no file", script.display())),
            Self::Seed(Some(_)) => needs("ping", "iputils-ping").or_else(|| needs("logger", "bsdutils")),
            Self::Keepalived => needs("keepalived", "keepalived").or_else(|| needs("ping", "iputils-ping")),
            Self::Fping | Self::FpingEqual => needs("fping", "fping"),
            Self::KeepalivedBfd => needs("keepalived", "keepalived"),
            Self::Frr(_) => frr::missing(),
        }
    }

    /// Writes its files on the worker, and gives its command line.
    pub(crate) fn set_up(&self, worker: &Host) -> Result<Vec<String>> {
        match self {
            Self::Uplinkd(binary, config) => {
                worker.write(UPLINKD_CONFIG, config)?;
                Ok(words(&[&binary.display().to_string(), "run", "--config", UPLINKD_CONFIG]))
            }
            Self::Seed(Some(script)) => Ok(words(&["bash", &script.display().to_string()])),
            Self::Seed(None) => Err(Error::Unexpected("the seed script was not named".to_owned())),
            Self::Keepalived => keepalived::with_ping(worker),
            Self::Fping => fping::one(worker),
            Self::FpingEqual => fping::four(worker),
            Self::KeepalivedBfd => keepalived::with_bfd(worker),
            Self::Frr(interval) => frr::at_worker(worker, *interval),
        }
    }

    /// Writes the files of what it needs at the gateway, and gives the command line; none if it needs
    /// nothing.
    pub(crate) fn set_up_gateway(&self, gateway: &Host) -> Result<Option<Vec<String>>> {
        match self {
            Self::Uplinkd(..) | Self::Seed(_) | Self::Keepalived | Self::Fping | Self::FpingEqual => Ok(None),
            Self::KeepalivedBfd => keepalived::at_gateway(gateway).map(Some),
            Self::Frr(interval) => frr::at_gateway(gateway, *interval).map(Some),
        }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// Why nobody can start a program here; none if one can.
fn needs(program: &str, package: &str) -> Option<String> {
    let found = tool(program).arg("--version").output().is_ok();
    (!found).then(|| format!("{program} is not installed (Debian package {package})"))
}
