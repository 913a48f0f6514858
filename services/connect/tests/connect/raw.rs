//! A client of the native dialect that does nothing by itself: every frame is the test's.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use im_wire::code::CloseCode;
use im_wire::frame;
use im_wire::ids::{RoomId, Seq};
use im_wire::native::{Body, ClientOp, Position, Request, Response, ServerOp, binary};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: BytesMut,
    pub(crate) req: u32,
}

pub(crate) fn room(name: &str) -> RoomId {
    RoomId::new(name).unwrap()
}

pub(crate) fn from(name: &str, epoch: u64, seq: Option<Seq>) -> Position {
    Position {
        room: room(name),
        epoch,
        seq,
    }
}

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: BytesMut::new(),
            req: 0,
        }
    }

    /// Connected, authenticated, hearing these rooms.
    pub(crate) async fn session(address: SocketAddr, user: &str, resume: Vec<Position>) -> Self {
        let mut raw = Self::connect(address).await;
        raw.auth(user, resume, false).await;
        raw
    }

    pub(crate) async fn auth(&mut self, user: &str, resume: Vec<Position>, all: bool) {
        let waits = all || !resume.is_empty();
        let token = user.to_owned();
        let device = Some("raw".to_owned());
        self.ask(ClientOp::Auth {
            token,
            device,
            resume,
            all,
            agent: None,
        })
        .await;
        let answer = self.next().await.expect("an answer").op;
        assert!(
            matches!(answer, ServerOp::AuthOk { .. }),
            "{user}: {answer:?}"
        );
        if waits {
            self.until(|op| matches!(op, ServerOp::Subscribed { .. }).then_some(()))
                .await;
        }
    }

    pub(crate) async fn ask(&mut self, op: ClientOp) -> u32 {
        self.req += 1;
        let mut out = BytesMut::new();
        binary::encode_request(&Request { req: self.req, op }, &mut out);
        self.stream.write_all(&out).await.unwrap();
        self.req
    }

    pub(crate) async fn say(&mut self, name: &str, text: &str) -> u32 {
        let client_id = text.to_owned();
        let kind = "text".to_owned();
        let body = Body::Text(text.to_owned().into());
        self.ask(ClientOp::Send {
            room: room(name),
            client_id,
            kind,
            body,
        })
        .await
    }

    /// The next frame; `None`: the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Response> {
        let next = timeout(SOON, async {
            loop {
                if let Some(frame) = frame::decode(&mut self.buffer, 16 << 20).unwrap() {
                    return Some(binary::decode_response(&frame).unwrap());
                }
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(0) | Err(_) => return None,
                    Ok(_) => {}
                }
            }
        });
        next.await.expect("no frame in time")
    }

    /// The first frame that is wanted; others are passed over.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(&ServerOp) -> Option<T>) -> T {
        loop {
            let response = self.next().await.expect("the connection has ended");
            if let Some(found) = wanted(&response.op) {
                return found;
            }
        }
    }

    /// What happens in rooms, in a word each: `#3 text`, `reset 2`, `gone 1-4`. Other frames are passed over.
    pub(crate) async fn heard(&mut self, count: usize) -> Vec<String> {
        let mut heard = Vec::new();
        while heard.len() < count {
            heard.push(self.until(word).await);
        }
        heard
    }

    /// Nothing more happens in rooms up to the answer to a ping.
    pub(crate) async fn hears_nothing(&mut self) {
        self.ask(ClientOp::Ping).await;
        let said = self.until(|op| match op {
            ServerOp::Pong { .. } => Some(None),
            other => word(other).map(Some),
        });
        assert_eq!(said.await, None);
    }

    /// Nothing comes before the answer to a ping.
    pub(crate) async fn hears_nothing_at_all(&mut self) {
        self.ask(ClientOp::Ping).await;
        let first = self.next().await.expect("the connection has ended").op;
        assert!(matches!(first, ServerOp::Pong { .. }), "{first:?}");
    }

    /// Reads to the end; the code of the close frame, where there was one.
    pub(crate) async fn closed(&mut self) -> Option<CloseCode> {
        let mut code = None;
        while let Some(response) = self.next().await {
            if let ServerOp::Close { code: said, .. } = response.op {
                code = Some(said);
            }
        }
        code
    }
}

fn word(op: &ServerOp) -> Option<String> {
    match op {
        ServerOp::Message(message) => {
            let text = String::from_utf8_lossy(message.body.bytes());
            Some(format!("#{} {text}", message.seq))
        }
        ServerOp::Reset { seq, .. } => Some(format!("reset {seq}")),
        ServerOp::Truncated { from, to, .. } => Some(format!("gone {from}-{to}")),
        _ => None,
    }
}
