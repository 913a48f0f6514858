//! What the embedded store counts.

use std::sync::LazyLock;

use prometheus::{
    Histogram, IntCounter, IntGauge, exponential_buckets, histogram_opts, register_histogram,
    register_int_counter, register_int_gauge,
};

/// A metric that cannot be registered is a name used twice: a defect that the first run shows.
const REGISTERS: &str = "metric names are used once";

pub(super) static QUEUE: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("im_store_queue", "Writes that wait for the embedded store.")
        .expect(REGISTERS)
});
pub(super) static REJECTED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_store_rejected_total",
        "Writes refused because too many wait."
    )
    .expect(REGISTERS)
});
pub(super) static COMMIT: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = exponential_buckets(0.000_25, 2.0, 14).expect("a valid series");
    let help = "How long the writes of one transaction took until they were on disk.";
    register_histogram!(histogram_opts!("im_store_commit_seconds", help, buckets)).expect(REGISTERS)
});
pub(super) static BATCH: LazyLock<Histogram> = LazyLock::new(|| {
    let buckets = exponential_buckets(1.0, 2.0, 11).expect("a valid series");
    register_histogram!(histogram_opts!(
        "im_store_batch_writes",
        "Writes in one transaction.",
        buckets
    ))
    .expect(REGISTERS)
});
pub(super) static FAILED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help =
        "Transactions that the disk did not take; none of their writes is stored or acknowledged.";
    register_int_counter!("im_store_failed_commits_total", help).expect(REGISTERS)
});
pub(super) static ABANDONED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help =
        "Messages and changes that nobody waited for any more when their turn came: not stored.";
    register_int_counter!("im_store_abandoned_total", help).expect(REGISTERS)
});
pub(super) static DISK_FAILED: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "1: the disk has failed to sync, and the embedded store takes no writes until it is looked after.";
    register_int_gauge!("im_store_disk_failed", help).expect(REGISTERS)
});
pub(super) static READING: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "im_store_reads",
        "Reads of the embedded store that run or wait."
    )
    .expect(REGISTERS)
});
