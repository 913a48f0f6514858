//! What is seen of a tier: its pods, what keeps them from being ready, and whether new ones are taking the place of old.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use crate::api::{Reason, Tier};
use crate::kubernetes::is_quota;
use crate::kubernetes::key::Key;
use crate::kubernetes::pod::{
    COMPONENT, CRASH_LOOP, is_ending, is_of, is_outdated, is_over, is_ready, waiting_reason,
};
use crate::kubernetes::stores::Stores;

/// A claim may wait so long for its volume before that is told, in seconds.
const CLAIM_GRACE: i64 = 20;

/// A tier as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Workload {
    /// Pods asked for.
    pub(crate) wanted: i32,
    /// Pods there are, without those that end.
    pub(crate) replicas: i32,
    /// Pods that are ready and do not end.
    pub(crate) ready: i32,
    /// Pods that end.
    pub(crate) ending: i32,
    /// Whether the workload is as applied and all its pods are of its newest template.
    pub(crate) rolled_out: bool,
    /// The image that all pods run; `None` while they differ.
    pub(crate) image: Option<String>,
    /// What keeps pods from being ready.
    pub(crate) trouble: Option<(Reason, String)>,
}

impl Workload {
    /// Whether every pod asked for is there and ready, of the newest template, and no other.
    pub(crate) fn is_complete(&self) -> bool {
        self.rolled_out && self.ready >= self.wanted && self.replicas == self.wanted
    }

    /// The tag of [`Workload::image`], or its digest.
    pub(crate) fn version(&self) -> Option<String> {
        let image = self.image.as_deref()?;
        let name = image.rsplit('/').next()?;
        let version = name.split_once('@').or_else(|| name.split_once(':'));
        Some(version.map_or("latest", |(_, version)| version).to_owned())
    }
}

/// A tier of an ImCluster as the caches have it.
pub(crate) fn tier(stores: &Stores, cluster: &Key, tier: Tier, now: Timestamp) -> Workload {
    let pods: Vec<Arc<Pod>> = stores
        .pods
        .of_cluster(cluster)
        .into_iter()
        .filter(|pod| is_of(pod, tier))
        .collect();
    let name = Key::new(
        &cluster.namespace,
        format!("{}-{}", cluster.name, tier.name()),
    );
    let mut seen = of_pods(&pods);
    let (mut trouble, mut lateness) = (None, None);
    if let Some(deployment) = stores.typed::<Deployment>(&name) {
        seen.wanted = deployment
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        seen.rolled_out = deployed(&deployment);
        trouble = refused(&deployment);
        lateness = late(&deployment);
    } else if let Some(set) = stores.typed::<StatefulSet>(&name) {
        seen.wanted = set
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(1);
        seen.rolled_out = set_rolled_out(&set, &pods);
    }
    let claims = stores.claims.of_cluster(cluster);
    let trouble = trouble.or_else(|| pending_claim(&claims, tier, now));
    // What a pod says of itself is more than that it is late.
    seen.trouble = trouble
        .or_else(|| pods.iter().find_map(|pod| of_pod(pod)))
        .or(lateness);
    seen
}

fn of_pods(pods: &[Arc<Pod>]) -> Workload {
    let (ending, staying): (Vec<_>, Vec<_>) = pods
        .iter()
        .filter(|pod| !is_over(pod))
        .partition(|pod| is_ending(pod));
    let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
    let images: BTreeSet<String> = staying.iter().filter_map(|pod| main_image(pod)).collect();
    Workload {
        replicas: count(staying.len()),
        ready: count(staying.iter().filter(|pod| is_ready(pod)).count()),
        ending: count(ending.len()),
        image: if images.len() == 1 {
            images.into_iter().next()
        } else {
            None
        },
        ..Workload::default()
    }
}

/// The image of the container that is named after the tier, or else the first.
fn main_image(pod: &Pod) -> Option<String> {
    let containers = &pod.spec.as_ref()?.containers;
    let tier = pod.labels().get(COMPONENT)?;
    let main = containers
        .iter()
        .find(|container| container.name == *tier)
        .or_else(|| containers.first())?;
    main.image.clone()
}

fn deployed(deployment: &Deployment) -> bool {
    let Some(status) = &deployment.status else {
        return false;
    };
    let wanted = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    status.observed_generation >= deployment.metadata.generation
        && status.updated_replicas.unwrap_or(0) >= wanted
        && status.replicas.unwrap_or(0) == status.updated_replicas.unwrap_or(0)
}

/// With `OnDelete` the status does not tell: the pods' revisions do.
fn set_rolled_out(set: &StatefulSet, pods: &[Arc<Pod>]) -> bool {
    let Some(status) = &set.status else {
        return false;
    };
    status.observed_generation >= set.metadata.generation
        && pods
            .iter()
            .all(|pod| !is_outdated(set, status.update_revision.as_deref(), pod))
}

