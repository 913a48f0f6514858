//! The native dialect as JSON: one object in one WebSocket text frame, `{"op": "send", "req": 7, …}`. Fields that are not
//! known are passed over.

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use super::body::BodyFields;
use super::fields::{Fields, bad, missing};
use super::{ClientOp, Error, Message, Position, Request, Response, ServerOp, SubscribedRoom};
use crate::code::{CloseCode, ErrorCode};
use crate::ids::{RoomId, UserId};

/// A frame that is not understood. Where it is an object with a request number it is answered; else the connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The request's number; 0 where it has none.
    pub req: u32,
    /// The answer.
    pub error: Error,
    /// The text is no JSON object at all: nothing more can be expected of this client.
    pub fatal: bool,
}

fn object(text: &[u8]) -> Result<Map<String, Value>, Rejected> {
    let error = match serde_json::from_slice(text) {
        Ok(Value::Object(fields)) => return Ok(fields),
        Ok(_) => bad(
            "",
            "a frame must be a JSON object like {\"op\": \"ping\"}".to_owned(),
        ),
        Err(error) => bad("", format!("a frame must be a JSON object: {error}")),
    };
    Err(Rejected {
        req: 0,
        error,
        fatal: true,
    })
}

fn with_number<T>(
    fields: &Fields<'_>,
    read: impl FnOnce(&Fields<'_>) -> Result<T, Error>,
) -> Result<(u32, T), Rejected> {
    let req = fields
        .small("req")
        .map_err(|error| Rejected {
            req: 0,
            error,
            fatal: false,
        })?
        .unwrap_or(0);
    read(fields).map(|op| (req, op)).map_err(|error| Rejected {
        req,
        error,
        fatal: false,
    })
}

/// Reads a client's frame.
///
/// # Errors
/// [`Rejected`] holds the answer; `fatal` ones end the connection.
pub fn decode_request(text: &[u8]) -> Result<Request, Rejected> {
    let fields = object(text)?;
    let (req, op) = with_number(&Fields(&fields), client_op)?;
    Ok(Request { req, op })
}

fn client_op(fields: &Fields<'_>) -> Result<ClientOp, Error> {
    let op = fields.needed_text("op")?;
    Ok(match op.as_str() {
        "auth" => ClientOp::Auth {
            token: fields.needed_text("token")?,
            device: fields.text("device")?,
            resume: fields.positions("resume")?,
            all: fields.flag("all")?,
            agent: fields.text("agent")?,
        },
        "subscribe" => ClientOp::Subscribe {
            rooms: fields.positions("rooms")?,
            all: fields.flag("all")?,
        },
        "unsubscribe" => {
            let rooms = fields
                .texts("rooms")?
                .iter()
                .map(RoomId::new)
                .collect::<Result<_, _>>()?;
            ClientOp::Unsubscribe { rooms }
        }
        "send" => ClientOp::Send {
            room: fields.room()?,
            client_id: fields.text("client_id")?.unwrap_or_default(),
            kind: fields.text("type")?.unwrap_or_else(|| "text".to_owned()),
            body: fields.body()?,
        },
        "signal" => {
            let kind = fields.needed_text("type")?;
            let body = if fields.0.contains_key("body") || fields.0.contains_key("body_base64") {
                fields.body()?
            } else {
                super::Body::Text(Bytes::new())
            };
            ClientOp::Signal {
                room: fields.room()?,
                kind,
                body,
            }
        }
        "history" => ClientOp::History {
            room: fields.room()?,
            after: fields.number("after")?,
            before: fields.number("before")?,
            limit: fields.small("limit")?.unwrap_or(0),
        },
        "read" => ClientOp::Read {
            room: fields.room()?,
            seq: fields.needed_number("seq")?,
        },
        "refresh" => ClientOp::Refresh {
            token: fields.needed_text("token")?,
        },
        "ping" => ClientOp::Ping,
        other => {
            return Err(bad(
                "op",
                format!("op {other:?} is not known: see the protocol's list of operations"),
            ));
        }
    })
}

/// Reads a server's frame.
///
/// # Errors
/// [`Rejected`] says what a client cannot understand.
pub fn decode_response(text: &[u8]) -> Result<Response, Rejected> {
    let fields = object(text)?;
    let (req, op) = with_number(&Fields(&fields), server_op)?;
    Ok(Response { req, op })
}

fn server_op(fields: &Fields<'_>) -> Result<ServerOp, Error> {
    let op = fields.needed_text("op")?;
    let small = |name: &str| Ok::<_, Error>(fields.small(name)?.unwrap_or(0));
    Ok(match op.as_str() {
        "auth_ok" => ServerOp::AuthOk {
            user: UserId::new(fields.needed_text("user")?)?,
            device: fields.needed_text("device")?,
            conn: fields.needed_text("conn")?,
            node: fields.needed_text("node")?,
            heartbeat_ms: small("heartbeat_ms")?,
            time_ms: fields.needed_number("time")?,
            expires_ms: fields.number("expires")?.unwrap_or(0),
        },
        "subscribed" => {
            let rooms = fields
                .objects("rooms")?
                .iter()
                .map(subscribed_room)
                .collect::<Result<_, _>>()?;
            ServerOp::Subscribed { rooms }
        }
        "ack" => ServerOp::Ack {
            room: fields.room()?,
            client_id: fields.needed_text("client_id")?,
            id: fields.needed_text("id")?,
            epoch: fields.needed_number("epoch")?,
            seq: fields.needed_number("seq")?,
            time_ms: fields.needed_number("time")?,
            duplicate: fields.flag("duplicate")?,
        },
        "message" => ServerOp::Message(read_message(fields, None)?),
        "signal" => ServerOp::Signal {
            room: fields.text("room")?.unwrap_or_default(),
            from: fields.text("from")?.unwrap_or_default(),
            kind: fields.needed_text("type")?,
            body: fields.body()?,
            operation: fields.integer("operation")?.unwrap_or(0),
        },
        "history" => {
            let room = fields.room()?;
            let messages = fields.objects("messages")?;
            let messages = messages
                .iter()
                .map(|fields| read_message(fields, Some(&room)))
                .collect::<Result<_, _>>()?;
            let truncated = match fields.object("truncated")? {
                Some(range) => Some((range.needed_number("from")?, range.needed_number("to")?)),
                None => None,
            };
            let epoch = fields.needed_number("epoch")?;
            let head = fields.needed_number("head")?;
            ServerOp::History {
                room,
                epoch,
                head,
                truncated,
                messages,
            }
        }
        "read_state" => ServerOp::ReadState {
            room: fields.room()?,
            read: fields.needed_number("read")?,
            head: fields.needed_number("head")?,
            unread: fields.needed_number("unread")?,
        },
        "refreshed" => ServerOp::Refreshed {
            expires_ms: fields.needed_number("expires")?,
        },
        "done" => ServerOp::Done,
        "pong" => ServerOp::Pong {
            time_ms: fields.needed_number("time")?,
        },
        "error" => ServerOp::Error(read_error(fields)?),
        "truncated" => ServerOp::Truncated {
            room: fields.room()?,
            from: fields.needed_number("from")?,
            to: fields.needed_number("to")?,
        },
        "reset" => ServerOp::Reset {
            room: fields.room()?,
            epoch: fields.needed_number("epoch")?,
            seq: fields.needed_number("seq")?,
        },
        "room_changed" => ServerOp::RoomChanged {
            room: fields.room()?,
            subscribed: fields.flag("subscribed")?,
            reason: fields.needed_text("reason")?,
        },
        "move" => ServerOp::Move {
            after_ms: small("after_ms")?,
            deadline_ms: small("deadline_ms")?,
            to: fields.texts("to")?,
            reason: fields.needed_text("reason")?,
        },
        "close" => ServerOp::Close {
            code: CloseCode::from_number(u16::try_from(fields.needed_number("code")?).unwrap_or(0))
                .unwrap_or(CloseCode::Internal),
            text: fields.text("text")?.unwrap_or_default(),
            reconnect: fields.flag("reconnect")?,
            after_ms: small("after_ms")?,
        },
        other => return Err(bad("op", format!("op {other:?} is not known"))),
    })
}

fn subscribed_room(fields: &Fields<'_>) -> Result<SubscribedRoom, Error> {
    let room = fields.room()?;
    if let Some(error) = fields.object("error")? {
        return Ok(SubscribedRoom::Refused {
            room,
            error: read_error(&error)?,
        });
    }
    Ok(SubscribedRoom::Ok {
        room,
        kind: fields.needed_text("kind")?,
        epoch: fields.needed_number("epoch")?,
        head: fields.needed_number("head")?,
        read: fields.needed_number("read")?,
        joined: fields.needed_number("joined")?,
    })
}

fn read_error(fields: &Fields<'_>) -> Result<Error, Error> {
    let code = fields.needed_text("code")?;
    Ok(Error {
        code: ErrorCode::from_name(&code).unwrap_or(ErrorCode::Internal),
        text: fields.text("text")?.unwrap_or_default(),
        retryable: fields.flag("retryable")?,
        field: fields.text("field")?,
    })
}

fn read_message(fields: &Fields<'_>, room: Option<&RoomId>) -> Result<Message, Error> {
    Ok(Message {
        room: match fields.text("room")? {
            Some(room) => RoomId::new(room)?,
            None => room.cloned().ok_or_else(|| missing("room", "a string"))?,
        },
        epoch: fields.number("epoch")?.unwrap_or(0),
        seq: fields.needed_number("seq")?,
        id: fields.needed_text("id")?,
        from: fields.text("from")?.unwrap_or_default(),
        client_id: fields.text("client_id")?.unwrap_or_default(),
        kind: fields.needed_text("type")?,
        body: fields.body()?,
        time_ms: fields.needed_number("time")?,
    })
}

/// A message as JSON shows it, everywhere the same: in frames, in history, in the HTTP API.
#[derive(Debug, Serialize)]
pub struct MessageJson<'a> {
    room: &'a RoomId,
    epoch: u64,
    seq: u64,
    id: &'a str,
    from: &'a str,
    client_id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(flatten)]
    body: BodyFields<'a>,
    time: u64,
}

