//! Who is not believed, and who is believed without a token.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntCounterVec, register_int_counter, register_int_counter_vec};

use super::Error;

const ONCE: &str = "each metric is registered once, under a name of its own";

static FAILURES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "im_logic_auth_failures_total",
        "Tokens that were not accepted, by reason.",
        &["reason"]
    )
    .expect(ONCE)
});

pub(super) static UNSIGNED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_logic_unsigned_identities_total",
        "Connections that were believed without a token because the development switch is on."
    )
    .expect(ONCE)
});

/// Makes the metrics here visible from the start, with nothing counted yet.
pub(crate) fn declare_metrics() {
    LazyLock::force(&FAILURES);
    LazyLock::force(&UNSIGNED);
}

/// Counts somebody who is not believed or not let in.
pub(crate) fn count_failure(error: &Error) {
    FAILURES.with_label_values(&[error.reason()]).inc();
}
