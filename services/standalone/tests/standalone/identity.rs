//! Nobody is believed: who is not who they say, or not where they may be, is told so.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::Method;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

use crate::chat::ask;
use crate::console::{Console, Heard};
use crate::server::Server;

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs())
}

fn signed(secret: &str, algorithm: Algorithm, claims: &Value) -> String {
    encode(
        &Header::new(algorithm),
        claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )
    .unwrap()
}

fn unsigned(claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!(
        "{}.{}.",
        part(&json!({"alg": "none", "typ": "JWT"})),
        part(claims)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_good_opens_nothing() -> Result<()> {
    let server = Server::start(&[]).await?;
    let secret = std::fs::read_to_string(server.data().join("auth.secret"))?
        .trim()
        .to_owned();
    let good = json!({"sub": "ann", "exp": now() + 60, "scope": "admin"});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        claims
    };
    let mut no_end = good.clone();
    no_end.as_object_mut().unwrap().remove("exp");
    let forged = signed(&"x".repeat(32), Algorithm::HS256, &good);
    let (head, signature) = forged.rsplit_once('.').unwrap();
    for (what, token, error, code) in [
        ("another secret", forged.clone(), "unauthenticated", 4001),
        ("alg none", unsigned(&good), "unauthenticated", 4001),
        (
            "alg none with a signature",
            format!("{}{signature}", unsigned(&good)),
            "unauthenticated",
            4001,
        ),
        (
            "another algorithm",
            signed(&secret, Algorithm::HS512, &good),
            "unauthenticated",
            4001,
        ),
        ("no signature", format!("{head}."), "unauthenticated", 4001),
        ("garbage", "garbage".to_owned(), "unauthenticated", 4001),
        ("nothing", String::new(), "unauthenticated", 4001),
        (
            "no end",
            signed(&secret, Algorithm::HS256, &no_end),
            "unauthenticated",
            4001,
        ),
        (
            "no subject",
            signed(&secret, Algorithm::HS256, &with("sub", Value::Null)),
            "unauthenticated",
            4001,
        ),
        (
            "not yet",
            signed(&secret, Algorithm::HS256, &with("nbf", json!(now() + 3600))),
            "unauthenticated",
            4001,
        ),
        (
            "another device",
            signed(&secret, Algorithm::HS256, &with("dev", json!("phone"))),
            "unauthenticated",
            4001,
        ),
        (
            "over",
            signed(&secret, Algorithm::HS256, &with("exp", json!(now() - 60))),
            "token_expired",
            4002,
        ),
    ] {
        let mut console = Console::open(&server).await?;
        console
            .send(json!({"op": "auth", "token": token, "device": "console"}))
            .await?;
        match console.next().await? {
            Heard::Frame(frame) => assert_eq!(
                (frame["op"].as_str(), frame["code"].as_str()),
                (Some("error"), Some(error)),
                "{what}: {frame}"
            ),
            Heard::Closed(code) => panic!("{what}: closed with {code} before a word"),
        }
        assert_eq!(console.closed().await?, code, "{what}");
        if what != "another device" {
            let (status, told) =
                ask(&server, Method::GET, "/v1/rooms", &token, Value::Null).await?;
            assert_eq!(
                (status, told["error"]["code"].as_str()),
                (401, Some(error)),
                "{what} over HTTP: {told}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_connection_ends_with_its_token_unless_a_newer_one_comes() -> Result<()> {
    let server = Server::start(&["--auth-leeway", "0s"]).await?;
    let secret = std::fs::read_to_string(server.data().join("auth.secret"))?
        .trim()
        .to_owned();
    let token = |user: &str, seconds: u64| {
        signed(
            &secret,
            Algorithm::HS256,
            &json!({"sub": user, "exp": now() + seconds, "rooms": ["*"]}),
        )
    };
    let mut forgetful = Console::enter(&server, &token("ann", 3)).await?;
    let mut careful = Console::enter(&server, &token("bob", 3)).await?;
    assert_eq!(
        careful
            .refused(json!({"op": "refresh", "token": token("eve", 600)}))
            .await?,
        "unauthenticated"
    );
    assert_eq!(
        careful
            .ask(json!({"op": "refresh", "token": token("bob", 600)}))
            .await?["op"],
        "refreshed"
    );
    assert_eq!(forgetful.closed().await?, 4002);
    careful.lives().await
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_stay_outside() -> Result<()> {
    const DIRECT: &str = "direct:3:ann:bob";
    let server = Server::start(&[]).await?;
    let (ann, eve) = (
        server.token("ann", &[], "")?,
        server.token("eve", &["open-*"], "")?,
    );
    let backend = server.token("backend", &[], "admin")?;
    let group = json!({"id": "team", "kind": "group", "members": ["bob", {"user": "ann", "role": "owner"}]});
    assert_eq!(
        ask(&server, Method::POST, "/v1/rooms", &backend, group)
            .await?
            .0,
        201
    );
    let mut ann = Console::enter(&server, &ann).await?;
    for room in [DIRECT, "team"] {
        let sent =
            ann.ask(json!({"op": "send", "room": room, "client_id": "c", "type": "text", "body": "secret"})).await?;
        assert_eq!(sent["op"], "ack", "{sent}");
    }
    let mut eve = Console::enter(&server, &eve).await?;
    for (room, code) in [
        (DIRECT, "forbidden"),
        ("team", "not_a_member"),
        ("nowhere", "no_such_room"),
        ("direct:1:eve:x", "bad_request"),
    ] {
        for asked in [
            json!({"op": "send", "room": room, "client_id": "c", "type": "text", "body": "x"}),
            json!({"op": "signal", "room": room, "type": "typing"}),
            json!({"op": "history", "room": room}),
            json!({"op": "read", "room": room, "seq": 1}),
            json!({"op": "subscribe", "rooms": [{"room": room, "seq": 0}]}),
        ] {
            assert_eq!(eve.refused(asked.clone()).await?, code, "{asked}");
        }
    }
    let sent = eve
        .ask(json!({"op": "send", "room": "open-1", "client_id": "c", "type": "text", "body": "x"}))
        .await?;
    assert_eq!(sent["op"], "ack", "{sent}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_client_id_is_stored_once_and_another_senders_is_another() -> Result<()> {
    let server = Server::start(&[]).await?;
    let mut ann = Console::enter(&server, &server.token("ann", &["*"], "")?).await?;
    let mut bob = Console::enter(&server, &server.token("bob", &["*"], "")?).await?;
    let say = |room: &str| json!({"op": "send", "room": room, "client_id": "1", "type": "text", "body": "x"});
    let mut places = Vec::new();
    for (who, room) in [(&mut ann, "r"), (&mut bob, "r")] {
        for _ in 0..2 {
            let ack = who.ask(say(room)).await?;
            places.push((ack["seq"].as_u64(), ack["duplicate"].as_bool()));
        }
    }
    let elsewhere = ann.ask(say("other")).await?;
    places.push((elsewhere["seq"].as_u64(), elsewhere["duplicate"].as_bool()));
    let place = |seq, duplicate| (Some(seq), Some(duplicate));
    assert_eq!(
        places,
        [
            place(1, false),
            place(1, true),
            place(2, false),
            place(2, true),
            place(1, false)
        ]
    );
    Ok(())
}
