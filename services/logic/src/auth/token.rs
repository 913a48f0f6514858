//! Checks tokens: JWTs signed with one of the configured keys.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use im_wire::ids::{DeviceId, UserId};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, TokenData, Validation, decode};
use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::grant::Grant;
use super::key::{self, Key};
use super::{Error, Options};

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 8 * 1024;
/// Patterns in the claim `rooms` at most.
pub const MAX_PATTERNS: usize = 100;
/// The longest of them, in bytes.
pub const MAX_PATTERN: usize = 256;
/// What a key set's keys may sign with; never a shared secret.
const FETCHED: [Algorithm; 3] = [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256];
/// The scope that may do everything.
pub const ADMIN: &str = "admin";
/// The scope that may use open rooms only.
pub const GUEST: &str = "guest";

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `sub`.
    pub user: UserId,
    /// `dev`: the one device that may use it.
    pub device: Option<DeviceId>,
    /// `exp` in unix milliseconds; 0: never.
    pub expires_ms: u64,
    /// `iat` in unix milliseconds; 0: it does not say.
    pub issued_ms: u64,
    /// Whether `scope` (words in a string, or an array of them) has `admin`.
    pub admin: bool,
    /// `rooms`: patterns of the open rooms that the user may enter.
    pub rooms: Vec<String>,
    /// Whether `scope` has `guest`: open rooms and nothing else.
    pub guest: bool,
}

impl Claims {
    /// What later calls carry.
    pub fn grant(self, device: &DeviceId) -> Grant {
        self.grant_for(device.as_str().to_owned())
    }

    /// The same; an empty `device` is none.
    pub(crate) fn grant_for(self, device: String) -> Grant {
        Grant {
            device_unproven: self.device.is_none(),
            version: Grant::VERSION,
            user: self.user.as_str().to_owned(),
            device,
            admin: self.admin,
            rooms: self.rooms,
            expires_ms: self.expires_ms,
            unsigned: false,
            guest: self.guest && !self.admin,
            issued_ms: self.issued_ms,
        }
    }
}

/// Checks tokens. The keys of a key set come and go; all others are there from the start.
pub struct Verifier {
    fixed: Vec<Checking>,
    fetched: Option<KeySet>,
    options: Options,
}

/// A key, and what is asked of the tokens that it signs.
struct Checking {
    /// The name that a key set gives it.
    id: Option<String>,
    key: Key,
    validation: Validation,
}

impl Checking {
    fn new(id: Option<String>, key: Key, options: &Options) -> Self {
        let validation = validation(key.algorithm, options);
        Self {
            id,
            key,
            validation,
        }
    }

    fn check(&self, token: &str) -> Outcome {
        decode(token, &self.key.key, &self.validation).map_err(refused)
    }
}

/// The keys that were fetched last; `None` before the first time.
#[derive(Default)]
struct KeySet {
    keys: ArcSwapOption<Vec<Checking>>,
    wanted: Notify,
}

impl Verifier {
    /// Reads the keys.
    ///
    /// # Errors
    /// A key that cannot be used, or none at all (unless unsigned identities are allowed).
    pub fn new(options: &Options) -> Result<Self, key::Error> {
        let mut keys = Vec::new();
        for secret in &options.hs256_secrets {
            keys.push(Key::secret(secret.expose())?);
        }
        for path in &options.public_key_files {
            keys.extend(key::read(path)?);
        }
        let fetched = (!options.jwks_url.is_empty()).then(KeySet::default);
        if keys.is_empty() && fetched.is_none() && !options.allow_unsigned {
            return Err(key::Error::None);
        }
        let fixed = keys
            .into_iter()
            .map(|key| Checking::new(None, key, options))
            .collect();
        Ok(Self {
            fixed,
            fetched,
            options: options.clone(),
        })
    }

    /// What the token says, if it is to be believed now.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(&self, token: &str) -> Result<Claims, Error> {
        let Named { algorithm, key: id } = named(token)?;
        let of_algorithm = |one: &&Checking| name(one.key.algorithm) == algorithm;
        let mut outcome = Err(Error::WrongAlgorithm(algorithm.chars().take(16).collect()));
        for one in self.fixed.iter().filter(of_algorithm) {
            outcome = one.check(token);
            if !matches!(outcome, Err(Error::Forged)) {
                break;
            }
        }
        if let (Err(Error::Forged | Error::WrongAlgorithm(_)), Some(set)) =
            (&outcome, &self.fetched)
        {
            outcome = set.check(token, &algorithm, id.as_deref(), outcome);
        }
        claims(&outcome?)
    }

    /// Takes the keys of a key set, in place of those before.
    pub(crate) fn replace(&self, keys: Vec<(Option<String>, Key)>) {
        let Some(set) = &self.fetched else { return };
        let keys = keys
            .into_iter()
            .map(|(id, key)| Checking::new(id, key, &self.options))
            .collect();
        set.keys.store(Some(Arc::new(keys)));
    }

    /// Waits until a token has named a key that the key set does not have.
    pub(crate) async fn wanted(&self) {
        match &self.fetched {
            Some(set) => set.wanted.notified().await,
            None => std::future::pending().await,
        }
    }
}

type Outcome = Result<TokenData<Map<String, Value>>, Error>;

impl KeySet {
    /// Checks a token that no fixed key has signed.
    fn check(&self, token: &str, algorithm: &str, id: Option<&str>, otherwise: Outcome) -> Outcome {
        if !FETCHED.iter().any(|fetched| name(*fetched) == algorithm) {
            return otherwise;
        }
        let Some(keys) = self.keys.load_full() else {
            return Err(Error::NoKeysYet);
        };
        let fits = |one: &&Checking| {
            name(one.key.algorithm) == algorithm
                && (id.is_none() || one.id.is_none() || one.id.as_deref() == id)
        };
        let mut outcome = Err(Error::UnknownKey);
        for one in keys.iter().filter(fits) {
            outcome = one.check(token);
            if !matches!(outcome, Err(Error::Forged)) {
                break;
            }
        }
        if matches!(outcome, Err(Error::UnknownKey)) {
            self.wanted.notify_one();
        }
        outcome
    }
}

