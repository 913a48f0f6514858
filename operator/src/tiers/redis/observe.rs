//! Asks redis and Sentinels what they are, all at the same time.

use std::collections::HashMap;

use futures::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{InfoDict, RedisResult};

use super::client::{MIN_REPLICAS, connect};
use super::decide::{ANEW, Answer, Observed, Sentinel, Server, Stats};
use crate::api::{ImCluster, RedisMode, Tier};
use crate::build;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::secrets::Credentials;
use crate::tiers::stateful;

/// Asks all redis and Sentinels at the same time.
pub(crate) async fn observe(
    context: &Context,
    key: &Key,
    cluster: &ImCluster,
    credentials: &Credentials,
) -> Observed {
    let spec = &cluster.spec.redis;
    let (servers, sentinels) = match spec.mode {
        RedisMode::Sentinel => (build::REDIS_REPLICAS, build::SENTINEL_REPLICAS),
        _ => (1, 0),
    };
    let host = |tier, ordinal| context.pod_host(key, tier, ordinal);
    let hosts: Vec<String> = (0..servers)
        .map(|ordinal| host(Tier::Redis, ordinal))
        .collect();
    let watchers: Vec<String> = (0..sentinels)
        .map(|ordinal| host(Tier::Sentinel, ordinal))
        .collect();
    let answers = join_all(
        hosts
            .iter()
            .map(|host| server(host, build::REDIS_PORT, credentials)),
    );
    let known_masters = join_all(
        watchers
            .iter()
            .map(|host| sentinel(host, build::SENTINEL_PORT, &key.name, credentials)),
    );
    let (answers, told) = tokio::join!(answers, known_masters);
    let failing_over = told
        .iter()
        .any(|(_, failing_over)| *failing_over == Some(true));
    let sentinels = told.into_iter().map(|(sentinel, _)| sentinel).collect();
    let replicas = stateful::replicas(context, key, Tier::Redis, hosts.len());
    let servers = hosts
        .into_iter()
        .zip(replicas)
        .zip(answers)
        .map(|((host, replica), answer)| Server {
            host,
            bootstrapped: replica.bootstrapped,
            ready: replica.ready,
            ending: replica.ending,
            outdated: replica.outdated,
            answer,
        });
    // Sentinels read certificates when they start.
    let stale = |ordinal| {
        credentials.change.is_some_and(|(_, since)| {
            stateful::is_older(context, key, Tier::Sentinel, ordinal, since)
        })
    };
    let outdated = stateful::replicas(context, key, Tier::Sentinel, watchers.len())
        .into_iter()
        .enumerate();
    let outdated = outdated
        .filter(|(number, replica)| replica.outdated || stale(*number))
        .map(|(number, _)| number);
    let confirming = usize::try_from(build::confirming_replicas(spec)).unwrap_or_default();
    Observed {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        servers: servers.collect(),
        sentinels,
        outdated_sentinels: outdated.collect(),
        failing_over,
        confirming,
        mirrored: cluster
            .status
            .as_ref()
            .and_then(|status| status.redis.as_ref())
            .is_some_and(|redis| redis.bootstrapped),
        anew: cluster.is_asked_for(ANEW),
    }
}

/// What a redis says of itself; `None`: nothing in time.
pub(crate) async fn server(host: &str, port: i32, credentials: &Credentials) -> Option<Answer> {
    let ask = async { info(&mut connect(host, port, credentials).await?).await };
    match ask.await {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(host, %error, "redis did not answer");
            None
        }
    }
}

/// What a redis says of itself over this connection.
///
/// # Errors
/// It does not answer.
pub(crate) async fn info(connection: &mut MultiplexedConnection) -> RedisResult<Answer> {
    let mut both = redis::pipe();
    both.cmd("INFO").cmd("CONFIG").arg("GET").arg(MIN_REPLICAS);
    let (info, settings): (InfoDict, HashMap<String, usize>) = both.query_async(connection).await?;
    Ok(answer(
        &info,
        settings.get(MIN_REPLICAS).copied().unwrap_or_default(),
    ))
}

fn answer(info: &InfoDict, min_replicas: usize) -> Answer {
    let text = |key: &str| info.get::<String>(key);
    let master = text("role").as_deref() == Some("master");
    let online = (0..16).filter_map(|number| text(&format!("slave{number}")));
    Answer {
        master,
        follows: text("master_host").filter(|_| !master),
        in_step: text("master_link_status").as_deref() == Some("up")
            && text("master_sync_in_progress").as_deref() == Some("0"),
        offset: info
            .get(if master {
                "master_repl_offset"
            } else {
                "slave_repl_offset"
            })
            .unwrap_or_default(),
        history: text("master_replid").unwrap_or_default(),
        keys: text("db0").map_or(0, |db| keys(&db)),
        loading: text("loading").as_deref() == Some("1"),
        min_replicas,
        replicas: online
            .filter(|replica| replica.contains("state=online"))
            .count(),
        stats: stats(info),
    }
}

fn stats(info: &InfoDict) -> Stats {
    let number = |key: &str| info.get::<i64>(key).unwrap_or_default();
    Stats {
        used_memory: number("used_memory"),
        max_memory: number("maxmemory"),
        clients: number("connected_clients"),
        commands: number("total_commands_processed"),
        uptime: number("uptime_in_seconds"),
        stored: info.get::<String>("aof_last_write_status").as_deref() == Some("ok"),
    }
}

/// Of `keys=3,expires=1,avg_ttl=0` the first.
fn keys(db: &str) -> u64 {
    let first = db.split(',').find_map(|field| field.strip_prefix("keys="));
    first
        .and_then(|count| count.parse().ok())
        .unwrap_or_default()
}

/// What a Sentinel says of the master named `service`, and whether it is replacing it just now; `None`: that is not known.
pub(crate) async fn sentinel(
    host: &str,
    port: i32,
    service: &str,
    credentials: &Credentials,
) -> (Sentinel, Option<bool>) {
    let ask = async {
        let mut connection = connect(host, port, credentials).await?;
        redis::cmd("SENTINEL")
            .arg("MASTERS")
            .query_async::<Vec<HashMap<String, String>>>(&mut connection)
            .await
    };
    match ask.await {
        Ok(masters) => {
            let named = |master: &&HashMap<String, String>| {
                master.get("name").is_some_and(|name| name == service)
            };
            let master = masters.iter().find(named);
            let flags = master.and_then(|master| master.get("flags"));
            let failing_over = flags
                .is_some_and(|flags| flags.split(',').any(|flag| flag == "failover_in_progress"));
            (
                Sentinel::Knows(master.and_then(|master| master.get("ip").cloned())),
                Some(failing_over),
            )
        }
        Err(error) => {
            tracing::debug!(host, %error, "Sentinel did not answer");
            (Sentinel::Silent, None)
        }
    }
}
