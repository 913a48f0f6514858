//! How long things took: counts per length of time, each at most 1.6 % wide, so that any percentile can be told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Parts that each power of two is split into.
const PARTS: u64 = 64;

/// Nanoseconds in, microseconds kept, percentiles out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Histogram {
    /// Only those that occur.
    counts: BTreeMap<u32, u64>,
    total: u64,
    most: u64,
}

fn place(us: u64) -> u32 {
    if us < PARTS {
        return us as u32;
    }
    let shift = us.ilog2() - PARTS.ilog2();
    // The highest 7 bits, and how far they were moved.
    shift * PARTS as u32 + (us >> shift) as u32
}

fn upper_end(place: u32) -> u64 {
    let place = u64::from(place);
    if place < PARTS {
        return place;
    }
    let shift = place / PARTS - 1;
    let kept = place - shift * PARTS;
    ((kept + 1) << shift) - 1
}

/// Counts while a phase runs: an array, so that counting is one addition.
#[derive(Debug)]
pub(crate) struct Recorder {
    counts: Vec<u64>,
    most: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            counts: vec![0; place(u64::from(u32::MAX)) as usize + 1],
            most: 0,
        }
    }
}

impl Recorder {
    pub(crate) fn record(&mut self, ns: u64) {
        let us = (ns / 1_000).min(u64::from(u32::MAX));
        self.counts[place(us) as usize] += 1;
        self.most = self.most.max(us);
    }

    pub(crate) fn histogram(&self) -> Histogram {
        let counts: BTreeMap<u32, u64> = (0..)
            .zip(&self.counts)
            .filter(|(_, count)| **count > 0)
            .map(|(place, count)| (place, *count))
            .collect();
        Histogram {
            total: counts.values().sum(),
            counts,
            most: self.most,
        }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, other: &Self) {
        for (place, count) in &other.counts {
            *self.counts.entry(*place).or_default() += count;
        }
        self.total += other.total;
        self.most = self.most.max(other.most);
    }

    /// The time in milliseconds that this share (0 to 1) did not exceed; 0 where nothing was counted.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let wanted = (share * self.total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (place, count) in &self.counts {
            seen += count;
            if seen >= wanted {
                return upper_end(*place).min(self.most) as f64 / 1e3;
            }
        }
        self.most as f64 / 1e3
    }

    /// (milliseconds, share of all that took no longer), for a plot.
    pub(crate) fn distribution(&self) -> Vec<(f64, f64)> {
        let mut seen = 0;
        let mut points = Vec::with_capacity(self.counts.len());
        for (place, count) in &self.counts {
            seen += count;
            points.push((
                upper_end(*place) as f64 / 1e3,
                seen as f64 / self.total as f64,
            ));
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_their_width() {
        let mut recorder = Recorder::default();
        for us in 1..=100_000_u64 {
            recorder.record(us * 1_000);
        }
        let histogram = recorder.histogram();
        for (share, us) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.999, 99_900.0)] {
            let told = histogram.quantile_ms(share) * 1e3;
            assert!(
                (told - us).abs() / us < 0.017,
                "{share}: {told} instead of {us}"
            );
        }
        assert_eq!(histogram.quantile_ms(1.0), 100.0);
        assert_eq!(Histogram::default().quantile_ms(0.5), 0.0);
    }

    #[test]
    fn places_go_up_and_hold_what_is_put_there() {
        let mut last = 0;
        for us in (0..5_000).chain((5_000..u64::from(u32::MAX)).step_by(9_999_991)) {
            let place = place(us);
            assert!(place >= last && upper_end(place) >= us, "{us}");
            last = place;
        }
    }

    #[test]
    fn what_several_processes_counted_adds_up() {
        let mut one = Recorder::default();
        let mut other = Recorder::default();
        one.record(1_000_000);
        other.record(9_000_000);
        let mut sum = one.histogram();
        sum.add(&other.histogram());
        assert_eq!((sum.total, sum.quantile_ms(1.0)), (2, 9.0));
    }
}
