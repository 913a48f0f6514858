//! goim's dialect: what its clients send and expect. Facts: goim's `api/protocol` (operations), `internal/comet`
//! (behaviour) and its JavaScript example client.

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use crate::frame::{self, Frame};

/// What goim's own server writes, and its clients ignore.
pub const VERSION: i16 = 1;

/// Client: a sign of life; body empty.
pub const HEARTBEAT: i32 = 2;
/// Server: goim's body is the number online in the room, an i32.
pub const HEARTBEAT_REPLY: i32 = 3;
/// Client: a message for its room. The server answers with the same operation and number once it is stored.
pub const SEND: i32 = 4;
/// Server: a message.
pub const MESSAGE: i32 = 5;
/// Server: why it is about to close.
pub const DISCONNECT: i32 = 6;
/// Client: credentials.
pub const AUTH: i32 = 7;
/// Server: let in.
pub const AUTH_REPLY: i32 = 8;
/// Server: several whole frames.
pub const BATCH: i32 = 9;
/// Client: leave the room for another; the body is its id.
pub const CHANGE_ROOM: i32 = 12;
/// Server: changed.
pub const CHANGE_ROOM_REPLY: i32 = 13;
/// Client: goim, operations to accept, decimal and separated by commas; golang-im, a room to enter.
pub const SUBSCRIBE: i32 = 14;
/// Server: done.
pub const SUBSCRIBE_REPLY: i32 = 15;
/// Client: goim, operations no longer to accept; golang-im, leave the room.
pub const UNSUBSCRIBE: i32 = 16;
/// Server: done.
pub const UNSUBSCRIBE_REPLY: i32 = 17;

/// A goim client's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auth {
    /// The signed token; empty where the client has none.
    pub token: String,
    /// Whom the client claims to be, in decimal.
    pub mid: Option<String>,
    /// The client's key: a device here. Empty: the server makes one.
    pub key: String,
    /// The room to enter at once; goim's `type://id`.
    pub room: Option<String>,
    /// For the server's log.
    pub platform: String,
    /// The operations wanted of pushes.
    pub accepts: Vec<i32>,
}

impl Auth {
    pub(crate) fn read(fields: &Map<String, Value>) -> Self {
        let text = |name: &str| number_or_text(fields.get(name));
        let accepts = fields
            .get("accepts")
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        Self {
            token: text("token").unwrap_or_default(),
            mid: text("mid").filter(|mid| mid != "0"),
            key: text("key").unwrap_or_default(),
            room: text("room_id").filter(|room| !room.is_empty()),
            platform: text("platform").unwrap_or_default(),
            accepts: accepts
                .iter()
                .filter_map(|number| i32::try_from(number.as_i64()?).ok())
                .collect(),
        }
    }
}

/// Text, or a number as decimal text; anything else is passed over.
pub(crate) fn number_or_text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// The operations of a subscription's body; what is no number is passed over, as goim does.
pub fn operations(body: &[u8]) -> Vec<i32> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    text.split(',')
        .filter_map(|number| number.trim().parse().ok())
        .collect()
}

/// A frame with this body.
pub fn reply(operation: i32, seq: u32, body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    frame::encode(&mut out, VERSION, operation, seq, body);
    out.freeze()
}

/// The answer to a heartbeat: how many are online in the client's room.
pub fn heartbeat_reply(seq: u32, online: u64) -> Bytes {
    reply(
        HEARTBEAT_REPLY,
        seq,
        &i32::try_from(online).unwrap_or(i32::MAX).to_be_bytes(),
    )
}

/// Frames as one batch: over WebSocket they are the body of an operation 9, over TCP they follow each other as they are.
pub fn batch(frames: &[Frame], over_websocket: bool) -> Bytes {
    let mut body = BytesMut::new();
    for one in frames {
        frame::encode(&mut body, one.version, one.operation, one.seq, &one.body);
    }
    if !over_websocket {
        return body.freeze();
    }
    let mut out = BytesMut::with_capacity(frame::HEADER + body.len());
    frame::put_header(&mut out, VERSION, BATCH, 0, body.len());
    out.put(body);
    out.freeze()
}
