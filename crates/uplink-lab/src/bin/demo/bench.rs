//! The site, the daemon on it, and everything that watches them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uplink_core::snapshot::{Family, protocol};
use uplink_core::time::Instant;
use uplink_lab::{
    Change, Changes, Daemon, Error, INTERNET4, INTERNET6, Lookups, Result, STREAM_INTERVAL, Site, Stamped,
    Stream, now, pass,
};

use crate::summary::{Loss, Totals};
use crate::timeline::{Entry, Timeline};

/// The internet in both families.
pub(crate) const INTERNET: [IpAddr; 2] = [IpAddr::V4(INTERNET4), IpAddr::V6(INTERNET6)];
/// What must happen at all, happens within this; generous, for machines that are busy.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// The daemon's configuration.
const CONFIG: &str = "return_after = \"3s\"\n";
/// The port's place on the PCI bus.
const PCI: &str = "0000:03:00.0";
/// A packet that is still missing after so long is lost.
const ON_THE_WAY: Duration = Duration::from_millis(500);

/// Everything that runs while scenes are played.
pub(crate) struct Bench {
    pub(crate) site: Site,
    pub(crate) daemon: Daemon,
    pub(crate) changes: Changes,
    pub(crate) lookups: Lookups,
    pub(crate) timeline: Timeline,
    /// The worker's routes and rules before the daemon.
    pub(crate) before: String,
    streams: [Stream; 2],
    programs: [PathBuf; 2],
}

impl Bench {
    /// Lays out the site, starts watching it, then the daemon.
    pub(crate) fn begin(daemon: &Path, client: &Path) -> Result<Self> {
        let site = Site::new()?;
        site.worker.give_pci("port", PCI)?;
        let before = site.worker.table_text()?;
        let timeline = Timeline::since(now());
        let changes = Changes::start(&site.worker)?;
        let lookups = Lookups::start(&site.worker, &INTERNET, STREAM_INTERVAL)?;
        let stream = |address| Stream::start(&site.worker, &site.internet, address, STREAM_INTERVAL);
        let streams = [stream(INTERNET4.into())?, stream(INTERNET6.into())?];
        let programs = [daemon.to_owned(), client.to_owned()];
        let daemon = Daemon::of(daemon, &["run"]).config(CONFIG).start(&site.worker)?;
        Ok(Self { site, daemon, changes, lookups, timeline, before, streams, programs })
    }

    /// Starts the daemon once more, after the one before has ended.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        let [daemon, _] = &self.programs;
        self.daemon = Daemon::of(daemon, &["run"]).config(CONFIG).start(&self.site.worker)?;
        Ok(())
    }

    /// What the client prints.
    pub(crate) fn status(&self) -> Result<String> {
        let [_, client] = &self.programs;
        self.site.worker.command(&client.to_string_lossy(), &["status"])
    }

    /// Prints everything that happened since it was last called.
    pub(crate) fn tell(&self) {
        self.tell_until(now());
    }

    fn tell_until(&self, until: Instant) {
        let changes = self.changes.since(self.timeline.told()).into_iter().filter_map(Entry::change);
        let ways = self.lookups.report().changes.into_iter().map(Entry::lookup);
        let log = self.daemon.log().into_iter().filter_map(Entry::log);
        self.timeline.tell(changes.chain(ways).chain(log).collect(), until);
    }

    /// Prints what was done to the network, and when.
    pub(crate) fn fault(&self, at: Instant, text: &str) {
        self.tell_until(at);
        self.timeline.say(at, "fault", text);
    }

    /// Waits until the kernel answers lookups in both families with this interface. Gives, for each,
    /// the moment of the change of ours by which that came about, as the kernel announced it.
    pub(crate) fn moves_to(&self, interface: &str, since: Instant) -> Result<[Instant; 2]> {
        let at = |address| {
            self.lookups.wait_for(address, interface, since, BOUND)?;
            let family = Family::of(address);
            let what = format!("a change of our {family} default route");
            let ours = |change: &Change| is_own_default(change, family);
            Ok::<_, Error>(self.changes.wait_for(&what, since, BOUND, ours)?.at)
        };
        Ok([at(INTERNET4.into())?, at(INTERNET6.into())?])
    }

    /// Whether both families lead to this interface now.
    pub(crate) fn leads_to(&self, interface: &str) -> bool {
        INTERNET.into_iter().all(|address| {
            let way = self.site.worker.lookup(address);
            way.is_ok_and(|route| route.interface.as_deref() == Some(interface))
        })
    }

    /// Changes of default routes since a moment, anybody's.
    pub(crate) fn default_routes(&self, since: Instant) -> Vec<Stamped<Change>> {
        self.changes.default_routes(since)
    }

    /// What the streams lost of what was sent since a moment.
    pub(crate) fn losses(&self, since: Instant) -> [Loss; 2] {
        pass(ON_THE_WAY);
        self.streams.each_ref().map(|stream| Loss::of(&stream.report().gaps, since))
    }

    /// Ends all watching.
    pub(crate) fn end(self) -> Totals {
        let cables = [&self.site.port.cable, &self.site.mgmt.cable];
        Totals {
            overruns: self.changes.overruns() + cables.map(uplink_lab::Cable::overruns).iter().sum::<u64>(),
            lookups: self.lookups.stop(),
            streams: self.streams.map(Stream::stop),
        }
    }
}

fn is_own_default(change: &Change, family: Family) -> bool {
    change.route().is_some_and(|route| {
        route.is_default() && route.family == family && route.protocol == protocol::UPLINKD
    })
}
