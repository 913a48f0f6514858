//! What a server must be: a master that says which one it is, of a release that has sharded channels, and better not one
//! that evicts.

use redis::aio::MultiplexedConnection;
use redis::{InfoDict, RedisResult, Value};

use crate::address::Host;

/// The first release with sharded channels.
const LEAST_MAJOR: u64 = 7;

/// What a server says about itself when asked for its role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Master,
    Replica,
    /// This user may not ask.
    Secret,
}

pub(crate) async fn role(connection: &mut MultiplexedConnection) -> RedisResult<Role> {
    match redis::cmd("ROLE")
        .query_async::<Vec<Value>>(connection)
        .await
    {
        Ok(role) => match role
            .first()
            .map(|role| redis::from_redis_value::<String>(role.clone()))
        {
            Some(Ok(role)) if role == "master" => Ok(Role::Master),
            _ => Ok(Role::Replica),
        },
        Err(error) if error.code() == Some("NOPERM") => Ok(Role::Secret),
        Err(error) => Err(error),
    }
}

/// Which process a server is: another one at the same address has another id. `None`: it does not say.
pub(crate) async fn run_id(connection: &mut MultiplexedConnection) -> Option<String> {
    let info = redis::cmd("INFO")
        .arg("server")
        .query_async::<InfoDict>(connection)
        .await;
    info.ok().and_then(|info| info.get("run_id"))
}

pub(super) async fn is_master(mut connection: MultiplexedConnection) -> Result<(), String> {
    match role(&mut connection).await {
        // Whoever may not ask is not kept from writing.
        Ok(Role::Master | Role::Secret) => Ok(()),
        Ok(Role::Replica) => Err("it is a replica: name its master, or Sentinels".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Asked once for each server that is connected to.
pub(super) async fn is_fit(
    mut connection: MultiplexedConnection,
    host: &Host,
) -> Result<(), String> {
    let info = redis::cmd("INFO")
        .arg("server")
        .arg("memory")
        .arg("replication")
        .query_async::<InfoDict>(&mut connection)
        .await;
    let Ok(info) = info else { return Ok(()) };
    let release: String = info.get("redis_version").unwrap_or_default();
    if release
        .split('.')
        .next()
        .and_then(|major| major.parse::<u64>().ok())
        .is_some_and(|major| major < LEAST_MAJOR)
    {
        return Err(format!(
            "it is redis {release}: {LEAST_MAJOR}.0 or newer is needed, for sharded channels"
        ));
    }
    // Without it nobody would notice that another master, which may lack a part of the log, has taken over.
    if info
        .get::<String>("master_replid")
        .is_none_or(|id| id.is_empty())
    {
        return Err(
            "INFO shows no master_replid, so a failover could take messages back unseen: \
                    use a redis that shows it, without a proxy that hides it"
                .to_owned(),
        );
    }
    let policy: String = info.get("maxmemory_policy").unwrap_or_default();
    if info.get::<u64>("maxmemory").is_some_and(|bytes| bytes > 0) && policy != "noeviction" {
        tracing::warn!(master = %host, policy, "redis may evict rooms: set maxmemory-policy noeviction");
    }
    Ok(())
}
