//! Sockets of somebody who keeps to no rule: from an address of their own, bytes as they come, every byte counted.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use im_wire::{goim, websocket};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

const TIMEOUT: Duration = Duration::from_secs(20);
/// Far more than any answer of a server may be.
const MAX_FRAME: usize = 64 << 20;

/// What attackers have spent.
#[derive(Debug, Default)]
pub(super) struct Spent {
    /// Bytes written.
    pub(super) bytes: AtomicU64,
    /// Sockets opened.
    pub(super) sockets: AtomicU64,
    /// Sockets that the server closed, or refused to open.
    pub(super) closed: AtomicU64,
}

/// One socket.
pub(super) struct Raw {
    stream: TcpStream,
    spent: Arc<Spent>,
    buffer: BytesMut,
}

impl Raw {
    /// Connects to `to` from a loopback address that is not the neighbours' own.
    pub(super) async fn connect(from: Ipv4Addr, to: &str, spent: &Arc<Spent>) -> Result<Self> {
        let to: SocketAddr = to.parse()?;
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = timeout(TIMEOUT, socket.connect(to)).await.context("no connection in time")?;
        let stream = stream.inspect_err(|_| count(&spent.closed, 1))?;
        count(&spent.sockets, 1);
        Ok(Self { stream, spent: Arc::clone(spent), buffer: BytesMut::new() })
    }

    /// The same, upgraded to a WebSocket.
    pub(super) async fn websocket(from: Ipv4Addr, to: &str, spent: &Arc<Spent>) -> Result<Self> {
        let mut raw = Self::connect(from, to, spent).await?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        raw.write(request.as_bytes()).await?;
        let end = loop {
            if let Some(end) = raw.buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            raw.fill().await?;
        };
        let head = raw.buffer.split_to(end);
        ensure!(head.starts_with(b"HTTP/1.1 101"), "no upgrade: {}", String::from_utf8_lossy(&head));
        Ok(raw)
    }

    /// A WebSocket of somebody with a token.
    pub(super) async fn native(from: Ipv4Addr, to: &str, token: &str, spent: &Arc<Spent>) -> Result<Self> {
        let mut raw = Self::websocket(from, to, spent).await?;
        raw.say(&json!({"op": "auth", "req": 1, "token": token})).await?;
        raw.hear("auth_ok").await?;
        Ok(raw)
    }

    /// Writes all of `bytes`; fails where the server does not take them within 20 s or has closed.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = timeout(TIMEOUT, self.stream.write_all(bytes)).await.context("the server does not read")?;
        written.inspect_err(|_| count(&self.spent.closed, 1))?;
        count(&self.spent.bytes, bytes.len() as u64);
        Ok(())
    }

    /// A WebSocket frame of this kind (1 text, 2 binary, 9 ping, 10 pong), masked with zeros.
    pub(super) async fn frame(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        self.write(&frame(kind, body)).await
    }

    /// One request of the native dialect.
    pub(super) async fn say(&mut self, request: &Value) -> Result<()> {
        self.frame(1, request.to_string().as_bytes()).await
    }

    /// Reads until an operation of this name comes; an error or a close of the server is an error here.
    pub(super) async fn hear(&mut self, op: &str) -> Result<Value> {
        let search = async {
            loop {
                let Some(text) = self.next_text().await? else { bail!("the server closed") };
                let answer: Value = serde_json::from_slice(&text)?;
                match answer["op"].as_str() {
                    Some(found) if found == op => return Ok(answer),
                    Some("error" | "close") => bail!("{answer}"),
                    _ => {}
                }
            }
        };
        timeout(TIMEOUT, search).await.with_context(|| format!("no {op} in time"))?
    }

    /// The next text of the server; `None`: it has closed.
    async fn next_text(&mut self) -> Result<Option<BytesMut>> {
        loop {
            if let Some((kind, body)) = self.take_frame()? {
                match kind {
                    1 => return Ok(Some(body)),
                    8 => return Ok(None),
                    _ => continue,
                }
            }
            self.fill().await?;
        }
    }

    fn take_frame(&mut self) -> Result<Option<(u8, BytesMut)>> {
        let Some((kind, at, length)) = websocket::header(&self.buffer) else { return Ok(None) };
        ensure!(length <= MAX_FRAME, "a frame of {length} bytes");
        if self.buffer.len() < at + length {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(at + length);
        Ok(Some((kind, frame.split_off(at))))
    }

    async fn fill(&mut self) -> Result<()> {
        let read = timeout(TIMEOUT, self.stream.read_buf(&mut self.buffer)).await.context("nothing to read in time")?;
        if read.inspect_err(|_| count(&self.spent.closed, 1))? == 0 {
            count(&self.spent.closed, 1);
            bail!("the server closed");
        }
        Ok(())
    }

    /// Reads and drops what comes for this long, at most `per_second` bytes of it; `false`: the server has closed.
    pub(super) async fn drain_slowly(&mut self, span: Duration, per_second: usize) -> bool {
        const STEP: Duration = Duration::from_millis(50);
        let end = tokio::time::Instant::now() + span;
        let mut chunk = vec![0; (per_second / 20).max(1)];
        while tokio::time::Instant::now() < end {
            let mut wanted = chunk.len();
            while wanted > 0 {
                match self.stream.try_read(&mut chunk[..wanted]) {
                    Ok(0) => {
                        count(&self.spent.closed, 1);
                        return false;
                    }
                    Ok(read) => wanted -= read,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        count(&self.spent.closed, 1);
                        return false;
                    }
                }
            }
            tokio::time::sleep(STEP).await;
        }
        true
    }

    /// Whether the server has closed the socket by now. What came is dropped.
    pub(super) fn is_closed(&mut self) -> bool {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
            }
        }
    }
}

/// A client's WebSocket frame, masked with zeros.
pub(super) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(body.len() + 14);
    websocket::put_masked(&mut frame, 0x80 | kind, body);
    frame
}

/// A frame of goim's TLV protocol.
pub(super) fn tlv(operation: i32, body: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    im_wire::frame::encode(&mut frame, goim::VERSION, operation, 1, body);
    frame.into()
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
