//! One of every operation, and strategies that make all of them.

use bytes::Bytes;
use im_wire::code::{CloseCode, ErrorCode};
use im_wire::ids::{RoomId, UserId};
use im_wire::native::{
    Body, ClientOp, Error, Message, Position, Request, Response, ServerOp, SubscribedRoom,
};
use proptest::prelude::*;

pub(crate) fn room(name: &str) -> RoomId {
    RoomId::new(name).expect("a sample's room id")
}

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z0-9:/{}\"\\\\äöü愛-]{1,24}"
}

fn body() -> impl Strategy<Value = Body> {
    prop_oneof![
        ".{0,40}".prop_map(|text: String| Body::Text(Bytes::from(text))),
        (any::<i32>(), ".{0,10}").prop_map(|(number, text)| {
            Body::Json(Bytes::from(
                serde_json::json!({"n": number, "t": text}).to_string(),
            ))
        }),
        prop::collection::vec(any::<u8>(), 0..40)
            .prop_map(|bytes| Body::Binary(Bytes::from(bytes))),
    ]
}

fn position() -> impl Strategy<Value = Position> {
    (name(), any::<u64>(), any::<Option<u64>>()).prop_map(|(name, epoch, seq)| {
        // JSON leaves the epoch out where there is no seq: it says nothing there.
        Position {
            room: room(&name),
            epoch: if seq.is_some() { epoch } else { 0 },
            seq,
        }
    })
}

fn positions() -> impl Strategy<Value = Vec<Position>> {
    prop::collection::vec(position(), 0..4)
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let op = prop_oneof![
        (
            "[a-z.]{0,20}",
            any::<Option<String>>(),
            positions(),
            any::<bool>(),
            any::<Option<String>>()
        )
            .prop_map(|(token, device, resume, all, agent)| ClientOp::Auth {
                token,
                device,
                resume,
                all,
                agent
            }),
        (positions(), any::<bool>()).prop_map(|(rooms, all)| ClientOp::Subscribe { rooms, all }),
        prop::collection::vec(name(), 0..4).prop_map(|names| ClientOp::Unsubscribe {
            rooms: names.iter().map(|name| room(name)).collect()
        }),
        (name(), ".{0,20}", "[a-z]{1,9}", body()).prop_map(|(name, client_id, kind, body)| {
            ClientOp::Send {
                room: room(&name),
                client_id,
                kind,
                body,
            }
        }),
        (name(), "[a-z]{1,9}", body()).prop_map(|(name, kind, body)| ClientOp::Signal {
            room: room(&name),
            kind,
            body
        }),
        (
            name(),
            any::<Option<u64>>(),
            any::<Option<u64>>(),
            any::<u32>()
        )
            .prop_map(|(name, after, before, limit)| ClientOp::History {
                room: room(&name),
                after,
                before,
                limit
            }),
        (name(), any::<u64>()).prop_map(|(name, seq)| ClientOp::Read {
            room: room(&name),
            seq
        }),
        "[a-z.]{0,20}".prop_map(|token| ClientOp::Refresh { token }),
        Just(ClientOp::Ping),
    ];
    (any::<u32>(), op).prop_map(|(req, op)| Request { req, op })
}

fn message() -> impl Strategy<Value = Message> {
    (
        name(),
        any::<u64>(),
        any::<u64>(),
        name(),
        name(),
        ".{0,9}",
        body(),
        any::<u64>(),
    )
        .prop_map(
            |(room_name, epoch, seq, id, from, client_id, body, time_ms)| Message {
                room: room(&room_name),
                epoch,
                seq,
                id,
                from,
                client_id,
                kind: "text".to_owned(),
                body,
                time_ms,
            },
        )
}

fn error() -> impl Strategy<Value = Error> {
    (
        prop::sample::select(ErrorCode::ALL),
        ".{0,20}",
        any::<bool>(),
        any::<Option<String>>(),
    )
        .prop_map(|(code, text, retryable, field)| Error {
            code,
            text,
            retryable,
            field,
        })
}

