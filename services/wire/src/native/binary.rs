//! The native dialect as TLV frames: the operation says what the body is, the body is protobuf
//! (`proto/imcluster/client/v1/client.proto`), the frame's seq is the request's number.

use bytes::{Bytes, BytesMut};

use super::fields::bad;
use super::generated as pb;
use super::{
    Body, ClientOp, Error, Message, Position, Request, Response, ServerOp, SubscribedRoom,
};
use crate::code::{CloseCode, ErrorCode};
use crate::frame::{self, Frame};
use crate::ids::{RoomId, UserId};

/// The version in native frames' headers.
pub const VERSION: i16 = 1;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        $($(#[$doc])* pub const $name: i32 = $number;)*
        /// Every native operation: number and name, as the protocol's document lists them.
        pub const OPERATIONS: &[(i32, &str)] = &[$(($number, stringify!($name)),)*];
    };
}

operations! {
    /// Client: [`ClientOp::Auth`].
    AUTH = 100;
    /// Client: [`ClientOp::Subscribe`].
    SUBSCRIBE = 101;
    /// Client: [`ClientOp::Unsubscribe`].
    UNSUBSCRIBE = 102;
    /// Client: [`ClientOp::Send`].
    SEND = 103;
    /// Client: [`ClientOp::Signal`].
    SEND_SIGNAL = 104;
    /// Client: [`ClientOp::History`].
    HISTORY = 105;
    /// Client: [`ClientOp::Read`].
    READ = 106;
    /// Client: [`ClientOp::Refresh`].
    REFRESH = 107;
    /// Client: [`ClientOp::Ping`].
    PING = 108;
    /// Server: [`ServerOp::AuthOk`].
    AUTH_OK = 130;
    /// Server: [`ServerOp::Subscribed`].
    SUBSCRIBED = 131;
    /// Server: [`ServerOp::Ack`].
    ACK = 132;
    /// Server: [`ServerOp::Message`].
    MESSAGE = 133;
    /// Server: [`ServerOp::Signal`].
    SIGNAL = 134;
    /// Server: [`ServerOp::History`].
    HISTORY_PAGE = 135;
    /// Server: [`ServerOp::ReadState`].
    READ_STATE = 136;
    /// Server: [`ServerOp::Refreshed`].
    REFRESHED = 137;
    /// Server: [`ServerOp::Done`].
    DONE = 138;
    /// Server: [`ServerOp::Pong`].
    PONG = 139;
    /// Server: [`ServerOp::Error`].
    ERROR = 140;
    /// Server: [`ServerOp::Truncated`].
    TRUNCATED = 141;
    /// Server: [`ServerOp::Reset`].
    RESET = 142;
    /// Server: [`ServerOp::RoomChanged`].
    ROOM_CHANGED = 143;
    /// Server: [`ServerOp::Move`].
    MOVE = 144;
    /// Server: [`ServerOp::Close`].
    CLOSE = 145;
}

/// Why a native frame was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It can be answered, and the connection goes on.
    Rejected {
        /// The request's number.
        req: u32,
        /// The answer.
        error: Error,
    },
    /// The body is not the operation's message: the connection ends.
    Broken {
        /// The operation it claimed to be.
        operation: i32,
    },
}

fn read<T: prost::Message + Default>(frame: &Frame) -> Result<T, Refusal> {
    T::decode(frame.body.clone()).map_err(|_| Refusal::Broken {
        operation: frame.operation,
    })
}

