//! Somebody with a WebSocket console: says whatever they like as text, sees every frame and how it ends.

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::server::{PATIENCE, Server};

pub(crate) struct Console {
    pub(crate) stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    next: u64,
}

/// What comes from the server.
#[derive(Debug)]
pub(crate) enum Heard {
    Frame(Value),
    /// The WebSocket's close code, and whether the native close frame before it said "reconnect".
    Closed(u16),
}

impl Console {
    /// A connection that has said nothing yet.
    pub(crate) async fn open(server: &Server) -> Result<Self> {
        let (stream, _) = connect_async(format!("ws://{}/ws", server.addresses.ws)).await?;
        Ok(Self::over(stream))
    }

    /// Over this WebSocket.
    pub(crate) fn over(stream: WebSocketStream<MaybeTlsStream<TcpStream>>) -> Self {
        Self { stream, next: 0 }
    }

    /// An authenticated one.
    pub(crate) async fn enter(server: &Server, token: &str) -> Result<Self> {
        Self::open(server).await?.authenticated(token).await
    }

    /// One that hears a room from now on.
    pub(crate) async fn hear(server: &Server, token: &str, room: &str) -> Result<Self> {
        Self::open(server).await?.hear_room(token, room).await
    }

    async fn authenticated(mut self, token: &str) -> Result<Self> {
        let answer = self
            .ask(json!({"op": "auth", "token": token, "device": "console"}))
            .await?;
        ensure!(answer["op"] == "auth_ok", "{answer}");
        Ok(self)
    }

    /// The same, authenticated and in a room.
    pub(crate) async fn hear_room(self, token: &str, room: &str) -> Result<Self> {
        let mut console = self.authenticated(token).await?;
        let answer = console
            .ask(json!({"op": "subscribe", "rooms": [room]}))
            .await?;
        ensure!(answer["rooms"][0]["error"].is_null(), "{answer}");
        Ok(console)
    }

    pub(crate) async fn say(&mut self, message: Message) -> Result<()> {
        Ok(self.stream.send(message).await?)
    }

    /// Says a frame under a number of its own, which is returned.
    pub(crate) async fn send(&mut self, mut frame: Value) -> Result<u64> {
        self.next += 1;
        frame["req"] = self.next.into();
        self.say(Message::text(frame.to_string())).await?;
        Ok(self.next)
    }

    /// Says a frame and waits for the answer; whatever else comes is passed over.
    pub(crate) async fn ask(&mut self, frame: Value) -> Result<Value> {
        let number = self.send(frame).await?;
        loop {
            match self.next().await? {
                Heard::Frame(frame) if frame["req"] == number => return Ok(frame),
                Heard::Frame(_) => {}
                Heard::Closed(code) => bail!("closed with {code} instead of an answer"),
            }
        }
    }

    /// Says a frame and returns the code of the error that answers it.
    pub(crate) async fn refused(&mut self, frame: Value) -> Result<String> {
        let answer = self.ask(frame).await?;
        let error = if answer["op"] == "subscribed" {
            &answer["rooms"][0]["error"]
        } else {
            &answer
        };
        ensure!(
            answer["op"] == "error" || error["code"].is_string(),
            "not refused: {answer}"
        );
        Ok(error["code"].as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn next(&mut self) -> Result<Heard> {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.stream.next())
                .await
                .context("nothing in time")?;
            match next {
                Some(Ok(Message::Text(text))) => {
                    return Ok(Heard::Frame(serde_json::from_str(&text)?));
                }
                Some(Ok(Message::Close(Some(close)))) => {
                    return Ok(Heard::Closed(close.code.into()));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("ended without a word"),
            }
        }
    }

    /// Waits for the end and returns its code; frames are passed over.
    pub(crate) async fn closed(&mut self) -> Result<u16> {
        loop {
            if let Heard::Closed(code) = self.next().await? {
                return Ok(code);
            }
        }
    }

    /// Whether the connection goes on.
    pub(crate) async fn lives(&mut self) -> Result<()> {
        let answer = self.ask(json!({"op": "ping"})).await?;
        ensure!(answer["op"] == "pong", "{answer}");
        Ok(())
    }
}
