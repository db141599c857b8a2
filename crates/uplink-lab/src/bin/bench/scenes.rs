//! Which scenes there are, and how often each is played for whom.

use std::time::Duration;

use uplink_lab::{Result, STREAM_INTERVAL};

use crate::contenders::Contender;
use crate::plays::Trouble::{Carrier, Silence};
use crate::plays::{self, Trouble};
use crate::readings::{Measure, NEVER, Sample};
use crate::stage::{Stage, Surroundings};

/// A scene.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene {
    /// What happens.
    pub(crate) title: &'static str,
    /// How often it is played for each contender.
    runs: usize,
    /// For whom the quick selection has it.
    quick_for: Cast,
    around: Surroundings,
    /// Whether chance decides what a run gives.
    by_chance: bool,
    play: Play,
}

/// What is done.
#[derive(Debug, Clone, Copy)]
enum Play {
    /// This, on a stage.
    Once(fn(Stage) -> Result<Vec<Sample>>),
    /// A fault so many times, by turns with the same on an empty host, where ours comes back as soon as it
    /// may; of the others it is to be seen once.
    ByTurns(Trouble, u32),
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
        match (all, self.quick_for, contender) {
            (true, _, _) | (_, Cast::Everybody, _) | (_, Cast::Ours, Contender::Uplinkd(..)) => self.runs,
            (false, Cast::Ours | Cast::Nobody, _) => 0,
        }
    }

    /// Whether another run can be spared: who never left the port will not do so the next time.
    pub(crate) fn says_all(&self, samples: &[Sample]) -> bool {
        let never = |sample: &Sample| sample.0 == Measure::Switch && sample.1 == NEVER;
        !self.by_chance && samples.iter().any(never)
    }

    /// Plays it once.
    pub(crate) fn play(&self, contender: &Contender) -> Result<Vec<Sample>> {
        match self.play {
            Play::Once(play) => play(Stage::set(contender, self.around)?),
            Play::ByTurns(trouble, turns) => match contender.in_haste() {
                Some(ours) => {
                    let (crowded, empty) = (Stage::set(&ours, self.around)?, Stage::set(&ours, QUIET)?);
                    plays::by_turns(&crowded, &empty, trouble, turns)
                }
                None => trouble.strike(&Stage::set(contender, self.around)?),
            },
        }
    }

    const fn new(title: &'static str, runs: usize, play: fn(Stage) -> Result<Vec<Sample>>) -> Self {
        Self {
            title,
            runs,
            quick_for: Cast::Everybody,
            around: QUIET,
            by_chance: false,
            play: Play::Once(play),
        }
    }

    /// A fault in the crowd, beside the same on an empty host.
    const fn by_turns(title: &'static str, trouble: Trouble, around: Surroundings, quick_for: Cast) -> Self {
        let turns = match trouble {
            Silence => 8,
            Carrier => 20,
        };
        Self { title, runs: 1, quick_for, around, by_chance: false, play: Play::ByTurns(trouble, turns) }
    }

    /// One that the quick selection has for these only.
    const fn quick_for(self, quick_for: Cast) -> Self {
        Self { quick_for, ..self }
    }

    /// One in which chance decides.
    const fn by_chance(self) -> Self {
        Self { by_chance: true, ..self }
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
    Scene::new("silent gateway", 3, plays::silent),
    Scene::new("carrier loss", 3, plays::carrier),
    Scene::new("interface down", 3, plays::down).among(WATCHED),
    Scene::new("coming back", 1, plays::coming_back),
    Scene::new("30 % loss", 3, plays::loss_30).by_chance(),
    Scene::new("50 % loss", 3, plays::loss_50).by_chance().quick_for(Cast::Nobody),
    Scene::new("flapping gateway", 1, plays::flapping),
    Scene::new("renewal", 1, plays::renewal).among(LEASED),
    Scene::new("address laid anew", 1, plays::laid_anew),
    Scene::new("renewal in an outage", 1, plays::renewal_in_outage).quick_for(Cast::Nobody),
    Scene::new("own route deleted", 1, plays::deleted),
    Scene::new("steady state", 1, plays::steady),
    Scene::by_turns("silent gateway, 100,000 routes", Silence, MANY, Cast::Nobody),
    Scene::by_turns("carrier loss, 100,000 routes", Carrier, MANY, Cast::Nobody),
    Scene::by_turns("silent gateway, 500,000 routes", Silence, VERY_MANY, Cast::Nobody),
    Scene::by_turns("carrier loss, 500,000 routes", Carrier, VERY_MANY, Cast::Nobody),
    Scene::by_turns("silent gateway, 10,000 changes a second", Silence, RESTLESS, Cast::Nobody),
    Scene::by_turns("carrier loss, 10,000 changes a second", Carrier, RESTLESS, Cast::Nobody),
    Scene::by_turns(
        "silent gateway, 500,000 routes and 10,000 changes a second",
        Silence,
        CROWDED,
        Cast::Ours,
    ),
    Scene::by_turns("carrier loss, 500,000 routes and 10,000 changes a second", Carrier, CROWDED, Cast::Ours),
    Scene::new("steady state, 500,000 routes and 10,000 changes a second", 1, plays::steady)
        .quick_for(Cast::Ours)
        .among(CROWDED),
];
