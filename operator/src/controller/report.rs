//! What is reported of a reconciliation: the status, Events and metrics, and when the next one is due.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use serde_json::json;

use super::outcome::{Failure, Outcome};
use super::plan::Plan;
use super::status::{self, Findings, Held};
use super::{Controller, metrics};
use crate::api::{
    ConditionStatus, ConditionType, Drain, EtcdMode, ImCluster, ImClusterStatus, Reason, RedisMode,
    Tier, Verdict,
};
use crate::build;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::kubernetes::object::{Applied, Objects};
use crate::kubernetes::pod::{is_ending, is_of};
use crate::kubernetes::stores::UnreadKind;
use crate::metrics::{DRAINS, FAILURES};
use crate::tiers::connect::drains::Phase;
use crate::tiers::volumes::Growth;
use crate::tiers::workload::{self, Workload};

/// While not all is as asked for, an ImCluster is reconciled this often even if nothing happens.
const UNSETTLED: Duration = Duration::from_secs(15);
/// While a volume stays smaller than asked for, its claim is asked to grow this often.
const STUCK: Duration = Duration::from_secs(60);

/// How far a reconciliation came before anything was applied.
#[derive(Debug)]
pub(crate) struct Progress {
    /// What a person should know though all works.
    warning: Option<Verdict>,
    /// `None`: it did not come so far, or the ImCluster is paused.
    pub(crate) plan: Option<Plan>,
    pub(crate) volumes: Growth,
    /// Fields of `podOverrides` without effect.
    pub(crate) conflicts: Vec<String>,
}

impl Progress {
    /// At its beginning; `unread` is what could not be listed.
    pub(crate) fn new(unread: &[UnreadKind]) -> Self {
        let warning = || Verdict::yes(Reason::WatchFailing, unread_message(unread));
        Self {
            warning: (!unread.is_empty()).then(warning),
            plan: None,
            volumes: Growth::default(),
            conflicts: Vec::new(),
        }
    }
}

/// What was done of a plan.
#[derive(Debug)]
pub(crate) enum Changes {
    /// All of it.
    All {
        objects: Objects<Applied>,
        /// Whether a pod of connect was changed.
        pods: bool,
        /// What connect's rollout says of its progress.
        rollout: Option<Verdict>,
    },
    /// All but what pods run with: the pods of this ImCluster come first.
    AllButPods { writes: usize, after: Key },
}

impl Changes {
    /// Whether anything was written.
    fn wrote(&self) -> bool {
        match self {
            Self::All { objects, pods, .. } => objects.writes() > 0 || *pods,
            Self::AllButPods { writes, .. } => *writes > 0,
        }
    }
}

/// Reports what was found and done, and says when the next reconciliation is due. `changes` are `None` where the ImCluster is
/// paused.
pub(crate) async fn report(
    controller: &Controller,
    cluster: &ImCluster,
    progress: &Progress,
    changes: Result<Option<Changes>, Failure>,
    now: Timestamp,
) -> Outcome {
    let context = &controller.context;
    let revisit = context.settings.revisit;
    let key = Key::of(cluster);
    if let Err(failure) = &changes {
        let reason = failure.reason().name();
        FAILURES.with_label_values(&[reason]).inc();
        tracing::warn!(cluster = %key, reason, error = %failure, "reconciliation failed");
        if let Failure::OwnedByAnother(_) = failure {
            // The report is the other's, and so is what redis and etcd need.
            controller.supervisors.forget(&key);
            metrics::conditions(&key, &[]);
            metrics::foreign(&key, true);
            context
                .events
                .warning(cluster, reason, &failure.to_string())
                .await;
            return Outcome::Waiting(revisit);
        }
        if failure.is_end() {
            return Outcome::Waiting(revisit);
        }
    }
    let found = findings(controller, cluster, progress, &changes, now);
    let drains = i64::try_from(found.draining.len()).unwrap_or(i64::MAX);
    DRAINS
        .with_label_values(&[key.namespace.as_str(), key.name.as_str()])
        .set(drains);
    let status = status::compose(cluster, &found, now);
    metrics::conditions(&key, &status.conditions);
    let written = write(controller, cluster, &status).await;
    let changes = match changes {
        Ok(changes) => changes,
        Err(failure) => return failure.outcome(revisit),
    };
    for waiting in controller
        .turns
        .reported(&key, &status, &context.settings.operator_image)
    {
        context.queue.wake(waiting);
    }
    let held = match written {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(cluster = %key, %error, "cannot write the status");
            return Outcome::Failed;
        }
    };
    let waits = matches!(changes, Some(Changes::AllButPods { .. }));
    let settled = status::is_whole(&status) && !waits || cluster.spec.paused;
    let mut again = if settled { revisit } else { UNSETTLED };
    if let Held::Soon(left) = held {
        again = again.min(left);
    }
    if !progress.volumes.stuck.is_empty() {
        again = again.min(STUCK);
    }
    if let Some(plan) = &progress.plan {
        let left = Duration::try_from(plan.renewal.duration_since(now)).unwrap_or_default();
        again = again.min(left + Duration::from_secs(1));
    }
    let wrote = progress.volumes.wrote || changes.is_some_and(|changes| changes.wrote());
    if wrote || held == Held::Written {
        Outcome::Changed(again)
    } else {
        Outcome::Settled(again)
    }
}

