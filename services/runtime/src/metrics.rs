//! What the admin server shows at `/metrics`: everything in prometheus' default registry, process figures included.

use std::sync::LazyLock;

use prometheus::{Encoder, IntCounter, IntGaugeVec, TextEncoder, register_int_counter, register_int_gauge_vec};

use crate::version;

pub(crate) static PANICS: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Panics anywhere in the process; each is a defect and stands in the log.";
    register_int_counter!("im_runtime_panics_total", help).expect("registered once")
});

static BUILD: LazyLock<IntGaugeVec> = LazyLock::new(|| {
    let help = "Always 1; its labels say which build runs.";
    let labels = &["program", "version", "commit", "profile"];
    register_int_gauge_vec!("im_runtime_build_info", help, labels).expect("registered once")
});

/// Shows which build runs.
pub(crate) fn announce(program: &str) {
    BUILD.with_label_values(&[program, version::VERSION, version::COMMIT, version::PROFILE]).set(1);
    LazyLock::force(&PANICS);
}

/// The media type of [`text`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// All metrics in prometheus' text format.
pub fn text() -> String {
    let mut bytes = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&prometheus::gather(), &mut bytes) {
        tracing::error!(%error, "metrics cannot be shown");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
