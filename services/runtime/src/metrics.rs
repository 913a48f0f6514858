//! What the admin server shows at `/metrics`: everything in prometheus' default registry, process figures included.

use prometheus::{Encoder, TextEncoder};

use crate::version;

/// Declares metrics: `NAME: IntCounterVec("im_…", "Help.", &["label"]);`, with any of prometheus' counters, gauges and
/// histograms. A histogram may have its buckets at the end. Each is a static of the crate, made when it is first used, and
/// `register()` makes them all, so that a scrape shows zeros instead of nothing.
///
/// # Panics
/// The statics, where a name is not valid or taken already.
#[macro_export]
macro_rules! metrics {
    ($($name:ident: $kind:ident($metric:literal, $help:literal $(, $more:expr)*);)*) => {
        $(
            #[doc = $help]
            pub(crate) static $name: ::std::sync::LazyLock<$crate::prometheus::$kind> =
                ::std::sync::LazyLock::new(|| {
                    let made = $crate::register_metric!($kind, $metric, $help $(, $more)*);
                    made.expect(concat!($metric, " registers"))
                });
        )*

        /// Makes all of them, so that a scrape shows zeros instead of nothing.
        pub(crate) fn register() {
            $(::std::sync::LazyLock::force(&$name);)*
        }
    };
}

/// For [`metrics!`]: the macro of prometheus that makes a kind.
#[doc(hidden)]
#[macro_export]
macro_rules! register_metric {
    (IntCounter, $($what:expr),*) => { $crate::prometheus::register_int_counter!($($what),*) };
    (IntCounterVec, $($what:expr),*) => { $crate::prometheus::register_int_counter_vec!($($what),*) };
    (IntGauge, $($what:expr),*) => { $crate::prometheus::register_int_gauge!($($what),*) };
    (IntGaugeVec, $($what:expr),*) => { $crate::prometheus::register_int_gauge_vec!($($what),*) };
    (Gauge, $($what:expr),*) => { $crate::prometheus::register_gauge!($($what),*) };
    (GaugeVec, $($what:expr),*) => { $crate::prometheus::register_gauge_vec!($($what),*) };
    (Counter, $($what:expr),*) => { $crate::prometheus::register_counter!($($what),*) };
    (CounterVec, $($what:expr),*) => { $crate::prometheus::register_counter_vec!($($what),*) };
    (Histogram, $($what:expr),*) => { $crate::prometheus::register_histogram!($($what),*) };
    (HistogramVec, $($what:expr),*) => { $crate::prometheus::register_histogram_vec!($($what),*) };
}

crate::metrics! {
    PANICS: IntCounter("im_runtime_panics_total", "Panics anywhere in the process; each is a defect and stands in the log.");
    BUILD: IntGaugeVec("im_runtime_build_info", "Always 1; its labels say which build runs.", &["program", "version", "commit", "profile"]);
}

/// Shows which build runs.
pub(crate) fn announce(program: &str) {
    register();
    BUILD
        .with_label_values(&[program, version::VERSION, version::COMMIT, version::PROFILE])
        .set(1);
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
