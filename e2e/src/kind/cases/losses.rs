//! Pods and nodes that go away.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::api::DeleteParams;

use super::{Play, show, spoke_on};
use crate::kind::kube::until;
use crate::kind::stage::{PATIENCE, Played, Stage};
use crate::kind::witness::Life;

/// How often a redis master is killed at most.
const KILLS: u32 = 5;

impl Play {
    pub(super) async fn kill(&mut self, tier: &str) -> Result<()> {
        let stage = self.stage().await?;
        let victim = stage.a_pod(tier)?;
        lose(stage, &format!("{tier} pod {} killed", victim.name), &[victim]).await
    }

    /// Kills the master until the Sentinels make another pod the master: one that is back sooner than they believe it is
    /// gone stays what it was.
    pub(super) async fn redis_master_kill(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let old = master(stage).await?;
        let find = |name: &str| stage.witness.staying("redis").into_iter().find(|life| life.name == name);
        let victim = find(&old).with_context(|| format!("no pod {old}"))?;
        let lost = async {
            for _ in 0..KILLS {
                stage.kube.crash(&stage.namespace, &old).await?;
                let restarts = find(&old).map_or(0, |life| life.restarts.len());
                let done = async || {
                    let back = find(&old).is_some_and(|life| life.is_ready && life.restarts.len() > restarts);
                    ensure!(back || master(stage).await? != old, "{old} is neither back nor replaced");
                    Ok(())
                };
                until("the master is back or replaced", PATIENCE, done).await?;
                // While its pod starts, the status may know of no master.
                let mut now = None;
                until("the master is said", PATIENCE, async || {
                    now = Some(master(stage).await?);
                    Ok(())
                })
                .await?;
                if now.as_ref() != Some(&old) {
                    return Ok(());
                }
            }
            bail!("{old} is the master still after {KILLS} kills")
        };
        Box::pin(again(stage, &format!("redis master {old} killed"), &[victim], Box::pin(lost))).await
    }

    pub(super) async fn redis_all_deleted(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let mut victims = stage.witness.staying("redis");
        victims.extend(stage.witness.staying("sentinel"));
        delete(stage, "all redis and Sentinel pods deleted", &victims).await
    }

    /// Deletes a member's volume with the member. The pod of its name waits until the others have let the lost member go and
    /// taken it in again; then its new claim says that it belongs to a formed cluster.
    #[allow(clippy::print_stdout, reason = "a program for people")]
    pub(super) async fn etcd_member_lost(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let victim = stage.a_pod("etcd")?;
        let (kube, namespace) = (&stage.kube, stage.namespace.as_str());
        let claim = format!("data-{}", victim.name);
        let look = async || kube.json(&["get", "pvc", &claim, "-n", namespace]).await;
        let before = look().await?["metadata"]["uid"].clone();
        let lost = async {
            kube.kubectl(&["delete", "pvc", &claim, "-n", namespace, "--wait=false"]).await?;
            kube.kubectl(&["delete", "pod", &victim.name, "-n", namespace, "--wait=false"]).await?;
            let taken_in = async || {
                let claim = look().await?;
                ensure!(claim["metadata"]["uid"] != before, "the claim is the old one");
                ensure!(claim["metadata"]["annotations"]["imcluster.io/bootstrapped"] == "true", "no vote yet");
                Ok(())
            };
            let took = until("the member is replaced", PATIENCE, taken_in).await?;
            println!("  {} lost with its volume: another has its vote after {:.1} s", victim.name, took.as_secs_f64());
            Ok(())
        };
        let victims = std::slice::from_ref(&victim);
        Box::pin(again(stage, &format!("etcd member {} lost with its volume", victim.name), victims, Box::pin(lost)))
            .await
    }

    pub(super) async fn node_drain(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let node = stage.a_pod("connect")?.node;
        let played = Box::pin(drain(stage, &node)).await?;
        ensure!(played.figures.ended.iter().any(|life| life.tier == "connect"), "no connect pod was on {node}");
        Ok(())
    }

