//! Does what was decided.

use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use super::ask::{connect, server};
use super::{ANEW, Action};
use crate::api::Tier;
use crate::build;
use crate::context::Context;
use crate::key::Key;
use crate::secrets::Known;
use crate::stateful;

/// How long writes are held while replicas catch up before a hand-over; well below the time after which a master counts as down.
const PAUSE: Duration = Duration::from_secs(2);
/// How long Sentinel may take to make the old master a replica.
const DEMOTION: Duration = Duration::from_secs(15);
/// After so long without an answer a master counts as down, in milliseconds.
const DOWN_AFTER: u32 = 5_000;
const FAILOVER_TIMEOUT: u32 = 30_000;
/// Sentinels that must agree.
const QUORUM: u32 = 2;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Redis or Sentinel.
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    /// The API server.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// Replicas did not catch up while writes were held.
    #[error("replicas were not in step within {PAUSE:?}: the hand-over is tried again")]
    Behind,
}

/// Does one thing.
///
/// # Errors
/// It is not done, or not known to be; the next round sees what is so.
pub async fn carry_out(context: &Context, key: &Key, known: &Known, action: &Action) -> Result<(), Error> {
    tracing::info!(cluster = %key, ?action, "redis");
    let host =
        |tier, place: usize| build::pod_host(&key.name, &key.namespace, tier, i32::try_from(place).unwrap_or(i32::MAX));
    match action {
        Action::Latch(place) => Ok(stateful::latch(context, key, Tier::Redis, *place).await?),
        Action::Begun => Ok(stateful::take_word_back(context, key, ANEW).await?),
        Action::Replace(place) => Ok(stateful::end(context, key, Tier::Redis, *place).await?),
        Action::Lead(place) => {
            let mut connection = connect(&host(Tier::Redis, *place), build::REDIS_PORT, known).await?;
            replicaof(&mut connection, "NO", "ONE").await
        }
        Action::Follow(place, master) => {
            let mut connection = connect(&host(Tier::Redis, *place), build::REDIS_PORT, known).await?;
            replicaof(&mut connection, master, &build::REDIS_PORT.to_string()).await
        }
        Action::Monitor(place, master) => {
            let mut connection = connect(&host(Tier::Sentinel, *place), build::SENTINEL_PORT, known).await?;
            Ok(monitor(&mut connection, &key.name, master, known.redis_password.as_deref().unwrap_or_default()).await?)
        }
        Action::HandOver(place) => hand_over(key, known, &host(Tier::Redis, *place), &host(Tier::Sentinel, 0)).await,
    }
}

async fn replicaof(connection: &mut MultiplexedConnection, host: &str, port: &str) -> Result<(), Error> {
    redis::cmd("REPLICAOF").arg(host).arg(port).exec_async(connection).await?;
    Ok(redis::cmd("CONFIG").arg("REWRITE").exec_async(connection).await?)
}

/// All of it or, if the connection breaks, what fits: it is sent at once, so that a Sentinel is not left with half of it.
async fn monitor(
    connection: &mut MultiplexedConnection,
    service: &str,
    master: &str,
    password: &str,
) -> RedisResult<()> {
    let mut all = redis::pipe();
    all.cmd("SENTINEL").arg("MONITOR").arg(service).arg(master).arg(build::REDIS_PORT).arg(QUORUM).ignore();
    let mut set = |option: &str, value: &str| {
        all.cmd("SENTINEL").arg("SET").arg(service).arg(option).arg(value).ignore();
    };
    set("auth-pass", password);
    set("down-after-milliseconds", &DOWN_AFTER.to_string());
    set("failover-timeout", &FAILOVER_TIMEOUT.to_string());
    set("parallel-syncs", "1");
    all.exec_async(connection).await
}

/// Holds writes until the replicas have everything, and lets Sentinel choose one of them.
async fn hand_over(key: &Key, known: &Known, master: &str, sentinel: &str) -> Result<(), Error> {
    let mut connection = connect(master, build::REDIS_PORT, known).await?;
    let hold = u64::try_from(PAUSE.as_millis()).unwrap_or(u64::MAX) + 1_000;
    redis::cmd("CLIENT").arg("PAUSE").arg(hold).arg("WRITE").exec_async(&mut connection).await?;
    let deadline = Instant::now() + PAUSE;
    let hosts: Vec<String> = (0..build::REDIS_REPLICAS)
        .map(|place| build::pod_host(&key.name, &key.namespace, Tier::Redis, place))
        .collect();
    loop {
        let answers = futures::future::join_all(hosts.iter().map(|host| server(host, build::REDIS_PORT, known))).await;
        let offsets: Option<Vec<u64>> =
            answers.iter().map(|answer| answer.as_ref().map(|answer| answer.offset)).collect();
        if offsets.is_some_and(|offsets| offsets.windows(2).all(|pair| pair[0] == pair[1])) {
            break;
        }
        if Instant::now() >= deadline {
            redis::cmd("CLIENT").arg("UNPAUSE").exec_async(&mut connection).await?;
            return Err(Error::Behind);
        }
        sleep(Duration::from_millis(50)).await;
    }
    let mut sentinel = connect(sentinel, build::SENTINEL_PORT, known).await?;
    let failover = redis::cmd("SENTINEL").arg("FAILOVER").arg(&key.name).exec_async(&mut sentinel).await;
    // What the old master took now would be lost when it becomes a replica: it takes nothing until then.
    let deadline = Instant::now() + DEMOTION;
    while failover.is_ok() && Instant::now() < deadline {
        redis::cmd("CLIENT").arg("PAUSE").arg(hold).arg("WRITE").exec_async(&mut connection).await?;
        if server(master, build::REDIS_PORT, known).await.is_some_and(|answer| !answer.master) {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    redis::cmd("CLIENT").arg("UNPAUSE").exec_async(&mut connection).await?;
    Ok(failover?)
}

/// Lets a redis read its certificate anew, for the connections that come.
///
/// # Errors
/// It cannot be reached, or cannot read the files.
pub async fn renew(host: &str, port: i32, known: &Known, folder: &str) -> RedisResult<()> {
    let mut connection = connect(host, port, known).await?;
    let mut set = redis::cmd("CONFIG");
    set.arg("SET");
    for (setting, file) in [("tls-cert-file", "tls.crt"), ("tls-key-file", "tls.key"), ("tls-ca-cert-file", "ca.crt")] {
        set.arg(setting).arg(format!("{folder}/{file}"));
    }
    set.exec_async(&mut connection).await
}
