//! A stretch of time under audit: everybody's record from one barrier to the next, held against the logs as read back.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use im_client::Stats;
use im_wire::ids::{RoomId, Seq};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::audit::{self, Logged, Outcome, Verdict};
use crate::crowd::Crowd;
use crate::token::Signer;

const BARRIER: Duration = Duration::from_secs(90);

/// What a stretch of time did to everybody.
#[derive(Debug, Serialize)]
pub struct Audit {
    /// How long the crowd spoke, in seconds.
    pub seconds: f64,
    /// What was lost, repeated, reordered or invented.
    pub verdict: Verdict,
    /// Times away in milliseconds: clients that lost their connection, until everything missed was delivered.
    pub away_ms: Spread,
    /// Clients that moved to another connection on the server's hint.
    pub moves: u64,
    /// The greatest number of moves by one client.
    pub most_moves: u64,
    /// Deliveries as they were said.
    pub live: u64,
    /// Deliveries that came by resuming.
    pub resumed: u64,
    /// Sends written more than once.
    pub retries: u64,
    /// Attempts to connect that failed.
    pub failed_attempts: u64,
    /// Repeats that reached clients and were dropped there, and jumps in seq on one connection: defects of a server.
    pub repeats_dropped: u64,
    /// See `repeats_dropped`.
    pub gaps_seen: u64,
    /// Clients that gave up.
    pub ended: Vec<String>,
}

impl Audit {
    /// Whether nothing was lost, repeated, reordered or invented, and nobody gave up.
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.ended.is_empty()
    }

    /// What a server did wrong on the wire even though clients made up for it. A client that moves has two connections
    /// for a moment and may hear the same on both; one that stays hears nothing twice.
    pub fn defects(&self) -> Vec<String> {
        let mut defects = Vec::new();
        if self.gaps_seen > 0 {
            defects.push(format!("{} times a connection left something out", self.gaps_seen));
        }
        if self.repeats_dropped > 0 && self.moves == 0 && self.away_ms.count == 0 {
            defects.push(format!("{} messages came again though nobody moved", self.repeats_dropped));
        }
        defects
    }
}

/// What a fault took back that was acknowledged, as it must: nothing by default.
#[derive(Debug, Clone, Default)]
pub struct TakenBack {
    /// Of the crowd's sends of this stretch of time, in the order in which they ended, those that were taken back.
    pub sends: Range<usize>,
    /// The logs begin anew: everybody is owed all of them.
    pub whole_logs: bool,
}

/// The middle, the tail and the end of some durations.
#[derive(Debug, Default, Serialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// Half were shorter.
    pub p50: u64,
    /// One in a hundred was longer.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

impl Spread {
    /// Of these durations, in milliseconds.
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let place = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
            times.get(place).map_or(0, |time| time.as_millis() as u64)
        };
        Self { count: times.len(), p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// An audit that has begun.
pub struct Begun<'c> {
    crowd: &'c Crowd,
    from: HashMap<RoomId, Seq>,
    before: Vec<Stats>,
    spoken: Duration,
}

impl<'c> Begun<'c> {
    /// Waits until everybody has everything, and begins anew.
    pub async fn now(crowd: &'c Crowd) -> Result<Self> {
        let from = crowd.barrier(BARRIER).await.context("the barrier before")?;
        crowd.take(&from);
        Ok(Self { crowd, from, before: crowd.stats(), spoken: Duration::ZERO })
    }

    /// Lets the crowd speak at `rate` messages per second while `event` happens.
    pub async fn speaking<T>(&mut self, rate: u32, event: impl Future<Output = T>) -> T {
        let stop = CancellationToken::new();
        let begun = Instant::now();
        let happening = async {
            let outcome = event.await;
            stop.cancel();
            outcome
        };
        let ((), outcome) = tokio::join!(self.crowd.speak(rate, stop.clone()), happening);
        self.spoken += begun.elapsed();
        outcome
    }

    /// Waits until everybody has everything, reads the logs from the HTTP API at `address`, and judges.
    pub async fn judge(self, address: &str, signer: &Signer, taken_back: &TakenBack) -> Result<Audit> {
        self.crowd.barrier(BARRIER).await.context("the barrier after")?;
        let (mut sends, mut records) = self.crowd.take(&self.from);
        for send in sends.get_mut(taken_back.sends.clone()).unwrap_or_default() {
            // Acknowledged and gone, or written again afterwards: as for an outcome that nobody knows, both are right.
            send.outcome = Outcome::Unknown;
        }
        if taken_back.whole_logs {
            records.iter_mut().for_each(|record| record.from = 0);
        }
        let admin = signer.token("auditor", "admin", &["*"])?;
        let mut logs = HashMap::new();
        for room in self.crowd.rooms() {
            let log = read_log(address, room, &admin).await.with_context(|| format!("the log of {room}"))?;
            logs.insert(room.clone(), log);
        }
        let verdict = audit::judge(&logs, &sends, &records);
        let after = self.crowd.stats();
        let pairs = || self.before.iter().zip(&after);
        let grown = |read: fn(&Stats) -> u64| pairs().map(|(old, new)| read(new) - read(old)).sum();
        let away = pairs().flat_map(|(old, new)| new.outages[old.outages.len()..].iter().copied()).collect();
        Ok(Audit {
            seconds: self.spoken.as_secs_f64(),
            verdict,
            away_ms: Spread::of(away),
            moves: grown(|stats| stats.moves),
            most_moves: pairs().map(|(old, new)| new.moves - old.moves).max().unwrap_or(0),
            live: grown(|stats| stats.live),
            resumed: grown(|stats| stats.resumed),
            retries: grown(|stats| stats.retries),
            failed_attempts: grown(|stats| stats.failed_attempts),
            repeats_dropped: grown(|stats| stats.repeats),
            gaps_seen: grown(|stats| stats.gaps),
            ended: self.crowd.ended(),
        })
    }
}

#[derive(Deserialize)]
struct Page {
    messages: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    seq: Seq,
    id: String,
    from: String,
    client_id: String,
}

async fn read_log(address: &str, room: &RoomId, admin: &str) -> Result<Vec<Logged>> {
    let mut log: Vec<Logged> = Vec::new();
    loop {
        let after = log.last().map_or(0, |entry| entry.seq);
        let path = format!("/v1/rooms/{room}/messages?after={after}&limit=500");
        let (status, body) = crate::http::call(Method::GET, address, &path, Some(admin), Bytes::new()).await?;
        ensure!(status == 200, "{status}: {body}");
        let page: Page = serde_json::from_str(&body)?;
        if page.messages.is_empty() {
            return Ok(log);
        }
        let logged =
            |entry: Entry| Logged { seq: entry.seq, id: entry.id, from: entry.from, client_id: entry.client_id };
        log.extend(page.messages.into_iter().map(logged));
    }
}
