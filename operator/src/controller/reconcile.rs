//! One visit to an ImCluster: dereference, validate, decide, build, apply, report.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PodTemplateSpec, Service};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use kube::core::ApiResource;
use serde_json::json;

use crate::api::{
    ConditionStatus, ConditionType, Drain, EtcdMode, ImCluster, ImClusterStatus, Reason, RedisMode, Tier,
};
use crate::build::{self, Inputs, Run, Runs};
use crate::context::Context;
use crate::controller::outcome::Failure;
use crate::controller::status::{self, Findings, Held, Verdict};
use crate::controller::turns::Turn;
use crate::kubernetes::apply::{self, Owner};
use crate::kubernetes::drift;
use crate::kubernetes::key::Key;
use crate::kubernetes::stores::UnreadKind;
use crate::secrets::authority::{ROTATE, Rotation};
use crate::secrets::{self, Known};
use crate::tiers::connect::act as pace;
use crate::tiers::connect::drains::Phase;
use crate::tiers::etcd::decide as etcd;
use crate::tiers::supervisor::Said;
use crate::tiers::upgrade::{self, Stand};
use crate::tiers::volumes::{self, Growth};
use crate::tiers::workload::{self, Seen, is_of};
use crate::tiers::{metrics as figures, stateful, supervisor as keeper};
use crate::validate::{self, Pods, Valid};
use crate::{dereference, metrics};

/// Names who manages an ImCluster: the namespace and the Lease of an operator.
pub const OPERATOR: &str = "imcluster.io/operator";
/// Who owns the fields of that.
const CLAIM: &str = "im-operator-claim";
/// While not all is as asked for, an ImCluster is looked at this often even if nothing happens.
const UNSETTLED: Duration = Duration::from_secs(15);
/// While a volume stays smaller than asked for, its claim is asked to grow this often.
const STUCK: Duration = Duration::from_secs(60);
/// While the caches are filled.
const UNREAD: Duration = Duration::from_secs(1);
/// How long that may take until it is a failure.
const READING: Duration = Duration::from_secs(15);

/// How a visit ended, and when the next is due if nothing happens before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The ImCluster is no more.
    Gone,
    /// Nothing was to be changed.
    Settled(Duration),
    /// Something was.
    Changed(Duration),
    /// Nothing can be done until somebody else does something.
    Waiting(Duration),
    /// It is tried again.
    Failed,
}

impl Outcome {
    /// For metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Settled(_) => "settled",
            Self::Changed(_) => "changed",
            Self::Waiting(_) => "waiting",
            Self::Failed => "failed",
        }
    }
}

/// What the changing half of a visit found and did.
#[derive(Debug, Default)]
struct Done {
    wrote: bool,
    applied: bool,
    said: Option<Said>,
    upgrading: Option<Tier>,
    rollout: Option<Verdict>,
    ignored: Vec<String>,
    renewal: Option<Timestamp>,
    authority: Option<Rotation>,
    warning: Option<Verdict>,
    volumes: Growth,
    after: Option<Key>,
}

