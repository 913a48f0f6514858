//! golang-im's HTTP API, as its page and its users' backends call it: answers are 200 with
//! `{"code", "msg", "success", "result"?}`; 200 is good, -1 is not.

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use im_proto::v1::Encoding;
use im_wire::golang_im::MessageJson;
use im_wire::ids::{RoomId, UserId};
use serde::Serialize;
use serde_json::{Value, json};

use crate::auth::grant::Grant;
use crate::call::Handle;
use crate::error::{Error, Result, compat_codes};
use crate::message::Draft;
use crate::room::access;
use crate::serve::http::{Credentials, Params, Raw, message};
use crate::store::{Access, Slice};

/// Messages in a page where the request does not say how many; golang-im's number.
const USUAL: u64 = 15;
/// golang-im takes fewer than these, and else its usual number.
const BELOW: u64 = 100;
const PAGES_BELOW: u64 = 10_000;

pub(super) fn routes() -> Router<Handle> {
    Router::new()
        .route("/open/push", post(push))
        .route("/open/listmsg", post(list))
}

/// golang-im's answer.
#[derive(Serialize)]
struct Answer {
    code: i32,
    msg: String,
    success: bool,
    #[serde(skip_serializing_if = "Value::is_null")]
    result: Value,
}

impl From<Result<Value>> for Answer {
    fn from(result: Result<Value>) -> Self {
        match result {
            Ok(result) => Self {
                code: 200,
                msg: "success".to_owned(),
                success: true,
                result,
            },
            Err(error) => {
                let (_, code) = compat_codes(error.code());
                Self {
                    code,
                    msg: error.shown(),
                    success: false,
                    result: Value::Null,
                }
            }
        }
    }
}

/// Form fields may stand in the query as well: golang-im reads both.
fn field<'a>(form: &'a Params, query: &'a Params, name: &str) -> Result<&'a str> {
    let value = form.text(name).or_else(|| query.text(name));
    value.ok_or_else(|| Error::bad(name, "is missing or empty"))
}

/// golang-im's rooms come into being by being spoken in; for a backend with the admin scope they do so here too.
fn access(who: &Grant, room: &RoomId) -> Result<Access> {
    let access = access::for_caller(who, room)?;
    Ok(Access {
        open: access.open || (who.admin && !room.is_direct()),
        ..access
    })
}

async fn push(
    State(handle): State<Handle>,
    who: Credentials,
    query: Params,
    Raw(body): Raw,
) -> Json<Answer> {
    let push = async {
        let form = Params::parse(&body);
        let who = who.0?;
        let room = RoomId::new(field(&form, &query, "room_id")?)?;
        let kind = field(&form, &query, "type")?.to_owned();
        let said = field(&form, &query, "msg")?.to_owned();
        let user = UserId::new(field(&form, &query, "user_id")?)?;
        field(&form, &query, "shop_id")?;
        if user.as_str() != who.user && !who.admin {
            return Err(Error::Forbidden(
                "the token is for another user than \"user_id\"",
            ));
        }
        let who = Grant {
            user: user.as_str().to_owned(),
            ..who
        };
        let access = access(&who, &room)?;
        let encoding = Encoding::Text.into();
        let draft = Draft {
            room,
            client_id: String::new(),
            kind,
            body: said.into(),
            encoding,
        };
        handle.core.store_message(access, who.device, draft).await?;
        Ok(Value::Null)
    };
    Json(push.await.into())
}

async fn list(
    State(handle): State<Handle>,
    who: Credentials,
    query: Params,
    Raw(body): Raw,
) -> Json<Answer> {
    let list = async {
        let form = Params::parse(&body);
        let who = who.0?;
        let room = RoomId::new(field(&form, &query, "room_id")?)?;
        let limit = query
            .number("limit")?
            .filter(|limit| (1..BELOW).contains(limit))
            .unwrap_or(USUAL);
        let page = query
            .number("page")?
            .filter(|page| (1..PAGES_BELOW).contains(page))
            .unwrap_or(1);
        let view = handle.core.view(&who, &room).await?;
        let newest = view.head.saturating_sub((page - 1) * limit);
        let entries = if newest == 0 {
            Vec::new()
        } else {
            handle
                .core
                .page(&room, Slice::Before(newest + 1), limit as usize)
                .await?
                .entries
        };
        let messages = entries
            .into_iter()
            .rev()
            .map(|entry| message(&room, view.epoch, entry));
        // Each message is JSON text in a JSON string, as golang-im's list has them.
        let as_text =
            |message| serde_json::to_string(&MessageJson::from(&message)).unwrap_or_default();
        let list: Vec<String> = messages.map(as_text).collect();
        let last_page = view.head.div_ceil(limit);
        Ok(
            json!({"total": view.head, "limit": limit, "page": page, "last_page": last_page, "list": list}),
        )
    };
    Json(list.await.into())
}
