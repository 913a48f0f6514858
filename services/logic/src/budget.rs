//! How many bytes a user may say, and how many a room may hear: buckets that are filled at a rate. Each logic process has its
//! part of them, so that all together give what the settings say.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Parts that are locked on their own, so that threads seldom wait for each other.
const PARTS: usize = 16;
/// Buckets held per part at most; beyond, those that are full again are forgotten first, then all.
const MOST: usize = 8_192;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// Buckets of bytes by name. Names are kept as hashes with a key of the process' own: two that meet share a bucket.
#[derive(Debug)]
pub(crate) struct Budget {
    rate: f64,
    burst: f64,
    processes: AtomicUsize,
    parts: [Mutex<HashMap<u64, Bucket>>; PARTS],
    hasher: RandomState,
}

impl Budget {
    /// `rate` bytes per second in the long run (0: no limit), `burst` at once.
    pub(crate) fn new(rate: usize, burst: usize) -> Self {
        Self {
            rate: rate as f64,
            burst: burst.max(1) as f64,
            processes: AtomicUsize::new(1),
            parts: Default::default(),
            hasher: RandomState::new(),
        }
    }

    /// So many processes, this one among them, share the budgets.
    pub(crate) fn share(&self, processes: usize) {
        self.processes.store(processes.max(1), Ordering::Relaxed);
    }

    /// Whether something may be said now; `Err` says how long to wait. What is said last may be larger than what is left,
    /// and is paid for before the next.
    pub(crate) fn check(&self, name: &str) -> Result<(), Duration> {
        self.with(name, 0)
    }

    /// The same, and counts these bytes if so.
    pub(crate) fn take(&self, name: &str, bytes: usize) -> Result<(), Duration> {
        self.with(name, bytes)
    }

    /// Counts bytes that were said.
    pub(crate) fn charge(&self, name: &str, bytes: usize) {
        let _ = self.change(name, |bucket| bucket.left -= bytes as f64);
    }

    fn with(&self, name: &str, bytes: usize) -> Result<(), Duration> {
        let rate = self.rate / self.processes.load(Ordering::Relaxed) as f64;
        self.change(name, |bucket| {
            if bucket.left <= 0.0 {
                return Err(Duration::from_secs_f64((1.0 - bucket.left) / rate));
            }
            bucket.left -= bytes as f64;
            Ok(())
        })
        .unwrap_or(Ok(()))
    }

    /// `None` where nothing is limited.
    fn change<T>(&self, name: &str, change: impl FnOnce(&mut Bucket) -> T) -> Option<T> {
        if self.rate <= 0.0 {
            return None;
        }
        let processes = self.processes.load(Ordering::Relaxed) as f64;
        let (rate, burst) = (self.rate / processes, self.burst / processes);
        let filled = |bucket: &Bucket, now: Instant| {
            (bucket.left + now.saturating_duration_since(bucket.at).as_secs_f64() * rate).min(burst)
        };
        let now = Instant::now();
        let hash = self.hasher.hash_one(name);
        let mut buckets = self.parts[hash as usize % PARTS].lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MOST && !buckets.contains_key(&hash) {
            buckets.retain(|_, bucket| filled(bucket, now) < burst);
            if buckets.len() >= MOST {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(hash).or_insert(Bucket { left: burst, at: now });
        bucket.left = filled(bucket, now);
        bucket.at = now;
        Some(change(bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_said_is_paid_for_before_the_next() {
        let budget = Budget::new(100, 300);
        assert_eq!(budget.take("ann", 299), Ok(()));
        assert_eq!(budget.take("ann", 201), Ok(()), "the last may be larger than what is left");
        let wait = budget.take("ann", 1).unwrap_err();
        assert!(wait > Duration::from_secs(2) && wait <= Duration::from_millis(2010), "{wait:?}");
        assert_eq!(budget.take("bob", 1), Ok(()));
        tokio::time::advance(wait).await;
        assert_eq!(budget.check("ann"), Ok(()));
        budget.charge("ann", 500);
        assert!(budget.check("ann").unwrap_err() > Duration::from_secs(4));
        assert_eq!(Budget::new(0, 1).take("ann", usize::MAX), Ok(()), "no rate, no limit");
    }

    #[tokio::test(start_paused = true)]
    async fn processes_share_a_budget() {
        let budget = Budget::new(100, 400);
        budget.share(4);
        let mut taken = 0;
        for _ in 0..100 {
            while budget.take("ann", 10).is_ok() {
                taken += 10;
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let allowed = 400 / 4 + 99 * 100 / 4;
        assert!((allowed - 10..=allowed + 20).contains(&taken), "{taken} of {allowed}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let budget = Budget::new(1, 1);
        for number in 0..2 * PARTS * MOST {
            let _ = budget.take(&number.to_string(), 1);
        }
        assert!(budget.parts.iter().all(|part| part.lock().unwrap().len() <= MOST));
    }
}
