//! Creating, looking at and deleting rooms.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use im_wire::ids::{RoomId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use super::ask::{Caller, Object, Params, Room};
use crate::call::Handle;
use crate::error::{Error, Result};
use crate::room::create::Wanted;
use crate::room::{kind_name, role_name, role_of, unread};
use crate::store::{Kind, Role, View};

/// Rooms in one answer where the request does not say how many, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

#[derive(Deserialize)]
pub(super) struct NewRoom {
    id: Option<RoomId>,
    kind: String,
    #[serde(default)]
    members: Vec<NewMember>,
}

/// A user, or a user with a role.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a user is a string, or an object {\"user\", \"role\"?}"
)]
enum NewMember {
    User(UserId),
    WithRole { user: UserId, role: Option<String> },
}

impl NewMember {
    fn read(self) -> Result<(UserId, Role)> {
        match self {
            Self::User(user) | Self::WithRole { user, role: None } => Ok((user, Role::Member)),
            Self::WithRole {
                user,
                role: Some(role),
            } => Ok((user, role_of(&role)?)),
        }
    }
}

/// `POST /v1/rooms`
pub(super) async fn create(
    State(handle): State<Handle>,
    Caller(who): Caller,
    Object(room): Object<NewRoom>,
) -> std::result::Result<(StatusCode, Json<Value>), Failure> {
    let kind = match room.kind.as_str() {
        "direct" => Kind::Direct,
        "group" => Kind::Group,
        "open" => Kind::Open,
        _ => {
            return Err(
                Error::bad("kind", "is none: use \"direct\", \"group\" or \"open\"").into(),
            );
        }
    };
    let members = room
        .members
        .into_iter()
        .map(NewMember::read)
        .collect::<Result<_>>()?;
    let made = handle
        .core
        .create_room(
            &who,
            Wanted {
                id: room.id,
                kind,
                members,
            },
        )
        .await?;
    let status = if made.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut answer =
        json!({"id": made.room, "kind": kind_name(made.kind), "created": made.created});
    if !made.invited.is_empty() {
        answer["invited"] = json!(made.invited);
    }
    Ok((status, Json(answer)))
}

/// `GET /v1/rooms/{room}`
pub(super) async fn show(
    State(handle): State<Handle>,
    Caller(who): Caller,
    Room(room): Room,
) -> std::result::Result<Json<Value>, Failure> {
    let view = handle.core.view(&who, &room).await?;
    let first = handle.core.first(&room).await?;
    let online = handle
        .core
        .store
        .leases
        .online(std::slice::from_ref(&room))
        .await
        .map_err(Error::from)?;
    let mut shown = shown("id", &room, &view);
    shown["first"] = first.into();
    shown["created"] = view.created_ms.into();
    shown["online"] = online.first().copied().unwrap_or_default().into();
    Ok(Json(shown))
}

/// `DELETE /v1/rooms/{room}`
pub(super) async fn delete(
    State(handle): State<Handle>,
    caller: Caller,
    Room(room): Room,
) -> std::result::Result<Json<Value>, Failure> {
    let deleted = handle.core.delete_room(caller.admin()?, &room).await?;
    Ok(Json(
        json!({"id": room, "kind": kind_name(deleted.kind), "seq": deleted.seq}),
    ))
}

/// `GET /v1/rooms`
pub(super) async fn mine(
    State(handle): State<Handle>,
    Caller(who): Caller,
    params: Params,
) -> std::result::Result<Json<Value>, Failure> {
    let limit = params
        .number("limit")?
        .unwrap_or(DEFAULT_LIMIT)
        .clamp(1, MAX_LIMIT);
    let after = params.text("after").map(RoomId::new).transpose()?;
    let (rooms, next) = handle.core.rooms_of(&who, after.as_ref(), limit).await?;
    let rooms: Vec<_> = rooms
        .iter()
        .map(|(room, view)| shown("id", room, view))
        .collect();
    let mut answer = json!({ "rooms": rooms });
    if let Some(next) = next {
        answer["next"] = json!(next);
    }
    Ok(Json(answer))
}

/// What every description of a room has; `name` is what its id is called there.
pub(super) fn shown(name: &str, room: &RoomId, view: &View) -> Value {
    let mut shown = json!({
        name: room,
        "kind": kind_name(view.kind),
        "epoch": view.epoch,
        "head": view.head,
        "read": view.read,
        "joined": view.joined,
        "unread": unread(view.head, view.read, view.joined),
    });
    if let Some(role) = view.role {
        shown["role"] = role_name(role).into();
    }
    shown
}
