//! How long to wait before the next try: twice as long each time up to a bound, with jitter, so that those who failed
//! together do not come back together.

use std::time::Duration;

/// Waits between tries.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// Up to `first` after the first failure, and never more than `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            failures: 0,
        }
    }

    /// It failed once more: how long to wait now.
    pub fn wait(&mut self) -> Duration {
        self.failures = self.failures.saturating_add(1);
        Self::after(self.failures, self.first, self.longest)
    }

    /// It has worked: the next wait is a first one.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// How long to wait after so many failures in a row, for who counts them: between half and all of `first`, doubled with
    /// each failure after the first one up to `longest`.
    pub fn after(failures: u32, first: Duration, longest: Duration) -> Duration {
        let doubled = first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        doubled.min(longest).mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_begin_again_after_success() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(100));
        for most in [10, 20, 40, 80, 100, 100] {
            let wait = backoff.wait();
            let most = Duration::from_millis(most);
            assert!((most / 2..=most).contains(&wait), "{wait:?} of {most:?}");
        }
        backoff.reset();
        assert!(backoff.wait() <= Duration::from_millis(10));
    }

    #[test]
    fn any_number_of_failures_is_within_the_bound() {
        let first = Duration::from_secs(1);
        let longest = Duration::from_secs(60);
        assert!(Backoff::after(0, first, longest) <= first);
        for failures in [17, 1_000, u32::MAX] {
            assert!((longest / 2..=longest).contains(&Backoff::after(failures, first, longest)));
        }
    }
}
