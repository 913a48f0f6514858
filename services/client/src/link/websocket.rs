//! One frame in each WebSocket message: binary, or JSON as text.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use futures::{Sink, SinkExt, Stream, StreamExt};
use im_wire::native::{Request, Response};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::{bad_frame, broken};
use crate::codec;
use crate::codec::Encoding;
use crate::core::Loss;

#[derive(Debug)]
pub(crate) struct WebSocket {
    stream: WebSocketStream<TcpStream>,
    encoding: Encoding,
    outgoing: VecDeque<Message>,
    backlog: usize,
    /// Something was given to the library and not flushed.
    unflushed: bool,
    max_frame: usize,
    lost: Option<Loss>,
}

impl WebSocket {
    pub(crate) fn new(
        stream: WebSocketStream<TcpStream>,
        encoding: Encoding,
        max_frame: usize,
    ) -> Self {
        let outgoing = VecDeque::new();
        Self {
            stream,
            encoding,
            outgoing,
            backlog: 0,
            unflushed: false,
            max_frame,
            lost: None,
        }
    }

    pub(super) fn write(&mut self, request: &Request) {
        let message = match self.encoding {
            Encoding::Json => match Utf8Bytes::try_from(codec::encode_json(request)) {
                Ok(text) => Message::Text(text),
                // JSON is UTF-8; were it not, the server would say so.
                Err(_) => return,
            },
            Encoding::Binary => {
                let mut frame = BytesMut::new();
                codec::encode(request, &mut frame);
                Message::Binary(frame.freeze())
            }
        };
        self.backlog += message.len();
        self.outgoing.push_back(message);
    }

    pub(super) fn backlog(&self) -> usize {
        self.backlog
    }

    pub(super) fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), Loss> {
        match self.try_write(context) {
            // The reading side knows why, and has what was said before.
            Poll::Ready(Err(_)) => {
                self.outgoing.clear();
                self.unflushed = false;
                self.backlog = 0;
                Ok(())
            }
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn try_write(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.outgoing.is_empty() {
            std::task::ready!(Pin::new(&mut self.stream).poll_ready(context))?;
            if let Some(message) = self.outgoing.pop_front() {
                self.backlog -= message.len();
                Pin::new(&mut self.stream).start_send(message)?;
                self.unflushed = true;
            }
        }
        if self.unflushed {
            std::task::ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Result<Response, Loss>> {
        loop {
            if let Some(loss) = &self.lost {
                return Poll::Ready(Err(loss.clone()));
            }
            let loss = match std::task::ready!(Pin::new(&mut self.stream).poll_next(context)) {
                Some(Ok(Message::Binary(frame))) => {
                    match codec::decode_message(frame, self.max_frame) {
                        Ok(Some(response)) => return Poll::Ready(Ok(response)),
                        Ok(None) => continue,
                        Err(error) => bad_frame(&error),
                    }
                }
                Some(Ok(Message::Text(text))) => match codec::decode_json(text.as_bytes()) {
                    Ok(Some(response)) => return Poll::Ready(Ok(response)),
                    Ok(None) => continue,
                    Err(error) => bad_frame(&error),
                },
                Some(Ok(Message::Close(close))) => {
                    let (code, text) = close.map_or((None, String::new()), |close| {
                        (Some(u16::from(close.code)), close.reason.to_string())
                    });
                    let reason = if text.is_empty() {
                        "the server closed the connection".to_owned()
                    } else {
                        text
                    };
                    Loss { code, reason }
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => broken(&error),
                None => Loss {
                    code: None,
                    reason: "the server closed the connection".to_owned(),
                },
            };
            self.lost = Some(loss);
        }
    }

    pub(super) async fn close(mut self) {
        while let Some(message) = self.outgoing.pop_front() {
            if self.stream.feed(message).await.is_err() {
                return;
            }
        }
        if self.stream.close(None).await.is_ok() {
            while let Some(Ok(_)) = self.stream.next().await {}
        }
    }
}