/// One visit.
pub async fn reconcile(context: &Arc<Context>, key: &Key) -> Outcome {
    let Some(cluster) = context.stores.clusters.get(key) else { return Outcome::Gone };
    if cluster.metadata.deletion_timestamp.is_some() {
        return Outcome::Waiting(context.settings.revisit);
    }
    let unread = context.stores.unread(&key.namespace);
    if !unread.is_empty() && context.begun.elapsed() < READING {
        tracing::debug!(cluster = %key, ?unread, "not everything has been read yet");
        return Outcome::Waiting(UNREAD);
    }
    if unread.iter().any(|unread| unread.decides) {
        return blind(context, &cluster, key, &unread).await;
    }
    let now = Timestamp::now();
    let mut done = Done::default();
    if !unread.is_empty() {
        done.warning = Some(Verdict::yes(Reason::WatchFailing, unread_message(&unread)));
    }
    let changed = change(context, &cluster, now, &mut done).await;
    if let Err(failure) = &changed {
        metrics::FAILURES.with_label_values(&[failure.reason().name()]).inc();
        tracing::warn!(cluster = %key, reason = failure.reason().name(), error = %failure, "a visit failed");
        if let Failure::OwnedByAnother(_) = failure {
            // The report is the other's, and so is what redis and etcd need.
            context.keepers.forget(key);
            figures::conditions(key, &[]);
            figures::foreign(key, true);
            context.events.warning(&cluster, failure.reason().name(), &failure.to_string()).await;
            return Outcome::Waiting(context.settings.revisit);
        }
        if failure.is_end() {
            return Outcome::Waiting(context.settings.revisit);
        }
    }
    let found = find(context, &cluster, &done, changed.as_ref().err(), now);
    metrics::DRAINS
        .with_label_values(&[key.namespace.as_str(), key.name.as_str()])
        .set(i64::try_from(found.draining.len()).unwrap_or(i64::MAX));
    let report = status::compose(&cluster, &found, now);
    figures::conditions(key, &report.conditions);
    let written = write(context, &cluster, key, &report).await;
    if let Err(failure) = &changed {
        return failure.outcome(context.settings.revisit);
    }
    for waiting in context.turns.reported(key, &report, &context.settings.operator_image) {
        context.queue.wake(waiting);
    }
    let held = match written {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(cluster = %key, %error, "the report is not written");
            return Outcome::Failed;
        }
    };
    let quiet = status::is_whole(&report);
    let mut again =
        if quiet && done.after.is_none() || cluster.spec.paused { context.settings.revisit } else { UNSETTLED };
    if let Held::Soon(left) = held {
        again = again.min(left);
    }
    if !done.volumes.stuck.is_empty() {
        again = again.min(STUCK);
    }
    if let Some(renewal) = done.renewal {
        let left = Duration::try_from(renewal.duration_since(now)).unwrap_or_default();
        again = again.min(left + Duration::from_secs(1));
    }
    if done.wrote || held == Held::Written { Outcome::Changed(again) } else { Outcome::Settled(again) }
}

/// What cannot be read, for people.
fn unread_message(unread: &[UnreadKind]) -> String {
    let each = unread.iter().map(|unread| {
        let why = if unread.why.is_empty() { "no answer yet" } else { &unread.why };
        format!("{}: {why}", unread.kind)
    });
    format!("the operator cannot watch in this namespace, see its rights: {}", each.collect::<Vec<_>>().join("; "))
}

/// Without these kinds nothing is known and nothing can be decided: that is all there is to say. Other ImClusters go on.
async fn blind(context: &Arc<Context>, cluster: &ImCluster, key: &Key, unread: &[UnreadKind]) -> Outcome {
    let message = unread_message(unread);
    metrics::FAILURES.with_label_values(&[Reason::WatchFailing.name()]).inc();
    tracing::warn!(cluster = %key, reason = Reason::WatchFailing.name(), message, "a visit failed");
    let report = status::blind(cluster, &message, Timestamp::now());
    figures::conditions(key, &report.conditions);
    if let Err(error) = write(context, cluster, key, &report).await {
        // Whoever may not list may not write either.
        tracing::warn!(cluster = %key, %error, "the report is not written");
    }
    Outcome::Failed
}

