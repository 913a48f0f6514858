//! Golden vectors for people who write a client: each operation as JSON text and as the bytes of its TLV frame.
//! `REGENERATE=1 cargo test -p im-wire` rewrites the file; a change of what stands there is a change of the protocol.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use im_wire::code::{CloseCode, ErrorCode};
use im_wire::ids::UserId;
use im_wire::native::{
    Body, ClientOp, Error, Message, Position, Request, Response, ServerOp, SubscribedRoom, binary,
    json,
};
use serde_json::{Value, json};

use crate::samples::room;

fn requests() -> Vec<Request> {
    let at = |seq| Position {
        room: room("lobby"),
        epoch: 1_700_000_000_000,
        seq: Some(seq),
    };
    let now = Position {
        room: room("direct:5:alice:bob"),
        epoch: 0,
        seq: None,
    };
    let ops = [
        ClientOp::Auth {
            token: "a.b.c".into(),
            device: Some("phone".into()),
            resume: vec![at(41), now.clone()],
            all: true,
            agent: Some("vectors/1".into()),
        },
        ClientOp::Subscribe {
            rooms: vec![now],
            all: false,
        },
        ClientOp::Unsubscribe {
            rooms: vec![room("lobby")],
        },
        ClientOp::Send {
            room: room("lobby"),
            client_id: "c-1".into(),
            kind: "text".into(),
            body: Body::Text(Bytes::from_static("héllo".as_bytes())),
        },
        ClientOp::Send {
            room: room("lobby"),
            client_id: "c-2".into(),
            kind: "card".into(),
            body: Body::Json(Bytes::from_static(b"{\"a\":[1,2]}")),
        },
        ClientOp::Send {
            room: room("lobby"),
            client_id: "c-3".into(),
            kind: "blob".into(),
            body: Body::Binary(Bytes::from_static(&[0, 255, 1])),
        },
        ClientOp::Signal {
            room: room("lobby"),
            kind: "typing".into(),
            body: Body::Text(Bytes::new()),
        },
        ClientOp::History {
            room: room("lobby"),
            after: None,
            before: Some(42),
            limit: 50,
        },
        ClientOp::Read {
            room: room("lobby"),
            seq: 42,
        },
        ClientOp::Refresh {
            token: "d.e.f".into(),
        },
        ClientOp::Ping,
    ];
    ops.into_iter()
        .zip(1..)
        .map(|(op, req)| Request { req, op })
        .collect()
}

fn message() -> Message {
    Message {
        room: room("lobby"),
        epoch: 1_700_000_000_000,
        seq: 42,
        id: "0190-id".into(),
        from: "alice".into(),
        client_id: "c-1".into(),
        kind: "text".into(),
        body: Body::Text(Bytes::from_static("héllo".as_bytes())),
        time_ms: 1_700_000_000_123,
    }
}

fn responses() -> Vec<Response> {
    let error = Error {
        code: ErrorCode::NotAMember,
        text: "bob is not a member of g-1".into(),
        retryable: false,
        field: Some("room".into()),
    };
    let (time_ms, epoch) = (1_700_000_000_123, 1_700_000_000_000);
    let ops = [
        ServerOp::AuthOk {
            user: UserId::new("alice").expect("a user id"),
            device: "phone".into(),
            conn: "c0".into(),
            node: "connect-1".into(),
            heartbeat_ms: 90_000,
            time_ms,
            expires_ms: 0,
        },
        ServerOp::Subscribed {
            rooms: vec![
                SubscribedRoom::Ok {
                    room: room("lobby"),
                    kind: "open".into(),
                    epoch,
                    head: 42,
                    read: 40,
                    joined: 0,
                },
                SubscribedRoom::Refused {
                    room: room("g-1"),
                    error: error.clone(),
                },
            ],
        },
        ServerOp::Ack {
            room: room("lobby"),
            client_id: "c-1".into(),
            id: "0190-id".into(),
            epoch,
            seq: 42,
            time_ms,
            duplicate: false,
        },
        ServerOp::Message(message()),
        ServerOp::Signal {
            room: "lobby".into(),
            from: "bob".into(),
            kind: "typing".into(),
            body: Body::Text(Bytes::new()),
            operation: 0,
        },
        ServerOp::History {
            room: room("lobby"),
            epoch,
            head: 42,
            truncated: Some((1, 41)),
            messages: vec![message()],
        },
        ServerOp::ReadState {
            room: room("lobby"),
            read: 42,
            head: 42,
            unread: 0,
        },
        ServerOp::Refreshed {
            expires_ms: 1_700_003_600_000,
        },
        ServerOp::Done,
        ServerOp::Pong { time_ms },
        ServerOp::Error(error),
        ServerOp::Truncated {
            room: room("lobby"),
            from: 1,
            to: 41,
        },
        ServerOp::Reset {
            room: room("lobby"),
            epoch: epoch + 1,
            seq: 40,
        },
        ServerOp::RoomChanged {
            room: room("g-1"),
            subscribed: true,
            reason: "joined".into(),
        },
        ServerOp::Move {
            after_ms: 250,
            deadline_ms: 60_000,
            to: vec!["10.0.0.2:3101".into()],
            reason: "draining".into(),
        },
        ServerOp::Close {
            code: CloseCode::SlowReader,
            text: "resume".into(),
            reconnect: true,
            after_ms: 0,
        },
    ];
    ops.into_iter()
        .zip(1..)
        .map(|(op, req)| Response { req, op })
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn vector(text: &[u8], frame: &[u8]) -> Value {
    json!({"json": serde_json::from_slice::<Value>(text).expect("JSON"), "tlv": hex(frame)})
}

#[test]
fn vectors_stand_as_committed() {
    let of_request = |request: &Request| {
        let mut frame = BytesMut::new();
        binary::encode_request(request, &mut frame);
        vector(&json::encode_request(request), &frame)
    };
    let of_response = |response: &Response| {
        let mut frame = BytesMut::new();
        binary::encode_response(response, &mut frame);
        vector(&json::encode_response(response), &frame)
    };
    let requests: Vec<_> = requests().iter().map(of_request).collect();
    let responses: Vec<_> = responses().iter().map(of_response).collect();
    let fresh =
        serde_json::to_string_pretty(&json!({"requests": requests, "responses": responses}))
            .expect("JSON")
            + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/native.json");
    if std::env::var_os("REGENERATE").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder");
        std::fs::write(&path, &fresh).expect("write vectors");
    }
    let stands = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stands == fresh,
        "{} differs: the protocol has changed",
        path.display()
    );
}
