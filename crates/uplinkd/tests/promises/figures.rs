//! Times that were measured, summed up for people.

use std::fmt;
use std::time::Duration;

/// Samples, sorted.
#[derive(Debug)]
pub(crate) struct Figures(Vec<Duration>);

impl Figures {
    /// Sums up at least one sample.
    pub(crate) fn of(mut samples: Vec<Duration>) -> Self {
        assert!(!samples.is_empty(), "nothing was measured");
        samples.sort_unstable();
        Self(samples)
    }

    /// The sample that so many of a hundred do not exceed.
    pub(crate) fn rank(&self, percent: usize) -> Duration {
        self.0[(self.0.len() * percent).div_ceil(100).max(1) - 1]
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |percent| self.rank(percent).as_secs_f64() * 1e3;
        let (least, median, p95, most) = (ms(0), ms(50), ms(95), ms(100));
        write!(f, "min {least:.3} ms, median {median:.3} ms, p95 {p95:.3} ms, max {most:.3} ms")?;
        write!(f, " ({} samples)", self.0.len())
    }
}
