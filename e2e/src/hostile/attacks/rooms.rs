//! Attacks by an authenticated user on rooms and their logs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::hostile::raw_socket::RawSocket;
use crate::hostile::target::{CUT_OFF, HARM, Prepared, SERVED, Target, attackers};
use crate::token::token;

/// The rooms that the attacker's token covers.
const ROOMS: &[&str] = &["full-*", "storm-*"];
/// How many rooms one request names.
const ROOMS_PER_REQUEST: usize = 1_000;

/// Creates open rooms with this many messages of this size each.
pub(super) async fn full_rooms(
    target: &Target,
    rooms: usize,
    messages: usize,
    bytes: usize,
) -> Result<Prepared> {
    let admin = token("backend", "admin", &["full-*"])?;
    let names: Vec<String> = (0..rooms)
        .map(|number| format!("full-{number:04}"))
        .collect();
    let mut requests = JoinSet::new();
    for name in &names {
        let target = target.clone();
        let admin = admin.clone();
        let name = name.clone();
        requests.spawn(async move {
            post(
                &target,
                &admin,
                "/v1/rooms",
                &json!({"kind": "open", "id": name}),
            )
            .await?;
            for _ in 0..messages {
                let path = format!("/v1/rooms/{name}/messages");
                post(&target, &admin, &path, &json!({"body": "x".repeat(bytes)})).await?;
            }
            anyhow::Ok(())
        });
        if requests.len() >= 16 {
            requests
                .join_next()
                .await
                .context("no request is running")???;
        }
    }
    requests
        .join_all()
        .await
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    Ok(Prepared { rooms: names })
}

async fn post(target: &Target, token: &str, path: &str, body: &Value) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, text) = crate::http::call(
            Method::POST,
            &target.http,
            path,
            Some(token),
            body.to_string().into(),
        )
        .await?;
        if status != 429 && status != 503 {
            ensure!(status < 300, "{path}: {status} {text}");
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{path}: {status} {text} for too long"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Sends a request and reads for a moment; `false`: the server has closed.
async fn exchange(socket: &mut RawSocket, request: &Value) -> bool {
    socket.send_json(request).await.is_ok()
        && socket
            .drain_slowly(Duration::from_millis(10), 100 << 20)
            .await
}

/// Repeats these requests for `span` and reads everything that comes.
async fn repeat(mut socket: RawSocket, requests: &[Value], span: Duration) -> Result<&'static str> {
    let end = Instant::now() + span;
    while Instant::now() < end {
        for request in requests {
            if !exchange(&mut socket, request).await {
                return Ok(CUT_OFF);
            }
        }
    }
    Ok(SERVED)
}

fn subscribe_from(rooms: &[String], seq: u64) -> Value {
    let rooms: Vec<Value> = rooms
        .iter()
        .map(|room| json!({"room": room, "epoch": 0, "seq": seq}))
        .collect();
    json!({"op": "subscribe", "req": 2, "rooms": rooms})
}

pub(super) async fn resume_storm(
    target: &Target,
    rooms: &[String],
    span: Duration,
) -> Result<String> {
    let token = token("mallory", "", ROOMS)?;
    let outcome = attackers(4, |_| {
        let target = target.clone();
        let token = token.clone();
        let request = subscribe_from(rooms, 0);
        async move {
            let socket = target.authenticated(&token).await?;
            repeat(socket, &[request], span).await
        }
    });
    Ok(outcome.await)
}

pub(super) async fn far_positions(
    target: &Target,
    rooms: &[String],
    span: Duration,
) -> Result<String> {
    let token = token("mallory", "", ROOMS)?;
    let mut socket = target.authenticated(&token).await?;
    socket.send_json(&subscribe_from(rooms, u64::MAX)).await?;
    let resets = async {
        let mut resets = 0;
        while resets < rooms.len() {
            match socket.receive("reset").await {
                Ok(_) => resets += 1,
                Err(_) => break,
            }
        }
        resets
    };
    let resets = tokio::time::timeout(span, resets).await.unwrap_or(0);
    let harm = if resets < rooms.len() {
        format!("{HARM}: ")
    } else {
        String::new()
    };
    Ok(format!(
        "{harm}{resets} of {} positions answered by reset",
        rooms.len()
    ))
}