/// Reads a client's frame. Its strings and bodies share the frame's bytes where they can.
///
/// # Errors
/// [`Refusal`]: an answer, or the end of the connection.
pub fn decode_request(frame: &Frame) -> Result<Request, Refusal> {
    let rejected = |error: Error| Refusal::Rejected {
        req: frame.seq,
        error,
    };
    let op = match frame.operation {
        AUTH => {
            let pb::Auth {
                token,
                device,
                resume,
                all,
                agent,
            } = read(frame)?;
            ClientOp::Auth {
                token,
                device,
                resume: positions(resume).map_err(rejected)?,
                all,
                agent,
            }
        }
        SUBSCRIBE => {
            let pb::Subscribe { rooms, all } = read(frame)?;
            ClientOp::Subscribe {
                rooms: positions(rooms).map_err(rejected)?,
                all,
            }
        }
        UNSUBSCRIBE => {
            let pb::Unsubscribe { rooms } = read(frame)?;
            let rooms = rooms.iter().map(RoomId::new).collect::<Result<_, _>>();
            ClientOp::Unsubscribe {
                rooms: rooms.map_err(|bad_id| rejected(bad_id.into()))?,
            }
        }
        SEND => {
            let pb::Send {
                room,
                client_id,
                r#type,
                body: bytes,
                encoding,
            } = read(frame)?;
            let body = body(bytes, encoding);
            ClientOp::Send {
                room: room_id(room).map_err(rejected)?,
                client_id,
                kind: r#type,
                body,
            }
        }
        SEND_SIGNAL => {
            let pb::SendSignal {
                room,
                r#type,
                body: bytes,
                encoding,
            } = read(frame)?;
            ClientOp::Signal {
                room: room_id(room).map_err(rejected)?,
                kind: r#type,
                body: body(bytes, encoding),
            }
        }
        HISTORY => {
            let pb::History {
                room,
                after,
                before,
                limit,
            } = read(frame)?;
            ClientOp::History {
                room: room_id(room).map_err(rejected)?,
                after,
                before,
                limit,
            }
        }
        READ => {
            let pb::Read { room, seq } = read(frame)?;
            ClientOp::Read {
                room: room_id(room).map_err(rejected)?,
                seq,
            }
        }
        REFRESH => ClientOp::Refresh {
            token: read::<pb::Refresh>(frame)?.token,
        },
        PING => ClientOp::Ping,
        other => {
            return Err(rejected(bad(
                "operation",
                format!("operation {other} is not known"),
            )));
        }
    };
    Ok(Request { req: frame.seq, op })
}

/// Reads a server's frame.
///
/// # Errors
/// [`Refusal`] says what a client cannot understand.
pub fn decode_response(frame: &Frame) -> Result<Response, Refusal> {
    let rejected = |error: Error| Refusal::Rejected {
        req: frame.seq,
        error,
    };
    let room = |room: String| room_id(room).map_err(rejected);
    let op = match frame.operation {
        AUTH_OK => {
            let pb::AuthOk {
                user,
                device,
                conn,
                node,
                heartbeat_ms,
                time,
                expires,
            } = read(frame)?;
            let user = UserId::new(user).map_err(|bad_id| rejected(bad_id.into()))?;
            ServerOp::AuthOk {
                user,
                device,
                conn,
                node,
                heartbeat_ms,
                time_ms: time,
                expires_ms: expires,
            }
        }
        SUBSCRIBED => {
            let pb::Subscribed { rooms } = read(frame)?;
            let rooms = rooms
                .into_iter()
                .map(read_subscribed)
                .collect::<Result<_, _>>()
                .map_err(rejected)?;
            ServerOp::Subscribed { rooms }
        }
        ACK => {
            let pb::Ack {
                room: id_of_room,
                client_id,
                id,
                epoch,
                seq,
                time,
                duplicate,
            } = read(frame)?;
            ServerOp::Ack {
                room: room(id_of_room)?,
                client_id,
                id,
                epoch,
                seq,
                time_ms: time,
                duplicate,
            }
        }
        MESSAGE => ServerOp::Message(read_message(read(frame)?).map_err(rejected)?),
        SIGNAL => {
            let pb::Signal {
                room,
                from,
                r#type,
                body: bytes,
                encoding,
                operation,
            } = read(frame)?;
            ServerOp::Signal {
                room,
                from,
                kind: r#type,
                body: body(bytes, encoding),
                operation,
            }
        }
        HISTORY_PAGE => {
            let pb::HistoryPage {
                room: id_of_room,
                epoch,
                head,
                truncated,
                messages,
            } = read(frame)?;
            let messages = messages
                .into_iter()
                .map(read_message)
                .collect::<Result<_, _>>()
                .map_err(rejected)?;
            let truncated = truncated.map(|range| (range.from, range.to));
            ServerOp::History {
                room: room(id_of_room)?,
                epoch,
                head,
                truncated,
                messages,
            }
        }
        READ_STATE => {
            let pb::ReadState {
                room: id_of_room,
                read,
                head,
                unread,
            } = read(frame)?;
            ServerOp::ReadState {
                room: room(id_of_room)?,
                read,
                head,
                unread,
            }
        }
        REFRESHED => ServerOp::Refreshed {
            expires_ms: read::<pb::Refreshed>(frame)?.expires,
        },
        DONE => ServerOp::Done,
        PONG => ServerOp::Pong {
            time_ms: read::<pb::Pong>(frame)?.time,
        },
        ERROR => ServerOp::Error(read_error(read(frame)?)),
        TRUNCATED => {
            let pb::Truncated {
                room: id_of_room,
                from,
                to,
            } = read(frame)?;
            ServerOp::Truncated {
                room: room(id_of_room)?,
                from,
                to,
            }
        }
        RESET => {
            let pb::Reset {
                room: id_of_room,
                epoch,
                seq,
            } = read(frame)?;
            ServerOp::Reset {
                room: room(id_of_room)?,
                epoch,
                seq,
            }
        }
        ROOM_CHANGED => {
            let pb::RoomChanged {
                room: id_of_room,
                subscribed,
                reason,
            } = read(frame)?;
            ServerOp::RoomChanged {
                room: room(id_of_room)?,
                subscribed,
                reason,
            }
        }
        MOVE => {
            let pb::Move {
                after_ms,
                deadline_ms,
                to,
                reason,
            } = read(frame)?;
            ServerOp::Move {
                after_ms,
                deadline_ms,
                to,
                reason,
            }
        }
        CLOSE => {
            let pb::Close {
                code,
                text,
                reconnect,
                after_ms,
            } = read(frame)?;
            let code = u16::try_from(code)
                .ok()
                .and_then(CloseCode::from_number)
                .unwrap_or(CloseCode::Internal);
            ServerOp::Close {
                code,
                text,
                reconnect,
                after_ms,
            }
        }
        other => {
            return Err(rejected(bad(
                "operation",
                format!("operation {other} is not known"),
            )));
        }
    };
    Ok(Response { req: frame.seq, op })
}

