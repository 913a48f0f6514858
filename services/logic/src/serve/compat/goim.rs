//! goim's push API (its `docs/push.md`): answers are 200 with `{"code", "message", "data"?}`; 0 is good, -400 the request's
//! fault, -500 ours. A push is a signal with the operation that the pusher names; the body goes out as it came in.

use std::collections::HashMap;

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use bytes::Bytes;
use im_proto::v1::{Encoding, Signal};
use im_wire::ids::{DeviceId, RoomId, UserId};
use serde::Serialize;
use serde_json::{Value, json};

use crate::call::Handle;
use crate::error::{Error, Result, compat_codes};
use crate::serve::http::{Credentials, Params, Raw};

/// What goim's pushes are called to native clients.
const PUSH: &str = "push";
/// The most that `online/top` lists.
const MAX_LIMIT: usize = 1000;

pub(super) fn routes() -> Router<Handle> {
    Router::new()
        .route("/goim/push/keys", post(push_keys))
        .route("/goim/push/mids", post(push_mids))
        .route("/goim/push/room", post(push_room))
        .route("/goim/push/all", post(push_all))
        .route("/goim/online/top", get(online_top))
        .route("/goim/online/room", get(online_room))
        .route("/goim/online/total", get(online_total))
        .route("/goim/nodes/weighted", get(nodes_weighted))
        .route("/goim/nodes/instances", get(nodes_instances))
}

/// goim's answer.
#[derive(Serialize)]
struct Answer {
    code: i32,
    message: String,
    #[serde(skip_serializing_if = "Value::is_null")]
    data: Value,
}

impl From<Result<Value>> for Answer {
    fn from(result: Result<Value>) -> Self {
        match result {
            Ok(data) => Self {
                code: 0,
                message: String::new(),
                data,
            },
            Err(error) => {
                let (code, _) = compat_codes(error.code());
                Self {
                    code,
                    message: error.shown(),
                    data: Value::Null,
                }
            }
        }
    }
}

fn operation(params: &Params) -> Result<i32> {
    params
        .number("operation")?
        .ok_or_else(|| Error::bad("operation", "is missing"))
}

/// Pushed bytes say nothing of what they are; text is shown as text to native clients.
fn signal(operation: i32, body: Bytes) -> Signal {
    let text = std::str::from_utf8(&body).is_ok();
    let encoding = if text {
        Encoding::Text
    } else {
        Encoding::Binary
    };
    Signal {
        r#type: PUSH.to_owned(),
        body,
        encoding: encoding.into(),
        operation,
        ..Signal::default()
    }
}

fn room_id(kind: Option<&str>, room: &str) -> Result<RoomId> {
    Ok(match kind {
        Some(kind) => RoomId::new(format!("{kind}://{room}"))?,
        // Before rooms had types, and for ids that are whole already.
        None => RoomId::new(room)?,
    })
}

async fn push_keys(
    State(handle): State<Handle>,
    who: Credentials,
    params: Params,
    Raw(body): Raw,
) -> Json<Answer> {
    let push = async {
        who.admin()?;
        let operation = operation(&params)?;
        let keys = params
            .list("keys")
            .into_iter()
            .map(DeviceId::new)
            .collect::<std::result::Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(Error::bad("keys", "is missing"));
        }
        handle
            .core
            .push_devices(&keys, signal(operation, body))
            .await?;
        Ok(Value::Null)
    };
    Json(push.await.into())
}

async fn push_mids(
    State(handle): State<Handle>,
    who: Credentials,
    params: Params,
    Raw(body): Raw,
) -> Json<Answer> {
    let push = async {
        who.admin()?;
        let operation = operation(&params)?;
        let number = |mid: &&str| mid.parse::<i64>().is_ok();
        let mids = params.list("mids");
        if mids.is_empty() || !mids.iter().all(number) {
            return Err(Error::bad("mids", "must be numbers, one at least"));
        }
        let users = mids
            .into_iter()
            .map(UserId::new)
            .collect::<std::result::Result<Vec<_>, _>>()?;
        handle
            .core
            .push_users(&users, signal(operation, body))
            .await?;
        Ok(Value::Null)
    };
    Json(push.await.into())
}

async fn push_room(
    State(handle): State<Handle>,
    who: Credentials,
    params: Params,
    Raw(body): Raw,
) -> Json<Answer> {
    let push = async {
        who.admin()?;
        let operation = operation(&params)?;
        let room = params
            .text("room")
            .ok_or_else(|| Error::bad("room", "is missing"))?;
        let room = room_id(params.text("type"), room)?;
        handle
            .core
            .push_room(&room, signal(operation, body))
            .await?;
        Ok(Value::Null)
    };
    Json(push.await.into())
}

async fn push_all(
    State(handle): State<Handle>,
    who: Credentials,
    params: Params,
    Raw(body): Raw,
) -> Json<Answer> {
    let push = async {
        who.admin()?;
        let operation = operation(&params)?;
        let speed = params.number("speed")?.unwrap_or(0);
        handle
            .core
            .broadcast(signal(operation, body), speed)
            .await?;
        Ok(Value::Null)
    };
    Json(push.await.into())
}

