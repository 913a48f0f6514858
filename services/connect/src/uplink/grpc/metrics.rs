//! The uplink's metrics.

use std::sync::LazyLock;

use prometheus::{
    Histogram, IntCounter, IntCounterVec, IntGauge, exponential_buckets, histogram_opts,
    register_histogram, register_int_counter, register_int_counter_vec, register_int_gauge,
};

pub(super) static SECONDS: LazyLock<Histogram> = LazyLock::new(|| {
    let help =
        "From a call to its answer, over gRPC, in seconds; calls without an answer are not in it.";
    let buckets = exponential_buckets(0.0005, 2.0, 15).expect("start and factor are positive");
    register_histogram!(histogram_opts!("im_connect_uplink_seconds", help, buckets))
        .expect("registered once")
});

pub(super) static FAULTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let help = "Calls that logic did not answer: no_logic (none could be reached), lost (the process that had it was lost), \
        timeout, queue_full.";
    register_int_counter_vec!("im_connect_uplink_faults_total", help, &["why"])
        .expect("registered once")
});

pub(super) static IN_FLIGHT: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "Calls under way to logic, queued ones included; the bound is uplink_queue per logic process.";
    register_int_gauge!("im_connect_uplink_in_flight", help).expect("registered once")
});

pub(super) static QUEUED: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "Calls that wait to be written to a logic process; bound: uplink_queue for each. At it calls fail (queue_full).";
    register_int_gauge!("im_connect_uplink_queue_depth", help).expect("registered once")
});

pub(super) static BATCH: LazyLock<Histogram> = LazyLock::new(|| {
    let help = "Calls written to a logic process at once.";
    let buckets = exponential_buckets(1.0, 2.0, 10).expect("start and factor are positive");
    register_histogram!(histogram_opts!(
        "im_connect_uplink_batch_calls",
        help,
        buckets
    ))
    .expect("registered once")
});

pub(super) static MOVED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Calls given to another logic process because theirs was lost.";
    register_int_counter!("im_connect_uplink_moved_total", help).expect("registered once")
});

pub(super) static STREAMS: LazyLock<IntGauge> = LazyLock::new(|| {
    let help = "Streams to logic that are open: from each shard, and from the node itself, one to each logic process.";
    register_int_gauge!("im_connect_uplink_streams", help).expect("registered once")
});

pub(super) static LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Streams to logic that broke; after each the heads of all rooms are compared.";
    register_int_counter!("im_connect_uplink_lost_total", help).expect("registered once")
});