fn put(out: &mut BytesMut, operation: i32, req: u32, body: &impl prost::Message) {
    frame::put_header(out, VERSION, operation, req, body.encoded_len());
    // Room has been reserved: encoding into it cannot run out.
    body.encode_raw(out);
}

/// Appends a client's frame.
pub fn encode_request(request: &Request, out: &mut BytesMut) {
    let req = request.req;
    match request.op.clone() {
        ClientOp::Auth {
            token,
            device,
            resume,
            all,
            agent,
        } => {
            put(
                out,
                AUTH,
                req,
                &pb::Auth {
                    token,
                    device,
                    resume: shown(resume),
                    all,
                    agent,
                },
            );
        }
        ClientOp::Subscribe { rooms, all } => put(
            out,
            SUBSCRIBE,
            req,
            &pb::Subscribe {
                rooms: shown(rooms),
                all,
            },
        ),
        ClientOp::Unsubscribe { rooms } => {
            put(
                out,
                UNSUBSCRIBE,
                req,
                &pb::Unsubscribe {
                    rooms: rooms.iter().map(RoomId::to_string).collect(),
                },
            );
        }
        ClientOp::Send {
            room,
            client_id,
            kind,
            body,
        } => {
            let (body, encoding) = parts(body);
            put(
                out,
                SEND,
                req,
                &pb::Send {
                    room: room.to_string(),
                    client_id,
                    r#type: kind,
                    body,
                    encoding,
                },
            );
        }
        ClientOp::Signal { room, kind, body } => {
            let (body, encoding) = parts(body);
            put(
                out,
                SEND_SIGNAL,
                req,
                &pb::SendSignal {
                    room: room.to_string(),
                    r#type: kind,
                    body,
                    encoding,
                },
            );
        }
        ClientOp::History {
            room,
            after,
            before,
            limit,
        } => {
            put(
                out,
                HISTORY,
                req,
                &pb::History {
                    room: room.to_string(),
                    after,
                    before,
                    limit,
                },
            );
        }
        ClientOp::Read { room, seq } => put(
            out,
            READ,
            req,
            &pb::Read {
                room: room.to_string(),
                seq,
            },
        ),
        ClientOp::Refresh { token } => put(out, REFRESH, req, &pb::Refresh { token }),
        ClientOp::Ping => put(out, PING, req, &pb::Ping {}),
    }
}

