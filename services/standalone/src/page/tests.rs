//! The page's routes, asked without a socket.

use axum::body::{Body, to_bytes};
use axum::http::Method;
use serde_json::Value;
use tower::ServiceExt;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn page(options: Options) -> Router {
    router(Arc::new(Page {
        options,
        ws_port: 3102,
        signer: Some(Signer::new(SECRET, "", "")),
    }))
}

fn ask(
    method: Method,
    path: &str,
    headers: &[(&'static str, &str)],
    body: &'static str,
) -> Request {
    let mut request = Request::builder().method(method).uri(path);
    let mut peer = SocketAddr::from(([127, 0, 0, 1], 5));
    let mut host = "localhost:1999";
    for (name, value) in headers {
        match *name {
            "peer" => peer = value.parse().unwrap(),
            "host" => host = value,
            name => request = request.header(name, *value),
        }
    }
    request
        .header("host", host)
        .extension(peer)
        .body(Body::from(body))
        .unwrap()
}

async fn answer(router: &Router, request: Request) -> (StatusCode, axum::http::HeaderMap, Vec<u8>) {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    (
        parts.status,
        parts.headers,
        to_bytes(body, 1 << 20).await.unwrap().to_vec(),
    )
}

async fn guest(headers: &[(&'static str, &str)], body: &'static str) -> (StatusCode, Value) {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    let (status, _, body) = answer(
        &page(Options::default()),
        ask(Method::POST, "/guest", &all, body),
    )
    .await;
    (status, serde_json::from_slice(&body).unwrap())
}

const ANN: &str = r#"{"name": "Ann"}"#;

#[tokio::test]
async fn files_carry_their_type_a_tag_and_a_policy_that_names_the_socket() {
    let page = page(Options::default());
    let (status, headers, body) = answer(&page, ask(Method::GET, "/", &[], "")).await;
    assert_eq!(status, StatusCode::OK);
    assert!(body.starts_with(b"<!doctype html>"));
    assert_eq!(headers["content-type"], "text/html; charset=utf-8");
    let policy = headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("script-src 'self';")
            && policy.contains("connect-src 'self' ws://localhost:3102;"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"), "{policy}");

    let tag = headers["etag"].to_str().unwrap();
    let (status, _, body) =
        answer(&page, ask(Method::GET, "/", &[("if-none-match", tag)], "")).await;
    assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0));
    let (status, headers, _) =
        answer(&page, ask(Method::GET, "/client/imcluster.js", &[], "")).await;
    assert_eq!(
        (status, headers["content-type"].to_str().unwrap()),
        (StatusCode::OK, "text/javascript; charset=utf-8")
    );
    for missing in [
        "/nothing",
        "/../Cargo.toml",
        "/client/",
        "/client/..%2f..%2fCargo.toml",
    ] {
        assert_eq!(
            answer(&page, ask(Method::GET, missing, &[], "")).await.0,
            StatusCode::NOT_FOUND,
            "{missing}"
        );
    }
    assert_eq!(
        answer(&page, ask(Method::DELETE, "/", &[], "")).await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
}

#[tokio::test]
async fn a_guest_gets_a_short_token_for_a_name_of_its_own() {
    let (status, told) = guest(&[("origin", "http://localhost:1999")], ANN).await;
    assert_eq!(
        (status, told["user"].as_str()),
        (StatusCode::OK, Some("guest:Ann"))
    );
    let mut wanted = jsonwebtoken::Validation::default();
    wanted.set_required_spec_claims(&["exp", "sub"]);
    let key = jsonwebtoken::DecodingKey::from_secret(SECRET.as_bytes());
    let claims = jsonwebtoken::decode::<Value>(told["token"].as_str().unwrap(), &key, &wanted)
        .unwrap()
        .claims;
    assert_eq!(
        (claims["sub"].as_str(), claims["rooms"][0].as_str()),
        (Some("guest:Ann"), Some("*"))
    );
    assert!(claims["scope"] == "guest" && claims.get("aud").is_none());
    assert!(
        claims["iat"].as_u64() < claims["exp"].as_u64(),
        "a revocation would end one without: {claims}"
    );
    let left = claims["exp"]
        .as_u64()
        .unwrap()
        .abs_diff(told["expires"].as_u64().unwrap() / 1000);
    assert!(left <= 1);
}

#[tokio::test]
async fn nobody_from_elsewhere_gets_a_guest_token() {
    for elsewhere in [
        ("peer", "10.0.0.9:5"),
        ("host", "evil.example:1999"),
        ("host", "localhost.evil.example"),
        ("origin", "http://evil.example"),
        ("origin", "http://localhost:8080"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
        ("x-forwarded-for", "10.0.0.9"),
    ] {
        let (status, told) = guest(&[elsewhere], ANN).await;
        assert_eq!(
            (status, told["error"]["code"].as_str()),
            (StatusCode::FORBIDDEN, Some("forbidden")),
            "{elsewhere:?}"
        );
    }
    for here in [
        ("peer", "[::1]:5"),
        ("peer", "[::ffff:127.0.0.1]:5"),
        ("host", "127.0.0.1:1999"),
        ("host", "[::1]:1999"),
    ] {
        assert_eq!(guest(&[here], ANN).await.0, StatusCode::OK, "{here:?}");
    }
}

#[tokio::test]
async fn a_wish_that_is_none_is_told_what_to_write() {
    for (body, field) in [
        ("", "name"),
        ("[]", "name"),
        (r#"{"name": " "}"#, "name"),
        (r#"{"name": 7}"#, "name"),
    ] {
        let (status, told) = guest(&[], body).await;
        assert_eq!(
            (status, told["error"]["field"].as_str()),
            (StatusCode::BAD_REQUEST, Some(field)),
            "{body}"
        );
    }
    let form = ask(
        Method::POST,
        "/guest",
        &[("content-type", "text/plain")],
        ANN,
    );
    assert_eq!(
        answer(&page(Options::default()), form).await.0,
        StatusCode::BAD_REQUEST
    );
    let bad_host = ask(Method::GET, "/", &[("host", "a;b")], "");
    assert_eq!(
        answer(&page(Options::default()), bad_host).await.0,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn guests_can_be_switched_off() {
    let off = page(Options {
        guests: false,
        ws_url: Some("wss://chat.example/ws".to_owned()),
        ..Options::default()
    });
    let wish = ask(
        Method::POST,
        "/guest",
        &[("content-type", "application/json")],
        ANN,
    );
    assert_eq!(answer(&off, wish).await.0, StatusCode::FORBIDDEN);
    let (_, headers, body) = answer(&off, ask(Method::GET, "/config.json", &[], "")).await;
    let told: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (told["guests"].as_bool(), told["ws_url"].as_str()),
        (Some(false), Some("wss://chat.example/ws"))
    );
    assert!(
        headers["content-security-policy"]
            .to_str()
            .unwrap()
            .contains("connect-src 'self' wss://chat.example/ws;")
    );
}
