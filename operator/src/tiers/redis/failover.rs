//! A planned change of the master under traffic: nothing that was acknowledged is lost, and writes stop for a moment only.
//!
//! Writes stop because the master is told to want more replicas than there can be. For a moment it is paused as well: what
//! Sentinels publish would otherwise take it further than the replicas, and it could follow the new master only with a copy
//! of everything. A pause alone would not do: it ends by itself, and a longer one lets the Sentinels' links hang until they
//! believe that the master is down. Once the replicas have all that was written, Sentinel makes one of them the master, and
//! the old one is told at once to follow it: Sentinel itself lets 8 s pass before it does, in which a master without replicas
//! would still acknowledge writes.

use std::time::Duration;

use futures::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{InfoDict, RedisError, RedisResult};
use tokio::time::{Instant, sleep};

use super::client::{WANTED_REPLICAS, connect, replicaof, want};
use super::decide::Succession;
use super::observe::{info, sentinel, server};
use crate::secrets::Known;

/// More replicas than there can be: a master that wants so many refuses writes.
const OUT_OF_REACH: usize = 1_000;
/// How long the master is paused: less than the time after which Sentinels count it as down.
const HOLD: Duration = Duration::from_secs(3);
/// Replicas in step have everything within this after the last write.
const CATCHING_UP: Duration = Duration::from_secs(2);
/// A Sentinel that has agreed has begun by then.
const BEGINNING: Duration = Duration::from_secs(3);
/// After this a failover that has begun is over, one way or the other.
const LONGEST: Duration = Duration::from_secs(5).saturating_add(FAILOVER_TIMEOUT);
/// The pause between two looks.
const LOOKS: Duration = Duration::from_millis(50);

/// How long Sentinel tries to make a replica the master.
pub(crate) const FAILOVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the master is the same as before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Redis or Sentinel.
    #[error("{0}")]
    Redis(#[from] RedisError),
    /// Replicas did not catch up while writes were refused.
    #[error("replicas did not have everything within {CATCHING_UP:?}: the master stays what it is")]
    Behind,
    /// There is no Sentinel to ask for a hand-over.
    #[error("no Sentinel that names the master answers and does its work: the master stays what it is")]
    NoSentinel,
    /// Sentinel agreed and made nobody the master.
    #[error("Sentinel has made no replica the master within {0:?}: the master stays what it is")]
    NotPromoted(Duration),
}

/// A hand-over that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HandedOver {
    /// Who is the master now.
    pub(crate) to: String,
    /// For how long the old one had refused writes when it followed.
    pub(crate) refused: Duration,
}

/// Hands over to the replica that Sentinel chooses, and lets the old master follow it.
///
/// # Errors
/// The master is the same as before, or not known to be another. It takes writes again unless it can't be reached any more:
/// the next round sees to that.
pub(crate) async fn hand_over(set: &Succession, known: &Known) -> Result<HandedOver, Error> {
    let mut master = connect(&set.master, set.redis_port, known).await?;
    let mut asked = Err(Error::NoSentinel);
    for host in &set.sentinels {
        asked = able(host, set.sentinel_port, known).await.map(|link| (host, link));
        if asked.is_ok() {
            break;
        }
    }
    let (host, mut link) = asked?;
    let begun = Instant::now();
    match promote(set, known, &mut master, host, &mut link).await {
        Ok(promoted) => {
            follow(&mut master, promoted, set).await?;
            let refused = begun.elapsed();
            // Sentinel would get to them later; where all must confirm, no write is taken until then.
            let others = set.replicas.iter().filter(|replica| replica.as_str() != promoted);
            join_all(others.map(async |replica| {
                let told = async {
                    let mut link = connect(replica, set.redis_port, known).await?;
                    replicaof(&mut link, promoted, set.redis_port).await
                };
                if let Err(error) = told.await {
                    tracing::debug!(replica, %error, "left to Sentinel");
                }
            }))
            .await;
            Ok(HandedOver { to: promoted.to_owned(), refused })
        }
        Err(error) => {
            want(&mut master, set.confirming).await?;
            redis::cmd("CLIENT").arg("UNPAUSE").exec_async(&mut master).await?;
            Err(error)
        }
    }
}

