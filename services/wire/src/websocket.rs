//! The header of a server's WebSocket frame (RFC 6455, section 5.2). Server frames carry no mask, so one framed message is
//! the same bytes for every receiver and can be shared among them.

use bytes::{BufMut, BytesMut};

/// What the frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

/// Appends the header of a whole, unmasked message; exactly `length` bytes must follow.
pub fn put_header(out: &mut BytesMut, kind: Kind, length: usize) {
    const WHOLE: u8 = 0x80;
    out.reserve(10 + length);
    out.put_u8(WHOLE | if kind == Kind::Text { 1 } else { 2 });
    match length {
        0..=125 => out.put_u8(length as u8),
        126..=0xffff => {
            out.put_u8(126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}
