//! The clients' side of each dialect, made to cost the client little: a delivery is read where it lies, without decoding
//! what a run does not look at.

use bytes::{Bytes, BytesMut};
use im_client::{Body, RoomId};
use im_wire::native::{ClientOp, Position, Request, ServerOp, binary, json};
use im_wire::{frame, goim, websocket};

use crate::plan::Dialect;
use crate::stamp::Stamp;

/// What a server said.
#[derive(Debug, PartialEq)]
pub(crate) enum Said {
    /// Let in; over goim also in the room.
    LetIn,
    /// In the room, or in those that were asked for.
    InRoom,
    /// No longer in those that were left.
    Left,
    /// A message: its stamp, its place in the log where the dialect tells, the length of its body.
    Message {
        stamp: Option<Stamp>,
        seq: u64,
        body: usize,
    },
    /// The send with this number is stored.
    Ack(u32),
    /// The request with this number was refused.
    Refused(u32, String),
    /// The server closes the connection.
    Close(String),
    /// A WebSocket ping, to be answered.
    Ping,
    /// Something else.
    Other,
}

/// How frames travel on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wire {
    pub(crate) dialect: Dialect,
    pub(crate) websocket: bool,
}

impl Wire {
    /// The first frame: credentials, and the room to hear.
    pub(crate) fn auth(self, token: &str, room: &RoomId, out: &mut Vec<u8>) {
        if self.dialect == Dialect::Goim {
            let body = serde_json::json!({"mid": 0, "room_id": room.as_str(), "platform": "bench", "token": token});
            return self.tlv(goim::AUTH, 1, body.to_string().as_bytes(), out);
        }
        let op = ClientOp::Auth {
            token: token.to_owned(),
            device: None,
            resume: vec![Position {
                room: room.clone(),
                epoch: 0,
                seq: None,
            }],
            all: false,
            agent: Some("imctl bench".to_owned()),
        };
        self.request(&Request { req: 1, op }, out);
    }

    /// Hears further rooms from now on. Not over goim, where a client has one.
    pub(crate) fn hear(self, req: u32, rooms: &[RoomId], out: &mut Vec<u8>) {
        let rooms = rooms
            .iter()
            .map(|room| Position {
                room: room.clone(),
                epoch: 0,
                seq: None,
            })
            .collect();
        self.request(
            &Request {
                req,
                op: ClientOp::Subscribe { rooms, all: false },
            },
            out,
        );
    }

    /// Hears them no longer.
    pub(crate) fn leave(self, req: u32, rooms: Vec<RoomId>, out: &mut Vec<u8>) {
        self.request(
            &Request {
                req,
                op: ClientOp::Unsubscribe { rooms },
            },
            out,
        );
    }

    /// A message to the client's room.
    pub(crate) fn send(
        self,
        req: u32,
        room: &RoomId,
        client_id: String,
        body: String,
        out: &mut Vec<u8>,
    ) {
        if self.dialect == Dialect::Goim {
            return self.tlv(goim::SEND, req, body.as_bytes(), out);
        }
        let body = Body::Text(Bytes::from(body));
        self.request(
            &Request {
                req,
                op: ClientOp::Send {
                    room: room.clone(),
                    client_id,
                    kind: "text".into(),
                    body,
                },
            },
            out,
        );
    }

    /// A sign of life.
    pub(crate) fn ping(self, req: u32, out: &mut Vec<u8>) {
        match self.dialect {
            Dialect::Goim => self.tlv(goim::HEARTBEAT, req, &[], out),
            Dialect::Native | Dialect::Json => self.request(
                &Request {
                    req,
                    op: ClientOp::Ping,
                },
                out,
            ),
        }
    }

    fn request(self, request: &Request, out: &mut Vec<u8>) {
        if self.dialect == Dialect::Json {
            return put_websocket(1, &json::encode_request(request), out);
        }
        let mut bytes = BytesMut::new();
        binary::encode_request(request, &mut bytes);
        self.put(&bytes, out);
    }

    fn tlv(self, operation: i32, seq: u32, body: &[u8], out: &mut Vec<u8>) {
        let mut bytes = BytesMut::new();
        frame::encode(&mut bytes, goim::VERSION, operation, seq, body);
        self.put(&bytes, out);
    }

    fn put(self, frame: &[u8], out: &mut Vec<u8>) {
        if self.websocket {
            put_websocket(2, frame, out)
        } else {
            out.extend_from_slice(frame)
        }
    }

