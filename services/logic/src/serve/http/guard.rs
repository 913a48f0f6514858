//! What stands in front of every route, in this order: a share of the client's address, the token, a share of the user's,
//! the body (bounded in bytes and time), a place among the requests under way. Then a time limit, panics caught, everything
//! counted.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use im_runtime::limits::address::{self, Network};
use im_runtime::limits::attempts::Attempts;
use im_runtime::limits::rate::{Buckets, Rate};
use im_runtime::limits::shares::{Share, Shares};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::ask::{Credentials, Params, Peer, bearer, compat_token};
use super::{Failure, metrics};
use crate::auth;
use crate::auth::grant::Grant;
use crate::auth::token::Claims;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::phase::Phase;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Tokens from an address whose tokens are refused again and again are not looked at for so long at most.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What bounds the requests of all connections together.
pub(super) struct Guard {
    core: Arc<Core>,
    /// Requests under way.
    requests: Arc<Semaphore>,
    /// Those of one address, until their answers have left.
    by_address: Arc<Shares<Network>>,
    /// Those of one user, until their answers have left.
    by_user: Arc<Shares<String>>,
    /// The bytes of their bodies.
    pending_bytes: Arc<Semaphore>,
    /// Requests of each user per second.
    user_rate: Buckets,
    /// Tokens of each address that were not accepted.
    attempts: Attempts,
}

impl Guard {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let options = &core.options.http;
        Self {
            requests: Arc::new(Semaphore::new(options.max_requests)),
            by_address: Shares::new(options.max_requests_per_ip),
            by_user: Shares::new(options.max_requests_per_user),
            pending_bytes: Arc::new(Semaphore::new(options.max_pending_bytes)),
            user_rate: Buckets::new(Rate::new(options.user_rate, options.user_burst)),
            attempts: Attempts::new(options.auth_failures, MAX_PAUSE),
            core,
        }
    }
}

/// What a request holds until its answer has left, besides its place.
#[derive(Debug, Clone)]
pub(super) struct Held {
    _address: Option<Arc<Share<Network>>>,
    _user: Option<Arc<Share<String>>>,
}

