//! What is broken while the crowd speaks, one after the other, each under its own audit.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use im_wire::ids::{RoomId, Seq};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::audit::{self, Logged, Verdict};
use crate::cluster::{Cluster, Connect, Logic};
use crate::crowd::{Crowd, Size};
use crate::process::until;
use crate::token::token;

/// How long the crowd speaks before and after a fault.
const CALM: Duration = Duration::from_secs(4);
const BARRIER: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(90);

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Nothing: what the crowd does when left alone.
    None,
    /// SIGTERM to one connect, which moves its clients and ends.
    ConnectDrain,
    /// kill -9 of one connect.
    ConnectKill,
    /// SIGTERM to one logic.
    LogicDrain,
    /// kill -9 of one logic.
    LogicKill,
    /// kill -9 of the redis master with its replicas in step.
    Failover,
    /// kill -9 of the redis master after its replicas were cut off: a tail is taken back and its seqs are given again.
    FailoverCutOff,
    /// etcd is killed, one logic with it; both come back.
    EtcdLoss,
}

impl Fault {
    /// Every fault, in the order in which they are played.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::ConnectDrain,
        Self::ConnectKill,
        Self::LogicDrain,
        Self::LogicKill,
        Self::EtcdLoss,
        Self::Failover,
        Self::FailoverCutOff,
    ];
}

