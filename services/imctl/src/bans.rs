//! `imctl ban`, `unban`, `bans`, `revoke`: who is not let in.

use std::time::{SystemTime, UNIX_EPOCH};

use hyper::Method;
use im_cli::failure::Failure;
use im_cli::http;
use im_cli::output::Output;
use serde_json::{Map, Value, json};

use crate::args::{BanArgs, ListArgs, RevokeArgs, UnbanArgs, WhomArgs};
use crate::session::Credentials;
use crate::text::{local_time, printable};
use crate::{api, list};

const COLUMNS: &[&str] = &["id", "kind", "until", "before", "by", "made", "reason"];
const TIME: &str = "%Y-%m-%d %H:%M:%S";

fn whom(whom: &WhomArgs) -> Vec<(&'static str, &str)> {
    let given = [
        ("user", &whom.whom),
        ("device", &whom.banned_device),
        ("address", &whom.from),
    ];
    given
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
        .collect()
}

fn nobody() -> Failure {
    Failure::usage("nobody is named: give a user, --banned-device or --from")
}

/// Bans.
pub(crate) async fn ban(
    args: &BanArgs,
    credentials: &Credentials,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut body: Map<String, Value> = whom(&args.whom)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    if body.is_empty() {
        return Err(nobody());
    }
    if let Some(length) = args.length {
        body.insert(
            "for".to_owned(),
            json!(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)),
        );
    }
    if let Some(reason) = &args.reason {
        body.insert("reason".to_owned(), reason.as_str().into());
    }
    let made = api::send(
        &args.connect,
        credentials,
        Method::POST,
        "/v1/bans",
        Some(Value::Object(body)),
    )
    .await?;
    told(&made, args.connect.json, output)
}

/// Lifts a ban, or takes back a revocation by its id.
pub(crate) async fn unban(
    args: &UnbanArgs,
    credentials: &Credentials,
    output: &mut Output,
) -> Result<(), Failure> {
    let path = match &args.id {
        Some(id) => format!("/v1/bans/{}", http::segment(id)),
        None => {
            let about = whom(&args.whom);
            if about.is_empty() {
                return Err(nobody());
            }
            let query: Vec<_> = about
                .iter()
                .map(|(name, value)| format!("{name}={}", http::segment(value)))
                .collect();
            format!("/v1/bans?{}", query.join("&"))
        }
    };
    let answer = api::send(&args.connect, credentials, Method::DELETE, &path, None).await?;
    if args.connect.json {
        return output.json(&answer);
    }
    let id = printable(answer["id"].as_str().unwrap_or_default());
    output.line(&if answer["changed"] == true {
        format!("{id}: lifted")
    } else {
        format!("{id}: there was none")
    })
}

/// Ends the tokens that a user has.
pub(crate) async fn revoke(
    args: &RevokeArgs,
    credentials: &Credentials,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut body = Map::new();
    if let Some(ago) = args.older_than {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        body.insert(
            "before".to_owned(),
            json!(u64::try_from(now.saturating_sub(ago).as_millis()).unwrap_or(0)),
        );
    }
    if let Some(length) = args.length {
        body.insert(
            "for".to_owned(),
            json!(u64::try_from(length.as_millis()).unwrap_or(u64::MAX)),
        );
    }
    let path = format!("/v1/users/{}/revoke", http::segment(&args.whom));
    let made = api::send(
        &args.connect,
        credentials,
        Method::POST,
        &path,
        Some(Value::Object(body)),
    )
    .await?;
    told(&made, args.connect.json, output)
}

/// Those in force.
pub(crate) async fn all(
    args: &ListArgs,
    credentials: &Credentials,
    output: &mut Output,
) -> Result<(), Failure> {
    let mut bans = list::all(&args.connect, credentials, "/v1/bans", "bans").await?;
    if !args.connect.json {
        bans.iter_mut().for_each(readable);
    }
    list::show(
        &json!({ "bans": bans }),
        "bans",
        COLUMNS,
        args.connect.json,
        output,
    )
}

/// Times as the clock on the wall shows them.
fn readable(ban: &mut Value) {
    for name in ["until", "before", "made"] {
        if let Some(time) = ban.get(name).and_then(Value::as_u64) {
            ban[name] = local_time(time, TIME).into();
        }
    }
}

fn told(made: &Value, json: bool, output: &mut Output) -> Result<(), Failure> {
    if json {
        return output.json(made);
    }
    let id = printable(made["id"].as_str().unwrap_or_default());
    let until = made["until"]
        .as_u64()
        .map(|until| format!(" until {}", local_time(until, TIME)))
        .unwrap_or_default();
    let what = match made["before"].as_u64() {
        Some(before) => format!(
            "tokens issued before {} are refused",
            local_time(before, TIME)
        ),
        None => "banned".to_owned(),
    };
    output.line(&format!("{id}: {what}{until}"))
}
