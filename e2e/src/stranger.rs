//! goim's and golang-im's clients, written from their wire facts alone: nothing of im-wire, so that a mistake there cannot
//! hide itself here.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

const HEADER: usize = 16;
const PATIENCE: Duration = Duration::from_secs(10);

/// One TLV frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The operation.
    pub operation: i32,
    /// The client's number, echoed.
    pub seq: i32,
    /// The body.
    pub body: Bytes,
}

/// How frames travel.
enum Link {
    Tcp(TcpStream, BytesMut),
    WebSocket(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>, BytesMut),
}

/// A connection of a foreign client.
pub struct Stranger {
    link: Link,
    next: i32,
    /// Frames that came while another was waited for.
    kept: Vec<Frame>,
}

impl Stranger {
    /// Over TCP, as goim's clients do.
    pub async fn tcp(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        Ok(Self { link: Link::Tcp(stream, BytesMut::new()), next: 0, kept: Vec::new() })
    }

    /// Over WebSocket: `path` is `/sub` for goim, `/ws` for golang-im.
    pub async fn websocket(address: &str, path: &str) -> Result<Self> {
        let (stream, _) = tokio_tungstenite::connect_async(format!("ws://{address}{path}")).await?;
        Ok(Self { link: Link::WebSocket(Box::new(stream), BytesMut::new()), next: 0, kept: Vec::new() })
    }

    /// Sends a frame and returns the number it carries.
    pub async fn send(&mut self, operation: i32, body: &[u8]) -> Result<i32> {
        self.next += 1;
        let mut frame = BytesMut::new();
        frame.put_i32((HEADER + body.len()).try_into()?);
        frame.put_i16(HEADER as i16);
        frame.put_i16(1);
        frame.put_i32(operation);
        frame.put_i32(self.next);
        frame.put_slice(body);
        match &mut self.link {
            Link::Tcp(stream, _) => stream.write_all(&frame).await?,
            Link::WebSocket(stream, _) => stream.send(Message::Binary(frame.freeze())).await?,
        }
        Ok(self.next)
    }

    /// The next frame; frames that come together, also those inside operation 9, are taken apart.
    pub async fn next(&mut self) -> Result<Frame> {
        if !self.kept.is_empty() {
            return Ok(self.kept.remove(0));
        }
        tokio::time::timeout(PATIENCE, self.receive()).await.context("no frame in time")?
    }

    /// The next frame of this operation; others are kept for later.
    pub async fn next_of(&mut self, operation: i32) -> Result<Frame> {
        if let Some(place) = self.kept.iter().position(|frame| frame.operation == operation) {
            return Ok(self.kept.remove(place));
        }
        let search = async {
            loop {
                let frame = self.receive().await?;
                if frame.operation == operation {
                    return Ok(frame);
                }
                self.kept.push(frame);
            }
        };
        tokio::time::timeout(PATIENCE, search).await.with_context(|| format!("no operation {operation} in time"))?
    }

    /// Sends a frame and waits for the answer, which has this operation and the same number.
    pub async fn ask(&mut self, operation: i32, body: &[u8], answer: i32) -> Result<Frame> {
        let seq = self.send(operation, body).await?;
        let frame = self.next_of(answer).await?;
        ensure!(frame.seq == seq, "{frame:?} answers {seq}");
        Ok(frame)
    }

    async fn receive(&mut self) -> Result<Frame> {
        loop {
            let buffer = match &mut self.link {
                Link::Tcp(_, buffer) | Link::WebSocket(_, buffer) => buffer,
            };
            match take(buffer)? {
                // A batch over WebSocket: its body is whole frames.
                Some(batch) if batch.operation == 9 => {
                    let rest = std::mem::take(buffer);
                    buffer.extend_from_slice(&batch.body);
                    buffer.extend_from_slice(&rest);
                }
                Some(frame) => return Ok(frame),
                None => self.read().await?,
            }
        }
    }

    async fn read(&mut self) -> Result<()> {
        match &mut self.link {
            Link::Tcp(stream, buffer) => {
                ensure!(stream.read_buf(buffer).await? > 0, "the server closed the connection");
            }
            Link::WebSocket(stream, buffer) => match stream.next().await {
                Some(Ok(Message::Binary(bytes))) => buffer.extend_from_slice(&bytes),
                Some(Ok(Message::Close(why))) => bail!("the server closed the connection: {why:?}"),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the server closed the connection"),
            },
        }
        Ok(())
    }
}

fn take(buffer: &mut BytesMut) -> Result<Option<Frame>> {
    if buffer.len() < HEADER {
        return Ok(None);
    }
    let mut header = &buffer[..HEADER];
    let length = usize::try_from(header.get_i32())?;
    ensure!(header.get_i16() as usize == HEADER, "a header of another length");
    let _version = header.get_i16();
    let (operation, seq) = (header.get_i32(), header.get_i32());
    ensure!(length >= HEADER, "a frame shorter than its header");
    if buffer.len() < length {
        return Ok(None);
    }
    let body = buffer.split_to(length).freeze().slice(HEADER..);
    Ok(Some(Frame { operation, seq, body }))
}

/// A frame's body as JSON.
pub fn json(frame: &Frame) -> Result<Value> {
    serde_json::from_slice(&frame.body).with_context(|| format!("not JSON: {frame:?}"))
}
