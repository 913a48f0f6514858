//! The page's server: the files of `services/web`, what they need to know, and tokens for guests.

mod files;
mod guest;
mod host;
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

pub(crate) use server::serve;

/// What the page is served with.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// Where.
    pub(crate) listen: SocketAddr,
    /// The WebSocket address that browsers dial; `None`: the page's own host and the port of the WebSocket listener.
    pub(crate) ws_url: Option<String>,
    /// The room that the page proposes.
    pub(crate) room: String,
    /// Whether browsers on this machine get tokens without having any.
    pub(crate) guests: bool,
    /// Which open rooms such a token covers.
    pub(crate) guest_rooms: Vec<String>,
    /// How long such a token is valid; the page gets a new one by itself.
    pub(crate) guest_ttl: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 1999)),
            ws_url: None,
            room: "lobby".to_owned(),
            guests: true,
            guest_rooms: vec!["*".to_owned()],
            guest_ttl: Duration::from_secs(600),
        }
    }
}

/// What every request's answer may need.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) options: Options,
    /// The port that the WebSocket listener has.
    pub(crate) ws_port: u16,
    /// Signs for guests; `None`: there is no secret to sign with, only public keys.
    pub(crate) signer: Option<guest::Signer>,
}

pub(crate) use guest::{PREFIX as GUEST_PREFIX, Signer};

impl Page {
    fn guests(&self) -> bool {
        self.options.guests && self.signer.is_some()
    }

    fn ws_origin(&self, host: &str) -> String {
        self.options
            .ws_url
            .clone()
            .unwrap_or_else(|| format!("ws://{host}:{}", self.ws_port))
    }
}

/// The page's routes. Requests must carry the extension [`SocketAddr`]: who asks.
pub(crate) fn router(page: Arc<Page>) -> Router {
    Router::new()
        .route("/config.json", get(config))
        .route("/guest", post(guest::mint))
        .fallback(get(files::serve))
        .layer(from_fn_with_state(Arc::clone(&page), guard))
        .with_state(page)
}

async fn config(State(page): State<Arc<Page>>) -> Response {
    let Options { ws_url, room, .. } = &page.options;
    let known =
        json!({"ws_url": ws_url, "ws_port": page.ws_port, "room": room, "guests": page.guests()});
    ([(header::CACHE_CONTROL, "no-store")], Json(known)).into_response()
}

/// An answer that says what is wrong, shaped like those of the HTTP API.
fn refusal(status: StatusCode, code: &str, text: &str, field: Option<&str>) -> Response {
    let mut error = json!({"code": code, "text": text, "retryable": false});
    if let Some(field) = field {
        error["field"] = field.into();
    }
    (
        status,
        [(header::CACHE_CONTROL, "no-store")],
        Json(json!({"error": error})),
    )
        .into_response()
}

/// What holds for every answer: nothing but the page's own files runs, and nobody frames, sniffs or follows it.
async fn guard(State(page): State<Arc<Page>>, request: Request, next: Next) -> Response {
    let Some(host) = host::of(request.headers()) else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "bad_request",
            "the Host header is missing or not a host",
            Some("host"),
        );
    };
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self' {}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        page.ws_origin(&host.name)
    );
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), microphone=(), geolocation=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
