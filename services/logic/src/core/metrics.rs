//! How much follows answers, and how often that is too much.

use std::sync::LazyLock;

use prometheus::{IntCounter, IntGauge, register_int_counter, register_int_gauge};

const ONCE: &str = "each metric is registered once, under a name of its own";

static FOLLOW_UPS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "im_logic_follow_ups",
        "Work after answers (indexing new direct rooms, telling nodes) that is under way."
    )
    .expect(ONCE)
});

pub(super) static FOLLOW_UPS_WAITED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_logic_follow_ups_waited_total",
        "Answers that waited for their own follow-up because too many were under way."
    )
    .expect(ONCE)
});

/// A follow-up under way.
pub(super) struct FollowUp;

impl FollowUp {
    pub(super) fn begin() -> Self {
        FOLLOW_UPS.inc();
        Self
    }
}

impl Drop for FollowUp {
    fn drop(&mut self) {
        FOLLOW_UPS.dec();
    }
}

/// Makes the metrics here visible from the start, with nothing counted yet.
pub(crate) fn declare() {
    LazyLock::force(&FOLLOW_UPS);
    LazyLock::force(&FOLLOW_UPS_WAITED);
}