    /// The node of the redis master, which hands over before it goes.
    pub(super) async fn master_node_drain(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let old = master(stage).await?;
        let pod = stage.witness.staying("redis").into_iter().find(|life| life.name == old);
        let node = pod.with_context(|| format!("no pod {old}"))?.node;
        let played = Box::pin(drain(stage, &node)).await?;
        ensure!(master(stage).await? != old, "{old} is the master still");
        spoke_on(&played)
    }
}

/// Drains a node and lets it in again. Clients find their way in without failing again and again.
async fn drain(stage: &Stage, node: &str) -> Result<Played> {
    let played = stage
        .play(&format!("node {node} drained"), async {
            let words = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=280s"];
            let drained = stage.kube.kubectl(&words).await;
            stage.kube.kubectl(&["uncordon", node]).await?;
            drained?;
            stage.settled().await.map(|_| ())
        })
        .await?;
    show(&played)?;
    let (failed, clients) = (played.audit.failed_attempts, stage.clients());
    ensure!(failed <= clients, "{failed} attempts to connect failed, more than there are clients ({clients})");
    Ok(played)
}

/// The pod that is the redis master by the ImCluster's status: its name, or the name in DNS that begins with it.
async fn master(stage: &Stage) -> Result<String> {
    let found = stage.kube.imcluster(&stage.namespace, &stage.name).await?;
    let master = found["status"]["redis"]["master"].as_str().context("status.redis.master is not said")?;
    Ok(master.split('.').next().unwrap_or(master).to_owned())
}

/// Kills the containers of pods, each at the next instant, waits until all that was there is there again, and judges.
async fn lose(stage: &Stage, what: &str, victims: &[Life]) -> Result<()> {
    let lost = async { for_each(victims, async |victim| stage.kube.crash(&stage.namespace, &victim.name).await).await };
    Box::pin(again(stage, what, victims, Box::pin(lost))).await
}

/// Deletes pods, all at once, and goes on as [`lose`].
async fn delete(stage: &Stage, what: &str, victims: &[Life]) -> Result<()> {
    let pods = stage.kube.pods(&stage.namespace);
    let lost = async {
        for_each(victims, async |victim| {
            pods.delete(&victim.name, &DeleteParams::default().grace_period(0)).await?;
            Ok(())
        })
        .await
    };
    Box::pin(again(stage, what, victims, Box::pin(lost))).await
}

async fn for_each(victims: &[Life], mut harm: impl AsyncFnMut(&Life) -> Result<()>) -> Result<()> {
    for victim in victims {
        harm(victim).await.with_context(|| victim.name.clone())?;
    }
    Ok(())
}

async fn again(stage: &Stage, what: &str, victims: &[Life], lost: impl Future<Output = Result<()>>) -> Result<()> {
    let ready = |tier: &str| stage.witness.staying(tier).into_iter().filter(|life| life.is_ready).count();
    let before: Vec<usize> = victims.iter().map(|victim| ready(&victim.tier)).collect();
    let played = stage
        .play(what, async {
            lost.await?;
            let hurt = async || {
                let lives = stage.witness.lives();
                for victim in victims {
                    let hurt = lives.iter().any(|life| {
                        life.uid == victim.uid && (life.gone.is_some() || life.restarts.len() > victim.restarts.len())
                    });
                    ensure!(hurt, "{} runs on", victim.name);
                }
                Ok(())
            };
            until("the victims are hurt", Duration::from_secs(90), hurt).await?;
            let whole = async || {
                for (victim, before) in victims.iter().zip(&before) {
                    let count = ready(&victim.tier);
                    ensure!(count == *before, "{count} pods of {} are ready, not {before}", victim.tier);
                }
                Ok(())
            };
            until("all that was there is there again", PATIENCE, whole).await?;
            stage.settled().await.map(|_| ())
        })
        .await?;
    show(&played)
}
