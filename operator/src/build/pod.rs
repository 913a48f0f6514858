//! Pod templates: the tier's own part, what users say of the pods, and what is the same for all.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, LocalObjectReference, PodSecurityContext, PodSpec, PodTemplateSpec, SeccompProfile,
    TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::container::Mounted;
use super::{Building, Run, labels, names, overrides};
use crate::api::{Pod, Tier};

/// Seconds between a pod's last moment to have drained and its end by force, for the process to close what is left.
pub(crate) const DRAIN_RESERVE: i64 = 15;

/// Who the processes run as, in every image.
const UID: i64 = 65_532;

/// A tier's own part of its pods.
pub(super) struct Parts<'a> {
    pub(crate) tier: Tier,
    /// What users say of the pods.
    pub(crate) pod: &'a Pod,
    /// The field of the spec that holds it.
    pub(crate) field: &'static str,
    pub(crate) run: &'a Run,
    pub(crate) container: Container,
    pub(crate) init: Vec<Container>,
    pub(crate) volumes: Vec<Mounted>,
    /// Labels beyond those of the tier.
    pub(crate) labels: BTreeMap<String, String>,
    /// Seconds from the beginning of a pod's end until it is ended by force.
    pub(crate) grace: i64,
}

pub(super) fn template(building: &mut Building<'_>, parts: Parts<'_>) -> PodTemplateSpec {
    let Parts {
        tier,
        pod,
        field,
        run,
        mut container,
        init,
        volumes,
        labels: more,
        grace,
    } = parts;
    let (volumes, mounts): (Vec<_>, Vec<_>) = volumes
        .into_iter()
        .map(|one| (one.volume, one.mount))
        .unzip();
    container
        .volume_mounts
        .get_or_insert_default()
        .extend(mounts);
    container
        .env
        .get_or_insert_default()
        .extend(pod.extra_env.iter().cloned());
    container.resources = pod.resources.clone();
    let spec = PodSpec {
        affinity: pod.affinity.clone(),
        automount_service_account_token: Some(false),
        containers: vec![container],
        // Variables named for Services would look like settings.
        enable_service_links: Some(false),
        image_pull_secrets: pull_secrets(building),
        init_containers: some(init),
        node_selector: (!pod.node_selector.is_empty()).then(|| pod.node_selector.clone()),
        priority_class_name: pod.priority_class_name.clone(),
        security_context: Some(security()),
        service_account_name: Some(names::object_name(building.valid.name(), tier)),
        termination_grace_period_seconds: Some(grace),
        tolerations: some(pod.tolerations.clone()),
        topology_spread_constraints: Some(spread(building, tier, pod)),
        volumes: some(volumes),
        ..Default::default()
    };
    let mut all = labels_of(pod);
    all.extend(labels::all(building.valid, tier));
    all.extend(labels::texts([(labels::VERSION, run.version.as_str())]));
    all.extend(more);
    let metadata = ObjectMeta {
        labels: Some(all),
        annotations: annotations_of(pod),
        ..Default::default()
    };
    let template = PodTemplateSpec {
        metadata: Some(metadata),
        spec: Some(spec),
    };
    match &pod.pod_overrides {
        Some(user) => overrides::merge(
            &format!("{field}.podOverrides"),
            user,
            template,
            &mut building.ignored,
        ),
        None => template,
    }
}

fn labels_of(pod: &Pod) -> BTreeMap<String, String> {
    pod.labels.clone()
}

fn annotations_of(pod: &Pod) -> Option<BTreeMap<String, String>> {
    let own = |key: &str| {
        key.split('/')
            .next()
            .is_some_and(|domain| domain == crate::api::GROUP)
    };
    let given = pod.annotations.iter().filter(|(key, _)| !own(key));
    some_map(
        given
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    )
}

fn pull_secrets(building: &Building<'_>) -> Option<Vec<LocalObjectReference>> {
    let names = &building.valid.spec().images.pull_secrets;
    some(
        names
            .iter()
            .map(|name| LocalObjectReference { name: name.clone() })
            .collect(),
    )
}

fn security() -> PodSecurityContext {
    PodSecurityContext {
        fs_group: Some(UID),
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        run_as_group: Some(UID),
        run_as_non_root: Some(true),
        run_as_user: Some(UID),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            localhost_profile: None,
        }),
        ..Default::default()
    }
}

fn spread(building: &Building<'_>, tier: Tier, pod: &Pod) -> Vec<TopologySpreadConstraint> {
    if let Some(given) = &pod.topology_spread_constraints {
        return given.clone();
    }
    let over = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(labels::label_selector(building.valid, tier)),
        ..Default::default()
    };
    vec![
        over("kubernetes.io/hostname"),
        over("topology.kubernetes.io/zone"),
    ]
}

pub(super) fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

fn some_map(map: BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then_some(map)
}
