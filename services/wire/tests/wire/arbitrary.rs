//! Every frame comes back as it went, in both encodings and however it is split; arbitrary bytes end in a typed error.

use bytes::{Bytes, BytesMut};
use im_wire::dialect::{Entrance, tell};
use im_wire::frame::{self, Frame, HEADER, Malformed};
use im_wire::native::{Body, binary, json};
use im_wire::{goim, golang_im};
use proptest::prelude::*;

use crate::samples::{request, response};

const LIMIT: usize = 1 << 16;

fn one_frame(bytes: &[u8]) -> Frame {
    let mut buffer = BytesMut::from(bytes);
    let frame = frame::decode(&mut buffer, LIMIT)
        .expect("well-formed")
        .expect("whole");
    assert!(buffer.is_empty());
    frame
}

proptest! {
    #[test]
    fn requests_round_trip_in_binary(request in request()) {
        let mut out = BytesMut::new();
        binary::encode_request(&request, &mut out);
        prop_assert_eq!(binary::decode_request(&one_frame(&out)).unwrap(), request);
    }

    #[test]
    fn responses_round_trip_in_binary(response in response()) {
        let mut out = BytesMut::new();
        binary::encode_response(&response, &mut out);
        prop_assert_eq!(binary::decode_response(&one_frame(&out)).unwrap(), response);
    }

    #[test]
    fn requests_round_trip_in_json(request in request()) {
        prop_assert_eq!(json::decode_request(&json::encode_request(&request)).unwrap(), request);
    }

    #[test]
    fn responses_round_trip_in_json(response in response()) {
        prop_assert_eq!(json::decode_response(&json::encode_response(&response)).unwrap(), response);
    }

    #[test]
    fn frames_come_out_whole_however_a_stream_is_split(
        bodies in prop::collection::vec((any::<i32>(), any::<u32>(), prop::collection::vec(any::<u8>(), 0..100)), 0..8),
        cuts in prop::collection::vec(1..40_usize, 1..60),
    ) {
        let mut stream = BytesMut::new();
        for (operation, seq, body) in &bodies {
            frame::encode(&mut stream, 1, *operation, *seq, body);
        }
        let (mut rest, mut buffer, mut frames) = (stream.freeze(), BytesMut::new(), Vec::new());
        for cut in cuts.iter().cycle() {
            if rest.is_empty() { break; }
            buffer.extend_from_slice(&rest.split_to((*cut).min(rest.len())));
            while let Some(frame) = frame::decode(&mut buffer, LIMIT).unwrap() {
                frames.push((frame.operation, frame.seq, frame.body.to_vec()));
            }
        }
        prop_assert_eq!(frames, bodies);
    }

    #[test]
    fn arbitrary_bytes_are_a_frame_or_a_typed_error_and_nothing_is_kept_beyond_the_limit(
        bytes in prop::collection::vec(any::<u8>(), 0..300), limit in 0..200_usize,
    ) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = frame::decode(&mut buffer, limit) {
            prop_assert!(frame.body.len() <= limit);
            everything(&frame);
        }
        if let Ok(frame) = frame::decode_exact(Bytes::from(bytes.clone()), limit) {
            prop_assert_eq!(frame.body.len() + HEADER, bytes.len());
        }
        let _answered = json::decode_request(&bytes);
        let _understood = json::decode_response(&bytes);
    }

    #[test]
    fn any_body_under_any_operation_is_understood_or_refused(
        operation in prop_oneof![0..25_i32, 95..150_i32, any::<i32>()], body in prop::collection::vec(any::<u8>(), 0..120),
    ) {
        everything(&Frame { version: 1, operation, seq: 7, body: body.into() });
    }

    #[test]
    fn one_wrong_byte_makes_a_frame_another_or_a_typed_error(request in request(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut out = BytesMut::new();
        binary::encode_request(&request, &mut out);
        let place = at.index(out.len());
        out[place] = to;
        if let Ok(Some(frame)) = frame::decode(&mut out, LIMIT) {
            everything(&frame);
        }
    }

    #[test]
    fn what_is_not_what_it_claims_to_be_is_binary(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let bytes = Bytes::from(bytes);
        match Body::Json(bytes.clone()).checked() {
            Body::Json(sound) => prop_assert!(serde_json::from_slice::<serde_json::Value>(&sound).is_ok()),
            other => prop_assert_eq!(other, Body::Binary(bytes)),
        }
    }
}

/// Everything that takes a frame takes this one without a panic.
fn everything(frame: &Frame) {
    let _refused = binary::decode_request(frame);
    let _refused = binary::decode_response(frame);
    for entrance in [Entrance::Tcp, Entrance::Sub, Entrance::Ws] {
        let _told = tell(entrance, frame);
    }
    let _said = golang_im::said(&frame.body);
    let _seq = golang_im::read_seq(&frame.body);
    let _operations = goim::operations(&frame.body);
}

#[test]
fn malformed_headers_are_refused_before_their_body_is_waited_for() {
    let header = |package: i32, header: i16| {
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&package.to_be_bytes());
        bytes.extend_from_slice(&header.to_be_bytes());
        bytes
    };
    let refused = |mut bytes: BytesMut| frame::decode(&mut bytes, 100).expect_err("malformed");
    assert_eq!(refused(header(15, 16)), Malformed::TooShort(15));
    assert_eq!(refused(header(-1, 16)), Malformed::TooShort(-1));
    assert_eq!(refused(header(i32::MIN, 16)), Malformed::TooShort(i32::MIN));
    assert_eq!(refused(header(20, 17)), Malformed::HeaderLength(17));
    assert_eq!(refused(header(20, -16)), Malformed::HeaderLength(-16));
    assert_eq!(
        refused(header(117, 16)),
        Malformed::TooLarge {
            length: 101,
            limit: 100
        }
    );
    assert_eq!(
        refused(header(i32::MAX, 16)),
        Malformed::TooLarge {
            length: i32::MAX as usize - 16,
            limit: 100
        }
    );
    assert_eq!(frame::decode(&mut header(116, 16), 100), Ok(None));
}

#[test]
fn a_websocket_message_is_exactly_one_frame() {
    let mut bytes = BytesMut::new();
    frame::encode(&mut bytes, 1, 5, 7, b"body");
    let whole = bytes.freeze();
    assert!(frame::decode_exact(whole.clone(), 100).is_ok());
    let cut = frame::decode_exact(whole.slice(..whole.len() - 1), 100);
    assert_eq!(cut, Err(Malformed::Length { said: 20, had: 19 }));
    let long = frame::decode_exact([&whole[..], b"x"].concat().into(), 100);
    assert_eq!(long, Err(Malformed::Length { said: 20, had: 21 }));
    assert_eq!(
        frame::decode_exact(Bytes::from_static(b"x"), 100),
        Err(Malformed::Length { said: 16, had: 1 })
    );
}

#[test]
fn a_request_with_a_wrong_field_is_answered_under_its_number_and_names_the_field() {
    let rejected =
        json::decode_request(br#"{"op": "read", "req": 9, "room": "r", "seq": -1}"#).unwrap_err();
    assert_eq!((rejected.req, rejected.fatal), (9, false));
    assert_eq!(rejected.error.field.as_deref(), Some("seq"));
    let rejected = json::decode_request(br#"{"op": "dance", "req": 3}"#).unwrap_err();
    assert_eq!(
        (rejected.req, rejected.error.field.as_deref()),
        (3, Some("op"))
    );
    assert!(json::decode_request(b"[1]").unwrap_err().fatal);
    assert!(json::decode_request(b"not json").unwrap_err().fatal);
}
