//! The HTTP API, asked as the user.

use hyper::{Method, StatusCode};
use im_cli::failure::{Exit, Failure};
use im_cli::http;
use serde_json::Value;

use crate::args::ConnectArgs;
use crate::session::Credentials;

/// The port of the HTTP API.
const PORT: u16 = 3111;

/// The URL of the HTTP API: as given, or beside the first address.
fn base(args: &ConnectArgs) -> Result<String, Failure> {
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
        return Err(Failure::usage(format!(
            "address {address:?} names no host: give --http"
        )));
    }
    Ok(format!("http://{host}:{PORT}"))
}

/// Asks the API, as the user.
pub(crate) async fn ask(
    args: &ConnectArgs,
    credentials: &Credentials,
    path: &str,
) -> Result<Value, Failure> {
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
    let answer = http::call(
        method,
        &format!("{}{path}", base(args)?),
        Some(&token),
        body,
        args.timeout,
    )
    .await?;
    let value = serde_json::from_str(&answer.text()).unwrap_or(Value::Null);
    if answer.status.is_success() {
        return Ok(value);
    }
    let text = said(&value)
        .unwrap_or_else(|| format!("the server answered {path} with {}", answer.status));
    let failure = Failure::new(Exit::Refused, text);
    Err(match answer.status {
        StatusCode::UNAUTHORIZED => {
            failure.hint("the token must be signed with the server's secret or key")
        }
        StatusCode::FORBIDDEN => {
            failure.hint("the token lacks the right: `imctl token --admin` gives it")
        }
        StatusCode::NOT_FOUND => {
            failure.hint("is this the address of the HTTP API (port 3111)? --http names another")
        }
        _ => failure,
    })
}

/// The API's own words for an error.
fn said(value: &Value) -> Option<String> {
    let error = value.get("error").unwrap_or(value);
    let code = error.get("code")?.as_str()?;
    let text = error
        .get("text")
        .or_else(|| error.get("message"))?
        .as_str()?;
    Some(format!("the server says {code}: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_api_are_told_in_its_words() {
        let said_by = |text: &str| said(&serde_json::from_str(text).unwrap());
        assert_eq!(
            said_by(r#"{"error":{"code":"forbidden","text":"no"}}"#).unwrap(),
            "the server says forbidden: no"
        );
        assert_eq!(
            said_by(r#"{"code":"forbidden","text":"no"}"#).unwrap(),
            "the server says forbidden: no"
        );
        assert_eq!(said_by(r#"{"code":-400}"#), None);
    }
}
