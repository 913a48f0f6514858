//! The admin port: `/healthz`, `/readyz`, `/metrics`, and what a program adds. Needs no credential, so it tells no secret.

mod liveness;
mod readiness;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

pub use liveness::{Liveness, Pulse};
pub use readiness::{Latch, Readiness};

use crate::limits::address::Network;
use crate::limits::shares::Shares;
use crate::{Tasks, metrics};

/// Connections served at a time; more wait.
const MAX_CONNECTIONS: usize = 256;
/// Connections of one address served at a time; more are closed at once. Prometheus and a node's kubelet have one or two:
/// whoever else reaches the port must not take the places of their probes.
const MAX_PER_ADDRESS: usize = 16;
/// How long a request's head may take.
const PATIENCE: Duration = Duration::from_secs(5);
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
        tasks.spawn("admin server", accept(listener, admin.router()));
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
        self.more.rcu(|more| more.as_ref().clone().merge(routes.clone()));
    }

    /// Serves what `answer` says as JSON under a further path from now on.
    pub fn add_json(&self, path: &str, answer: impl Fn() -> serde_json::Value + Clone + Send + Sync + 'static) {
        self.add(Router::new().route(path, get(async move || Json(answer()))));
    }

    fn router(&self) -> Router {
        Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(async || ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::text())))
            .fallback(further)
            .with_state(self.clone())
    }
}

async fn healthz(State(admin): State<Admin>) -> Response {
    let late = admin.liveness.late();
    let status = if late.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({"alive": late.is_empty(), "late": late}))).into_response()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let missing = admin.readiness.missing();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(serde_json::json!({"ready": missing.is_empty(), "missing": missing}))).into_response()
}

async fn further(State(admin): State<Admin>, request: Request) -> Response {
    let more = admin.more.load().as_ref().clone();
    more.oneshot(request).await.unwrap_or_else(|never| match never {})
}

async fn accept(listener: TcpListener, router: Router) -> Result<(), std::io::Error> {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let shares = Shares::new(MAX_PER_ADDRESS);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(share) = shares.take(Network::from(peer.ip())) else {
                    tracing::debug!(%peer, "too many connections of one address to the admin server");
                    continue;
                };
                let router = router.clone();
                tokio::spawn(async move {
                    serve(stream, router).await;
                    drop((place, share));
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: others must end first.
                tracing::warn!(%error, "the admin server cannot accept");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, router: Router) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(64 * 1024);
    let served = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Ok(Err(error)) = tokio::time::timeout(LIFE, served).await {
        tracing::debug!(%error, "an admin connection broke");
    }
}
