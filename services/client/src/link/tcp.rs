//! Frames back to back on a TCP stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use im_wire::native::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::{bad_frame, broken};
use crate::codec;
use crate::core::Loss;

/// Buffers longer than this are given back once they are empty.
const KEPT: usize = 16 << 10;

#[derive(Debug)]
pub(crate) struct Tcp {
    stream: TcpStream,
    incoming: BytesMut,
    outgoing: BytesMut,
    read_buffer: usize,
    max_frame: usize,
    /// A frame that cannot be read ends the stream for good.
    lost: Option<Loss>,
}

impl Tcp {
    pub(crate) fn new(stream: TcpStream, read_buffer: usize, max_frame: usize) -> Self {
        let incoming = BytesMut::new();
        let outgoing = BytesMut::new();
        Self {
            stream,
            incoming,
            outgoing,
            read_buffer: read_buffer.max(64),
            max_frame,
            lost: None,
        }
    }

    pub(super) fn write(&mut self, request: &Request) {
        codec::encode(request, &mut self.outgoing);
    }

    pub(super) fn backlog(&self) -> usize {
        self.outgoing.len()
    }

    pub(super) fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), Loss> {
        while !self.outgoing.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.outgoing) {
                Poll::Ready(Ok(0)) => {
                    return Err(broken(&io::Error::from(io::ErrorKind::WriteZero)));
                }
                Poll::Ready(Ok(written)) => self.outgoing.advance(written),
                Poll::Ready(Err(error)) => return self.unless_readable(context, &error),
                Poll::Pending => return Ok(()),
            }
        }
        if self.outgoing.capacity() > KEPT {
            self.outgoing = BytesMut::new();
        }
        Ok(())
    }

    /// A write that fails may only mean that the server has closed; what it said before that is still to be read.
    fn unless_readable(
        &mut self,
        context: &mut Context<'_>,
        error: &io::Error,
    ) -> Result<(), Loss> {
        self.outgoing.clear();
        match self.poll_fill(context) {
            Poll::Ready(Ok(read)) if read > 0 => Ok(()),
            _ if !self.incoming.is_empty() => Ok(()),
            _ => Err(broken(error)),
        }
    }

    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.incoming.reserve(self.read_buffer);
        poll_read_buf(Pin::new(&mut self.stream), context, &mut self.incoming)
    }

    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Response, Loss>> {
        if let Some(loss) = &self.lost {
            return Poll::Ready(Err(loss.clone()));
        }
        loop {
            match codec::decode_stream(&mut self.incoming, self.max_frame) {
                Ok(Some(response)) => return Poll::Ready(Ok(response)),
                Ok(None) => {}
                Err(error) => return self.lose(bad_frame(&error)),
            }
            match self.poll_fill(context) {
                Poll::Ready(Ok(0)) if self.incoming.is_empty() => {
                    return self.lose(closed("the server closed the connection"));
                }
                Poll::Ready(Ok(0)) => {
                    return self.lose(closed(
                        "the server closed the connection in the middle of a frame",
                    ));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return self.lose(broken(&error)),
                Poll::Pending => {
                    if self.incoming.is_empty() {
                        // An idle connection holds no buffer.
                        self.incoming = BytesMut::new();
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn lose(&mut self, loss: Loss) -> Poll<Result<Response, Loss>> {
        self.lost = Some(loss.clone());
        Poll::Ready(Err(loss))
    }

    pub(super) async fn close(mut self) {
        let written = self.stream.write_all_buf(&mut self.outgoing).await;
        if written.is_err() || self.stream.shutdown().await.is_err() {
            return;
        }
        // Reading to the end keeps what the server still sends from resetting the connection under its last frames.
        let mut rest = [0; 1024];
        while self.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    }
}

fn closed(reason: &str) -> Loss {
    Loss {
        code: None,
        reason: reason.to_owned(),
    }
}
