//! A settled cluster causes no writes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::kubernetes::runner::{OPERATOR, Runner, SYSTEM};
use crate::process::output;
use crate::wait::until_ok;

/// How long the operator must not write.
const QUIET: Duration = Duration::from_secs(300);

#[derive(Deserialize)]
struct AuditEvent {
    verb: String,
    user: AuditUser,
    #[serde(rename = "objectRef", default)]
    object: Option<AuditObject>,
    #[serde(rename = "requestReceivedTimestamp")]
    at: String,
}

#[derive(Deserialize)]
struct AuditUser {
    /// Empty if authentication failed.
    #[serde(default)]
    username: String,
}

#[derive(Deserialize, Default)]
struct AuditObject {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
    #[serde(default)]
    name: String,
}

#[expect(clippy::print_stdout, reason = "a command line program")]
pub(super) async fn quiet(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let clients = scenario.clients();
    scenario.settled().await?;
    let counted = async || {
        let found = scenario
            .kube
            .imcluster(&scenario.namespace, &scenario.name)
            .await?;
        let count = found["status"]["connect"]["connections"]
            .as_u64()
            .unwrap_or(0);
        // The operator does not update the status for less than 5 %.
        ensure!(
            20 * count.abs_diff(clients) <= clients,
            "the status says {count} connections"
        );
        Ok(())
    };
    until_ok(
        "the status counts the connections",
        Duration::from_secs(120),
        counted,
    )
    .await?;
    let nodes = scenario
        .kube
        .kubectl(&[
            "get",
            "nodes",
            "-o",
            "name",
            "-l",
            "node-role.kubernetes.io/control-plane",
        ])
        .await?;
    let node = nodes
        .trim()
        .strip_prefix("node/")
        .context("no control plane: this case needs a kind cluster")?
        .to_owned();
    let before = audit_log(&node).await?.len();
    tokio::time::sleep(QUIET).await;
    let log = audit_log(&node).await?;
    let operator = format!("system:serviceaccount:{SYSTEM}:{OPERATOR}");
    let mut writes: BTreeMap<String, usize> = BTreeMap::new();
    let mut other_writes = 0;
    for event in log
        .iter()
        .skip(before)
        .filter(|event| event.user.username == operator)
    {
        let object = event.object.as_ref().map_or_else(String::new, |o| {
            format!("{}/{} {}", o.resource, o.subresource, o.name)
        });
        let is_lease = event
            .object
            .as_ref()
            .is_some_and(|object| object.resource == "leases");
        if !is_lease {
            other_writes += 1;
            println!("  {} {} {object}", event.at, event.verb);
        }
        *writes
            .entry(format!("{} {object}", event.verb))
            .or_default() += 1;
    }
    for (what, count) in &writes {
        println!("  {count} x {what}");
    }
    ensure!(
        !writes.is_empty(),
        "not even the Lease was written: is {operator} the operator's account?"
    );
    ensure!(
        other_writes == 0,
        "the operator made {other_writes} writes other than to its Lease"
    );
    Ok(())
}

/// The API server's audit log of writes, which our kind clusters have on their control plane.
async fn audit_log(node: &str) -> Result<Vec<AuditEvent>> {
    let arguments = ["exec", node, "cat", "/var/log/kubernetes/audit.log"];
    let text = output("docker", &arguments, "", Duration::from_secs(60)).await?;
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}