/// Brings the cluster to what is asked for, as far as that goes now.
async fn change(context: &Arc<Context>, cluster: &ImCluster, now: Timestamp, done: &mut Done) -> Result<(), Failure> {
    let key = Key::of(cluster);
    claim(context, cluster).await?;
    figures::foreign(&key, false);
    let valid = validate::validate(cluster, context.settings.pods).map_err(Failure::Invalid)?;
    if cluster.spec.paused {
        // Redis and etcd are looked at, and not touched.
        return Ok(());
    }
    dereference::dereference(&context.client, cluster).await?;
    let domain = &context.settings.cluster_domain;
    let settled = |phase, since| is_everywhere(context, cluster, phase, since, now);
    let known = secrets::ensure(&context.client, &context.stores.secrets, cluster, domain, settled, now).await?;
    if known.change.is_some() && keeper::is_said(cluster, ROTATE) {
        let taken = stateful::take_word_back(context, &key, ROTATE).await;
        taken.map_err(|error| Failure::api("the annotation cannot be taken back", error))?;
    }
    done.authority = known.change.map(|(phase, _)| phase);
    done.renewal = Some(known.renewal);
    done.warning = done.warning.take().or_else(|| expiry(&known, now));
    let said = context.keepers.said(context, &key, &known);
    let mut inputs = inputs(context, &valid);
    let (runs, upgrading) = runs(context, &valid, said.as_ref(), now);
    inputs.runs = runs;
    done.upgrading = upgrading;
    if let Some(said) = said {
        let master = said.master.as_ref().and_then(|pod| context.stores.pods.get(&Key::new(&key.namespace, pod)));
        if master.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()) {
            // It hands over before it ends.
            context.keepers.hurry(&key);
        }
        inputs.etcd_existing = said.etcd_bootstrapped;
        done.said = Some(said);
    } else {
        // Until etcd was asked, what its template says stays: a new one must not form a second cluster.
        inputs.etcd_existing = etcd_existing(context, cluster);
    }
    done.volumes = volumes::grow(context, &valid)
        .await
        .map_err(|error| Failure::api("a volume claim cannot be made larger", error))?;
    inputs.etcd_volume = done.volumes.etcd_least;
    let rollout = pace::decide(context, &valid);
    inputs.connect_replicas = rollout.replicas;
    inputs.connect_paused = rollout.paused;
    let objects = build::build(&valid, &inputs);
    done.ignored = objects.ignored.iter().map(|ignored| ignored.field.clone()).collect();
    let owner = Owner { cluster: key.clone(), uid: valid.uid().to_owned() };
    let turn = context.turns.ask(cluster, &context.stores.clusters.all(), &context.settings.operator_image);
    if let Turn::After(other) = turn {
        // What pods run with waits, all else is put right.
        let others: Vec<_> = objects.list.into_iter().filter(|object| !object.has_pods()).collect();
        let applied = apply::apply(&context.client, &context.stores, &owner, &others).await?;
        done.wrote = applied.applied > 0 || done.volumes.wrote;
        done.after = Some(other);
        return Ok(());
    }
    let applied = apply::apply(&context.client, &context.stores, &owner, &objects.list).await?;
    let removed = apply::prune(&context.client, &context.stores, &owner, &objects.list).await?;
    let acted = pace::carry_out(context, &key, &rollout).await?;
    done.rollout = rollout.progressing;
    done.wrote = applied.applied + removed > 0 || acted || done.volumes.wrote;
    done.applied = true;
    Ok(())
}

/// Sees to it that no other operator manages the ImCluster.
async fn claim(context: &Context, cluster: &ImCluster) -> Result<(), Failure> {
    let ours = format!("{}/{}", context.settings.namespace, context.settings.lease_name);
    match cluster.annotations().get(OPERATOR) {
        Some(operator) if *operator == ours => return Ok(()),
        Some(other) => return Err(Failure::OwnedByAnother(other.clone())),
        None => {}
    }
    if cluster.spec.paused {
        return Ok(());
    }
    let api: kube::Api<ImCluster> =
        kube::Api::namespaced(context.client.clone(), &cluster.namespace().unwrap_or_default());
    // With the version seen: if two try at once, one of them fails and looks again.
    let patch = json!({
        "apiVersion": "imcluster.io/v1alpha1",
        "kind": "ImCluster",
        "metadata": {
            "name": cluster.name_any(),
            "uid": cluster.uid(),
            "resourceVersion": cluster.resource_version(),
            "annotations": {OPERATOR: ours},
        },
    });
    let claimed = api.patch(&cluster.name_any(), &PatchParams::apply(CLAIM), &Patch::Apply(&patch)).await;
    let mut claimed = claimed.map_err(|error| Failure::api("the ImCluster cannot be claimed", error))?;
    claimed.metadata.managed_fields = None;
    context.stores.clusters.put(claimed);
    Ok(())
}

fn inputs(context: &Context, valid: &Valid) -> Inputs {
    let mut inputs = Inputs::wanted(valid, &context.settings.namespace, &context.settings.operator_image);
    inputs.logic_replicas = logic_replicas(context, valid);
    inputs.pod_monitors = context.stores.has_pod_monitors();
    inputs.cluster_domain.clone_from(&context.settings.cluster_domain);
    inputs
}

/// How many logic pods are to be applied. Where an autoscaler says how many there are, what is there stays: until it has
/// taken the field, applied as it is, as one that nobody applies any more becomes 1; then, not applied at all.
fn logic_replicas(context: &Context, valid: &Valid) -> Option<i32> {
    let wanted = Some(valid.spec().logic.replicas);
    let name = Key::new(valid.namespace(), build::object_name(valid.name(), Tier::Logic));
    if !context.stores.is_autoscaled(&name) {
        return wanted;
    }
    let Some(live) = context.stores.get(&ApiResource::erase::<Deployment>(&()), &name) else { return wanted };
    let ours = drift::owned_fields(&live, Tier::Logic.manager());
    let ours = ours.is_some_and(|fields| fields.pointer("/f:spec/f:replicas").is_some());
    let there = live.data.pointer("/spec/replicas").and_then(serde_json::Value::as_i64);
    ours.then_some(there).flatten().and_then(|count| i32::try_from(count).ok())
}