/// Pods that could not even be made.
fn refused(deployment: &Deployment) -> Option<(Reason, String)> {
    let mut conditions = deployment.status.as_ref()?.conditions.iter().flatten();
    let failure = conditions
        .rfind(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    let message = failure.message.clone().unwrap_or_default();
    let reason = if is_quota(&message) {
        Reason::QuotaExceeded
    } else {
        Reason::PodsNotReady
    };
    Some((reason, message))
}

/// New pods that are there, start, and do not become ready.
fn late(deployment: &Deployment) -> Option<(Reason, String)> {
    let mut conditions = deployment.status.as_ref()?.conditions.iter().flatten();
    let is_late = |reason: &Option<String>| reason.as_deref() == Some("ProgressDeadlineExceeded");
    let late = conditions
        .find(|condition| condition.type_ == "Progressing" && is_late(&condition.reason))?;
    let told = late.message.clone().unwrap_or_default();
    let message = format!(
        "{told} Its new pods do not become ready: see kubectl describe and kubectl logs of the newest"
    );
    Some((Reason::ProgressDeadlineExceeded, message))
}

fn pending_claim(
    claims: &[Arc<PersistentVolumeClaim>],
    tier: Tier,
    now: Timestamp,
) -> Option<(Reason, String)> {
    let of_tier = claims.iter().filter(|claim| {
        claim
            .labels()
            .get(COMPONENT)
            .is_some_and(|of| of == tier.name())
    });
    let mut pending = of_tier.filter(|claim| {
        let phase = claim
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        let since = claim.creation_timestamp().map_or(now, |time| time.0);
        phase == Some("Pending") && now.as_second() - since.as_second() >= CLAIM_GRACE
    });
    let claim = pending.next()?;
    let class = claim
        .spec
        .as_ref()
        .and_then(|spec| spec.storage_class_name.clone());
    let class = class.map_or_else(
        || "no StorageClass, and there is no default one".to_owned(),
        |class| format!("the StorageClass {class}"),
    );
    let message = format!(
        "the claim {} waits for a volume (it has {class}): see kubectl describe pvc {}",
        claim.name_any(),
        claim.name_any()
    );
    Some((Reason::VolumePending, message))
}

fn of_pod(pod: &Pod) -> Option<(Reason, String)> {
    if is_ending(pod) || is_over(pod) {
        return None;
    }
    let (name, status) = (pod.name_any(), pod.status.as_ref()?);
    let mut conditions = status.conditions.iter().flatten();
    let scheduled = conditions
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) =
        scheduled.filter(|condition| condition.reason.as_deref() == Some("Unschedulable"))
    {
        let why = condition.message.clone().unwrap_or_default();
        return Some((
            Reason::Unschedulable,
            format!("pod {name} can't be scheduled: {why}"),
        ));
    }
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    containers
        .filter_map(|container| of_container(&name, container))
        .next()
}

