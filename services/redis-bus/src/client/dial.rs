//! One connection to a server, with limits on time and the certificates in force.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ClientTlsConfig, ConnectionAddr, ConnectionInfo, TlsCertificates,
};

use super::Options;

/// How many requests may wait in front of a connection's socket before the next one waits for a place.
const CONNECTION_BUFFER: usize = 256;

/// Opens a connection that gives up on a command after the time limit and `extra`.
pub(crate) async fn dial(
    info: ConnectionInfo,
    options: &Options,
    extra: Duration,
    push: Option<Box<dyn redis::aio::AsyncPushSender>>,
) -> redis::RedisResult<MultiplexedConnection> {
    let mut config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(options.connect_timeout))
        .set_response_timeout(Some(options.command_timeout + extra))
        .set_pipeline_buffer_size(CONNECTION_BUFFER);
    if let Some(push) = push {
        config = config.set_push_sender(move |info| push.send(info));
    }
    let client = match options
        .tls
        .as_ref()
        .filter(|_| matches!(info.addr(), ConnectionAddr::TcpTls { .. }))
    {
        None => redis::Client::open(info)?,
        Some(tls) => {
            // Read anew for each connection, as certificates are renewed.
            let pem = tls.pem();
            let root_cert = Some(pem.authority_and_system());
            let shown = ClientTlsConfig {
                client_cert: pem.certificate,
                client_key: pem.key,
            };
            redis::Client::build_with_tls(
                info,
                TlsCertificates {
                    client_tls: Some(shown),
                    root_cert,
                },
            )?
        }
    };
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}
