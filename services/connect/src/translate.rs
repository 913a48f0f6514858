//! Between the internal protocol's messages and the clients'.

use im_proto::v1::{Encoding, Entry, Fault};
use im_wire::code::ErrorCode;
use im_wire::ids::{Epoch, RoomId, Seq};
use im_wire::native::{Body, Error, Message};

/// A signal as the bus or a push brings it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Signal {
    pub(crate) room: String,
    pub(crate) from: String,
    pub(crate) kind: String,
    pub(crate) body: Body,
    pub(crate) operation: i32,
}

/// A body with its encoding.
pub(crate) fn body(bytes: bytes::Bytes, encoding: i32) -> Body {
    match Encoding::try_from(encoding) {
        Ok(Encoding::Text) => Body::Text(bytes),
        Ok(Encoding::Json) => Body::Json(bytes),
        Ok(Encoding::Binary) | Err(_) => Body::Binary(bytes),
    }
}

/// A body's bytes and encoding.
pub(crate) fn parts(body: Body) -> (bytes::Bytes, i32) {
    let (bytes, encoding) = match body {
        Body::Text(bytes) => (bytes, Encoding::Text),
        Body::Json(bytes) => (bytes, Encoding::Json),
        Body::Binary(bytes) => (bytes, Encoding::Binary),
    };
    (bytes, encoding.into())
}

/// An entry of a room's log, as clients see it.
pub(crate) fn message(room: &RoomId, epoch: Epoch, seq: Seq, entry: Entry) -> Message {
    Message {
        room: room.clone(),
        epoch,
        seq,
        id: entry.id,
        from: entry.from,
        client_id: entry.client_id,
        kind: entry.r#type,
        body: body(entry.body, entry.encoding),
        time_ms: entry.time_ms,
    }
}

/// A signal, as clients see it.
pub(crate) fn signal(room: &str, signal: im_proto::v1::Signal) -> Signal {
    Signal {
        room: room.to_owned(),
        from: signal.from,
        kind: signal.r#type,
        body: body(signal.body, signal.encoding),
        operation: signal.operation,
    }
}

/// Logic's refusal, as clients see it: the one place where faults become wire codes.
pub(crate) fn error(fault: Fault) -> Error {
    Error {
        code: ErrorCode::from_name(&fault.code).unwrap_or(ErrorCode::Internal),
        text: fault.text,
        retryable: fault.retryable,
        field: Some(fault.field).filter(|field| !field.is_empty()),
    }
}

/// Logic answered something that is no answer to this.
pub(crate) fn unexpected() -> Fault {
    retryable(ErrorCode::Internal, "an answer of another kind")
}

/// What this node refuses itself, and only for now.
pub(crate) fn retryable(code: ErrorCode, text: &str) -> Fault {
    Fault {
        code: code.name().to_owned(),
        text: text.to_owned(),
        retryable: true,
        field: String::new(),
    }
}
