//! How much may happen, and how often: a token bucket of things or of bytes.

use std::time::Instant;

/// What a bucket gains in a second, and what it holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    per_second: f64,
    burst: f64,
}

impl Rate {
    /// So many things a second, twice as many at once.
    pub(crate) fn of_things(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second), burst: f64::from(per_second) * 2.0 }
    }

    /// So many bytes a second, eight times as many at once.
    pub(crate) fn of_bytes(per_second: usize) -> Self {
        Self { per_second: per_second as f64, burst: per_second as f64 * 8.0 }
    }
}

/// See the module's top.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self { tokens: rate.burst, filled: now }
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        let grown = now.saturating_duration_since(self.filled).as_secs_f64() * rate.per_second;
        self.tokens = (self.tokens + grown).min(rate.burst);
        self.filled = now;
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        self.fill(rate, now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// Takes so much, if there is anything: what is more than there is has to be gained again first.
    pub(crate) fn spend(&mut self, rate: Rate, amount: usize, now: Instant) -> bool {
        self.fill(rate, now);
        let there = self.tokens > 0.0;
        if there {
            self.tokens -= amount as f64;
        }
        there
    }

    /// What was taken last was not needed.
    pub(crate) fn give_back(&mut self) {
        self.tokens += 1.0;
    }

    /// Takes so much whatever there is.
    pub(crate) fn owe(&mut self, amount: u32) {
        self.tokens -= f64::from(amount);
    }

    /// Whether it has filled up again: nothing is lost by forgetting it.
    pub(crate) fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.tokens + now.saturating_duration_since(self.filled).as_secs_f64() * rate.per_second >= rate.burst
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_holds_two_seconds_and_fills_at_its_rate() {
        let (start, rate) = (Instant::now(), Rate::of_things(10));
        let mut bucket = Bucket::full(rate, start);
        assert_eq!((0..30).filter(|_| bucket.take(rate, start)).count(), 20);
        assert!(!bucket.is_full(rate, start));
        let later = start + Duration::from_millis(500);
        assert_eq!((0..30).filter(|_| bucket.take(rate, later)).count(), 5);
        assert!(bucket.is_full(rate, later + Duration::from_secs(2)));
    }

    #[test]
    fn what_is_owed_is_gained_before_anything_is_taken() {
        let (start, rate) = (Instant::now(), Rate::of_bytes(1_000));
        let mut bucket = Bucket::full(rate, start);
        assert!(bucket.spend(rate, 10_000, start), "a burst of 8,000 lets one in that is larger");
        assert!(!bucket.spend(rate, 1, start + Duration::from_millis(1_900)));
        assert!(bucket.spend(rate, 1, start + Duration::from_millis(2_100)));
        let things = Rate::of_things(10);
        let mut bucket = Bucket::full(things, start);
        bucket.owe(30);
        assert!(!bucket.take(things, start + Duration::from_millis(900)));
        assert!(bucket.take(things, start + Duration::from_millis(1_200)));
    }
}
