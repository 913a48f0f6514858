//! How often something may happen: a token bucket that holds twice a second's worth.

use std::time::Instant;

/// See the module's top.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn full(per_second: u32, now: Instant) -> Self {
        Self { tokens: f64::from(per_second) * 2.0, filled: now }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, per_second: u32, now: Instant) -> bool {
        let rate = f64::from(per_second);
        let grown = now.saturating_duration_since(self.filled).as_secs_f64() * rate;
        self.tokens = (self.tokens + grown).min(rate * 2.0);
        self.filled = now;
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// Whether it has filled up again: nothing is lost by forgetting it.
    pub(crate) fn is_full(&self, per_second: u32, now: Instant) -> bool {
        let rate = f64::from(per_second);
        self.tokens + now.saturating_duration_since(self.filled).as_secs_f64() * rate >= rate * 2.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_holds_two_seconds_and_fills_at_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::full(10, start);
        assert_eq!((0..30).filter(|_| bucket.take(10, start)).count(), 20);
        assert!(!bucket.is_full(10, start));
        let later = start + Duration::from_millis(500);
        assert_eq!((0..30).filter(|_| bucket.take(10, later)).count(), 5);
        assert!(bucket.is_full(10, later + Duration::from_secs(2)));
    }
}
