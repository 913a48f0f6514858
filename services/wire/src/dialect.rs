//! Which dialect a client speaks: told by the first frame, and by the way it came where the frame alone does not tell.

use serde_json::Value;

use crate::frame::Frame;
use crate::native::{Request, binary};
use crate::{goim, golang_im};

/// How a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Entrance {
    /// The TCP port.
    Tcp,
    /// WebSocket on `/sub`, goim's path.
    Sub,
    /// WebSocket on `/ws`, golang-im's path.
    Ws,
}

/// What a binary first frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum First {
    /// A native request: it must be auth.
    Native(Request),
    /// goim's auth.
    Goim(goim::Auth),
    /// golang-im's auth.
    GolangIm(golang_im::Auth),
}

/// The first frame is none that a client may begin with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAFirst {
    /// Another operation than auth.
    #[error("operation {0} before auth: begin with operation 7 (goim, golang-im) or 100 (native)")]
    Operation(i32),
    /// A native frame that is not understood.
    #[error("operation {0}: its body cannot be read")]
    Native(i32),
    /// An auth body that is neither a JSON object nor a token.
    #[error("the auth body is neither a JSON object nor a token")]
    Auth,
}

/// Tells the dialect by a connection's first frame: a native operation; operation 7 with a JSON object that has `user_id`
/// (golang-im) or not (goim); operation 7 with the bare token: golang-im on its path, goim elsewhere.
///
/// # Errors
/// [`NotAFirst`]: the connection ends.
pub fn tell(entrance: Entrance, frame: &Frame) -> Result<First, NotAFirst> {
    match frame.operation {
        binary::AUTH => {
            let request = binary::decode_request(frame);
            request
                .map(First::Native)
                .map_err(|_| NotAFirst::Native(frame.operation))
        }
        goim::AUTH => auth(entrance, &frame.body),
        other => Err(NotAFirst::Operation(other)),
    }
}

fn auth(entrance: Entrance, body: &[u8]) -> Result<First, NotAFirst> {
    let text = std::str::from_utf8(body)
        .map_err(|_| NotAFirst::Auth)?
        .trim();
    match serde_json::from_str(text) {
        Ok(Value::Object(fields))
            if fields.contains_key("user_id") || golang_im_shaped(entrance, &fields) =>
        {
            Ok(First::GolangIm(golang_im::Auth::read(&fields)))
        }
        Ok(Value::Object(fields)) => Ok(First::Goim(goim::Auth::read(&fields))),
        Ok(Value::String(token)) => Ok(bare(entrance, token)),
        Ok(_) => Err(NotAFirst::Auth),
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(bare(entrance, text.to_owned()))
        }
        Err(_) => Err(NotAFirst::Auth),
    }
}

fn golang_im_shaped(entrance: Entrance, fields: &serde_json::Map<String, Value>) -> bool {
    entrance == Entrance::Ws && !fields.contains_key("mid") && !fields.contains_key("key")
}

fn bare(entrance: Entrance, token: String) -> First {
    match entrance {
        Entrance::Ws => First::GolangIm(golang_im::Auth {
            token,
            ..Default::default()
        }),
        Entrance::Tcp | Entrance::Sub => First::Goim(goim::Auth {
            token,
            ..Default::default()
        }),
    }
}
