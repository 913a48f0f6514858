//! What a user is part of.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use im_wire::ids::RoomId;
use im_wire::native::Message;
use im_wire::native::json::MessageJson;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::ask::{Caller, Params};
use super::{Failure, message, rooms};
use crate::call::Handle;
use crate::conversation::Conversation;
use crate::room::unread as unread_of;

/// Conversations in one answer where the request does not say how many, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 500;
/// Rooms with something unread in one answer at most.
const UNREAD: usize = 1000;

/// `GET /v1/conversations`
pub(super) async fn list(
    State(handle): State<Handle>,
    Caller(who): Caller,
    params: Params,
) -> Result<Response, Failure> {
    let limit = params
        .number("limit")?
        .unwrap_or(DEFAULT_LIMIT)
        .clamp(1, MAX_LIMIT);
    let after = params.text("after").map(RoomId::new).transpose()?;
    handle.core.may_read_on(&who)?;
    let (mut conversations, next) = handle
        .core
        .conversations(&who, after.as_ref(), limit)
        .await?;
    handle.core.has_read(
        &who,
        conversations.iter().map(Conversation::shown_bytes).sum(),
    );
    let time = |one: &Conversation| match one.last.as_ref().and_then(|last| last.entry.as_ref()) {
        Some(last) => last.time_ms,
        None => one.view.created_ms,
    };
    conversations.sort_by_key(|one| std::cmp::Reverse(time(one)));
    let conversations = conversations.into_iter().map(|mut one| {
        let last = one
            .last
            .take()
            .map(|last| message(&one.room, one.view.epoch, last));
        Shown {
            room: rooms::shown("room", &one.room, &one.view),
            last,
        }
    });
    Ok(Json(Page {
        conversations: conversations.collect(),
        next,
    })
    .into_response())
}

#[derive(Serialize)]
struct Page {
    conversations: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<RoomId>,
}

/// The last message is written as it is, never made a [`Value`] first: one that could not be must not cost the page.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    room: Value,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_json")]
    last: Option<Message>,
}

fn as_json<S: Serializer>(message: &Option<Message>, serializer: S) -> Result<S::Ok, S::Error> {
    message
        .as_ref()
        .map(MessageJson::from)
        .serialize(serializer)
}

/// `GET /v1/unread`
pub(super) async fn unread(
    State(handle): State<Handle>,
    Caller(who): Caller,
    params: Params,
) -> Result<Json<Value>, Failure> {
    let limit = params.number("limit")?.unwrap_or(UNREAD).clamp(1, UNREAD);
    let after = params.text("after").map(RoomId::new).transpose()?;
    let all = handle.core.options.limits.max_rooms_per_user;
    let (rooms, _) = handle.core.rooms_of(&who, after.as_ref(), all).await?;
    let counted = rooms
        .into_iter()
        .map(|(room, view)| (room, unread_of(view.head, view.read, view.joined)));
    let counted: Vec<_> = counted.filter(|(_, unread)| *unread > 0).collect();
    let total: u64 = counted.iter().map(|(_, unread)| unread).sum();
    let listed = &counted[..counted.len().min(limit)];
    let rooms: Vec<_> = listed
        .iter()
        .map(|(room, unread)| json!({"room": room, "unread": unread}))
        .collect();
    let mut answer = json!({"total": total, "rooms": rooms});
    if listed.len() < counted.len() {
        answer["next"] = json!(listed.last().map(|(room, _)| room));
    }
    Ok(Json(answer))
}
