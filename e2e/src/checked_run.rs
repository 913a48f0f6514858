//! A run of the workload between two barriers: what clients recorded is checked against the logs as read back in the end.

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

use crate::checker::{self, LogEntry, Outcome, Verdict};
use crate::stats::Spread;
use crate::token::Signer;
use crate::workload::messages::MessageWorkload;

const BARRIER_TIMEOUT: Duration = Duration::from_secs(90);

/// What clients and logs show about a run.
#[derive(Debug, Serialize)]
pub struct RunReport {
    /// How long the workload sent, in seconds.
    pub seconds: f64,
    /// What the checker counted.
    pub verdict: Verdict,
    /// Outages of clients in milliseconds: from a lost connection until everything missed was delivered.
    pub away_ms: Spread,
    /// Moves of clients to another connection on the server's hint.
    pub moves: u64,
    /// The most moves of one client.
    pub most_moves: u64,
    /// Messages delivered live.
    pub live: u64,
    /// Messages delivered on resume.
    pub resumed: u64,
    /// Sends that were retried.
    pub retries: u64,
    /// Failed attempts to connect.
    pub failed_attempts: u64,
    /// Repeated messages that clients received and dropped.
    pub repeats_dropped: u64,
    /// Gaps in seq on one connection: a server's bug.
    pub gaps_seen: u64,
    /// Clients that gave up.
    pub ended: Vec<String>,
}

impl RunReport {
    /// Whether nothing was lost, repeated, reordered or invented, and nobody gave up.
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.ended.is_empty()
    }

    /// What servers did wrong on the wire, though clients compensated for it. A client that moves has two connections for a
    /// moment and may receive a message on both; one that stays must receive nothing twice.
    pub fn defects(&self) -> Vec<String> {
        let mut defects = Vec::new();
        if self.gaps_seen > 0 {
            defects.push(format!("{} gaps in seq on a connection", self.gaps_seen));
        }
        if self.repeats_dropped > 0 && self.moves == 0 && self.away_ms.count == 0 {
            defects.push(format!(
                "{} messages were repeated though no client moved",
                self.repeats_dropped
            ));
        }
        defects
    }
}

/// What a fault is expected to take back although it was acknowledged: nothing by default.
#[derive(Debug, Clone, Default)]
pub struct TakenBack {
    /// The sends of this run that were taken back, by the order in which they ended.
    pub sends: Range<usize>,
    /// The logs start over: every client must receive all of them.
    pub whole_logs: bool,
}

/// A run that has begun.
pub struct CheckedRun<'w> {
    workload: &'w MessageWorkload,
    from: HashMap<RoomId, Seq>,
    before: Vec<Stats>,
    sending: Duration,
}

impl<'w> CheckedRun<'w> {
    /// Waits until every client has received everything, and starts with empty histories.
    pub async fn start(workload: &'w MessageWorkload) -> Result<Self> {
        let from = workload
            .barrier(BARRIER_TIMEOUT)
            .await
            .context("the barrier before the run")?;
        workload.take_history(&from);
        Ok(Self {
            workload,
            from,
            before: workload.stats(),
            sending: Duration::ZERO,
        })
    }

    /// Sends `rate` messages per second while `event` happens.
    pub async fn during<T>(&mut self, rate: u32, event: impl Future<Output = T>) -> T {
        let stop = CancellationToken::new();
        let begun = Instant::now();
        let event = async {
            let outcome = event.await;
            stop.cancel();
            outcome
        };
        let ((), outcome) = tokio::join!(self.workload.run(rate, stop.clone()), event);
        self.sending += begun.elapsed();
        outcome
    }

    /// Waits until every client has received everything, reads the logs from the HTTP API at `address`, and checks.
    pub async fn check(
        self,
        address: &str,
        signer: &Signer,
        taken_back: &TakenBack,
    ) -> Result<RunReport> {
        self.workload
            .barrier(BARRIER_TIMEOUT)
            .await
            .context("the barrier after the run")?;
        let (mut sends, mut histories) = self.workload.take_history(&self.from);
        for send in sends.get_mut(taken_back.sends.clone()).unwrap_or_default() {
            // It may be gone, or stored again by a retry: both are right, as for an unknown outcome.
            send.outcome = Outcome::Unknown;
        }
        if taken_back.whole_logs {
            histories.iter_mut().for_each(|history| history.from = 0);
        }
        let admin = signer.token("auditor", "admin", &["*"])?;
        let mut logs = HashMap::new();
        for room in self.workload.rooms() {
            let log = read_log(address, room, &admin)
                .await
                .with_context(|| format!("the log of {room}"))?;
            logs.insert(room.clone(), log);
        }
        let verdict = checker::check(&logs, &sends, &histories);
        let after = self.workload.stats();
        let pairs = || self.before.iter().zip(&after);
        let increase =
            |read: fn(&Stats) -> u64| pairs().map(|(old, new)| read(new) - read(old)).sum();
        let outages = pairs()
            .flat_map(|(old, new)| new.outages[old.outages.len()..].iter().copied())
            .collect();
        Ok(RunReport {
            seconds: self.sending.as_secs_f64(),
            verdict,
            away_ms: Spread::of(outages),
            moves: increase(|stats| stats.moves),
            most_moves: pairs()
                .map(|(old, new)| new.moves - old.moves)
                .max()
                .unwrap_or(0),
            live: increase(|stats| stats.live),
            resumed: increase(|stats| stats.resumed),
            retries: increase(|stats| stats.retries),
            failed_attempts: increase(|stats| stats.failed_attempts),
            repeats_dropped: increase(|stats| stats.repeats),
            gaps_seen: increase(|stats| stats.gaps),
            ended: self.workload.ended(),
        })
    }
}

#[derive(Deserialize)]
struct Page {
    messages: Vec<LogEntry>,
}

async fn read_log(address: &str, room: &RoomId, admin: &str) -> Result<Vec<LogEntry>> {
    let mut log: Vec<LogEntry> = Vec::new();
    loop {
        let after = log.last().map_or(0, |entry| entry.seq);
        let path = format!("/v1/rooms/{room}/messages?after={after}&limit=500");
        let (status, body) =
            crate::http::call(Method::GET, address, &path, Some(admin), Bytes::new()).await?;
        ensure!(status == 200, "{status}: {body}");
        let page: Page = serde_json::from_str(&body)?;
        if page.messages.is_empty() {
            return Ok(log);
        }
        log.extend(page.messages);
    }
}