/// Whether etcd's cluster is known to exist: by its volumes, by the last report, or by what its template says. Without the
/// template, as after the ImCluster was made anew over kept volumes, a volume that was lost must join the others.
fn etcd_existing(context: &Context, cluster: &ImCluster) -> bool {
    let key = &Key::of(cluster);
    let count = usize::try_from(cluster.spec.etcd.replicas).unwrap_or_default();
    let reported =
        cluster.status.as_ref().and_then(|status| status.etcd.as_ref()).is_some_and(|etcd| etcd.bootstrapped);
    if stateful::places(context, key, Tier::Etcd, count).iter().any(|place| place.latched)
        || reported && !keeper::is_said(cluster, etcd::ANEW)
    {
        return true;
    }
    let name = Key::new(&key.namespace, build::object_name(&key.name, Tier::Etcd));
    let set = context.stores.typed::<StatefulSet>(&name);
    let containers = set.and_then(|set| Some(set.spec?.template.spec?.containers)).unwrap_or_default();
    let mut words = containers.iter().flat_map(|container| container.command.iter().chain(&container.args).flatten());
    words.any(|word| word.contains("initial-cluster-state=existing"))
}

/// What every tier is to run now, and which is being upgraded.
fn runs(context: &Context, valid: &Valid, said: Option<&Said>, now: Timestamp) -> (Runs, Option<Tier>) {
    let wanted = build::wanted(valid);
    let spec = valid.spec();
    let key = Key::of(valid.cluster());
    // Whoever has not been asked yet is not known to serve.
    let serves =
        |says: fn(&Said) -> &Option<Verdict>| said.is_some_and(|said| says(said).as_ref().is_none_or(Verdict::holds));
    let mut stands = BTreeMap::new();
    let mut add = |tier: Tier, wanted: &Run, serves: bool| {
        let seen = workload::tier(&context.stores, &key, tier, now);
        let complete = seen.is_complete() && seen.ending == 0 && serves;
        stands.insert(tier, Stand { runs: running(context, &key, tier), wanted: wanted.clone(), complete });
    };
    if spec.redis.mode != RedisMode::External {
        let sentinels = workload::tier(&context.stores, &key, Tier::Sentinel, now);
        let whole = spec.redis.mode != RedisMode::Sentinel || sentinels.is_complete();
        add(Tier::Redis, &wanted.redis, whole && serves(|said| &said.redis));
    }
    if spec.etcd.mode == EtcdMode::Managed {
        add(Tier::Etcd, &wanted.etcd, serves(|said| &said.etcd));
    }
    add(Tier::Logic, &wanted.logic, true);
    add(Tier::Connect, &wanted.connect, true);
    let (mut now, mut turn) = upgrade::stage(&stands);
    let known = valid.cluster().status.as_ref().and_then(|status| status.version.as_ref());
    if turn.is_none() && known.is_some_and(|known| *known != spec.version) {
        // The last tiers are on their way.
        turn = upgrade::ORDER.into_iter().find(|tier| stands.get(tier).is_some_and(|stand| !stand.complete));
    }
    let mut take = |tier, wanted: Run| now.remove(&tier).unwrap_or(wanted);
    let runs = Runs {
        redis: take(Tier::Redis, wanted.redis),
        etcd: take(Tier::Etcd, wanted.etcd),
        logic: take(Tier::Logic, wanted.logic),
        connect: take(Tier::Connect, wanted.connect),
    };
    (runs, turn)
}

/// What a tier's template runs.
fn running(context: &Context, key: &Key, tier: Tier) -> Option<Run> {
    let name = Key::new(&key.namespace, build::object_name(&key.name, tier));
    let deployment = context.stores.typed::<Deployment>(&name).and_then(|deployment| Some(deployment.spec?.template));
    let set = || context.stores.typed::<StatefulSet>(&name).and_then(|set| Some(set.spec?.template));
    let template: PodTemplateSpec = deployment.or_else(set)?;
    let version = template.metadata?.labels?.remove(build::VERSION)?;
    let containers = template.spec?.containers;
    let image = containers.into_iter().find(|container| container.name == tier.name())?.image?;
    Some(Run { image, version })
}

