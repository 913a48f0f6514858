//! Users, devices and nodes: who is there, what is addressed to somebody, who is sent away.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use im_proto::v1::{KickRequest, Signal};
use im_wire::code::CloseCode;
use im_wire::ids::{DeviceId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use super::ask::{Caller, Content, DeviceOf, Name, Object, Params};
use crate::auth::grant::Grant;
use crate::call::Handle;
use crate::error::{Error, Result as LogicResult};
use crate::nodes::Tally;
use crate::presence::Present;

/// What a push is called that says nothing else.
const PUSH: &str = "push";

/// Connections of one user in an answer at most.
const CONNECTIONS: usize = 50;

/// `GET /v1/me`
pub(super) async fn me(Caller(who): Caller) -> Json<Value> {
    let mut me = json!({"user": who.user, "admin": who.admin, "rooms": who.rooms, "expires": who.expires_ms});
    if !who.device.is_empty() {
        me["device"] = who.device.into();
    }
    Json(me)
}

/// `GET /v1/presence`
pub(super) async fn presence(
    State(handle): State<Handle>,
    Caller(who): Caller,
    params: Params,
) -> Result<Json<Value>, Failure> {
    let users = params.list("users");
    if users.is_empty() {
        return Err(Error::bad("users", "is missing: name users, with commas between them").into());
    }
    let users = users
        .into_iter()
        .map(UserId::new)
        .collect::<Result<Vec<_>, _>>()?;
    let present = handle.core.presence(users).await?;
    let users: Vec<_> = present.iter().map(|one| shown(one, &who)).collect();
    Ok(Json(json!({ "users": users })))
}

/// What a user calls their devices is shown to themselves and to administrators, which node holds a connection to
/// administrators only.
fn shown(present: &Present, to: &Grant) -> Value {
    let connections = present
        .connections
        .iter()
        .take(CONNECTIONS)
        .map(|connection| {
            let mut shown = json!({"since": connection.since_ms});
            if to.admin || present.user.as_str() == to.user {
                shown["device"] = connection.device.as_str().into();
            }
            if to.admin {
                shown["conn"] = connection.conn.as_str().into();
                shown["node"] = connection.node.as_str().into();
            }
            shown
        });
    let connections: Vec<_> = connections.collect();
    json!({
        "user": present.user,
        "online": !connections.is_empty(),
        "connections": connections,
        "count": present.connections.len(),
        "last_seen": present.last_seen_ms,
    })
}

#[derive(Deserialize)]
pub(super) struct NewPush {
    #[serde(default, rename = "type")]
    kind: String,
    /// Which goim clients take it; 0: all.
    #[serde(default)]
    operation: i32,
    /// A broadcast's pace.
    #[serde(default)]
    speed: u32,
    #[serde(flatten)]
    content: Content,
}

impl NewPush {
    fn signal(self) -> LogicResult<Signal> {
        let (body, encoding) = self.content.needed()?;
        let kind = if self.kind.is_empty() {
            PUSH.to_owned()
        } else {
            self.kind
        };
        Ok(Signal {
            r#type: kind,
            body,
            encoding,
            operation: self.operation,
            ..Signal::default()
        })
    }
}

fn delivered(tally: &Tally) -> Json<Value> {
    let mut answer = json!({"delivered": tally.connections});
    if !tally.failed.is_empty() {
        answer["failed_nodes"] = json!(tally.failed);
    }
    Json(answer)
}

/// `POST /v1/users/{user}/push`
pub(super) async fn push_user(
    State(handle): State<Handle>,
    caller: Caller,
    Name(user): Name,
    Object(push): Object<NewPush>,
) -> Result<Json<Value>, Failure> {
    caller.admin()?;
    let user = UserId::new(user)?;
    Ok(delivered(
        &handle.core.push_users(&[user], push.signal()?).await?,
    ))
}

/// `POST /v1/users/{user}/devices/{device}/push`
pub(super) async fn push_user_device(
    State(handle): State<Handle>,
    caller: Caller,
    DeviceOf { user, device }: DeviceOf,
    Object(push): Object<NewPush>,
) -> Result<Json<Value>, Failure> {
    caller.admin()?;
    let user = UserId::new(user)?;
    let device = DeviceId::new(device)?;
    Ok(delivered(
        &handle
            .core
            .push_user_device(&user, &device, push.signal()?)
            .await?,
    ))
}

/// `POST /v1/devices/{device}/push`
pub(super) async fn push_device(
    State(handle): State<Handle>,
    caller: Caller,
    Name(device): Name,
    Object(push): Object<NewPush>,
) -> Result<Json<Value>, Failure> {
    caller.admin()?;
    let device = DeviceId::new(device)?;
    Ok(delivered(
        &handle.core.push_devices(&[device], push.signal()?).await?,
    ))
}

/// `POST /v1/broadcast`
pub(super) async fn broadcast(
    State(handle): State<Handle>,
    caller: Caller,
    Object(push): Object<NewPush>,
) -> Result<Json<Value>, Failure> {
    caller.admin()?;
    let speed = push.speed;
    Ok(delivered(
        &handle.core.broadcast(push.signal()?, speed).await?,
    ))
}

#[derive(Deserialize)]
pub(super) struct NewKick {
    user: Option<UserId>,
    device: Option<DeviceId>,
    #[serde(default)]
    conn: String,
    code: Option<u16>,
    #[serde(default)]
    text: String,
}

/// `POST /v1/kick`
pub(super) async fn kick(
    State(handle): State<Handle>,
    caller: Caller,
    Object(kick): Object<NewKick>,
) -> Result<Json<Value>, Failure> {
    caller.admin()?;
    let code = match kick.code {
        None => CloseCode::Kicked,
        Some(number) => CloseCode::from_number(number).ok_or_else(|| {
            Error::bad(
                "code",
                format!("{number} is no close code: see docs/protocol.md"),
            )
        })?,
    };
    let request = KickRequest {
        user: kick
            .user
            .map(|user| user.as_str().to_owned())
            .unwrap_or_default(),
        device: kick
            .device
            .map(|device| device.as_str().to_owned())
            .unwrap_or_default(),
        conn: kick.conn,
        code: code.number().into(),
        text: kick.text,
    };
    let KickRequest {
        user,
        device,
        conn,
        text,
        ..
    } = &request;
    tracing::info!(target: "audit", action = "kick", by = caller.0.user, user, device, conn, reason = text, "asked");
    let tally = handle.core.kick(request).await?;
    let mut answer = json!({"closed": tally.connections});
    if !tally.failed.is_empty() {
        answer["failed_nodes"] = json!(tally.failed);
    }
    Ok(Json(answer))
}

/// `GET /v1/nodes`
pub(super) async fn nodes(
    State(handle): State<Handle>,
    caller: Caller,
) -> Result<Json<Value>, Failure> {
    caller.admin()?;
    let living: HashMap<String, u64> = handle
        .core
        .store
        .leases
        .nodes()
        .await
        .map_err(Error::from)?
        .into_iter()
        .collect();
    let known = handle.core.nodes.known();
    let silent: Vec<_> = living
        .keys()
        .filter(|name| known.iter().all(|node| node.name != **name))
        .cloned()
        .collect();
    let mut nodes: Vec<_> = known
        .into_iter()
        .map(|node| {
            json!({
                "name": node.name,
                "version": node.version,
                "zone": node.zone,
                "tcp": node.tcp,
                "ws": node.ws,
                "draining": node.draining,
                "connections": living.get(&node.name),
            })
        })
        .collect();
    // Its lease runs, but it cannot be found: just ended, or discovery is away.
    nodes.extend(
        silent
            .iter()
            .map(|name| json!({"name": name, "connections": living.get(name)})),
    );
    nodes.sort_by(|one, other| one["name"].as_str().cmp(&other["name"].as_str()));
    Ok(Json(json!({ "nodes": nodes })))
}
