//! The keys that tokens are checked with. A key's kind fixes its one algorithm, so that no token can choose another.

use std::path::{Path, PathBuf};

use im_runtime::settings::SECRET_BYTES;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};

/// How a public key begins; a private one has no business here.
const PUBLIC: [&[u8]; 2] = [b"-----BEGIN PUBLIC KEY", b"-----BEGIN RSA PUBLIC KEY"];
const ED25519_BYTES: usize = 32;

/// Why a key cannot be used; found at the start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing to check tokens with.
    #[error(
        "no key to check tokens with: give an HS256 secret, a public key file or the URL of a key set"
    )]
    None,
    /// The URL of the key set cannot be used.
    #[error("the key set's URL {url:?} {problem}")]
    BadUrl {
        /// As it was given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The secret could be found by trying (RFC 7518, 3.2).
    #[error("an HS256 secret has {0} bytes: give {SECRET_BYTES} random ones or more")]
    ShortSecret(usize),
    /// The file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file holds something else.
    #[error("{}: key {number} is no public key in PEM of kind P-256, Ed25519 or RSA", path.display())]
    NotAKey {
        /// Which.
        path: PathBuf,
        /// Which one in the file, from 1; 0: there is none at all.
        number: usize,
    },
}

/// A key and the algorithm that it checks.
#[derive(Clone)]
pub struct Key {
    pub(crate) algorithm: Algorithm,
    pub(crate) key: DecodingKey,
}

impl Key {
    /// Of HS256.
    ///
    /// # Errors
    /// A short secret.
    pub fn secret(secret: &str) -> Result<Self, Error> {
        if secret.len() < SECRET_BYTES {
            return Err(Error::ShortSecret(secret.len()));
        }
        Ok(Self {
            algorithm: Algorithm::HS256,
            key: DecodingKey::from_secret(secret.as_bytes()),
        })
    }

    /// Of a public key in PEM: its kind says the algorithm.
    pub fn public(pem: &[u8]) -> Option<Self> {
        if !PUBLIC.iter().any(|begin| pem.starts_with(begin)) {
            return None;
        }
        let kinds = [
            (Algorithm::ES256, DecodingKey::from_ec_pem(pem)),
            (Algorithm::EdDSA, DecodingKey::from_ed_pem(pem)),
            (Algorithm::RS256, DecodingKey::from_rsa_pem(pem)),
        ];
        let (algorithm, key) = kinds
            .into_iter()
            .find_map(|(algorithm, key)| Some((algorithm, key.ok()?)))?;
        Self::usable(algorithm, key)
    }

    /// Of a JSON Web Key: its kind says the algorithm. `None` for symmetric ones, for other curves, and for keys that are
    /// for something else.
    pub fn jwk(jwk: &Jwk) -> Option<Self> {
        let (algorithm, named) = match &jwk.algorithm {
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                (Algorithm::ES256, KeyAlgorithm::ES256)
            }
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
                (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
            }
            AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
            _ => return None,
        };
        let to_sign = jwk
            .common
            .public_key_use
            .as_ref()
            .is_none_or(|usage| *usage == PublicKeyUse::Signature);
        let to_sign_so = jwk
            .common
            .key_algorithm
            .is_none_or(|algorithm| algorithm == named);
        if !to_sign || !to_sign_so {
            return None;
        }
        Self::usable(algorithm, DecodingKey::from_jwk(jwk).ok()?)
    }

    fn usable(algorithm: Algorithm, key: DecodingKey) -> Option<Self> {
        if algorithm == Algorithm::EdDSA && key.try_get_as_bytes().ok()?.len() != ED25519_BYTES {
            return None;
        }
        // A curve other than P-256, or a point beside it, shows itself only when the key is used.
        let usable = jsonwebtoken::crypto::verify("AA", b"", &key, algorithm).is_ok();
        usable.then_some(Self { algorithm, key })
    }
}

/// The public keys of a file.
///
/// # Errors
/// The file cannot be read, holds none, or holds something else beside.
pub fn read(path: &Path) -> Result<Vec<Key>, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let not_a_key = |number| Error::NotAKey {
        path: path.to_owned(),
        number,
    };
    let blocks: Vec<_> = text
        .match_indices("-----BEGIN ")
        .map(|(at, _)| &text[at..])
        .collect();
    if blocks.is_empty() {
        return Err(not_a_key(0));
    }
    let keys = blocks.iter().enumerate();
    keys.map(|(at, pem)| Key::public(first_block(pem)).ok_or_else(|| not_a_key(at + 1)))
        .collect()
}

fn first_block(pem: &str) -> &[u8] {
    let end = pem[1..].find("-----BEGIN ").map_or(pem.len(), |at| at + 1);
    pem[..end].trim().as_bytes()
}
