//! A person with a WebSocket console: the native dialect as JSON, typed by hand. Nothing is retried.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const PATIENCE: Duration = Duration::from_secs(15);

/// One connection.
pub struct Console {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next: u32,
}

impl Console {
    /// Connects and authenticates.
    pub async fn open(address: &str, token: &str) -> Result<Self> {
        let opening = tokio_tungstenite::connect_async(format!("ws://{address}/ws"));
        let (stream, _) = tokio::time::timeout(PATIENCE, opening).await.context("not open in time")??;
        let mut console = Self { stream, next: 0 };
        let answer = console.ask(serde_json::json!({"op": "auth", "token": token, "device": "console"})).await?;
        anyhow::ensure!(answer["op"] == "auth_ok", "{answer}");
        Ok(console)
    }

    /// Sends a request; the number that its answer carries.
    pub async fn put(&mut self, mut request: Value) -> Result<u32> {
        self.next += 1;
        request["req"] = self.next.into();
        self.stream.send(Message::text(request.to_string())).await?;
        Ok(self.next)
    }

    /// Sends a request and waits for the frame that answers it; others are passed over.
    pub async fn ask(&mut self, request: Value) -> Result<Value> {
        let told = request.to_string();
        let wanted = self.put(request).await?;
        let search = async {
            loop {
                let frame = self.receive().await?;
                if frame["req"] == wanted {
                    return Ok(frame);
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.with_context(|| format!("no answer in time to {told}"))?
    }

    /// Says something in a room: the answer is `ack` or `error`.
    pub async fn send(&mut self, room: &str, client_id: &str) -> Result<Value> {
        self.ask(serde_json::json!({"op": "send", "room": room, "client_id": client_id, "body": "x"})).await
    }

    /// Waits for the message at this place in the room; what comes before it is passed over.
    pub async fn heard(&mut self, room: &str, seq: u64) -> Result<Value> {
        let search = async {
            loop {
                let frame = self.receive().await?;
                if frame["op"] == "message" && frame["room"] == room && frame["seq"] == seq {
                    return Ok(frame);
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.with_context(|| format!("{room} {seq} was not heard in time"))?
    }

    async fn receive(&mut self) -> Result<Value> {
        Ok(serde_json::from_str(&self.frame().await?)?)
    }

    /// The next frame as it came, however long it takes. Cancelling it loses nothing.
    pub async fn frame(&mut self) -> Result<Utf8Bytes> {
        loop {
            match self.stream.next().await.context("the connection ended")?? {
                Message::Text(text) => return Ok(text),
                Message::Close(why) => bail!("closed: {why:?}"),
                _ => {}
            }
        }
    }
}
