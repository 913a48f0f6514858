//! Checks tokens: JWTs signed with one of the configured keys.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use im_wire::ids::{DeviceId, UserId};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode};
use serde_json::{Map, Value};

use super::grant::Grant;
use super::key::{self, Key};
use super::{Error, Options};

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 8 * 1024;
/// Patterns in the claim `rooms` at most.
pub const MAX_PATTERNS: usize = 100;
/// The longest of them, in bytes.
pub const MAX_PATTERN: usize = 256;
/// The scope that may do everything.
pub const ADMIN: &str = "admin";

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `sub`.
    pub user: UserId,
    /// `dev`: the one device that may use it.
    pub device: Option<DeviceId>,
    /// `exp` in unix milliseconds; 0: never.
    pub expires_ms: u64,
    /// Whether `scope` (words in a string, or an array of them) has `admin`.
    pub admin: bool,
    /// `rooms`: patterns of the open rooms that the user may enter.
    pub rooms: Vec<String>,
}

impl Claims {
    /// What later calls carry.
    pub fn grant(self, device: &DeviceId) -> Grant {
        Grant {
            version: Grant::VERSION,
            user: self.user.as_str().to_owned(),
            device: device.as_str().to_owned(),
            admin: self.admin,
            rooms: self.rooms,
            expires_ms: self.expires_ms,
            unsigned: false,
        }
    }
}

/// Checks tokens. Cheap to share, holds nothing that changes.
pub struct Verifier {
    keys: Vec<(Key, Validation)>,
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
        if keys.is_empty() && !options.allow_unsigned {
            return Err(key::Error::None);
        }
        let keys = keys.into_iter().map(|key| {
            let validation = validation(key.algorithm, options);
            (key, validation)
        });
        Ok(Self { keys: keys.collect() })
    }

    /// What the token says, if it is to be believed now.
    ///
    /// # Errors
    /// Why it is not.
    pub fn verify(&self, token: &str) -> Result<Claims, Error> {
        let algorithm = algorithm(token)?;
        let of_algorithm = |(key, _): &&(Key, Validation)| name(key.algorithm) == algorithm;
        let mut outcome = Err(Error::WrongAlgorithm(algorithm.chars().take(16).collect()));
        for (key, validation) in self.keys.iter().filter(of_algorithm) {
            outcome = decode::<Map<String, Value>>(token, &key.key, validation).map_err(refused);
            if !matches!(outcome, Err(Error::Forged)) {
                break;
            }
        }
        claims(&outcome?)
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

/// The algorithm that the header names, not yet believed.
fn algorithm(token: &str) -> Result<String, Error> {
    if token.is_empty() {
        return Err(Error::Missing);
    }
    if token.len() > MAX_TOKEN {
        return Err(Error::Malformed("it is too long"));
    }
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(Error::Malformed("it has not three parts"));
    };
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| Error::Malformed("its header is not base64url"))?;
    let Ok(Value::Object(header)) = serde_json::from_slice(&header) else {
        return Err(Error::Malformed("its header is not a JSON object"));
    };
    // RFC 7515, 4.1.11: who does not know an extension named here must refuse the token. None is known here.
    if header.contains_key("crit") {
        return Err(Error::Malformed("its header has \"crit\""));
    }
    let named = header.get("alg").and_then(Value::as_str);
    named.map(str::to_owned).ok_or(Error::Malformed("its header names no algorithm"))
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
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => Error::BadClaim(claim),
        ErrorKind::InvalidIssuer => Error::BadClaim("iss".to_owned()),
        ErrorKind::InvalidAudience => Error::BadClaim("aud".to_owned()),
        ErrorKind::InvalidSubject => Error::BadClaim("sub".to_owned()),
        ErrorKind::Base64(_) => Error::Malformed("a part is not base64url"),
        ErrorKind::Json(_) | ErrorKind::Utf8(_) => Error::Malformed("its claims are not a JSON object"),
        _ => Error::Malformed("it cannot be read"),
    }
}

fn claims(token: &jsonwebtoken::TokenData<Map<String, Value>>) -> Result<Claims, Error> {
    let claims = &token.claims;
    let bad = |claim: &str| Error::BadClaim(claim.to_owned());
    let user = claims.get("sub").and_then(Value::as_str).ok_or_else(|| bad("sub"))?;
    let device = match claims.get("dev") {
        None | Some(Value::Null) => None,
        Some(Value::String(device)) => Some(DeviceId::new(device).map_err(|_| bad("dev"))?),
        Some(_) => return Err(bad("dev")),
    };
    Ok(Claims {
        user: UserId::new(user).map_err(|_| bad("sub"))?,
        device,
        expires_ms: expires(claims.get("exp")).ok_or_else(|| bad("exp"))?,
        admin: words(claims.get("scope")).ok_or_else(|| bad("scope"))?.contains(&ADMIN),
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
