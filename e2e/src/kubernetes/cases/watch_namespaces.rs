//! An operator with rights in some namespaces only.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::kubernetes::runner::{MINIMAL, OPERATOR, Runner, kill_operator};
use crate::kubernetes::scenario::settled;

/// The namespace that stays, and the one that is deleted.
const NAMESPACES: [&str; 2] = ["im-e2e-stays", "im-e2e-goes"];

pub(super) async fn watch_namespaces(runner: &mut Runner) -> Result<()> {
    // Nobody operates the other ImClusters meanwhile.
    runner.end_scenario();
    for namespace in NAMESPACES {
        runner.create_namespace(namespace).await?;
    }
    let watched = format!("watchNamespaces={{{}}}", NAMESPACES.join(","));
    runner.install_with(&["--set", &watched]).await?;
    let outcome = Box::pin(delete_one(runner)).await;
    runner.install().await?;
    for namespace in NAMESPACES {
        runner.remove_namespace(namespace).await?;
    }
    outcome
}

#[expect(clippy::print_stdout, reason = "a command line program")]
async fn delete_one(runner: &Runner) -> Result<()> {
    let kube = &runner.kube;
    let bindings = kube
        .kubectl(&["get", "clusterrolebindings", "-o", "name"])
        .await?;
    ensure!(
        !bindings.contains(OPERATOR),
        "the operator has rights everywhere: {bindings}"
    );
    for namespace in NAMESPACES {
        runner.minimal_in(namespace).await?;
    }
    let name = MINIMAL.1;
    let [stays, goes] = NAMESPACES;
    kube.kubectl(&["delete", "namespace", goes, "--wait=false"])
        .await?;
    kill_operator(kube).await?;
    let logic = kube.imcluster(stays, name).await?["spec"]["logic"]["replicas"]
        .as_u64()
        .unwrap_or(1)
        + 1;
    kube.edit(
        stays,
        name,
        &json!({"spec": {"logic": {"replicas": logic}}}),
    )
    .await?;
    let took = settled(kube, stays, name).await?;
    let pods = kube.tier(stays, name, "logic").await?.len() as u64;
    ensure!(pods == logic, "{pods} pods of logic, not {logic}");
    println!(
        "  {goes} is deleted and all operators are killed: {stays} has settled after {:.1} s",
        took.as_secs_f64()
    );
    runner.remove_namespace(goes).await
}
