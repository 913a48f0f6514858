//! The handle an application holds: cheap to clone, every call answered or ended by a deadline.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use im_wire::ids::{Epoch, RoomId, Seq};
use im_wire::native::{Body, ClientOp, Message, Position, ServerOp, SubscribedRoom};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::answer::{RequestError, SendError, SendReply, Sent, State};
use crate::core::Command;
use crate::event::{End, Heard};
use crate::options::Options;
use crate::outbox::PendingSend;
use crate::stats::{Counters, Stats};

/// A message to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    room: RoomId,
    client_id: Option<String>,
    kind: String,
    body: Body,
    deadline: Option<Duration>,
}

impl Outgoing {
    /// A message of any type and body.
    pub fn new(room: RoomId, kind: impl Into<String>, body: Body) -> Self {
        Self {
            room,
            client_id: None,
            kind: kind.into(),
            body,
            deadline: None,
        }
    }

    /// A message of type `text`.
    pub fn text(room: RoomId, text: impl Into<String>) -> Self {
        Self::new(room, "text", Body::Text(Bytes::from(text.into())))
    }

    /// The sender's own id for it, by which a retry is recognised. Without, the client makes one.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = Some(client_id.into());
        self
    }

    /// How long to keep trying; without, the options' `send_deadline`.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// A send on its way; resolves once it is acknowledged or has failed. Dropping it does not take the send back.
#[derive(Debug)]
pub struct Ticket(oneshot::Receiver<Result<Sent, SendError>>);

impl Future for Ticket {
    type Output = Result<Sent, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(SendError::Ended)))
    }
}

/// A page of a room's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In force.
    pub epoch: Epoch,
    /// The log's last seq.
    pub head: Seq,
    /// What retention has removed of what was asked for.
    pub truncated: Option<(Seq, Seq)>,
    /// Ascending by seq.
    pub messages: Vec<Message>,
}

/// Which part of a log to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The latest.
    Latest,
    /// The oldest with a greater seq.
    After(Seq),
    /// The newest with a smaller seq.
    Before(Seq),
}

/// A user's place in a room, the same on all devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadState {
    /// Up to and with.
    pub read: Seq,
    /// The log's last seq.
    pub head: Seq,
    /// head - max(read, joined).
    pub unread: u64,
}

/// A client. Clones share one connection; when the last is dropped, or one is closed, the connection ends.
#[derive(Debug, Clone)]
pub struct Client {
    // Boxed: a channel keeps room for 32 items from the start, and there may be thousands of clients in a process.
    commands: mpsc::Sender<Box<Command>>,
    permits: Arc<Semaphore>,
    options: Arc<Options>,
    counters: Arc<Counters>,
    heard: Arc<Heard>,
    state: watch::Receiver<State>,
}

impl Client {
    pub(crate) fn new(
        commands: mpsc::Sender<Box<Command>>,
        permits: Arc<Semaphore>,
        options: Arc<Options>,
        counters: Arc<Counters>,
        heard: Arc<Heard>,
        state: watch::Receiver<State>,
    ) -> Self {
        Self {
            commands,
            permits,
            options,
            counters,
            heard,
            state,
        }
    }

    /// Sends a message and waits until it is stored. Retried under one client id until its deadline, over reconnects.
    ///
    /// The answer comes over the socket that also carries messages: an application that waits here must have another
    /// task that takes events out of [`Events`](crate::Events).
    ///
    /// # Errors
    /// [`SendError`] says whether it may be stored all the same.
    pub async fn send(&self, message: Outgoing) -> Result<Sent, SendError> {
        self.enqueue(message).await?.await
    }

    /// Hands a message over without waiting for its acknowledgement. Messages of one caller to one room are written, and
    /// written again, in the order of these calls. Waits only while `max_pending` are under way.
    ///
    /// # Errors
    /// [`SendError::NotStored`] where there was no place before the deadline, [`SendError::Ended`].
    pub async fn enqueue(&self, message: Outgoing) -> Result<Ticket, SendError> {
        let deadline = Instant::now() + message.deadline.unwrap_or(self.options.send_deadline);
        let (reply, answer) = oneshot::channel();
        let client_id = message
            .client_id
            .unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
        let send = PendingSend {
            room: message.room,
            client_id,
            kind: message.kind,
            body: message.body,
        };
        let handed_over = tokio::time::timeout_at(deadline, async {
            let permit = self.permit().await.ok_or(SendError::Ended)?;
            let command = Command::Send {
                send,
                deadline,
                reply: SendReply::new(reply, permit),
            };
            self.commands
                .send(Box::new(command))
                .await
                .map_err(|_| SendError::Ended)
        });
        handed_over
            .await
            .unwrap_or(Err(SendError::NotStored { last: None }))?;
        Ok(Ticket(answer))
    }

