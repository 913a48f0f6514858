//! The HTTP API as an application's backend uses it: every request is retried, at any logic process, until it is answered.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use hyper::Method;
use serde_json::Value;

use crate::servers::ApiAddresses;

/// How long a request is retried. Longer than any fault lasts.
pub(super) const TIMEOUT: Duration = Duration::from_secs(420);
/// A user who asks for something may be refused as banned for this long after the ban is lifted: a process that cannot reach
/// the store goes by its last list of bans, for longer than the store is away in any fault.
const BAN_LIFTED_WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn request(
    apis: &ApiAddresses,
    method: Method,
    path: &str,
    token: &str,
    body: &Value,
) -> Result<Value> {
    let body = if method == Method::GET {
        Bytes::new()
    } else {
        Bytes::from(body.to_string())
    };
    let begun = Instant::now();
    loop {
        for address in apis.all() {
            match crate::http::call(method.clone(), &address, path, Some(token), body.clone()).await
            {
                Ok((200 | 201, answer)) => return Ok(serde_json::from_str(&answer)?),
                Ok((429 | 500..=599, _)) | Err(_) => {}
                Ok((403, answer))
                    if answer.contains("\"banned\"") && begun.elapsed() < BAN_LIFTED_WITHIN => {}
                Ok((status, answer)) => bail!("{method} {path}: {status}: {answer}"),
            }
        }
        ensure!(
            begun.elapsed() < TIMEOUT,
            "timed out after {TIMEOUT:?}: {method} {path}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
