//! What the API answers: errors in one shape, messages as the native dialect's JSON shows them.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use im_proto::v1::{Encoding, LogEntry};
use im_wire::code::ErrorCode;
use im_wire::ids::{Epoch, RoomId};
use im_wire::native::{Body, Message};

use crate::error::{Error, http_status};

/// A request that was not carried out: `{"error": {"code", "text", "retryable", "field"?}}`.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    code: ErrorCode,
    text: String,
    field: String,
    retry_after: Option<Duration>,
}

impl Failure {
    /// `bad_request` with another status than 400, where HTTP has a better one.
    pub(crate) fn bad_request(status: StatusCode, text: String) -> Self {
        Self {
            status,
            code: ErrorCode::BadRequest,
            text,
            field: String::new(),
            retry_after: None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = error.code();
        if error.is_a_defect() {
            tracing::error!(%error, "a request failed");
        }
        let busy = (http_status(code) == 503).then_some(Duration::from_secs(1));
        let retry_after = error.wait().or(busy);
        Self {
            status: StatusCode::from_u16(http_status(code))
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            code,
            text: error.shown(),
            field: error.field().to_owned(),
            retry_after,
        }
    }
}

impl From<crate::auth::Error> for Failure {
    fn from(error: crate::auth::Error) -> Self {
        Error::from(error).into()
    }
}

impl From<im_wire::ids::BadId> for Failure {
    fn from(bad: im_wire::ids::BadId) -> Self {
        Error::from(bad).into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut error = serde_json::json!({
            "code": self.code.name(),
            "text": self.text,
            "retryable": self.code.retryable(),
        });
        if !self.field.is_empty() {
            error["field"] = self.field.into();
        }
        let mut response =
            (self.status, Json(serde_json::json!({ "error": error }))).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::REQUEST_TIMEOUT
            || self.status == StatusCode::PAYLOAD_TOO_LARGE
        {
            // The rest of the body may still come.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(wait.as_secs_f64().ceil().max(1.0) as u64),
            );
        }
        response
    }
}

/// An entry of a room's log as clients are shown it.
pub(crate) fn message(room: &RoomId, epoch: Epoch, logged: LogEntry) -> Message {
    let entry = logged.entry.unwrap_or_default();
    let body = match Encoding::try_from(entry.encoding) {
        Ok(Encoding::Text) => Body::Text(entry.body),
        Ok(Encoding::Json) => Body::Json(entry.body),
        _ => Body::Binary(entry.body),
    };
    Message {
        room: room.clone(),
        epoch,
        seq: logged.seq,
        id: entry.id,
        from: entry.from,
        client_id: entry.client_id,
        kind: entry.r#type,
        body,
        time_ms: entry.time_ms,
    }
}
