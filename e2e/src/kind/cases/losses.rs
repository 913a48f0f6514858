//! Pods and nodes that go away.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use kube::api::DeleteParams;

use super::{Play, show};
use crate::kind::kube::until;
use crate::kind::stage::{PATIENCE, Stage};
use crate::kind::witness::Life;

impl Play {
    pub(super) async fn kill(&mut self, tier: &str) -> Result<()> {
        let stage = self.stage().await?;
        let victim = stage.a_pod(tier)?;
        lose(stage, &format!("{tier} pod {} killed", victim.name), &[victim]).await
    }

    pub(super) async fn redis_master_kill(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let status = stage.kube.imcluster(&stage.namespace, &stage.name).await?;
        let master =
            status["status"]["redis"]["master"].as_str().context("status.redis.master is not said")?.to_owned();
        let lives = stage.witness.staying("redis");
        let victim = lives.into_iter().find(|life| life.name == master).with_context(|| format!("no pod {master}"))?;
        lose(stage, &format!("redis master {master} killed"), &[victim]).await?;
        let status = stage.kube.imcluster(&stage.namespace, &stage.name).await?;
        ensure!(status["status"]["redis"]["master"] != master.as_str(), "{master} is the master still");
        Ok(())
    }

    pub(super) async fn redis_all_deleted(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let mut victims = stage.witness.staying("redis");
        victims.extend(stage.witness.staying("sentinel"));
        lose(stage, "all redis and Sentinel pods deleted", &victims).await
    }

    pub(super) async fn node_drain(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let node = stage.a_pod("connect")?.node;
        let played = stage
            .play(&format!("node {node} drained"), async {
                let words = ["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=280s"];
                let drained = stage.kube.kubectl(&words).await;
                stage.kube.kubectl(&["uncordon", &node]).await?;
                drained?;
                stage.settled().await.map(|_| ())
            })
            .await?;
        show(&played)?;
        ensure!(played.figures.ended.iter().any(|life| life.tier == "connect"), "no connect pod was on {node}");
        Ok(())
    }
}

/// Kills pods without notice, waits until others stand in for them, and judges.
async fn lose(stage: &Stage, what: &str, victims: &[Life]) -> Result<()> {
    let played = stage
        .play(what, async {
            let now = DeleteParams::default().grace_period(0);
            for victim in victims {
                stage.kube.pods(&stage.namespace).delete(&victim.name, &now).await?;
            }
            let probe = async || {
                let lives = stage.witness.lives();
                for victim in victims {
                    let gone = lives.iter().any(|life| life.uid == victim.uid && life.gone.is_some());
                    ensure!(gone, "{} is still there", victim.name);
                }
                Ok(())
            };
            until("the victims are gone", Duration::from_secs(60), probe).await?;
            // The operator is to see that something is missing before it can be settled again.
            let missing = async || {
                for victim in victims {
                    let stands_in = stage.witness.staying(&victim.tier).into_iter();
                    let count = stands_in.filter(|life| life.ready.is_some() && life.uid != victim.uid).count();
                    let wanted = victims.iter().filter(|other| other.tier == victim.tier).count();
                    ensure!(count >= wanted, "{count} pods of {} are ready", victim.tier);
                }
                Ok(())
            };
            until("others stand in", PATIENCE, missing).await?;
            stage.settled().await.map(|_| ())
        })
        .await?;
    show(&played)
}