pub(super) async fn unread_pages(
    target: &Target,
    rooms: &[String],
    span: Duration,
) -> Result<String> {
    let token = token("mallory", "", ROOMS)?;
    let end = Instant::now() + span;
    let room = rooms.first().context("no room was prepared")?;
    let request = json!({"op": "history", "req": 3, "room": room, "limit": 1000});
    let outcome = attackers(600, |_| {
        let target = target.clone();
        let token = token.clone();
        let request = request.clone();
        async move {
            let mut socket = target.authenticated(&token).await?;
            socket.send_json(&request).await?;
            tokio::time::sleep_until(end).await;
            Ok("left waiting")
        }
    });
    Ok(outcome.await)
}

pub(super) async fn fat_messages(target: &Target, span: Duration) -> Result<String> {
    let token = token("mallory", "", ROOMS)?;
    let body = "x".repeat(60 << 10);
    let outcome = attackers(4, |number| {
        let target = target.clone();
        let token = token.clone();
        let request =
            json!({"op": "send", "req": 4, "room": format!("storm-{number}"), "body": body});
        async move {
            let socket = target.authenticated(&token).await?;
            repeat(socket, &[request], span).await
        }
    });
    let outcome = outcome.await;
    let bytes = target.traffic.bytes.load(Ordering::Relaxed) as f64;
    Ok(format!(
        "{outcome}; {:.1} MiB/s taken",
        bytes / span.as_secs_f64() / f64::from(1 << 20)
    ))
}

pub(super) async fn fat_room(target: &Target, rooms: &[String], span: Duration) -> Result<String> {
    const READERS: usize = 100;
    /// Bytes per second that each of them reads: 1 Mbit/s.
    const READ_RATE: usize = 125_000;
    let room = rooms.first().context("no room was prepared")?;
    let join = json!({"op": "subscribe", "req": 2, "rooms": [room]});
    let lost = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        let token = token(&format!("reader-{number}"), "", ROOMS)?;
        let target = target.clone();
        let join = join.clone();
        let lost = Arc::clone(&lost);
        readers.spawn(async move {
            let mut socket = target.authenticated(&token).await?;
            socket.send_json(&join).await?;
            if !socket.drain_slowly(span, READ_RATE).await {
                lost.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    let token = token("mallory", "", ROOMS)?;
    let request = json!({"op": "send", "req": 4, "room": room, "body": "x".repeat(60 << 10)});
    let writer = target.authenticated(&token).await?;
    let writer = repeat(writer, &[request], span).await?;
    readers
        .join_all()
        .await
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let lost = lost.load(Ordering::Relaxed);
    let harm = if lost > 0 {
        format!("{HARM}: ")
    } else {
        String::new()
    };
    Ok(format!(
        "{harm}{lost} of {READERS} readers at 1 Mbit/s lost; the writer: {writer}"
    ))
}

pub(super) async fn subscribe_storm(target: &Target, span: Duration) -> Result<String> {
    let token = token("mallory", "", ROOMS)?;
    let next = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + span;
    let outcome = attackers(4, |_| {
        let target = target.clone();
        let token = token.clone();
        let next = Arc::clone(&next);
        async move {
            let mut socket = target.authenticated(&token).await?;
            while Instant::now() < end {
                let first = next.fetch_add(ROOMS_PER_REQUEST as u64, Ordering::Relaxed);
                let rooms: Vec<String> = (first..)
                    .take(ROOMS_PER_REQUEST)
                    .map(|number| format!("storm-{number}"))
                    .collect();
                let subscribe = json!({"op": "subscribe", "req": 5, "rooms": rooms});
                let unsubscribe = json!({"op": "unsubscribe", "req": 6, "rooms": rooms});
                for request in [subscribe, unsubscribe] {
                    if !exchange(&mut socket, &request).await {
                        return Ok(CUT_OFF);
                    }
                }
            }
            Ok(SERVED)
        }
    });
    let outcome = outcome.await;
    Ok(format!(
        "{outcome}; {:.0} rooms a second named",
        next.load(Ordering::Relaxed) as f64 / span.as_secs_f64()
    ))
}
