//! What stands in front of every route: a bound on requests under way, a time limit, panics caught, everything counted.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::Instrument;

use super::{Failure, metrics};
use crate::error::Error;
use crate::service::{Core, Handle, Phase};

/// Runs the request, counted; while logic is leaving, clients are told not to keep their connection.
pub(super) async fn guard(State(handle): State<Handle>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let observed = metrics::Asked::begin(request.method(), route.clone());
    let mut response =
        run(&handle.core, route, request, next).await.unwrap_or_else(|error| Failure::from(error).into_response());
    if handle.core.phase() != Phase::Serving {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    observed.end(response.status());
    response
}

/// In a task of its own: it goes on to its end where the client does not wait for it (half a change of membership helps
/// nobody), and a panic ends nothing but it.
async fn run(core: &Arc<Core>, route: String, request: Request, next: Next) -> Result<Response, Error> {
    let place = Arc::clone(&core.http_places).try_acquire_owned().map_err(|_| {
        metrics::SHED.inc();
        Error::Overloaded
    })?;
    let span = tracing::debug_span!("http", method = %request.method(), route);
    let limit = core.options.http.request_timeout;
    let running = async move {
        let _place = place;
        tokio::time::timeout(limit, next.run(request)).await.map_err(|_| Error::Timeout(limit))
    };
    let ended = tokio::spawn(running.instrument(span)).await;
    ended.map_err(|_| Error::Internal("a request ended in a defect of ours"))?
}
