//! The time of day, which the machine's owner may change: for what people and other machines are told, not for measuring.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Since 1970; nothing where the machine's clock stands before it.
pub fn unix() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    u64::try_from(unix().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_later_than_this_was_written() {
        assert!(unix_ms() > 1_700_000_000_000 && unix_ms() / 1_000 <= unix().as_secs());
    }
}
