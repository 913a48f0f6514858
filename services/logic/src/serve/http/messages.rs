//! Saying things in rooms, and reading what was said.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use im_proto::v1::{History, SendSignal};
use im_wire::ids::UserId;
use im_wire::native::Message;
use im_wire::native::json::MessageJson;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Value, json};

use super::ask::{Caller, Content, Object, Params, Room};
use super::{Failure, message};
use crate::call::Handle;
use crate::message::Draft;
use crate::room::access;

#[derive(Deserialize)]
pub(super) struct NewMessage {
    #[serde(default)]
    client_id: String,
    #[serde(default, rename = "type")]
    kind: String,
    /// An administrator may speak for somebody else.
    from: Option<UserId>,
    #[serde(flatten)]
    content: Content,
}

/// `POST /v1/rooms/{room}/messages`
pub(super) async fn send(
    State(handle): State<Handle>,
    caller: Caller,
    Room(room): Room,
    Object(new): Object<NewMessage>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let who = caller.acting_for(new.from)?;
    let (body, encoding) = new.content.needed()?;
    let access = access::for_caller(&who, &room)?;
    let draft = Draft {
        room: room.clone(),
        client_id: new.client_id,
        kind: new.kind,
        body,
        encoding,
    };
    let stored = handle.core.store_message(access, who.device, draft).await?;
    let status = if stored.duplicate {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let answer = json!({
        "room": room,
        "id": stored.id,
        "epoch": stored.epoch,
        "seq": stored.seq,
        "time": stored.time_ms,
        "duplicate": stored.duplicate,
    });
    Ok((status, Json(answer)))
}

#[derive(Serialize)]
struct Page {
    room: im_wire::ids::RoomId,
    epoch: u64,
    head: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    truncated: Option<Range>,
    #[serde(serialize_with = "as_json")]
    messages: Vec<Message>,
}

#[derive(Serialize)]
struct Range {
    from: u64,
    to: u64,
}

fn as_json<S: Serializer>(messages: &[Message], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(messages.iter().map(MessageJson::from))
}

/// `GET /v1/rooms/{room}/messages`
pub(super) async fn list(
    State(handle): State<Handle>,
    Caller(who): Caller,
    Room(room): Room,
    params: Params,
) -> Result<Response, Failure> {
    let ask = History {
        room: room.as_str().to_owned(),
        after: params.number("after")?,
        before: params.number("before")?,
        limit: params.number("limit")?.unwrap_or(0),
    };
    let page = handle.core.history_at_pace(&who, ask).await?;
    let answer = Page {
        epoch: page.epoch,
        head: page.head,
        truncated: page.truncated.map(|range| Range {
            from: range.from,
            to: range.to,
        }),
        messages: page
            .entries
            .into_iter()
            .map(|entry| message(&room, page.epoch, entry))
            .collect(),
        room,
    };
    Ok(Json(answer).into_response())
}

#[derive(Deserialize)]
pub(super) struct NewSignal {
    #[serde(rename = "type")]
    kind: String,
    #[serde(flatten)]
    content: Content,
}

/// `POST /v1/rooms/{room}/signals`
pub(super) async fn signal(
    State(handle): State<Handle>,
    Caller(who): Caller,
    Room(room): Room,
    Object(new): Object<NewSignal>,
) -> Result<Json<Value>, Failure> {
    let (body, encoding) = new.content.read()?.unwrap_or_default();
    let ask = SendSignal {
        room: room.as_str().to_owned(),
        r#type: new.kind,
        body,
        encoding,
    };
    handle.core.signal(&who, ask).await?;
    Ok(Json(json!({})))
}

#[derive(Deserialize)]
pub(super) struct ReadTo {
    seq: u64,
}

/// `PUT /v1/rooms/{room}/read`
pub(super) async fn read(
    State(handle): State<Handle>,
    Caller(who): Caller,
    Room(room): Room,
    Object(to): Object<ReadTo>,
) -> Result<Json<Value>, Failure> {
    let state = handle.core.read(&who, &room, to.seq).await?;
    Ok(Json(json!({
        "room": room,
        "read": state.read,
        "joined": state.joined,
        "head": state.head,
        "unread": state.unread,
    })))
}
