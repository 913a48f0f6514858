//! Who is believed: a signed token becomes a [`grant::Grant`], which every later call carries. Checking asks nobody: the
//! keys are there from the start, or [`jwks`] fetches them in the background.

pub(crate) mod agreement;
pub mod grant;
mod identify;
pub mod jwks;
pub mod key;
pub(crate) mod metrics;
pub mod pattern;
pub mod seal;
pub mod token;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Who is believed.
#[derive(Debug, Clone)]
pub struct Options {
    /// Secrets of HS256 tokens; several while one replaces another. 32 random bytes or more each.
    pub hs256_secrets: Vec<Secret>,
    /// Files with public keys in PEM (ES256: P-256, EdDSA: Ed25519, RS256: RSA), one or several per file. A key's kind
    /// alone says which algorithm it may check.
    pub public_key_files: Vec<PathBuf>,
    /// Where the public keys of tokens are fetched from, as a JSON Web Key Set (RFC 7517): `https://…`, or `http://…` inside
    /// a network that is trusted; empty: nowhere.
    pub jwks_url: String,
    /// How often they are fetched again. A token that names an unknown key has them fetched sooner.
    pub jwks_refresh: Duration,
    /// The `iss` that a token must carry; empty: any or none.
    pub issuer: String,
    /// The `aud` that a token must carry; empty: a token must carry none.
    pub audience: String,
    /// How far the clock of who signs may be from this one's, for `exp` and `nbf`.
    pub leeway: Duration,
    /// Whether a token without `exp` is accepted: it is valid for ever.
    pub allow_no_expiry: bool,
    /// Believe what clients without a token say of themselves. For development only: anybody is anybody.
    pub allow_unsigned: bool,
    /// What the ids of guests begin with, whose tokens have the scope guest: nobody makes them members of groups. Empty:
    /// there are none.
    pub guest_prefix: String,
    /// The open rooms that an unsigned identity may enter.
    pub unsigned_rooms: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            hs256_secrets: Vec::new(),
            public_key_files: Vec::new(),
            jwks_url: String::new(),
            jwks_refresh: Duration::from_secs(300),
            issuer: String::new(),
            audience: String::new(),
            leeway: Duration::from_secs(5),
            allow_no_expiry: false,
            allow_unsigned: false,
            guest_prefix: String::new(),
            unsigned_rooms: vec!["*".to_owned()],
        }
    }
}

/// Text that no log shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps it.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why somebody is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No token where one is needed.
    #[error("there is no token: give one signed by your backend")]
    Missing,
    /// Not three base64url parts with JSON in them.
    #[error("the token is not a JWT: {0}")]
    Malformed(&'static str),
    /// The signature is not one of the configured keys'.
    #[error("the token's signature is not by a key that is accepted here")]
    Forged,
    /// Signed by an algorithm for which no key is configured, `none` among them.
    #[error("tokens of algorithm {0:?} are not accepted here")]
    WrongAlgorithm(String),
    /// Signed by a key that the key set does not have (any more, or yet).
    #[error("the token is signed by a key that is not known here")]
    UnknownKey,
    /// The key set has not been fetched yet.
    #[error("the keys of tokens have not been fetched yet: retry soon")]
    NoKeysYet,
    /// `exp` has passed.
    #[error("the token has expired: get a new one")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// A claim is missing or of the wrong kind.
    #[error("the token's claim {0:?} is missing or not what is wanted here")]
    BadClaim(String),
    /// The token is for another device than the client names.
    #[error("the token is for another device")]
    OtherDevice,
    /// A newer token must be for the same user.
    #[error("the token is for another user than the connection's")]
    OtherUser,
    /// User, device or address is banned.
    #[error("{what} is banned here{}", until(*until_ms))]
    Banned {
        /// Which of the three.
        what: &'static str,
        /// Until when, unix milliseconds; 0: for ever.
        until_ms: u64,
    },
    /// The user's tokens of that time are no longer good.
    #[error(
        "the token was issued before the user's tokens were revoked, or does not say when (`iat`): get a new one"
    )]
    Revoked,
    /// The call carries no grant, or one that cannot be read.
    #[error("the connection is not authenticated")]
    NoGrant,
}

impl Error {
    /// The name in metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed(_) => "malformed",
            Self::Forged => "forged",
            Self::WrongAlgorithm(_) => "wrong_algorithm",
            Self::UnknownKey => "unknown_key",
            Self::NoKeysYet => "no_keys_yet",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::BadClaim(_) => "bad_claim",
            Self::OtherDevice => "other_device",
            Self::OtherUser => "other_user",
            Self::Banned { .. } => "banned",
            Self::Revoked => "revoked",
            Self::NoGrant => "no_grant",
        }
    }

    /// The field of the request that is at fault.
    pub fn field(&self) -> &'static str {
        match self {
            Self::OtherDevice => "device",
            Self::NoGrant | Self::NoKeysYet | Self::Banned { .. } => "",
            _ => "token",
        }
    }
}

fn until(ms: u64) -> String {
    if ms == 0 {
        String::new()
    } else {
        format!(" until {ms} (unix milliseconds)")
    }
}
