//! The HTTP API: routes, and what stands in front of all of them. `docs/http-api.md` describes every one.

mod answer;
mod ask;
mod bans;
mod conversations;
mod cors;
mod guard;
mod members;
mod messages;
mod metrics;
mod people;
mod rooms;
mod server;
mod stream;

pub(crate) use answer::{Failure, message};
pub(crate) use ask::{Credentials, Params, Raw};
pub(crate) use cors::origin;
pub(super) use metrics::declare as declare_metrics;
pub(crate) use server::serve;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode};
use axum::routing::{delete, get, post, put};

use crate::call::Handle;

/// The HTTP API and other routes, with everything in front of them: limits, timeouts, metrics, errors in one shape.
fn router(handle: &Handle, others: Router<Handle>) -> Router {
    let limit = handle.core.options.http.max_request_bytes;
    let guard = Arc::new(guard::Guard::new(Arc::clone(&handle.core)));
    let native = Router::new()
        .route("/v1/me", get(people::me))
        .route("/v1/rooms", get(rooms::mine).post(rooms::create))
        .route("/v1/rooms/{room}", get(rooms::show).delete(rooms::delete))
        .route(
            "/v1/rooms/{room}/messages",
            get(messages::list).post(messages::send),
        )
        .route("/v1/rooms/{room}/signals", post(messages::signal))
        .route("/v1/rooms/{room}/read", put(messages::read))
        .route(
            "/v1/rooms/{room}/members",
            get(members::list).post(members::add),
        )
        .route("/v1/rooms/{room}/members/{user}", delete(members::remove))
        .route("/v1/rooms/{room}/join", post(members::join))
        .route("/v1/rooms/{room}/leave", post(members::leave))
        .route("/v1/invitations", get(members::invitations))
        .route("/v1/conversations", get(conversations::list))
        .route("/v1/unread", get(conversations::unread))
        .route("/v1/presence", get(people::presence))
        .route("/v1/users/{user}/push", post(people::push_user))
        .route(
            "/v1/users/{user}/devices/{device}/push",
            post(people::push_user_device),
        )
        .route("/v1/devices/{device}/push", post(people::push_device))
        .route("/v1/broadcast", post(people::broadcast))
        .route("/v1/kick", post(people::kick))
        .route(
            "/v1/bans",
            get(bans::list).post(bans::make).delete(bans::lift_about),
        )
        .route("/v1/bans/{id}", delete(bans::lift))
        .route("/v1/users/{user}/revoke", post(bans::revoke))
        .route("/v1/nodes", get(people::nodes))
        .merge(others)
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_method)
        .with_state(handle.clone());
    native
        .layer(DefaultBodyLimit::max(limit))
        .layer(axum::middleware::from_fn_with_state(guard, guard::guard))
        .layer(axum::middleware::from_fn_with_state(
            handle.clone(),
            cors::cors,
        ))
}

async fn no_such_route(method: Method, uri: axum::http::Uri) -> Failure {
    let text = format!("there is no {method} {}: see docs/http-api.md", uri.path());
    Failure::bad_request(StatusCode::NOT_FOUND, text)
}

async fn no_such_method(method: Method, uri: axum::http::Uri) -> Failure {
    let text = format!(
        "{} does not take {method}: see docs/http-api.md",
        uri.path()
    );
    Failure::bad_request(StatusCode::METHOD_NOT_ALLOWED, text)
}
