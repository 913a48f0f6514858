//! More pods, fewer pods, and nothing at all.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::json;

use super::{OPERATOR, Play, SYSTEM, show};
use crate::kind::kube::{run, until};
use crate::kind::stage::{PATIENCE, Stage};
use crate::kind::witness::Life;

/// How long an autoscaler's choice is looked at.
const HELD: Duration = Duration::from_secs(15);
/// How long nobody may write.
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
    /// Empty: whoever it is was not believed.
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

impl Play {
    pub(super) async fn scale(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let before = stage.witness.staying("connect").len();
        let spread = stage.a_pod("connect")?;
        let played = stage
            .play(&format!("kubectl scale imc: {before}, {}, {before}", before + 2), async {
                scale(stage, before + 2).await?;
                // Clients do not go to new pods by themselves. One old pod less, and its clients are spread over all others.
                stage.kube.pods(&stage.namespace).delete(&spread.name, &DeleteParams::default()).await?;
                let probe = async || {
                    let there =
                        stage.witness.lives().into_iter().any(|life| life.uid == spread.uid && life.gone.is_none());
                    ensure!(!there, "{} is still there", spread.name);
                    Ok(())
                };
                until("the deleted pod is gone", PATIENCE, probe).await?;
                stage.settled().await?;
                scale(stage, before).await
            })
            .await?;
        show(&played)?;
        let victim = |life: &&Life| life.tier == "connect" && life.uid != spread.uid;
        let ended: Vec<_> = played.figures.ended.iter().filter(victim).collect();
        ensure!(ended.len() == 2, "{} pods ended, not 2", ended.len());
        ensure!(ended.iter().any(|life| life.held().unwrap_or(0) > 0), "no victim held a client");
        ensure!(played.figures.most_ending == 1, "{} pods drained at a time", played.figures.most_ending);
        for life in ended {
            let well =
                life.end.as_ref().is_some_and(|end| end.code == 0 && life.deadline.is_some_and(|at| end.at < at));
            ensure!(well, "{} did not end by itself and in time: {:?}", life.name, life.end);
        }
        Ok(())
    }

    /// An autoscaler that wants one logic pod more than the spec says is let have its way; without it the spec counts again.
    pub(super) async fn logic_autoscaled(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let before = stage.witness.staying("logic").len();
        let name = format!("{}-logic", stage.name);
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": name});
        let spec =
            json!({"scaleTargetRef": target, "minReplicas": before + 1, "maxReplicas": before + 1, "metrics": [cpu]});
        let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": name, "namespace": stage.namespace}, "spec": spec});
        let has = async |count: usize| {
            let there = async || {
                let ready = stage.witness.staying("logic").into_iter().filter(|life| life.is_ready).count();
                ensure!(ready == count, "{ready} pods of logic are ready, not {count}");
                Ok(())
            };
            until("logic has as many pods as wanted", PATIENCE, there).await?;
            stage.settled().await
        };
        let played = stage
            .play("an autoscaler of logic comes and goes", async {
                stage.kube.apply(&scaler.to_string()).await?;
                has(before + 1).await?;
                // An operator that goes by the spec alone would take it back within a second or two.
                tokio::time::sleep(HELD).await;
                has(before + 1).await?;
                stage.kube.kubectl(&["delete", "hpa", &name, "-n", &stage.namespace]).await?;
                has(before).await.map(|_| ())
            })
            .await?;
        show(&played)?;
        let ended = played.figures.ended.iter().filter(|life| life.tier == "logic").count();
        ensure!(ended == 1, "{ended} pods of logic ended, not the one that the autoscaler had wanted");
        Ok(())
    }

    #[allow(clippy::print_stdout, reason = "a program for people")]
    pub(super) async fn quiet(&mut self) -> Result<()> {
        let clients = self.options.connections;
        let stage = self.stage().await?;
        stage.settled().await?;
        let counted = async || {
            let found = stage.kube.imcluster(&stage.namespace, &stage.name).await?;
            let count = found["status"]["connect"]["connections"].as_u64().unwrap_or(0) as usize;
            // The operator does not write for less than 5 %.
            ensure!(20 * count.abs_diff(clients) <= clients, "the status says {count} connections");
            Ok(())
        };
        until("the status tells how many are connected", Duration::from_secs(120), counted).await?;
        let nodes =
            stage.kube.kubectl(&["get", "nodes", "-o", "name", "-l", "node-role.kubernetes.io/control-plane"]).await?;
        let node =
            nodes.trim().strip_prefix("node/").context("no control plane: this case needs a kind cluster")?.to_owned();
        let seen = audit_log(&node).await?.len();
        tokio::time::sleep(QUIET).await;
        let log = audit_log(&node).await?;
        let own = format!("system:serviceaccount:{SYSTEM}:{OPERATOR}");
        let mut writes: BTreeMap<String, usize> = BTreeMap::new();
        let mut not_lease = 0;
        for event in log.iter().skip(seen).filter(|event| event.user.username == own) {
            let object = event
                .object
                .as_ref()
                .map_or_else(String::new, |o| format!("{}/{} {}", o.resource, o.subresource, o.name));
            let lease = event.object.as_ref().is_some_and(|object| object.resource == "leases");
            if !lease {
                not_lease += 1;
                println!("  {} {} {object}", event.at, event.verb);
            }
            *writes.entry(format!("{} {object}", event.verb)).or_default() += 1;
        }
        for (what, count) in &writes {
            println!("  {count} x {what}");
        }
        ensure!(!writes.is_empty(), "not even the Lease was written: is {own} the operator's account?");
        ensure!(not_lease == 0, "{not_lease} writes of the operator that are not its Lease");
        Ok(())
    }
}

/// The API server's log of writes, which our kind clusters keep on their control plane.
async fn audit_log(node: &str) -> Result<Vec<AuditEvent>> {
    let words = ["exec", node, "cat", "/var/log/kubernetes/audit.log"];
    let text = run("docker", &words, "", Duration::from_secs(60)).await?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

async fn scale(stage: &Stage, replicas: usize) -> Result<()> {
    let (object, count) = (format!("imc/{}", stage.name), format!("--replicas={replicas}"));
    stage.kube.kubectl(&["scale", &object, &count, "-n", &stage.namespace]).await?;
    stage.settled().await?;
    let (staying, ending) = (stage.witness.staying("connect").len(), stage.witness.ending("connect").len());
    ensure!(
        staying == replicas && ending == 0,
        "{staying} pods stay and {ending} end, though the ImCluster says it is as asked"
    );
    Ok(())
}
