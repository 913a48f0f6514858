//! Signed tokens for the users of the tests.

use anyhow::Result;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Serialize;

use im_runtime::clock;

/// The secret that signs tokens for servers on loopback.
pub const SECRET: &str = "end-to-end secret, at least thirty-two bytes";

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
    scope: &'a str,
    rooms: &'a [&'a str],
}

/// Signs tokens as an application's backend would.
#[derive(Clone)]
pub struct Signer(EncodingKey);

impl Signer {
    /// Signs with the secret that logic verifies with.
    pub fn new(secret: impl AsRef<[u8]>) -> Self {
        Self(EncodingKey::from_secret(secret.as_ref()))
    }

    /// A token for `user`, valid for a day, for the open rooms that `rooms` matches.
    pub fn token(&self, user: &str, scope: &str, rooms: &[&str]) -> Result<String> {
        let iat = clock::unix().as_secs();
        Ok(encode(
            &Header::default(),
            &Claims {
                sub: user,
                iat,
                exp: iat + 86_400,
                scope,
                rooms,
            },
            &self.0,
        )?)
    }
}

/// A token for servers on loopback: see [`Signer::token`].
pub fn token(user: &str, scope: &str, rooms: &[&str]) -> Result<String> {
    Signer::new(SECRET).token(user, scope, rooms)
}
