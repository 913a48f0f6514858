//! Tokens that are not accepted, by where they come from: whoever goes on with them waits ever longer before the next is
//! looked at. Tokens that were good a while ago are, so that who shares an address with a guesser is not locked out.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::address::Network;

/// The first pause; each further failure doubles it.
const FIRST: Duration = Duration::from_secs(1);
/// Half of an address' failures is forgotten each time: those of many who share it add up to little.
const HALVED_EVERY: Duration = Duration::from_secs(60);
/// Addresses remembered at most; beyond, those without a pause are forgotten first, then all.
const MOST: usize = 100_000;
/// Good tokens remembered at most, twice over, 8 bytes each.
const GOOD: usize = 50_000;

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    /// When they were halved.
    halved: Instant,
    until: Instant,
}

/// The failures, and the hashes of good tokens in two generations.
#[derive(Debug)]
pub struct Attempts {
    free: u32,
    longest: Duration,
    failures: Mutex<HashMap<Network, Failures>>,
    good: Mutex<[HashSet<u64>; 2]>,
    hasher: RandomState,
}

impl Attempts {
    /// So many failures of one address cost it nothing; no pause is longer than `longest`.
    pub fn new(free: u32, longest: Duration) -> Self {
        Self {
            free,
            longest,
            failures: Mutex::default(),
            good: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// Whether a token from there is looked at.
    ///
    /// # Errors
    /// How long it is not.
    pub fn admit(&self, network: Network, token: &str) -> Result<(), Duration> {
        let now = Instant::now();
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = failures
            .get(&network)
            .map(|one| one.until.saturating_duration_since(now))
            .unwrap_or_default();
        drop(failures);
        if wait.is_zero() || self.was_good(token) {
            Ok(())
        } else {
            Err(wait)
        }
    }

    /// The token was not accepted. Returns the pause that begins.
    pub fn failed(&self, network: Network) -> Duration {
        let now = Instant::now();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= MOST && !failures.contains_key(&network) {
            failures.retain(|_, one| one.until > now);
            if failures.len() >= MOST {
                failures.clear();
            }
        }
        let one = failures.entry(network).or_insert(Failures {
            count: 0,
            halved: now,
            until: now,
        });
        while one.count > 0 && now.saturating_duration_since(one.halved) >= HALVED_EVERY {
            one.count /= 2;
            one.halved += HALVED_EVERY;
        }
        if one.count == 0 {
            one.halved = now;
        }
        one.count = one.count.saturating_add(1);
        let beyond = one.count.saturating_sub(self.free);
        let pause = match beyond {
            0 => Duration::ZERO,
            beyond => FIRST
                .saturating_mul(1 << (beyond - 1).min(10))
                .min(self.longest),
        };
        one.until = now + pause;
        pause
    }

    /// The token was accepted.
    pub fn succeeded(&self, token: &str) {
        let hash = self.hasher.hash_one(token);
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good[0].contains(&hash) {
            return;
        }
        if good[0].len() >= GOOD {
            good.swap(0, 1);
            good[0].clear();
        }
        good[0].insert(hash);
    }

    fn was_good(&self, token: &str) -> bool {
        let hash = self.hasher.hash_one(token);
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.iter().any(|generation| generation.contains(&hash))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const LONGEST: Duration = Duration::from_secs(60);

    fn network(number: u32) -> Network {
        IpAddr::V4(Ipv4Addr::from(number)).into()
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_and_end() {
        let attempts = Attempts::new(3, LONGEST);
        let eve = network(1);
        attempts.succeeded("good");
        for _ in 0..3 {
            assert_eq!(attempts.failed(eve), Duration::ZERO);
            assert_eq!(attempts.admit(eve, "x"), Ok(()));
        }
        let pauses: Vec<_> = (0..9).map(|_| attempts.failed(eve).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(attempts.admit(eve, "x"), Err(LONGEST));
        assert_eq!(
            attempts.admit(eve, "good"),
            Ok(()),
            "who was there before is not locked out"
        );
        assert_eq!(
            attempts.admit(network(2), "x"),
            Ok(()),
            "nor is anybody else"
        );
        tokio::time::advance(LONGEST).await;
        assert_eq!(attempts.admit(eve, "x"), Ok(()));
        assert_eq!(attempts.failed(eve).as_secs(), 8, "half of it is forgotten");
        tokio::time::advance(10 * HALVED_EVERY).await;
        assert_eq!(attempts.failed(eve), Duration::ZERO, "and in time all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_failures_a_minute_from_one_address_delay_nobody() {
        let attempts = Attempts::new(20, LONGEST);
        for _ in 0..1_000 {
            tokio::time::advance(Duration::from_secs(7)).await;
            assert_eq!(attempts.failed(network(1)), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_pause_is_longer_than_the_longest() {
        for longest in [Duration::from_millis(100), Duration::from_secs(5)] {
            let attempts = Attempts::new(0, longest);
            assert_eq!(
                (0..50).map(|_| attempts.failed(network(1))).max(),
                Some(longest)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_is_bounded() {
        let attempts = Attempts::new(0, LONGEST);
        for number in 0..u32::try_from(MOST).unwrap() + 10 {
            attempts.failed(network(number));
        }
        for number in 0..3 * GOOD {
            attempts.succeeded(&number.to_string());
        }
        assert!(attempts.failures.lock().unwrap().len() <= MOST);
        assert!(
            attempts
                .good
                .lock()
                .unwrap()
                .iter()
                .map(HashSet::len)
                .sum::<usize>()
                <= 2 * GOOD
        );
    }
}