/// What a fault did to everybody.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which.
    pub fault: Fault,
    /// How long the crowd spoke, in seconds.
    pub seconds: f64,
    /// The audit.
    pub verdict: Verdict,
    /// Times away in milliseconds: clients that lost their connection, until everything missed was delivered.
    pub away_ms: Spread,
    /// Clients that moved to another connection on the server's hint.
    pub moves: u64,
    /// The greatest number of moves by one client.
    pub most_moves: u64,
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
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: f64| {
            let place = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
            times.get(place).map_or(0, |time| time.as_millis() as u64)
        };
        Self { count: times.len(), p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// A cluster with a crowd on it.
pub struct Stage {
    cluster: Cluster,
    crowd: Crowd,
    size: Size,
}

impl Stage {
    /// Gathers the crowd. Clients know the addresses of the connect processes that run and of those that `spare` will run
    /// on: none here, a replaced process takes its predecessor's addresses.
    pub async fn set(cluster: Cluster, size: Size) -> Result<Self> {
        let tcp: Vec<String> = cluster.connects.iter().map(|connect| format!("tcp://{}", connect.tcp)).collect();
        let websocket: Vec<String> = cluster.connects.iter().map(|connect| format!("ws://{}/ws", connect.ws)).collect();
        let crowd = Crowd::gather(&size, &[&tcp, &websocket]).await?;
        Ok(Self { cluster, crowd, size })
    }

    /// Lets the crowd speak, breaks something, mends it, waits until everybody has everything, and judges.
    pub async fn play(&mut self, fault: Fault) -> Result<Report> {
        let from = self.crowd.barrier(BARRIER).await.context("the barrier before")?;
        self.crowd.take(&from);
        let before = self.crowd.stats();
        let begun = Instant::now();
        let stop = CancellationToken::new();
        let (crowd, rate) = (&self.crowd, self.size.rate);
        let speaking = crowd.speak(rate, stop.clone());
        let cluster = &mut self.cluster;
        let breaking = async {
            tokio::time::sleep(CALM).await;
            let broken = strike(cluster, crowd, fault).await;
            tokio::time::sleep(CALM).await;
            stop.cancel();
            broken
        };
        let ((), broken) = tokio::join!(speaking, breaking);
        let seconds = begun.elapsed().as_secs_f64();
        broken.with_context(|| format!("{fault:?}"))?;
        self.crowd.barrier(BARRIER).await.context("the barrier after")?;
        let (sends, records) = self.crowd.take(&from);
        let logs = self.logs().await?;
        let verdict = audit::judge(&logs, &sends, &records);
        Ok(self.report(fault, seconds, verdict, &before))
    }

    fn report(&self, fault: Fault, seconds: f64, verdict: Verdict, before: &[im_client::Stats]) -> Report {
        let after = self.crowd.stats();
        let pairs = || before.iter().zip(&after);
        let grown = |read: fn(&im_client::Stats) -> u64| pairs().map(|(old, new)| read(new) - read(old)).sum();
        let away = pairs().flat_map(|(old, new)| new.outages[old.outages.len()..].iter().copied()).collect();
        Report {
            fault,
            seconds,
            verdict,
            away_ms: Spread::of(away),
            moves: grown(|stats| stats.moves),
            most_moves: pairs().map(|(old, new)| new.moves - old.moves).max().unwrap_or(0),
            resumed: grown(|stats| stats.resumed),
            retries: grown(|stats| stats.retries),
            failed_attempts: grown(|stats| stats.failed_attempts),
            repeats_dropped: grown(|stats| stats.repeats),
            gaps_seen: grown(|stats| stats.gaps),
            ended: self.crowd.ended(),
        }
    }

    /// Every room's log as the HTTP API tells it.
    async fn logs(&self) -> Result<HashMap<RoomId, Vec<Logged>>> {
        let logic = self.cluster.logics.first().context("no logic runs")?;
        let admin = token("auditor", "admin", &["*"])?;
        let mut logs = HashMap::new();
        for room in self.crowd.rooms() {
            logs.insert(
                room.clone(),
                read_log(logic, room, &admin).await.with_context(|| format!("the log of {room}"))?,
            );
        }
        Ok(logs)
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

async fn read_log(logic: &Logic, room: &RoomId, admin: &str) -> Result<Vec<Logged>> {
    let mut log: Vec<Logged> = Vec::new();
    loop {
        let after = log.last().map_or(0, |entry| entry.seq);
        let path = format!("/v1/rooms/{room}/messages?after={after}&limit=500");
        let (status, body) = crate::http::call(Method::GET, &logic.http, &path, Some(admin), Bytes::new()).await?;
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

async fn strike(cluster: &mut Cluster, crowd: &Crowd, fault: Fault) -> Result<()> {
    match fault {
        Fault::None => Ok(()),
        Fault::ConnectDrain => drain_connect(cluster).await,
        Fault::ConnectKill => {
            let mut victim = cluster.connects.remove(0);
            victim.process.kill()?;
            tokio::time::sleep(CALM).await;
            replace_connect(cluster, &victim).await
        }
        Fault::LogicDrain => {
            let mut victim = cluster.logics.remove(0);
            victim.process.signal(libc::SIGTERM)?;
            let status = victim.process.wait(DRAIN).await?;
            ensure!(status.success(), "logic ended with {status}:\n{}", victim.process.tail(20));
            cluster.add_logic()?;
            cluster.ready().await
        }
        Fault::LogicKill => {
            cluster.logics.remove(0).process.kill()?;
            tokio::time::sleep(CALM).await;
            cluster.add_logic()?;
            cluster.ready().await
        }
        Fault::Failover => {
            cluster.redis.fail_over().await?;
            mend_redis(cluster).await
        }
        Fault::FailoverCutOff => fail_over_cut_off(cluster, crowd).await,
        Fault::EtcdLoss => {
            cluster.etcd.kill()?;
            cluster.logics.remove(0).process.kill()?;
            tokio::time::sleep(CALM).await;
            let folder = cluster.folder().to_owned();
            cluster.etcd.restart(&folder).await?;
            cluster.add_logic()?;
            cluster.ready().await
        }
    }
}

async fn drain_connect(cluster: &mut Cluster) -> Result<()> {
    let mut victim = cluster.connects.remove(0);
    victim.process.signal(libc::SIGTERM)?;
    let status = victim.process.wait(DRAIN).await?;
    ensure!(status.success(), "connect ended with {status}:\n{}", victim.process.tail(20));
    replace_connect(cluster, &victim).await
}

async fn replace_connect(cluster: &mut Cluster, lost: &Connect) -> Result<()> {
    cluster.add_connect_at(&lost.tcp, &lost.ws)?;
    cluster.ready().await
}

async fn mend_redis(cluster: &mut Cluster) -> Result<()> {
    let folder = cluster.folder().to_owned();
    cluster.redis.replace_lost(&folder).await
}

/// The replicas are cut off until clients have heard what only the master holds; then the master dies.
async fn fail_over_cut_off(cluster: &mut Cluster, crowd: &Crowd) -> Result<()> {
    let heads = crowd.heard();
    cluster.redis.cut_replicas_off().await?;
    let patience = Duration::from_secs(12);
    // What the replicas never confirm is not published; it reaches clients when heads are compared.
    let seen = until("clients hear what is not confirmed", patience, async || {
        (crowd.ahead_of(&heads) >= crowd.len() / 10).then_some(())
    });
    seen.await?;
    cluster.redis.fail_over().await?;
    mend_redis(cluster).await
}
