//! Sockets that follow no protocol: they send any bytes, from an address of the attacker's own, and count them.

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
/// Far more than any frame of a server.
const MAX_FRAME: usize = 64 << 20;

/// What attackers sent and opened.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) bytes: AtomicU64,
    pub(super) sockets: AtomicU64,
    /// Sockets that the server closed, or refused to open.
    pub(super) closed: AtomicU64,
}

pub(super) struct RawSocket {
    stream: TcpStream,
    traffic: Arc<Traffic>,
    buffer: BytesMut,
}

impl RawSocket {
    /// Connects to `to` from the loopback address `from`.
    pub(super) async fn connect(from: Ipv4Addr, to: &str, traffic: &Arc<Traffic>) -> Result<Self> {
        let to: SocketAddr = to.parse()?;
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = timeout(TIMEOUT, socket.connect(to))
            .await
            .context("no connection in time")?;
        let stream = stream.inspect_err(|_| count(&traffic.closed, 1))?;
        count(&traffic.sockets, 1);
        Ok(Self {
            stream,
            traffic: Arc::clone(traffic),
            buffer: BytesMut::new(),
        })
    }

    /// The same, upgraded to a WebSocket.
    pub(super) async fn websocket(
        from: Ipv4Addr,
        to: &str,
        traffic: &Arc<Traffic>,
    ) -> Result<Self> {
        let mut socket = Self::connect(from, to, traffic).await?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        socket.write(request.as_bytes()).await?;
        let end = loop {
            if let Some(end) = socket
                .buffer
                .windows(4)
                .position(|four| four == b"\r\n\r\n")
            {
                break end + 4;
            }
            socket.fill().await?;
        };
        let head = socket.buffer.split_to(end);
        ensure!(
            head.starts_with(b"HTTP/1.1 101"),
            "no upgrade: {}",
            String::from_utf8_lossy(&head)
        );
        Ok(socket)
    }

    /// The same, authenticated with a token.
    pub(super) async fn authenticated(
        from: Ipv4Addr,
        to: &str,
        token: &str,
        traffic: &Arc<Traffic>,
    ) -> Result<Self> {
        let mut socket = Self::websocket(from, to, traffic).await?;
        socket
            .send_json(&json!({"op": "auth", "req": 1, "token": token}))
            .await?;
        socket.receive("auth_ok").await?;
        Ok(socket)
    }

    /// Writes all of `bytes`; fails if the server does not read them within 20 s or has closed.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = timeout(TIMEOUT, self.stream.write_all(bytes))
            .await
            .context("the server does not read")?;
        written.inspect_err(|_| count(&self.traffic.closed, 1))?;
        count(&self.traffic.bytes, bytes.len() as u64);
        Ok(())
    }

    /// Sends a WebSocket frame of this kind (1 text, 2 binary, 9 ping, 10 pong), masked with zeros.
    pub(super) async fn frame(&mut self, kind: u8, body: &[u8]) -> Result<()> {
        self.write(&frame(kind, body)).await
    }

    /// Sends a request of the native dialect.
    pub(super) async fn send_json(&mut self, request: &Value) -> Result<()> {
        self.frame(1, request.to_string().as_bytes()).await
    }

    /// Reads until an operation of this name comes; `error` or `close` of the server is an error.
    pub(super) async fn receive(&mut self, op: &str) -> Result<Value> {
        let search = async {
            loop {
                let Some(text) = self.next_text().await? else {
                    bail!("the server closed the connection")
                };
                let answer: Value = serde_json::from_slice(&text)?;
                match answer["op"].as_str() {
                    Some(found) if found == op => return Ok(answer),
                    Some("error" | "close") => bail!("{answer}"),
                    _ => {}
                }
            }
        };
        timeout(TIMEOUT, search)
            .await
            .with_context(|| format!("no {op} in time"))?
    }

    /// The next text frame of the server; `None`: it has closed.
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
        let Some((kind, at, length)) = websocket::header(&self.buffer) else {
            return Ok(None);
        };
        ensure!(length <= MAX_FRAME, "a frame of {length} bytes");
        if self.buffer.len() < at + length {
            return Ok(None);
        }
        let mut frame = self.buffer.split_to(at + length);
        Ok(Some((kind, frame.split_off(at))))
    }

    async fn fill(&mut self) -> Result<()> {
        let read = timeout(TIMEOUT, self.stream.read_buf(&mut self.buffer))
            .await
            .context("nothing to read in time")?;
        if read.inspect_err(|_| count(&self.traffic.closed, 1))? == 0 {
            count(&self.traffic.closed, 1);
            bail!("the server closed the connection");
        }
        Ok(())
    }

    /// Reads and drops at most `per_second` bytes for this long; `false`: the server has closed.
    pub(super) async fn drain_slowly(&mut self, span: Duration, per_second: usize) -> bool {
        const STEP: Duration = Duration::from_millis(50);
        let end = tokio::time::Instant::now() + span;
        let mut chunk = vec![0; (per_second / 20).max(1)];
        while tokio::time::Instant::now() < end {
            let mut wanted = chunk.len();
            while wanted > 0 {
                match self.stream.try_read(&mut chunk[..wanted]) {
                    Ok(0) => {
                        count(&self.traffic.closed, 1);
                        return false;
                    }
                    Ok(read) => wanted -= read,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(_) => {
                        count(&self.traffic.closed, 1);
                        return false;
                    }
                }
            }
            tokio::time::sleep(STEP).await;
        }
        true
    }

    /// Whether the server has closed the socket by now. What was received is dropped.
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
