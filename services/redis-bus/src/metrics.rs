//! What this crate counts, in prometheus's default registry.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec, IntGauge};

/// A metric that cannot be registered is a name used twice: a defect that the first run shows.
const REGISTERS: &str = "metric names are used once";

fn counter(name: &str, help: &str) -> IntCounter {
    prometheus::register_int_counter!(name, help).expect(REGISTERS)
}

fn counters(name: &str, help: &str, label: &str) -> IntCounterVec {
    prometheus::register_int_counter_vec!(name, help, &[label]).expect(REGISTERS)
}

fn gauge(name: &str, help: &str) -> IntGauge {
    prometheus::register_int_gauge!(name, help).expect(REGISTERS)
}

pub(crate) static MASTERS: LazyLock<IntGauge> = LazyLock::new(|| {
    gauge(
        "im_redis_masters",
        "Redis masters that this process has connections to.",
    )
});
pub(crate) static RECONNECTS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "im_redis_connects_total",
        "Times that the connections to a redis master were opened, the first included.",
    )
});
pub(crate) static ERRORS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters(
        "im_redis_errors_total",
        "Redis calls that failed, by what went wrong; calls tried again are counted too.",
        "kind",
    )
});
pub(crate) static ROOMS: LazyLock<IntGauge> = LazyLock::new(|| {
    gauge(
        "im_bus_rooms",
        "Rooms that this process wants to hear on the bus.",
    )
});
pub(crate) static EVENTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters(
        "im_bus_events_total",
        "Events heard on the bus, by kind.",
        "kind",
    )
});
pub(crate) static DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "im_bus_dropped_total",
        "Bus events dropped because the queue of events was full, by their number or their bytes; heads are compared after it.",
    )
});
pub(crate) static UNREADABLE: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "im_bus_unreadable_total",
        "Bus events that could not be decoded.",
    )
});
pub(crate) static POSSIBLE_GAPS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "im_bus_disturbed_total",
        "Times that events may have been lost on the bus, so that heads were compared.",
    )
});
pub(crate) static BUS_CONNECTS: LazyLock<IntCounter> = LazyLock::new(|| {
    counter(
        "im_bus_connects_total",
        "Times that a bus connection was opened, the first ones included.",
    )
});
pub(crate) static BUS_RESTARTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    counters(
        "im_bus_restarts_total",
        "Times that a bus connection was given up and its subscriptions were begun anew, by reason: it ended, its server has \
         become a replica, commands go to another server behind the same address, or a slot has moved to another master.",
        "reason",
    )
});
