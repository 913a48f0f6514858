//! What a user is part of.

use axum::Json;
use axum::extract::State;
use im_wire::ids::RoomId;
use im_wire::native::json::MessageJson;
use serde_json::{Value, json};

use super::ask::{Caller, Params};
use super::{Failure, message, rooms};
use crate::error::Error;
use crate::room::unread as unread_of;
use crate::service::Handle;

/// Conversations in one answer where the request does not say how many, and at most.
const USUAL: usize = 100;
const MOST: usize = 500;

/// `GET /v1/conversations`
pub(super) async fn list(
    State(handle): State<Handle>,
    Caller(who): Caller,
    params: Params,
) -> Result<Json<Value>, Failure> {
    let limit = params.number("limit")?.unwrap_or(USUAL).clamp(1, MOST);
    let after = params.text("after").map(RoomId::new).transpose()?;
    let (conversations, next) = handle.core.conversations(&who, after.as_ref(), limit).await?;
    let mut shown = Vec::with_capacity(conversations.len());
    for one in conversations {
        let mut room = rooms::shown("room", &one.room, &one.view);
        let mut time = one.view.created_ms;
        if let Some(last) = one.last {
            let last = message(&one.room, one.view.epoch, last);
            time = last.time_ms;
            let last = serde_json::to_value(MessageJson::from(&last));
            room["last"] = last.map_err(|_| Error::Internal("a message does not become JSON"))?;
        }
        shown.push((time, room));
    }
    shown.sort_by_key(|(time, _)| std::cmp::Reverse(*time));
    let conversations: Vec<_> = shown.into_iter().map(|(_, room)| room).collect();
    let mut answer = json!({ "conversations": conversations });
    if let Some(next) = next {
        answer["next"] = json!(next);
    }
    Ok(Json(answer))
}

/// `GET /v1/unread`
pub(super) async fn unread(State(handle): State<Handle>, Caller(who): Caller) -> Result<Json<Value>, Failure> {
    let limit = handle.core.options.limits.max_rooms_per_user;
    let (rooms, _) = handle.core.rooms_of(&who.user()?, None, limit).await?;
    let counted = rooms.into_iter().map(|(room, view)| (room, unread_of(view.head, view.read, view.joined)));
    let counted: Vec<_> = counted.filter(|(_, unread)| *unread > 0).collect();
    let total: u64 = counted.iter().map(|(_, unread)| unread).sum();
    let rooms: Vec<_> = counted.iter().map(|(room, unread)| json!({"room": room, "unread": unread})).collect();
    Ok(Json(json!({"total": total, "rooms": rooms})))
}
