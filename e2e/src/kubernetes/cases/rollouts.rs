//! New versions of connect and logic.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::kubernetes::balancer::Balancer;
use crate::kubernetes::pod_recorder::PodRecord;
use crate::kubernetes::report::EventReport;
use crate::kubernetes::runner::{HA, OPERATOR, Runner, SYSTEM, kill_operator, node_port_service};
use crate::kubernetes::scenario::{Access, Scenario, settled};
use crate::wait::until_ok;

/// The greatest share of messages that may be delivered on resume in a rollout that has time to drain.
const MAX_RESUMED: f64 = 0.05;
/// The most moves of one client in a rollout that the operator guides.
const MAX_MOVES: u64 = 2;

pub(super) async fn rollouts(runner: &mut Runner, tier: &'static str) -> Result<()> {
    let count = runner.options.rollouts;
    for number in 1..=count {
        runner.spread_scenario().await?;
        let (from, to) = runner.versions(tier).await?;
        let scenario = runner.scenario().await?;
        rollout(scenario, tier, &from, &to)
            .await
            .with_context(|| format!("rollout {number} of {count}"))?;
    }
    Ok(())
}

/// Meanwhile the Service is as clouds have it.
pub(super) async fn rollouts_local(runner: &mut Runner) -> Result<()> {
    runner.scenario().await?;
    set_service(
        runner,
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}),
    )
    .await?;
    let outcome = Box::pin(rollouts_behind_balancer(runner)).await;
    runner.end_scenario();
    set_service(runner, node_port_service()).await?;
    outcome
}

async fn set_service(runner: &Runner, service: Value) -> Result<()> {
    runner
        .kube
        .edit(
            HA.0,
            HA.1,
            &json!({"spec": {"connect": {"service": service}}}),
        )
        .await?;
    settled(&runner.kube, HA.0, HA.1).await.map(|_| ())
}

#[expect(clippy::print_stdout, reason = "a command line program")]
async fn rollouts_behind_balancer(runner: &mut Runner) -> Result<()> {
    let count = runner.options.rollouts;
    for number in 1..=count {
        let (from, to) = runner.versions("connect").await?;
        let balancer = Balancer::start(&runner.kube, HA.0, &format!("{}-connect", HA.1)).await?;
        let scenario = runner.start_scenario(Access::Balancer(balancer)).await?;
        rollout(scenario, "connect", &from, &to)
            .await
            .with_context(|| format!("rollout {number} of {count}"))?;
        if let Access::Balancer(balancer) = &scenario.access {
            println!(
                "  the load balancer cut {} connections of unhealthy nodes",
                balancer.cut()
            );
        }
    }
    Ok(())
}

async fn rollout(scenario: &Scenario, tier: &'static str, from: &str, to: &str) -> Result<()> {
    let pods = scenario.pods.running(tier).len();
    let event = async {
        scenario.edit(&image_tag(tier, to)).await?;
        scenario.all_run(&[tier], to).await
    };
    let report =
        Box::pin(scenario.run(&format!("rollout of {tier} from {from} to {to}"), event)).await?;
    check_rollout(&report, scenario, tier, from, to, pods)
}

/// The image tag of a tier: this rolls out this tier only.
fn image_tag(tier: &str, version: &str) -> Value {
    json!({"spec": {"images": {tier: {"tag": version}}}})
}

/// Fails if pods or clients did not go through a rollout as they must.
fn check_rollout(
    report: &EventReport,
    scenario: &Scenario,
    tier: &str,
    from: &str,
    to: &str,
    pods: usize,
) -> Result<()> {
    let run = &report.run;
    let mut problems = report.measurements.rollout_problems(tier, from, to, pods);
    let max_moves = match scenario.access {
        Access::NodePorts => {
            problems.extend(run.defects());
            let resumed = report.resumed_share();
            if resumed >= MAX_RESUMED {
                problems.push(format!(
                    "{:.1} % of the messages were delivered on resume",
                    100.0 * resumed
                ));
            }
            if tier == "connect" && run.moves == 0 {
                problems.push("no client moved".to_owned());
            }
            MAX_MOVES
        }
        Access::Balancer(_) => {
            let clients = scenario.clients();
            if run.failed_attempts > clients {
                problems.push(format!(
                    "{} failed attempts to connect of {clients} clients",
                    run.failed_attempts
                ));
            }
            // Every pod accepts clients until it terminates: a client may move to one that is next.
            pods as u64
        }
    };
    if run.most_moves > max_moves {
        problems.push(format!("a client moved {} times", run.most_moves));
    }
    ensure!(
        problems.is_empty(),
        "problems of the rollout:\n  {}",
        problems.join("\n  ")
    );
    Ok(())
}

