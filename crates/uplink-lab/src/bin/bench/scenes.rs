//! Which scenes there are, and how often each is played for whom.

use std::time::Duration;

use uplink_lab::{Result, STREAM_INTERVAL};

use crate::contenders::Contender;
use crate::plays;
use crate::readings::Sample;
use crate::stage::{Stage, Surroundings};

/// A scene.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene {
    /// What happens.
    pub(crate) title: &'static str,
    /// How often it is played for each contender, in the quick selection and in all.
    runs: [usize; 2],
    /// For whom the quick selection has it.
    quick_for: Cast,
    around: Surroundings,
    play: fn(Stage) -> Result<Vec<Sample>>,
}

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cast {
    Everybody,
    /// Whether the crowd of routes makes a difference is to be seen of ours; of the others in all.
    Ours,
    Nobody,
}

impl Scene {
    /// How often it is played for a contender; 0 if the selection does not have it.
    pub(crate) const fn runs(&self, contender: &Contender, all: bool) -> usize {
        let [quick, full] = self.runs;
        match (all, self.quick_for, contender) {
            (true, _, _) => full,
            (false, Cast::Everybody, _) | (false, Cast::Ours, Contender::Uplinkd(_)) => quick,
            (false, Cast::Ours | Cast::Nobody, _) => 0,
        }
    }

    /// Plays it once.
    pub(crate) fn play(&self, contender: &Contender) -> Result<Vec<Sample>> {
        (self.play)(Stage::set(contender, self.around)?)
    }

    const fn new(title: &'static str, runs: [usize; 2], play: fn(Stage) -> Result<Vec<Sample>>) -> Self {
        Self { title, runs, quick_for: Cast::Everybody, around: QUIET, play }
    }

    /// One that the quick selection has for these only.
    const fn quick_for(self, quick_for: Cast) -> Self {
        Self { quick_for, ..self }
    }

    /// One with other surroundings.
    const fn among(self, around: Surroundings) -> Self {
        Self { around, ..self }
    }
}

/// Nothing but the contender.
const QUIET: Surroundings = Surroundings { routes: 0, churn: 0, lookups: STREAM_INTERVAL, leased: false };
/// Asked so often that a switch that no message tells of is seen when it happens.
const WATCHED: Surroundings = Surroundings { lookups: Duration::from_micros(50), ..QUIET };
/// A DHCP client at work.
const LEASED: Surroundings = Surroundings { leased: true, ..QUIET };
/// Foreign routes.
const MANY: Surroundings = Surroundings { routes: 100_000, ..QUIET };
const VERY_MANY: Surroundings = Surroundings { routes: 500_000, ..QUIET };
/// Foreign changes.
const RESTLESS: Surroundings = Surroundings { churn: 10_000, ..QUIET };
/// Both.
const CROWDED: Surroundings = Surroundings { churn: 10_000, ..VERY_MANY };

/// All scenes.
pub(crate) const SCENES: [Scene; 21] = [
    Scene::new("silent gateway", [3, 5], plays::silent),
    Scene::new("carrier loss", [3, 5], plays::carrier),
    Scene::new("interface down", [1, 3], plays::down).among(WATCHED),
    Scene::new("coming back", [1, 3], plays::coming_back),
    Scene::new("30 % loss", [3, 5], plays::loss_30),
    Scene::new("50 % loss", [0, 5], plays::loss_50).quick_for(Cast::Nobody),
    Scene::new("flapping gateway", [1, 3], plays::flapping),
    Scene::new("renewal", [1, 3], plays::renewal).among(LEASED),
    Scene::new("address laid anew", [1, 3], plays::laid_anew),
    Scene::new("renewal in an outage", [0, 3], plays::renewal_in_outage).quick_for(Cast::Nobody),
    Scene::new("own route deleted", [1, 3], plays::deleted),
    Scene::new("steady state", [1, 1], plays::steady),
    Scene::new("silent gateway, 100,000 routes", [0, 3], plays::silent).quick_for(Cast::Nobody).among(MANY),
    Scene::new("carrier loss, 100,000 routes", [0, 3], plays::carrier).quick_for(Cast::Nobody).among(MANY),
    Scene::new("silent gateway, 500,000 routes", [0, 3], plays::silent)
        .quick_for(Cast::Nobody)
        .among(VERY_MANY),
    Scene::new("carrier loss, 500,000 routes", [0, 3], plays::carrier)
        .quick_for(Cast::Nobody)
        .among(VERY_MANY),
    Scene::new("silent gateway, 10,000 changes a second", [0, 3], plays::silent)
        .quick_for(Cast::Nobody)
        .among(RESTLESS),
    Scene::new("carrier loss, 10,000 changes a second", [0, 3], plays::carrier)
        .quick_for(Cast::Nobody)
        .among(RESTLESS),
    Scene::new("silent gateway, 500,000 routes and 10,000 changes a second", [2, 5], plays::silent)
        .quick_for(Cast::Ours)
        .among(CROWDED),
    Scene::new("carrier loss, 500,000 routes and 10,000 changes a second", [2, 5], plays::carrier)
        .quick_for(Cast::Ours)
        .among(CROWDED),
    Scene::new("steady state, 500,000 routes and 10,000 changes a second", [1, 1], plays::steady)
        .quick_for(Cast::Ours)
        .among(CROWDED),
];
