//! Installing, the minimal and the HA sample, refused edits, and data that survives deletion.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::kubernetes::chat::{Participant, chat};
use crate::kubernetes::runner::{HA, MINIMAL, OPERATOR, Runner, SYSTEM};
use crate::kubernetes::scenario::{settled, signer};
use crate::wait::until_ok;

const DELETE_TIMEOUT: Duration = Duration::from_secs(180);

pub(super) async fn kustomize(runner: &mut Runner) -> Result<()> {
    let kube = &runner.kube;
    let _ = kube
        .helm(&["uninstall", OPERATOR, "--namespace", SYSTEM, "--wait"])
        .await;
    let tree = runner.manifests()?;
    kube.kubectl(&["apply", "--server-side", "--force-conflicts", "-k", &tree])
        .await?;
    let deployment = format!("deployment/{OPERATOR}");
    let image = format!("*=imcluster/operator:{}", runner.options.version);
    kube.kubectl(&["set", "image", &deployment, &image, "--namespace", SYSTEM])
        .await?;
    kube.kubectl(&[
        "rollout",
        "status",
        &deployment,
        "--namespace",
        SYSTEM,
        "--timeout=120s",
    ])
    .await?;
    runner.fresh_minimal().await?;
    remove(runner, MINIMAL).await?;
    kube.kubectl(&[
        "delete",
        "-k",
        &tree,
        "--ignore-not-found",
        "--timeout=120s",
    ])
    .await?;
    Ok(())
}

pub(super) async fn minimal(runner: &mut Runner) -> Result<()> {
    runner.install().await?;
    runner.fresh_minimal().await?;
    let (namespace, name) = MINIMAL;
    let signer = signer(&runner.kube, namespace, name).await?;
    let service = format!("{name}-connect");
    let tcp = runner
        .kube
        .node_addresses(namespace, &service, "tcp")
        .await?;
    let ws = runner
        .kube
        .node_addresses(namespace, &service, "ws")
        .await?;
    chat(
        &signer,
        &format!("tcp://{}", tcp[0]),
        &format!("ws://{}/ws", ws[ws.len() - 1]),
    )
    .await
}

#[expect(clippy::print_stdout, reason = "a command line program")]
pub(super) async fn ha(runner: &mut Runner) -> Result<()> {
    runner.remove_namespace(HA.0).await?;
    runner.end_scenario();
    runner.scenario().await?;
    print!(
        "{}",
        runner
            .kube
            .kubectl(&["get", "imc,pods,pvc,pdb", "-n", HA.0, "-o", "wide"])
            .await?
    );
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a command line program")]
pub(super) async fn refused(runner: &mut Runner) -> Result<()> {
    let (namespace, name) = MINIMAL;
    settled(&runner.kube, namespace, name)
        .await
        .context("run case minimal first")?;
    let edits = [
        (
            json!({"spec": {"redis": {"mode": "Sentinel"}}}),
            "mode can't be changed",
        ),
        (json!({"spec": {"etcd": {"replicas": 2}}}), "etcd"),
        (
            json!({"spec": {"connect": {"replicas": -1}}}),
            "spec.connect.replicas",
        ),
        (json!({"spec": {"version": ""}}), "spec.version"),
        (
            json!({"spec": {"redis": {"storage": {"size": "1Gi"}}}}),
            "volumes can grow, not shrink",
        ),
    ];
    for (edit, wanted) in edits {
        let refused = runner.kube.edit(namespace, name, &edit).await;
        let error = refused
            .err()
            .with_context(|| format!("{edit} was accepted"))?;
        let message = format!("{error:#}");
        ensure!(
            message.contains(wanted),
            "the refusal of {edit} does not contain {wanted:?}: {message}"
        );
        println!("  {edit}: {message}");
    }
    settled(&runner.kube, namespace, name).await.map(|_| ())
}

pub(super) async fn retain(runner: &mut Runner) -> Result<()> {
    let kube = &runner.kube;
    let (namespace, name) = MINIMAL;
    settled(kube, namespace, name)
        .await
        .context("run case minimal first")?;
    let before = kube.imcluster(namespace, name).await?;
    let user = Participant::of(kube, MINIMAL, "kept").await?;
    let sent = user.send(20).await?;
    remove(runner, MINIMAL).await?;
    let again = json!({"apiVersion": before["apiVersion"], "kind": before["kind"],
        "metadata": {"name": name, "namespace": namespace}, "spec": before["spec"]});
    kube.apply(&again.to_string()).await?;
    settled(kube, namespace, name).await?;
    // The old key still signs: the Secret outlived the ImCluster, as the data did.
    let found = user.history().await?;
    ensure!(
        found.len() >= sent.len(),
        "{} messages were sent, {} are there",
        sent.len(),
        found.len()
    );
    ensure!(
        found.ends_with(&sent),
        "{sent:?} were sent, {found:?} are there"
    );
    user.send(1).await.map(|_| ())
}

/// Deletes an ImCluster and waits until its pods are gone.
async fn remove(runner: &Runner, (namespace, name): (&str, &str)) -> Result<()> {
    let kube = &runner.kube;
    kube.kubectl(&["delete", "imc", name, "-n", namespace, "--timeout=180s"])
        .await?;
    let probe = async || {
        let mut left = Vec::new();
        for tier in ["connect", "logic", "redis", "sentinel", "etcd"] {
            left.extend(
                kube.tier(namespace, name, tier)
                    .await?
                    .into_iter()
                    .filter_map(|pod| pod.metadata.name),
            );
        }
        ensure!(left.is_empty(), "still there: {left:?}");
        Ok(())
    };
    until_ok(
        &format!("the pods of {namespace}/{name} are gone"),
        DELETE_TIMEOUT,
        probe,
    )
    .await
    .map(|_| ())
}
