//! How much may happen, and how often: token buckets of things or of bytes, one by one or many by name.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What a bucket gains in a second, and what it holds.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    per_second: f64,
    burst: f64,
}

impl Rate {
    /// So much per second in the long run, and so much at once, one at least.
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self {
            per_second,
            burst: burst.max(1.0),
        }
    }

    /// So many things a second, twice as many at once.
    pub fn of_things(per_second: u32) -> Self {
        Self::new(f64::from(per_second), f64::from(per_second) * 2.0)
    }

    /// So many arrivals a second, a twentieth of them at once: a crowd that comes at the same moment is let in between what
    /// others want.
    pub fn of_arrivals(per_second: u32) -> Self {
        Self::new(f64::from(per_second), f64::from(per_second) / 20.0)
    }

    /// So many bytes a second, eight times as many at once.
    pub fn of_bytes(per_second: usize) -> Self {
        Self::new(per_second as f64, per_second as f64 * 8.0)
    }
}

/// A token bucket. It does not keep its rate, so that many of one rate stay small.
#[derive(Debug, Clone, Copy)]
pub struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// One that nothing was taken from.
    pub fn full(rate: Rate, now: Instant) -> Self {
        Self {
            tokens: rate.burst,
            filled: now,
        }
    }

    fn level(&self, rate: Rate, now: Instant) -> f64 {
        let grown = now.saturating_duration_since(self.filled).as_secs_f64() * rate.per_second;
        (self.tokens + grown).min(rate.burst)
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        self.tokens = self.level(rate, now);
        self.filled = now;
    }

    /// Until there is one.
    fn wait(&self, rate: Rate) -> Duration {
        Duration::try_from_secs_f64((1.0 - self.tokens) / rate.per_second).unwrap_or(Duration::MAX)
    }

    /// Takes one, if there is one.
    ///
    /// # Errors
    /// How long it takes until there is.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.fill(rate, now);
        if self.tokens < 1.0 {
            return Err(self.wait(rate));
        }
        self.tokens -= 1.0;
        Ok(())
    }

    /// Takes so much, if there is anything: what is more than there is has to be gained again first.
    ///
    /// # Errors
    /// How long it takes until there is.
    pub fn spend(&mut self, rate: Rate, amount: usize, now: Instant) -> Result<(), Duration> {
        self.fill(rate, now);
        if self.tokens <= 0.0 {
            return Err(self.wait(rate));
        }
        self.tokens -= amount as f64;
        Ok(())
    }

    /// What was taken last was not needed.
    pub fn give_back(&mut self) {
        self.tokens += 1.0;
    }

    /// Takes so much whatever there is.
    pub fn owe(&mut self, amount: usize) {
        self.tokens -= amount as f64;
    }

    /// Whether it has filled up again: nothing is lost by forgetting it.
    pub fn is_full(&self, rate: Rate, now: Instant) -> bool {
        self.level(rate, now) >= rate.burst
    }
}

/// Parts that are locked on their own, so that threads seldom wait for each other.
const PARTS: usize = 16;
/// Buckets held per part at most; beyond, those that are full again are forgotten first, then all.
const MOST: usize = 8_192;

type Part = HashMap<u64, Bucket>;

/// Buckets of one rate by name, for any thread. Names are kept as hashes with a key of the process' own: two that meet
/// share a bucket. Where processes share the rate, each has its part of it.
#[derive(Debug)]
pub struct Buckets {
    rate: Rate,
    processes: AtomicUsize,
    parts: [Mutex<Part>; PARTS],
    hasher: RandomState,
}