pub(super) async fn upgrade(runner: &mut Runner) -> Result<()> {
    let version = runner.options.version.clone();
    let next = runner.options.next.clone();
    let scenario = runner.spread_scenario().await?;
    // Earlier rollouts have set tags: they are removed, and the version decides again.
    let same_tags =
        json!({"spec": {"images": {"connect": {"tag": version}, "logic": {"tag": version}}}});
    scenario.edit(&same_tags).await?;
    let no_tags = json!({"spec": {"version": version, "images": {"connect": {"tag": null}, "logic": {"tag": null}}}});
    scenario.edit(&no_tags).await?;
    scenario.all_run(&["connect", "logic"], &version).await?;
    let connects = scenario.pods.running("connect").len();
    let logics = scenario.pods.running("logic").len();
    let event = async {
        scenario.edit(&json!({"spec": {"version": next}})).await?;
        scenario.all_run(&["connect", "logic"], &next).await
    };
    let report = scenario
        .run(&format!("upgrade from {version} to {next}"), event)
        .await?;
    let of_tier = |pods: &[PodRecord], tier: &str| -> Vec<PodRecord> {
        pods.iter()
            .filter(|pod| pod.tier == tier)
            .cloned()
            .collect()
    };
    let ended = of_tier(&report.measurements.ended, "logic");
    let came = of_tier(&report.measurements.came, "connect");
    let logic_last = ended.iter().filter_map(|pod| pod.gone).fold(0.0, f64::max);
    let connect_first = came
        .iter()
        .filter_map(|pod| pod.ready)
        .fold(f64::MAX, f64::min);
    ensure!(
        logic_last <= connect_first,
        "connect began before logic was done"
    );
    check_rollout(&report, scenario, "logic", &version, &next, logics)?;
    check_rollout(&report, scenario, "connect", &version, &next, connects)
}

pub(super) async fn operator_killed(runner: &mut Runner) -> Result<()> {
    let (from, to) = runner.versions("connect").await?;
    let scenario = runner.spread_scenario().await?;
    let pods = scenario.pods.running("connect").len();
    let event = async {
        scenario
            .kube
            .edit(
                &scenario.namespace,
                &scenario.name,
                &image_tag("connect", &to),
            )
            .await?;
        for _ in 0..pods {
            until_ok(
                "a connect pod drains",
                Duration::from_secs(120),
                async || {
                    ensure!(
                        !scenario.pods.terminating("connect").is_empty(),
                        "no connect pod is terminating"
                    );
                    Ok(())
                },
            )
            .await?;
            kill_operator(&scenario.kube).await?;
            tokio::time::sleep(Duration::from_secs(8)).await;
        }
        scenario.all_run(&["connect"], &to).await?;
        scenario.settled().await.map(|_| ())
    };
    let report = scenario
        .run(
            "a rollout of connect with the operator killed repeatedly",
            event,
        )
        .await?;
    check_rollout(&report, scenario, "connect", &from, &to, pods)
}

pub(super) async fn operator_absent(runner: &mut Runner) -> Result<()> {
    let scenario = runner.scenario().await?;
    scale_operator(scenario, 0).await?;
    let event = async {
        let deployment = format!("deployment/{}-connect", scenario.name);
        let old = scenario.uids("connect");
        scenario
            .kube
            .kubectl(&["rollout", "restart", &deployment, "-n", &scenario.namespace])
            .await?;
        scenario.all_gone(&old).await
    };
    let report = scenario
        .run(
            "kubectl rollout restart of connect without an operator",
            event,
        )
        .await;
    scale_operator(scenario, 2).await?;
    scenario.settled().await?;
    let report = report?;
    let ended = report
        .measurements
        .ended
        .iter()
        .filter(|pod| pod.tier == "connect");
    let forced: Vec<&str> = ended
        .filter(|pod| !pod.exited_in_time())
        .map(|pod| pod.name.as_str())
        .collect();
    ensure!(forced.is_empty(), "did not exit in time: {forced:?}");
    Ok(())
}

async fn scale_operator(scenario: &Scenario, replicas: u32) -> Result<()> {
    let deployment = format!("deployment/{OPERATOR}");
    let count = format!("--replicas={replicas}");
    scenario
        .kube
        .kubectl(&["scale", &deployment, &count, "-n", SYSTEM])
        .await?;
    if replicas > 0 {
        let status = [
            "rollout",
            "status",
            &deployment,
            "-n",
            SYSTEM,
            "--timeout=120s",
        ];
        return scenario.kube.kubectl(&status).await.map(|_| ());
    }
    let probe = async || {
        let left = scenario
            .kube
            .kubectl(&["get", "pods", "-n", SYSTEM, "-o", "name"])
            .await?;
        ensure!(left.trim().is_empty(), "still there: {left}");
        Ok(())
    };
    until_ok("the operator is gone", Duration::from_secs(90), probe)
        .await
        .map(|_| ())
}
