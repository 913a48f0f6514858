//! What the redis store counts.

use std::sync::LazyLock;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge};

/// A metric that cannot be registered is a name used twice: a defect that the first run shows.
const REGISTERS: &str = "metric names are used once";

fn histogram(name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
    prometheus::register_histogram!(options).expect(REGISTERS)
}

fn counter(name: &str, help: &str) -> IntCounter {
    prometheus::register_int_counter!(name, help).expect(REGISTERS)
}

pub(super) static BATCH: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Appends that one script call stored.";
    histogram(
        "im_store_append_batch",
        help,
        &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0],
    )
});
pub(super) static APPEND: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "How long redis took for a batch of appends, the wait for replicas included.";
    histogram(
        "im_store_append_seconds",
        help,
        &[
            0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 1.0, 5.0,
        ],
    )
});
pub(super) static QUEUED: LazyLock<IntGauge> = LazyLock::new(|| {
    prometheus::register_int_gauge!("im_store_append_queue", "Appends waiting for their turn.")
        .expect(REGISTERS)
});
pub(super) static QUEUE_FULL: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "im_store_append_queue_full_total",
        "Appends refused because the queue of appends was full.",
    )
});
pub(super) static ABANDONED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "im_store_append_abandoned_total",
        "Appends that nobody waited for any more when their turn came: not stored.",
    )
});
pub(super) static REPEATED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "im_store_repeated_total",
        "Appends that had been stored before under the same client id.",
    )
});
pub(super) static NOT_REPLICATED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "im_store_not_replicated_total",
        "Appends that too few replicas confirmed in time.",
    )
});
pub(super) static PUBLISH_FAILED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "im_store_publish_failed_total",
        "Stored entries whose publishing failed; receivers find them by their seq.",
    )
});