/// Whether everybody has what a phase of a change of the authority that began then has brought: files reach pods and are read
/// within a while, and whoever reads them only at its start has been started since.
fn is_everywhere(
    context: &Context,
    cluster: &ImCluster,
    phase: Option<Rotation>,
    since: Timestamp,
    now: Timestamp,
) -> bool {
    let key = Key::of(cluster);
    let begun = |tier: Tier, count: i32| {
        let count = usize::try_from(count).unwrap_or_default();
        let places = stateful::places(context, &key, tier, count);
        places.iter().all(|place| place.ready)
            && (0..count).all(|place| !stateful::is_older(context, &key, tier, place, since))
    };
    let spec = &cluster.spec;
    let sentinels = spec.redis.mode != RedisMode::Sentinel || begun(Tier::Sentinel, build::SENTINEL_REPLICAS);
    let etcd = spec.etcd.mode != EtcdMode::Managed
        || phase != Some(Rotation::Introducing)
        || begun(Tier::Etcd, spec.etcd.replicas);
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    passed >= context.settings.authority_pause && sentinels && etcd
}

fn expiry(known: &Known, now: Timestamp) -> Option<Verdict> {
    let left = Duration::try_from(known.authority_until.duration_since(now)).unwrap_or_default();
    (left < secrets::WARNING).then(|| {
        let days = left.as_secs() / 86_400;
        let message = format!(
            "the internal authority ends in {days} days, and all connections between pods with it: another one takes its place as soon as redis and etcd are whole"
        );
        Verdict::yes(Reason::CertificateExpiring, message)
    })
}

/// Looks at everything that is reported.
fn find(context: &Context, cluster: &ImCluster, done: &Done, failure: Option<&Failure>, now: Timestamp) -> Findings {
    let key = Key::of(cluster);
    let spec = &cluster.spec;
    let tier = |tier| workload::tier(&context.stores, &key, tier, now);
    let with = |wanted: bool, of: Tier| wanted.then(|| tier(of));
    let mut connect = tier(Tier::Connect);
    let mut logic = tier(Tier::Logic);
    // What was never applied has no number of its own yet.
    let unbuilt = |seen: &mut Seen, wanted| {
        if seen.wanted == 0 && !seen.rolled_out {
            seen.wanted = wanted;
        }
    };
    unbuilt(&mut connect, spec.connect.replicas);
    unbuilt(&mut logic, spec.logic.replicas);
    let (connections, draining) = connections(context, &key);
    // Also where the visit did not come so far: they are seen to all the same.
    let said = done.said.clone().or_else(|| context.keepers.last(&key));
    let asked = said.is_some();
    let said = said.unwrap_or_default();
    let verdict = |failure: &Failure| Verdict::yes(failure.reason(), failure.to_string());
    Findings {
        redis: with(spec.redis.mode != RedisMode::External, Tier::Redis),
        sentinel: with(spec.redis.mode == RedisMode::Sentinel, Tier::Sentinel),
        etcd: with(spec.etcd.mode == EtcdMode::Managed, Tier::Etcd),
        logic,
        connect,
        redis_says: said.redis,
        etcd_says: said.etcd,
        asked,
        rollout: done.rollout.clone(),
        upgrading: done.upgrading,
        failure: failure.map(verdict),
        applied: done.applied,
        authority: done.authority,
        warning: done.warning.clone(),
        conflicts: done.ignored.clone(),
        addresses_hidden: hides_addresses(cluster),
        connections,
        draining,
        master: said.master,
        redis_bootstrapped: said.redis_bootstrapped,
        etcd_bootstrapped: said.etcd_bootstrapped,
        external: external(context, &key),
        volumes: done.volumes.clone(),
        operator_image: context.settings.operator_image.clone(),
        after: done.after.clone(),
    }
}

fn hides_addresses(cluster: &ImCluster) -> bool {
    validate::validate(cluster, Pods::Privileged).is_ok_and(|valid| valid.hides_addresses())
}

