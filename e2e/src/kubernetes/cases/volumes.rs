//! Volumes that grow, and one that is full.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kubernetes::chat::Participant;
use crate::kubernetes::runner::{MINIMAL, Runner};
use crate::kubernetes::scenario::{SETTLE_TIMEOUT, condition, settled};
use crate::process::output;
use crate::wait::until_ok;

const CLASS: &str = "standard";
const CLAIM: &str = "data-demo-redis-0";
const POD: &str = "demo-redis-0";
/// Size of the volume that is filled, in MiB: more than redis' files of a cluster with few messages.
const SMALL: u32 = 48;

pub(super) async fn growth(runner: &mut Runner) -> Result<()> {
    settled(&runner.kube, MINIMAL.0, MINIMAL.1)
        .await
        .context("run case minimal first")?;
    let outcome = Box::pin(grow(runner)).await;
    allow_expansion(runner, false).await?;
    outcome
}

#[expect(clippy::print_stdout, reason = "a command line program")]
async fn grow(runner: &Runner) -> Result<()> {
    let kube = &runner.kube;
    let (namespace, name) = MINIMAL;
    let pods = store_pods(runner).await?;
    let now = kube.imcluster(namespace, name).await?["status"]["redis"]["volumeSize"].clone();
    let gibibytes = now
        .as_str()
        .and_then(|size| size.strip_suffix("Gi")?.parse::<u32>().ok());
    let size = format!(
        "{}Gi",
        gibibytes.with_context(|| format!("volumeSize is {now}"))? + 1
    );
    kube.edit(
        namespace,
        name,
        &json!({"spec": {"redis": {"storage": {"size": size}}}}),
    )
    .await?;
    wait_condition(runner, "Degraded", "VolumeNotGrown").await?;

    allow_expansion(runner, true).await?;
    wait_condition(runner, "Progressing", "VolumesGrowing").await?;
    let claim = kube.json(&["get", "pvc", CLAIM, "-n", namespace]).await?;
    ensure!(
        claim["spec"]["resources"]["requests"]["storage"] == size,
        "{CLAIM} requests {}",
        claim["spec"]
    );
    let recreated = async || {
        let set = kube
            .json(&["get", "statefulset", "demo-redis", "-n", namespace])
            .await?;
        let requested =
            &set["spec"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"];
        ensure!(*requested == size, "the template requests {requested}");
        Ok(())
    };
    until_ok("the StatefulSet is recreated", SETTLE_TIMEOUT, recreated).await?;
    // What a driver that can expand volumes would report: there is none here.
    let grown = json!({"status": {"capacity": {"storage": size}}}).to_string();
    let patch = [
        "patch",
        "pvc",
        CLAIM,
        "-n",
        namespace,
        "--subresource=status",
        "--type=merge",
        "-p",
        &grown,
    ];
    kube.kubectl(&patch).await?;
    settled(kube, namespace, name).await?;
    let after = kube.imcluster(namespace, name).await?["status"]["redis"]["volumeSize"].clone();
    ensure!(after == size, "volumeSize is {after}, not {size}");
    let same = store_pods(runner).await?;
    ensure!(same == pods, "pods were replaced: {pods:?} became {same:?}");
    println!("  redis' volume grew from {now} to {size}, its pods were not replaced");
    Ok(())
}

/// Gives redis' volume a file system of its own and fills it: writes must be refused and the reason reported, until there is
/// room again.
pub(super) async fn redis_disk_full(runner: &mut Runner) -> Result<()> {
    let kube = &runner.kube;
    settled(kube, MINIMAL.0, MINIMAL.1)
        .await
        .context("run case minimal first")?;
    let claim = kube.json(&["get", "pvc", CLAIM, "-n", MINIMAL.0]).await?;
    let volume = claim["spec"]["volumeName"]
        .as_str()
        .context("the claim is not bound")?;
    let volume = kube.json(&["get", "pv", volume]).await?["spec"].clone();
    let path = volume
        .pointer("/hostPath/path")
        .or_else(|| volume.pointer("/local/path"));
    let path = path
        .and_then(Value::as_str)
        .context("the volume is not a folder of its node: this case needs kind")?;
    let pod = kube.json(&["get", "pod", POD, "-n", MINIMAL.0]).await?;
    let node = pod["spec"]["nodeName"]
        .as_str()
        .context("redis is not scheduled")?;
    on_node(
        node,
        &format!(
            "cp -a {path} /var/tmp/kept && mount -t tmpfs -o size={SMALL}m tmpfs {path} && \
             chown --reference=/var/tmp/kept {path} && chmod --reference=/var/tmp/kept {path} && \
             cp -a /var/tmp/kept/. {path}"
        ),
    )
    .await?;
    let outcome = Box::pin(fill(runner, node, path)).await;
    // The current data is copied to the folder below the mount.
    on_node(
        node,
        &format!(
            "rm -rf /var/tmp/kept {path}/filler && cp -a {path} /var/tmp/kept && umount -l {path} && \
             cp -a /var/tmp/kept/. {path} && rm -rf /var/tmp/kept"
        ),
    )
    .await?;
    restart_redis(runner).await?;
    outcome
}

#[expect(clippy::print_stdout, reason = "a command line program")]
async fn fill(runner: &Runner, node: &str, path: &str) -> Result<()> {
    let kube = &runner.kube;
    let (namespace, name) = MINIMAL;
    restart_redis(runner).await?;
    let user = Participant::of(kube, MINIMAL, "full").await?;
    let sent = user.send(20).await?;
    on_node(
        node,
        &format!("dd if=/dev/zero of={path}/filler bs=64k 2>/dev/null; df {path} | tail -n 1"),
    )
    .await?;
    // The first write finds out that the disk is full, and is not answered.
    let more = tokio::time::timeout(Duration::from_secs(20), user.send(2_000)).await;
    ensure!(
        !matches!(more, Ok(Ok(_))),
        "a full disk accepted 2,000 messages"
    );
    wait_condition(runner, "Degraded", "DiskFailing").await?;
    print!(
        "{}",
        kube.kubectl(&["get", "imc", "-n", namespace, "-o", "wide"])
            .await?
    );
    on_node(node, &format!("rm {path}/filler")).await?;
    settled(kube, namespace, name).await?;
    user.send(1).await?;
    let found = user.history().await?;
    ensure!(
        found.len() > sent.len(),
        "{} messages are there, {} were acknowledged",
        found.len(),
        sent.len() + 1
    );
    println!("  recovered once there was room again");
    Ok(())
}

/// Replaces redis' pod and waits until the ImCluster has settled.
async fn restart_redis(runner: &Runner) -> Result<()> {
    runner
        .kube
        .kubectl(&["delete", "pod", POD, "-n", MINIMAL.0])
        .await?;
    settled(&runner.kube, MINIMAL.0, MINIMAL.1)
        .await
        .map(|_| ())
}

/// Waits until a condition is true for this reason, and prints its message.
#[expect(clippy::print_stdout, reason = "a command line program")]
async fn wait_condition(runner: &Runner, kind: &str, reason: &str) -> Result<()> {
    let (namespace, name) = MINIMAL;
    let mut message = String::new();
    let probe = async || {
        let found = runner.kube.imcluster(namespace, name).await?;
        let condition = condition(&found["status"], kind)?;
        let status = &condition["status"];
        ensure!(
            status == "True" && condition["reason"] == reason,
            "{kind} is {status}, reason {}",
            condition["reason"]
        );
        message = condition["message"].as_str().unwrap_or_default().to_owned();
        Ok(())
    };
    until_ok(
        &format!("{kind} with reason {reason}"),
        SETTLE_TIMEOUT,
        probe,
    )
    .await?;
    println!("  {kind} {reason}: {message}");
    Ok(())
}

/// The UIDs of the pods of redis and etcd.
async fn store_pods(runner: &Runner) -> Result<Vec<Option<String>>> {
    let mut pods = runner.kube.tier(MINIMAL.0, MINIMAL.1, "redis").await?;
    pods.extend(runner.kube.tier(MINIMAL.0, MINIMAL.1, "etcd").await?);
    Ok(pods.into_iter().map(|pod| pod.metadata.uid).collect())
}

async fn allow_expansion(runner: &Runner, allowed: bool) -> Result<()> {
    let patch = json!({"allowVolumeExpansion": allowed}).to_string();
    runner
        .kube
        .kubectl(&["patch", "storageclass", CLASS, "-p", &patch])
        .await
        .map(|_| ())
}

/// Runs a shell command on a node of a kind cluster.
async fn on_node(node: &str, command: &str) -> Result<String> {
    output(
        "docker",
        &["exec", node, "sh", "-c", command],
        "",
        Duration::from_secs(60),
    )
    .await
}
