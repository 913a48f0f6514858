//! goim's TLV frame: how clients' bytes become frames over TCP and WebSocket, and back.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The header: package length i32, header length i16, version i16, operation i32, seq i32; all big endian.
pub const HEADER: usize = 16;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// goim's clients and servers say 1, golang-im's server 2.
    pub version: i16,
    /// What it is.
    pub operation: i32,
    /// Chosen by the client, echoed in the answer.
    pub seq: u32,
    /// The rest.
    pub body: Bytes,
}

/// Bytes that are not a frame: the connection that sent them ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The package length is less than the header's.
    #[error("package length {0} is shorter than the header: 16 at least")]
    TooShort(i32),
    /// The header length is not 16.
    #[error("header length {0}: must be 16")]
    HeaderLength(i16),
    /// The body is longer than the limit.
    #[error("body of {length} bytes: {limit} at most")]
    TooLarge {
        /// What the frame says.
        length: usize,
        /// What is accepted.
        limit: usize,
    },
    /// A WebSocket message that is not exactly one frame.
    #[error("package length {said} in a message of {had} bytes: one frame in one message")]
    Length {
        /// What the frame says.
        said: usize,
        /// What the message has.
        had: usize,
    },
}

fn body_length(header: &[u8], limit: usize) -> Result<usize, Malformed> {
    let mut package = &header[..4];
    let mut rest = &header[4..6];
    let package = package.get_i32();
    let header_length = rest.get_i16();
    let length = usize::try_from(package)
        .ok()
        .and_then(|package| package.checked_sub(HEADER));
    let length = length.ok_or(Malformed::TooShort(package))?;
    if usize::from(header_length as u16) != HEADER {
        return Err(Malformed::HeaderLength(header_length));
    }
    if length > limit {
        Err(Malformed::TooLarge { length, limit })
    } else {
        Ok(length)
    }
}

fn parse(mut bytes: Bytes) -> Frame {
    bytes.advance(6);
    let version = bytes.get_i16();
    let operation = bytes.get_i32();
    let seq = bytes.get_u32();
    Frame {
        version,
        operation,
        seq,
        body: bytes,
    }
}

/// Takes the next whole frame from the front of `buffer`; `None` while it is not all there. What is malformed or longer
/// than `limit` is refused from its header, before its body is waited for.
///
/// # Errors
/// [`Malformed`]: nothing behind it can be trusted.
pub fn decode(buffer: &mut BytesMut, limit: usize) -> Result<Option<Frame>, Malformed> {
    if buffer.len() < 6 {
        return Ok(None);
    }
    let length = body_length(buffer, limit)?;
    if buffer.len() < HEADER + length {
        return Ok(None);
    }
    Ok(Some(parse(buffer.split_to(HEADER + length).freeze())))
}

/// How long the frame is, its header included, that these bytes begin with; `None`: they do not say.
pub fn length(frame: &[u8]) -> Option<usize> {
    usize::try_from(i32::from_be_bytes(frame.get(..4)?.try_into().ok()?)).ok()
}

/// Reads one WebSocket binary message as exactly one frame.
///
/// # Errors
/// [`Malformed`], also where the message holds more or less than the frame says.
pub fn decode_exact(message: Bytes, limit: usize) -> Result<Frame, Malformed> {
    if message.len() < HEADER {
        return Err(Malformed::Length {
            said: HEADER,
            had: message.len(),
        });
    }
    let length = body_length(&message, limit)?;
    if message.len() != HEADER + length {
        return Err(Malformed::Length {
            said: HEADER + length,
            had: message.len(),
        });
    }
    Ok(parse(message))
}

/// Appends a frame's header; exactly `body` bytes must follow.
pub fn put_header(out: &mut BytesMut, version: i16, operation: i32, seq: u32, body: usize) {
    out.reserve(HEADER + body);
    // A body is bounded by the limits far below what an i32 holds.
    out.put_i32(i32::try_from(HEADER + body).unwrap_or(i32::MAX));
    out.put_i16(HEADER as i16);
    out.put_i16(version);
    out.put_i32(operation);
    out.put_u32(seq);
}

/// Appends a frame.
pub fn encode(out: &mut BytesMut, version: i16, operation: i32, seq: u32, body: &[u8]) {
    put_header(out, version, operation, seq, body.len());
    out.put_slice(body);
}

impl Frame {
    /// The frame as bytes.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER + self.body.len());
        encode(&mut out, self.version, self.operation, self.seq, &self.body);
        out.freeze()
    }
}
