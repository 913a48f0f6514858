//! Tokens: made with a secret or a private key, and looked into without being checked.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;
use serde_json::Value;

use crate::args::{Alg, KeyArgs, TokenArgs};
use crate::failure::{Exit, Failure};
use crate::output::Output;

/// The variable that the servers read too.
const SECRET_VARIABLE: &str = "IM_AUTH_HS256_SECRET";

/// What a token says; see docs/protocol.md.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Claims {
    pub(crate) sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dev: Option<String>,
    pub(crate) iat: u64,
    pub(crate) exp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scope: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) rooms: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) iss: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) aud: Option<String>,
}

impl Claims {
    pub(crate) fn new(user: &str, ttl: Duration) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
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

    pub(crate) fn admin(mut self, admin: bool) -> Self {
        self.scope = admin.then_some("admin");
        self
    }
}

/// With what tokens are signed.
#[derive(Clone)]
pub(crate) struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    /// From the flags, or else from the environment's secret; `None`: there is nothing to sign with.
    pub(crate) fn new(args: &KeyArgs, env: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Failure> {
        if let Some(path) = &args.key_file {
            return Self::from_pem(path, args.alg).map(Some);
        }
        let secret = match (&args.secret, &args.secret_file) {
            (Some(secret), _) => Some(secret.clone()),
            (None, Some(path)) => Some(read_secret(path)?),
            (None, None) => env(SECRET_VARIABLE),
        };
        Ok(secret.filter(|secret| !secret.is_empty()).map(|secret| Self::from_secret(&secret)))
    }

    pub(crate) fn from_secret(secret: &str) -> Self {
        Self { algorithm: Algorithm::HS256, key: EncodingKey::from_secret(secret.as_bytes()) }
    }

    fn from_pem(path: &Path, alg: Option<Alg>) -> Result<Self, Failure> {
        let Some(alg) = alg else {
            return Err(Failure::usage("--key-file needs --alg: ES256, EdDSA or RS256"));
        };
        let pem = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
        let (algorithm, key) = match alg {
            Alg::Es256 => (Algorithm::ES256, EncodingKey::from_ec_pem(&pem)),
            Alg::EdDsa => (Algorithm::EdDSA, EncodingKey::from_ed_pem(&pem)),
            Alg::Rs256 => (Algorithm::RS256, EncodingKey::from_rsa_pem(&pem)),
        };
        let wrong = |error| {
            let text = format!("{} is not a private key for {algorithm:?}: {error}", path.display());
            Failure::usage(text).hint("a PKCS#8 key in PEM is wanted, as `openssl genpkey` writes it")
        };
        key.map(|key| Self { algorithm, key }).map_err(wrong)
    }

    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, String> {
        encode(&Header::new(self.algorithm), claims, &self.key).map_err(|error| format!("cannot sign: {error}"))
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", path.display()))
}

/// The file's content without the line end that editors add.
pub(crate) fn read_secret(path: &Path) -> Result<String, Failure> {
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
pub(crate) fn peek(token: &str, claim: &str) -> Option<String> {
    let payload = token.split('.').nth(1)?;
    let payload: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    payload.get(claim)?.as_str().map(str::to_owned)
}

/// `imctl token`.
pub(crate) fn run(args: &TokenArgs, env: impl Fn(&str) -> Option<String>, output: &mut Output) -> Result<(), Failure> {
    im_client::UserId::new(&args.user).map_err(|error| Failure::usage(format!("--{error}")))?;
    if let Some(device) = &args.device {
        im_client::DeviceId::new(device).map_err(|error| Failure::usage(format!("--{error}")))?;
    }
    let signer = Signer::new(&args.key, env)?.ok_or_else(|| {
        Failure::usage("nothing to sign with: give --secret-file, --secret, or --key-file with --alg")
            .hint(format!("{SECRET_VARIABLE} is read too; standalone keeps its secret in its data directory"))
    })?;
    let mut claims = Claims::new(&args.user, args.ttl).admin(args.admin);
    claims.dev.clone_from(&args.device);
    claims.rooms.clone_from(&args.rooms);
    claims.iss.clone_from(&args.issuer);
    claims.aud.clone_from(&args.audience);
    let token = signer.sign(&claims).map_err(|error| Failure::new(Exit::Failed, error))?;
    if args.json { output.json(&serde_json::json!({"token": token, "claims": claims})) } else { output.line(&token) }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    fn secret(secret: &str) -> KeyArgs {
        KeyArgs { secret: Some(secret.to_owned()), ..KeyArgs::default() }
    }

    #[test]
    fn a_token_says_what_was_asked_and_is_signed() {
        let signer = Signer::new(&secret("0123456789abcdef0123456789abcdef"), none).unwrap().unwrap();
        let mut claims = Claims::new("ann", Duration::from_secs(60)).admin(true);
        claims.dev = Some("phone".to_owned());
        claims.rooms = vec!["live://*".to_owned()];
        let token = signer.sign(&claims).unwrap();
        let key = DecodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
        let read = decode::<Value>(&token, &key, &Validation::new(Algorithm::HS256)).unwrap().claims;
        assert_eq!(read["sub"], "ann");
        assert_eq!(read["dev"], "phone");
        assert_eq!(read["scope"], "admin");
        assert_eq!(read["rooms"], serde_json::json!(["live://*"]));
        assert_eq!(read["exp"].as_u64().unwrap() - read["iat"].as_u64().unwrap(), 60);
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
