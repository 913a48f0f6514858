//! What calls cost and how they end.

use std::sync::LazyLock;
use std::time::Instant;

use im_proto::v1::call::Op;
use prometheus::{HistogramVec, IntCounterVec, register_histogram_vec, register_int_counter_vec};

use crate::error::Error;

const ONCE: &str = "each metric is registered once, under a name of its own";

static CALLS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "im_logic_calls_total",
        "Calls of connect processes by operation and outcome: ok or an error code.",
        &["op", "code"]
    )
    .expect(ONCE)
});

static SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "im_logic_call_seconds",
        "How long calls of connect processes took, by operation.",
        &["op"],
        vec![
            0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0
        ]
    )
    .expect(ONCE)
});

/// The operation's name in metrics.
pub(super) fn name(op: &Op) -> &'static str {
    match op {
        Op::Authenticate(_) => "authenticate",
        Op::Refresh(_) => "refresh",
        Op::Disconnected(_) => "disconnected",
        Op::Subscribe(_) => "subscribe",
        Op::Fetch(_) => "fetch",
        Op::Heads(_) => "heads",
        Op::Send(_) => "send",
        Op::Signal(_) => "signal",
        Op::History(_) => "history",
        Op::Read(_) => "read",
        Op::KnownRooms(_) => "known_rooms",
        Op::NodeBeat(_) => "node_beat",
        Op::Bans(_) => "bans",
        Op::AssertPresence(_) => "assert_presence",
    }
}

/// A call under way.
pub(super) struct Call {
    op: &'static str,
    since: Instant,
}

impl Call {
    pub(super) fn begin(op: &'static str) -> Self {
        Self {
            op,
            since: Instant::now(),
        }
    }

    /// Counts it, and logs what is our own fault.
    pub(super) fn end(self, error: Option<&Error>) {
        let code = error.map_or("ok", |error| error.code().name());
        CALLS.with_label_values(&[self.op, code]).inc();
        SECONDS
            .with_label_values(&[self.op])
            .observe(self.since.elapsed().as_secs_f64());
        match error {
            Some(error) if error.is_a_defect() => {
                tracing::error!(op = self.op, %error, "a call failed")
            }
            Some(error) => tracing::debug!(op = self.op, code, %error, "call refused"),
            None => {}
        }
    }
}

/// Makes every metric here visible from the start, with nothing counted yet.
pub(crate) fn declare() {
    LazyLock::force(&CALLS);
    LazyLock::force(&SECONDS);
}
