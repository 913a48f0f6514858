use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use im_runtime::clock;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::json;
use tokio::net::TcpListener;

use super::*;
use crate::auth::{Error as AuthError, Options, key};

struct Signer {
    id: &'static str,
    key: KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        Self {
            id,
            key: KeyPair::generate_for(&PKCS_ED25519).unwrap(),
        }
    }

    fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key_raw());
        json!({"kty": "OKP", "crv": "Ed25519", "kid": self.id, "use": "sig", "alg": "EdDSA", "x": x})
    }

    fn sign(&self, named: Option<&str>) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = named.map(str::to_owned);
        let key = EncodingKey::from_ed_pem(self.key.serialize_pem().as_bytes()).unwrap();
        encode(
            &header,
            &json!({"sub": "ann", "exp": clock::unix_ms() / 1000 + 60}),
            &key,
        )
        .unwrap()
    }
}

fn verifier() -> Verifier {
    Verifier::new(&Options {
        jwks_url: "https://keys.example/".to_owned(),
        ..Options::default()
    })
    .unwrap()
}

fn set(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

#[test]
fn tokens_are_checked_with_the_key_that_they_name() {
    let (one, two) = (Signer::new("one"), Signer::new("two"));
    let verifier = verifier();
    assert_eq!(
        verifier.verify(&one.sign(Some("one"))),
        Err(AuthError::NoKeysYet)
    );
    verifier.replace(keys(&set(&[one.jwk()])).unwrap());
    assert!(verifier.verify(&one.sign(Some("one"))).is_ok());
    assert!(verifier.verify(&one.sign(None)).is_ok());
    assert_eq!(
        verifier.verify(&two.sign(Some("two"))),
        Err(AuthError::UnknownKey)
    );
    assert_eq!(
        verifier.verify(&two.sign(Some("one"))),
        Err(AuthError::Forged)
    );
    assert_eq!(verifier.verify(&two.sign(None)), Err(AuthError::Forged));
    verifier.replace(keys(&set(&[two.jwk()])).unwrap());
    assert!(verifier.verify(&two.sign(Some("two"))).is_ok());
    assert_eq!(
        verifier.verify(&one.sign(Some("one"))),
        Err(AuthError::UnknownKey),
        "its key was withdrawn"
    );
}

#[test]
fn a_symmetric_key_in_a_set_is_never_used() {
    let secret = json!({"kty": "oct", "kid": "s", "k": URL_SAFE_NO_PAD.encode("0123456789abcdef0123456789abcdef")});
    assert!(matches!(
        keys(&set(std::slice::from_ref(&secret))),
        Err(Error::NoKeys)
    ));
    let verifier = verifier();
    verifier.replace(keys(&set(&[secret, Signer::new("one").jwk()])).unwrap());
    let signer = EncodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
    let token = encode(
        &Header::default(),
        &json!({"sub": "ann", "exp": 9_999_999_999_u64}),
        &signer,
    )
    .unwrap();
    assert_eq!(
        verifier.verify(&token),
        Err(AuthError::WrongAlgorithm("HS256".to_owned()))
    );
}

#[test]
fn what_cannot_be_used_in_a_set_is_passed_over() {
    let good = Signer::new("good").jwk();
    let with = |name: &str, value: Value| {
        let mut jwk = good.clone();
        jwk[name] = value;
        jwk
    };
    let others = [
        json!(7),
        json!({}),
        json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        with("use", json!("enc")),
        with("alg", json!("RS512")),
        with("x", json!("AA")),
        with("x", json!("%")),
    ];
    for other in &others {
        assert!(
            matches!(keys(&set(std::slice::from_ref(other))), Err(Error::NoKeys)),
            "{other}"
        );
    }
    let mut all = others.to_vec();
    all.push(good);
    assert_eq!(keys(&set(&all)).unwrap().len(), 1);
    assert!(matches!(keys(b"<html>"), Err(Error::Malformed(_))));
    assert!(matches!(keys(b"[]"), Err(Error::Malformed(_))));
}

/// Answers every request alike.
async fn answering(status: u16, body: Vec<u8>) -> Source {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys?v=1", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let body = body.clone();
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let right = request.uri() == "/keys?v=1" && request.headers().contains_key("host");
                let status = if right { status } else { 400 };
                let answer = hyper::Response::builder()
                    .status(status)
                    .body(Full::new(bytes::Bytes::from(body.clone())));
                async move { answer }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    source(&url).unwrap().unwrap()
}

fn source(url: &str) -> Result<Option<Source>, key::Error> {
    Source::new(&Options {
        jwks_url: url.to_owned(),
        ..Options::default()
    })
}

#[tokio::test]
async fn a_set_is_fetched_whole_or_not_at_all() {
    assert_eq!(
        answering(200, b"{}".to_vec()).await.fetch().await.unwrap(),
        "{}"
    );
    assert!(matches!(
        answering(503, Vec::new()).await.fetch().await,
        Err(Error::Status(503))
    ));
    assert!(matches!(
        answering(200, vec![b' '; 300 * 1024]).await.fetch().await,
        Err(Error::TooLarge(_))
    ));
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let nobody = source(&format!("http://{free}/")).unwrap().unwrap();
    assert!(matches!(nobody.fetch().await, Err(Error::Unreachable(_))));
    let plain = answering(200, b"{}".to_vec()).await;
    let over_tls = source(&plain.url().replace("http:", "https:"))
        .unwrap()
        .unwrap();
    assert!(matches!(over_tls.fetch().await, Err(Error::Unreachable(_))));
}

#[test]
fn a_bad_url_is_found_at_the_start() {
    let far = [
        "http://keys.example/",
        "http://10.0.0.1/",
        "http://localhost.example/",
        "https://u:p@keys.example/",
    ];
    for url in [
        "keys",
        "ftp://keys.example/",
        "https://",
        "http:///keys",
        "https://a b/",
    ]
    .into_iter()
    .chain(far)
    {
        assert!(
            matches!(source(url), Err(key::Error::BadUrl { .. })),
            "{url}"
        );
    }
    assert!(source("").unwrap().is_none());
    for url in [
        "https://keys.example:8443/a",
        "http://localhost:8080/",
        "http://127.0.0.1/",
        "http://[::1]:1/keys",
    ] {
        assert!(source(url).unwrap().is_some(), "{url}");
    }
    let error = source("http://keys.example/?token=hush")
        .err()
        .unwrap()
        .to_string();
    assert!(!error.contains("hush"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_again_when_a_token_names_an_unknown_one() {
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    let served = Arc::new(std::sync::Mutex::new(set(&[old.jwk()])));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let body = Arc::clone(&served);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let body = Arc::clone(&body);
            let service = service_fn(move |_: hyper::Request<hyper::body::Incoming>| {
                let answer = hyper::Response::new(Full::new(bytes::Bytes::from(
                    body.lock().unwrap().clone(),
                )));
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let options = Options {
        jwks_url: url.clone(),
        ..Options::default()
    };
    let verifier = Arc::new(Verifier::new(&options).unwrap());
    let phase = watch::Sender::new(Phase::Serving);
    let source = source(&url).unwrap().unwrap();
    let hour = Duration::from_secs(3600);
    let fetching = tokio::spawn(keep_fetching(
        source,
        Arc::clone(&verifier),
        hour,
        phase.subscribe(),
    ));
    let until_good = async |token: String| {
        while verifier.verify(&token).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let began = tokio::time::Instant::now();
    until_good(old.sign(Some("old"))).await;
    *served.lock().unwrap() = set(&[new.jwk()]);
    until_good(new.sign(Some("new"))).await;
    let took = began.elapsed();
    assert!(
        took >= PAUSE && took < hour / 2,
        "sooner than the next turn, not at once: {took:?}"
    );
    assert_eq!(
        verifier.verify(&old.sign(Some("old"))),
        Err(AuthError::UnknownKey)
    );
    phase.send_replace(Phase::Ending);
    fetching.await.unwrap();
}
