//! Bans and revocations: made, listed and lifted by administrators.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use im_proto::bans::{Kind, subject};
use im_proto::v1::Ban;
use im_runtime::clock;
use im_wire::ids::{DeviceId, UserId};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Failure;
use super::ask::{Caller, Name, Object, Params};
use crate::bans::Done;
use crate::call::Handle;
use crate::error::{Error, Result as LogicResult};

/// Bans in a page where nothing is said, and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// How long something is to hold: until a moment, or for a time; neither: for ever.
fn end(until: Option<u64>, length: Option<u64>) -> LogicResult<u64> {
    match (until, length) {
        (Some(_), Some(_)) => Err(Error::bad(
            "for",
            "stands beside \"until\": give one of the two",
        )),
        (Some(0), None) => Err(Error::bad(
            "until",
            "is 0: leave it out for a ban without end",
        )),
        (None, Some(0)) => Err(Error::bad(
            "for",
            "is 0: give milliseconds, or leave it out for a ban without end",
        )),
        (until, None) => Ok(until.unwrap_or(0)),
        (None, Some(length)) => Ok(clock::unix_ms().saturating_add(length)),
    }
}

#[derive(Deserialize)]
pub(super) struct NewBan {
    user: Option<UserId>,
    device: Option<DeviceId>,
    address: Option<String>,
    until: Option<u64>,
    #[serde(rename = "for")]
    length: Option<u64>,
    #[serde(default)]
    reason: String,
}

/// What a ban is about, as it is named in a body or in a query.
fn about(user: Option<&str>, device: Option<&str>, address: Option<&str>) -> LogicResult<Ban> {
    let mut ban = Ban::default();
    if let Some(address) = address {
        if user.is_some() || device.is_some() {
            return Err(Error::bad(
                "address",
                "stands beside \"user\" or \"device\": make a ban of each",
            ));
        }
        let plain = || {
            address
                .parse()
                .map(|ip: std::net::IpAddr| IpNet::from(ip.to_canonical()))
        };
        let net: Result<IpNet, _> = address.parse().or_else(|_| plain());
        let wrong = |_| {
            Error::bad(
                "address",
                format!(
                    "{address:?} is neither an address nor a range: write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"
                ),
            )
        };
        ban.address = net.map_err(wrong)?.trunc().to_string();
    }
    ban.user = user.unwrap_or_default().to_owned();
    ban.device = device.unwrap_or_default().to_owned();
    Ok(ban)
}

fn shown(kind: Kind, ban: &Ban) -> Value {
    let mut shown = json!({"id": ban.id, "kind": kind.name(), "reason": ban.reason, "by": ban.by, "made": ban.made_ms});
    for (name, value) in [
        ("user", &ban.user),
        ("device", &ban.device),
        ("address", &ban.address),
    ] {
        if !value.is_empty() {
            shown[name] = value.as_str().into();
        }
    }
    for (name, value) in [("until", ban.until_ms), ("before", ban.issued_before_ms)] {
        if value > 0 {
            shown[name] = value.into();
        }
    }
    shown
}

fn done(Done { ban, closed }: &Done) -> Value {
    let kind = subject(ban).map_or(Kind::User, |(kind, _)| kind);
    let mut answer = shown(kind, ban);
    answer["closed"] = closed.connections.into();
    if !closed.failed.is_empty() {
        answer["failed_nodes"] = json!(closed.failed);
    }
    answer
}

/// `POST /v1/bans`
pub(super) async fn make(
    State(handle): State<Handle>,
    caller: Caller,
    Object(new): Object<NewBan>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let admin = caller.admin()?;
    let user = new.user.as_ref().map(UserId::as_str);
    let ban = about(
        user,
        new.device.as_ref().map(DeviceId::as_str),
        new.address.as_deref(),
    )?;
    let ban = Ban {
        until_ms: end(new.until, new.length)?,
        reason: new.reason,
        ..ban
    };
    Ok((
        StatusCode::CREATED,
        Json(done(&handle.core.ban(admin, ban).await?)),
    ))
}

/// `GET /v1/bans`
pub(super) async fn list(
    State(handle): State<Handle>,
    caller: Caller,
    params: Params,
) -> Result<Json<Value>, Failure> {
    caller.admin()?;
    let limit = params
        .number("limit")?
        .unwrap_or(DEFAULT_LIMIT)
        .clamp(1, MAX_LIMIT);
    let page = handle
        .core
        .list_bans(params.number("after")?.unwrap_or(0), limit)
        .await?;
    let bans: Vec<_> = page
        .bans
        .iter()
        .map(|(kind, ban)| shown(*kind, ban))
        .collect();
    let mut answer = json!({ "bans": bans });
    if let Some(next) = page.next {
        answer["next"] = next.to_string().into();
    }
    Ok(Json(answer))
}

/// `DELETE /v1/bans/{id}`
pub(super) async fn lift(
    State(handle): State<Handle>,
    caller: Caller,
    Name(id): Name,
) -> Result<Json<Value>, Failure> {
    let admin = caller.admin()?;
    let changed = handle.core.lift_ban(admin, &id).await?;
    Ok(Json(json!({"id": id, "changed": changed})))
}

/// `DELETE /v1/bans?user=&device=&address=`
pub(super) async fn lift_about(
    State(handle): State<Handle>,
    caller: Caller,
    params: Params,
) -> Result<Json<Value>, Failure> {
    let admin = caller.admin()?;
    let ban = about(
        params.text("user"),
        params.text("device"),
        params.text("address"),
    )?;
    let missing = || {
        Error::bad(
            "user",
            "is missing, and so are \"device\" and \"address\": say whose ban is lifted",
        )
    };
    let (_, id) = subject(&ban).ok_or_else(missing)?;
    let changed = handle.core.lift_ban(admin, &id).await?;
    Ok(Json(json!({"id": id, "changed": changed})))
}

#[derive(Deserialize)]
pub(super) struct Revocation {
    before: Option<u64>,
    until: Option<u64>,
    #[serde(rename = "for")]
    length: Option<u64>,
}

/// `POST /v1/users/{user}/revoke`
pub(super) async fn revoke(
    State(handle): State<Handle>,
    caller: Caller,
    Name(user): Name,
    Object(asked): Object<Revocation>,
) -> Result<Json<Value>, Failure> {
    let admin = caller.admin()?;
    let user = UserId::new(user)?;
    let revoked = handle
        .core
        .revoke(
            admin,
            user.as_str(),
            asked.before,
            end(asked.until, asked.length)?,
        )
        .await?;
    Ok(Json(done(&revoked)))
}