    /// Sends something that is not stored: at most once, and only while connected.
    ///
    /// # Errors
    /// [`RequestError::NotConnected`] where there is no connection; it is not tried again.
    pub async fn signal(
        &self,
        room: RoomId,
        kind: impl Into<String>,
        body: Body,
    ) -> Result<(), RequestError> {
        match self
            .request(ClientOp::Signal {
                room,
                kind: kind.into(),
                body,
            })
            .await?
        {
            ServerOp::Done => Ok(()),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Reads a part of a room's log; at most `limit` messages (0: the server's default).
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn history(
        &self,
        room: RoomId,
        part: Part,
        limit: u32,
    ) -> Result<Page, RequestError> {
        let (after, before) = match part {
            Part::Latest => (None, None),
            Part::After(seq) => (Some(seq), None),
            Part::Before(seq) => (None, Some(seq)),
        };
        match self
            .request(ClientOp::History {
                room,
                after,
                before,
                limit,
            })
            .await?
        {
            ServerOp::History {
                epoch,
                head,
                truncated,
                messages,
                ..
            } => Ok(Page {
                epoch,
                head,
                truncated,
                messages,
            }),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Says that everything up to `seq` has been read; an older position changes nothing.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn read(&self, room: RoomId, seq: Seq) -> Result<ReadState, RequestError> {
        match self.request(ClientOp::Read { room, seq }).await? {
            ServerOp::ReadState {
                read, head, unread, ..
            } => Ok(ReadState { read, head, unread }),
            _ => Err(RequestError::Unexpected),
        }
    }

    /// Hears rooms, each from its position, from now on and over reconnects. A room that is heard already keeps its
    /// place. Answers once the server has, with one result per room; a refused room is not asked for again unless the
    /// refusal was retryable.
    ///
    /// # Errors
    /// [`RequestError::TimedOut`] where the answer is late: the client goes on asking.
    pub async fn subscribe(
        &self,
        positions: Vec<Position>,
    ) -> Result<Vec<SubscribedRoom>, RequestError> {
        self.subscribe_rooms(positions, false).await
    }

    /// Hears every room that the user is a member of, now and later.
    ///
    /// # Errors
    /// [`RequestError::TimedOut`] where the answer is late: the client goes on asking.
    pub async fn follow_all(&self) -> Result<Vec<SubscribedRoom>, RequestError> {
        self.subscribe_rooms(Vec::new(), true).await
    }

    async fn subscribe_rooms(
        &self,
        positions: Vec<Position>,
        all: bool,
    ) -> Result<Vec<SubscribedRoom>, RequestError> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + self.options.request_timeout;
        self.command(
            Command::Subscribe {
                positions,
                all,
                deadline,
                reply,
            },
            deadline,
            answer,
        )
        .await
    }

    /// No longer hears rooms.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn unsubscribe(&self, rooms: Vec<RoomId>) -> Result<(), RequestError> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + self.options.request_timeout;
        self.command(Command::Unsubscribe { rooms, reply }, deadline, answer)
            .await
    }

    async fn request(&self, op: ClientOp) -> Result<ServerOp, RequestError> {
        let (reply, answer) = oneshot::channel();
        let deadline = Instant::now() + self.options.request_timeout;
        self.command(
            Command::Request {
                op,
                deadline,
                reply,
            },
            deadline,
            answer,
        )
        .await
    }

    async fn command<T>(
        &self,
        command: Command,
        deadline: Instant,
        answer: Answer<T>,
    ) -> Result<T, RequestError> {
        let answered = tokio::time::timeout_at(deadline, async {
            let _permit = self.permit().await.ok_or(RequestError::Ended)?;
            self.commands
                .send(Box::new(command))
                .await
                .map_err(|_| RequestError::Ended)?;
            answer.await.unwrap_or(Err(RequestError::Ended))
        });
        answered.await.unwrap_or(Err(RequestError::TimedOut))
    }

    /// `None`: the client has ended.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// How far the application has heard, per room: what was taken out of [`Events`](crate::Events). Kept and given to
    /// [`Builder::subscribe`](crate::Builder::subscribe) after a restart, delivery goes on exactly there.
    pub fn positions(&self) -> Vec<Position> {
        self.heard.positions()
    }

    /// The counters so far.
    pub fn stats(&self) -> Stats {
        self.counters.snapshot()
    }

    /// Whether the client is connected just now, and if not, why.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until the client is connected.
    ///
    /// # Errors
    /// [`End`] where it has ended instead. There is no timeout: put one around it, and see [`Self::state`] for the reason.
    pub async fn connected(&self) -> Result<(), End> {
        let mut state = self.state.clone();
        let settled = state
            .wait_for(|state| !matches!(state, State::Connecting { .. }))
            .await;
        match settled.as_deref() {
            Ok(State::Ended(end)) => Err(end.clone()),
            Ok(_) => Ok(()),
            Err(_) => Err(End::Closed),
        }
    }

    /// Ends the client and waits until it has. Sends under way end with [`SendError`].
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self
            .commands
            .send(Box::new(Command::Close { reply }))
            .await
            .is_ok()
        {
            let _ = closed.await;
        }
    }
}

pub(crate) type Answer<T> = oneshot::Receiver<Result<T, RequestError>>;
