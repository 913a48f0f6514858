//! The headers of WebSocket frames (RFC 6455, section 5.2). Server frames carry no mask, so one framed message is the same
//! bytes for every receiver and can be shared among them. Client frames here have a mask of zeros.

use bytes::{BufMut, BytesMut};

const WHOLE: u8 = 0x80;
const MASKED: u8 = 0x80;

/// What the frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// Any bytes.
    Binary,
}

/// Opcode (1 text, 2 binary, 8 close, 9 ping, 10 pong), length of the header and length of the payload of the server's frame
/// that these bytes begin with; `None`: its header is not whole, or no machine could hold the frame.
pub fn header(frame: &[u8]) -> Option<(u8, usize, usize)> {
    let first = *frame.first()?;
    let second = *frame.get(1)?;
    let (header, length) = match second & 0x7f {
        126 => (
            4,
            usize::from(u16::from_be_bytes(frame.get(2..4)?.try_into().ok()?)),
        ),
        127 => (
            10,
            usize::try_from(u64::from_be_bytes(frame.get(2..10)?.try_into().ok()?)).ok()?,
        ),
        short => (2, usize::from(short)),
    };
    Some((first & 0x0f, header, length))
}

/// How long the frame is, its header included, that these bytes of a server begin with; `None` as for [`header`].
pub fn length(frame: &[u8]) -> Option<usize> {
    let (_, header, length) = header(frame)?;
    header.checked_add(length)
}

/// Appends the header of a whole, unmasked message; exactly `length` bytes must follow.
pub fn put_header(out: &mut BytesMut, kind: Kind, length: usize) {
    out.reserve(10 + length);
    put_start(
        out,
        WHOLE | if kind == Kind::Text { 1 } else { 2 },
        0,
        length,
    );
}

/// Appends a client's frame, header and payload. `first` is its first byte as it stands: 0x80 for a whole message or the last
/// of its frames, and the opcode (0 continues a message).
pub fn put_masked(out: &mut impl BufMut, first: u8, payload: &[u8]) {
    put_start(out, first, MASKED, payload.len());
    // A mask of zeros leaves the payload as it is.
    out.put_u32(0);
    out.put_slice(payload);
}

fn put_start(out: &mut impl BufMut, first: u8, mask: u8, length: usize) {
    out.put_u8(first);
    match length {
        0..=125 => out.put_u8(mask | length as u8),
        126..=0xffff => {
            out.put_u8(mask | 126);
            out.put_u16(length as u16);
        }
        _ => {
            out.put_u8(mask | 127);
            out.put_u64(length as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_say_what_was_put_at_every_length() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 100_000] {
            let mut framed = BytesMut::new();
            put_header(&mut framed, Kind::Binary, length);
            let at = framed.len();
            assert_eq!(header(&framed), Some((2, at, length)));
            assert_eq!(self::length(&framed), Some(at + length));
            (0..at).for_each(|short| {
                assert_eq!(header(&framed[..short]), None, "{short} bytes of {length}")
            });
            let mut masked = Vec::new();
            let payload = vec![b'x'; length];
            put_masked(&mut masked, 0x81, &payload);
            assert_eq!(
                (masked[0], masked[1], &masked[2..at]),
                (0x81, framed[1] | 0x80, &framed[2..at])
            );
            assert_eq!(
                (&masked[at..at + 4], &masked[at + 4..]),
                ([0; 4].as_slice(), payload.as_slice())
            );
        }
    }

    #[test]
    fn a_length_that_cannot_be_is_none() {
        assert_eq!(
            length(&[0x82, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            None
        );
    }
}
