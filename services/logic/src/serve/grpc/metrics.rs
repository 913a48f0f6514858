//! How many streams there are and how full they are.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};

const ONCE: &str = "each metric is registered once, under a name of its own";

static STREAMS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "im_logic_uplink_streams",
        "Streams that connect processes hold open."
    )
    .expect(ONCE)
});

static IN_FLIGHT: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "im_logic_uplink_in_flight",
        "Calls of all streams that wait for the store."
    )
    .expect(ONCE)
});

static FULL: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_logic_uplink_full_total",
        "How often a stream was not read because as many of its calls as may be were in flight."
    )
    .expect(ONCE)
});

pub(super) static REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_logic_uplink_refused_total",
        "Streams that did not show the cluster's secret."
    )
    .expect(ONCE)
});

/// One stream.
pub(super) struct Stream {
    in_flight: i64,
    full: bool,
}

impl Stream {
    pub(super) fn begin() -> Self {
        STREAMS.inc();
        Self {
            in_flight: 0,
            full: false,
        }
    }

    /// So many of its calls are in flight now.
    pub(super) fn at(&mut self, in_flight: usize, full: bool) {
        let in_flight = i64::try_from(in_flight).unwrap_or(i64::MAX);
        IN_FLIGHT.add(in_flight - self.in_flight);
        self.in_flight = in_flight;
        if full && !self.full {
            FULL.inc();
        }
        self.full = full;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        STREAMS.dec();
        IN_FLIGHT.sub(self.in_flight);
    }
}

/// Makes every metric here visible from the start, with nothing counted yet.
pub(in crate::serve) fn declare() {
    LazyLock::force(&STREAMS);
    LazyLock::force(&IN_FLIGHT);
    LazyLock::force(&FULL);
    LazyLock::force(&REFUSED);
}
