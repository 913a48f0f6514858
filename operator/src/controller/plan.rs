//! What an ImCluster is to be now: decided from the caches, without a call.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::core::ApiResource;

use crate::api::{EtcdMode, ImCluster, Reason, RedisMode, Tier, Verdict};
use crate::build::{self, Inputs, Run, Runs};
use crate::context::Context;
use crate::kubernetes::drift;
use crate::kubernetes::key::Key;
use crate::kubernetes::pod::is_ending;
use crate::secrets::authority::Rotation;
use crate::secrets::{self, Credentials};
use crate::tiers::supervisor::StoreStatus;
use crate::tiers::upgrade::{self, TierState};
use crate::tiers::volumes::Growth;
use crate::tiers::{connect, etcd, stateful, workload};
use crate::validate::Valid;

/// What an ImCluster is to be now, and what is known beside it.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) valid: Valid,
    inputs: Inputs,
    /// How connect gets there.
    pub(crate) rollout: connect::decide::Decision,
    /// What redis and etcd say; `None`: they have not been asked yet.
    pub(crate) stores: Option<StoreStatus>,
    /// Whether the master of redis is being deleted.
    pub(crate) master_is_ending: bool,
    /// The tier that is being upgraded.
    pub(crate) upgrading: Option<Tier>,
    /// How far a change of the internal authority is.
    pub(crate) authority: Option<Rotation>,
    /// When the first certificate is to be replaced.
    pub(crate) renewal: Timestamp,
    /// What a person should know though all works.
    pub(crate) warning: Option<Verdict>,
}

impl Plan {
    /// What `build` is given, with volumes as they are.
    pub(crate) fn inputs(&self, volumes: &Growth) -> Inputs {
        Inputs {
            etcd_volume: volumes.etcd_least,
            ..self.inputs.clone()
        }
    }
}

/// Decides what an ImCluster is to be now.
pub(crate) fn plan(
    context: &Context,
    valid: Valid,
    credentials: &Credentials,
    stores: Option<StoreStatus>,
    now: Timestamp,
) -> Plan {
    let key = Key::of(valid.cluster());
    let (runs, upgrading) = runs(context, &valid, stores.as_ref(), now);
    let rollout = connect::decide::decide(&connect::observe::observe(context, &valid));
    let mut inputs = Inputs::wanted(
        &valid,
        &context.settings.namespace,
        &context.settings.operator_image,
    );
    inputs
        .cluster_domain
        .clone_from(&context.settings.cluster_domain);
    inputs.pod_monitors = context.stores.has_pod_monitors();
    inputs.runs = runs;
    inputs.connect_replicas = rollout.replicas;
    inputs.connect_paused = rollout.paused;
    inputs.logic_replicas = logic_replicas(context, &valid);
    inputs.etcd_existing = match &stores {
        Some(stores) => stores.etcd_bootstrapped,
        // Until etcd was asked, what its template says stays: a new one must not form a second cluster.
        None => etcd_existing(context, valid.cluster()),
    };
    let master = stores.as_ref().and_then(|stores| stores.master.as_ref());
    let master = master.and_then(|pod| context.stores.pods.get(&Key::new(&key.namespace, pod)));
    Plan {
        inputs,
        rollout,
        master_is_ending: master.is_some_and(|pod| is_ending(&pod)),
        stores,
        upgrading,
        authority: credentials.change.map(|(phase, _)| phase),
        renewal: credentials.renewal,
        warning: expiry(credentials, now),
        valid,
    }
}

/// How many logic pods are to be applied. Where an autoscaler says how many there are, what is there stays: until it has
/// taken the field, applied as it is, as one that nobody applies any more becomes 1; then, not applied at all.
fn logic_replicas(context: &Context, valid: &Valid) -> Option<i32> {
    let wanted = Some(valid.spec().logic.replicas);
    let name = Key::new(
        valid.namespace(),
        build::object_name(valid.name(), Tier::Logic),
    );
    if !context.stores.is_autoscaled(&name) {
        return wanted;
    }
    let Some(live) = context
        .stores
        .get(&ApiResource::erase::<Deployment>(&()), &name)
    else {
        return wanted;
    };
    let ours = drift::owned_fields(&live, Tier::Logic.manager());
    let ours = ours.is_some_and(|fields| fields.pointer("/f:spec/f:replicas").is_some());
    let there = live
        .data
        .pointer("/spec/replicas")
        .and_then(serde_json::Value::as_i64);
    ours.then_some(there)
        .flatten()
        .and_then(|count| i32::try_from(count).ok())
}

