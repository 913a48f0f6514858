//! Rollouts of redis, for every durability, and of etcd.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kubernetes::measurements::WHOLE_SECONDS;
use crate::kubernetes::pod_recorder::PodRecord;
use crate::kubernetes::report::EventReport;
use crate::kubernetes::runner::{Runner, kill_operator};
use crate::kubernetes::scenario::{SETTLE_TIMEOUT, Scenario};
use crate::wait::until_ok;

/// How long a replica is paused: longer than Sentinels wait, shorter than its probes do.
const PAUSE: Duration = Duration::from_secs(15);

/// For each durability: the change of it, then another memory limit, then another image if the nodes have one. The last
/// durability is that of the sample.
pub(super) async fn redis(runner: &mut Runner) -> Result<()> {
    let tags = runner
        .options
        .redis_tag
        .clone()
        .zip(runner.options.redis_next.clone());
    let scenario = runner.scenario().await?;
    for (number, durability) in ["Relaxed", "Strict", "Standard"].into_iter().enumerate() {
        let what = format!("redis becomes {durability}");
        roll_redis(
            scenario,
            durability,
            &what,
            json!({"redis": {"durability": durability}}),
            None,
        )
        .await?;
        let what = format!("redis, {durability}, gets another memory limit");
        roll_redis(
            scenario,
            durability,
            &what,
            other_memory_limit(scenario, "redis").await?,
            None,
        )
        .await?;
        let Some((first, next)) = &tags else { continue };
        let tag = if number % 2 == 0 { next } else { first };
        let image = json!({"images": {"redis": {"tag": tag}}});
        roll_redis(
            scenario,
            durability,
            &format!("redis, {durability}, gets the image {tag}"),
            image,
            None,
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn redis_operator_killed(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let change = other_memory_limit(scenario, "redis").await?;
    let what = "a rollout of redis with the operator killed repeatedly";
    Box::pin(roll_redis(
        scenario,
        "Standard",
        what,
        change,
        Some(Fault::OperatorKilled),
    ))
    .await
}

pub(super) async fn redis_replica_paused(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let change = other_memory_limit(scenario, "redis").await?;
    let what = "a rollout of redis with a replica paused";
    Box::pin(roll_redis(
        scenario,
        "Standard",
        what,
        change,
        Some(Fault::ReplicaPaused),
    ))
    .await
}

/// Another memory limit: every member is replaced, one after the other.
pub(super) async fn etcd(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    let before = scenario.uids("etcd");
    let change = json!({"spec": other_memory_limit(scenario, "etcd").await?});
    let event = async {
        scenario
            .kube
            .edit(&scenario.namespace, &scenario.name, &change)
            .await?;
        scenario.all_gone(&before).await?;
        scenario.settled().await.map(|_| ())
    };
    let report = Box::pin(scenario.run("etcd gets another memory limit", event)).await?;
    one_at_a_time(&report, before.len())?;
    report.require_no_silence()?;
    report.require_no_restarts()
}

/// A change of one tier's memory limit: it rolls out this tier and changes nothing else.
async fn other_memory_limit(scenario: &Scenario, tier: &str) -> Result<Value> {
    let found = scenario
        .kube
        .imcluster(&scenario.namespace, &scenario.name)
        .await?;
    let now = found["spec"][tier]
        .pointer("/resources/limits/memory")
        .and_then(Value::as_str);
    let mebibytes = now
        .and_then(|text| text.strip_suffix("Mi")?.parse::<u32>().ok())
        .unwrap_or(512);
    Ok(json!({tier: {"resources": {"limits": {"memory": format!("{}Mi", mebibytes + 1)}}}}))
}

/// What is injected during a rollout.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    OperatorKilled,
    ReplicaPaused,
}

async fn roll_redis(
    scenario: &Scenario,
    durability: &str,
    what: &str,
    spec: Value,
    fault: Option<Fault>,
) -> Result<()> {
    let before = scenario.uids("redis");
    let event = async {
        scenario
            .kube
            .edit(&scenario.namespace, &scenario.name, &json!({"spec": spec}))
            .await?;
        match fault {
            Some(Fault::OperatorKilled) => kill_operators(scenario, &before).await?,
            Some(Fault::ReplicaPaused) => pause_replica(scenario, &before).await?,
            None => {}
        }
        scenario.all_gone(&before).await?;
        scenario.settled().await.map(|_| ())
    };
    let report = Box::pin(scenario.run(what, event)).await?;
    // `Strict` accepts no write while a replica is away.
    if durability != "Strict" && fault.is_none() {
        report.require_no_silence()?;
    }
    report.require_no_restarts()
}

/// Kills the operator each time that another old redis pod is deleted.
async fn kill_operators(scenario: &Scenario, before: &[String]) -> Result<()> {
    for left in (1..=before.len()).rev() {
        let fewer = async || {
            let old = scenario
                .remaining(before)
                .into_iter()
                .filter(|pod| pod.deleted.is_none())
                .count();
            ensure!(old <= left, "{old} old redis pods are not deleted");
            Ok(())
        };
        until_ok("another redis pod is deleted", SETTLE_TIMEOUT, fewer).await?;
        kill_operator(&scenario.kube).await?;
    }
    Ok(())
}

/// Pauses a replica that was already replaced, when only the master is left to replace.
async fn pause_replica(scenario: &Scenario, before: &[String]) -> Result<()> {
    let replaced = || {
        let new = scenario
            .pods
            .running("redis")
            .into_iter()
            .filter(|pod| !before.contains(&pod.uid));
        new.filter(|pod| pod.is_ready).collect::<Vec<_>>()
    };
    let one_left = async || {
        let count = replaced().len();
        ensure!(
            count + 1 == before.len(),
            "{count} redis pods are new and ready"
        );
        Ok(())
    };
    until_ok("only the master is left", SETTLE_TIMEOUT, one_left).await?;
    let replica = replaced().pop().context("no new redis pod")?;
    scenario
        .kube
        .signal(&scenario.namespace, &replica.name, "SIGSTOP")
        .await?;
    tokio::time::sleep(PAUSE).await;
    scenario
        .kube
        .signal(&scenario.namespace, &replica.name, "SIGCONT")
        .await
}

/// Each member must be ready again before the next one is deleted.
fn one_at_a_time(report: &EventReport, members: usize) -> Result<()> {
    let of_etcd = |pods: &[PodRecord]| -> Vec<_> {
        pods.iter()
            .filter(|pod| pod.tier == "etcd")
            .cloned()
            .collect()
    };
    let mut ended = of_etcd(&report.measurements.ended);
    let came = of_etcd(&report.measurements.came);
    ensure!(
        ended.len() == members,
        "{} members ended, not {members}",
        ended.len()
    );
    ended.sort_by(|one, two| {
        one.deleted
            .unwrap_or_default()
            .total_cmp(&two.deleted.unwrap_or_default())
    });
    for pair in ended.windows(2) {
        let next = came.iter().find(|pod| pod.name == pair[0].name);
        let ready = next
            .and_then(|pod| pod.ready)
            .with_context(|| format!("{} did not come back", pair[0].name))?;
        let deleted = pair[1].deleted.unwrap_or_default();
        ensure!(
            ready <= deleted + WHOLE_SECONDS,
            "{} ended before {} was ready again",
            pair[1].name,
            pair[0].name
        );
    }
    Ok(())
}
