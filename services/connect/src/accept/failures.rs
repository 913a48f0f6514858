//! Authentications that failed, by address: from a number of them on every further one from there waits before logic is
//! asked, longer with each. Nobody is locked out, also of those who share the address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::admission::network;

/// How long it takes until half of the failures are forgotten.
const HALF: f64 = 60.0;
/// The first pause; it doubles with every tenth failure more.
const FIRST: Duration = Duration::from_millis(100);
/// Addresses that are remembered; at more, those that count least are forgotten.
const MOST: usize = 65_536;

/// See the module's top.
#[derive(Debug)]
pub(crate) struct Failures {
    free: f64,
    longest: Duration,
    by_address: Mutex<HashMap<IpAddr, Count>>,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    failures: f64,
    at: Instant,
}

impl Count {
    fn now(self, now: Instant) -> f64 {
        self.failures * (-now.saturating_duration_since(self.at).as_secs_f64() / HALF).exp2()
    }
}

impl Failures {
    /// So many failures are free, and no pause is longer than `longest`.
    pub(crate) fn new(free: u32, longest: Duration) -> Self {
        Self { free: f64::from(free), longest, by_address: Mutex::default() }
    }

    fn by_address(&self) -> MutexGuard<'_, HashMap<IpAddr, Count>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the next attempt from there waits.
    pub(crate) fn pause(&self, address: IpAddr, now: Instant) -> Duration {
        let failures = self.by_address().get(&network(address)).map_or(0.0, |count| count.now(now));
        let over = failures - self.free;
        if over <= 0.0 {
            return Duration::ZERO;
        }
        FIRST.mul_f64((over / 10.0).min(20.0).exp2()).min(self.longest)
    }

    /// One more has failed.
    pub(crate) fn failed(&self, address: IpAddr, now: Instant) {
        let mut by_address = self.by_address();
        if by_address.len() >= MOST {
            by_address.retain(|_, count| count.now(now) > 1.0);
        }
        if by_address.len() >= MOST {
            by_address.clear();
        }
        let count = by_address.entry(network(address)).or_insert(Count { failures: 0.0, at: now });
        *count = Count { failures: count.now(now) + 1.0, at: now };
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn pauses_grow_with_failures_up_to_the_longest_and_go_with_time() {
        let failures = Failures::new(20, Duration::from_secs(5));
        let (here, there) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
        let now = Instant::now();
        let after = |count: u32| {
            (0..count).for_each(|_| failures.failed(here, now));
            failures.pause(here, now)
        };
        assert_eq!(after(20), Duration::ZERO);
        let (first, second, last) = (after(10), after(10), after(500));
        assert!(first >= Duration::from_millis(200) && second > first, "{first:?} {second:?}");
        assert_eq!(last, Duration::from_secs(5));
        assert_eq!(failures.pause(there, now), Duration::ZERO);
        assert_eq!(failures.pause(here, now + Duration::from_secs(3_600)), Duration::ZERO);
    }
}