/// Clients connected, and the pods that move theirs away.
fn connections(context: &Context, key: &Key) -> (Option<u64>, Vec<Drain>) {
    let pods = context.stores.pods.of_cluster(key).into_iter().filter(|pod| is_of(pod, Tier::Connect));
    let (mut sum, mut draining, mut silent) = (None, Vec::new(), false);
    for pod in pods {
        let reading = pod.uid().and_then(|uid| context.readings.of(&uid));
        match &reading {
            Some(reading) => sum = Some(sum.unwrap_or(0) + reading.connections),
            None => silent = true,
        }
        let ends = pod.metadata.deletion_timestamp.is_some();
        if !ends && reading.as_ref().is_none_or(|reading| reading.phase != Phase::Draining) {
            continue;
        }
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let time = |ms: u64| {
            let second = i64::try_from(ms / 1000).ok()?;
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(second).ok()?))
        };
        let reading = reading.as_ref();
        draining.push(Drain {
            pod: pod.name_any(),
            initial: reading.and_then(|reading| reading.initial).map(count),
            current: reading.map(|reading| count(reading.connections)),
            rate: reading.and_then(|reading| reading.rate).map(|rate| rate.round() as i64),
            since: reading.and_then(|reading| reading.since_ms).and_then(time),
            deadline: reading.and_then(|reading| reading.deadline_ms).and_then(time),
        });
    }
    // Nobody to ask has no clients; nobody who answers is not known.
    (sum.or((!silent).then_some(0)), draining)
}

fn external(context: &Context, key: &Key) -> Vec<String> {
    let name = Key::new(&key.namespace, build::object_name(&key.name, Tier::Connect));
    let service = context.stores.typed::<Service>(&name);
    let ingress = service.and_then(|service| service.status?.load_balancer?.ingress).unwrap_or_default();
    ingress.into_iter().filter_map(|ingress| ingress.hostname.or(ingress.ip)).collect()
}

async fn write(
    context: &Context,
    cluster: &ImCluster,
    key: &Key,
    report: &ImClusterStatus,
) -> Result<Held, kube::Error> {
    let mut memory = context.memory(key);
    // The claim of a moment ago is newer than what the visit began with; the report it carries is the same.
    let held = memory.writer.write(&context.client, &context.stores.clusters, cluster, report).await?;
    context.remember(key, memory);
    if held == Held::Written {
        tell(context, cluster, report).await;
    }
    Ok(held)
}

/// Tells people what has changed.
async fn tell(context: &Context, cluster: &ImCluster, report: &ImClusterStatus) {
    let before = cluster.status.clone().unwrap_or_default();
    for condition in &report.conditions {
        use ConditionType as Of;
        let old = before.conditions.iter().find(|old| old.kind == condition.kind);
        let same = old.is_some_and(|old| old.status == condition.status && old.reason == condition.reason);
        if same {
            continue;
        }
        let was = old.map(|old| old.status);
        let note = format!("{}: {}", condition.kind.name(), condition.message);
        let reason = condition.reason.name();
        match (condition.kind, condition.status) {
            (Of::Degraded | Of::OverrideIgnored | Of::ClientAddressUnknown, ConditionStatus::True) => {
                context.events.warning(cluster, reason, &note).await;
            }
            (Of::Degraded, _) if was == Some(ConditionStatus::True) => {
                context.events.normal(cluster, reason, &note).await;
            }
            (Of::Progressing | Of::Paused, _) if was.is_some() || condition.status == ConditionStatus::True => {
                context.events.normal(cluster, reason, &note).await;
            }
            (Of::Ready | Of::RedisReady | Of::EtcdReady | Of::LogicReady | Of::ConnectReady, ConditionStatus::True) => {
                context.events.normal(cluster, reason, &note).await;
            }
            (Of::Ready | Of::Available, _) if was == Some(ConditionStatus::True) => {
                context.events.warning(cluster, reason, &note).await;
            }
            _ => {}
        }
    }
}

/// Tells of an ImCluster that cannot be read, as one that a newer operator's definition allows may be.
pub async fn unreadable(context: Arc<Context>, key: Key, generation: Option<i64>, error: String) {
    if !context.is_new_unreadable(&key, generation, &error) {
        return;
    }
    metrics::FAILURES.with_label_values(&[Reason::InvalidSpec.name()]).inc();
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let condition = |kind: ConditionType, status: &str| {
        json!({"type": kind.name(), "status": status, "reason": Reason::InvalidSpec.name(), "observedGeneration": generation,
            "lastTransitionTime": now.to_string(), "message": format!("this operator cannot read the resource: {error}")})
    };
    let patch = json!({"status": {"observedGeneration": generation,
        "conditions": [condition(ConditionType::Ready, "False"), condition(ConditionType::Degraded, "True")]}});
    let kind = kube::core::ApiResource::erase::<ImCluster>(&());
    let api: kube::Api<kube::api::DynamicObject> =
        kube::Api::namespaced_with(context.client.clone(), &key.namespace, &kind);
    let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    if let Err(error) = written {
        tracing::warn!(cluster = %key, %error, "the report is not written");
    }
}
