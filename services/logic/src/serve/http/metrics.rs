//! What HTTP requests cost and how they end.

use std::sync::LazyLock;
use std::time::Instant;

use axum::http::{Method, StatusCode};
use prometheus::{
    HistogramVec, IntCounter, IntCounterVec, IntGauge, register_histogram_vec,
    register_int_counter, register_int_counter_vec, register_int_gauge,
};

const ONCE: &str = "each metric is registered once, under a name of its own";

static REQUESTS: LazyLock<IntCounterVec> = LazyLock::new(|| {
    register_int_counter_vec!(
        "im_logic_http_requests_total",
        "HTTP requests by method, route and status.",
        &["method", "route", "status"]
    )
    .expect(ONCE)
});

static SECONDS: LazyLock<HistogramVec> = LazyLock::new(|| {
    register_histogram_vec!(
        "im_logic_http_request_seconds",
        "How long HTTP requests took, by route.",
        &["route"],
        vec![
            0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0
        ]
    )
    .expect(ONCE)
});

static UNDER_WAY: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "im_logic_http_requests_under_way",
        "HTTP requests that are not answered yet."
    )
    .expect(ONCE)
});

pub(super) static CONNECTIONS: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!("im_logic_http_connections", "Open HTTP connections.").expect(ONCE)
});

pub(super) static SHED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_logic_http_shed_total",
        "HTTP requests refused because as many as may be were under way."
    )
    .expect(ONCE)
});

pub(super) static RATE_LIMITED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_logic_http_rate_limited_total",
        "HTTP requests refused by their user's rate."
    )
    .expect(ONCE)
});

pub(super) static CONNECTIONS_REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_logic_http_connections_refused_total",
        "HTTP connections refused because their address has as many as one may have."
    )
    .expect(ONCE)
});

pub(super) static SHARES_REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_logic_http_shares_refused_total",
        "HTTP requests refused because their user or address had as many under way as one may have."
    )
    .expect(ONCE)
});

pub(super) static ATTEMPTS_REFUSED: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_logic_http_attempts_refused_total",
        "HTTP requests whose token was not looked at because too many from their address were not accepted."
    )
    .expect(ONCE)
});

pub(super) static PAUSES: LazyLock<IntCounter> = LazyLock::new(|| {
    register_int_counter!(
        "im_logic_http_auth_pauses_total",
        "Pauses in which no token of an address is looked at, begun after one that was not accepted."
    )
    .expect(ONCE)
});

/// A request under way.
pub(super) struct Asked {
    method: &'static str,
    route: String,
    since: Instant,
}

impl Asked {
    pub(super) fn begin(method: &Method, route: String) -> Self {
        UNDER_WAY.inc();
        let known = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
        let method = known
            .into_iter()
            .find(|name| *name == method.as_str())
            .unwrap_or("other");
        Self {
            method,
            route,
            since: Instant::now(),
        }
    }

    pub(super) fn end(self, status: StatusCode) {
        REQUESTS
            .with_label_values(&[self.method, self.route.as_str(), status.as_str()])
            .inc();
        SECONDS
            .with_label_values(&[self.route.as_str()])
            .observe(self.since.elapsed().as_secs_f64());
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        UNDER_WAY.dec();
    }
}

/// Makes every metric here visible from the start, with nothing counted yet.
pub(in crate::serve) fn declare() {
    LazyLock::force(&REQUESTS);
    LazyLock::force(&SECONDS);
    LazyLock::force(&UNDER_WAY);
    LazyLock::force(&CONNECTIONS);
    LazyLock::force(&SHED);
    LazyLock::force(&RATE_LIMITED);
    for counter in [
        &CONNECTIONS_REFUSED,
        &SHARES_REFUSED,
        &ATTEMPTS_REFUSED,
        &PAUSES,
    ] {
        LazyLock::force(counter);
    }
}
