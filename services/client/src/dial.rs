//! From an address to a socket that carries frames, with the token to present on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::address::{Address, Transport};
use crate::codec::Encoding;
use crate::link::{Link, Tcp, WebSocket};
use crate::options::Options;
use crate::token::{TokenError, TokenSource};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("the token source did not answer within {}", seconds(*.0))]
    TokenTimeout(Duration),
    #[error("no token: {0}")]
    Token(#[source] TokenError),
    #[error("no connection within {}", seconds(*.0))]
    ConnectTimeout(Duration),
    #[error(transparent)]
    Socket(#[from] std::io::Error),
    #[error("the server answered the WebSocket upgrade with {0}")]
    UpgradeRefused(StatusCode),
    #[error("the WebSocket upgrade failed: {0}")]
    Upgrade(#[source] Box<Error>),
}

/// Asks for a token, then connects.
pub(crate) async fn dial(
    address: Address,
    tokens: Arc<dyn TokenSource>,
    encoding: Encoding,
    options: Arc<Options>,
) -> Result<(Link, String), DialError> {
    let token = fetch_token(tokens, options.token_timeout).await?;
    let link = timeout(
        options.connect_timeout,
        connect(&address, encoding, &options),
    )
    .await;
    let link = link.map_err(|_| DialError::ConnectTimeout(options.connect_timeout))??;
    Ok((link, token))
}

/// Asks for a token.
pub(crate) async fn fetch_token(
    tokens: Arc<dyn TokenSource>,
    within: Duration,
) -> Result<String, DialError> {
    let token = timeout(within, tokens.token()).await;
    token
        .map_err(|_| DialError::TokenTimeout(within))?
        .map_err(DialError::Token)
}

async fn connect(
    address: &Address,
    encoding: Encoding,
    options: &Options,
) -> Result<Link, DialError> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    // Without it a small frame may wait for the acknowledgement of the one before.
    stream.set_nodelay(true)?;
    match &address.transport {
        Transport::Tcp => Ok(Link::Tcp(Tcp::new(
            stream,
            options.read_buffer,
            options.max_frame,
        ))),
        Transport::WebSocket(path) => {
            let url = format!("ws://{}{path}", address.authority());
            let request = url.into_client_request().map_err(upgrade_failed)?;
            let config = WebSocketConfig::default()
                .read_buffer_size(options.read_buffer)
                .write_buffer_size(options.read_buffer)
                .max_message_size(Some(options.max_frame))
                .max_frame_size(Some(options.max_frame));
            let (stream, _) = client_async_with_config(request, stream, Some(config))
                .await
                .map_err(upgrade_failed)?;
            Ok(Link::WebSocket(Box::new(WebSocket::new(
                stream,
                encoding,
                options.max_frame,
            ))))
        }
    }
}

fn upgrade_failed(error: Error) -> DialError {
    match error {
        Error::Http(response) => DialError::UpgradeRefused(response.status()),
        other => DialError::Upgrade(Box::new(other)),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}