async fn online_top(
    State(handle): State<Handle>,
    who: Credentials,
    params: Params,
) -> Json<Answer> {
    let top = async {
        who.admin()?;
        let kind = params
            .text("type")
            .ok_or_else(|| Error::bad("type", "is missing"))?;
        let limit: usize = params
            .number("limit")?
            .ok_or_else(|| Error::bad("limit", "is missing"))?;
        let prefix = format!("{kind}://");
        let counted = handle.core.store.leases.online_rooms().await?.into_iter();
        let of_type = counted.filter_map(|(room, count)| {
            Some((room.as_str().strip_prefix(&prefix)?.to_owned(), count))
        });
        let mut rooms: Vec<_> = of_type.collect();
        rooms.sort_by(|(one, most), (other, more)| more.cmp(most).then_with(|| one.cmp(other)));
        let rooms = rooms.into_iter().take(limit.min(MAX_LIMIT));
        Ok(rooms
            .map(|(room, count)| json!({"room_id": room, "count": count}))
            .collect())
    };
    Json(top.await.into())
}

async fn online_room(
    State(handle): State<Handle>,
    who: Credentials,
    params: Params,
) -> Json<Answer> {
    let online = async {
        who.admin()?;
        let named = params.list("rooms");
        if named.is_empty() {
            return Err(Error::bad("rooms", "is missing"));
        }
        let limit = handle.core.options.limits.max_rooms_per_call;
        if named.len() > limit {
            return Err(Error::LimitReached {
                what: "rooms in one question",
                limit,
            });
        }
        let rooms = named
            .iter()
            .map(|room| room_id(params.text("type"), room))
            .collect::<Result<Vec<_>>>()?;
        let online = handle.core.store.leases.online(&rooms).await?;
        let counts: HashMap<_, _> = named.into_iter().zip(online).collect();
        Ok(json!(counts))
    };
    Json(online.await.into())
}

async fn online_total(State(handle): State<Handle>, who: Credentials) -> Json<Answer> {
    let total = async {
        who.admin()?;
        let connections: u64 = handle
            .core
            .store
            .leases
            .nodes()
            .await?
            .iter()
            .map(|(_, connections)| connections)
            .sum();
        // Addresses are not counted here: nobody keeps them over nodes.
        Ok(json!({"ip_count": 0, "conn_count": connections}))
    };
    Json(total.await.into())
}

/// The host of `host:port`.
fn host(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

async fn nodes_weighted(
    State(handle): State<Handle>,
    who: Credentials,
    params: Params,
) -> Json<Answer> {
    let weighted = async {
        // Any user may ask where to connect.
        who.0?;
        let options = &handle.core.options.compat;
        let web = params.text("platform") == Some("web");
        let known = handle
            .core
            .nodes
            .known()
            .into_iter()
            .filter(|node| !node.draining);
        let mut nodes: Vec<String> = known
            .map(|node| host(if web { &node.ws } else { &node.tcp }).to_owned())
            .filter(|host| !host.is_empty())
            .collect();
        nodes.sort();
        nodes.dedup();
        let domain = match options.domain.as_str() {
            "" => nodes.first().cloned().unwrap_or_default(),
            domain => domain.to_owned(),
        };
        if nodes.is_empty() {
            nodes.push(domain.clone());
        }
        Ok(json!({
            "domain": domain,
            "tcp_port": options.tcp_port,
            "ws_port": options.ws_port,
            "wss_port": options.wss_port,
            "heartbeat": options.heartbeat.as_secs(),
            "heartbeat_max": options.heartbeat_max,
            "nodes": nodes,
            "backoff": {"max_delay": 300, "base_delay": 3, "factor": 1.8, "jitter": 0.3},
        }))
    };
    Json(weighted.await.into())
}

async fn nodes_instances(State(handle): State<Handle>, who: Credentials) -> Json<Answer> {
    let instances = async {
        who.admin()?;
        let living: HashMap<String, u64> = handle
            .core
            .store
            .leases
            .nodes()
            .await?
            .into_iter()
            .collect();
        let instance = |node: crate::nodes::Node| {
            let connections = living.get(&node.name).copied().unwrap_or_default();
            json!({
                "region": "",
                "zone": node.zone,
                "env": "",
                "appid": "goim.comet",
                "hostname": node.name,
                "addrs": [format!("grpc://{}", node.grpc)],
                "version": node.version,
                "latest_timestamp": im_runtime::clock::unix_ms().saturating_mul(1_000_000),
                "metadata": {
                    "addrs": host(&node.tcp),
                    "conn_count": connections.to_string(),
                    "ip_count": "0",
                    "offline": node.draining.to_string(),
                    "weight": "10",
                },
            })
        };
        Ok(handle
            .core
            .nodes
            .known()
            .into_iter()
            .map(instance)
            .collect())
    };
    Json(instances.await.into())
}
