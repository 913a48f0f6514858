//! More pods and fewer pods.

use std::time::Duration;

use anyhow::{Result, ensure};
use kube::api::DeleteParams;
use serde_json::json;

use crate::kubernetes::pod_recorder::PodRecord;
use crate::kubernetes::runner::Runner;
use crate::kubernetes::scenario::{SETTLE_TIMEOUT, Scenario};
use crate::wait::until_ok;

/// How long the operator must leave an autoscaler's choice alone.
const HELD: Duration = Duration::from_secs(15);

pub(super) async fn scale(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let before = scenario.pods.running("connect").len();
    let spread = scenario.ready_pod("connect")?;
    let event = async {
        scale_to(scenario, before + 2).await?;
        // Clients do not move to new pods by themselves: those of a deleted pod are spread over all others.
        scenario
            .kube
            .pods(&scenario.namespace)
            .delete(&spread.name, &DeleteParams::default())
            .await?;
        scenario.all_gone(std::slice::from_ref(&spread.uid)).await?;
        scenario.settled().await?;
        scale_to(scenario, before).await
    };
    let report = scenario
        .run(
            &format!("kubectl scale imc: {before}, {}, {before}", before + 2),
            event,
        )
        .await?;
    let is_victim = |pod: &&PodRecord| pod.tier == "connect" && pod.uid != spread.uid;
    let ended: Vec<_> = report.measurements.ended.iter().filter(is_victim).collect();
    ensure!(ended.len() == 2, "{} pods ended, not 2", ended.len());
    let had_connections = |pod: &&PodRecord| pod.connections_at_deletion().unwrap_or(0) > 0;
    ensure!(
        ended.iter().any(had_connections),
        "no removed pod had connections"
    );
    let most = report.measurements.most_terminating;
    ensure!(most == 1, "{most} pods drained at a time");
    for pod in ended {
        ensure!(
            pod.exited_in_time(),
            "{} did not exit in time: {:?}",
            pod.name,
            pod.end
        );
    }
    Ok(())
}

async fn scale_to(scenario: &Scenario, replicas: usize) -> Result<()> {
    let object = format!("imc/{}", scenario.name);
    let count = format!("--replicas={replicas}");
    scenario
        .kube
        .kubectl(&["scale", &object, &count, "-n", &scenario.namespace])
        .await?;
    scenario.settled().await?;
    let running = scenario.pods.running("connect").len();
    let terminating = scenario.pods.terminating("connect").len();
    ensure!(
        running == replicas && terminating == 0,
        "{running} pods are running and {terminating} terminating, though the ImCluster has settled at {replicas}"
    );
    Ok(())
}

/// The operator must accept an autoscaler that wants one logic pod more than the spec, and go by the spec again without it.
pub(super) async fn logic_autoscaled(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let before = scenario.pods.running("logic").len();
    let name = format!("{}-logic", scenario.name);
    let utilization = json!({"type": "Utilization", "averageUtilization": 80});
    let scaler = json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "namespace": scenario.namespace},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": before + 1,
            "maxReplicas": before + 1,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}],
        },
    });
    let has = async |count: usize| {
        let probe = async || {
            let ready = scenario
                .pods
                .running("logic")
                .into_iter()
                .filter(|pod| pod.is_ready)
                .count();
            ensure!(
                ready == count,
                "{ready} pods of logic are ready, not {count}"
            );
            Ok(())
        };
        until_ok(
            "the wanted number of logic pods is ready",
            SETTLE_TIMEOUT,
            probe,
        )
        .await?;
        scenario.settled().await
    };
    let event = async {
        scenario.kube.apply(&scaler.to_string()).await?;
        has(before + 1).await?;
        // An operator that goes by the spec alone would undo it within a second or two.
        tokio::time::sleep(HELD).await;
        has(before + 1).await?;
        scenario
            .kube
            .kubectl(&["delete", "hpa", &name, "-n", &scenario.namespace])
            .await?;
        has(before).await.map(|_| ())
    };
    let report = scenario
        .run("an autoscaler of logic added and removed", event)
        .await?;
    let ended = report
        .measurements
        .ended
        .iter()
        .filter(|pod| pod.tier == "logic")
        .count();
    ensure!(
        ended == 1,
        "{ended} pods of logic ended, not only the one that the autoscaler wanted"
    );
    Ok(())
}
