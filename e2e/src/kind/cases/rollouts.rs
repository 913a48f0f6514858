//! New versions under the audit.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::{HA, OPERATOR, Play, SYSTEM, kill_operator, show, tag};
use crate::kind::balancer::Balancer;
use crate::kind::kube::until;
use crate::kind::stage::{PATIENCE, Played, Stage, Way, settled};

/// The greatest share of deliveries that may come by resuming in a rollout that has time to drain.
const RESUMED: f64 = 0.05;
/// The greatest number of moves of one client in a rollout that the operator guides.
const MOVES: u64 = 2;

impl Play {
    pub(super) async fn rollouts(&mut self, tier: &'static str) -> Result<()> {
        let (version, next, count) = (self.options.version.clone(), self.options.next.clone(), self.options.rollouts);
        for number in 0..count {
            let stage = self.spread_stage().await?;
            let now = stage.a_pod(tier)?.version.context("no version is known")?;
            let to = if now == next { version.clone() } else { next.clone() };
            rollout(stage, tier, &now, &to).await.with_context(|| format!("rollout {} of {count}", number + 1))?;
        }
        Ok(())
    }

    /// The Service is as clouds have it for as long as this takes.
    pub(super) async fn rollouts_local(&mut self) -> Result<()> {
        self.stage().await?;
        self.serve(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"})).await?;
        let played = Box::pin(self.roll_behind_balancer()).await;
        self.stage = None;
        self.serve(json!({"type": "NodePort", "externalTrafficPolicy": "Cluster"})).await?;
        played
    }

    async fn serve(&self, service: Value) -> Result<()> {
        self.kube.edit(HA.0, HA.1, &json!({"spec": {"connect": {"service": service}}})).await?;
        settled(&self.kube, HA.0, HA.1).await.map(|_| ())
    }

    #[allow(clippy::print_stdout, reason = "a program for people")]
    async fn roll_behind_balancer(&mut self) -> Result<()> {
        let count = self.options.rollouts;
        for number in 0..count {
            let (from, to) = self.other("connect").await?;
            let balancer = Balancer::before(&self.kube, HA.0, &format!("{}-connect", HA.1)).await?;
            self.gather(Way::Balancer(balancer)).await?;
            let stage = self.stage().await?;
            let pods = stage.witness.staying("connect").len();
            let what = format!("rollout of connect from {from} to {to} behind a balancer");
            let played = Box::pin(stage.play(&what, async {
                stage.edit(&tag("connect", &to)).await?;
                stage.all_run(&["connect"], &to).await
            }))
            .await?;
            show(&played)?;
            if let Way::Balancer(balancer) = &stage.way {
                println!("  the balancer cut {} connections of nodes that were not healthy any more", balancer.cut());
            }
            let mut faults = played.figures.faults_of_rollout("connect", &from, &to, pods);
            // Every pod takes clients until it ends: who moves may come to one that ends next.
            faults.extend(restless(&played, stage.clients(), pods as u64));
            ensure!(faults.is_empty(), "rollout {} of {count}:\n  {}", number + 1, faults.join("\n  "));
        }
        Ok(())
    }

    pub(super) async fn upgrade(&mut self) -> Result<()> {
        let (version, next) = (self.options.version.clone(), self.options.next.clone());
        let stage = self.spread_stage().await?;
        // What earlier rollouts asked for by tag is asked for by the version again.
        let untag = json!({"spec": {"images": {"connect": {"tag": version}, "logic": {"tag": version}}}});
        stage.edit(&untag).await?;
        let untag = json!({"spec": {"version": version, "images": {"connect": {"tag": null}, "logic": {"tag": null}}}});
        stage.edit(&untag).await?;
        stage.all_run(&["connect", "logic"], &version).await?;
        let (connects, logics) = (stage.witness.staying("connect").len(), stage.witness.staying("logic").len());
        let played = stage
            .play(&format!("upgrade from {version} to {next}"), async {
                stage.edit(&json!({"spec": {"version": next}})).await?;
                stage.all_run(&["connect", "logic"], &next).await
            })
            .await?;
        show(&played)?;
        let logic_last =
            played.figures.ended.iter().filter(|life| life.tier == "logic").filter_map(|l| l.gone).fold(0.0, f64::max);
        let connect_first = played
            .figures
            .came
            .iter()
            .filter(|life| life.tier == "connect")
            .filter_map(|l| l.ready)
            .fold(f64::MAX, f64::min);
        ensure!(logic_last <= connect_first, "connect began before logic was done");
        judge_rollout(&played, "logic", &version, &next, logics)?;
        judge_rollout(&played, "connect", &version, &next, connects)
    }

    pub(super) async fn operator_killed(&mut self) -> Result<()> {
        let (from, to) = self.other("connect").await?;
        let stage = self.spread_stage().await?;
        let pods = stage.witness.staying("connect").len();
        let played = stage
            .play("a rollout of connect with the operator killed again and again", async {
                stage.kube.edit(&stage.namespace, &stage.name, &tag("connect", &to)).await?;
                for _ in 0..pods {
                    let drains = async || {
                        if stage.witness.ending("connect").is_empty() { bail!("nobody drains") } else { Ok(()) }
                    };
                    until("a connect pod drains", Duration::from_secs(120), drains).await?;
                    kill_operator(&stage.kube).await?;
                    tokio::time::sleep(Duration::from_secs(8)).await;
                }
                stage.all_run(&["connect"], &to).await?;
                stage.settled().await.map(|_| ())
            })
            .await?;
        show(&played)?;
        judge_rollout(&played, "connect", &from, &to, pods)
    }

    pub(super) async fn operator_absent(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        scale_operator(stage, 0).await?;
        let played = stage
            .play("kubectl rollout restart of connect without an operator", async {
                let deployment = format!("deployment/{}-connect", stage.name);
                let old: Vec<String> = stage.witness.staying("connect").into_iter().map(|life| life.uid).collect();
                stage.kube.kubectl(&["rollout", "restart", &deployment, "-n", &stage.namespace]).await?;
                let probe = async || {
                    let left =
                        stage.witness.lives().into_iter().filter(|life| old.contains(&life.uid) && life.gone.is_none());
                    let left: Vec<String> = left.map(|life| life.name).collect();
                    ensure!(left.is_empty(), "{left:?} are still there");
                    Ok(())
                };
                until("all old pods are gone", PATIENCE, probe).await.map(|_| ())
            })
            .await;
        scale_operator(stage, 2).await?;
        stage.settled().await?;
        let played = played?;
        show(&played)?;
        let forced: Vec<&str> = ends_badly(&played);
        ensure!(forced.is_empty(), "ended badly: {forced:?}");
        Ok(())
    }

    pub(super) async fn short_grace(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let played = stage
            .play("connect pods deleted with a grace period of one second", async {
                for life in stage.witness.staying("connect") {
                    let soon = DeleteParams::default().grace_period(1);
                    stage.kube.pods(&stage.namespace).delete(&life.name, &soon).await?;
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    stage.settled().await?;
                }
                Ok(())
            })
            .await?;
        show(&played)?;
        ensure!(
            played.audit.away_ms.count > 0,
            "nobody was away, though every connection was cut: the audit does not see"
        );
        Ok(())
    }

    /// The version that a tier runs, and the other one.
    pub(super) async fn other(&mut self, tier: &str) -> Result<(String, String)> {
        let (version, next) = (self.options.version.clone(), self.options.next.clone());
        let now = self.stage().await?.a_pod(tier)?.version.context("no version is known")?;
        let to = if now == next { version } else { next };
        Ok((now, to))
    }
}

async fn rollout(stage: &Stage, tier: &'static str, from: &str, to: &str) -> Result<()> {
    let pods = stage.witness.staying(tier).len();
    let event = async {
        stage.edit(&tag(tier, to)).await?;
        stage.all_run(&[tier], to).await
    };
    let played = stage.play(&format!("rollout of {tier} from {from} to {to}"), event).await?;
    show(&played)?;
    judge_rollout(&played, tier, from, to, pods)
}

/// Whether clients were sent about more than so often, or stood before closed doors.
fn restless(played: &Played, clients: u64, moves: u64) -> Vec<String> {
    let audit = &played.audit;
    let mut faults = Vec::new();
    if audit.most_moves > moves {
        faults.push(format!("a client moved {} times", audit.most_moves));
    }
    if audit.failed_attempts > clients {
        faults.push(format!("{} attempts to connect failed, more than there are clients", audit.failed_attempts));
    }
    faults
}

fn judge_rollout(played: &Played, tier: &str, from: &str, to: &str, pods: usize) -> Result<()> {
    let mut faults = played.figures.faults_of_rollout(tier, from, to, pods);
    let audit = &played.audit;
    faults.extend(audit.defects());
    let share = audit.resumed as f64 / (audit.resumed + audit.live).max(1) as f64;
    if share >= RESUMED {
        faults.push(format!("{:.1} % of the deliveries came by resuming", 100.0 * share));
    }
    if tier == "connect" && audit.moves == 0 {
        faults.push("nobody moved".to_owned());
    }
    if audit.most_moves > MOVES {
        faults.push(format!("a client moved {} times", audit.most_moves));
    }
    ensure!(faults.is_empty(), "not as a rollout must be:\n  {}", faults.join("\n  "));
    Ok(())
}

/// Names of connect pods that did not end by themselves and in time.
fn ends_badly(played: &Played) -> Vec<&str> {
    let bad = played.figures.ended.iter().filter(|life| {
        let well = life.end.as_ref().is_some_and(|end| end.code == 0 && life.deadline.is_some_and(|d| end.at < d));
        life.tier == "connect" && !well
    });
    bad.map(|life| life.name.as_str()).collect()
}

async fn scale_operator(stage: &Stage, replicas: u32) -> Result<()> {
    let deployment = format!("deployment/{OPERATOR}");
    let count = format!("--replicas={replicas}");
    stage.kube.kubectl(&["scale", &deployment, &count, "-n", SYSTEM]).await?;
    if replicas > 0 {
        stage.kube.kubectl(&["rollout", "status", &deployment, "-n", SYSTEM, "--timeout=120s"]).await?;
        return Ok(());
    }
    let probe = async || {
        let left = stage.kube.kubectl(&["get", "pods", "-n", SYSTEM, "-o", "name"]).await?;
        ensure!(left.trim().is_empty(), "still there: {left}");
        Ok(())
    };
    until("the operator is gone", Duration::from_secs(90), probe).await.map(|_| ())
}
