//! Pods and nodes that go away.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::api::DeleteParams;

use crate::kubernetes::pod_recorder::PodRecord;
use crate::kubernetes::report::EventReport;
use crate::kubernetes::runner::Runner;
use crate::kubernetes::scenario::{SETTLE_TIMEOUT, Scenario};
use crate::wait::until_ok;

/// How often a redis master is killed at most.
const MAX_KILLS: u32 = 5;

pub(super) async fn kill(runner: &mut Runner, tier: &str) -> Result<()> {
    let scenario = runner.scenario().await?;
    let victim = scenario.ready_pod(tier)?;
    let kill = scenario.kube.crash(&scenario.namespace, &victim.name);
    lose(
        scenario,
        &format!("{tier} pod {} killed", victim.name),
        std::slice::from_ref(&victim),
        kill,
    )
    .await
}

/// Kills the master until the Sentinels promote another pod: a master that is back before they notice remains the master.
pub(super) async fn redis_master_kill(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let old = master(scenario).await?;
    let find = |name: &str| {
        scenario
            .pods
            .running("redis")
            .into_iter()
            .find(|pod| pod.name == name)
    };
    let victim = find(&old).with_context(|| format!("no pod {old}"))?;
    let kills = async {
        for _ in 0..MAX_KILLS {
            scenario.kube.crash(&scenario.namespace, &old).await?;
            let restarts = find(&old).map_or(0, |pod| pod.restarts.len());
            let done = async || {
                let back =
                    find(&old).is_some_and(|pod| pod.is_ready && pod.restarts.len() > restarts);
                ensure!(
                    back || master(scenario).await? != old,
                    "{old} is neither back nor replaced"
                );
                Ok(())
            };
            until_ok("the master is back or replaced", SETTLE_TIMEOUT, done).await?;
            // While its pod starts, the status may name no master.
            let mut current = None;
            until_ok("the status names a master", SETTLE_TIMEOUT, async || {
                current = Some(master(scenario).await?);
                Ok(())
            })
            .await?;
            if current.as_ref() != Some(&old) {
                return Ok(());
            }
        }
        bail!("{old} is still the master after {MAX_KILLS} kills")
    };
    let what = format!("redis master {old} killed");
    Box::pin(lose(
        scenario,
        &what,
        std::slice::from_ref(&victim),
        Box::pin(kills),
    ))
    .await
}

pub(super) async fn redis_all_deleted(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let mut victims = scenario.pods.running("redis");
    victims.extend(scenario.pods.running("sentinel"));
    let delete = async {
        let pods = scenario.kube.pods(&scenario.namespace);
        for victim in &victims {
            let at_once = DeleteParams::default().grace_period(0);
            pods.delete(&victim.name, &at_once)
                .await
                .with_context(|| victim.name.clone())?;
        }
        Ok(())
    };
    Box::pin(lose(
        scenario,
        "all redis and Sentinel pods deleted",
        &victims,
        Box::pin(delete),
    ))
    .await
}

/// Deletes a member with its volume. The new pod waits until the other members have removed the lost member and added it
/// again; then its new claim is annotated as belonging to a formed cluster.
#[expect(clippy::print_stdout, reason = "a command line program")]
pub(super) async fn etcd_member_lost(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let victim = scenario.ready_pod("etcd")?;
    let kube = &scenario.kube;
    let namespace = scenario.namespace.as_str();
    let claim = format!("data-{}", victim.name);
    let read_claim = async || kube.json(&["get", "pvc", &claim, "-n", namespace]).await;
    let before = read_claim().await?["metadata"]["uid"].clone();
    let delete = async {
        kube.kubectl(&["delete", "pvc", &claim, "-n", namespace, "--wait=false"])
            .await?;
        kube.kubectl(&[
            "delete",
            "pod",
            &victim.name,
            "-n",
            namespace,
            "--wait=false",
        ])
        .await?;
        let replaced = async || {
            let claim = read_claim().await?;
            ensure!(
                claim["metadata"]["uid"] != before,
                "the claim is the old one"
            );
            let bootstrapped = &claim["metadata"]["annotations"]["imcluster.io/bootstrapped"];
            ensure!(bootstrapped == "true", "the new member has no vote yet");
            Ok(())
        };
        let took = until_ok("the member is replaced", SETTLE_TIMEOUT, replaced).await?;
        println!(
            "  {} lost with its volume: replaced after {:.1} s",
            victim.name,
            took.as_secs_f64()
        );
        Ok(())
    };
    let what = format!("etcd member {} lost with its volume", victim.name);
    Box::pin(lose(
        scenario,
        &what,
        std::slice::from_ref(&victim),
        Box::pin(delete),
    ))
    .await
}

