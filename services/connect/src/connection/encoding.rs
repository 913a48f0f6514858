//! What the server says, as bytes of each dialect and transport: built once and shared among receivers.

use bytes::{BufMut, Bytes, BytesMut};
use im_wire::code::CloseCode;
use im_wire::ids::RoomId;
use im_wire::native::{Body, Message, Response, ServerOp, binary, json};
use im_wire::{frame, goim, golang_im, websocket};

use crate::hub::Item;
use crate::translate::Signal;

/// How a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) code: CloseCode,
    pub(crate) text: String,
    pub(crate) after_ms: u32,
}

/// How a client receives: its dialect and transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Encoding {
    NativeText,
    NativeWs,
    NativeTcp,
    GoimWs,
    GoimTcp,
    GolangImWs,
    GolangImTcp,
}

impl Encoding {
    pub(crate) const COUNT: usize = 7;

    pub(crate) fn is_native(self) -> bool {
        matches!(self, Self::NativeText | Self::NativeWs | Self::NativeTcp)
    }

    pub(crate) fn is_goim(self) -> bool {
        matches!(self, Self::GoimWs | Self::GoimTcp)
    }

    pub(crate) fn dialect(self) -> &'static str {
        match self {
            Self::NativeText => "native_json",
            Self::NativeWs | Self::NativeTcp => "native",
            Self::GoimWs | Self::GoimTcp => "goim",
            Self::GolangImWs | Self::GolangImTcp => "golang_im",
        }
    }

    fn over_tcp(self) -> bool {
        matches!(self, Self::NativeTcp | Self::GoimTcp | Self::GolangImTcp)
    }

    /// Appends a TLV frame, in a WebSocket frame where that is the way.
    pub(crate) fn put_frame(self, out: &mut BytesMut, operation: i32, seq: u32, body: &[u8]) {
        if !self.over_tcp() {
            websocket::put_header(out, websocket::Kind::Binary, frame::HEADER + body.len());
        }
        let version = if matches!(self, Self::GolangImWs | Self::GolangImTcp) {
            golang_im::VERSION
        } else {
            goim::VERSION
        };
        frame::encode(out, version, operation, seq, body);
    }

    /// A single TLV frame.
    pub(crate) fn frame(self, operation: i32, seq: u32, body: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        self.put_frame(&mut out, operation, seq, body);
        out.freeze()
    }

    /// Appends a native response; the compatible dialects have none of these.
    pub(crate) fn put_response(self, out: &mut BytesMut, response: &Response) {
        match self {
            Self::NativeText => {
                let text = json::encode_response(response);
                websocket::put_header(out, websocket::Kind::Text, text.len());
                out.put(text);
            }
            Self::NativeTcp => binary::encode_response(response, out),
            Self::NativeWs => {
                let mut body = BytesMut::new();
                binary::encode_response(response, &mut body);
                websocket::put_header(out, websocket::Kind::Binary, body.len());
                out.put(body);
            }
            Self::GoimWs | Self::GoimTcp | Self::GolangImWs | Self::GolangImTcp => {}
        }
    }

    /// A native response.
    pub(crate) fn response(self, req: u32, op: ServerOp) -> Bytes {
        let mut out = BytesMut::new();
        self.put_response(&mut out, &Response { req, op });
        out.freeze()
    }

    fn put_message(self, out: &mut BytesMut, message: &Message) {
        match self {
            Self::NativeText | Self::NativeWs | Self::NativeTcp => {
                self.put_response(
                    out,
                    &Response {
                        req: 0,
                        op: ServerOp::Message(message.clone()),
                    },
                );
            }
            Self::GoimWs | Self::GoimTcp => {
                self.put_frame(out, goim::MESSAGE, 0, message.body.bytes())
            }
            Self::GolangImWs | Self::GolangImTcp => {
                self.put_frame(out, goim::MESSAGE, 0, &golang_im::message(message));
            }
        }
    }

    /// What happened in a room, with or without the signals. Membership entries are the server's own words: clients of other dialects do
    /// not know them.
    pub(crate) fn items(self, room: &RoomId, items: &[Item], signals: bool) -> Bytes {
        let mut out = BytesMut::new();
        for item in items {
            match item {
                Item::Message(message) if self.is_native() || !message.kind.starts_with("im.") => {
                    self.put_message(&mut out, message);
                }
                Item::Message(_) => {}
                Item::Reset(place) => {
                    let op = ServerOp::Reset {
                        room: room.clone(),
                        epoch: place.epoch,
                        seq: place.seq,
                    };
                    self.put_response(&mut out, &Response { req: 0, op });
                }
                Item::Truncated { from, to } => {
                    let op = ServerOp::Truncated {
                        room: room.clone(),
                        from: *from,
                        to: *to,
                    };
                    self.put_response(&mut out, &Response { req: 0, op });
                }
                Item::Signal(signal) if signals => self.put_signal(&mut out, signal),
                Item::Signal(_) => {}
            }
        }
        out.freeze()
    }

    /// A signal. golang-im has no word for one; goim hears what names an operation.
    fn put_signal(self, out: &mut BytesMut, signal: &Signal) {
        match self {
            Self::NativeText | Self::NativeWs | Self::NativeTcp => {
                let Signal {
                    room,
                    from,
                    kind,
                    body,
                    operation,
                } = signal.clone();
                let op = ServerOp::Signal {
                    room,
                    from,
                    kind,
                    body,
                    operation,
                };
                self.put_response(out, &Response { req: 0, op });
            }
            Self::GoimWs | Self::GoimTcp if signal.operation != 0 => {
                self.put_frame(out, signal.operation, 0, signal.body.bytes());
            }
            Self::GoimWs | Self::GoimTcp | Self::GolangImWs | Self::GolangImTcp => {}
        }
    }

    /// A signal by itself; empty where the dialect does not hear it.
    pub(crate) fn signal(self, signal: &Signal) -> Bytes {
        let mut out = BytesMut::new();
        self.put_signal(&mut out, signal);
        out.freeze()
    }

    /// How many bytes a message takes at most: its body as it is written, and what stands around it.
    pub(crate) fn weight(self, message: &Message) -> usize {
        /// Field names, numbers, lengths and headers.
        const AROUND: usize = 512;
        let body = message.body.bytes();
        let body = match (self, &message.body) {
            // Quotes and control characters take up to six times as much in JSON.
            (Self::NativeText | Self::GolangImWs | Self::GolangImTcp, Body::Text(text)) => text
                .iter()
                .map(|byte| {
                    if *byte < 0x20 || matches!(byte, b'"' | b'\\') {
                        6
                    } else {
                        1
                    }
                })
                .sum(),
            (Self::NativeText | Self::GolangImWs | Self::GolangImTcp, Body::Binary(_)) => {
                body.len().div_ceil(3) * 4
            }
            _ => body.len(),
        };
        let names = message.room.as_str().len()
            + message.id.len()
            + message.from.len()
            + message.client_id.len();
        body + 6 * (names + message.kind.len()) + AROUND
    }

    /// Where the frame ends that the byte at `at` of these whole frames is in.
    pub(crate) fn frame_end(self, frames: &[u8], at: usize) -> usize {
        let mut end = 0;
        while end <= at && end < frames.len() {
            let rest = &frames[end..];
            let length = if self.over_tcp() {
                frame::length(rest)
            } else {
                websocket::length(rest)
            };
            end = length.map_or(frames.len(), |length| {
                (end + length.max(1)).min(frames.len())
            });
        }
        end
    }

    /// The last words: every dialect's own, and WebSocket's close frame.
    pub(crate) fn close(self, ending: &Ending) -> Bytes {
        let mut out = BytesMut::new();
        let Ending {
            code,
            text,
            after_ms,
        } = ending;
        if self.is_native() {
            let text = text.clone();
            let reconnect = code.reconnect();
            let op = ServerOp::Close {
                code: *code,
                text,
                reconnect,
                after_ms: *after_ms,
            };
            self.put_response(&mut out, &Response { req: 0, op });
        } else {
            self.put_frame(
                &mut out,
                goim::DISCONNECT,
                0,
                format!("{}: {text}", code.name()).as_bytes(),
            );
        }
        if !self.over_tcp() {
            put_close(&mut out, *code, text);
        }
        out.freeze()
    }
}

/// WebSocket's close frame: code and reason of 123 bytes at most (RFC 6455, section 5.5).
fn put_close(out: &mut BytesMut, code: CloseCode, text: &str) {
    let mut end = text.len().min(123);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u8(0x88);
    out.put_u8(2 + end as u8);
    out.put_u16(code.number());
    out.put_slice(&text.as_bytes()[..end]);
}
