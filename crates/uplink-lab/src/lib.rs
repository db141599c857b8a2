//! A laboratory for default routes: hosts, cables, gateways, an internet behind them, and faults, in
//! namespaces of this process. Used by the demo, the tests and the benchmark.
//!
//! Call [`enter()`] first in `main`; then build a [`Site`], break it, and measure.

mod advertise;
mod answers;
mod background;
mod cable;
mod changes;
mod client;
mod clock;
mod container;
mod crowd;
mod daemon;
mod dhcp;
mod enter;
mod error;
mod fault;
mod flow;
mod host;
mod kernel;
mod laid;
mod lookups;
mod pci;
mod ping;
mod pods;
mod program;
mod record;
mod router;
mod site;
mod stream;
mod sys;
mod tree;

pub use advertise::{Advertisement, RouterPreference};
pub use answers::{Answers, uplink_table};
pub use background::Background;
pub use cable::{Cable, End, Traffic};
pub use changes::{Change, Changes, Rule};
pub use client::{ClientKind, DhcpClient, Managed, Order};
pub use clock::{Lag, Lateness, Load, now, pass, sleep_until};
pub use container::Container;
pub use crowd::{Churn, Churned};
pub use daemon::{Cost, Daemon, DaemonBuilder};
pub use dhcp::{DhcpServer, Offer};
pub use enter::enter;
pub use error::{Error, Result};
pub use fault::Fault;
pub use flow::{Flow, FlowReport};
pub use host::{Child, Host, tool};
pub use kernel::Route;
pub use laid::Laid;
pub use lookups::{LookupReport, Lookups, Way};
pub use pci::PciFunction;
pub use pods::Pods;
pub use record::Stamped;
pub use router::RouterAdvertiser;
pub use site::{INTERNET4, INTERNET6, Site, SiteBuilder, Uplink};
pub use stream::{Gap, STREAM_INTERVAL, Stream, StreamReport};
pub use tree::Tree;
