//! `imctl node`: the connect nodes of a cluster, or one process by its admin address.

use std::collections::BTreeMap;

use serde_json::json;

use crate::args::NodeArgs;
use crate::failure::{Exit, Failure};
use crate::output::{Output, printable};
use crate::session::Credentials;
use crate::{http, list};

const COLUMNS: &[&str] = &["name", "version", "zone", "tcp", "ws", "grpc", "connections", "draining"];

/// The nodes that logic knows.
pub(crate) async fn nodes(args: &NodeArgs, credentials: &Credentials, output: &mut Output) -> Result<(), Failure> {
    let answer = http::ask(&args.connect, credentials, "/v1/nodes").await?;
    list::show(&answer, "nodes", COLUMNS, args.connect.json, output)
}

/// One process: whether it is ready, and its figures.
pub(crate) async fn process(args: &NodeArgs, at: &str, output: &mut Output) -> Result<(), Failure> {
    let at = at.trim_end_matches('/');
    let ready = http::get(&format!("{at}/readyz"), None, args.connect.timeout).await?;
    let metrics = http::get(&format!("{at}/metrics"), None, args.connect.timeout).await?;
    if !metrics.status.is_success() {
        let text = format!("{at}/metrics answered {}: is this an admin address (port 9100)?", metrics.status);
        return Err(Failure::new(Exit::Failed, text));
    }
    let figures = figures(&metrics.text);
    let is_ready = ready.status.is_success();
    let reason = ready.text.trim();
    if args.connect.json {
        return output.json(&json!({"at": at, "ready": is_ready, "reason": reason, "metrics": figures}));
    }
    let state = if is_ready { "ready" } else { "not ready" };
    output.line(&format!("{at}: {state}"))?;
    if !is_ready {
        reason.lines().try_for_each(|line| output.line(&format!("  {}", printable(line))))?;
    }
    let widest = figures.keys().map(|name| name.len()).max().unwrap_or(0);
    figures.iter().try_for_each(|(name, value)| output.line(&format!("  {name:<widest$}  {value}")))
}

/// The project's own gauges and counters from Prometheus text, summed over their labels; buckets are left out.
pub(crate) fn figures(text: &str) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("im_") || line.starts_with("process_")) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series).trim();
        let Ok(value) = value.parse::<f64>() else { continue };
        if !name.ends_with("_bucket") {
            *figures.entry(name.to_owned()).or_insert(0.0) += value;
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_summed_over_labels() {
        let text = "# HELP im_a x\nim_a{l=\"1 2\"} 2\nim_a{l=\"b\"} 3.5\nim_h_bucket{le=\"1\"} 9\nim_h_sum 4\ngo_x 1\nim_bad x\n";
        let figures = figures(text);
        assert_eq!(figures.get("im_a"), Some(&5.5));
        assert_eq!(figures.get("im_h_sum"), Some(&4.0));
        assert_eq!(figures.len(), 2);
    }
}
