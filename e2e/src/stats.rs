//! Percentiles of measured times.

use std::time::Duration;

use serde::Serialize;

/// The value below which this share of the sorted values lies; `None` where there are none.
pub(crate) fn percentile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let index = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(index).copied()
}

/// A distribution of durations, in milliseconds.
#[derive(Debug, Default, Serialize)]
pub struct Spread {
    /// How many durations there were.
    pub count: usize,
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl Spread {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share| percentile(&times, share).map_or(0, |time| time.as_millis() as u64);
        Self {
            count: times.len(),
            p50: at(0.5),
            p99: at(0.99),
            max: at(1.0),
        }
    }
}
