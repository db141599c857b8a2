//! Who is compared: what each is, and how it is set up the way its own users do.

use std::path::PathBuf;

use uplink_lab::{Error, Host, Result, tool};

use crate::stage::{GATEWAY, PORT};

/// Where files for contenders are written, on the worker's own `/run`.
const KEEPALIVED_CONFIG: &str = "/run/bench-keepalived.conf";
const LOOP: &str = "/run/bench-fping.sh";
const UPLINKD_CONFIG: &str = "/run/bench-uplinkd.toml";

/// What is not measured at all, and why.
pub(crate) const NOT_BUILT: [(&str, &str); 1] =
    [("FRR BGP+BFD", "needs a gateway that cooperates; the bench has no such gateway yet")];

/// A program that keeps the default route.
#[derive(Debug, Clone)]
pub(crate) enum Contender {
    /// Ours, as it is released, without configuration.
    Uplinkd(PathBuf),
    /// The script that it replaces.
    Seed(Option<PathBuf>),
    /// keepalived with a ping.
    Keepalived,
    /// fping and a loop, in the manner of dpinger.
    Fping,
}

impl Contender {
    /// A few words for the head of a column.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Uplinkd(_) => "uplinkd",
            Self::Seed(_) => "seed script",
            Self::Keepalived => "keepalived",
            Self::Fping => "fping loop",
        }
    }

    /// How it is set up.
    pub(crate) const fn about(&self) -> &'static str {
        match self {
            Self::Uplinkd(_) => {
                "release build, empty configuration (patience 1 s, return after 30 s); it alone also \
                 watches IPv6 and both uplinks"
            }
            Self::Seed(_) => "unmodified; started again 1 s after it ends, as its unit says",
            Self::Keepalived => {
                "a VRRP instance on the port without peers, its default route in virtual_routes, a \
                 track_script that pings the gateway every second (fall 2, rise 2)"
            }
            Self::Fping => {
                "fping every 500 ms bound to the port; its default route is added after 3 answers in a \
                 row and deleted after 3 losses in a row"
            }
        }
    }

    /// Why it cannot be measured here; none if it can.
    pub(crate) fn missing(&self) -> Option<String> {
        let needs = |program: &str, package: &str| {
            let found = tool(program).arg("--version").output().is_ok();
            (!found).then(|| format!("{program} is not installed (Debian package {package})"))
        };
        match self {
            Self::Uplinkd(_) => None,
            Self::Seed(None) => Some("its text is not part of this project: name it by --seed-script".into()),
            Self::Seed(Some(script)) if !script.is_file() => Some(format!("{} is no file", script.display())),
            Self::Seed(Some(_)) => needs("ping", "iputils-ping").or_else(|| needs("logger", "bsdutils")),
            Self::Keepalived => needs("keepalived", "keepalived").or_else(|| needs("ping", "iputils-ping")),
            Self::Fping => needs("fping", "fping"),
        }
    }

    /// Writes its files on a host, and gives its command line.
    pub(crate) fn set_up(&self, host: &Host) -> Result<Vec<String>> {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect();
        match self {
            Self::Uplinkd(binary) => {
                host.write(UPLINKD_CONFIG, "")?;
                let binary = binary.display().to_string();
                Ok(words(&[&binary, "run", "--config", UPLINKD_CONFIG]))
            }
            Self::Seed(Some(script)) => Ok(words(&["bash", &script.display().to_string()])),
            Self::Seed(None) => Err(Error::Unexpected("the seed script was not named".to_owned())),
            Self::Keepalived => {
                host.write(KEEPALIVED_CONFIG, keepalived())?;
                let options = ["--dont-fork", "--vrrp", "--log-console", "--use-file", KEEPALIVED_CONFIG];
                Ok(words(&[&["keepalived"], options.as_slice()].concat()))
            }
            Self::Fping => {
                host.write(LOOP, fping())?;
                Ok(words(&["sh", LOOP]))
            }
        }
    }
}

/// keepalived.conf(5). A VRRP instance needs an address of its own; nobody uses this one. The priority
/// is the highest that is not the owner's: after a loss it waits `(256 - priority) / 256` of a second
/// longer (RFC 5798, section 6.1).
fn keepalived() -> String {
    format!(
        "global_defs {{\n\
         \u{20}   script_user root\n\
         \u{20}   enable_script_security\n\
         }}\n\
         vrrp_script gateway {{\n\
         \u{20}   script \"/usr/bin/ping -n -q -c 1 -W 1 -I {PORT} {GATEWAY}\"\n\
         \u{20}   interval 1\n\
         \u{20}   fall 2\n\
         \u{20}   rise 2\n\
         }}\n\
         vrrp_instance port {{\n\
         \u{20}   state BACKUP\n\
         \u{20}   interface {PORT}\n\
         \u{20}   virtual_router_id 51\n\
         \u{20}   priority 254\n\
         \u{20}   advert_int 1\n\
         \u{20}   virtual_ipaddress {{\n        10.0.120.251/32 dev {PORT}\n    }}\n\
         \u{20}   virtual_routes {{\n        0.0.0.0/0 via {GATEWAY} dev {PORT} metric 50\n    }}\n\
         \u{20}   track_script {{\n        gateway\n    }}\n\
         }}\n"
    )
}

/// Every line that fping prints and that is no answer is a loss.
fn fping() -> String {
    format!(
        "route='default via {GATEWAY} dev {PORT} metric 50'\n\
         ip route del $route 2>/dev/null\n\
         up=0 good=0 bad=0\n\
         fping --loop --period=500 --timeout=500 --iface={PORT} {GATEWAY} 2>&1 |\n\
         while read -r line; do\n\
         \u{20}   case $line in\n\
         \u{20}   *bytes*) good=$((good + 1)) bad=0 ;;\n\
         \u{20}   *) bad=$((bad + 1)) good=0 ;;\n\
         \u{20}   esac\n\
         \u{20}   if [ $up = 0 ] && [ $good -ge 3 ]; then ip route replace $route && up=1; fi\n\
         \u{20}   if [ $up = 1 ] && [ $bad -ge 3 ]; then ip route del $route; up=0; fi\n\
         done\n"
    )
}
