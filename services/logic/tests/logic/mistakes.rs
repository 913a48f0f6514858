//! Every mistake a caller can make is answered in one shape and harms nobody else.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::site::{Site, admin, now, options, signed, token};

#[tokio::test]
async fn nothing_is_answered_without_a_token() {
    let site = Site::new().await;
    let routes = [
        (Method::GET, "/v1/me"),
        (Method::GET, "/v1/rooms"),
        (Method::POST, "/v1/rooms"),
        (Method::GET, "/v1/rooms/r"),
        (Method::GET, "/v1/rooms/r/messages"),
        (Method::POST, "/v1/rooms/r/messages"),
        (Method::POST, "/v1/rooms/r/signals"),
        (Method::PUT, "/v1/rooms/r/read"),
        (Method::GET, "/v1/rooms/r/members"),
        (Method::POST, "/v1/rooms/r/members"),
        (Method::DELETE, "/v1/rooms/r/members/u"),
        (Method::POST, "/v1/rooms/r/join"),
        (Method::POST, "/v1/rooms/r/leave"),
        (Method::GET, "/v1/conversations"),
        (Method::GET, "/v1/unread"),
        (Method::GET, "/v1/presence?users=a"),
        (Method::POST, "/v1/users/u/push"),
        (Method::POST, "/v1/devices/d/push"),
        (Method::POST, "/v1/broadcast"),
        (Method::POST, "/v1/kick"),
        (Method::GET, "/v1/nodes"),
    ];
    for (method, path) in routes {
        let answer = site.raw(method.clone(), path, "", "{}").await;
        assert_eq!(
            answer.refused(),
            (401, "unauthenticated", "token"),
            "{method} {path}"
        );
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
    }
}

#[tokio::test]
async fn a_bad_token_is_told_apart_from_an_old_one() {
    let site = Site::new().await;
    let expired = signed(&json!({"sub": "ann", "exp": now() - 60}));
    assert_eq!(
        site.get(&expired, "/v1/me").await.refused(),
        (401, "token_expired", "token")
    );
    let mut forged = token("ann");
    forged.truncate(forged.len() - 4);
    for bad in [
        forged.as_str(),
        "nonsense",
        "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4iLCJleHAiOjk5OTk5OTk5OTl9.",
    ] {
        assert_eq!(
            site.get(bad, "/v1/me").await.refused(),
            (401, "unauthenticated", "token"),
            "{bad}"
        );
    }
    let me = site
        .get(
            &signed(&json!({"sub": "ann", "dev": "phone", "exp": now() + 60})),
            "/v1/me",
        )
        .await
        .good();
    assert_eq!(
        (&me["user"], &me["device"], &me["admin"]),
        (&json!("ann"), &json!("phone"), &json!(false))
    );
}

#[tokio::test]
async fn bad_fields_are_named() {
    let site = Site::new().await;
    let ann = token("ann");
    let room = site.group(&ann, &[]).await;
    let messages = format!("/v1/rooms/{room}/messages");
    let long = "x".repeat(129);
    let table = [
        ("/v1/rooms".to_owned(), json!({}), "kind"),
        ("/v1/rooms".to_owned(), json!({"kind": "party"}), "kind"),
        ("/v1/rooms".to_owned(), json!({"kind": 5}), "kind"),
        (
            "/v1/rooms".to_owned(),
            json!({"kind": "group", "id": ""}),
            "id",
        ),
        (
            "/v1/rooms".to_owned(),
            json!({"kind": "group", "id": "a b"}),
            "id",
        ),
        (
            "/v1/rooms".to_owned(),
            json!({"kind": "group", "id": "direct:x"}),
            "id",
        ),
        (
            "/v1/rooms".to_owned(),
            json!({"kind": "group", "members": "bob"}),
            "members",
        ),
        (
            "/v1/rooms".to_owned(),
            json!({"kind": "group", "members": [5]}),
            "members[0]",
        ),
        (
            "/v1/rooms".to_owned(),
            json!({"kind": "direct", "members": ["ann"]}),
            "members",
        ),
        (
            "/v1/rooms".to_owned(),
            json!({"kind": "direct", "members": ["ann", "ann"]}),
            "members",
        ),
        ("/v1/rooms".to_owned(), json!({"kind": "open"}), "id"),
        (messages.clone(), json!({}), "body"),
        (
            messages.clone(),
            json!({"body": 1, "body_base64": "AA=="}),
            "body_base64",
        ),
        (messages.clone(), json!({"body_base64": "?"}), "body_base64"),
        (
            messages.clone(),
            json!({"body": "x", "client_id": long}),
            "client_id",
        ),
        (
            messages.clone(),
            json!({"body": "x", "client_id": "a b"}),
            "client_id",
        ),
        (
            messages.clone(),
            json!({"body": "x", "client_id": 5}),
            "client_id",
        ),
        (
            messages.clone(),
            json!({"body": "x", "type": "im.join"}),
            "type",
        ),
        (
            messages.clone(),
            json!({"body": "x", "type": "y".repeat(65)}),
            "type",
        ),
        (
            format!("/v1/rooms/{room}/signals"),
            json!({"body": "x"}),
            "type",
        ),
        (format!("/v1/rooms/{room}/members"), json!({}), "user"),
        (
            "/v1/rooms/a%20b/messages".to_owned(),
            json!({"body": "x"}),
            "room",
        ),
        (
            "/v1/rooms/direct%3Ax/messages".to_owned(),
            json!({"body": "x"}),
            "room",
        ),
    ];
    for (path, body, field) in table {
        let answer = site.post(&ann, &path, body.clone()).await;
        assert_eq!(
            answer.refused(),
            (400, "bad_request", field),
            "{path} {body}: {answer:?}"
        );
    }
    for (query, field) in [
        ("?after=x", "after"),
        ("?before=-1", "before"),
        ("?limit=1.5", "limit"),
    ] {
        assert_eq!(
            site.get(&ann, &format!("{messages}{query}"))
                .await
                .refused(),
            (400, "bad_request", field)
        );
    }
    let read = site
        .put(&ann, &format!("/v1/rooms/{room}/read"), json!({"seq": "1"}))
        .await;
    assert_eq!(read.refused(), (400, "bad_request", "seq"));
    assert_eq!(
        site.get(&ann, "/v1/presence").await.refused(),
        (400, "bad_request", "users")
    );
}

