//! Pods and volumes of redis and etcd, by number.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::{ImCluster, Tier};
use crate::build;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::tiers::workload::is_ready;

/// The annotation on a volume claim that says: this volume may hold data.
pub const LATCH: &str = "imcluster.io/bootstrapped";
/// The label by which a StatefulSet knows which template a pod is of.
const HASH: &str = "controller-revision-hash";

/// A pod of a StatefulSet, as the API server last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// It is there and ready, and does not end.
    pub ready: bool,
    /// It is there and is about to end.
    pub ending: bool,
    /// It is of an older template, and what it runs with differs.
    pub outdated: bool,
    /// It is of an older template.
    pub stale: bool,
    /// It has been in the init container [`build::JOIN`] for so long that its volume must be empty.
    pub joining: bool,
    /// Its container ends again and again.
    pub crashing: bool,
    /// Its claim says that it may hold data.
    pub latched: bool,
}

fn name(key: &Key, tier: Tier, place: usize) -> String {
    format!("{}-{place}", build::object_name(&key.name, tier))
}

fn claim(key: &Key, tier: Tier, place: usize) -> String {
    format!("{}{place}", claims(key, tier))
}

/// What the names of a tier's volume claims begin with; the pod's number follows.
pub fn claims(key: &Key, tier: Tier) -> String {
    format!("data-{}-", build::object_name(&key.name, tier))
}

/// How long the init container may take to look at its volume, in seconds: many times what it takes.
const JOIN_LOOKS: i64 = 20;

/// The first `count` pods of a tier.
pub fn places(context: &Context, key: &Key, tier: Tier, count: usize) -> Vec<Place> {
    let now = Timestamp::now();
    let set = context.stores.typed::<StatefulSet>(&Key::new(&key.namespace, build::object_name(&key.name, tier)));
    let set = set.filter(|set| {
        let seen = set.status.as_ref().and_then(|status| status.observed_generation);
        seen >= set.metadata.generation
    });
    let newest = set.as_ref().and_then(|set| set.status.as_ref()?.update_revision.as_deref());
    let place = |number| {
        let pod = context.stores.pods.get(&Key::new(&key.namespace, name(key, tier, number)));
        let claim = context.stores.claims.get(&Key::new(&key.namespace, claim(key, tier, number)));
        let outdated = |pod: &Pod| set.as_ref().is_some_and(|set| newest.is_some() && is_outdated(set, newest, pod));
        let stale = |pod: &Pod| newest.is_some_and(|newest| revision(pod) != Some(newest));
        Place {
            ready: pod.as_ref().is_some_and(|pod| is_ready(pod) && pod.metadata.deletion_timestamp.is_none()),
            ending: pod.as_ref().is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()),
            outdated: pod.as_ref().is_some_and(|pod| outdated(pod)),
            stale: pod.as_ref().is_some_and(|pod| stale(pod)),
            joining: pod.as_ref().is_some_and(|pod| is_joining(pod, now)),
            crashing: pod.as_ref().is_some_and(|pod| is_crashing(pod)),
            latched: claim.is_some_and(|claim| claim.annotations().contains_key(LATCH)),
        }
    };
    (0..count).map(place).collect()
}

/// Whether a pod is there and began before this.
pub fn is_older(context: &Context, key: &Key, tier: Tier, place: usize, than: Timestamp) -> bool {
    let pod = context.stores.pods.get(&Key::new(&key.namespace, name(key, tier, place)));
    pod.and_then(|pod| pod.creation_timestamp()).is_some_and(|created| created.0 < than)
}

fn revision(pod: &Pod) -> Option<&str> {
    pod.labels().get(HASH).map(String::as_str)
}

/// Whether a pod runs with other than what the newest template says: it is of an older one, and they differ by more than
/// what [`build::FINGERPRINT`] leaves out.
pub fn is_outdated(set: &StatefulSet, newest: Option<&str>, pod: &Pod) -> bool {
    let fingerprint = |annotations: Option<&BTreeMap<String, String>>| annotations?.get(build::FINGERPRINT).cloned();
    let template = set.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref());
    let wanted = fingerprint(template.and_then(|template| template.annotations.as_ref()));
    let same = wanted.is_some() && fingerprint(pod.metadata.annotations.as_ref()) == wanted;
    revision(pod) != newest && !same
}

fn is_crashing(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let reason = |status: &ContainerStatus| status.state.as_ref()?.waiting.as_ref()?.reason.clone();
    statuses.into_iter().any(|status| reason(status).as_deref() == Some("CrashLoopBackOff"))
}

/// The init container runs in a pod whose volume has its data as well, and ends as soon as it has looked. A member is let
/// go because of this, so what was seen a moment ago does not count.
fn is_joining(pod: &Pod, now: Timestamp) -> bool {
    let statuses = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
    let running = |status: &ContainerStatus| {
        let running = status.state.as_ref().and_then(|state| state.running.as_ref());
        let since = running.and_then(|running| running.started_at.as_ref());
        since.is_some_and(|since| now.as_second() - since.0.as_second() >= JOIN_LOOKS)
    };
    pod.metadata.deletion_timestamp.is_none()
        && statuses.into_iter().any(|status| status.name == build::JOIN && running(status))
}

/// Writes on a pod's claim that its volume may hold data.
///
/// # Errors
/// The API server.
pub async fn latch(context: &Context, key: &Key, tier: Tier, place: usize) -> Result<(), kube::Error> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = json!({"metadata": {"annotations": {LATCH: "true"}}});
    let claim = api.patch(&claim(key, tier, place), &PatchParams::default(), &Patch::Merge(patch)).await?;
    context.stores.claims.put(claim);
    Ok(())
}

/// Takes from the ImCluster what a person has said by an annotation, as it was followed.
///
/// # Errors
/// The API server.
pub async fn take_word_back(context: &Context, key: &Key, annotation: &str) -> Result<(), kube::Error> {
    let api: Api<ImCluster> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = json!({"metadata": {"annotations": {annotation: null}}});
    api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

/// Ends a pod, so that its StatefulSet makes a new one.
///
/// # Errors
/// The API server. A pod that is gone already is none.
pub async fn end(context: &Context, key: &Key, tier: Tier, place: usize) -> Result<(), kube::Error> {
    let name = name(key, tier, place);
    let Some(pod) = context.stores.pods.get(&Key::new(&key.namespace, &name)) else { return Ok(()) };
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    match api.delete(&name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_has_only_begun_to_look_at_its_volume_does_not_join() {
        let pod = |state: serde_json::Value| -> Pod {
            let status = json!({"name": build::JOIN, "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state});
            serde_json::from_value(
                json!({"metadata": {"name": "demo-etcd-0"}, "status": {"initContainerStatuses": [status]}}),
            )
            .unwrap()
        };
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let running = |since: &str| pod(json!({"running": {"startedAt": since}}));
        assert!(!is_joining(&running("2026-01-01T00:00:59Z"), now));
        assert!(!is_joining(&running("2026-01-01T00:00:41Z"), now));
        assert!(is_joining(&running("2026-01-01T00:00:40Z"), now));
        assert!(!is_joining(&pod(json!({"terminated": {"exitCode": 0}})), now));
        assert!(!is_joining(&pod(json!({"waiting": {"reason": "PodInitializing"}})), now));
    }
}
