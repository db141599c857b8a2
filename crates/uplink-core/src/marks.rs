//! Our nftables table: it marks each connection with the uplink that it came in by, and its answers, so
//! that rules lead them there. What it consists of is written in the daemon's room `nftables`; here is
//! what it says.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::snapshot::{Family, LinkIndex, Mark};

/// What the table is called, in each family.
pub const TABLE: &str = "uplinkd";

/// One family's table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnMarks {
    /// The family whose packets it sees.
    pub family: Family,
    /// What it marks; no two have the same mark.
    pub uplinks: Vec<Marked>,
    /// It is what we laid. Otherwise somebody changed it, and it must be laid anew.
    pub intact: bool,
}

/// How the connections of one uplink are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marked {
    /// The interface that they come in by.
    pub link: LinkIndex,
    /// Their mark.
    pub mark: Mark,
    /// Whether packets of the question are marked, too.
    pub check: Check,
}

/// Packets whose destination is translated pass a strict reverse-path check only if that looks at their
/// mark: it asks for the way from where they are sent on to, and not from where they came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// There is no such check.
    No,
    /// There is, and it looked at marks before we came.
    Marked,
    /// There is, and it is we who make it look: to be taken back.
    MarkedByUs,
}

/// The mark of packets that are routed as without us: of a connection that others mark, with a translated
/// destination. It has all bits that marks have; no uplink has it.
#[must_use]
pub const fn as_without_us(bits: u32) -> Mark {
    Mark { value: bits, mask: bits }
}

impl OwnMarks {
    /// The bits of all marks; none if there are no uplinks.
    #[must_use]
    pub fn bits(&self) -> Option<u32> {
        self.uplinks.iter().map(|marked| marked.mark.mask).reduce(|bits, more| bits | more)
    }

    /// How the connections of this interface are marked.
    #[must_use]
    pub fn of(&self, link: LinkIndex) -> Option<&Marked> {
        self.uplinks.iter().find(|marked| marked.link == link)
    }
}

impl fmt::Display for OwnMarks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nftables table {TABLE}:", self.family)?;
        for Marked { link, mark, check } in &self.uplinks {
            write!(f, " ifindex {} mark {mark}", link.0)?;
            if *check != Check::No {
                f.write_str(" checked")?;
            }
        }
        Ok(())
    }
}
