//! Frames to bytes and back, in each dialect that connect speaks.

use bytes::{Bytes, BytesMut};
use divan::{Bencher, black_box};
use im_wire::ids::RoomId;
use im_wire::native::{Body, ClientOp, Message, Request, Response, ServerOp, binary, json};
use im_wire::{frame, goim};

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [10, 100, 65_000];

fn room() -> RoomId {
    RoomId::new("bench").expect("a good id")
}

fn body(size: usize) -> Body {
    Body::Text(Bytes::from(vec![b'x'; size]))
}

fn message(size: usize) -> Response {
    let id = "0199f0e2-0000-7000-8000-000000000000".to_owned();
    let (from, client_id, kind) = ("ann".to_owned(), "c-1".to_owned(), "text".to_owned());
    let message = Message {
        room: room(),
        epoch: 1,
        seq: 7,
        id,
        from,
        client_id,
        kind,
        body: body(size),
        time_ms: 1,
    };
    Response {
        req: 0,
        op: ServerOp::Message(message),
    }
}

fn send(size: usize) -> Request {
    let (client_id, kind) = ("c-1".to_owned(), "text".to_owned());
    Request {
        req: 1,
        op: ClientOp::Send {
            room: room(),
            client_id,
            kind,
            body: body(size),
        },
    }
}

#[divan::bench(args = SIZES)]
fn encode_message_binary(bencher: Bencher<'_, '_>, size: usize) {
    let message = message(size);
    bencher.bench_local(|| {
        let mut out = BytesMut::new();
        binary::encode_response(black_box(&message), &mut out);
        out.freeze()
    });
}

#[divan::bench(args = SIZES)]
fn encode_message_json(bencher: Bencher<'_, '_>, size: usize) {
    let message = message(size);
    bencher.bench_local(|| json::encode_response(black_box(&message)));
}

#[divan::bench(args = SIZES)]
fn encode_message_goim(bencher: Bencher<'_, '_>, size: usize) {
    let body = vec![b'x'; size];
    bencher.bench_local(|| {
        let mut out = BytesMut::new();
        frame::encode(&mut out, goim::VERSION, goim::MESSAGE, 0, black_box(&body));
        out.freeze()
    });
}

#[divan::bench(args = SIZES)]
fn decode_send_binary(bencher: Bencher<'_, '_>, size: usize) {
    let mut bytes = BytesMut::new();
    binary::encode_request(&send(size), &mut bytes);
    bencher
        .with_inputs(|| bytes.clone())
        .bench_local_values(|mut bytes| {
            let frame = frame::decode(&mut bytes, 1 << 20)
                .expect("a frame")
                .expect("a whole one");
            binary::decode_request(&frame).expect("a request")
        });
}

#[divan::bench(args = SIZES)]
fn decode_send_json(bencher: Bencher<'_, '_>, size: usize) {
    let text = json::encode_request(&send(size));
    bencher.bench_local(|| json::decode_request(black_box(&text)).expect("a request"));
}