/// A connection to a Sentinel, unless it is in tilt mode: one that was stopped for a while, as on a machine that is too busy,
/// does nothing for half a minute, and what it is asked for it does after that.
async fn able(host: &str, port: i32, known: &Known) -> Result<MultiplexedConnection, Error> {
    let mut link = connect(host, port, known).await?;
    let info: InfoDict = redis::cmd("INFO").arg("sentinel").query_async(&mut link).await?;
    if info.get::<u8>("sentinel_tilt").unwrap_or_default() > 0 { Err(Error::NoSentinel) } else { Ok(link) }
}

/// Stops writes and lets Sentinel choose; returns who is the master then.
async fn promote<'a>(
    set: &'a Succession,
    known: &Known,
    master: &mut MultiplexedConnection,
    host: &str,
    link: &mut MultiplexedConnection,
) -> Result<&'a str, Error> {
    want(master, OUT_OF_REACH).await?;
    let hold = u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX);
    redis::cmd("CLIENT").arg("PAUSE").arg(hold).arg("WRITE").exec_async(master).await?;
    // Whatever was acknowledged stands before this, and while the pause lasts there is nothing behind it.
    let reached = info(master).await?.offset;
    let deadline = Instant::now() + CATCHING_UP;
    while !all_have(set, known, reached).await {
        if Instant::now() >= deadline {
            return Err(Error::Behind);
        }
        sleep(LOOKS).await;
    }
    match redis::cmd("SENTINEL").arg("FAILOVER").arg(&set.service).exec_async(link).await {
        // Without an answer it may have begun.
        Err(error) if !is_silence(&error) => return Err(error.into()),
        _ => {}
    }
    let begun = Instant::now();
    loop {
        // Asked first: one that is over has promoted somebody by now, or will not.
        let (_, failing_over) = sentinel(host, set.sentinel_port, &set.service, known).await;
        let answers = join_all(set.replicas.iter().map(|replica| server(replica, set.redis_port, known))).await;
        let promoted = answers.iter().position(|answer| answer.as_ref().is_some_and(|answer| answer.master));
        if let Some(host) = promoted.and_then(|place| set.replicas.get(place)) {
            return Ok(host);
        }
        let waited = begun.elapsed();
        if waited >= LONGEST || waited >= BEGINNING && failing_over == Some(false) {
            return Err(Error::NotPromoted(waited));
        }
        sleep(LOOKS).await;
    }
}

async fn all_have(set: &Succession, known: &Known, offset: u64) -> bool {
    let answers = join_all(set.replicas.iter().map(|replica| server(replica, set.redis_port, known))).await;
    answers.iter().all(|answer| answer.as_ref().is_some_and(|answer| answer.offset >= offset))
}

fn is_silence(error: &RedisError) -> bool {
    error.is_timeout() || error.is_io_error() || error.is_connection_dropped()
}

/// What Sentinel does to a master of old, at once: all of it or nothing. Clients come back and find the new one.
async fn follow(old: &mut MultiplexedConnection, new: &str, set: &Succession) -> RedisResult<()> {
    let mut all = redis::pipe();
    all.atomic();
    all.cmd("REPLICAOF").arg(new).arg(set.redis_port).ignore();
    all.cmd("CONFIG").arg("SET").arg(WANTED_REPLICAS).arg(set.confirming).ignore();
    all.cmd("CONFIG").arg("REWRITE").ignore();
    all.cmd("CLIENT").arg("UNPAUSE").ignore();
    all.cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").ignore();
    all.cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").ignore();
    all.exec_async(old).await
}