    /// Takes whole frames from the front of `bytes` and hands on what they say. Returns how many bytes were taken.
    ///
    /// # Errors
    /// What came is not of the protocol.
    pub(crate) fn read(
        self,
        bytes: &[u8],
        mut each: impl FnMut(Said),
    ) -> Result<usize, &'static str> {
        let mut taken = 0;
        while let Some(used) = self.frame(&bytes[taken..], &mut each)? {
            taken += used;
        }
        Ok(taken)
    }

    fn frame(
        self,
        bytes: &[u8],
        each: &mut impl FnMut(Said),
    ) -> Result<Option<usize>, &'static str> {
        if !self.websocket {
            let Some(length) = tlv_length(bytes)? else {
                return Ok(None);
            };
            self.tlv_says(&bytes[..length], each);
            return Ok(Some(length));
        }
        let Some((operation, header, length)) = websocket::header(bytes) else {
            return Ok(None);
        };
        let Some(payload) = bytes.get(header..header + length) else {
            return Ok(None);
        };
        match operation {
            1 => each(json_says(payload)),
            2 => self.tlv_says(payload, each),
            8 => each(Said::Close("closed".to_owned())),
            9 => each(Said::Ping),
            _ => each(Said::Other),
        }
        Ok(Some(header + length))
    }

    fn tlv_says(self, bytes: &[u8], each: &mut impl FnMut(Said)) {
        let Some((header, body)) = bytes.split_at_checked(frame::HEADER) else {
            return;
        };
        let operation = i32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let seq = u32::from_be_bytes([header[12], header[13], header[14], header[15]]);
        if self.dialect == Dialect::Goim {
            each(match operation {
                goim::MESSAGE => message(0, body),
                goim::SEND => Said::Ack(seq),
                goim::AUTH_REPLY => Said::LetIn,
                goim::DISCONNECT => Said::Close(String::from_utf8_lossy(body).into_owned()),
                _ => Said::Other,
            });
        } else {
            each(native_says(operation, seq, bytes, body));
        }
    }
}

fn message(seq: u64, body: &[u8]) -> Said {
    Said::Message {
        stamp: Stamp::read(body),
        seq,
        body: body.len(),
    }
}

fn tlv_length(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let Some(length) = bytes.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*length) as usize;
    if !(frame::HEADER..=32 << 20).contains(&length) {
        return Err("a frame whose length cannot be");
    }
    Ok((bytes.len() >= length).then_some(length))
}

/// A whole client frame.
fn put_websocket(operation: u8, payload: &[u8], out: &mut Vec<u8>) {
    websocket::put_masked(out, 0x80 | operation, payload);
}

/// Answers a WebSocket ping; what it carries is not echoed, which the server does not look at.
pub(crate) fn put_pong(out: &mut Vec<u8>) {
    put_websocket(10, &[], out);
}

fn native_says(operation: i32, seq: u32, frame: &[u8], body: &[u8]) -> Said {
    match operation {
        binary::MESSAGE => scan_message(body).map_or(Said::Other, |(seq, body)| message(seq, body)),
        binary::ACK => Said::Ack(seq),
        binary::AUTH_OK => Said::LetIn,
        binary::PONG => Said::Other,
        _ => {
            let mut bytes = BytesMut::from(frame);
            let frame = frame::decode(&mut bytes, 32 << 20).ok().flatten();
            frame
                .and_then(|frame| binary::decode_response(&frame).ok())
                .map_or(Said::Other, |said| rest(said.req, said.op))
        }
    }
}

fn rest(req: u32, op: ServerOp) -> Said {
    use im_wire::native::SubscribedRoom::{Ok, Refused};
    match op {
        ServerOp::Subscribed { rooms } => match rooms.into_iter().next() {
            Some(Ok { .. }) => Said::InRoom,
            Some(Refused { error, .. }) => Said::Close(format!("{}: {}", error.code, error.text)),
            None => Said::Other,
        },
        ServerOp::Done => Said::Left,
        ServerOp::Error(error) => Said::Refused(req, error.code.to_string()),
        ServerOp::Close { code, text, .. } => Said::Close(format!("{}: {text}", code.name())),
        ServerOp::AuthOk { .. } => Said::LetIn,
        ServerOp::Ack { .. } => Said::Ack(req),
        _ => Said::Other,
    }
}