impl Buckets {
    /// All full. A rate of 0 per second: nothing is limited.
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            processes: AtomicUsize::new(1),
            parts: Default::default(),
            hasher: RandomState::new(),
        }
    }

    /// So many processes, this one among them, share the rate.
    pub fn share(&self, processes: usize) {
        self.processes.store(processes.max(1), Ordering::Relaxed);
    }

    /// Takes one of this name's, see [`Bucket::take`].
    ///
    /// # Errors
    /// How long to wait for the next.
    pub fn take(&self, name: &str) -> Result<(), Duration> {
        self.with(name, Bucket::take).unwrap_or(Ok(()))
    }

    /// Whether there is anything of this name's.
    ///
    /// # Errors
    /// How long to wait until there is.
    pub fn check(&self, name: &str) -> Result<(), Duration> {
        self.spend(name, 0)
    }

    /// Takes so much, if there is anything, see [`Bucket::spend`].
    ///
    /// # Errors
    /// How long to wait until there is.
    pub fn spend(&self, name: &str, amount: usize) -> Result<(), Duration> {
        self.with(name, |bucket, rate, now| bucket.spend(rate, amount, now))
            .unwrap_or(Ok(()))
    }

    /// Takes so much whatever there is.
    pub fn owe(&self, name: &str, amount: usize) {
        self.with(name, |bucket, rate, now| {
            bucket.fill(rate, now);
            bucket.owe(amount);
        });
    }

    /// `None` where nothing is limited.
    fn with<T>(
        &self,
        name: &str,
        change: impl FnOnce(&mut Bucket, Rate, Instant) -> T,
    ) -> Option<T> {
        if self.rate.per_second <= 0.0 {
            return None;
        }
        let processes = self.processes.load(Ordering::Relaxed) as f64;
        let rate = Rate {
            per_second: self.rate.per_second / processes,
            burst: self.rate.burst / processes,
        };
        let now = tokio::time::Instant::now().into_std();
        let hash = self.hasher.hash_one(name);
        let mut buckets = self.part(hash);
        if buckets.len() >= MOST && !buckets.contains_key(&hash) {
            buckets.retain(|_, bucket| !bucket.is_full(rate, now));
            if buckets.len() >= MOST {
                buckets.clear();
            }
        }
        Some(change(
            buckets
                .entry(hash)
                .or_insert_with(|| Bucket::full(rate, now)),
            rate,
            now,
        ))
    }

    fn part(&self, hash: u64) -> MutexGuard<'_, Part> {
        self.parts[hash as usize % PARTS]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_two_seconds_and_fills_at_its_rate() {
        let start = Instant::now();
        let rate = Rate::of_things(10);
        let mut bucket = Bucket::full(rate, start);
        assert_eq!(
            (0..30).filter(|_| bucket.take(rate, start).is_ok()).count(),
            20
        );
        assert!(!bucket.is_full(rate, start));
        let later = start + Duration::from_millis(500);
        assert_eq!(
            (0..30).filter(|_| bucket.take(rate, later).is_ok()).count(),
            5
        );
        assert!(bucket.is_full(rate, later + Duration::from_secs(2)));
    }

    #[test]
    fn what_is_owed_is_gained_before_anything_is_taken() {
        let start = Instant::now();
        let rate = Rate::of_bytes(1_000);
        let mut bucket = Bucket::full(rate, start);
        assert_eq!(
            bucket.spend(rate, 10_000, start),
            Ok(()),
            "a burst of 8,000 lets one in that is larger"
        );
        assert!(
            bucket
                .spend(rate, 1, start + Duration::from_millis(1_900))
                .is_err()
        );
        assert_eq!(
            bucket.spend(rate, 1, start + Duration::from_millis(2_100)),
            Ok(())
        );
        let things = Rate::of_things(10);
        let mut bucket = Bucket::full(things, start);
        bucket.owe(30);
        assert!(
            bucket
                .take(things, start + Duration::from_millis(900))
                .is_err()
        );
        assert_eq!(
            bucket.take(things, start + Duration::from_millis(1_200)),
            Ok(())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate_and_nobody_else_is_harmed() {
        let buckets = Buckets::new(Rate::new(2.0, 3.0));
        for _ in 0..3 {
            assert_eq!(buckets.take("ann"), Ok(()));
        }
        let wait = buckets.take("ann").unwrap_err();
        assert!(wait <= Duration::from_millis(500), "{wait:?}");
        assert_eq!(buckets.take("bob"), Ok(()));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(buckets.take("ann"), Ok(()));
        assert!(buckets.take("ann").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_is_paid_for_before_the_next() {
        let buckets = Buckets::new(Rate::new(100.0, 300.0));
        assert_eq!(buckets.spend("ann", 299), Ok(()));
        assert_eq!(
            buckets.spend("ann", 201),
            Ok(()),
            "the last may be larger than what is left"
        );
        let wait = buckets.spend("ann", 1).unwrap_err();
        assert!(
            wait > Duration::from_secs(2) && wait <= Duration::from_millis(2010),
            "{wait:?}"
        );
        assert_eq!(buckets.spend("bob", 1), Ok(()));
        tokio::time::advance(wait).await;
        assert_eq!(buckets.check("ann"), Ok(()));
        buckets.owe("ann", 500);
        assert!(buckets.check("ann").unwrap_err() > Duration::from_secs(4));
    }

    #[tokio::test(start_paused = true)]
    async fn no_rate_is_no_limit() {
        let buckets = Buckets::new(Rate::new(0.0, 1.0));
        for _ in 0..1000 {
            assert_eq!(buckets.take("ann"), Ok(()));
            assert_eq!(buckets.spend("ann", usize::MAX), Ok(()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn processes_share_a_rate() {
        let buckets = Buckets::new(Rate::new(100.0, 400.0));
        buckets.share(4);
        let mut taken = 0;
        for _ in 0..100 {
            while buckets.spend("ann", 10).is_ok() {
                taken += 10;
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let allowed = 400 / 4 + 99 * 100 / 4;
        assert!(
            (allowed - 10..=allowed + 20).contains(&taken),
            "{taken} of {allowed}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let buckets = Buckets::new(Rate::new(1.0, 1.0));
        for number in 0..2 * PARTS * MOST {
            let _ = buckets.spend(&number.to_string(), 1);
        }
        assert!(
            buckets
                .parts
                .iter()
                .all(|part| part.lock().unwrap().len() <= MOST)
        );
    }
}
