//! How long to wait after failures.

use std::time::Duration;

/// How long to wait after so many failures in a row: `first`, twice as long each time, until it is `longest`; give or take
/// a third, so that those who failed together do not come back together.
pub(crate) fn backoff(failures: u32, first: Duration, longest: Duration) -> Duration {
    let base = first * 2_u32.saturating_pow(failures.saturating_sub(1).min(10));
    base.min(longest).mul_f64(rand::random_range(0.7..1.3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_secs(120);

    #[test]
    fn failures_put_attempts_off_more_and_more_and_never_for_long() {
        let backoff = |failures| backoff(failures, FIRST, LONGEST);
        let longest = |failures| (0..50).map(|_| backoff(failures)).max().unwrap();
        let shortest = |failures| (0..50).map(|_| backoff(failures)).min().unwrap();
        assert!(longest(1) < Duration::from_secs(2));
        assert!(shortest(5) > Duration::from_secs(10));
        assert!(longest(u32::MAX) <= LONGEST.mul_f64(1.3));
    }
}
