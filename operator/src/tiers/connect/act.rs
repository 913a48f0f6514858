//! How fast connect changes: what its rollout is shown, and what of its decision is done to pods. What concerns the
//! Deployment goes through `build`.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

use crate::api::Tier;
use crate::build;
use crate::context::Context;
use crate::controller::outcome::Failure;
use crate::kubernetes::key::Key;
use crate::metrics;
use crate::tiers::connect::decide::{self as rollout, Decision, Observed};
use crate::tiers::workload::{is_of, is_over, is_ready};
use crate::validate::Valid;

/// The annotation that tells a ReplicaSet which pod to end first.
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The label by which a ReplicaSet knows its pods.
const HASH: &str = "pod-template-hash";
/// The annotation that counts a Deployment's templates.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// Decides what connect is to be now.
pub fn decide(context: &Context, valid: &Valid) -> Decision {
    rollout::decide(&observe(context, valid))
}

fn observe(context: &Context, valid: &Valid) -> Observed {
    let key = Key::of(valid.cluster());
    let connect = &valid.spec().connect;
    let name = build::object_name(valid.name(), Tier::Connect);
    let deployment = context.stores.typed::<Deployment>(&Key::new(&key.namespace, name));
    let sets = context.stores.replica_sets.of_cluster(&key);
    let newest = deployment.as_ref().and_then(|deployment| {
        let of = |set: &&std::sync::Arc<ReplicaSet>| {
            set.owner_references().iter().any(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref())
        };
        let revision = |set: &ReplicaSet| set.annotations().get(REVISION).and_then(|text| text.parse::<u64>().ok());
        let newest = sets.iter().filter(of).max_by_key(|set| revision(set))?;
        newest.labels().get(HASH).cloned()
    });
    let pods = context.stores.pods.of_cluster(&key);
    let pods = pods.iter().filter(|pod| is_of(pod, Tier::Connect) && !is_over(pod));
    Observed {
        wanted: connect.replicas,
        max_draining: build::max_draining(&connect.rollout, connect.replicas),
        by_node: valid.is_reached_by_node(),
        deployment: deployment.map(|deployment| rollout::Deployment {
            replicas: deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
            observed: deployment.status.as_ref().and_then(|status| status.observed_generation)
                >= deployment.metadata.generation,
        }),
        pods: pods.map(|pod| shown(context, pod, newest.as_deref())).collect(),
    }
}

fn shown(context: &Context, pod: &Pod, newest: Option<&str>) -> rollout::Pod {
    let ending = pod.metadata.deletion_timestamp.is_some();
    let reading = pod.uid().and_then(|uid| context.readings.of(&uid));
    rollout::Pod {
        name: pod.name_any(),
        newest: pod.labels().get(HASH).map(String::as_str) == newest,
        ready: is_ready(pod) && !ending,
        ending,
        accepts: pod.labels().get(build::ACCEPT).is_some_and(|value| value == build::ACCEPT_YES),
        cost: pod.annotations().get(COST).and_then(|text| text.parse().ok()),
        connections: reading.map(|reading| reading.connections),
    }
}

/// Does to pods what was decided; says whether anything was written.
///
/// # Errors
/// The API server.
pub async fn carry_out(context: &Context, key: &Key, decided: &Decision) -> Result<bool, Failure> {
    note(context, key, decided);
    for (name, accepts) in &decided.accept {
        let value = if *accepts { json!(build::ACCEPT_YES) } else { Value::Null };
        patch(context, key, name, json!({"labels": {build::ACCEPT: value}})).await?;
        tracing::info!(cluster = %key, pod = name, accepts, "new clients");
    }
    for (name, cost) in &decided.cost {
        let value = cost.map_or(Value::Null, |cost| json!(cost.to_string()));
        patch(context, key, name, json!({"annotations": {COST: value}})).await?;
        tracing::info!(cluster = %key, pod = name, marked = cost.is_some(), "the next to go");
    }
    Ok(!decided.accept.is_empty() || !decided.cost.is_empty())
}

fn note(context: &Context, key: &Key, decided: &Decision) {
    let now: BTreeSet<String> = decided.picked_otherwise.iter().cloned().collect();
    let mut memory = context.memory(key);
    if memory.picked_otherwise == now {
        return;
    }
    for pod in now.difference(&memory.picked_otherwise) {
        metrics::PICKED_OTHERWISE.inc();
        tracing::info!(cluster = %key, pod, "Kubernetes ended this pod, not the one that was marked");
    }
    memory.picked_otherwise = now;
    context.remember(key, memory);
}

/// A pod that is gone meanwhile needs nothing.
async fn patch(context: &Context, key: &Key, name: &str, metadata: Value) -> Result<(), Failure> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    match api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"metadata": metadata}))).await {
        Ok(mut pod) => {
            pod.metadata.managed_fields = None;
            context.stores.pods.put(pod);
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(Failure::api(format!("pod {name} cannot be changed"), error)),
    }
}