fn json_says(text: &[u8]) -> Said {
    if text.starts_with(br#"{"op":"message""#) {
        let seq = memchr::memmem::find(text, br#""seq":"#).map_or(0, |at| {
            let digits = text[at + 6..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit());
            digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
        });
        return match Stamp::find(text) {
            Some((stamp, body)) => Said::Message {
                stamp: Some(stamp),
                seq,
                body,
            },
            None => Said::Message {
                stamp: None,
                seq,
                body: 0,
            },
        };
    }
    json::decode_response(text).map_or(Said::Other, |said| rest(said.req, said.op))
}

/// Place in the log and body of a protobuf `Message`, without decoding the rest.
fn scan_message(mut bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut seq = 0;
    let mut body = &[][..];
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        match key & 7 {
            0 => {
                let value = varint(&mut bytes)?;
                if key >> 3 == 3 {
                    seq = value;
                }
            }
            2 => {
                let length = usize::try_from(varint(&mut bytes)?).ok()?;
                let (field, rest) = bytes.split_at_checked(length)?;
                if key >> 3 == 8 {
                    body = field;
                }
                bytes = rest;
            }
            _ => return None,
        }
    }
    Some((seq, body))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;
    use im_wire::native::{Message, Response};

    use super::*;

    fn logged(body: &str) -> Response {
        let message = Message {
            room: RoomId::new("bench://1").unwrap(),
            epoch: 7,
            seq: 300,
            id: "i".into(),
            from: "ann".into(),
            client_id: "c".into(),
            kind: "text".into(),
            body: Body::Text(Bytes::from(body.to_owned())),
            time_ms: 1,
        };
        Response {
            req: 0,
            op: ServerOp::Message(message),
        }
    }

    fn all(wire: Wire, bytes: &[u8]) -> Vec<Said> {
        let mut said = Vec::new();
        assert_eq!(wire.read(bytes, |one| said.push(one)), Ok(bytes.len()));
        said
    }

    #[test]
    fn messages_are_read_where_they_lie_in_every_dialect() {
        let stamp = Stamp {
            phase: 1,
            message: 2,
        };
        let body = stamp.body(100);
        let wanted = |seq| Said::Message {
            stamp: Some(stamp),
            seq,
            body: 100,
        };

        let mut binary = BytesMut::new();
        binary::encode_response(&logged(&body), &mut binary);
        binary::encode_response(&logged(&body), &mut binary);
        assert_eq!(
            all(
                Wire {
                    dialect: Dialect::Native,
                    websocket: false
                },
                &binary
            ),
            [wanted(300), wanted(300)]
        );

        let text = json::encode_response(&logged(&body));
        let mut framed = BytesMut::new();
        im_wire::websocket::put_header(&mut framed, im_wire::websocket::Kind::Text, text.len());
        framed.put(text);
        assert_eq!(
            all(
                Wire {
                    dialect: Dialect::Json,
                    websocket: true
                },
                &framed
            ),
            [wanted(300)]
        );

        let mut goims = BytesMut::new();
        frame::encode(&mut goims, 1, goim::MESSAGE, 0, body.as_bytes());
        assert_eq!(
            all(
                Wire {
                    dialect: Dialect::Goim,
                    websocket: false
                },
                &goims
            ),
            [wanted(0)]
        );
    }

    #[test]
    fn half_a_frame_waits_for_the_rest() {
        let mut bytes = BytesMut::new();
        binary::encode_response(&logged("hello"), &mut bytes);
        let wire = Wire {
            dialect: Dialect::Native,
            websocket: false,
        };
        for end in 0..bytes.len() {
            assert_eq!(wire.read(&bytes[..end], |_| panic!("nothing whole")), Ok(0));
        }
    }

    #[test]
    fn what_is_sent_over_websocket_is_one_masked_message() {
        let room = RoomId::new("r").unwrap();
        let mut out = Vec::new();
        Wire {
            dialect: Dialect::Native,
            websocket: true,
        }
        .send(9, &room, "c".into(), "x".repeat(200), &mut out);
        assert_eq!((out[0], out[1]), (0x82, 0x80 | 126));
        let length = usize::from(u16::from_be_bytes([out[2], out[3]]));
        let frame = frame::decode_exact(Bytes::copy_from_slice(&out[8..]), 1 << 16).unwrap();
        assert_eq!((out.len(), frame.seq), (8 + length, 9));
    }
}
