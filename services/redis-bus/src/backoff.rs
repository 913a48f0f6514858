//! How long to wait before the next try: doubling up to a bound, with jitter so that processes do not come back in step.

use std::time::Duration;

use rand::RngExt;

#[derive(Debug)]
pub(crate) struct Backoff {
    least: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Self {
            least,
            most,
            tries: 0,
        }
    }

    /// Between half and all of what the number of tries allows.
    pub(crate) fn next(&mut self) -> Duration {
        let whole = self
            .least
            .saturating_mul(1 << self.tries.min(16))
            .min(self.most);
        self.tries = self.tries.saturating_add(1);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_begin_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        let first = backoff.next();
        assert!(first >= Duration::from_millis(5) && first <= Duration::from_millis(10));
        for _ in 0..50 {
            assert!(backoff.next() <= Duration::from_millis(100));
        }
        assert!(backoff.next() >= Duration::from_millis(50));
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(10));
    }
}
