//! How many requests a user may make: a bucket of tokens each, remembered only while it is not full.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Buckets held at most; beyond, those that are full again are forgotten first, then all.
const MAX_BUCKETS: usize = 100_000;

struct Bucket {
    left: f64,
    at: Instant,
}

/// Buckets by user.
pub(crate) struct Limiter {
    rate: f64,
    burst: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl Limiter {
    /// `rate` per second in the long run (0: no limit), `burst` at once.
    pub(crate) fn new(rate: f64, burst: f64) -> Self {
        Self { rate, burst: burst.max(1.0), buckets: Mutex::new(HashMap::new()) }
    }

    /// Takes one; `Err` says how long to wait for the next.
    pub(crate) fn take(&self, user: &str) -> Result<(), Duration> {
        if self.rate <= 0.0 {
            return Ok(());
        }
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(user) {
            let full = |bucket: &Bucket| self.filled(bucket, now) >= self.burst;
            buckets.retain(|_, bucket| !full(bucket));
            if buckets.len() >= MAX_BUCKETS {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(user.to_owned()).or_insert(Bucket { left: self.burst, at: now });
        bucket.left = self.filled(bucket, now);
        bucket.at = now;
        if bucket.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - bucket.left) / self.rate));
        }
        bucket.left -= 1.0;
        Ok(())
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        let since = now.saturating_duration_since(bucket.at).as_secs_f64();
        (bucket.left + since * self.rate).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate_and_nobody_else_is_harmed() {
        let limiter = Limiter::new(2.0, 3.0);
        for _ in 0..3 {
            assert_eq!(limiter.take("ann"), Ok(()));
        }
        let wait = limiter.take("ann").unwrap_err();
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        assert_eq!(limiter.take("bob"), Ok(()));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(limiter.take("ann"), Ok(()));
        assert!(limiter.take("ann").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_is_no_limit() {
        let limiter = Limiter::new(0.0, 1.0);
        for _ in 0..1000 {
            assert_eq!(limiter.take("ann"), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let limiter = Limiter::new(1.0, 1.0);
        for user in 0..=MAX_BUCKETS {
            assert_eq!(limiter.take(&user.to_string()), Ok(()));
        }
        assert!(limiter.buckets.lock().unwrap().len() <= MAX_BUCKETS);
    }
}
