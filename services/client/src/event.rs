//! What the application hears, and how far it has heard: positions move when an event is taken out of the queue, so that
//! what was queued and never read is delivered again after a restart.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use im_wire::code::CloseCode;
use im_wire::ids::{Epoch, RoomId, Seq, UserId};
use im_wire::native::{Body, Error, Message, Position};
use tokio::sync::mpsc;

/// Why a client has ended. It does not connect again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum End {
    /// [`Client::close`](crate::Client::close) was called or the last handle dropped.
    #[error("closed by the application")]
    Closed,
    /// The server closed the connection with a code after which a client must not come back by itself.
    #[error("ended by the server: {code}: {text}")]
    ByServer {
        /// Why.
        code: CloseCode,
        /// The server's sentence for people; may be empty.
        text: String,
    },
    /// The server refused the credentials, and the token source has no others.
    #[error("refused by the server: {}: {}", .0.code, .0.text)]
    Refused(Error),
}

/// What happens, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A connection stands after there was none; what was missed follows.
    Connected {
        /// The node's name.
        node: String,
        /// Where it was dialled.
        address: String,
        /// The connection's id, for support and logs.
        conn: String,
        /// Who the token says the client is.
        user: UserId,
        /// The device.
        device: String,
    },
    /// Everything missed has been delivered; from here on messages arrive as they are said.
    Resumed {
        /// How long the client was away; `None` after the first connect.
        away: Option<Duration>,
    },
    /// The connection is gone and will be made again.
    Disconnected {
        /// The server's close code, where it gave one.
        code: Option<CloseCode>,
        /// A sentence for people.
        reason: String,
        /// When the next attempt is made; `None` where one is under way already.
        retry_in: Option<Duration>,
    },
    /// An attempt to connect failed.
    ConnectFailed {
        /// Where.
        address: String,
        /// A sentence for people.
        reason: String,
        /// When the next attempt is made.
        retry_in: Duration,
    },
    /// The server asks to connect elsewhere; delivery goes on meanwhile.
    Moving {
        /// "draining", "rebalancing", …
        reason: String,
        /// When the new connection will be made.
        after: Duration,
    },
    /// The new connection has taken over; nothing was missed.
    Moved {
        /// The new node's name.
        node: String,
        /// Where it was dialled.
        address: String,
    },
    /// A room is heard.
    Subscribed {
        /// The room.
        room: RoomId,
        /// `direct`, `group` or `open`.
        kind: String,
        /// In force.
        epoch: Epoch,
        /// The log's last seq when asked.
        head: Seq,
        /// The user's read position.
        read: Seq,
        /// The seq at which the user joined; unread = head - max(read, joined).
        joined: Seq,
        /// Messages after this seq follow.
        after: Seq,
    },
    /// A room is not heard: the server said no.
    Refused {
        /// The room.
        room: RoomId,
        /// Why. Where it is retryable the client asks again by itself.
        error: Error,
    },
    /// A room is no longer heard, as asked.
    Unsubscribed {
        /// The room.
        room: RoomId,
    },
    /// A message: per room in order of seq, each once.
    Message(Message),
    /// Something that is not stored: at most once.
    Signal {
        /// Where; empty: addressed to the user or device, not to a room.
        room: String,
        /// Who; empty: the server.
        from: String,
        /// "typing", "push", …
        kind: String,
        /// What.
        body: Body,
        /// The operation that a goim pusher named; 0: none.
        operation: i32,
    },
    /// The store has lost its tail: forget every message of the room beyond `seq`; what follows continues there.
    Reset {
        /// The room.
        room: RoomId,
        /// Now in force.
        epoch: Epoch,
        /// What stands.
        seq: Seq,
    },
    /// Retention has removed these before they could be delivered: the next message has seq `to + 1`.
    Truncated {
        /// The room.
        room: RoomId,
        /// The first that is gone.
        from: Seq,
        /// The last that is gone.
        to: Seq,
    },
    /// The user is a member of a room now, or no longer is.
    RoomChanged {
        /// The room.
        room: RoomId,
        /// Whether it is heard now.
        subscribed: bool,
        /// "joined", "left", "kicked", "created", "deleted".
        reason: String,
    },
    /// The user has read on another device.
    ReadState {
        /// In which room.
        room: RoomId,
        /// Up to and with.
        read: Seq,
        /// The log's last seq.
        head: Seq,
        /// head - max(read, joined).
        unread: u64,
    },
    /// The last event: the client has ended.
    Ended(End),
}

/// The position of each room, as far as the application has heard.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<HashMap<RoomId, (Epoch, Seq)>>);

impl Heard {
    pub(crate) fn new(positions: &[Position]) -> Self {
        let known = positions
            .iter()
            .filter_map(|position| Some((position.room.clone(), (position.epoch, position.seq?))));
        Self(Mutex::new(known.collect()))
    }

    pub(crate) fn positions(&self) -> Vec<Position> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let positions = heard.iter().map(|(room, (epoch, seq))| Position {
            room: room.clone(),
            epoch: *epoch,
            seq: Some(*seq),
        });
        positions.collect()
    }

    fn note(&self, event: &Event) {
        match event {
            Event::Message(message) => {
                self.set(&message.room, |epoch| epoch.max(message.epoch), message.seq)
            }
            Event::Subscribed {
                room, epoch, after, ..
            } => {
                let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                heard.entry(room.clone()).or_insert((*epoch, *after));
            }
            Event::Reset { room, epoch, seq } => self.set(room, |_| *epoch, *seq),
            Event::Truncated { room, to, .. } => self.set(room, |epoch| epoch, *to),
            Event::Refused { room, error } if !error.retryable => self.forget(room),
            Event::RoomChanged {
                room,
                subscribed: false,
                reason,
            } if !is_joining(reason) => self.forget(room),
            Event::Unsubscribed { room } => self.forget(room),
            _ => {}
        }
    }

    fn set(&self, room: &RoomId, epoch: impl FnOnce(Epoch) -> Epoch, seq: Seq) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match heard.get_mut(room) {
            Some(place) => *place = (epoch(place.0), seq),
            None => {
                heard.insert(room.clone(), (epoch(0), seq));
            }
        }
    }

    fn forget(&self, room: &RoomId) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(room);
    }
}

/// Whether the user became a member, even if the room is not heard.
pub(crate) fn is_joining(reason: &str) -> bool {
    matches!(reason, "joined" | "created")
}

/// The queue of events. It is bounded: while it is full the client does not read its socket, and a server closes the
/// connection of a client that does not read for long (`slow_reader`), after which the client resumes. Dropping it means
/// that the application does not care: events are discarded.
#[derive(Debug)]
pub struct Events {
    queue: mpsc::Receiver<Box<Event>>,
    heard: Arc<Heard>,
}

impl Events {
    pub(crate) fn new(queue: mpsc::Receiver<Box<Event>>, heard: Arc<Heard>) -> Self {
        Self { queue, heard }
    }

    /// The next event; `None` after [`Event::Ended`].
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.queue.recv().await?;
        self.heard.note(&event);
        Some(*event)
    }

    /// An event that is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        let event = self.queue.try_recv().ok()?;
        self.heard.note(&event);
        Some(*event)
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        self.queue.poll_recv(context).map(|event| {
            let event = *event?;
            self.heard.note(&event);
            Some(event)
        })
    }
}
