//! The admin port: `/healthz`, `/readyz`, `/metrics`, and what a program adds. Needs no credential, so it tells no secret.

mod liveness;
mod readiness;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

pub use liveness::{Liveness, Pulse};
pub use readiness::{Latch, Readiness};

use crate::http::{self, Limits};
use crate::{Tasks, metrics};

/// Connections of one address; more are closed at once. Prometheus and a node's kubelet have one or two:
/// whoever else reaches the port must not take the places of their probes.
const MAX_PER_ADDRESS: usize = 16;
/// How long a request's head may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may stay, whatever it asks.
const LIFE: Duration = Duration::from_secs(60);

/// Why the admin server does not start.
#[derive(Debug, thiserror::Error)]
#[error("the admin server cannot listen on {address}: {source}")]
pub struct Error {
    address: SocketAddr,
    source: std::io::Error,
}

/// The admin server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Admin {
    address: SocketAddr,
    readiness: Readiness,
    liveness: Liveness,
    more: Arc<ArcSwap<Router>>,
}

impl Admin {
    /// Binds and serves until the process ends: it goes on while the process drains.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(address: SocketAddr, tasks: &Tasks) -> Result<Self, Error> {
        let bind = async || {
            let listener = TcpListener::bind(address).await?;
            let bound = listener.local_addr()?;
            Ok((listener, bound))
        };
        let (listener, bound) = bind().await.map_err(|source| Error { address, source })?;
        let admin = Self {
            address: bound,
            readiness: Readiness::default(),
            liveness: Liveness::default(),
            more: Arc::new(ArcSwap::from_pointee(Router::new())),
        };
        let limits = Limits {
            per_address: MAX_PER_ADDRESS,
            header_timeout: HEADER_TIMEOUT,
            life: LIFE,
            ..Limits::new("admin server")
        };
        let serving = http::serve(
            listener,
            limits,
            admin.router(),
            TaskTracker::new(),
            CancellationToken::new(),
        );
        tasks.spawn("admin server", async {
            serving.await;
            Ok::<_, Infallible>(())
        });
        Ok(admin)
    }

    /// Where it listens: the real port where 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What must be there before the process is ready.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Which loops must turn for the process to be alive.
    pub fn liveness(&self) -> &Liveness {
        &self.liveness
    }

    /// Serves further routes from now on.
    pub fn add(&self, routes: Router) {
        self.more
            .rcu(|more| more.as_ref().clone().merge(routes.clone()));
    }

    /// Serves what `answer` says as JSON under a further path from now on.
    pub fn add_json(
        &self,
        path: &str,
        answer: impl Fn() -> serde_json::Value + Clone + Send + Sync + 'static,
    ) {
        self.add(Router::new().route(path, get(async move || Json(answer()))));
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route(
                "/metrics",
                get(async || {
                    (
                        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
                        metrics::text(),
                    )
                }),
            )
            .fallback(further)
            .with_state(self.clone())
    }
}

async fn healthz(State(admin): State<Admin>) -> Response {
    let late = admin.liveness.late();
    let status = if late.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(serde_json::json!({"alive": late.is_empty(), "late": late})),
    )
        .into_response()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let missing = admin.readiness.missing();
    let status = if missing.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(serde_json::json!({"ready": missing.is_empty(), "missing": missing})),
    )
        .into_response()
}

async fn further(State(admin): State<Admin>, request: Request) -> Response {
    let more = admin.more.load().as_ref().clone();
    more.oneshot(request)
        .await
        .unwrap_or_else(|never| match never {})
}
