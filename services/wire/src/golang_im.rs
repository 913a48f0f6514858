//! golang-im's dialect: goim's frame and operations, with a room that is entered after auth, JSON messages, a sync of the
//! latest and reading acknowledged. Facts: the repository golang-im, its server and its test page.

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::goim::number_or_text;
use crate::native::Message;

/// What golang-im's own server writes, and its clients ignore.
pub const VERSION: i16 = 2;

/// Client: the latest of the room, please; body empty.
pub const SYNC: i32 = 18;
/// Server: a JSON array of messages, oldest first.
pub const SYNC_REPLY: i32 = 19;
/// Client: decimal text of the `id` that was read.
pub const ACK: i32 = 20;
/// Server: noted.
pub const ACK_REPLY: i32 = 21;
/// How many a sync gives.
pub const SYNC_LIMIT: u32 = 50;

/// The body of the answer to auth.
pub const AUTH_OK: &[u8] = b"ok";
/// The body of the answer to a subscription.
pub const SUBSCRIBED: &[u8] = b"subscribed room ok";
/// The body of the answer to its end.
pub const UNSUBSCRIBED: &[u8] = b"unsubscribed room ok";
/// The body of an operation 5 that answers what needs a room where there is none.
pub const NOT_SUBSCRIBING: &[u8] = b"Not subscribing to a room";

/// A golang-im client's first frame: a JSON user object of which these matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Auth {
    /// The signed token; empty where the client has none.
    pub token: String,
    /// Whom the client claims to be.
    pub user_id: Option<String>,
    /// Its installation.
    pub device_id: String,
    /// The room it is about to enter (with operation 14).
    pub room: Option<String>,
    /// For the server's log.
    pub platform: String,
    /// Shown with its messages.
    pub shop_id: String,
}

impl Auth {
    pub(crate) fn read(fields: &Map<String, Value>) -> Self {
        let text = |name: &str| number_or_text(fields.get(name));
        Self {
            token: text("token").unwrap_or_default(),
            user_id: text("user_id").filter(|user| !user.is_empty()),
            device_id: text("device_id").unwrap_or_default(),
            room: text("room_id").filter(|room| !room.is_empty()),
            platform: text("platform").unwrap_or_default(),
            shop_id: text("shop_id").unwrap_or_default(),
        }
    }
}

/// What a golang-im client says in an operation 4: the fields of a JSON object, or text as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// `text` or `image`.
    pub kind: String,
    /// What.
    pub text: String,
    /// The room it names; the one it has entered where it names none.
    pub room: Option<String>,
}

/// Reads the body of an operation 4.
pub fn said(body: &[u8]) -> Said {
    let text = String::from_utf8_lossy(body).into_owned();
    let Ok(Value::Object(fields)) = serde_json::from_str(&text) else {
        return Said {
            kind: "text".to_owned(),
            text,
            room: None,
        };
    };
    let field = |name: &str| number_or_text(fields.get(name));
    match field("msg") {
        Some(said) => {
            let kind = field("type")
                .filter(|kind| !kind.is_empty())
                .unwrap_or_else(|| "text".to_owned());
            Said {
                kind,
                text: said,
                room: field("room_id").filter(|room| !room.is_empty()),
            }
        }
        None => Said {
            kind: "text".to_owned(),
            text,
            room: None,
        },
    }
}

/// A message as golang-im's clients read it. `id` is the room's seq: it is what they acknowledge.
#[derive(Debug, Serialize)]
pub struct MessageJson<'a> {
    id: String,
    user_id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    msg: String,
    room_id: &'a str,
    dateline: u64,
    shop_id: &'a str,
}

impl<'a> From<&'a Message> for MessageJson<'a> {
    fn from(message: &'a Message) -> Self {
        Self {
            id: message.seq.to_string(),
            user_id: &message.from,
            kind: &message.kind,
            msg: String::from_utf8_lossy(message.body.bytes()).into_owned(),
            room_id: message.room.as_str(),
            dateline: message.time_ms / 1000,
            shop_id: "",
        }
    }
}

/// The body of an operation 5.
pub fn message(message: &Message) -> Bytes {
    serde_json::to_vec(&MessageJson::from(message))
        .unwrap_or_default()
        .into()
}

/// The body of an operation 19.
pub fn sync_reply(messages: &[Message]) -> Bytes {
    let messages: Vec<_> = messages.iter().map(MessageJson::from).collect();
    serde_json::to_vec(&messages).unwrap_or_default().into()
}

/// The seq that an operation 20 says was read.
pub fn read_seq(body: &[u8]) -> Option<u64> {
    std::str::from_utf8(body)
        .ok()?
        .trim()
        .trim_matches('"')
        .parse()
        .ok()
}
