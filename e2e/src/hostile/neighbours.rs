//! Pairs of well-behaved clients that talk at a steady rate, and a backend that uses the HTTP API beside them: what an attack
//! does to everybody else shows in how long their messages take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use hyper::Method;
use im_client::{Client, Event, Events, Outgoing};
use im_wire::ids::RoomId;
use im_wire::native::{Body, Position};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::token::token;

const CONNECT: Duration = Duration::from_secs(30);
const DEADLINE: Duration = Duration::from_secs(10);
const API_EVERY: Duration = Duration::from_millis(100);

/// What the neighbours saw over some time.
#[derive(Debug, Default, Clone, Serialize)]
pub struct Seen {
    /// Messages that the other one of the pair had.
    pub delivered: usize,
    /// Half of them took less, in milliseconds from the moment they were due.
    pub p50_ms: f64,
    /// All but one of a hundred took less.
    pub p99_ms: f64,
    /// The slowest.
    pub max_ms: f64,
    /// Sends that were not acknowledged within 10 s.
    pub failed: u64,
    /// Connections lost.
    pub lost: u64,
    /// Requests over HTTP that were answered 200.
    pub api_ok: u64,
    /// And those that were not.
    pub api_failed: u64,
}

#[derive(Default)]
struct Notes {
    took_us: Mutex<Vec<u64>>,
    failed: AtomicU64,
    lost: AtomicU64,
    api_ok: AtomicU64,
    api_failed: AtomicU64,
}

/// The pairs, talking from [`Neighbours::start`] until dropped.
pub(super) struct Neighbours {
    notes: Arc<Notes>,
    stop: CancellationToken,
}

impl Neighbours {
    /// Connects `pairs` pairs to the TCP listener `tcp` and lets them send `rate` messages per second in all.
    pub(super) async fn start(tcp: &str, http: &str, pairs: usize, rate: u32) -> Result<Self> {
        let notes = Arc::new(Notes::default());
        let stop = CancellationToken::new();
        let mut speakers = Vec::with_capacity(pairs);
        for number in 0..pairs {
            let room = RoomId::new(format!("pair-{number}"))?;
            let listener = join(tcp, &format!("listener-{number}"), &room, &notes)?;
            let speaker = join(tcp, &format!("speaker-{number}"), &room, &notes)?;
            for client in [&listener, &speaker] {
                tokio::time::timeout(CONNECT, client.connected()).await.context("a neighbour does not get in")??;
            }
            speakers.push((room, speaker, listener));
        }
        tokio::spawn(talk(speakers, rate, Arc::clone(&notes), stop.clone()));
        tokio::spawn(use_api(http.to_owned(), token("backend", "", &["pair-*"])?, Arc::clone(&notes), stop.clone()));
        Ok(Self { notes, stop })
    }

    /// What was seen since the last call.
    pub(super) fn take(&self) -> Seen {
        let mut took = std::mem::take(&mut *self.notes.took_us.lock().unwrap_or_else(PoisonError::into_inner));
        took.sort_unstable();
        let at = |share: f64| {
            let place = ((took.len() as f64 * share) as usize).min(took.len().saturating_sub(1));
            took.get(place).map_or(0.0, |us| *us as f64 / 1e3)
        };
        let swap = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Seen {
            delivered: took.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            max_ms: at(1.0),
            failed: swap(&self.notes.failed),
            lost: swap(&self.notes.lost),
            api_ok: swap(&self.notes.api_ok),
            api_failed: swap(&self.notes.api_failed),
        }
    }
}

impl Drop for Neighbours {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn join(tcp: &str, user: &str, room: &RoomId, notes: &Arc<Notes>) -> Result<Client> {
    let (client, events) = Client::builder()
        .addresses([format!("tcp://{tcp}")])
        .token(token(user, "", &["pair-*"])?)
        .device("one")
        .subscribe([Position { room: room.clone(), epoch: 0, seq: None }])
        .build()?;
    tokio::spawn(listen(events, user.starts_with("listener").then(|| Arc::clone(notes)), Arc::clone(notes)));
    Ok(client)
}

async fn listen(mut events: Events, times: Option<Arc<Notes>>, notes: Arc<Notes>) {
    while let Some(event) = events.next().await {
        match (event, &times) {
            (Event::Message(message), Some(times)) => {
                let due = match &message.body {
                    Body::Text(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0),
                    _ => 0,
                };
                let took = now_us().saturating_sub(due);
                times.took_us.lock().unwrap_or_else(PoisonError::into_inner).push(took);
            }
            (Event::Disconnected { .. }, _) => {
                notes.lost.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

async fn talk(pairs: Vec<(RoomId, Client, Client)>, rate: u32, notes: Arc<Notes>, stop: CancellationToken) {
    let mut due = interval(Duration::from_secs(1) / rate.max(1));
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (began, began_us) = (Instant::now(), now_us());
    let mut under_way = JoinSet::new();
    for (room, speaker, _) in pairs.iter().cycle() {
        // When it was due, not when this loop came to it: a wait in front of the send counts as well.
        let tick = tokio::select! {
            () = stop.cancelled() => return,
            tick = due.tick() => tick,
        };
        let body = (began_us + tick.saturating_duration_since(began).as_micros() as u64).to_string();
        let (client, notes) = (speaker.clone(), Arc::clone(&notes));
        let message = Outgoing::text(room.clone(), body).deadline(DEADLINE);
        under_way.spawn(async move {
            if client.send(message).await.is_err() {
                notes.failed.fetch_add(1, Ordering::Relaxed);
            }
        });
        while under_way.try_join_next().is_some() {}
    }
}

async fn use_api(http: String, token: String, notes: Arc<Notes>, stop: CancellationToken) {
    let mut due = interval(API_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = due.tick() => {}
        }
        let path = "/v1/rooms/pair-0/messages?limit=1";
        let answer = crate::http::call(Method::GET, &http, path, Some(&token), bytes::Bytes::new()).await;
        let counter = if matches!(answer, Ok((200, _))) { &notes.api_ok } else { &notes.api_failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_micros() as u64)
}
