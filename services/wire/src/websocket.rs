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

/// How long the frame is, its header included, that these bytes of a server begin with; `None`: its header is not whole.
pub fn length(frame: &[u8]) -> Option<usize> {
    let short = usize::from(*frame.get(1)? & 0x7f);
    match short {
        126 => Some(4 + usize::from(u16::from_be_bytes(frame.get(2..4)?.try_into().ok()?))),
        127 => usize::try_from(u64::from_be_bytes(frame.get(2..10)?.try_into().ok()?)).ok()?.checked_add(10),
        _ => Some(2 + short),
    }
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
