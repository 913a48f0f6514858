//! Tokens for the test's users.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;

use crate::cluster::SECRET;

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    scope: &'a str,
    rooms: &'a [&'a str],
}

/// Signs tokens as a company's backend would.
#[derive(Clone)]
pub struct Signer(EncodingKey);

impl Signer {
    /// With the secret that logic verifies by.
    pub fn new(secret: impl AsRef<[u8]>) -> Self {
        Self(EncodingKey::from_secret(secret.as_ref()))
    }

    /// A token of one day for `user`, who may enter the open rooms that `rooms` covers.
    pub fn token(&self, user: &str, scope: &str, rooms: &[&str]) -> Result<String> {
        let iat = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        Ok(encode(&Header::default(), &Claims { sub: user, iat, exp: iat + 86_400, scope, rooms }, &self.0)?)
    }
}

/// A token for the cluster on loopback: see [`Signer::token`].
pub fn token(user: &str, scope: &str, rooms: &[&str]) -> Result<String> {
    Signer::new(SECRET).token(user, scope, rooms)
}
