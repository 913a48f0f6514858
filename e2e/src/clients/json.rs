//! A client of the native dialect as JSON over WebSocket. Nothing is retried.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const TIMEOUT: Duration = Duration::from_secs(15);

/// One connection.
pub struct JsonClient {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_req: u32,
}

impl JsonClient {
    /// Connects and authenticates.
    pub async fn open(address: &str, token: &str) -> Result<Self> {
        let opening = tokio_tungstenite::connect_async(format!("ws://{address}/ws"));
        let (stream, _) = tokio::time::timeout(TIMEOUT, opening)
            .await
            .context("could not connect in time")??;
        let mut client = Self {
            stream,
            last_req: 0,
        };
        let response = client
            .request(serde_json::json!({"op": "auth", "token": token, "device": "json"}))
            .await?;
        anyhow::ensure!(response["op"] == "auth_ok", "{response}");
        Ok(client)
    }

    /// Sends a request and returns its number, which the response carries too.
    pub(crate) async fn send_request(&mut self, mut request: Value) -> Result<u32> {
        self.last_req += 1;
        request["req"] = self.last_req.into();
        self.stream.send(Message::text(request.to_string())).await?;
        Ok(self.last_req)
    }

    /// Sends a request and waits for the response; other frames are dropped.
    pub async fn request(&mut self, request: Value) -> Result<Value> {
        let text = request.to_string();
        let req = self.send_request(request).await?;
        let search = async {
            loop {
                let frame = self.receive().await?;
                if frame["req"] == req {
                    return Ok(frame);
                }
            }
        };
        tokio::time::timeout(TIMEOUT, search)
            .await
            .with_context(|| format!("no response in time to {text}"))?
    }

    /// Sends a message to a room; the response is `ack` or `error`.
    pub async fn send(&mut self, room: &str, client_id: &str) -> Result<Value> {
        self.request(
            serde_json::json!({"op": "send", "room": room, "client_id": client_id, "body": "x"}),
        )
        .await
    }

    /// Waits for the message with this seq; frames before it are dropped.
    pub async fn receive_message(&mut self, room: &str, seq: u64) -> Result<Value> {
        let search = async {
            loop {
                let frame = self.receive().await?;
                if frame["op"] == "message" && frame["room"] == room && frame["seq"] == seq {
                    return Ok(frame);
                }
            }
        };
        tokio::time::timeout(TIMEOUT, search)
            .await
            .with_context(|| format!("message {seq} of {room} was not delivered in time"))?
    }

    async fn receive(&mut self) -> Result<Value> {
        Ok(serde_json::from_str(&self.frame().await?)?)
    }

    /// The next frame as text, without a timeout. Cancel-safe.
    pub(crate) async fn frame(&mut self) -> Result<Utf8Bytes> {
        loop {
            match self
                .stream
                .next()
                .await
                .context("the connection was closed")??
            {
                Message::Text(text) => return Ok(text),
                Message::Close(reason) => bail!("closed: {reason:?}"),
                _ => {}
            }
        }
    }
}