/// Everything that the status is composed of.
fn findings<'a>(
    controller: &Controller,
    cluster: &ImCluster,
    progress: &Progress,
    changes: &'a Result<Option<Changes>, Failure>,
    now: Timestamp,
) -> Findings<'a> {
    let context = &controller.context;
    let key = Key::of(cluster);
    let spec = &cluster.spec;
    let tier = |tier| workload::tier(&context.stores, &key, tier, now);
    let with = |wanted: bool, of: Tier| wanted.then(|| tier(of));
    let mut connect = tier(Tier::Connect);
    let mut logic = tier(Tier::Logic);
    // What was never applied has no number of its own yet.
    let unbuilt = |seen: &mut Workload, wanted| {
        if seen.wanted == 0 && !seen.rolled_out {
            seen.wanted = wanted;
        }
    };
    unbuilt(&mut connect, spec.connect.replicas);
    unbuilt(&mut logic, spec.logic.replicas);
    let (connections, draining) = connections(context, &key);
    let plan = progress.plan.as_ref();
    // Also where it did not come so far: they are looked after all the same.
    let stores = plan
        .and_then(|plan| plan.stores.clone())
        .or_else(|| controller.supervisors.last(&key));
    let asked = stores.is_some();
    let stores = stores.unwrap_or_default();
    let verdict = |failure: &Failure| Verdict::yes(failure.reason(), failure.to_string());
    let (applied, rollout, after) = match changes {
        Ok(Some(Changes::All {
            objects, rollout, ..
        })) => (Some(objects), rollout.clone(), None),
        Ok(Some(Changes::AllButPods { after, .. })) => (None, None, Some(after.clone())),
        Ok(None) | Err(_) => (None, None, None),
    };
    Findings {
        redis: with(spec.redis.mode != RedisMode::External, Tier::Redis),
        sentinel: with(spec.redis.mode == RedisMode::Sentinel, Tier::Sentinel),
        etcd: with(spec.etcd.mode == EtcdMode::Managed, Tier::Etcd),
        logic,
        connect,
        redis_says: stores.redis,
        etcd_says: stores.etcd,
        asked,
        rollout,
        upgrading: plan.and_then(|plan| plan.upgrading),
        failure: changes.as_ref().err().map(verdict),
        applied,
        authority: plan.and_then(|plan| plan.authority),
        warning: progress.warning.clone().or_else(|| plan?.warning.clone()),
        conflicts: progress.conflicts.clone(),
        connections,
        draining,
        master: stores.master,
        redis_bootstrapped: stores.redis_bootstrapped,
        etcd_bootstrapped: stores.etcd_bootstrapped,
        external: external(context, &key),
        volumes: progress.volumes.clone(),
        operator_image: context.settings.operator_image.clone(),
        after,
    }
}

/// Clients connected, and the pods that move theirs away.
fn connections(context: &Context, key: &Key) -> (Option<u64>, Vec<Drain>) {
    let pods = context
        .stores
        .pods
        .of_cluster(key)
        .into_iter()
        .filter(|pod| is_of(pod, Tier::Connect));
    let (mut sum, mut draining, mut silent) = (None, Vec::new(), false);
    for pod in pods {
        let reading = pod.uid().and_then(|uid| context.readings.get(&uid));
        match &reading {
            Some(reading) => sum = Some(sum.unwrap_or(0) + reading.connections),
            None => silent = true,
        }
        let ends = is_ending(&pod);
        if !ends
            && reading
                .as_ref()
                .is_none_or(|reading| reading.phase != Phase::Draining)
        {
            continue;
        }
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let time = |ms: u64| {
            let second = i64::try_from(ms / 1000).ok()?;
            Some(Time(Timestamp::from_second(second).ok()?))
        };
        let reading = reading.as_ref();
        draining.push(Drain {
            pod: pod.name_any(),
            initial: reading.and_then(|reading| reading.initial).map(count),
            current: reading.map(|reading| count(reading.connections)),
            rate: reading
                .and_then(|reading| reading.rate)
                .map(|rate| rate.round() as i64),
            since: reading.and_then(|reading| reading.since_ms).and_then(time),
            deadline: reading
                .and_then(|reading| reading.deadline_ms)
                .and_then(time),
        });
    }
    // Nobody to ask has no clients; nobody who answers is not known.
    (sum.or((!silent).then_some(0)), draining)
}