/// Appends a server's frame.
pub fn encode_response(response: &Response, out: &mut BytesMut) {
    let req = response.req;
    match &response.op {
        ServerOp::AuthOk {
            user,
            device,
            conn,
            node,
            heartbeat_ms,
            time_ms,
            expires_ms,
        } => {
            let user = user.to_string();
            let device = device.clone();
            let conn = conn.clone();
            let node = node.clone();
            let body = pb::AuthOk {
                user,
                device,
                conn,
                node,
                heartbeat_ms: *heartbeat_ms,
                time: *time_ms,
                expires: *expires_ms,
            };
            put(out, AUTH_OK, req, &body);
        }
        ServerOp::Subscribed { rooms } => {
            put(
                out,
                SUBSCRIBED,
                req,
                &pb::Subscribed {
                    rooms: rooms.iter().map(subscribed).collect(),
                },
            );
        }
        ServerOp::Ack {
            room,
            client_id,
            id,
            epoch,
            seq,
            time_ms,
            duplicate,
        } => {
            let room = room.to_string();
            let client_id = client_id.clone();
            let id = id.clone();
            let epoch = *epoch;
            let seq = *seq;
            let time = *time_ms;
            put(
                out,
                ACK,
                req,
                &pb::Ack {
                    room,
                    client_id,
                    id,
                    epoch,
                    seq,
                    time,
                    duplicate: *duplicate,
                },
            );
        }
        ServerOp::Message(message) => put(out, MESSAGE, req, &said(message)),
        ServerOp::Signal {
            room,
            from,
            kind,
            body,
            operation,
        } => {
            let (body, encoding) = parts(body.clone());
            let room = room.clone();
            let from = from.clone();
            let r#type = kind.clone();
            put(
                out,
                SIGNAL,
                req,
                &pb::Signal {
                    room,
                    from,
                    r#type,
                    body,
                    encoding,
                    operation: *operation,
                },
            );
        }
        ServerOp::History {
            room,
            epoch,
            head,
            truncated,
            messages,
        } => {
            let truncated = truncated.map(|(from, to)| pb::Range { from, to });
            let messages = messages.iter().map(said).collect();
            let body = pb::HistoryPage {
                room: room.to_string(),
                epoch: *epoch,
                head: *head,
                truncated,
                messages,
            };
            put(out, HISTORY_PAGE, req, &body);
        }
        ServerOp::ReadState {
            room,
            read,
            head,
            unread,
        } => {
            put(
                out,
                READ_STATE,
                req,
                &pb::ReadState {
                    room: room.to_string(),
                    read: *read,
                    head: *head,
                    unread: *unread,
                },
            );
        }
        ServerOp::Refreshed { expires_ms } => put(
            out,
            REFRESHED,
            req,
            &pb::Refreshed {
                expires: *expires_ms,
            },
        ),
        ServerOp::Done => put(out, DONE, req, &pb::Done {}),
        ServerOp::Pong { time_ms } => put(out, PONG, req, &pb::Pong { time: *time_ms }),
        ServerOp::Error(error) => put(out, ERROR, req, &error_message(error)),
        ServerOp::Truncated { room, from, to } => {
            put(
                out,
                TRUNCATED,
                req,
                &pb::Truncated {
                    room: room.to_string(),
                    from: *from,
                    to: *to,
                },
            );
        }
        ServerOp::Reset { room, epoch, seq } => {
            put(
                out,
                RESET,
                req,
                &pb::Reset {
                    room: room.to_string(),
                    epoch: *epoch,
                    seq: *seq,
                },
            );
        }
        ServerOp::RoomChanged {
            room,
            subscribed,
            reason,
        } => {
            let reason = reason.clone();
            put(
                out,
                ROOM_CHANGED,
                req,
                &pb::RoomChanged {
                    room: room.to_string(),
                    subscribed: *subscribed,
                    reason,
                },
            );
        }
        ServerOp::Move {
            after_ms,
            deadline_ms,
            to,
            reason,
        } => {
            let to = to.clone();
            let reason = reason.clone();
            put(
                out,
                MOVE,
                req,
                &pb::Move {
                    after_ms: *after_ms,
                    deadline_ms: *deadline_ms,
                    to,
                    reason,
                },
            );
        }
        ServerOp::Close {
            code,
            text,
            reconnect,
            after_ms,
        } => {
            let code = code.number().into();
            let text = text.clone();
            put(
                out,
                CLOSE,
                req,
                &pb::Close {
                    code,
                    text,
                    reconnect: *reconnect,
                    after_ms: *after_ms,
                },
            );
        }
    }
}

