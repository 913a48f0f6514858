//! What a Pod's object says of it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

use crate::api::Tier;
use crate::build;

/// The label that names the part of the ImCluster a pod is of.
pub(crate) const COMPONENT: &str = "app.kubernetes.io/component";
/// The label by which a StatefulSet knows which template a pod is of.
const REVISION: &str = "controller-revision-hash";
/// What the kubelet says of a container that it restarts with growing pauses.
pub(crate) const CRASH_LOOP: &str = "CrashLoopBackOff";
/// How long the init container may take to look at its volume, in seconds: many times what it takes.
const JOIN_LOOKS: i64 = 20;

/// Whether a pod is of this tier.
pub(crate) fn is_of(pod: &Pod, tier: Tier) -> bool {
    pod.labels()
        .get(COMPONENT)
        .is_some_and(|component| component == tier.name())
}

/// A pod's condition "Ready".
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .filter(|condition| condition.type_ == "Ready")
        .any(|condition| condition.status == "True")
}

/// Whether a pod is being deleted.
pub(crate) fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Evicted or ended for good: it waits to be cleared away. One that is being deleted is not over before it is gone.
pub(crate) fn is_over(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    !is_ending(pod) && matches!(phase, Some("Failed" | "Succeeded"))
}

/// The revision of the StatefulSet's template that a pod was made from.
pub(crate) fn revision(pod: &Pod) -> Option<&str> {
    pod.labels().get(REVISION).map(String::as_str)
}

/// Whether a pod runs with other than what the newest template says: it is of an older one, and they differ by more than
/// what [`build::FINGERPRINT`] leaves out.
pub(crate) fn is_outdated(set: &StatefulSet, newest: Option<&str>, pod: &Pod) -> bool {
    let fingerprint = |annotations: Option<&BTreeMap<String, String>>| {
        annotations?.get(build::FINGERPRINT).cloned()
    };
    let template = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.metadata.as_ref());
    let wanted = fingerprint(template.and_then(|template| template.annotations.as_ref()));
    let same = wanted.is_some() && fingerprint(pod.metadata.annotations.as_ref()) == wanted;
    revision(pod) != newest && !same
}

/// Why a container waits, in the kubelet's word.
pub(crate) fn waiting_reason(container: &ContainerStatus) -> Option<&str> {
    container
        .state
        .as_ref()?
        .waiting
        .as_ref()?
        .reason
        .as_deref()
}

/// Whether a container of a pod is restarted with growing pauses.
pub(crate) fn is_crashing(pod: &Pod) -> bool {
    let mut statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    statuses.any(|status| waiting_reason(status) == Some(CRASH_LOOP))
}

/// The init container runs in a pod whose volume has its data as well, and ends as soon as it has looked. A member is
/// removed because of this, so what was seen a moment ago does not count.
pub(crate) fn is_joining(pod: &Pod, now: Timestamp) -> bool {
    let mut statuses = pod
        .status
        .iter()
        .flat_map(|status| status.init_container_statuses.iter().flatten());
    let running = |status: &ContainerStatus| {
        let running = status
            .state
            .as_ref()
            .and_then(|state| state.running.as_ref());
        let since = running.and_then(|running| running.started_at.as_ref());
        since.is_some_and(|since| now.as_second() - since.0.as_second() >= JOIN_LOOKS)
    };
    !is_ending(pod) && statuses.any(|status| status.name == build::JOIN && running(status))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        assert!(!is_joining(
            &pod(json!({"terminated": {"exitCode": 0}})),
            now
        ));
        assert!(!is_joining(
            &pod(json!({"waiting": {"reason": "PodInitializing"}})),
            now
        ));
    }
}
