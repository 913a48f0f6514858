//! Connections to redis and Sentinels over TLS, with the operator's own certificate, and what both `act` and `failover` send.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, RedisResult, TlsCertificates, ToRedisArgs,
};

use crate::secrets::Credentials;

/// One of them may take so long for anything.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// The setting of redis that says without how many connected replicas a master refuses writes.
pub(crate) const MIN_REPLICAS: &str = "min-replicas-to-write";

/// A connection to one server.
///
/// # Errors
/// It cannot be reached, or does not take the password or certificate.
pub(crate) async fn connect(
    host: &str,
    port: i32,
    credentials: &Credentials,
) -> RedisResult<MultiplexedConnection> {
    let password = credentials.redis_password.as_deref().unwrap_or_default();
    let certificates = TlsCertificates {
        client_tls: Some(ClientTlsConfig {
            client_cert: credentials.own.certificate.clone().into_bytes(),
            client_key: credentials.own.key.clone().into_bytes(),
        }),
        root_cert: Some(credentials.authority.clone().into_bytes()),
    };
    let client =
        Client::build_with_tls(format!("rediss://:{password}@{host}:{port}"), certificates)?;
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// Lets a redis follow another from now on, after a restart too; `NO` `ONE`: nobody.
pub(crate) async fn replicaof(
    connection: &mut MultiplexedConnection,
    host: &str,
    port: impl ToRedisArgs,
) -> RedisResult<()> {
    redis::cmd("REPLICAOF")
        .arg(host)
        .arg(port)
        .exec_async(connection)
        .await?;
    redis::cmd("CONFIG")
        .arg("REWRITE")
        .exec_async(connection)
        .await
}

/// Lets a master want so many replicas from now on.
///
/// # Errors
/// It cannot be reached.
pub(crate) async fn set_min_replicas(
    master: &mut MultiplexedConnection,
    replicas: usize,
) -> RedisResult<()> {
    redis::cmd("CONFIG")
        .arg("SET")
        .arg(MIN_REPLICAS)
        .arg(replicas)
        .exec_async(master)
        .await
}