fn validation(algorithm: Algorithm, options: &Options) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = options.leeway.as_secs();
    validation.validate_nbf = true;
    // A claim that is only validated where it is present would be passed by leaving it out.
    let mut required = vec!["sub"];
    if !options.allow_no_expiry {
        required.push("exp");
    }
    if !options.issuer.is_empty() {
        validation.set_issuer(&[&options.issuer]);
        required.push("iss");
    }
    if !options.audience.is_empty() {
        validation.set_audience(&[&options.audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

/// What the header names, not yet believed.
struct Named {
    algorithm: String,
    key: Option<String>,
}

fn named(token: &str) -> Result<Named, Error> {
    if token.is_empty() {
        return Err(Error::Missing);
    }
    if token.len() > MAX_TOKEN {
        return Err(Error::Malformed("it is too long"));
    }
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Error::Malformed("it has not three parts"));
    };
    let header = URL_SAFE_NO_PAD
        .decode(header)
        .map_err(|_| Error::Malformed("its header is not base64url"))?;
    let Ok(Value::Object(header)) = serde_json::from_slice(&header) else {
        return Err(Error::Malformed("its header is not a JSON object"));
    };
    // RFC 7515, 4.1.11: who does not know an extension named here must refuse the token. None is known here.
    if header.contains_key("crit") {
        return Err(Error::Malformed("its header has \"crit\""));
    }
    let text = |name: &str| header.get(name).and_then(Value::as_str).map(str::to_owned);
    let algorithm = text("alg").ok_or(Error::Malformed("its header names no algorithm"))?;
    Ok(Named {
        algorithm,
        key: text("kid"),
    })
}

fn name(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::HS256 => "HS256",
        Algorithm::ES256 => "ES256",
        Algorithm::RS256 => "RS256",
        Algorithm::EdDSA => "EdDSA",
        _ => "",
    }
}

fn refused(error: jsonwebtoken::errors::Error) -> Error {
    match error.into_kind() {
        ErrorKind::InvalidSignature => Error::Forged,
        ErrorKind::ExpiredSignature => Error::Expired,
        ErrorKind::ImmatureSignature => Error::NotYetValid,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            Error::BadClaim(claim)
        }
        ErrorKind::InvalidIssuer => Error::BadClaim("iss".to_owned()),
        ErrorKind::InvalidAudience => Error::BadClaim("aud".to_owned()),
        ErrorKind::InvalidSubject => Error::BadClaim("sub".to_owned()),
        ErrorKind::Base64(_) => Error::Malformed("a part is not base64url"),
        ErrorKind::Json(_) | ErrorKind::Utf8(_) => {
            Error::Malformed("its claims are not a JSON object")
        }
        _ => Error::Malformed("it cannot be read"),
    }
}

fn claims(token: &TokenData<Map<String, Value>>) -> Result<Claims, Error> {
    let claims = &token.claims;
    let bad = |claim: &str| Error::BadClaim(claim.to_owned());
    let user = claims
        .get("sub")
        .and_then(Value::as_str)
        .ok_or_else(|| bad("sub"))?;
    let device = match claims.get("dev") {
        None | Some(Value::Null) => None,
        Some(Value::String(device)) => Some(DeviceId::new(device).map_err(|_| bad("dev"))?),
        Some(_) => return Err(bad("dev")),
    };
    let scope = words(claims.get("scope")).ok_or_else(|| bad("scope"))?;
    Ok(Claims {
        user: UserId::new(user).map_err(|_| bad("sub"))?,
        device,
        expires_ms: expires(claims.get("exp")).ok_or_else(|| bad("exp"))?,
        issued_ms: issued(claims.get("iat")).ok_or_else(|| bad("iat"))?,
        admin: scope.contains(&ADMIN),
        guest: scope.contains(&GUEST),
        rooms: patterns(claims.get("rooms")).ok_or_else(|| bad("rooms"))?,
    })
}

fn expires(exp: Option<&Value>) -> Option<u64> {
    match exp {
        None | Some(Value::Null) => Some(0),
        // Whole seconds, as the library that has validated it rounds.
        Some(exp) => Some((exp.as_f64()?.round() as u64).saturating_mul(1000)),
    }
}

/// A part of a second counts: a token is as old as it says.
fn issued(iat: Option<&Value>) -> Option<u64> {
    match iat {
        None | Some(Value::Null) => Some(0),
        Some(iat) => Some((iat.as_f64()? * 1000.0) as u64),
    }
}

/// OAuth's form of a scope is words in one string; others write an array.
fn words(scope: Option<&Value>) -> Option<Vec<&str>> {
    match scope {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::String(words)) => Some(words.split_ascii_whitespace().collect()),
        Some(Value::Array(words)) => words.iter().map(Value::as_str).collect(),
        Some(_) => None,
    }
}

fn patterns(rooms: Option<&Value>) -> Option<Vec<String>> {
    let rooms = match rooms {
        None | Some(Value::Null) => return Some(Vec::new()),
        Some(rooms) => rooms.as_array()?,
    };
    let fits = |pattern: &&str| pattern.len() <= MAX_PATTERN;
    let read = |pattern: &Value| pattern.as_str().filter(fits).map(str::to_owned);
    (rooms.len() <= MAX_PATTERNS).then(|| rooms.iter().map(read).collect())?
}

#[cfg(test)]
mod tests;
