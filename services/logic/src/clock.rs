//! The time of day, in the one unit that everything here uses.

use std::time::{SystemTime, UNIX_EPOCH};

/// Unix milliseconds; 0 where the machine's clock stands before 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
