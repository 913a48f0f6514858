//! Attacks of somebody with a token, on rooms and their logs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::raw::Raw;
use super::{FROM, HARM, Prepared, Target, crowd};
use crate::token::token;

/// What the attacker's token covers.
const ROOMS: &[&str] = &["full-*", "storm-*"];
/// How many rooms one request names.
const NAMED: usize = 1_000;

/// Open rooms with so many messages of so many bytes each, made by a backend.
pub(super) async fn full_rooms(target: &Target, rooms: usize, messages: usize, bytes: usize) -> Result<Prepared> {
    let admin = token("backend", "admin", &["full-*"])?;
    let names: Vec<String> = (0..rooms).map(|number| format!("full-{number:04}")).collect();
    let mut under_way = JoinSet::new();
    for name in &names {
        let (target, admin, name) = (target.clone(), admin.clone(), name.clone());
        under_way.spawn(async move {
            post(&target, &admin, "/v1/rooms", &json!({"kind": "open", "id": name})).await?;
            for _ in 0..messages {
                let path = format!("/v1/rooms/{name}/messages");
                post(&target, &admin, &path, &json!({"body": "x".repeat(bytes)})).await?;
            }
            anyhow::Ok(())
        });
        if under_way.len() >= 16 {
            under_way.join_next().await.context("one is under way")???;
        }
    }
    under_way.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(Prepared { rooms: names })
}

async fn post(target: &Target, token: &str, path: &str, body: &Value) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        let answer = crate::http::call(Method::POST, &target.http, path, Some(token), body.to_string().into()).await?;
        if answer.0 != 429 && answer.0 != 503 {
            ensure!(answer.0 < 300, "{path}: {} {}", answer.0, answer.1);
            return Ok(());
        }
        ensure!(Instant::now() < until, "{path}: {} {} for too long", answer.0, answer.1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Says the same requests for `span`, reading whatever comes as fast as it can; what ended it.
async fn repeat(mut raw: Raw, requests: &[Value], span: Duration) -> Result<&'static str> {
    let until = Instant::now() + span;
    while Instant::now() < until {
        for request in requests {
            if raw.say(request).await.is_err() || !raw.drain_slowly(Duration::from_millis(10), 100 << 20).await {
                return Ok("cut off");
            }
        }
    }
    Ok("served to the end")
}

fn from(rooms: &[String], seq: u64) -> Value {
    let rooms: Vec<Value> = rooms.iter().map(|room| json!({"room": room, "epoch": 0, "seq": seq})).collect();
    json!({"op": "subscribe", "req": 2, "rooms": rooms})
}

pub(super) async fn resume_storm(target: &Target, rooms: &[String], span: Duration) -> Result<String> {
    let token = token("mallory", "", ROOMS)?;
    let outcome = crowd(4, |_| {
        let (target, token, request) = (target.clone(), token.clone(), from(rooms, 0));
        async move {
            let raw = Raw::native(FROM, &target.ws, &token, &target.spent).await?;
            repeat(raw, &[request], span).await
        }
    });
    Ok(outcome.await)
}

pub(super) async fn far_positions(target: &Target, rooms: &[String], span: Duration) -> Result<String> {
    let token = token("mallory", "", ROOMS)?;
    let mut raw = Raw::native(FROM, &target.ws, &token, &target.spent).await?;
    raw.say(&from(rooms, u64::MAX)).await?;
    let resets = async {
        let mut resets = 0;
        while resets < rooms.len() {
            match raw.hear("reset").await {
                Ok(_) => resets += 1,
                Err(_) => break,
            }
        }
        resets
    };
    let resets = tokio::time::timeout(span, resets).await.unwrap_or(0);
    let harm = if resets < rooms.len() { format!("{HARM}: ") } else { String::new() };
    Ok(format!("{harm}{resets} of {} positions answered by reset", rooms.len()))
}

