//! Does what was decided.

use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::Semaphore;

use super::client::{connect, replicaof, set_min_replicas};
use super::decide::{ANEW, Action, Observed};
use super::failover::{self, FAILOVER_TIMEOUT, FailedOver, fail_over};
use crate::api::Tier;
use crate::build;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::metrics;
use crate::secrets::Credentials;
use crate::tiers::stateful;

/// After so long without an answer a master counts as down.
const DOWN_AFTER: Duration = Duration::from_secs(5);
/// Sentinels that must agree.
const QUORUM: u32 = 2;

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Redis or Sentinel.
    #[error("{0}")]
    Redis(#[from] redis::RedisError),
    /// The API server.
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// The failover came to nothing.
    #[error(transparent)]
    Failover(#[from] failover::Error),
    /// The task that did it ended early.
    #[error("interrupted: {0}")]
    CutShort(#[from] tokio::task::JoinError),
}

/// Does one thing.
///
/// # Errors
/// It is not done, or not known to be; the next round sees what is so.
pub(crate) async fn act(
    context: &Context,
    permits: &Arc<Semaphore>,
    key: &Key,
    credentials: &Credentials,
    seen: &Observed,
    action: &Action,
) -> Result<(), Error> {
    tracing::info!(cluster = %key, ?action, "redis action");
    let host = |tier, ordinal: usize| {
        context.pod_host(key, tier, i32::try_from(ordinal).unwrap_or(i32::MAX))
    };
    let redis = async |ordinal: &usize| {
        connect(&host(Tier::Redis, *ordinal), build::REDIS_PORT, credentials).await
    };
    match action {
        Action::MarkBootstrapped(ordinal) => {
            Ok(stateful::mark_bootstrapped(context, key, Tier::Redis, *ordinal).await?)
        }
        Action::RemoveAnnotation => Ok(stateful::remove_annotation(context, key, ANEW).await?),
        Action::Restart(ordinal) => {
            Ok(stateful::restart(context, key, Tier::Redis, *ordinal).await?)
        }
        Action::RestartSentinel(ordinal) => {
            Ok(stateful::restart(context, key, Tier::Sentinel, *ordinal).await?)
        }
        Action::Promote(ordinal) => Ok(replicaof(&mut redis(ordinal).await?, "NO", "ONE").await?),
        Action::ReplicateFrom(ordinal, master) => {
            Ok(replicaof(&mut redis(ordinal).await?, master, build::REDIS_PORT).await?)
        }
        Action::Monitor(ordinal, master) => {
            let mut connection = connect(
                &host(Tier::Sentinel, *ordinal),
                build::SENTINEL_PORT,
                credentials,
            )
            .await?;
            let password = credentials.redis_password.as_deref().unwrap_or_default();
            Ok(monitor(
                &mut connection,
                &key.name,
                (master, build::REDIS_PORT),
                password,
            )
            .await?)
        }
        Action::SetMinReplicas(ordinal, replicas) => {
            Ok(set_min_replicas(&mut redis(ordinal).await?, *replicas).await?)
        }
        Action::Failover(ordinal) => {
            let set = seen.succession(*ordinal, |ordinal| host(Tier::Sentinel, ordinal));
            let credentials = credentials.clone();
            let cluster = key.clone();
            let permits = Arc::clone(permits);
            // Not cut off where this replica is asked to end: writes are refused until it is done.
            let task = tokio::spawn(async move {
                let _permit = permits.acquire().await;
                let FailedOver { to, refused } = fail_over(&set, &credentials).await?;
                metrics::HAND_OVER_SECONDS.observe(refused.as_secs_f64());
                tracing::info!(%cluster, from = set.master, to, ?refused, "redis failover complete; writes were refused during it");
                Ok(())
            });
            task.await?
        }
    }
}

/// Lets a Sentinel watch a master under this name. All of it or, if the connection breaks, what fits: it is sent at once, so
/// that a Sentinel is not left with half of it.
///
/// # Errors
/// It refuses, as when it watches one under this name already, or does not answer.
pub(crate) async fn monitor(
    connection: &mut MultiplexedConnection,
    service: &str,
    (host, port): (&str, i32),
    password: &str,
) -> RedisResult<()> {
    let mut all = redis::pipe();
    all.cmd("SENTINEL")
        .arg("MONITOR")
        .arg(service)
        .arg(host)
        .arg(port)
        .arg(QUORUM)
        .ignore();
    let mut set = |option: &str, value: &str| {
        all.cmd("SENTINEL")
            .arg("SET")
            .arg(service)
            .arg(option)
            .arg(value)
            .ignore();
    };
    set("auth-pass", password);
    set(
        "down-after-milliseconds",
        &DOWN_AFTER.as_millis().to_string(),
    );
    set(
        "failover-timeout",
        &FAILOVER_TIMEOUT.as_millis().to_string(),
    );
    set("parallel-syncs", "1");
    all.exec_async(connection).await
}

/// Lets a redis read its certificate anew, for the connections that come.
///
/// # Errors
/// It cannot be reached, or cannot read the files.
pub(crate) async fn renew(
    host: &str,
    port: i32,
    credentials: &Credentials,
    folder: &str,
) -> RedisResult<()> {
    let mut connection = connect(host, port, credentials).await?;
    let mut set = redis::cmd("CONFIG");
    set.arg("SET");
    for (setting, file) in [
        ("tls-cert-file", "tls.crt"),
        ("tls-key-file", "tls.key"),
        ("tls-ca-cert-file", "ca.crt"),
    ] {
        set.arg(setting).arg(format!("{folder}/{file}"));
    }
    set.exec_async(&mut connection).await
}
