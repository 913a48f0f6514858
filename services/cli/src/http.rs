//! Plain HTTP requests: to the API and to admin addresses.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use crate::failure::{Exit, Failure};

/// The longest answer that is read, in bytes.
const LONGEST: usize = 16 << 20;

/// An answer.
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub text: String,
}

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
    let mut request = Request::builder().method(method).uri(url).header(ACCEPT, "application/json");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    let request =
        request.body(Full::new(Bytes::from(body))).map_err(|error| Failure::usage(format!("{url}: {error}")))?;
    let unreachable = |reason: String| {
        let failure = Failure::new(Exit::Unreachable, format!("cannot ask {url}: {reason}"));
        failure.hint("is the server running there? --http or IM_HTTP name another")
    };
    let asking = async {
        let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.map_err(|error| unreachable(root(&error)))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LONGEST).collect().await;
        let body = body.map_err(|error| unreachable(error.to_string()))?.to_bytes();
        Ok(Answer { status, text: String::from_utf8_lossy(&body).into_owned() })
    };
    timeout(within, asking).await.map_err(|_| unreachable("no answer in time".to_owned()))?
}

/// The innermost reason: hyper's own words name only the step.
fn root(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Escapes one segment of a path.
pub fn segment(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_one_segment_of_a_path() {
        assert_eq!(segment("live://1000?"), "live%3A%2F%2F1000%3F");
        assert_eq!(segment("plain-1"), "plain-1");
        assert_eq!(segment("é"), "%C3%A9");
    }
}
