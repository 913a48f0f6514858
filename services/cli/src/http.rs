//! Plain HTTP requests: to the API and to admin addresses.

use std::time::Duration;

use hyper::header::{ACCEPT, AUTHORIZATION};
use hyper::{Method, Request};
use im_http::Limits;

pub use im_http::{Answer, segment};

use crate::failure::{Exit, Failure};

/// The largest answer that is read, in bytes.
const MAX_BODY: usize = 16 << 20;

/// `GET`; every status is an answer.
///
/// # Errors
/// As [`call`].
pub async fn get(url: &str, token: Option<&str>, within: Duration) -> Result<Answer, Failure> {
    call(Method::GET, url, token, String::new(), within).await
}

/// Makes a request; every status is an answer.
///
/// # Errors
/// The URL is wrong, or nothing answers within this time.
pub async fn call(
    method: Method,
    url: &str,
    token: Option<&str>,
    body: String,
    within: Duration,
) -> Result<Answer, Failure> {
    if !url.starts_with("http://") {
        let failure = Failure::usage(format!("{url:?} is not an address that can be asked"));
        return Err(failure.hint("write http://host:port; TLS is not spoken here"));
    }
    let mut request = Request::builder()
        .method(method)
        .uri(url)
        .header(ACCEPT, "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request
        .body(body.into())
        .map_err(|error| Failure::usage(format!("{url}: {error}")))?;
    im_http::send(
        request,
        Limits {
            timeout: within,
            max_body: MAX_BODY,
        },
    )
    .await
    .map_err(|error| {
        let failure = Failure::new(
            Exit::Unreachable,
            format!("cannot ask {url}: {}", root(&error)),
        );
        failure.hint("is the server running there? --http or IM_HTTP name another")
    })
}

/// The innermost reason: the others name only the step.
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
