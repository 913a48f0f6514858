//! Pairs of well-behaved clients that send to each other at a steady rate, and a backend that uses the HTTP API: the latency
//! of their messages shows what an attack does to everyone else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::Method;
use im_client::{Client, Event, Events, Outgoing};
use im_runtime::clock;
use im_wire::ids::RoomId;
use im_wire::native::{Body, Position};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::stats::percentile;
use crate::sync::lock;
use crate::token::token;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const SEND_DEADLINE: Duration = Duration::from_secs(10);
const API_INTERVAL: Duration = Duration::from_millis(100);

/// What the pairs measured over some time.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Measured {
    /// Messages that the other client of the pair received.
    pub delivered: usize,
    /// Median latency in milliseconds, from the time a message was due.
    pub p50_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Maximum.
    pub max_ms: f64,
    /// Sends that were not acknowledged within 10 s.
    pub failed: u64,
    /// Lost connections.
    pub lost: u64,
    /// HTTP requests that were answered with 200.
    pub api_ok: u64,
    /// HTTP requests that were not.
    pub api_failed: u64,
}

#[derive(Default)]
struct Counters {
    latencies_us: Mutex<Vec<u64>>,
    failed: AtomicU64,
    lost: AtomicU64,
    api_ok: AtomicU64,
    api_failed: AtomicU64,
}

/// The pairs, which send from [`Pairs::start`] until dropped.
pub(super) struct Pairs {
    counters: Arc<Counters>,
    stop: CancellationToken,
}

impl Pairs {
    /// Connects `pairs` pairs to the TCP listener `tcp` and lets them send `rate` messages per second in all.
    pub(super) async fn start(tcp: &str, http: &str, pairs: usize, rate: u32) -> Result<Self> {
        let counters = Arc::new(Counters::default());
        let stop = CancellationToken::new();
        let mut clients = Vec::with_capacity(pairs);
        for number in 0..pairs {
            let room = RoomId::new(format!("pair-{number}"))?;
            let receiver = join(tcp, &format!("receiver-{number}"), &room, &counters)?;
            let sender = join(tcp, &format!("sender-{number}"), &room, &counters)?;
            for client in [&receiver, &sender] {
                tokio::time::timeout(CONNECT_TIMEOUT, client.connected())
                    .await
                    .context("a pair cannot connect")??;
            }
            clients.push((room, sender, receiver));
        }
        tokio::spawn(send(clients, rate, Arc::clone(&counters), stop.clone()));
        tokio::spawn(use_api(
            http.to_owned(),
            token("backend", "", &["pair-*"])?,
            Arc::clone(&counters),
            stop.clone(),
        ));
        Ok(Self { counters, stop })
    }

    /// What was measured since the last call.
    pub(super) fn take(&self) -> Measured {
        let mut latencies = std::mem::take(&mut *lock(&self.counters.latencies_us));
        latencies.sort_unstable();
        let at = |share| percentile(&latencies, share).map_or(0.0, |us| us as f64 / 1e3);
        let swap = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Measured {
            delivered: latencies.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            failed: swap(&self.counters.failed),
            lost: swap(&self.counters.lost),
            api_ok: swap(&self.counters.api_ok),
            api_failed: swap(&self.counters.api_failed),
        }
    }
}

impl Drop for Pairs {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn join(tcp: &str, user: &str, room: &RoomId, counters: &Arc<Counters>) -> Result<Client> {
    let (client, events) = Client::builder()
        .addresses([format!("tcp://{tcp}")])
        .token(token(user, "", &["pair-*"])?)
        .device("one")
        .subscribe([Position {
            room: room.clone(),
            epoch: 0,
            seq: None,
        }])
        .build()?;
    tokio::spawn(record(
        events,
        user.starts_with("receiver"),
        Arc::clone(counters),
    ));
    Ok(client)
}

async fn record(mut events: Events, is_receiver: bool, counters: Arc<Counters>) {
    while let Some(event) = events.next().await {
        match event {
            Event::Message(message) if is_receiver => {
                let due = match &message.body {
                    Body::Text(text) => std::str::from_utf8(text)
                        .ok()
                        .and_then(|text| text.parse().ok())
                        .unwrap_or(0),
                    _ => 0,
                };
                lock(&counters.latencies_us).push(now_us().saturating_sub(due));
            }
            Event::Disconnected { .. } => {
                counters.lost.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

async fn send(
    pairs: Vec<(RoomId, Client, Client)>,
    rate: u32,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    let mut due = interval(Duration::from_secs(1) / rate.max(1));
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let began = Instant::now();
    let began_us = now_us();
    let mut in_flight = JoinSet::new();
    for (room, sender, _) in pairs.iter().cycle() {
        // The time it is due, not when this loop gets to it: a delay before the send counts too.
        let tick = tokio::select! {
            () = stop.cancelled() => return,
            tick = due.tick() => tick,
        };
        let body =
            (began_us + tick.saturating_duration_since(began).as_micros() as u64).to_string();
        let client = sender.clone();
        let counters = Arc::clone(&counters);
        let message = Outgoing::text(room.clone(), body).deadline(SEND_DEADLINE);
        in_flight.spawn(async move {
            if client.send(message).await.is_err() {
                counters.failed.fetch_add(1, Ordering::Relaxed);
            }
        });
        while in_flight.try_join_next().is_some() {}
    }
}

async fn use_api(http: String, token: String, counters: Arc<Counters>, stop: CancellationToken) {
    let mut due = interval(API_INTERVAL);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = due.tick() => {}
        }
        let path = "/v1/rooms/pair-0/messages?limit=1";
        let response =
            crate::http::call(Method::GET, &http, path, Some(&token), bytes::Bytes::new()).await;
        let counter = if matches!(response, Ok((200, _))) {
            &counters.api_ok
        } else {
            &counters.api_failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn now_us() -> u64 {
    clock::unix().as_micros() as u64
}