impl<'a> From<&'a Message> for MessageJson<'a> {
    fn from(message: &'a Message) -> Self {
        Self {
            room: &message.room,
            epoch: message.epoch,
            seq: message.seq,
            id: &message.id,
            from: &message.from,
            client_id: &message.client_id,
            kind: &message.kind,
            body: (&message.body).into(),
            time: message.time_ms,
        }
    }
}

#[derive(Serialize)]
struct Frame<'a, T> {
    op: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    req: u32,
    #[serde(flatten)]
    rest: T,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn write<T: Serialize>(op: &str, req: u32, rest: T) -> Bytes {
    let mut out = BytesMut::with_capacity(256).writer();
    // Every type written here serializes: their maps have string keys, and writing to memory does not fail.
    if serde_json::to_writer(&mut out, &Frame { op, req, rest }).is_err() {
        debug_assert!(false, "op {op} does not serialize");
    }
    out.into_inner().freeze()
}

/// Writes a client's frame.
pub fn encode_request(request: &Request) -> Bytes {
    let req = request.req;
    let named = |op: &str, rest: Value| write(op, req, rest);
    match &request.op {
        ClientOp::Auth {
            token,
            device,
            resume,
            all,
            agent,
        } => {
            let mut rest =
                serde_json::json!({"token": token, "resume": positions(resume), "all": all});
            for (name, value) in [("device", device), ("agent", agent)] {
                if let Some(value) = value {
                    rest[name] = value.as_str().into();
                }
            }
            named("auth", rest)
        }
        ClientOp::Subscribe { rooms, all } => named(
            "subscribe",
            serde_json::json!({"rooms": positions(rooms), "all": all}),
        ),
        ClientOp::Unsubscribe { rooms } => {
            named("unsubscribe", serde_json::json!({"rooms": rooms}))
        }
        ClientOp::Send {
            room,
            client_id,
            kind,
            body,
        } => write(
            "send",
            req,
            Said {
                room,
                client_id: Some(client_id),
                kind,
                body: body.into(),
            },
        ),
        ClientOp::Signal { room, kind, body } => write(
            "signal",
            req,
            Said {
                room,
                client_id: None,
                kind,
                body: body.into(),
            },
        ),
        ClientOp::History {
            room,
            after,
            before,
            limit,
        } => named(
            "history",
            serde_json::json!({"room": room, "after": after, "before": before, "limit": limit}),
        ),
        ClientOp::Read { room, seq } => {
            named("read", serde_json::json!({"room": room, "seq": seq}))
        }
        ClientOp::Refresh { token } => named("refresh", serde_json::json!({"token": token})),
        ClientOp::Ping => named("ping", serde_json::json!({})),
    }
}

