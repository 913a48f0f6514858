//! Does what was decided.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, ToRedisArgs};

use super::decide::{ANEW, Action, Observed};
use super::failover::{CATCHING_UP, HandedOver, hand_over, want};
use super::observe::connect;
use crate::api::Tier;
use crate::build;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::metrics;
use crate::secrets::Known;
use crate::tiers::stateful;

/// After so long without an answer a master counts as down.
const DOWN_AFTER: Duration = Duration::from_secs(5);
/// How long Sentinel tries to make a replica the master.
pub(super) const FAILOVER_TIMEOUT: Duration = Duration::from_secs(30);
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
    /// Replicas did not catch up while writes were refused.
    #[error("replicas did not have everything within {CATCHING_UP:?}: the master stays what it is")]
    Behind,
    /// There is no Sentinel to ask for a hand-over.
    #[error("no Sentinel that names the master answers and does its work: the master stays what it is")]
    NoSentinel,
    /// Sentinel agreed and made nobody the master.
    #[error("Sentinel has made no replica the master within {0:?}: the master stays what it is")]
    NotPromoted(Duration),
    /// The task that did it ended early.
    #[error("cut short: {0}")]
    CutShort(#[from] tokio::task::JoinError),
}

/// Does one thing.
///
/// # Errors
/// It is not done, or not known to be; the next round sees what is so.
pub async fn carry_out(
    context: &Arc<Context>,
    key: &Key,
    known: &Known,
    seen: &Observed,
    action: &Action,
) -> Result<(), Error> {
    tracing::info!(cluster = %key, ?action, "redis");
    let host = |tier, place: usize| context.pod_host(key, tier, i32::try_from(place).unwrap_or(i32::MAX));
    let redis = async |place: &usize| connect(&host(Tier::Redis, *place), build::REDIS_PORT, known).await;
    match action {
        Action::Latch(place) => Ok(stateful::latch(context, key, Tier::Redis, *place).await?),
        Action::Begun => Ok(stateful::take_word_back(context, key, ANEW).await?),
        Action::Replace(place) => Ok(stateful::end(context, key, Tier::Redis, *place).await?),
        Action::ReplaceSentinel(place) => Ok(stateful::end(context, key, Tier::Sentinel, *place).await?),
        Action::Lead(place) => Ok(replicaof(&mut redis(place).await?, "NO", "ONE").await?),
        Action::Follow(place, master) => Ok(replicaof(&mut redis(place).await?, master, build::REDIS_PORT).await?),
        Action::Monitor(place, master) => {
            let mut connection = connect(&host(Tier::Sentinel, *place), build::SENTINEL_PORT, known).await?;
            let password = known.redis_password.as_deref().unwrap_or_default();
            Ok(monitor(&mut connection, &key.name, (master, build::REDIS_PORT), password).await?)
        }
        Action::Want(place, replicas) => Ok(want(&mut redis(place).await?, *replicas).await?),
        Action::HandOver(place) => {
            let set = seen.succession(*place, |place| host(Tier::Sentinel, place));
            let (known, cluster, shared) = (known.clone(), key.clone(), Arc::clone(context));
            // Not cut off where this replica is asked to end: writes are refused until it is done.
            let task = tokio::spawn(async move {
                let _place = shared.places.acquire().await;
                let HandedOver { to, refused } = hand_over(&set, &known).await?;
                metrics::HAND_OVER_SECONDS.observe(refused.as_secs_f64());
                tracing::info!(%cluster, from = set.master, to, ?refused, "redis has handed over: writes were refused meanwhile");
                Ok(())
            });
            task.await?
        }
    }
}

/// Lets a redis follow another from now on, after a restart too; `NO` `ONE`: nobody.
pub(super) async fn replicaof(
    connection: &mut MultiplexedConnection,
    host: &str,
    port: impl ToRedisArgs,
) -> RedisResult<()> {
    redis::cmd("REPLICAOF").arg(host).arg(port).exec_async(connection).await?;
    redis::cmd("CONFIG").arg("REWRITE").exec_async(connection).await
}

/// Lets a Sentinel watch a master under this name. All of it or, if the connection breaks, what fits: it is sent at once, so
/// that a Sentinel is not left with half of it.
///
/// # Errors
/// It refuses, as when it watches one under this name already, or does not answer.
pub async fn monitor(
    connection: &mut MultiplexedConnection,
    service: &str,
    (host, port): (&str, i32),
    password: &str,
) -> RedisResult<()> {
    let mut all = redis::pipe();
    all.cmd("SENTINEL").arg("MONITOR").arg(service).arg(host).arg(port).arg(QUORUM).ignore();
    let mut set = |option: &str, value: &str| {
        all.cmd("SENTINEL").arg("SET").arg(service).arg(option).arg(value).ignore();
    };
    set("auth-pass", password);
    set("down-after-milliseconds", &DOWN_AFTER.as_millis().to_string());
    set("failover-timeout", &FAILOVER_TIMEOUT.as_millis().to_string());
    set("parallel-syncs", "1");
    all.exec_async(connection).await
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