pub(super) async fn short_grace(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let event = async {
        for pod in scenario.pods.running("connect") {
            let soon = DeleteParams::default().grace_period(1);
            scenario
                .kube
                .pods(&scenario.namespace)
                .delete(&pod.name, &soon)
                .await?;
            tokio::time::sleep(Duration::from_secs(3)).await;
            scenario.settled().await?;
        }
        Ok(())
    };
    let report = scenario
        .run(
            "connect pods deleted with a grace period of one second",
            event,
        )
        .await?;
    ensure!(
        report.run.away_ms.count > 0,
        "no outage was recorded, though every connection was cut"
    );
    Ok(())
}

pub(super) async fn node_drain(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let node = scenario.ready_pod("connect")?.node;
    let report = Box::pin(drain(scenario, &node)).await?;
    ensure!(
        report
            .measurements
            .ended
            .iter()
            .any(|pod| pod.tier == "connect"),
        "no connect pod was on {node}"
    );
    Ok(())
}

/// Drains the node of the redis master, which must fail over before its pod is evicted.
pub(super) async fn master_node_drain(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let old = master(scenario).await?;
    let pod = scenario
        .pods
        .running("redis")
        .into_iter()
        .find(|pod| pod.name == old);
    let node = pod.with_context(|| format!("no pod {old}"))?.node;
    let report = Box::pin(drain(scenario, &node)).await?;
    ensure!(master(scenario).await? != old, "{old} is still the master");
    report.require_no_silence()
}

/// Drains a node and uncordons it. Clients must reconnect without many failed attempts.
async fn drain(scenario: &Scenario, node: &str) -> Result<EventReport> {
    let event = async {
        let arguments = [
            "drain",
            node,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--timeout=280s",
        ];
        let drained = scenario.kube.kubectl(&arguments).await;
        scenario.kube.kubectl(&["uncordon", node]).await?;
        drained?;
        scenario.settled().await.map(|_| ())
    };
    let report = scenario.run(&format!("node {node} drained"), event).await?;
    let failed = report.run.failed_attempts;
    let clients = scenario.clients();
    ensure!(
        failed <= clients,
        "{failed} failed attempts to connect of {clients} clients"
    );
    Ok(report)
}

/// The pod that is the redis master by the ImCluster's status, which holds its name or its DNS name.
async fn master(scenario: &Scenario) -> Result<String> {
    let found = scenario
        .kube
        .imcluster(&scenario.namespace, &scenario.name)
        .await?;
    let master = found["status"]["redis"]["master"]
        .as_str()
        .context("status.redis.master is not set")?;
    Ok(master.split('.').next().unwrap_or(master).to_owned())
}

/// Runs `fault`, waits until each victim is gone or restarted and as many pods are ready as before, and checks.
async fn lose(
    scenario: &Scenario,
    what: &str,
    victims: &[PodRecord],
    fault: impl Future<Output = Result<()>>,
) -> Result<()> {
    let ready = |tier: &str| {
        scenario
            .pods
            .running(tier)
            .into_iter()
            .filter(|pod| pod.is_ready)
            .count()
    };
    let before: Vec<usize> = victims.iter().map(|victim| ready(&victim.tier)).collect();
    let event = async {
        fault.await?;
        let lost = async || {
            let pods = scenario.pods.records();
            for victim in victims {
                let lost = pods.iter().any(|pod| {
                    pod.uid == victim.uid
                        && (pod.gone.is_some() || pod.restarts.len() > victim.restarts.len())
                });
                ensure!(lost, "{} is still running", victim.name);
            }
            Ok(())
        };
        until_ok(
            "the victims are gone or restarted",
            Duration::from_secs(90),
            lost,
        )
        .await?;
        let recovered = async || {
            for (victim, before) in victims.iter().zip(&before) {
                let count = ready(&victim.tier);
                ensure!(
                    count == *before,
                    "{count} pods of {} are ready, not {before}",
                    victim.tier
                );
            }
            Ok(())
        };
        until_ok(
            "as many pods are ready as before",
            SETTLE_TIMEOUT,
            recovered,
        )
        .await?;
        scenario.settled().await.map(|_| ())
    };
    scenario.run(what, event).await.map(|_| ())
}
