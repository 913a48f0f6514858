//! Tokens: made with a secret or a private key, and looked into without being checked.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, ValueEnum};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;

/// The variable that the servers read too.
pub const SECRET_VARIABLE: &str = "IM_AUTH_HS256_SECRET";

/// With what a token is signed.
#[derive(Debug, Clone, Default, Args)]
pub struct KeyArgs {
    /// HS256 secret. Other users of this machine may see it in the process list: prefer --secret-file.
    #[arg(long, value_name = "SECRET", conflicts_with_all = ["secret_file", "key_file"])]
    pub secret: Option<String>,
    /// File with the HS256 secret. `-`: standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "key_file")]
    pub secret_file: Option<PathBuf>,
    /// Private key in PEM, to sign with --alg.
    #[arg(long, value_name = "PEM")]
    pub key_file: Option<PathBuf>,
    /// Algorithm of --key-file.
    #[arg(long, value_enum, requires = "key_file")]
    pub alg: Option<Alg>,
}

/// Algorithms that a private key may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Alg {
    /// P-256.
    #[value(name = "ES256")]
    Es256,
    /// Ed25519.
    #[value(name = "EdDSA")]
    EdDsa,
    /// RSA.
    #[value(name = "RS256")]
    Rs256,
}

/// What a token says; see docs/protocol.md.
#[derive(Debug, Clone, Serialize)]
pub struct Claims {
    /// The user.
    pub sub: String,
    /// The only device that may use it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// When it was made, in seconds since 1970.
    pub iat: u64,
    /// When it ends, in seconds since 1970.
    pub exp: u64,
    /// `admin`: may do everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'static str>,
    /// Open rooms that it may enter, as patterns.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rooms: Vec<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// For whom it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<String>,
}

impl Claims {
    /// For a user, from now on.
    pub fn new(user: &str, ttl: Duration) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let sub = user.to_owned();
        Self {
            sub,
            dev: None,
            iat: now,
            exp: now + ttl.as_secs().max(1),
            scope: None,
            rooms: Vec::new(),
            iss: None,
            aud: None,
        }
    }

    /// Whether it may do everything.
    #[must_use]
    pub fn admin(mut self, admin: bool) -> Self {
        self.scope = admin.then_some("admin");
        self
    }
}

/// With what tokens are signed.
#[derive(Clone)]
pub struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    /// From the flags, or else from the environment's secret; `None`: there is nothing to sign with.
    ///
    /// # Errors
    /// A file cannot be read, or holds no such key.
    pub fn new(
        args: &KeyArgs,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, Failure> {
        if let Some(path) = &args.key_file {
            return Self::from_pem(path, args.alg).map(Some);
        }
        let secret = match (&args.secret, &args.secret_file) {
            (Some(secret), _) => Some(secret.clone()),
            (None, Some(path)) => Some(read_secret(path)?),
            (None, None) => env(SECRET_VARIABLE),
        };
        Ok(secret
            .filter(|secret| !secret.is_empty())
            .map(|secret| Self::from_secret(&secret)))
    }

    /// HS256.
    pub fn from_secret(secret: &str) -> Self {
        Self {
            algorithm: Algorithm::HS256,
            key: EncodingKey::from_secret(secret.as_bytes()),
        }
    }

    fn from_pem(path: &Path, alg: Option<Alg>) -> Result<Self, Failure> {
        let Some(alg) = alg else {
            return Err(Failure::usage(
                "--key-file needs --alg: ES256, EdDSA or RS256",
            ));
        };
        let pem = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
        let (algorithm, key) = match alg {
            Alg::Es256 => (Algorithm::ES256, EncodingKey::from_ec_pem(&pem)),
            Alg::EdDsa => (Algorithm::EdDSA, EncodingKey::from_ed_pem(&pem)),
            Alg::Rs256 => (Algorithm::RS256, EncodingKey::from_rsa_pem(&pem)),
        };
        let wrong = |error| {
            let text = format!(
                "{} is not a private key for {algorithm:?}: {error}",
                path.display()
            );
            Failure::usage(text)
                .hint("a PKCS#8 key in PEM is wanted, as `openssl genpkey` writes it")
        };
        key.map(|key| Self { algorithm, key }).map_err(wrong)
    }

    /// The token.
    ///
    /// # Errors
    /// The key does not serve.
    pub fn sign(&self, claims: &Claims) -> Result<String, String> {
        encode(&Header::new(self.algorithm), claims, &self.key)
            .map_err(|error| format!("cannot sign: {error}"))
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", path.display()))
}

/// The file's content without the line end that editors add; of `-`, what standard input holds.
///
/// # Errors
/// It cannot be read.
pub fn read_secret(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().read_to_string(&mut text).map(|_| ())
    } else {
        std::fs::read_to_string(path).map(|content| text = content)
    };
    read.map_err(|error| unreadable(path, &error))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// A claim of a token, not checked: good for guessing, not for believing.
pub fn peek(token: &str, claim: &str) -> Option<String> {
    let payload = token.split('.').nth(1)?;
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    payload.get(claim)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    fn secret(secret: &str) -> KeyArgs {
        KeyArgs {
            secret: Some(secret.to_owned()),
            ..KeyArgs::default()
        }
    }

    #[test]
    fn a_token_says_what_was_asked_and_is_signed() {
        let signer = Signer::new(&secret("0123456789abcdef0123456789abcdef"), none)
            .unwrap()
            .unwrap();
        let mut claims = Claims::new("ann", Duration::from_secs(60)).admin(true);
        claims.dev = Some("phone".to_owned());
        claims.rooms = vec!["live://*".to_owned()];
        let token = signer.sign(&claims).unwrap();
        let key = DecodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
        let read = decode::<Value>(&token, &key, &Validation::new(Algorithm::HS256))
            .unwrap()
            .claims;
        assert_eq!(read["sub"], "ann");
        assert_eq!(read["dev"], "phone");
        assert_eq!(read["scope"], "admin");
        assert_eq!(read["rooms"], serde_json::json!(["live://*"]));
        assert_eq!(
            read["exp"].as_u64().unwrap() - read["iat"].as_u64().unwrap(),
            60
        );
        assert_eq!(peek(&token, "sub").as_deref(), Some("ann"));
        assert_eq!(peek(&token, "iss"), None);
        assert_eq!(peek("nonsense", "sub"), None);
    }

    #[test]
    fn claims_that_were_not_asked_for_are_left_out() {
        let claims = serde_json::to_value(Claims::new("ann", Duration::from_secs(60))).unwrap();
        let names: Vec<_> = claims.as_object().unwrap().keys().collect();
        assert_eq!(names, ["exp", "iat", "sub"]);
    }

    #[test]
    fn the_secret_may_come_from_the_environment() {
        let env = |name: &str| (name == SECRET_VARIABLE).then(|| "s".to_owned());
        assert!(Signer::new(&KeyArgs::default(), env).unwrap().is_some());
        assert!(Signer::new(&KeyArgs::default(), none).unwrap().is_none());
    }
}