fn of_container(pod: &str, container: &ContainerStatus) -> Option<(Reason, String)> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let why: String = waiting
        .message
        .iter()
        .flat_map(|message| message.chars())
        .take(300)
        .collect();
    let (reason, what) = match waiting_reason(container)? {
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" | "ErrImageNeverPull" => {
            // What the kubelet says of it changes with every attempt.
            let image = &container.image;
            let message =
                format!("pod {pod} cannot pull the image {image}: see kubectl describe pod {pod}");
            return Some((Reason::ImagePullFailed, message));
        }
        CRASH_LOOP => {
            let last = container
                .last_state
                .as_ref()
                .and_then(|state| state.terminated.as_ref());
            let code = last.map_or_else(String::new, |last| {
                format!(" with exit code {}", last.exit_code)
            });
            let message = format!(
                "pod {pod}, container {} keeps crashing{code}: see kubectl logs {pod} -c {} --previous",
                container.name, container.name
            );
            return Some((Reason::CrashLooping, message));
        }
        "CreateContainerConfigError" | "CreateContainerError" => {
            (Reason::ReferenceMissing, "can't be started".to_owned())
        }
        _ => return None,
    };
    Some((
        reason,
        format!("pod {pod}, container {} {what}: {why}", container.name),
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, status: Value) -> Arc<Pod> {
        let pod = json!({
            "metadata": {"name": name, "namespace": "chat", "labels": {COMPONENT: "redis", "controller-revision-hash": "r2"}},
            "spec": {"containers": [{"name": "redis", "image": "registry:5000/redis:7.0"}]},
            "status": status,
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    fn ready() -> Value {
        json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]})
    }

    #[test]
    fn what_keeps_a_pod_from_being_ready_is_named() {
        let container = |reason: &str| {
            json!({"phase": "Pending", "containerStatuses": [{"name": "redis", "image": "redis:7.0", "imageID": "", "ready": false,
                "restartCount": 3, "state": {"waiting": {"reason": reason, "message": "said so"}},
                "lastState": {"terminated": {"exitCode": 2}}}]})
        };
        let unschedulable = json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]});
        for (status, wanted) in [
            (unschedulable, Some(Reason::Unschedulable)),
            (container("ImagePullBackOff"), Some(Reason::ImagePullFailed)),
            (container("CrashLoopBackOff"), Some(Reason::CrashLooping)),
            (
                container("CreateContainerConfigError"),
                Some(Reason::ReferenceMissing),
            ),
            (container("ContainerCreating"), None),
            (ready(), None),
        ] {
            let found = of_pod(&pod("demo-redis-0", status));
            assert_eq!(found.as_ref().map(|(reason, _)| *reason), wanted);
            assert!(found.is_none_or(|(_, message)| message.contains("demo-redis-0")));
        }
    }

    #[test]
    fn pods_that_end_or_are_over_do_not_count() {
        let mut ending = pod("b", json!({"phase": "Succeeded"})).as_ref().clone();
        ending.metadata.deletion_timestamp = Some(
            k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::now()),
        );
        let seen = of_pods(&[
            pod("a", ready()),
            Arc::new(ending),
            pod("c", json!({"phase": "Failed"})),
        ]);
        assert_eq!((seen.replicas, seen.ready, seen.ending), (1, 1, 1));
        assert_eq!(seen.version().as_deref(), Some("7.0"));
    }

    #[test]
    fn a_quota_shows_in_the_deployment() {
        let deployment = json!({"metadata": {}, "status": {"conditions": [{"type": "ReplicaFailure", "status": "True",
            "message": "pods \"x\" is forbidden: exceeded quota: small"}]}});
        let (reason, message) = refused(&serde_json::from_value(deployment).unwrap()).unwrap();
        assert_eq!(reason, Reason::QuotaExceeded);
        assert!(message.contains("small"));
    }

    #[test]
    fn pods_that_start_and_do_not_get_ready_are_told_of() {
        let deployment = |reason: &str| -> Deployment {
            serde_json::from_value(
                json!({"metadata": {}, "status": {"conditions": [{"type": "Progressing", "status": "False",
                "reason": reason, "message": "ReplicaSet demo-logic-2 has timed out progressing."}]}}),
            )
            .unwrap()
        };
        let (reason, message) = late(&deployment("ProgressDeadlineExceeded")).unwrap();
        assert_eq!(reason, Reason::ProgressDeadlineExceeded);
        assert!(message.contains("demo-logic-2"));
        assert_eq!(late(&deployment("ReplicaSetUpdated")), None);
    }

    #[test]
    fn a_claim_without_a_volume_is_told_of_after_a_while() {
        let now = Timestamp::now();
        let claim = |age: i64| {
            let created = Timestamp::from_second(now.as_second() - age).unwrap();
            let claim = json!({"metadata": {"name": "data-demo-redis-0", "creationTimestamp": created.to_string(),
                "labels": {COMPONENT: "redis"}}, "spec": {}, "status": {"phase": "Pending"}});
            Arc::new(serde_json::from_value::<PersistentVolumeClaim>(claim).unwrap())
        };
        assert_eq!(pending_claim(&[claim(5)], Tier::Redis, now), None);
        assert_eq!(
            pending_claim(&[claim(60)], Tier::Redis, now).unwrap().0,
            Reason::VolumePending
        );
        assert_eq!(pending_claim(&[claim(60)], Tier::Etcd, now), None);
    }

    #[test]
    fn images_tell_versions() {
        for (image, version) in [
            ("redis", "latest"),
            ("registry:5000/redis", "latest"),
            ("registry:5000/imcluster/connect:0.1.0", "0.1.0"),
            ("connect@sha256:ab", "sha256:ab"),
        ] {
            let seen = Workload {
                image: Some(image.to_owned()),
                ..Workload::default()
            };
            assert_eq!(seen.version().as_deref(), Some(version), "{image}");
        }
    }

    #[test]
    fn a_set_is_rolled_out_when_every_pod_is_of_the_newest_revision() {
        let set: StatefulSet = serde_json::from_value(json!({"metadata": {"generation": 2},
            "status": {"observedGeneration": 2, "replicas": 1, "updateRevision": "r2"}}))
        .unwrap();
        assert!(set_rolled_out(&set, &[pod("a", ready())]));
        let mut old = pod("b", ready()).as_ref().clone();
        old.labels_mut()
            .insert("controller-revision-hash".to_owned(), "r1".to_owned());
        assert!(!set_rolled_out(&set, &[pod("a", ready()), Arc::new(old)]));
    }
}