fn external(context: &Context, key: &Key) -> Vec<String> {
    let name = Key::new(&key.namespace, build::object_name(&key.name, Tier::Connect));
    let service = context.stores.typed::<Service>(&name);
    let ingress = service
        .and_then(|service| service.status?.load_balancer?.ingress)
        .unwrap_or_default();
    ingress
        .into_iter()
        .filter_map(|ingress| ingress.hostname.or(ingress.ip))
        .collect()
}

/// Writes the status where that is due, and tells what has changed in it.
async fn write(
    controller: &Controller,
    cluster: &ImCluster,
    status: &ImClusterStatus,
) -> Result<Held, kube::Error> {
    let context = &controller.context;
    let key = Key::of(cluster);
    let mut memory = controller.memory(&key);
    // The claim of a moment ago is newer than what this began with; the status it carries is the same.
    let held = memory
        .writer
        .write(&context.client, &context.stores.clusters, cluster, status)
        .await?;
    controller.remember(&key, memory);
    if held == Held::Written {
        emit(context, cluster, status).await;
    }
    Ok(held)
}

/// Emits an Event for each condition that has changed.
async fn emit(context: &Context, cluster: &ImCluster, status: &ImClusterStatus) {
    let before = cluster.status.clone().unwrap_or_default();
    for condition in &status.conditions {
        use ConditionType as Of;
        let old = before
            .conditions
            .iter()
            .find(|old| old.kind == condition.kind);
        let same =
            old.is_some_and(|old| old.status == condition.status && old.reason == condition.reason);
        if same {
            continue;
        }
        let was = old.map(|old| old.status);
        let note = format!("{}: {}", condition.kind.name(), condition.message);
        let reason = condition.reason.name();
        match (condition.kind, condition.status) {
            (
                Of::Degraded | Of::OverrideIgnored | Of::ClientAddressUnknown,
                ConditionStatus::True,
            ) => {
                context.events.warning(cluster, reason, &note).await;
            }
            (Of::Degraded, _) if was == Some(ConditionStatus::True) => {
                context.events.normal(cluster, reason, &note).await;
            }
            (Of::Progressing | Of::Paused, _)
                if was.is_some() || condition.status == ConditionStatus::True =>
            {
                context.events.normal(cluster, reason, &note).await;
            }
            (
                Of::Ready | Of::RedisReady | Of::EtcdReady | Of::LogicReady | Of::ConnectReady,
                ConditionStatus::True,
            ) => {
                context.events.normal(cluster, reason, &note).await;
            }
            (Of::Ready | Of::Available, _) if was == Some(ConditionStatus::True) => {
                context.events.warning(cluster, reason, &note).await;
            }
            _ => {}
        }
    }
}

/// What cannot be read, for people.
fn unread_message(unread: &[UnreadKind]) -> String {
    let each = unread.iter().map(|unread| {
        let why = if unread.why.is_empty() {
            "no answer yet"
        } else {
            &unread.why
        };
        format!("{}: {why}", unread.kind)
    });
    format!(
        "the operator cannot watch in this namespace, see its rights: {}",
        each.collect::<Vec<_>>().join("; ")
    )
}

/// Without these kinds nothing is known and nothing can be decided: that is all there is to say. Other ImClusters go on.
pub(crate) async fn blind(
    controller: &Controller,
    cluster: &ImCluster,
    unread: &[UnreadKind],
) -> Outcome {
    let key = Key::of(cluster);
    let message = unread_message(unread);
    let reason = Reason::WatchFailing.name();
    FAILURES.with_label_values(&[reason]).inc();
    tracing::warn!(cluster = %key, reason, error = message, "reconciliation failed");
    let status = status::blind(cluster, &message, Timestamp::now());
    metrics::conditions(&key, &status.conditions);
    if let Err(error) = write(controller, cluster, &status).await {
        // Whoever may not list may not write either.
        tracing::warn!(cluster = %key, %error, "cannot write the status");
    }
    Outcome::Failed
}

/// Reports an ImCluster that cannot be read, as one that a newer operator's definition allows may be.
pub(crate) async fn unreadable(
    controller: &Controller,
    key: &Key,
    generation: Option<i64>,
    error: &str,
) {
    if !controller.is_new_unreadable(key, generation, error) {
        return;
    }
    FAILURES
        .with_label_values(&[Reason::InvalidSpec.name()])
        .inc();
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let condition = |kind: ConditionType, status: &str| {
        json!({"type": kind.name(), "status": status, "reason": Reason::InvalidSpec.name(), "observedGeneration": generation,
            "lastTransitionTime": now.to_string(), "message": format!("this operator cannot read the resource: {error}")})
    };
    let patch = json!({"status": {"observedGeneration": generation,
        "conditions": [condition(ConditionType::Ready, "False"), condition(ConditionType::Degraded, "True")]}});
    let kind = ApiResource::erase::<ImCluster>(&());
    let api: Api<DynamicObject> =
        Api::namespaced_with(controller.context.client.clone(), &key.namespace, &kind);
    if let Err(error) = api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
    {
        tracing::warn!(cluster = %key, %error, "cannot write the status");
    }
}
