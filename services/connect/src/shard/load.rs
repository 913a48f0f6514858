//! How busy a shard is with writing to its rooms' members, and for how long a busy room's next batch is held back for it.

use std::time::Duration;

use tokio::time::Instant;

/// Over how long the time spent is counted.
const WINDOW: Duration = Duration::from_millis(50);
/// The share of a shard's time up to which nothing is held back.
const LOW_WATERMARK: f64 = 0.35;
/// The share from which on the whole budget is used.
const HIGH_WATERMARK: f64 = 0.75;

/// The share of its time that a shard spends in fan-outs.
#[derive(Debug)]
pub(super) struct Load {
    began: Instant,
    spent: Duration,
    share: f64,
}

impl Load {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            spent: Duration::ZERO,
            share: 0.0,
        }
    }

    /// From 0 to 1, over the last windows before `now`.
    pub(super) fn share(&mut self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.began);
        if passed >= WINDOW {
            let share = (self.spent.as_secs_f64() / passed.as_secs_f64()).min(1.0);
            // What was before a long pause no longer counts.
            self.share = if passed < 2 * WINDOW {
                f64::midpoint(self.share, share)
            } else {
                share
            };
            (self.began, self.spent) = (now, Duration::ZERO);
        }
        self.share
    }

    pub(super) fn spent(&mut self, time: Duration) {
        self.spent += time;
    }

    /// For how long after a room's last batch its next one is held back: nothing on a calm shard, all of the `budget` on one
    /// that hardly does anything but write. In between it grows with the load, so that the two settle where they meet
    /// instead of taking turns.
    pub(super) fn hold(&mut self, now: Instant, budget: Duration) -> Duration {
        budget.mul_f64(
            ((self.share(now) - LOW_WATERMARK) / (HIGH_WATERMARK - LOW_WATERMARK)).clamp(0.0, 1.0),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_millis(20);

    /// Windows of which a part is spent.
    fn windows(load: &mut Load, now: &mut Instant, share: f64) {
        for _ in 0..20 {
            load.spent(WINDOW.mul_f64(share));
            *now += WINDOW;
            load.share(*now);
        }
    }

    #[test]
    fn only_a_busy_shard_holds_back_and_never_for_longer_than_the_budget() {
        let mut now = Instant::now();
        let mut load = Load::new(now);
        windows(&mut load, &mut now, 0.35);
        assert_eq!(load.hold(now, BUDGET), Duration::ZERO);
        windows(&mut load, &mut now, 0.55);
        let half = load.hold(now, BUDGET).as_secs_f64();
        assert!((half - 0.010).abs() < 0.0001, "{half}");
        windows(&mut load, &mut now, 1.5);
        let all = load.hold(now, BUDGET);
        assert!(all <= BUDGET && all.as_secs_f64() > 0.0199, "{all:?}");
        assert_eq!(load.hold(now, Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn a_pause_makes_a_shard_calm_at_once() {
        let mut now = Instant::now();
        let mut load = Load::new(now);
        windows(&mut load, &mut now, 1.0);
        now += 3 * WINDOW;
        assert_eq!(load.hold(now, BUDGET), Duration::ZERO);
    }
}
