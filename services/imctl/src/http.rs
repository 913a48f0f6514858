//! Plain HTTP: the API and the admin addresses.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

use crate::args::ConnectArgs;
use crate::failure::{Exit, Failure};
use crate::session::Credentials;

/// The port of the HTTP API.
const API_PORT: u16 = 3111;
/// The longest answer that is read, in bytes.
const LONGEST: usize = 16 << 20;

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

/// The URL of the HTTP API: as given, or beside the first address.
pub(crate) fn api(args: &ConnectArgs) -> Result<String, Failure> {
    if let Some(url) = &args.http {
        return Ok(url.trim_end_matches('/').to_owned());
    }
    let address = args.address.first().map(String::as_str).unwrap_or_default();
    let authority = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let host = match authority.rfind(']') {
        Some(end) => &authority[..=end],
        None => authority.split(':').next().unwrap_or_default(),
    };
    if host.is_empty() {
        return Err(Failure::usage(format!("address {address:?} names no host: give --http")));
    }
    Ok(format!("http://{host}:{API_PORT}"))
}

/// Asks; every status is an answer.
pub(crate) async fn get(url: &str, token: Option<&str>, within: Duration) -> Result<Answer, Failure> {
    call(Method::GET, url, token, String::new(), within).await
}

async fn call(
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

/// Asks the API, as the user.
pub(crate) async fn ask(args: &ConnectArgs, credentials: &Credentials, path: &str) -> Result<Value, Failure> {
    send(args, credentials, Method::GET, path, None).await
}

/// Asks the API to do something, as the user.
pub(crate) async fn send(
    args: &ConnectArgs,
    credentials: &Credentials,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> Result<Value, Failure> {
    let token = credentials.token().map_err(Failure::usage)?;
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let answer = call(method, &format!("{}{path}", api(args)?), Some(&token), body, args.timeout).await?;
    let value = serde_json::from_str(&answer.text).unwrap_or(Value::Null);
    if answer.status.is_success() {
        return Ok(value);
    }
    let text = said(&value).unwrap_or_else(|| format!("the server answered {path} with {}", answer.status));
    let failure = Failure::new(Exit::Refused, text);
    Err(match answer.status {
        StatusCode::UNAUTHORIZED => failure.hint("the token must be signed with the server's secret or key"),
        StatusCode::FORBIDDEN => failure.hint("the token lacks the right: `imctl token --admin` gives it"),
        StatusCode::NOT_FOUND => failure.hint("is this the address of the HTTP API (port 3111)? --http names another"),
        _ => failure,
    })
}

/// The API's own words for an error.
fn said(value: &Value) -> Option<String> {
    let error = value.get("error").unwrap_or(value);
    let code = error.get("code")?.as_str()?;
    let text = error.get("text").or_else(|| error.get("message"))?.as_str()?;
    Some(format!("the server says {code}: {text}"))
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
pub(crate) fn segment(text: &str) -> String {
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

    #[test]
    fn errors_of_the_api_are_told_in_its_words() {
        let said_by = |text: &str| said(&serde_json::from_str(text).unwrap());
        assert_eq!(said_by(r#"{"error":{"code":"forbidden","text":"no"}}"#).unwrap(), "the server says forbidden: no");
        assert_eq!(said_by(r#"{"code":"forbidden","text":"no"}"#).unwrap(), "the server says forbidden: no");
        assert_eq!(said_by(r#"{"code":-400}"#), None);
    }
}
