//! What connect's rollout is decided by: the Deployment, its pods, and what they answer.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::decide::{self, COST, Observed};
use crate::api::Tier;
use crate::build;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::kubernetes::pod::{is_ending, is_of, is_over, is_ready};
use crate::validate::Valid;

/// The label by which a ReplicaSet knows its pods.
const HASH: &str = "pod-template-hash";
/// The annotation that counts a Deployment's templates.
const REVISION: &str = "deployment.kubernetes.io/revision";

/// What is known of connect now.
pub(crate) fn observe(context: &Context, valid: &Valid) -> Observed {
    let key = Key::of(valid.cluster());
    let connect = &valid.spec().connect;
    let name = build::object_name(valid.name(), Tier::Connect);
    let deployment = context
        .stores
        .typed::<Deployment>(&Key::new(&key.namespace, name));
    let sets = context.stores.replica_sets.of_cluster(&key);
    let newest = deployment.as_ref().and_then(|deployment| {
        let of = |set: &&Arc<ReplicaSet>| {
            set.owner_references()
                .iter()
                .any(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref())
        };
        let revision = |set: &ReplicaSet| {
            set.annotations()
                .get(REVISION)
                .and_then(|text| text.parse::<u64>().ok())
        };
        let newest = sets.iter().filter(of).max_by_key(|set| revision(set))?;
        newest.labels().get(HASH).cloned()
    });
    let pods = context.stores.pods.of_cluster(&key);
    let pods = pods
        .iter()
        .filter(|pod| is_of(pod, Tier::Connect) && !is_over(pod));
    Observed {
        wanted: connect.replicas,
        max_draining: build::max_draining(&connect.rollout, connect.replicas),
        by_node: valid.is_reached_by_node(),
        deployment: deployment.map(|deployment| decide::Deployment {
            replicas: deployment
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .unwrap_or(1),
            observed: deployment
                .status
                .as_ref()
                .and_then(|status| status.observed_generation)
                >= deployment.metadata.generation,
        }),
        pods: pods
            .map(|one| pod(context, one, newest.as_deref()))
            .collect(),
    }
}

fn pod(context: &Context, pod: &Pod, newest: Option<&str>) -> decide::Pod {
    let ending = is_ending(pod);
    let reading = pod.uid().and_then(|uid| context.readings.get(&uid));
    decide::Pod {
        name: pod.name_any(),
        newest: pod.labels().get(HASH).map(String::as_str) == newest,
        ready: is_ready(pod) && !ending,
        ending,
        accepts: pod
            .labels()
            .get(build::ACCEPT)
            .is_some_and(|value| value == build::ACCEPT_YES),
        cost: pod
            .annotations()
            .get(COST)
            .and_then(|text| text.parse().ok()),
        connections: reading.map(|reading| reading.connections),
    }
}
