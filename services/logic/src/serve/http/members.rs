//! Who is in a group.

use axum::Json;
use axum::extract::State;
use im_wire::ids::UserId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use super::ask::{Caller, Name, Object, Params, Room};
use crate::call::Handle;
use crate::room::membership::Put;
use crate::room::{role_name, role_of};
use crate::store::Role;

/// Members in one answer where the request does not say how many, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

#[derive(Deserialize)]
pub(super) struct NewMember {
    user: UserId,
    role: Option<String>,
}

/// `GET /v1/rooms/{room}/members`
pub(super) async fn list(
    State(handle): State<Handle>,
    Caller(who): Caller,
    Room(room): Room,
    params: Params,
) -> Result<Json<Value>, Failure> {
    let limit = params
        .number("limit")?
        .unwrap_or(DEFAULT_LIMIT)
        .clamp(1, MAX_LIMIT);
    let after = params.text("after").map(UserId::new).transpose()?;
    let members = handle
        .core
        .members(&who, &room, after.as_ref(), limit)
        .await?;
    let mut answer = json!({});
    if members.len() == limit {
        answer["next"] = json!(members.last().map(|member| &member.user));
    }
    let shown = members
        .iter()
        .map(|member| json!({"user": member.user, "role": role_name(member.role), "joined": member.joined}));
    answer["members"] = shown.collect();
    Ok(Json(answer))
}

/// `POST /v1/rooms/{room}/members`
pub(super) async fn add(
    State(handle): State<Handle>,
    Caller(who): Caller,
    Room(room): Room,
    Object(member): Object<NewMember>,
) -> Result<Json<Value>, Failure> {
    let role = member
        .role
        .as_deref()
        .map(role_of)
        .transpose()?
        .unwrap_or(Role::Member);
    let put = handle
        .core
        .set_member(&who, &room, &member.user, role)
        .await?;
    let mut answer =
        json!({"user": member.user, "role": role_name(role), "changed": put == Put::Changed});
    if put == Put::Invited {
        answer["invited"] = true.into();
    }
    Ok(Json(answer))
}

/// `DELETE /v1/rooms/{room}/members/{user}`
pub(super) async fn remove(
    State(handle): State<Handle>,
    Caller(who): Caller,
    Room(room): Room,
    Name(user): Name,
) -> Result<Json<Value>, Failure> {
    let user = UserId::new(user)?;
    let changed = handle.core.end_member(&who, &room, &user).await?;
    Ok(Json(json!({"user": user, "changed": changed})))
}

/// `POST /v1/rooms/{room}/join`
pub(super) async fn join(
    State(handle): State<Handle>,
    Caller(who): Caller,
    Room(room): Room,
) -> Result<Json<Value>, Failure> {
    Ok(Json(
        json!({"changed": handle.core.join(&who, &room).await?}),
    ))
}

/// `POST /v1/rooms/{room}/leave`
pub(super) async fn leave(
    State(handle): State<Handle>,
    Caller(who): Caller,
    Room(room): Room,
) -> Result<Json<Value>, Failure> {
    Ok(Json(
        json!({"changed": handle.core.leave(&who, &room).await?}),
    ))
}

/// `GET /v1/invitations`
pub(super) async fn invitations(
    State(handle): State<Handle>,
    Caller(who): Caller,
) -> Result<Json<Value>, Failure> {
    let invitations = handle.core.invitations(&who).await?;
    let shown = invitations
        .iter()
        .map(|one| json!({"room": one.room, "by": one.by, "role": role_name(one.role), "time": one.time_ms}));
    Ok(Json(json!({"invitations": shown.collect::<Vec<_>>()})))
}
