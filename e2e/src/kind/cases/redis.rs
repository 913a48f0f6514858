//! Redis rolled under the audit: its settings, its resources and its image, for every durability.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Play, kill_operator, none_restarted, show, spoke_on};
use crate::kind::kube::until;
use crate::kind::stage::{PATIENCE, Played, Stage};
use crate::kind::witness::Life;

/// How long a replica stands still: longer than Sentinels wait, shorter than its probes do.
const STANDSTILL: Duration = Duration::from_secs(15);

impl Play {
    /// Each durability's own change, then another memory limit, then another image where the nodes have one. Ends with what
    /// the sample has.
    pub(super) async fn redis_rollout(&mut self) -> Result<()> {
        let tags = self.options.redis_tag.clone().zip(self.options.redis_next.clone());
        let stage = self.stage().await?;
        for (number, durability) in ["Relaxed", "Strict", "Standard"].into_iter().enumerate() {
            let what = format!("redis becomes {durability}");
            roll(stage, durability, &what, json!({"redis": {"durability": durability}}), None).await?;
            let what = format!("redis, {durability}, gets another limit of memory");
            roll(stage, durability, &what, another_limit(stage, "redis").await?, None).await?;
            let Some((first, next)) = &tags else { continue };
            let tag = if number % 2 == 0 { next } else { first };
            let image = json!({"images": {"redis": {"tag": tag}}});
            roll(stage, durability, &format!("redis, {durability}, gets the image {tag}"), image, None).await?;
        }
        Ok(())
    }

    /// A rollout of redis during which the operator is killed again and again.
    pub(super) async fn redis_rollout_operator_killed(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let change = another_limit(stage, "redis").await?;
        let harm = Harm::Operator;
        Box::pin(roll(
            stage,
            "Standard",
            "redis is rolled with the operator killed again and again",
            change,
            Some(harm),
        ))
        .await
    }

    /// A rollout of redis during which a replica stands still for a while.
    pub(super) async fn redis_rollout_replica_cut_off(&mut self) -> Result<()> {
        let stage = self.stage().await?;
        let change = another_limit(stage, "redis").await?;
        let harm = Harm::Replica;
        Box::pin(roll(stage, "Standard", "redis is rolled with a replica cut off", change, Some(harm))).await
    }
}

/// Another limit of memory than a tier has: nothing else rolls it and nothing else.
pub(super) async fn another_limit(stage: &Stage, tier: &str) -> Result<Value> {
    let found = stage.kube.imcluster(&stage.namespace, &stage.name).await?;
    let now = found["spec"][tier].pointer("/resources/limits/memory").and_then(Value::as_str);
    let mebibytes = now.and_then(|text| text.strip_suffix("Mi")?.parse::<u32>().ok()).unwrap_or(512);
    Ok(json!({tier: {"resources": {"limits": {"memory": format!("{}Mi", mebibytes + 1)}}}}))
}

/// What goes wrong in the middle of a rollout.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Harm {
    Operator,
    Replica,
}

async fn roll(stage: &Stage, durability: &str, what: &str, spec: Value, harm: Option<Harm>) -> Result<()> {
    let before = uids(&stage.witness.staying("redis"));
    let event = async {
        stage.kube.edit(&stage.namespace, &stage.name, &json!({"spec": spec})).await?;
        match harm {
            Some(Harm::Operator) => kill_operators(stage, &before).await?,
            Some(Harm::Replica) => stop_a_replica(stage, &before).await?,
            None => {}
        }
        until("every redis pod is another one", PATIENCE, async || all_new(stage, &before)).await?;
        stage.settled().await.map(|_| ())
    };
    let played = Box::pin(stage.play(what, event)).await?;
    show(&played)?;
    judge(&played, durability, harm)
}

fn judge(played: &Played, durability: &str, harm: Option<Harm>) -> Result<()> {
    // With `Strict` no write is taken while a replica is away, and one that stands still is one that is away.
    if durability != "Strict" && harm.is_none() {
        spoke_on(played)?;
    }
    none_restarted(played)
}

pub(super) fn uids(lives: &[Life]) -> Vec<String> {
    lives.iter().map(|life| life.uid.clone()).collect()
}

pub(super) fn all_new(stage: &Stage, before: &[String]) -> Result<()> {
    let left: Vec<String> = old(stage, before).into_iter().map(|life| life.name).collect();
    ensure!(left.is_empty(), "{left:?} are still there");
    Ok(())
}

fn old(stage: &Stage, before: &[String]) -> Vec<Life> {
    stage.witness.lives().into_iter().filter(|life| before.contains(&life.uid) && life.gone.is_none()).collect()
}

/// Kills all of the operator's pods each time that another redis pod has come, and once more before the last goes.
async fn kill_operators(stage: &Stage, before: &[String]) -> Result<()> {
    for left in (1..=before.len()).rev() {
        let fewer = async || {
            let old = old(stage, before).into_iter().filter(|life| life.deleted.is_none()).count();
            if old > left { bail!("{old} old redis pods stay") } else { Ok(()) }
        };
        until("another redis pod goes", PATIENCE, fewer).await?;
        kill_operator(&stage.kube).await?;
    }
    Ok(())
}

/// Stops the process of a replica that was replaced already, when only the master is left to be.
async fn stop_a_replica(stage: &Stage, before: &[String]) -> Result<()> {
    let replaced = || {
        let new = stage.witness.staying("redis").into_iter().filter(|life| !before.contains(&life.uid));
        new.filter(|life| life.is_ready).collect::<Vec<_>>()
    };
    let one_left = async || {
        let count = replaced().len();
        ensure!(count + 1 == before.len(), "{count} redis pods are new and ready");
        Ok(())
    };
    until("only the master is left", PATIENCE, one_left).await?;
    let replica = replaced().pop().context("no new redis pod")?;
    stage.kube.signal(&stage.namespace, &replica.name, "SIGSTOP").await?;
    tokio::time::sleep(STANDSTILL).await;
    stage.kube.signal(&stage.namespace, &replica.name, "SIGCONT").await
}
