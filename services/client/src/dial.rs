//! From an address to a socket that carries frames, with the token to present on it.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use crate::address::{Address, Transport};
use crate::codec::Encoding;
use crate::link::{Link, Tcp, WebSocket};
use crate::options::Options;
use crate::token::TokenSource;

/// Asks for a token, then connects; the error is a sentence for people.
pub(crate) async fn dial(
    address: Address,
    tokens: Arc<dyn TokenSource>,
    encoding: Encoding,
    options: Arc<Options>,
) -> Result<(Link, String), String> {
    let token = timeout(options.token_timeout, tokens.token()).await;
    let token =
        token.map_err(|_| format!("the token source did not answer within {}", seconds(options.token_timeout)))?;
    let token = token.map_err(|error| format!("no token: {error}"))?;
    let link = timeout(options.connect_timeout, connect(&address, encoding, &options)).await;
    let link = link.map_err(|_| format!("no connection within {}", seconds(options.connect_timeout)))??;
    Ok((link, token))
}

async fn connect(address: &Address, encoding: Encoding, options: &Options) -> Result<Link, String> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|error| error.to_string())?;
    // Without it a small frame may wait for the acknowledgement of the one before.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    match &address.transport {
        Transport::Tcp => Ok(Link::Tcp(Tcp::new(stream, options.read_buffer, options.max_frame))),
        Transport::WebSocket(path) => {
            let url = format!("ws://{}{path}", address.authority());
            let request = url.into_client_request().map_err(|error| error.to_string())?;
            let config = WebSocketConfig::default()
                .read_buffer_size(options.read_buffer)
                .write_buffer_size(options.read_buffer)
                .max_message_size(Some(options.max_frame))
                .max_frame_size(Some(options.max_frame));
            let (stream, _) = client_async_with_config(request, stream, Some(config)).await.map_err(upgrade_failed)?;
            Ok(Link::WebSocket(Box::new(WebSocket::new(stream, encoding, options.max_frame))))
        }
    }
}

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn upgrade_failed(error: Error) -> String {
    match error {
        Error::Http(response) => format!("the server answered the WebSocket upgrade with {}", response.status()),
        other => format!("the WebSocket upgrade failed: {other}"),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}