fn room_id(room: String) -> Result<RoomId, Error> {
    RoomId::new(room).map_err(Error::from)
}

fn positions(positions: Vec<pb::Position>) -> Result<Vec<Position>, Error> {
    let read = |p: pb::Position| {
        Ok(Position {
            room: room_id(p.room)?,
            epoch: p.epoch,
            seq: p.seq,
        })
    };
    positions.into_iter().map(read).collect()
}

fn shown(positions: Vec<Position>) -> Vec<pb::Position> {
    let show = |p: Position| pb::Position {
        room: p.room.to_string(),
        epoch: p.epoch,
        seq: p.seq,
    };
    positions.into_iter().map(show).collect()
}

fn body(bytes: Bytes, encoding: i32) -> Body {
    let body = match pb::Encoding::try_from(encoding) {
        Ok(pb::Encoding::Text) => Body::Text(bytes),
        Ok(pb::Encoding::Json) => Body::Json(bytes),
        Ok(pb::Encoding::Binary) | Err(_) => Body::Binary(bytes),
    };
    body.checked()
}

fn parts(body: Body) -> (Bytes, i32) {
    let (bytes, encoding) = match body {
        Body::Text(bytes) => (bytes, pb::Encoding::Text),
        Body::Json(bytes) => (bytes, pb::Encoding::Json),
        Body::Binary(bytes) => (bytes, pb::Encoding::Binary),
    };
    (bytes, encoding.into())
}

fn said(message: &Message) -> pb::Message {
    let (body, encoding) = parts(message.body.clone());
    pb::Message {
        room: message.room.to_string(),
        epoch: message.epoch,
        seq: message.seq,
        id: message.id.clone(),
        from: message.from.clone(),
        client_id: message.client_id.clone(),
        r#type: message.kind.clone(),
        body,
        encoding,
        time: message.time_ms,
    }
}

fn read_message(message: pb::Message) -> Result<Message, Error> {
    Ok(Message {
        room: room_id(message.room)?,
        epoch: message.epoch,
        seq: message.seq,
        id: message.id,
        from: message.from,
        client_id: message.client_id,
        kind: message.r#type,
        body: body(message.body, message.encoding),
        time_ms: message.time,
    })
}

fn error_message(error: &Error) -> pb::Error {
    pb::Error {
        code: error.code.number().into(),
        text: error.text.clone(),
        retryable: error.retryable,
        field: error.field.clone(),
    }
}

fn read_error(error: pb::Error) -> Error {
    let code = u16::try_from(error.code)
        .ok()
        .and_then(ErrorCode::from_number)
        .unwrap_or(ErrorCode::Internal);
    Error {
        code,
        text: error.text,
        retryable: error.retryable,
        field: error.field,
    }
}

fn subscribed(room: &SubscribedRoom) -> pb::SubscribedRoom {
    match room {
        SubscribedRoom::Ok {
            room,
            kind,
            epoch,
            head,
            read,
            joined,
        } => pb::SubscribedRoom {
            room: room.to_string(),
            error: None,
            kind: kind.clone(),
            epoch: *epoch,
            head: *head,
            read: *read,
            joined: *joined,
        },
        SubscribedRoom::Refused { room, error } => pb::SubscribedRoom {
            room: room.to_string(),
            error: Some(error_message(error)),
            ..Default::default()
        },
    }
}

fn read_subscribed(room: pb::SubscribedRoom) -> Result<SubscribedRoom, Error> {
    let pb::SubscribedRoom {
        room,
        error,
        kind,
        epoch,
        head,
        read,
        joined,
    } = room;
    let room = room_id(room)?;
    Ok(match error {
        Some(error) => SubscribedRoom::Refused {
            room,
            error: read_error(error),
        },
        None => SubscribedRoom::Ok {
            room,
            kind,
            epoch,
            head,
            read,
            joined,
        },
    })
}
