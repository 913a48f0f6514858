//! Attacks on the HTTP API.

use std::time::Duration;

use anyhow::{Result, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::hostile::target::{CUT_OFF, HARM, STILL_HELD, Target, attackers, hold};
use crate::http;
use crate::token::token;

pub(super) async fn endless_headers(target: &Target, span: Duration) -> Result<String> {
    let end = Instant::now() + span;
    let line = format!("X-Long: {}", "x".repeat(400 << 10));
    let outcome = attackers(1_300, |_| {
        let target = target.clone();
        let line = line.clone();
        async move {
            let mut socket = target.connect(&target.http).await?;
            let written = async {
                socket.write(b"GET /v1/me HTTP/1.1\r\nHost: a\r\n").await?;
                socket.write(line.as_bytes()).await
            };
            if written.await.is_err() {
                return Ok(CUT_OFF);
            }
            Ok(hold(socket, end).await)
        }
    });
    Ok(outcome.await)
}

pub(super) async fn slow_bodies(target: &Target, span: Duration) -> Result<String> {
    let end = Instant::now() + span;
    let outcome = attackers(1_100, |_| {
        let target = target.clone();
        async move {
            let mut socket = target.connect(&target.http).await?;
            socket
                .write(b"POST /goim/push/all?operation=1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
                .await?;
            while Instant::now() < end {
                if socket.is_closed() || socket.write(b"x").await.is_err() {
                    return Ok(CUT_OFF);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Ok(STILL_HELD)
        }
    });
    Ok(outcome.await)
}

pub(super) async fn group_bombs(target: &Target, span: Duration) -> Result<String> {
    let mallory = token("mallory", "", &[])?;
    let ann = token("ann", "", &[])?;
    let victim = token("victim", "", &[])?;
    let direct = "direct:3:ann:victim";
    let hello = json!({"body": "hello"}).to_string();
    let path = format!("/v1/rooms/{}/messages", direct.replace(':', "%3A"));
    let (status, text) =
        http::call(Method::POST, &target.http, &path, Some(&ann), hello.into()).await?;
    ensure!(status == 201, "{status} {text}");

    let end = Instant::now() + span;
    let made = attackers(8, |number| {
        let target = target.clone();
        let mallory = mallory.clone();
        async move {
            let mut made = 0;
            while Instant::now() < end {
                let id = format!("!{number}-{made:06}-{}", "x".repeat(200));
                let named = json!({"kind": "group", "id": id, "members": ["victim"]}).to_string();
                let (status, _) = http::call(
                    Method::POST,
                    &target.http,
                    "/v1/rooms",
                    Some(&mallory),
                    named.into(),
                )
                .await?;
                if status == 201 {
                    made += 1;
                    continue;
                }
                let unnamed = json!({"kind": "group", "members": ["victim"]}).to_string();
                let (status, _) = http::call(
                    Method::POST,
                    &target.http,
                    "/v1/rooms",
                    Some(&mallory),
                    unnamed.into(),
                )
                .await?;
                match status {
                    201 => made += 1,
                    // Above the rate limit: a faster pace gains nothing.
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
            Ok(if made > 0 { "made groups" } else { "made none" })
        }
    });
    let made = made.await;
    let mut socket = target.websocket().await?;
    socket
        .send_json(&json!({"op": "auth", "req": 1, "token": victim, "all": true}))
        .await?;
    let own_room = async {
        loop {
            let answer = socket.receive("subscribed").await?;
            let rooms = answer["rooms"].as_array().cloned().unwrap_or_default();
            let own = rooms.iter().find(|room| room["room"] == direct);
            if let Some(own) = own {
                return anyhow::Ok((rooms.len(), own["error"] == Value::Null));
            }
        }
    };
    let (listed, subscribed) = tokio::time::timeout(Duration::from_secs(20), own_room)
        .await
        .unwrap_or(Ok((0, false)))?;
    let harm = if subscribed { "" } else { HARM };
    Ok(format!(
        "{harm} {made}; the victim's list has {listed} rooms, subscribed to its own direct room: {subscribed}"
    ))
}

pub(super) async fn bad_json(target: &Target, span: Duration) -> Result<String> {
    let mallory = token("mallory", "", &[])?;
    let victim = token("victim", "", &[])?;
    let room = "direct:7:mallory:victim";
    let end = Instant::now() + span;
    let mut socket = target.authenticated(&mallory).await?;
    socket
        .send_json(&json!({"op": "send", "req": 2, "room": room, "body": "hello"}))
        .await?;
    socket.receive("ack").await?;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let mut requests = 0;
    let mut failed = 0;
    for body in ["1e999", deep.as_str(), r#"{"a":"\ud800"}"#].iter().cycle() {
        // As text: a JSON library would not write this.
        let request = format!(r#"{{"op":"send","req":3,"room":"{room}","body":{body}}}"#);
        socket.frame(1, request.as_bytes()).await?;
        if socket.is_closed() {
            socket = target.authenticated(&mallory).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        let (status, _) = http::call(
            Method::GET,
            &target.http,
            "/v1/conversations",
            Some(&victim),
            Default::default(),
        )
        .await?;
        requests += 1;
        failed += u32::from(status != 200);
        if Instant::now() > end {
            break;
        }
    }
    let harm = if failed > 0 {
        format!("{HARM}: ")
    } else {
        String::new()
    };
    Ok(format!(
        "{harm}{failed} of {requests} requests for conversations failed"
    ))
}
