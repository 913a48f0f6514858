//! One clock for all processes of a run: the machine's monotonic one, in nanoseconds.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds on the machine's monotonic clock, which every process of the machine reads alike.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    // The clock counts from the machine's start: never negative.
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}
