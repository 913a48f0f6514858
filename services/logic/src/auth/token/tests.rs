use std::path::PathBuf;
use std::time::Duration;

use im_runtime::clock;
use jsonwebtoken::{EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
use serde_json::json;

use super::*;
use crate::auth::Secret;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const RSA: &str = include_str!("rsa-for-tests.pem");
const RSA_PUBLIC: &str = include_str!("rsa-for-tests.pub.pem");

fn now() -> u64 {
    clock::unix_ms() / 1000
}

fn claims_of(user: &str) -> Value {
    json!({"sub": user, "exp": now() + 60})
}

fn sign(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

fn hs256(claims: &Value) -> String {
    sign(
        Algorithm::HS256,
        &EncodingKey::from_secret(SECRET.as_bytes()),
        claims,
    )
}

fn with_secret(change: impl FnOnce(&mut Options)) -> Verifier {
    let mut options = Options {
        hs256_secrets: vec![Secret::new(SECRET)],
        ..Options::default()
    };
    change(&mut options);
    Verifier::new(&options).unwrap()
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn with_keys(files: Vec<PathBuf>) -> Verifier {
    Verifier::new(&Options {
        public_key_files: files,
        ..Options::default()
    })
    .unwrap()
}

/// A token put together by hand, where the library would refuse to make it.
fn by_hand(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    format!(
        "{}.{}.{}",
        part(header.to_string().as_bytes()),
        part(claims.to_string().as_bytes()),
        part(signature)
    )
}

#[test]
fn a_good_token_says_who_and_what() {
    let exp = now() + 60;
    let token = hs256(&json!({
        "sub": "ann", "dev": "phone", "iat": exp - 90, "exp": exp, "scope": "chat admin", "rooms": ["live://*", "video://1"],
    }));
    let claims = with_secret(|_| {}).verify(&token).unwrap();
    let expected = Claims {
        user: UserId::new("ann").unwrap(),
        device: Some(DeviceId::new("phone").unwrap()),
        expires_ms: exp * 1000,
        issued_ms: (exp - 90) * 1000,
        admin: true,
        guest: false,
        rooms: vec!["live://*".to_owned(), "video://1".to_owned()],
    };
    assert_eq!(claims, expected);
}

#[test]
fn a_scope_is_words_or_an_array() {
    let verifier = with_secret(|_| {});
    let table = [
        (json!("admin"), true),
        (json!("a  admin b"), true),
        (json!(["x", "admin"]), true),
        (json!("administrator"), false),
        (json!(["chat"]), false),
        (json!(""), false),
        (json!(null), false),
    ];
    for (scope, admin) in table {
        let mut claims = claims_of("ann");
        claims["scope"] = scope.clone();
        assert_eq!(
            verifier.verify(&hs256(&claims)).unwrap().admin,
            admin,
            "{scope}"
        );
    }
}

#[test]
fn every_kind_of_bad_token_has_its_reason() {
    let verifier = with_secret(|_| {});
    let good = hs256(&claims_of("ann"));
    let parts: Vec<&str> = good.split('.').collect();
    let other = EncodingKey::from_secret(b"another secret, another secret, another");
    let mut longer = parts[2].to_owned();
    longer.replace_range(..1, if longer.starts_with('A') { "B" } else { "A" });
    let malformed = |why| Error::Malformed(why);
    let forged_claims = URL_SAFE_NO_PAD.encode(claims_of("root").to_string());
    let table = [
        (String::new(), Error::Missing),
        ("nonsense".to_owned(), malformed("it has not three parts")),
        (format!("{good}.x"), malformed("it has not three parts")),
        (
            "%%%.x.y".to_owned(),
            malformed("its header is not base64url"),
        ),
        (
            format!("{}.x.y", URL_SAFE_NO_PAD.encode("[]")),
            malformed("its header is not a JSON object"),
        ),
        (
            format!("{}.x.y", URL_SAFE_NO_PAD.encode("{}")),
            malformed("its header names no algorithm"),
        ),
        ("a".repeat(MAX_TOKEN + 1), malformed("it is too long")),
        (
            sign(Algorithm::HS256, &other, &claims_of("ann")),
            Error::Forged,
        ),
        (format!("{}.{}.{longer}", parts[0], parts[1]), Error::Forged),
        (
            format!("{}.{forged_claims}.{}", parts[0], parts[2]),
            Error::Forged,
        ),
        (format!("{}.{}.", parts[0], parts[1]), Error::Forged),
        (
            by_hand(&json!({"alg": "none"}), &claims_of("ann"), b""),
            Error::WrongAlgorithm("none".to_owned()),
        ),
        (
            by_hand(&json!({"alg": "None"}), &claims_of("ann"), b""),
            Error::WrongAlgorithm("None".to_owned()),
        ),
        (
            by_hand(&json!({"alg": ""}), &claims_of("ann"), b""),
            Error::WrongAlgorithm(String::new()),
        ),
        (
            by_hand(&json!({"alg": "HS512"}), &claims_of("ann"), b"x"),
            Error::WrongAlgorithm("HS512".to_owned()),
        ),
        (
            by_hand(
                &json!({"alg": "HS256", "crit": ["x"]}),
                &claims_of("ann"),
                b"x",
            ),
            malformed("its header has \"crit\""),
        ),
        (
            hs256(&json!({"sub": "ann", "exp": now() - 60})),
            Error::Expired,
        ),
        (
            hs256(&json!({"sub": "ann", "exp": now() + 60, "nbf": now() + 60})),
            Error::NotYetValid,
        ),
    ];
    for (token, why) in table {
        assert_eq!(verifier.verify(&token).unwrap_err(), why, "{token}");
    }
}

#[test]
fn a_bad_claim_is_named() {
    let verifier = with_secret(|_| {});
    let exp = now() + 60;
    let many: Vec<_> = (0..=MAX_PATTERNS)
        .map(|number| number.to_string())
        .collect();
    let table = [
        (json!({"exp": exp}), "sub"),
        (json!({"sub": 7, "exp": exp}), "sub"),
        (json!({"sub": "", "exp": exp}), "sub"),
        (json!({"sub": "two words", "exp": exp}), "sub"),
        (json!({"sub": "ann"}), "exp"),
        (json!({"sub": "ann", "exp": "tomorrow"}), "exp"),
        (json!({"sub": "ann", "exp": -5}), "exp"),
        (json!({"sub": "ann", "exp": exp, "nbf": "now"}), "nbf"),
        (json!({"sub": "ann", "exp": exp, "dev": 1}), "dev"),
        (json!({"sub": "ann", "exp": exp, "dev": ""}), "dev"),
        (json!({"sub": "ann", "exp": exp, "scope": 1}), "scope"),
        (
            json!({"sub": "ann", "exp": exp, "scope": ["admin", 1]}),
            "scope",
        ),
        (
            json!({"sub": "ann", "exp": exp, "rooms": "live://*"}),
            "rooms",
        ),
        (json!({"sub": "ann", "exp": exp, "rooms": [1]}), "rooms"),
        (
            json!({"sub": "ann", "exp": exp, "rooms": ["x".repeat(MAX_PATTERN + 1)]}),
            "rooms",
        ),
        (json!({"sub": "ann", "exp": exp, "rooms": many}), "rooms"),
        (
            json!({"sub": "ann", "exp": exp, "aud": "somebody else"}),
            "aud",
        ),
    ];
    for (claims, named) in table {
        assert_eq!(
            verifier.verify(&hs256(&claims)).unwrap_err(),
            Error::BadClaim(named.to_owned()),
            "{claims}"
        );
    }
}

#[test]
fn issuer_and_audience_are_demanded_where_they_are_configured() {
    let verifier = with_secret(|options| {
        options.issuer = "https://login.example".to_owned();
        options.audience = "chat".to_owned();
    });
    let exp = now() + 60;
    let good =
        json!({"sub": "ann", "exp": exp, "iss": "https://login.example", "aud": ["chat", "mail"]});
    assert!(verifier.verify(&hs256(&good)).is_ok());
    let table = [
        (json!({"sub": "ann", "exp": exp, "aud": "chat"}), "iss"),
        (
            json!({"sub": "ann", "exp": exp, "iss": "https://evil.example", "aud": "chat"}),
            "iss",
        ),
        (
            json!({"sub": "ann", "exp": exp, "iss": "https://login.example"}),
            "aud",
        ),
        (
            json!({"sub": "ann", "exp": exp, "iss": "https://login.example", "aud": "mail"}),
            "aud",
        ),
    ];
    for (claims, named) in table {
        assert_eq!(
            verifier.verify(&hs256(&claims)).unwrap_err(),
            Error::BadClaim(named.to_owned()),
            "{claims}"
        );
    }
}

#[test]
fn clocks_may_differ_by_the_leeway() {
    let verifier = with_secret(|options| options.leeway = Duration::from_secs(30));
    assert!(
        verifier
            .verify(&hs256(&json!({"sub": "ann", "exp": now() - 10})))
            .is_ok()
    );
    assert!(
        verifier
            .verify(&hs256(
                &json!({"sub": "ann", "exp": now() + 60, "nbf": now() + 10})
            ))
            .is_ok()
    );
    assert_eq!(
        verifier
            .verify(&hs256(&json!({"sub": "ann", "exp": now() - 60})))
            .unwrap_err(),
        Error::Expired
    );
}

#[test]
fn a_token_without_end_needs_the_option() {
    let verifier = with_secret(|options| options.allow_no_expiry = true);
    let claims = verifier.verify(&hs256(&json!({"sub": "ann"}))).unwrap();
    assert_eq!(claims.expires_ms, 0);
    assert_eq!(
        verifier
            .verify(&hs256(&json!({"sub": "ann", "exp": 1})))
            .unwrap_err(),
        Error::Expired
    );
}

#[test]
fn two_secrets_are_good_while_one_replaces_the_other() {
    let new = "fedcba9876543210fedcba9876543210";
    let verifier = with_secret(|options| options.hs256_secrets.insert(0, Secret::new(new)));
    assert!(verifier.verify(&hs256(&claims_of("ann"))).is_ok());
    let signed = sign(
        Algorithm::HS256,
        &EncodingKey::from_secret(new.as_bytes()),
        &claims_of("ann"),
    );
    assert!(verifier.verify(&signed).is_ok());
    assert_eq!(
        verifier
            .verify(&hs256(&json!({"sub": "ann", "exp": 1})))
            .unwrap_err(),
        Error::Expired
    );
}

#[test]
fn public_keys_of_three_kinds_check_their_own_tokens_only() {
    let files = Files::new();
    let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let signers = [
        (
            Algorithm::ES256,
            EncodingKey::from_ec_pem(ec.serialize_pem().as_bytes()).unwrap(),
            ec.public_key_pem(),
        ),
        (
            Algorithm::EdDSA,
            EncodingKey::from_ed_pem(ed.serialize_pem().as_bytes()).unwrap(),
            ed.public_key_pem(),
        ),
        (
            Algorithm::RS256,
            EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap(),
            RSA_PUBLIC.to_owned(),
        ),
    ];
    let all: String = signers.iter().map(|(_, _, pem)| pem.as_str()).collect();
    let of_all = with_keys(vec![files.put("all.pem", &all)]);
    for (at, (algorithm, signer, pem)) in signers.iter().enumerate() {
        let token = sign(*algorithm, signer, &claims_of("ann"));
        assert_eq!(
            of_all.verify(&token).unwrap().user.as_str(),
            "ann",
            "{algorithm:?}"
        );
        let alone = with_keys(vec![files.put(&format!("{at}.pem"), pem)]);
        assert!(alone.verify(&token).is_ok(), "{algorithm:?}");
        for (other, signer, _) in signers.iter().filter(|(other, ..)| other != algorithm) {
            let error = alone
                .verify(&sign(*other, signer, &claims_of("ann")))
                .unwrap_err();
            assert!(
                matches!(error, Error::WrongAlgorithm(_)),
                "{other:?} by a key of {algorithm:?}: {error}"
            );
        }
    }
}

#[test]
fn a_public_key_is_not_mistaken_for_a_secret() {
    let files = Files::new();
    let verifier = with_keys(vec![files.put("rsa.pem", RSA_PUBLIC)]);
    let as_secret = EncodingKey::from_secret(RSA_PUBLIC.as_bytes());
    let token = sign(Algorithm::HS256, &as_secret, &claims_of("root"));
    assert_eq!(
        verifier.verify(&token).unwrap_err(),
        Error::WrongAlgorithm("HS256".to_owned())
    );
    let relabelled = by_hand(&json!({"alg": "RS256"}), &claims_of("root"), b"whatever");
    assert_eq!(verifier.verify(&relabelled).unwrap_err(), Error::Forged);
}

#[test]
fn a_token_by_another_key_of_the_same_kind_is_forged() {
    let files = Files::new();
    let ours = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let theirs = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let verifier = with_keys(vec![files.put("ours.pem", &ours.public_key_pem())]);
    let signer = EncodingKey::from_ed_pem(theirs.serialize_pem().as_bytes()).unwrap();
    assert_eq!(
        verifier
            .verify(&sign(Algorithm::EdDSA, &signer, &claims_of("ann")))
            .unwrap_err(),
        Error::Forged
    );
}

#[test]
fn keys_that_cannot_be_used_are_found_at_the_start() {
    let files = Files::new();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let two = format!(
        "{}{}",
        ed.public_key_pem(),
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    );
    let table = [
        (files.put("empty.pem", ""), "key 0 is no public key"),
        (files.put("text.pem", "hello"), "key 0 is no public key"),
        (files.put("private.pem", RSA), "key 1 is no public key"),
        (
            files.put("p384.pem", &p384.public_key_pem()),
            "key 1 is no public key",
        ),
        (files.put("two.pem", &two), "key 2 is no public key"),
        (files.folder.path().join("absent.pem"), "absent.pem: "),
    ];
    for (path, says) in table {
        let error = Verifier::new(&Options {
            public_key_files: vec![path],
            ..Options::default()
        })
        .err()
        .unwrap();
        assert!(error.to_string().contains(says), "{error}");
    }
    assert!(matches!(
        Verifier::new(&Options::default()).err(),
        Some(key::Error::None)
    ));
    for bytes in [0, 31] {
        let short = Options {
            hs256_secrets: vec![Secret::new("s".repeat(bytes))],
            ..Options::default()
        };
        assert!(
            matches!(Verifier::new(&short).err(), Some(key::Error::ShortSecret(has)) if has == bytes)
        );
    }
    assert!(
        Verifier::new(&Options {
            allow_unsigned: true,
            ..Options::default()
        })
        .is_ok()
    );
}

#[test]
fn no_log_shows_a_secret() {
    let options = Options {
        hs256_secrets: vec![Secret::new(SECRET)],
        ..Options::default()
    };
    assert!(!format!("{options:?}").contains(SECRET));
}
