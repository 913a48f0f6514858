//! A goim and golang-im client, written from their wire formats without im-wire, so that a bug there cannot hide itself here.

use std::collections::VecDeque;
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
const TIMEOUT: Duration = Duration::from_secs(10);

/// One TLV frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The operation.
    pub operation: i32,
    /// The client's number, echoed in the response.
    pub seq: i32,
    /// The body.
    pub body: Bytes,
}

enum Transport {
    Tcp(TcpStream, BytesMut),
    WebSocket(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>, BytesMut),
}

/// One connection.
pub struct CompatClient {
    transport: Transport,
    last_seq: i32,
    /// Frames that arrived while another was waited for.
    skipped: VecDeque<Frame>,
}

impl CompatClient {
    /// Over TCP, as goim's clients do.
    pub async fn tcp(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        Ok(Self {
            transport: Transport::Tcp(stream, BytesMut::new()),
            last_seq: 0,
            skipped: VecDeque::new(),
        })
    }

    /// Over WebSocket: `path` is `/sub` for goim, `/ws` for golang-im.
    pub async fn websocket(address: &str, path: &str) -> Result<Self> {
        let (stream, _) = tokio_tungstenite::connect_async(format!("ws://{address}{path}")).await?;
        Ok(Self {
            transport: Transport::WebSocket(Box::new(stream), BytesMut::new()),
            last_seq: 0,
            skipped: VecDeque::new(),
        })
    }

    /// Sends a frame and returns its number.
    pub async fn send(&mut self, operation: i32, body: &[u8]) -> Result<i32> {
        self.last_seq += 1;
        let mut frame = BytesMut::new();
        frame.put_i32((HEADER + body.len()).try_into()?);
        frame.put_i16(HEADER as i16);
        frame.put_i16(1);
        frame.put_i32(operation);
        frame.put_i32(self.last_seq);
        frame.put_slice(body);
        match &mut self.transport {
            Transport::Tcp(stream, _) => stream.write_all(&frame).await?,
            Transport::WebSocket(stream, _) => stream.send(Message::Binary(frame.freeze())).await?,
        }
        Ok(self.last_seq)
    }

    /// The next frame; batches, also those inside operation 9, are split.
    pub async fn next(&mut self) -> Result<Frame> {
        if let Some(frame) = self.skipped.pop_front() {
            return Ok(frame);
        }
        tokio::time::timeout(TIMEOUT, self.receive())
            .await
            .context("no frame in time")?
    }

    /// The next frame with this operation; others are kept for later.
    pub async fn next_of(&mut self, operation: i32) -> Result<Frame> {
        let index = self
            .skipped
            .iter()
            .position(|frame| frame.operation == operation);
        if let Some(frame) = index.and_then(|index| self.skipped.remove(index)) {
            return Ok(frame);
        }
        let search = async {
            loop {
                let frame = self.receive().await?;
                if frame.operation == operation {
                    return Ok(frame);
                }
                self.skipped.push_back(frame);
            }
        };
        tokio::time::timeout(TIMEOUT, search)
            .await
            .with_context(|| format!("no operation {operation} in time"))?
    }

    /// Sends a frame and waits for the response, which has this operation and the same number.
    pub async fn request(&mut self, operation: i32, body: &[u8], response: i32) -> Result<Frame> {
        let seq = self.send(operation, body).await?;
        let frame = self.next_of(response).await?;
        ensure!(frame.seq == seq, "{frame:?} in response to {seq}");
        Ok(frame)
    }

    async fn receive(&mut self) -> Result<Frame> {
        loop {
            let buffer = match &mut self.transport {
                Transport::Tcp(_, buffer) | Transport::WebSocket(_, buffer) => buffer,
            };
            match split_frame(buffer)? {
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
        match &mut self.transport {
            Transport::Tcp(stream, buffer) => {
                ensure!(
                    stream.read_buf(buffer).await? > 0,
                    "the server closed the connection"
                );
            }
            Transport::WebSocket(stream, buffer) => match stream.next().await {
                Some(Ok(Message::Binary(bytes))) => buffer.extend_from_slice(&bytes),
                Some(Ok(Message::Close(reason))) => {
                    bail!("the server closed the connection: {reason:?}")
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("the server closed the connection"),
            },
        }
        Ok(())
    }
}

fn split_frame(buffer: &mut BytesMut) -> Result<Option<Frame>> {
    if buffer.len() < HEADER {
        return Ok(None);
    }
    let mut header = &buffer[..HEADER];
    let length = usize::try_from(header.get_i32())?;
    ensure!(
        header.get_i16() as usize == HEADER,
        "unexpected header length"
    );
    let _version = header.get_i16();
    let operation = header.get_i32();
    let seq = header.get_i32();
    ensure!(length >= HEADER, "a frame shorter than its header");
    if buffer.len() < length {
        return Ok(None);
    }
    let body = buffer.split_to(length).freeze().slice(HEADER..);
    Ok(Some(Frame {
        operation,
        seq,
        body,
    }))
}

/// A frame's body as JSON.
pub fn json(frame: &Frame) -> Result<Value> {
    serde_json::from_slice(&frame.body).with_context(|| format!("not JSON: {frame:?}"))
}
