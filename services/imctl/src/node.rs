//! `imctl node`: the connect nodes of a cluster, or one process by its admin address.

use im_cli::failure::{Exit, Failure};
use im_cli::output::Output;
use im_cli::{http, metrics};
use serde_json::json;

use crate::args::NodeArgs;
use crate::session::Credentials;
use crate::text::printable;
use crate::{api, list};

const COLUMNS: &[&str] = &[
    "name",
    "version",
    "zone",
    "tcp",
    "ws",
    "grpc",
    "connections",
    "draining",
];

/// The nodes that logic knows.
pub(crate) async fn nodes(
    args: &NodeArgs,
    credentials: &Credentials,
    output: &mut Output,
) -> Result<(), Failure> {
    let answer = api::ask(&args.connect, credentials, "/v1/nodes").await?;
    list::show(&answer, "nodes", COLUMNS, args.connect.json, output)
}

/// One process: whether it is ready, and its figures.
pub(crate) async fn process(args: &NodeArgs, at: &str, output: &mut Output) -> Result<(), Failure> {
    let at = at.trim_end_matches('/');
    let ready = http::get(&format!("{at}/readyz"), None, args.connect.timeout).await?;
    let metrics = http::get(&format!("{at}/metrics"), None, args.connect.timeout).await?;
    if !metrics.status.is_success() {
        let text = format!(
            "{at}/metrics answered {}: is this an admin address (port 9100)?",
            metrics.status
        );
        return Err(Failure::new(Exit::Failed, text));
    }
    let figures = metrics::sums(&metrics.text());
    let is_ready = ready.status.is_success();
    let reason = ready.text();
    let reason = reason.trim();
    if args.connect.json {
        return output
            .json(&json!({"at": at, "ready": is_ready, "reason": reason, "metrics": figures}));
    }
    let state = if is_ready { "ready" } else { "not ready" };
    output.line(&format!("{at}: {state}"))?;
    if !is_ready {
        reason
            .lines()
            .try_for_each(|line| output.line(&format!("  {}", printable(line))))?;
    }
    let widest = figures.keys().map(|name| name.len()).max().unwrap_or(0);
    figures
        .iter()
        .try_for_each(|(name, value)| output.line(&format!("  {name:<widest$}  {value}")))
}
