//! A proxy that corrupts what a server sends, to show that the checker notices.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use anyhow::Result;
use bytes::BytesMut;
use im_wire::frame::{self, Frame};
use im_wire::native::binary::{MESSAGE, SUBSCRIBED};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::accept_each;
use crate::sync::lock;

const MAX_FRAME: usize = 1 << 20;

/// What is done to one message on its way to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Corruption {
    /// It is dropped.
    Drop,
    /// It is sent twice.
    Repeat,
    /// It is sent after its successor.
    Swap,
    /// The connection is cut, and the first message that the client then resumes with is dropped: a server that skips one on
    /// resume.
    SkipOnResume,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Pending {
    #[default]
    None,
    Next(Corruption),
    /// The cut is made; the next connection that resumes is to miss one message.
    Skip,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    corrupted: AtomicU64,
}

/// The proxy, for the binary protocol over TCP; it ends when dropped.
pub struct CorruptingProxy {
    /// `127.0.0.1:port` for clients.
    pub address: String,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

impl CorruptingProxy {
    /// Starts in front of this server.
    pub async fn start(server: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?.to_string();
        let shared = Arc::<Shared>::default();
        let accept = accept_each(listener, {
            let server = server.to_owned();
            let shared = Arc::clone(&shared);
            move |client| {
                let server = server.clone();
                let shared = Arc::clone(&shared);
                async move {
                    // An error ends the connection, which is all a client sees.
                    let _ = forward(client, &server, &shared).await;
                }
            }
        });
        Ok(Self {
            address,
            shared,
            _task: AbortOnDropHandle::new(tokio::spawn(accept)),
        })
    }

    /// Does this to the next message, whichever client it is for.
    pub fn corrupt_next(&self, corruption: Corruption) {
        *lock(&self.shared.pending) = Pending::Next(corruption);
    }

    /// How many messages were corrupted.
    pub fn corrupted(&self) -> u64 {
        self.shared.corrupted.load(Ordering::Relaxed)
    }
}

async fn forward(client: TcpStream, server: &str, shared: &Shared) -> std::io::Result<()> {
    let server = TcpStream::connect(server).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_server)
            .await
            .map(|_| ())
    };
    let down = async {
        let mut buffer = BytesMut::new();
        let mut held = None;
        let mut resumes = false;
        while from_server.read_buf(&mut buffer).await? > 0 {
            while let Some(frame) =
                frame::decode(&mut buffer, MAX_FRAME).map_err(std::io::Error::other)?
            {
                resumes |= frame.operation == SUBSCRIBED;
                let Some(out) = shared.replace(frame, resumes, &mut held) else {
                    return Ok(());
                };
                to_client.write_all(&out).await?;
            }
        }
        Ok(())
    };
    tokio::select! {
        done = up => done,
        done = down => done,
    }
}

impl Shared {
    /// What goes on to the client in place of a frame; `None` cuts the connection.
    fn replace(&self, frame: Frame, resumes: bool, held: &mut Option<Frame>) -> Option<BytesMut> {
        let mut out = BytesMut::from(&frame.to_bytes()[..]);
        if frame.operation != MESSAGE {
            return Some(out);
        }
        if let Some(earlier) = held.take() {
            out.extend_from_slice(&earlier.to_bytes());
            return Some(out);
        }
        let mut pending = lock(&self.pending);
        let corruption = match *pending {
            Pending::Next(Corruption::SkipOnResume) => {
                *pending = Pending::Skip;
                return None;
            }
            Pending::Next(corruption) => corruption,
            Pending::Skip if resumes => Corruption::Drop,
            Pending::None | Pending::Skip => return Some(out),
        };
        *pending = Pending::None;
        self.corrupted.fetch_add(1, Ordering::Relaxed);
        match corruption {
            Corruption::Drop | Corruption::SkipOnResume => out.clear(),
            Corruption::Repeat => out.extend_from_slice(&frame.to_bytes()),
            Corruption::Swap => {
                out.clear();
                *held = Some(frame);
            }
        }
        Some(out)
    }
}