#[tokio::test]
async fn what_is_no_json_object_is_refused() {
    let site = Site::new().await;
    let ann = token("ann");
    for body in [
        "{",
        "[]",
        "5",
        "\"text\"",
        "{\"kind\": \"group\"} {}",
        "\u{0}",
    ] {
        let answer = site
            .raw(Method::POST, "/v1/rooms", &ann, body.to_owned())
            .await;
        assert_eq!(
            (answer.status, answer.refused().1),
            (400, "bad_request"),
            "{body}"
        );
    }
    let answer = site
        .raw(
            Method::POST,
            "/v1/rooms",
            &ann,
            Bytes::from_static(b"\xff\xfe"),
        )
        .await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn too_much_is_refused() {
    let mut options = options();
    options.limits.max_body_bytes = 100;
    options.http.max_request_bytes = 1000;
    let site = Site::with(options).await;
    let ann = token("ann");
    let path = "/v1/rooms/direct%3A3%3Aann%3Abob/messages";
    assert_eq!(
        site.post(&ann, path, json!({"body": "x".repeat(100)}))
            .await
            .status,
        201
    );
    assert_eq!(
        site.post(&ann, path, json!({"body": "x".repeat(101)}))
            .await
            .refused(),
        (413, "too_large", "body")
    );
    assert_eq!(
        site.post(&ann, path, json!({"body": "x".repeat(2000)}))
            .await
            .refused()
            .0,
        413
    );
    let many: Vec<_> = (0..101).map(|number| format!("u{number}")).collect();
    let presence = site
        .get(&ann, &format!("/v1/presence?users={}", many.join(",")))
        .await;
    assert_eq!(presence.refused(), (409, "limit_reached", ""));
}

#[tokio::test]
async fn unknown_routes_and_methods_are_answered_in_the_same_shape() {
    let site = Site::new().await;
    assert_eq!(
        site.get(&token("ann"), "/v2/rooms").await.refused(),
        (404, "bad_request", "")
    );
    assert_eq!(site.get("", "/").await.refused(), (404, "bad_request", ""));
    assert_eq!(
        site.delete(&token("ann"), "/v1/rooms").await.refused(),
        (405, "bad_request", "")
    );
}

#[tokio::test]
async fn what_needs_an_administrator_says_so() {
    let site = Site::new().await;
    let ann = token("ann");
    for path in [
        "/v1/users/bob/push",
        "/v1/devices/d/push",
        "/v1/broadcast",
        "/v1/kick",
    ] {
        let answer = site
            .post(&ann, path, json!({"body": "x", "user": "bob"}))
            .await;
        assert_eq!(answer.refused(), (403, "forbidden", ""), "{path}");
    }
    assert_eq!(
        site.get(&ann, "/v1/nodes").await.refused(),
        (403, "forbidden", "")
    );
    assert_eq!(site.get(&admin(), "/v1/nodes").await.status, 200);
}

#[tokio::test]
async fn a_user_who_asks_too_often_waits_and_nobody_else_does() {
    let mut options = options();
    options.http.user_rate = 0.1;
    options.http.user_burst = 3.0;
    let site = Site::with(options).await;
    let ann = token("ann");
    for _ in 0..3 {
        assert_eq!(site.get(&ann, "/v1/me").await.status, 200);
    }
    let limited = site.get(&ann, "/v1/me").await;
    assert_eq!(limited.refused(), (429, "rate_limited", ""));
    assert!(
        limited.headers["retry-after"]
            .to_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
            >= 1
    );
    assert_eq!(site.get(&token("bob"), "/v1/me").await.status, 200);
    for _ in 0..10 {
        assert_eq!(site.get(&admin(), "/v1/me").await.status, 200);
    }
}

#[tokio::test]
async fn requests_beyond_the_bound_are_refused_at_once() {
    let mut options = options();
    options.http.max_requests = 0;
    let site = Site::with(options).await;
    let answer = site.get(&token("ann"), "/v1/me").await;
    assert_eq!(answer.refused(), (503, "unavailable", ""));
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn a_header_that_does_not_end_costs_its_own_connection() {
    let mut options = options();
    options.http.header_timeout = std::time::Duration::from_millis(100);
    let site = Site::with(options).await;
    let mut slow = TcpStream::connect(site.http).await.unwrap();
    slow.write_all(b"GET /v1/me HTTP/1.1\r\nhost: x\r\n")
        .await
        .unwrap();
    let mut left = Vec::new();
    tokio::time::timeout(crate::site::TIMEOUT, slow.read_to_end(&mut left))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(site.get(&token("ann"), "/v1/me").await.status, 200);
}

#[tokio::test]
async fn the_content_type_does_not_matter() {
    let site = Site::new().await;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}/v1/rooms", site.http))
        .header("authorization", format!("bearer {}", token("ann")))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::new(Bytes::from_static(br#"{"kind": "group"}"#)))
        .unwrap();
    assert_eq!(site.send(request).await.status, 201);
}
