//! The native dialect: what a client of ours can say and hear. One set of types, two encodings: JSON in WebSocket text
//! frames, and goim's TLV frame with a protobuf body (WebSocket binary frames and TCP). `docs/protocol.md` is the
//! description for people who write a client.

pub mod binary;
pub mod body;
pub(crate) mod fields;
pub mod json;

/// Generated from `proto/imcluster/client/v1/client.proto`; a test compares.
#[allow(missing_docs, unreachable_pub, clippy::all)]
#[rustfmt::skip]
pub mod generated {
    include!("native/generated.rs");
}

pub use body::{MAX_DEPTH, is_sound_json};
use bytes::Bytes;

use crate::code::{CloseCode, ErrorCode};
use crate::ids::{Epoch, RoomId, Seq, UserId};

/// The bytes of a message, and how JSON shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// UTF-8; `"body": "…"`.
    Text(Bytes),
    /// One JSON value other than a string; `"body": {…}`.
    Json(Bytes),
    /// Anything; `"body_base64": "…"`.
    Binary(Bytes),
}

/// How far a client has come in a room; see `Position` in `message.proto`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The room.
    pub room: RoomId,
    /// The epoch that came with `seq`; 0: none known.
    pub epoch: Epoch,
    /// The last seq had. `None`: from now on, no history. `Some(0)`: from the beginning.
    pub seq: Option<Seq>,
}

/// A client's request: `req` is its own number for it (0 to 2^32-1), echoed in the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// TLV: the frame's seq. JSON: `"req"`.
    pub req: u32,
    /// What is asked.
    pub op: ClientOp,
}

/// What a client can ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientOp {
    /// The first frame. Answer: [`ServerOp::AuthOk`], then the results of the subscriptions asked with it.
    Auth {
        /// The signed token.
        token: String,
        /// The device; may be left out where the token has a `dev` claim.
        device: Option<String>,
        /// Rooms to hear, each from a position.
        resume: Vec<Position>,
        /// Besides `resume`, every room the user is a member of now and later.
        all: bool,
        /// Free text that is logged: name and version of the client.
        agent: Option<String>,
    },
    /// Hear rooms. Answer: [`ServerOp::Subscribed`], then what was missed, then live.
    Subscribe {
        /// Each from a position.
        rooms: Vec<Position>,
        /// Besides `rooms`, every room the user is a member of now and later.
        all: bool,
    },
    /// No longer hear rooms. Answer: [`ServerOp::Done`].
    Unsubscribe {
        /// The rooms.
        rooms: Vec<RoomId>,
    },
    /// Say something. Answer: [`ServerOp::Ack`] once it is stored, or [`ServerOp::Error`].
    Send {
        /// Where.
        room: RoomId,
        /// The sender's own id for it; the same one again is stored once. Empty: no retry intended, the server gives one.
        client_id: String,
        /// "text", "image", …; not beginning with "im.".
        kind: String,
        /// What.
        body: Body,
    },
    /// Say something that is not stored. Answer: [`ServerOp::Done`].
    Signal {
        /// Where.
        room: RoomId,
        /// "typing", …; not beginning with "im.".
        kind: String,
        /// What.
        body: Body,
    },
    /// Read the log. Answer: [`ServerOp::History`].
    History {
        /// Of which room.
        room: RoomId,
        /// Entries with a greater seq, the oldest first. Not together with `before`; with neither, the latest.
        after: Option<Seq>,
        /// Entries with a smaller seq: the newest of them.
        before: Option<Seq>,
        /// At most so many; 0: the server's default.
        limit: u32,
    },
    /// Everything up to `seq` has been read. Answer: [`ServerOp::ReadState`].
    Read {
        /// In which room.
        room: RoomId,
        /// Up to and with.
        seq: Seq,
    },
    /// A newer token for the same user and device. Answer: [`ServerOp::Refreshed`].
    Refresh {
        /// The token.
        token: String,
    },
    /// Are you there? Answer: [`ServerOp::Pong`]. Counts as a sign of life, as every frame does.
    Ping,
}

/// A server's frame: `req` is the request's, or 0 where nobody asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// TLV: the frame's seq. JSON: `"req"`, left out where 0.
    pub req: u32,
    /// What is said.
    pub op: ServerOp,
}

