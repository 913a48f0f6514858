//! Tokens for the test's users.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;

use crate::cluster::SECRET;

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    exp: u64,
    scope: &'a str,
    rooms: &'a [&'a str],
}

/// A token of one day for `user`, who may enter the open rooms that `rooms` covers.
pub fn token(user: &str, scope: &str, rooms: &[&str]) -> Result<String> {
    let exp = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 86_400;
    let claims = Claims { sub: user, exp, scope, rooms };
    Ok(encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))?)
}