/// Whether etcd's cluster is known to exist: by its volumes, by the last report, or by what its template says. Without the
/// template, as after the ImCluster was made anew over kept volumes, a volume that was lost must join the others.
fn etcd_existing(context: &Context, cluster: &ImCluster) -> bool {
    let key = &Key::of(cluster);
    let count = usize::try_from(cluster.spec.etcd.replicas).unwrap_or_default();
    let reported = cluster
        .status
        .as_ref()
        .and_then(|status| status.etcd.as_ref())
        .is_some_and(|etcd| etcd.bootstrapped);
    if stateful::replicas(context, key, Tier::Etcd, count)
        .iter()
        .any(|replica| replica.bootstrapped)
        || reported && !cluster.is_asked_for(etcd::decide::ANEW)
    {
        return true;
    }
    let name = Key::new(&key.namespace, build::object_name(&key.name, Tier::Etcd));
    let set = context.stores.typed::<StatefulSet>(&name);
    let containers = set
        .and_then(|set| Some(set.spec?.template.spec?.containers))
        .unwrap_or_default();
    let mut words = containers
        .iter()
        .flat_map(|container| container.command.iter().chain(&container.args).flatten());
    words.any(|word| word.contains("initial-cluster-state=existing"))
}

/// What every tier is to run now, and which is being upgraded.
fn runs(
    context: &Context,
    valid: &Valid,
    stores: Option<&StoreStatus>,
    now: Timestamp,
) -> (Runs, Option<Tier>) {
    let wanted = build::wanted(valid);
    let spec = valid.spec();
    let key = Key::of(valid.cluster());
    // Whoever has not been asked yet is not known to serve.
    let serves = |of: fn(&StoreStatus) -> &Option<Verdict>| {
        stores.is_some_and(|stores| of(stores).as_ref().is_none_or(Verdict::holds))
    };
    let mut states = BTreeMap::new();
    let mut add = |tier: Tier, wanted: &Run, serves: bool| {
        let seen = workload::tier(&context.stores, &key, tier, now);
        let complete = seen.is_complete() && seen.ending == 0 && serves;
        states.insert(
            tier,
            TierState {
                runs: running(context, &key, tier),
                wanted: wanted.clone(),
                complete,
            },
        );
    };
    if spec.redis.mode != RedisMode::External {
        let sentinels = workload::tier(&context.stores, &key, Tier::Sentinel, now);
        let whole = spec.redis.mode != RedisMode::Sentinel || sentinels.is_complete();
        add(
            Tier::Redis,
            &wanted.redis,
            whole && serves(|stores| &stores.redis),
        );
    }
    if spec.etcd.mode == EtcdMode::Managed {
        add(Tier::Etcd, &wanted.etcd, serves(|stores| &stores.etcd));
    }
    add(Tier::Logic, &wanted.logic, true);
    add(Tier::Connect, &wanted.connect, true);
    let (mut now, mut turn) = upgrade::stage(&states);
    let known = valid
        .cluster()
        .status
        .as_ref()
        .and_then(|status| status.version.as_ref());
    if turn.is_none() && known.is_some_and(|known| *known != spec.version) {
        // The last tiers are on their way.
        turn = upgrade::ORDER
            .into_iter()
            .find(|tier| states.get(tier).is_some_and(|state| !state.complete));
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
    let deployment = context
        .stores
        .typed::<Deployment>(&name)
        .and_then(|deployment| Some(deployment.spec?.template));
    let set = || {
        context
            .stores
            .typed::<StatefulSet>(&name)
            .and_then(|set| Some(set.spec?.template))
    };
    let template: PodTemplateSpec = deployment.or_else(set)?;
    let version = template.metadata?.labels?.remove(build::VERSION)?;
    let containers = template.spec?.containers;
    let image = containers
        .into_iter()
        .find(|container| container.name == tier.name())?
        .image?;
    Some(Run { image, version })
}

/// Whether everybody has what a phase of a change of the authority that began then has brought: files reach pods and are read
/// within a while, and whoever reads them only at its start has been started since.
pub(crate) fn is_everywhere(
    context: &Context,
    cluster: &ImCluster,
    phase: Option<Rotation>,
    since: Timestamp,
    now: Timestamp,
) -> bool {
    let key = Key::of(cluster);
    let begun = |tier: Tier, count: i32| {
        let count = usize::try_from(count).unwrap_or_default();
        let replicas = stateful::replicas(context, &key, tier, count);
        replicas.iter().all(|replica| replica.ready)
            && (0..count).all(|ordinal| !stateful::is_older(context, &key, tier, ordinal, since))
    };
    let spec = &cluster.spec;
    let sentinels =
        spec.redis.mode != RedisMode::Sentinel || begun(Tier::Sentinel, build::SENTINEL_REPLICAS);
    let etcd = spec.etcd.mode != EtcdMode::Managed
        || phase != Some(Rotation::Introducing)
        || begun(Tier::Etcd, spec.etcd.replicas);
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    passed >= context.settings.authority_pause && sentinels && etcd
}

fn expiry(credentials: &Credentials, now: Timestamp) -> Option<Verdict> {
    let left =
        Duration::try_from(credentials.authority_until.duration_since(now)).unwrap_or_default();
    (left < secrets::WARNING).then(|| {
        let days = left.as_secs() / 86_400;
        let message = format!(
            "the internal authority ends in {days} days, and all connections between pods with it: it is replaced as soon as redis and etcd are healthy"
        );
        Verdict::yes(Reason::CertificateExpiring, message)
    })
}