/// One message of a room's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub room: RoomId,
    /// In force at this entry.
    pub epoch: Epoch,
    /// Per room, contiguous from 1.
    pub seq: Seq,
    /// Unique for ever.
    pub id: String,
    /// Who.
    pub from: String,
    /// The sender's own id for it.
    pub client_id: String,
    /// What kind.
    pub kind: String,
    /// What.
    pub body: Body,
    /// When it was accepted, unix milliseconds.
    pub time_ms: u64,
}

/// The outcome of subscribing to one room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SubscribedRoom {
    /// Heard from now on.
    Ok {
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
    },
    /// Not heard.
    Refused {
        /// The room.
        room: RoomId,
        /// Why.
        error: Error,
    },
}

/// A request that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Which of the documented codes.
    pub code: ErrorCode,
    /// A sentence for people: what is wrong and what to do.
    pub text: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// The field at fault.
    pub field: Option<String>,
}

/// What a server can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerOp {
    /// The connection stands.
    AuthOk {
        /// Who the token says the client is.
        user: UserId,
        /// The device.
        device: String,
        /// The connection's id, for support and logs.
        conn: String,
        /// The node's name.
        node: String,
        /// The client must be heard within this; ping at a third of it.
        heartbeat_ms: u32,
        /// Unix milliseconds.
        time_ms: u64,
        /// When the token ends, unix milliseconds; 0: never.
        expires_ms: u64,
    },
    /// Answers Subscribe, and Auth with subscriptions.
    Subscribed {
        /// One per room.
        rooms: Vec<SubscribedRoom>,
    },
    /// The send is stored.
    Ack {
        /// Where.
        room: RoomId,
        /// The sender's.
        client_id: String,
        /// The message's.
        id: String,
        /// In force.
        epoch: Epoch,
        /// Its place in the log.
        seq: Seq,
        /// When it was accepted the first time, unix milliseconds.
        time_ms: u64,
        /// It had been stored before.
        duplicate: bool,
    },
    /// A message of a room, in order of seq, without gap and repeat within a subscription.
    Message(Message),
    /// Something not stored.
    Signal {
        /// Where; empty: addressed to the user or device, not to a room.
        room: String,
        /// Who; empty: the server.
        from: String,
        /// "typing", "read", "push", …
        kind: String,
        /// What.
        body: Body,
        /// The operation that a goim pusher named; 0: none.
        operation: i32,
    },
    /// Answers History.
    History {
        /// Of which room.
        room: RoomId,
        /// In force.
        epoch: Epoch,
        /// The log's last seq.
        head: Seq,
        /// What retention has removed of what was asked for.
        truncated: Option<(Seq, Seq)>,
        /// Ascending by seq.
        messages: Vec<Message>,
    },
    /// Answers Read; also sent, with `req` 0, to the user's other devices when one has read.
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
    /// Answers Refresh.
    Refreshed {
        /// When the token ends, unix milliseconds; 0: never.
        expires_ms: u64,
    },
    /// Answers what has no other answer.
    Done,
    /// Answers Ping.
    Pong {
        /// Unix milliseconds.
        time_ms: u64,
    },
    /// Answers a request that was not carried out.
    Error(Error),
    /// Retention has removed these: the next message of the room has seq `to + 1`.
    Truncated {
        /// The room.
        room: RoomId,
        /// The first that is gone.
        from: Seq,
        /// The last that is gone.
        to: Seq,
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
    /// The user is a member of a room now (`all` subscriptions hear it from now on) or no longer is.
    RoomChanged {
        /// The room.
        room: RoomId,
        /// Whether it is heard on this connection now.
        subscribed: bool,
        /// Why: "joined", "left", "kicked", "created", "deleted".
        reason: String,
    },
    /// Please connect elsewhere and resume; this connection goes on until then, at most `deadline_ms` more.
    Move {
        /// Wait so long first.
        after_ms: u32,
        /// Then this connection is closed.
        deadline_ms: u32,
        /// Where to, best first; empty: the address the client knows.
        to: Vec<String>,
        /// "draining", "rebalancing", …
        reason: String,
    },
    /// The last frame: the connection ends now.
    Close {
        /// Which of the documented codes.
        code: CloseCode,
        /// A sentence for people.
        text: String,
        /// Whether to connect again.
        reconnect: bool,
        /// Not before so long.
        after_ms: u32,
    },
}
