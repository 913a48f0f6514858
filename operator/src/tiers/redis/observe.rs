//! Asks redis and Sentinels over TLS, with the operator's own certificate.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ClientTlsConfig, InfoDict, RedisResult, TlsCertificates};

use super::decide::{Answer, Figures, Sentinel};
use crate::secrets::Known;

/// One of them may take so long for anything.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The setting of redis that says without how many connected replicas a master refuses writes.
pub const WANTED_REPLICAS: &str = "min-replicas-to-write";

/// A connection to one server.
///
/// # Errors
/// It cannot be reached, or does not take the password or certificate.
pub async fn connect(host: &str, port: i32, known: &Known) -> RedisResult<MultiplexedConnection> {
    let password = known.redis_password.as_deref().unwrap_or_default();
    let certificates = TlsCertificates {
        client_tls: Some(ClientTlsConfig {
            client_cert: known.own.certificate.clone().into_bytes(),
            client_key: known.own.key.clone().into_bytes(),
        }),
        root_cert: Some(known.authority.clone().into_bytes()),
    };
    let client = Client::build_with_tls(format!("rediss://:{password}@{host}:{port}"), certificates)?;
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// What a redis says of itself; `None`: nothing in time.
pub async fn server(host: &str, port: i32, known: &Known) -> Option<Answer> {
    let ask = async { info(&mut connect(host, port, known).await?).await };
    match ask.await {
        Ok(answer) => Some(answer),
        Err(error) => {
            tracing::debug!(host, %error, "a redis does not answer");
            None
        }
    }
}

/// What a redis says of itself over this connection.
///
/// # Errors
/// It does not answer.
pub async fn info(connection: &mut MultiplexedConnection) -> RedisResult<Answer> {
    let mut both = redis::pipe();
    both.cmd("INFO").cmd("CONFIG").arg("GET").arg(WANTED_REPLICAS);
    let (info, settings): (InfoDict, HashMap<String, usize>) = both.query_async(connection).await?;
    Ok(answer(&info, settings.get(WANTED_REPLICAS).copied().unwrap_or_default()))
}

fn answer(info: &InfoDict, wanted_replicas: usize) -> Answer {
    let text = |key: &str| info.get::<String>(key);
    let master = text("role").as_deref() == Some("master");
    let online = (0..16).filter_map(|number| text(&format!("slave{number}")));
    Answer {
        master,
        follows: text("master_host").filter(|_| !master),
        in_step: text("master_link_status").as_deref() == Some("up")
            && text("master_sync_in_progress").as_deref() == Some("0"),
        offset: info.get(if master { "master_repl_offset" } else { "slave_repl_offset" }).unwrap_or_default(),
        history: text("master_replid").unwrap_or_default(),
        keys: text("db0").map_or(0, |db| keys(&db)),
        loading: text("loading").as_deref() == Some("1"),
        wanted_replicas,
        replicas: online.filter(|replica| replica.contains("state=online")).count(),
        figures: figures(info),
    }
}

fn figures(info: &InfoDict) -> Figures {
    let number = |key: &str| info.get::<i64>(key).unwrap_or_default();
    Figures {
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
    first.and_then(|count| count.parse().ok()).unwrap_or_default()
}

/// What a Sentinel says of the master named `service`, and whether it is replacing it just now; `None`: that is not known.
pub async fn sentinel(host: &str, port: i32, service: &str, known: &Known) -> (Sentinel, Option<bool>) {
    let ask = async {
        let mut connection = connect(host, port, known).await?;
        redis::cmd("SENTINEL").arg("MASTERS").query_async::<Vec<HashMap<String, String>>>(&mut connection).await
    };
    match ask.await {
        Ok(masters) => {
            let named = |master: &&HashMap<String, String>| master.get("name").is_some_and(|name| name == service);
            let master = masters.iter().find(named);
            let flags = master.and_then(|master| master.get("flags"));
            let failing_over = flags.is_some_and(|flags| flags.split(',').any(|flag| flag == "failover_in_progress"));
            (Sentinel::Knows(master.and_then(|master| master.get("ip").cloned())), Some(failing_over))
        }
        Err(error) => {
            tracing::debug!(host, %error, "a Sentinel does not answer");
            (Sentinel::Silent, None)
        }
    }
}