/// Runs the request, counted; while logic is leaving, clients are told not to keep their connection.
pub(super) async fn guard(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let label = route.clone().unwrap_or_else(|| "none".to_owned());
    let observed = metrics::Asked::begin(request.method(), label);
    let mut response = guard
        .run(route, request, next)
        .await
        .unwrap_or_else(Failure::into_response);
    if guard.core.phase() != Phase::Serving {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    observed.end(response.status());
    response
}

impl Guard {
    async fn run(
        &self,
        route: Option<String>,
        request: Request,
        next: Next,
    ) -> std::result::Result<Response, Failure> {
        let (mut parts, body) = request.into_parts();
        let peer = parts
            .extensions
            .get::<Peer>()
            .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0);
        let forwarded_for: Vec<&[u8]> = parts
            .headers
            .get_all(FORWARDED_FOR)
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let client = address::client(
            peer,
            forwarded_for.into_iter(),
            &self.core.options.http.forwarded_from,
        )
        .map_err(|malformed| {
            Failure::bad_request(StatusCode::BAD_REQUEST, malformed.to_string())
        })?;
        parts.extensions.insert(Peer(client));
        let network = Network::from(client);
        let share = self.by_address.take(network).ok_or_else(too_many)?;
        let mut held = Held {
            _address: Some(Arc::new(share)),
            _user: None,
        };
        let Some(route) = route else {
            // There is nothing here whatever the body says, and whoever asks.
            return Ok(next.run(Request::from_parts(parts, Body::empty())).await);
        };
        // Nobody is served before it is known who is banned, and no address that is.
        self.core.bans.loaded().await?;
        let credentials = self.credentials(network, &route, &parts);
        if !credentials.as_ref().is_ok_and(|who| who.admin) {
            self.core.bans.refuse_address(client)?;
        }
        let mut bytes = Bytes::new();
        let mut pending = None;
        if let Ok(who) = &credentials {
            if !who.admin {
                held._user = Some(Arc::new(
                    self.by_user.take(who.user.clone()).ok_or_else(too_many)?,
                ));
            }
            (bytes, pending) = self.gather(&parts, body).await?;
        }
        parts.extensions.insert(Credentials(credentials));
        let place = Arc::clone(&self.requests)
            .try_acquire_owned()
            .map_err(|_| {
                metrics::SHED.inc();
                Error::Overloaded
            })?;
        // A look ends with whoever looks. A change goes on to its end where the client does not wait for it: half a change of
        // membership helps nobody.
        let safe = parts.method == Method::GET || parts.method == Method::HEAD;
        let span = tracing::debug_span!("http", method = %parts.method, route);
        let limit = self.core.options.http.request_timeout;
        let request = Request::from_parts(parts, Body::from(bytes));
        let running = async move {
            let _place = (place, pending);
            tokio::time::timeout(limit, next.run(request))
                .await
                .map_err(|_| Error::Timeout(limit))
        };
        // In a task of its own: a panic ends nothing but it.
        let task = tokio::spawn(running.instrument(span));
        let ended = if safe {
            AbortOnDropHandle::new(task).await
        } else {
            task.await
        };
        let mut response =
            ended.map_err(|_| Error::Internal("a request ended in a defect of ours"))??;
        response.extensions_mut().insert(held);
        Ok(response)
    }

    /// Whom the request's token stands for, within the user's rate. Looked at before the body is.
    fn credentials(&self, network: Network, route: &str, parts: &Parts) -> Result<Grant> {
        let query;
        let mut token = bearer(&parts.headers);
        let mut in_query = false;
        if token.is_empty() && !route.starts_with("/v1/") {
            query = Params::parse(parts.uri.query().unwrap_or_default().as_bytes());
            (token, in_query) = compat_token(&parts.headers, &query);
        }
        if !token.is_empty() {
            self.attempts.admit(network, token).map_err(|wait| {
                metrics::ATTEMPTS_REFUSED.inc();
                Error::RateLimited(wait)
            })?;
        }
        let claims = self.core.verify(token).inspect_err(|error| {
            // No token costs nothing, and no keys is our own fault.
            let counts = !token.is_empty() && *error != Error::Auth(auth::Error::NoKeysYet);
            if counts && !self.attempts.failed(network).is_zero() {
                metrics::PAUSES.inc();
                tracing::debug!(%network, %error, "too many refused tokens from this address, pausing");
            }
        })?;
        self.attempts.succeeded(token);
        if claims.admin && in_query {
            return Err(Error::Forbidden(
                "a token with the scope \"admin\" stands in no address, which logs keep: send it in a header, \
                 Authorization: Bearer …",
            ));
        }
        self.caller(claims)
    }

    /// The grant of an accepted token, within its user's rate.
    fn caller(&self, claims: Claims) -> Result<Grant> {
        if !claims.admin {
            self.user_rate.take(claims.user.as_str()).map_err(|wait| {
                metrics::RATE_LIMITED.inc();
                Error::RateLimited(wait)
            })?;
        }
        let device = claims
            .device
            .as_ref()
            .map(|device| device.as_str().to_owned())
            .unwrap_or_default();
        let grant = claims.grant_for(device);
        self.core.bans.refuse(&grant, None)?;
        Ok(grant)
    }

    /// Reads the body, and says what is held while it is there.
    async fn gather(
        &self,
        parts: &Parts,
        mut body: Body,
    ) -> std::result::Result<(Bytes, Option<OwnedSemaphorePermit>), Failure> {
        let limit = self.core.options.http.max_request_bytes;
        let announced = parts
            .headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        if let Some(bytes) = announced.filter(|bytes| *bytes > limit) {
            return Err(Error::TooLarge {
                field: "",
                bytes,
                limit,
            }
            .into());
        }
        let reading = async {
            let mut whole = BytesMut::new();
            let mut held: Option<OwnedSemaphorePermit> = None;
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| {
                    let text = format!("the request's body cannot be read: {error}");
                    Failure::bad_request(StatusCode::BAD_REQUEST, text)
                })?;
                let Ok(data) = frame.into_data() else {
                    continue;
                };
                if whole.len() + data.len() > limit {
                    return Err(Failure::from(Error::TooLarge {
                        field: "",
                        bytes: limit + 1,
                        limit,
                    }));
                }
                let permits = u32::try_from(data.len()).unwrap_or(u32::MAX);
                let more = Arc::clone(&self.pending_bytes)
                    .try_acquire_many_owned(permits)
                    .map_err(|_| {
                        metrics::SHED.inc();
                        Error::Overloaded
                    })?;
                match &mut held {
                    Some(held) => held.merge(more),
                    None => held = Some(more),
                }
                whole.extend_from_slice(&data);
            }
            Ok((whole.freeze(), held))
        };
        let limit = self.core.options.http.body_timeout;
        tokio::time::timeout(limit, reading)
            .await
            .unwrap_or_else(|_| {
                let text = format!(
                    "the request's body did not come within {} ms",
                    limit.as_millis()
                );
                Err(Failure::bad_request(StatusCode::REQUEST_TIMEOUT, text))
            })
    }
}

fn too_many() -> Error {
    metrics::SHARES_REFUSED.inc();
    Error::Crowded
}