pub(super) async fn unread_pages(target: &Target, rooms: &[String], span: Duration) -> Result<String> {
    let token = token("mallory", "", ROOMS)?;
    let until = Instant::now() + span;
    let room = rooms.first().context("a room was prepared")?;
    let request = json!({"op": "history", "req": 3, "room": room, "limit": 1000});
    let outcome = crowd(600, |_| {
        let (target, token, request) = (target.clone(), token.clone(), request.clone());
        async move {
            let mut raw = Raw::native(FROM, &target.ws, &token, &target.spent).await?;
            raw.say(&request).await?;
            tokio::time::sleep_until(until).await;
            Ok("left waiting")
        }
    });
    Ok(outcome.await)
}

pub(super) async fn fat_messages(target: &Target, span: Duration) -> Result<String> {
    let token = token("mallory", "", ROOMS)?;
    let body = "x".repeat(60 << 10);
    let outcome = crowd(4, |number| {
        let (target, token) = (target.clone(), token.clone());
        let request = json!({"op": "send", "req": 4, "room": format!("storm-{number}"), "body": body});
        async move {
            let raw = Raw::native(FROM, &target.ws, &token, &target.spent).await?;
            repeat(raw, &[request], span).await
        }
    });
    let outcome = outcome.await;
    let bytes = target.spent.bytes.load(Ordering::Relaxed) as f64;
    Ok(format!("{outcome}; {:.1} MiB/s taken", bytes / span.as_secs_f64() / f64::from(1 << 20)))
}

pub(super) async fn fat_room(target: &Target, rooms: &[String], span: Duration) -> Result<String> {
    const READERS: usize = 100;
    /// Bytes per second that each of them reads: a megabit.
    const PACE: usize = 125_000;
    let room = rooms.first().context("a room was prepared")?;
    let join = json!({"op": "subscribe", "req": 2, "rooms": [room]});
    let fallen = std::sync::Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        let token = token(&format!("reader-{number}"), "", ROOMS)?;
        let (target, join, fallen) = (target.clone(), join.clone(), std::sync::Arc::clone(&fallen));
        readers.spawn(async move {
            let mut raw = Raw::native(FROM, &target.ws, &token, &target.spent).await?;
            raw.say(&join).await?;
            if !raw.drain_slowly(span, PACE).await {
                fallen.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    let token = token("mallory", "", ROOMS)?;
    let request = json!({"op": "send", "req": 4, "room": room, "body": "x".repeat(60 << 10)});
    let writer = Raw::native(FROM, &target.ws, &token, &target.spent).await?;
    let writer = repeat(writer, &[request], span).await?;
    readers.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    let fallen = fallen.load(Ordering::Relaxed);
    let harm = if fallen > 0 { format!("{HARM}: ") } else { String::new() };
    Ok(format!("{harm}{fallen} of {READERS} readers at 1 Mbit/s lost; the writer: {writer}"))
}

pub(super) async fn subscribe_storm(target: &Target, span: Duration) -> Result<String> {
    let token = token("mallory", "", ROOMS)?;
    let next = std::sync::Arc::new(AtomicU64::new(0));
    let until = Instant::now() + span;
    let outcome = crowd(4, |_| {
        let (target, token, next) = (target.clone(), token.clone(), std::sync::Arc::clone(&next));
        async move {
            let mut raw = Raw::native(FROM, &target.ws, &token, &target.spent).await?;
            while Instant::now() < until {
                let first = next.fetch_add(NAMED as u64, Ordering::Relaxed);
                let rooms: Vec<String> = (first..).take(NAMED).map(|number| format!("storm-{number}")).collect();
                let enter = json!({"op": "subscribe", "req": 5, "rooms": rooms});
                let leave = json!({"op": "unsubscribe", "req": 6, "rooms": rooms});
                for request in [enter, leave] {
                    if raw.say(&request).await.is_err() || !raw.drain_slowly(Duration::from_millis(10), 100 << 20).await
                    {
                        return Ok("cut off");
                    }
                }
            }
            Ok("served to the end")
        }
    });
    let outcome = outcome.await;
    Ok(format!("{outcome}; {:.0} rooms a second named", next.load(Ordering::Relaxed) as f64 / span.as_secs_f64()))
}
