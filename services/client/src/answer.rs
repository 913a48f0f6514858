//! How sends and requests end, and whether the client is connected: what is answered to the application.

use im_wire::ids::{Epoch, RoomId, Seq};
use im_wire::native::Error;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::event::End;

/// Why a send was not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The server refused it, and would again. It is not stored: no earlier attempt went without an answer.
    #[error("refused: {}: {}", .0.code, .0.text)]
    Refused(Error),
    /// Its time is over and it is not stored: it was never written, or the server said each time that it was not.
    #[error("not sent in time{}", .last.as_ref().map(|error| format!(": {}: {}", error.code, error.text)).unwrap_or_default())]
    NotStored {
        /// The server's last answer, where there was one.
        last: Option<Error>,
    },
    /// It may be stored or not: an attempt was written and no answer told what became of it, and no later one was
    /// acknowledged. Sending the same client id again within the dedupe window tells, where the server still accepts it.
    #[error("outcome unknown: not every attempt was answered for client id {client_id}{}", .last.as_ref().map(|error| format!(", the last answer: {}: {}", error.code, error.text)).unwrap_or_default())]
    Unknown {
        /// The id to send again.
        client_id: String,
        /// The server's last error answer to one of the attempts, where there was one. One that is not retryable has
        /// ended the send.
        last: Option<Error>,
    },
    /// The client has ended before it was written. It is not stored.
    #[error("the client has ended")]
    Ended,
}

/// Why a request other than a send has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The server's answer.
    #[error("refused: {}: {}", .0.code, .0.text)]
    Refused(Error),
    /// No answer within the request timeout.
    #[error("no answer in time")]
    TimedOut,
    /// A signal needs a connection just now, and there is none or it was lost.
    #[error("not connected")]
    NotConnected,
    /// The server answered something that is no answer to this.
    #[error("the server's answer does not fit the question")]
    Unexpected,
    /// The client has ended.
    #[error("the client has ended")]
    Ended,
}

/// A send that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Where.
    pub room: RoomId,
    /// The sender's id for it.
    pub client_id: String,
    /// The message's id.
    pub id: String,
    /// In force.
    pub epoch: Epoch,
    /// Its place in the room.
    pub seq: Seq,
    /// When it was accepted the first time, unix milliseconds.
    pub time_ms: u64,
    /// An earlier attempt had stored it already.
    pub duplicate: bool,
}

/// Whether a client is connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not yet, or no longer; trying.
    Connecting {
        /// Why the last attempt failed.
        last_failure: Option<String>,
    },
    /// Connected and authenticated.
    Up,
    /// For good.
    Ended(End),
}

/// Whom a send answers; holds its place among the pending ones.
#[derive(Debug)]
pub(crate) struct SendReply {
    reply: oneshot::Sender<Result<Sent, SendError>>,
    #[expect(dead_code, reason = "held for its drop")]
    permit: OwnedSemaphorePermit,
}

impl SendReply {
    pub(crate) fn new(
        reply: oneshot::Sender<Result<Sent, SendError>>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { reply, permit }
    }

    pub(crate) fn answer(self, result: Result<Sent, SendError>) {
        let _ = self.reply.send(result);
    }
}