#[derive(Serialize)]
struct Said<'a> {
    room: &'a RoomId,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(flatten)]
    body: BodyFields<'a>,
}

fn positions(positions: &[Position]) -> Value {
    let shown = |p: &Position| match p.seq {
        Some(seq) => serde_json::json!({"room": p.room, "epoch": p.epoch, "seq": seq}),
        None => serde_json::json!({"room": p.room}),
    };
    positions.iter().map(shown).collect()
}

/// Writes a server's frame.
pub fn encode_response(response: &Response) -> Bytes {
    let (op, rest) = match &response.op {
        ServerOp::Message(message) => {
            return write("message", response.req, MessageJson::from(message));
        }
        ServerOp::Signal {
            room,
            from,
            kind,
            body,
            operation,
        } => {
            let rest = Signal {
                room,
                from,
                kind,
                body: body.into(),
                operation: *operation,
            };
            return write("signal", response.req, rest);
        }
        ServerOp::History {
            room,
            epoch,
            head,
            truncated,
            messages,
        } => {
            let messages = Messages(messages);
            let truncated = truncated.map(|(from, to)| Range { from, to });
            let rest = History {
                room,
                epoch: *epoch,
                head: *head,
                truncated,
                messages,
            };
            return write("history", response.req, rest);
        }
        other => plain(other),
    };
    write(op, response.req, rest)
}

