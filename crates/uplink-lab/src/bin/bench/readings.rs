//! What was measured, by contender, scene and measure.

use crate::scenes::Scene;

/// The time of something that did not happen as long as it was waited for.
pub(crate) const NEVER: f64 = f64::INFINITY;

/// Samples of which one in twenty may be left out.
const ENOUGH: usize = 20;

/// What a figure tells. Smaller is better for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// From the fault to the kernel's announcement of the switch.
    Switch,
    /// From the kernel's announcement of a lost carrier to that of the switch.
    Reaction,
    /// [`Switch`](Self::Switch) and [`Reaction`](Self::Reaction) on an empty host, by turns with those in
    /// the crowd. How the host is, not how the contender is: no figure to compare contenders by.
    SwitchAlone,
    /// See [`SwitchAlone`](Self::SwitchAlone).
    ReactionAlone,
    /// How many times as long the switch takes as on an empty host, in the medians.
    TimesAlone,
    /// The longest time without a packet that arrived.
    Outage,
    /// Packets that did not arrive, of a thousand a second.
    Lost,
    /// How often the way to the internet changed without need: the first change away from a fault, or
    /// back after it, is none of these.
    Needless,
    /// From the end of the fault until the port was used again.
    Return,
    /// From the deletion of its route until it was there again, as the kernel announced both.
    Restored,
    /// Processor time in a minute, ended children included.
    Cpu,
    /// Resident memory of all its processes.
    Resident,
    /// Resident memory, shared pages counted by share.
    Proportional,
    /// Processes and threads started in a minute.
    Started,
    /// Processor time in a minute that who changes foreign routes takes more than without the
    /// contender: the kernel tells its listeners in the time of who changes.
    Caused,
    /// Foreign changes in a second, as they were made. No figure of the contender's.
    Churn,
    /// How often the lab was too slow to see everything. No figure of the contender's: it spoils
    /// those beside it unless it is 0.
    Overruns,
}

impl Measure {
    /// What is shown of each contender, in this order.
    pub(crate) const SHOWN: [Self; 16] = [
        Self::Switch,
        Self::Reaction,
        Self::SwitchAlone,
        Self::ReactionAlone,
        Self::TimesAlone,
        Self::Restored,
        Self::Return,
        Self::Outage,
        Self::Lost,
        Self::Needless,
        Self::Cpu,
        Self::Resident,
        Self::Proportional,
        Self::Started,
        Self::Caused,
        Self::Churn,
    ];

    /// In words, with the unit.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Switch => "time to switch, ms",
            Self::Reaction => "of it after the kernel's news, ms",
            Self::SwitchAlone => "on an empty host, ms",
            Self::ReactionAlone => "of that after the news, ms",
            Self::TimesAlone => "times an empty host's",
            Self::Outage => "longest outage, ms",
            Self::Lost => "packets lost",
            Self::Needless => "needless changes",
            Self::Return => "back after, s",
            Self::Restored => "restored after, ms",
            Self::Cpu => "CPU, ms a minute",
            Self::Resident => "resident, MB",
            Self::Proportional => "resident by share, MB",
            Self::Started => "processes a minute",
            Self::Caused => "CPU of others, ms a minute",
            Self::Churn => "foreign changes a second",
            Self::Overruns => "overruns of the lab",
        }
    }

    /// Whether less of it is plainly better, so that a ratio tells something.
    pub(crate) const fn is_judged(self) -> bool {
        match self {
            Self::SwitchAlone | Self::ReactionAlone | Self::TimesAlone => false,
            Self::Return | Self::Churn | Self::Overruns => false,
            Self::Switch | Self::Reaction | Self::Restored | Self::Outage | Self::Lost | Self::Needless => {
                true
            }
            Self::Cpu | Self::Resident | Self::Proportional | Self::Started | Self::Caused => true,
        }
    }
}

/// A figure of one run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample(pub(crate) Measure, pub(crate) f64);

/// A figure of all runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Figure {
    /// The median.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// What 95 of a hundred do not exceed, if there are enough samples for that to be another than the most.
    pub(crate) p95: Option<f64>,
    /// The most.
    pub(crate) max: f64,
}

impl Figure {
    /// What samples in any order tell; none if there are none.
    pub(crate) fn of(mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_unstable_by(f64::total_cmp);
        let p95 =
            (samples.len() >= ENOUGH).then(|| samples.get((samples.len() * 95).div_ceil(100) - 1).copied());
        Some(Self {
            median: middle(&samples)?,
            min: *samples.first()?,
            p95: p95.flatten(),
            max: *samples.last()?,
        })
    }
}

/// The median of samples in any order; not a number if there are none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    middle(&values).unwrap_or(f64::NAN)
}

/// Everything measured, in the order in which it was.
#[derive(Debug, Default)]
pub(crate) struct Readings(Vec<(&'static str, &'static str, Sample)>);

impl Readings {
    /// Adds what a run gave.
    pub(crate) fn add(&mut self, contender: &'static str, scene: &Scene, samples: Vec<Sample>) {
        self.0.extend(samples.into_iter().map(|sample| (contender, scene.title, sample)));
    }

    /// The samples of all runs of a scene, sorted.
    pub(crate) fn samples(&self, contender: &str, scene: &Scene, measure: Measure) -> Vec<f64> {
        let mine = self.0.iter().filter(|(whose, which, sample)| {
            *whose == contender && *which == scene.title && sample.0 == measure
        });
        let mut values: Vec<f64> = mine.map(|(_, _, sample)| sample.1).collect();
        values.sort_unstable_by(f64::total_cmp);
        values
    }

    /// All runs of a scene in one figure; none if it was not measured.
    pub(crate) fn figure(&self, contender: &str, scene: &Scene, measure: Measure) -> Option<Figure> {
        Figure::of(self.samples(contender, scene, measure))
    }

    /// How often the lab was too slow in a run of any scene.
    pub(crate) fn overruns(&self) -> f64 {
        let all = self.0.iter().map(|(_, _, sample)| sample);
        all.filter(|sample| sample.0 == Measure::Overruns)
            .map(|sample| sample.1)
            .fold(0.0, |sum, times| sum + times)
    }
}

/// The middle of sorted values; of two in the middle, their mean.
fn middle(sorted: &[f64]) -> Option<f64> {
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = *sorted.get(sorted.len().checked_sub(1)? / 2)?;
    Some(f64::midpoint(lower, upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_two_is_between_them() {
        assert_eq!(middle(&[1.0, 2.0]), Some(1.5));
        assert_eq!(middle(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(middle(&[1.0, NEVER]), Some(NEVER));
        assert_eq!(middle(&[]), None);
    }
}