fn subscribed() -> impl Strategy<Value = SubscribedRoom> {
    prop_oneof![
        (
            name(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<u64>()
        )
            .prop_map(|(name, epoch, head, read, joined)| {
                SubscribedRoom::Ok {
                    room: room(&name),
                    kind: "group".to_owned(),
                    epoch,
                    head,
                    read,
                    joined,
                }
            }),
        (name(), error()).prop_map(|(name, error)| SubscribedRoom::Refused {
            room: room(&name),
            error
        }),
    ]
}

pub(crate) fn response() -> impl Strategy<Value = Response> {
    let said = prop_oneof![
        message().prop_map(ServerOp::Message),
        (
            "[a-z]{0,5}",
            "[a-z]{0,5}",
            "[a-z]{1,5}",
            body(),
            any::<i32>()
        )
            .prop_map(|(room, from, kind, body, operation)| ServerOp::Signal {
                room,
                from,
                kind,
                body,
                operation
            }),
        (
            name(),
            any::<u64>(),
            any::<u64>(),
            any::<Option<(u64, u64)>>(),
            prop::collection::vec(message(), 0..3)
        )
            .prop_map(
                |(name, epoch, head, truncated, messages)| ServerOp::History {
                    room: room(&name),
                    epoch,
                    head,
                    truncated,
                    messages
                }
            ),
    ];
    let answers = prop_oneof![
        (name(), any::<u32>(), any::<u64>(), any::<u64>()).prop_map(
            |(name, heartbeat_ms, time_ms, expires_ms)| {
                let user = UserId::new(&name).expect("a sample's user id");
                let (device, conn, node) = ("d".to_owned(), "c".to_owned(), name);
                ServerOp::AuthOk {
                    user,
                    device,
                    conn,
                    node,
                    heartbeat_ms,
                    time_ms,
                    expires_ms,
                }
            }
        ),
        prop::collection::vec(subscribed(), 0..3).prop_map(|rooms| ServerOp::Subscribed { rooms }),
        (
            name(),
            ".{0,9}",
            any::<u64>(),
            any::<u64>(),
            any::<u64>(),
            any::<bool>()
        )
            .prop_map(|(name, client_id, epoch, seq, time_ms, duplicate)| {
                ServerOp::Ack {
                    room: room(&name),
                    client_id,
                    id: name,
                    epoch,
                    seq,
                    time_ms,
                    duplicate,
                }
            }),
        (name(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
            |(name, read, head, unread)| ServerOp::ReadState {
                room: room(&name),
                read,
                head,
                unread
            }
        ),
        any::<u64>().prop_map(|expires_ms| ServerOp::Refreshed { expires_ms }),
        Just(ServerOp::Done),
        any::<u64>().prop_map(|time_ms| ServerOp::Pong { time_ms }),
        error().prop_map(ServerOp::Error),
    ];
    let notices = prop_oneof![
        (name(), any::<u64>(), any::<u64>()).prop_map(|(name, from, to)| ServerOp::Truncated {
            room: room(&name),
            from,
            to
        }),
        (name(), any::<u64>(), any::<u64>()).prop_map(|(name, epoch, seq)| ServerOp::Reset {
            room: room(&name),
            epoch,
            seq
        }),
        (name(), any::<bool>()).prop_map(|(name, subscribed)| ServerOp::RoomChanged {
            room: room(&name),
            subscribed,
            reason: "left".to_owned()
        }),
        (
            any::<u32>(),
            any::<u32>(),
            prop::collection::vec("[a-z:0-9]{0,9}", 0..3)
        )
            .prop_map(|(after_ms, deadline_ms, to)| {
                ServerOp::Move {
                    after_ms,
                    deadline_ms,
                    to,
                    reason: "draining".to_owned(),
                }
            }),
        (
            prop::sample::select(CloseCode::ALL),
            ".{0,9}",
            any::<bool>(),
            any::<u32>()
        )
            .prop_map(|(code, text, reconnect, after_ms)| ServerOp::Close {
                code,
                text,
                reconnect,
                after_ms
            }),
    ];
    (any::<u32>(), prop_oneof![said, answers, notices]).prop_map(|(req, op)| Response { req, op })
}