#[derive(Serialize)]
struct Signal<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    room: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    from: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(flatten)]
    body: BodyFields<'a>,
    #[serde(skip_serializing_if = "no_operation")]
    operation: i32,
}

fn no_operation(operation: &i32) -> bool {
    *operation == 0
}

#[derive(Serialize)]
struct Range {
    from: u64,
    to: u64,
}

#[derive(Serialize)]
struct History<'a> {
    room: &'a RoomId,
    epoch: u64,
    head: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<Range>,
    messages: Messages<'a>,
}

struct Messages<'a>(&'a [Message]);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(MessageJson::from))
    }
}

/// The small frames, by way of a value.
fn plain(op: &ServerOp) -> (&'static str, Value) {
    use serde_json::json;
    match op {
        ServerOp::AuthOk {
            user,
            device,
            conn,
            node,
            heartbeat_ms,
            time_ms,
            expires_ms,
        } => (
            "auth_ok",
            json!({"user": user, "device": device, "conn": conn, "node": node, "heartbeat_ms": heartbeat_ms,
                "time": time_ms, "expires": expires_ms}),
        ),
        ServerOp::Subscribed { rooms } => (
            "subscribed",
            json!({"rooms": rooms.iter().map(subscribed).collect::<Value>()}),
        ),
        ServerOp::Ack {
            room,
            client_id,
            id,
            epoch,
            seq,
            time_ms,
            duplicate,
        } => (
            "ack",
            json!({"room": room, "client_id": client_id, "id": id, "epoch": epoch, "seq": seq, "time": time_ms,
                "duplicate": duplicate}),
        ),
        ServerOp::ReadState {
            room,
            read,
            head,
            unread,
        } => (
            "read_state",
            json!({"room": room, "read": read, "head": head, "unread": unread}),
        ),
        ServerOp::Refreshed { expires_ms } => ("refreshed", json!({"expires": expires_ms})),
        ServerOp::Pong { time_ms } => ("pong", json!({"time": time_ms})),
        ServerOp::Error(error) => ("error", error_json(error)),
        ServerOp::Truncated { room, from, to } => {
            ("truncated", json!({"room": room, "from": from, "to": to}))
        }
        ServerOp::Reset { room, epoch, seq } => {
            ("reset", json!({"room": room, "epoch": epoch, "seq": seq}))
        }
        ServerOp::RoomChanged {
            room,
            subscribed,
            reason,
        } => (
            "room_changed",
            json!({"room": room, "subscribed": subscribed, "reason": reason}),
        ),
        ServerOp::Move {
            after_ms,
            deadline_ms,
            to,
            reason,
        } => (
            "move",
            json!({"after_ms": after_ms, "deadline_ms": deadline_ms, "to": to, "reason": reason}),
        ),
        ServerOp::Close {
            code,
            text,
            reconnect,
            after_ms,
        } => (
            "close",
            json!({"code": code.number(), "name": code.name(), "text": text, "reconnect": reconnect, "after_ms": after_ms}),
        ),
        // Done, and the three that are written without a value.
        ServerOp::Done
        | ServerOp::Message(_)
        | ServerOp::Signal { .. }
        | ServerOp::History { .. } => ("done", json!({})),
    }
}

fn subscribed(room: &SubscribedRoom) -> Value {
    match room {
        SubscribedRoom::Ok {
            room,
            kind,
            epoch,
            head,
            read,
            joined,
        } => {
            serde_json::json!({"room": room, "kind": kind, "epoch": epoch, "head": head, "read": read, "joined": joined})
        }
        SubscribedRoom::Refused { room, error } => {
            serde_json::json!({"room": room, "error": error_json(error)})
        }
    }
}

/// An error as JSON shows it, in frames and in the HTTP API.
pub fn error_json(error: &Error) -> Value {
    let mut shown = serde_json::json!({"code": error.code.name(), "text": error.text, "retryable": error.retryable});
    if let Some(field) = &error.field {
        shown["field"] = field.as_str().into();
    }
    shown
}
