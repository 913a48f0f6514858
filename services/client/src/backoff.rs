//! How long to wait before trying again: exponential with full jitter, so that many clients that failed together do not
//! return together.

use std::time::Duration;

/// Waits between attempts: the n-th is uniform between 0 and `min(max, base * 2^n)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The upper end of the first wait.
    pub base: Duration,
    /// The upper end of every wait.
    pub max: Duration,
}

impl Backoff {
    /// The wait before attempt `attempt` (0: the first that follows a failure); `random` is uniform in `0.0..1.0`.
    pub(crate) fn delay(self, attempt: u32, random: f64) -> Duration {
        let doubled = self
            .base
            .saturating_mul(1_u32.checked_shl(attempt.min(31)).unwrap_or(u32::MAX));
        doubled.min(self.max).mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_millis(100),
        max: Duration::from_secs(5),
    };

    #[test]
    fn the_upper_end_doubles_until_the_maximum() {
        let ends: Vec<_> = (0..8)
            .map(|attempt| BACKOFF.delay(attempt, 1.0).as_millis())
            .collect();
        assert_eq!(ends, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn jitter_covers_the_whole_range() {
        assert_eq!(BACKOFF.delay(3, 0.0), Duration::ZERO);
        assert_eq!(BACKOFF.delay(3, 0.5), Duration::from_millis(400));
    }

    #[test]
    fn any_number_of_attempts_is_within_the_maximum() {
        assert_eq!(BACKOFF.delay(u32::MAX, 1.0), BACKOFF.max);
    }
}
