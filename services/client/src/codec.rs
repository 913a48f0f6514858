//! Requests to bytes and bytes to responses, in either encoding. A frame that is whole but not understood is passed over:
//! it may be of a newer server.

use bytes::{Bytes, BytesMut};
use im_wire::frame::{self, Frame, Malformed};
use im_wire::native::binary::{self, Refusal};
use im_wire::native::{Request, Response, json};

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// TLV frames with a compact binary body; over TCP and WebSocket.
    #[default]
    Binary,
    /// JSON in text frames; over WebSocket only.
    Json,
}

/// What a server cannot have meant: the connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadFrame {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the body of operation {0} cannot be read")]
    Body(i32),
    #[error("text that is no JSON object: {0}")]
    Text(String),
}

/// Appends a request as a TLV frame.
pub(crate) fn encode(request: &Request, out: &mut BytesMut) {
    binary::encode_request(request, out);
}

/// A request as JSON.
pub(crate) fn encode_json(request: &Request) -> Bytes {
    json::encode_request(request)
}

/// Takes the next response from the front of a TCP stream's bytes; `None` while it is not all there.
pub(crate) fn decode_stream(
    buffer: &mut BytesMut,
    max: usize,
) -> Result<Option<Response>, BadFrame> {
    while let Some(frame) = frame::decode(buffer, max)? {
        if let Some(response) = understand(&frame)? {
            return Ok(Some(response));
        }
    }
    Ok(None)
}

/// Reads a binary WebSocket message; `None`: not understood.
pub(crate) fn decode_message(message: Bytes, max: usize) -> Result<Option<Response>, BadFrame> {
    understand(&frame::decode_exact(message, max)?)
}

/// Reads a text WebSocket message; `None`: not understood.
pub(crate) fn decode_json(text: &[u8]) -> Result<Option<Response>, BadFrame> {
    match json::decode_response(text) {
        Ok(response) => Ok(Some(response)),
        Err(rejected) if rejected.fatal => Err(BadFrame::Text(rejected.error.text)),
        Err(rejected) => {
            tracing::warn!(
                req = rejected.req,
                reason = rejected.error.text,
                "skipped an unsupported frame"
            );
            Ok(None)
        }
    }
}

fn understand(frame: &Frame) -> Result<Option<Response>, BadFrame> {
    match binary::decode_response(frame) {
        Ok(response) => Ok(Some(response)),
        Err(Refusal::Broken { operation }) => Err(BadFrame::Body(operation)),
        Err(Refusal::Rejected { req, error }) => {
            tracing::warn!(
                req,
                operation = frame.operation,
                reason = error.text,
                "skipped an unsupported frame"
            );
            Ok(None)
        }
    }
}
