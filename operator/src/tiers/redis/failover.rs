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

use super::client::{MIN_REPLICAS, connect, replicaof, set_min_replicas};
use super::decide::Succession;
use super::observe::{info, sentinel, server};
use crate::secrets::Credentials;

/// More replicas than there can be: a master that wants so many refuses writes.
const IMPOSSIBLE_REPLICAS: usize = 1_000;
/// How long the master is paused: less than the time after which Sentinels count it as down.
const PAUSE: Duration = Duration::from_secs(3);
/// Replicas in step have everything within this after the last write.
const CATCHING_UP: Duration = Duration::from_secs(2);
/// A Sentinel that has agreed has begun by then.
const START_TIMEOUT: Duration = Duration::from_secs(3);
/// After this a failover that has begun is over, one way or the other.
const MAX_FAILOVER: Duration = Duration::from_secs(5).saturating_add(FAILOVER_TIMEOUT);
/// The pause between two looks.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// How long Sentinel tries to make a replica the master.
pub(crate) const FAILOVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the master is the same as before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Redis or Sentinel.
    #[error("{0}")]
    Redis(#[from] RedisError),
    /// Replicas did not catch up while writes were refused.
    #[error("replicas did not catch up within {CATCHING_UP:?}: the master is unchanged")]
    Behind,
    /// There is no Sentinel to ask for a hand-over.
    #[error("no usable Sentinel knows the master: the master is unchanged")]
    NoSentinel,
    /// Sentinel agreed and made nobody the master.
    #[error("Sentinel promoted no replica within {0:?}: the master is unchanged")]
    NotPromoted(Duration),
}

/// A hand-over that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FailedOver {
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
pub(crate) async fn fail_over(
    set: &Succession,
    credentials: &Credentials,
) -> Result<FailedOver, Error> {
    let mut master = connect(&set.master, set.redis_port, credentials).await?;
    let mut asked = Err(Error::NoSentinel);
    for host in &set.sentinels {
        asked = able(host, set.sentinel_port, credentials)
            .await
            .map(|link| (host, link));
        if asked.is_ok() {
            break;
        }
    }
    let (host, mut link) = asked?;
    let begun = Instant::now();
    match promote(set, credentials, &mut master, host, &mut link).await {
        Ok(promoted) => {
            follow(&mut master, promoted, set).await?;
            let refused = begun.elapsed();
            // Sentinel would get to them later; where all must confirm, no write is taken until then.
            let others = set
                .replicas
                .iter()
                .filter(|replica| replica.as_str() != promoted);
            join_all(others.map(async |replica| {
                let told = async {
                    let mut link = connect(replica, set.redis_port, credentials).await?;
                    replicaof(&mut link, promoted, set.redis_port).await
                };
                if let Err(error) = told.await {
                    tracing::debug!(replica, %error, "cannot redirect replica, leaving it to Sentinel");
                }
            }))
            .await;
            Ok(FailedOver {
                to: promoted.to_owned(),
                refused,
            })
        }
        Err(error) => {
            set_min_replicas(&mut master, set.confirming).await?;
            redis::cmd("CLIENT")
                .arg("UNPAUSE")
                .exec_async(&mut master)
                .await?;
            Err(error)
        }
    }
}

/// A connection to a Sentinel, unless it is in tilt mode: one that was stopped for a while, as on a machine that is too busy,
/// does nothing for half a minute, and what it is asked for it does after that.
async fn able(
    host: &str,
    port: i32,
    credentials: &Credentials,
) -> Result<MultiplexedConnection, Error> {
    let mut link = connect(host, port, credentials).await?;
    let info: InfoDict = redis::cmd("INFO")
        .arg("sentinel")
        .query_async(&mut link)
        .await?;
    if info.get::<u8>("sentinel_tilt").unwrap_or_default() > 0 {
        Err(Error::NoSentinel)
    } else {
        Ok(link)
    }
}

/// Stops writes and lets Sentinel choose; returns who is the master then.
async fn promote<'a>(
    set: &'a Succession,
    credentials: &Credentials,
    master: &mut MultiplexedConnection,
    host: &str,
    link: &mut MultiplexedConnection,
) -> Result<&'a str, Error> {
    set_min_replicas(master, IMPOSSIBLE_REPLICAS).await?;
    let pause = u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX);
    redis::cmd("CLIENT")
        .arg("PAUSE")
        .arg(pause)
        .arg("WRITE")
        .exec_async(master)
        .await?;
    // Whatever was acknowledged stands before this, and while the pause lasts there is nothing behind it.
    let reached = info(master).await?.offset;
    let deadline = Instant::now() + CATCHING_UP;
    while !all_have(set, credentials, reached).await {
        if Instant::now() >= deadline {
            return Err(Error::Behind);
        }
        sleep(POLL_INTERVAL).await;
    }
    match redis::cmd("SENTINEL")
        .arg("FAILOVER")
        .arg(&set.service)
        .exec_async(link)
        .await
    {
        // Without an answer it may have begun.
        Err(error) if !is_silence(&error) => return Err(error.into()),
        _ => {}
    }
    let begun = Instant::now();
    loop {
        // Asked first: one that is over has promoted somebody by now, or will not.
        let (_, failing_over) = sentinel(host, set.sentinel_port, &set.service, credentials).await;
        let answers = join_all(
            set.replicas
                .iter()
                .map(|replica| server(replica, set.redis_port, credentials)),
        )
        .await;
        let promoted = answers
            .iter()
            .position(|answer| answer.as_ref().is_some_and(|answer| answer.master));
        if let Some(host) = promoted.and_then(|ordinal| set.replicas.get(ordinal)) {
            return Ok(host);
        }
        let waited = begun.elapsed();
        if waited >= MAX_FAILOVER || waited >= START_TIMEOUT && failing_over == Some(false) {
            return Err(Error::NotPromoted(waited));
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn all_have(set: &Succession, credentials: &Credentials, offset: u64) -> bool {
    let answers = join_all(
        set.replicas
            .iter()
            .map(|replica| server(replica, set.redis_port, credentials)),
    )
    .await;
    answers.iter().all(|answer| {
        answer
            .as_ref()
            .is_some_and(|answer| answer.offset >= offset)
    })
}

fn is_silence(error: &RedisError) -> bool {
    error.is_timeout() || error.is_io_error() || error.is_connection_dropped()
}

/// What Sentinel does to a master of old, at once: all of it or nothing. Clients come back and find the new one.
async fn follow(old: &mut MultiplexedConnection, new: &str, set: &Succession) -> RedisResult<()> {
    let mut all = redis::pipe();
    all.atomic();
    all.cmd("REPLICAOF").arg(new).arg(set.redis_port).ignore();
    all.cmd("CONFIG")
        .arg("SET")
        .arg(MIN_REPLICAS)
        .arg(set.confirming)
        .ignore();
    all.cmd("CONFIG").arg("REWRITE").ignore();
    all.cmd("CLIENT").arg("UNPAUSE").ignore();
    all.cmd("CLIENT")
        .arg("KILL")
        .arg("TYPE")
        .arg("normal")
        .ignore();
    all.cmd("CLIENT")
        .arg("KILL")
        .arg("TYPE")
        .arg("pubsub")
        .ignore();
    all.exec_async(old).await
}
