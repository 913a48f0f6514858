//! One socket with whole frames on it: what is written waits here until the socket takes it, what is read leaves decoded.

mod tcp;
mod websocket;

use std::task::{Context, Poll};
use std::time::Duration;

use im_wire::native::{Request, Response};
use tokio::time::timeout;

pub(crate) use tcp::Tcp;
pub(crate) use websocket::WebSocket;

use crate::core::Loss;

/// How long a polite end may take.
const GOODBYE: Duration = Duration::from_secs(1);
/// Frames taken at once; then others get their turn.
const BATCH: usize = 64;

/// A socket of either kind.
#[derive(Debug)]
pub(crate) enum Link {
    Tcp(Tcp),
    WebSocket(Box<WebSocket>),
}

impl Link {
    /// Queues a frame.
    pub(crate) fn write(&mut self, request: &Request) {
        match self {
            Self::Tcp(tcp) => tcp.write(request),
            Self::WebSocket(websocket) => websocket.write(request),
        }
    }

    /// Bytes that wait to be written.
    pub(crate) fn backlog(&self) -> usize {
        match self {
            Self::Tcp(tcp) => tcp.backlog(),
            Self::WebSocket(websocket) => websocket.backlog(),
        }
    }

    /// Writes what can be written and, where `read`, takes what has arrived: one frame or more, or why there will be none.
    pub(crate) fn poll(
        &mut self,
        read: bool,
        context: &mut Context<'_>,
    ) -> Poll<Result<Vec<Response>, Loss>> {
        if let Err(loss) = self.poll_write(context) {
            return Poll::Ready(Err(loss));
        }
        if !read {
            return Poll::Pending;
        }
        let mut frames = Vec::new();
        while frames.len() < BATCH {
            match self.poll_read(context) {
                Poll::Ready(Ok(frame)) => frames.push(frame),
                // What came before the end is delivered first; the end shows again at the next poll.
                Poll::Ready(Err(loss)) if frames.is_empty() => return Poll::Ready(Err(loss)),
                Poll::Ready(Err(_)) | Poll::Pending => break,
            }
        }
        if frames.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(frames))
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), Loss> {
        match self {
            Self::Tcp(tcp) => tcp.poll_write(context),
            Self::WebSocket(websocket) => websocket.poll_write(context),
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Response, Loss>> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read(context),
            Self::WebSocket(websocket) => websocket.poll_read(context),
        }
    }

    /// Writes what waits and ends the connection, politely for a moment.
    pub(crate) async fn close(self) {
        let goodbye = async {
            match self {
                Self::Tcp(tcp) => tcp.close().await,
                Self::WebSocket(websocket) => websocket.close().await,
            }
        };
        // A server that does not answer the good-bye has lost nothing by it.
        let _ = timeout(GOODBYE, goodbye).await;
    }
}

fn broken(error: &dyn std::error::Error) -> Loss {
    Loss {
        code: None,
        reason: format!("the connection broke: {error}"),
    }
}

fn bad_frame(error: &dyn std::error::Error) -> Loss {
    Loss {
        code: None,
        reason: format!("the server sent a frame that cannot be read: {error}"),
    }
}
