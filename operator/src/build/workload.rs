//! What every tier has besides pods: a Service, a budget for disruptions, a service account without rights.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, PodTemplateSpec, Service, ServiceAccount,
    ServicePort, ServiceSpec, VolumeResourceRequirements,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use sha2::{Digest, Sha256};

use super::{Building, labels, names};
use crate::api::{Storage, Tier};

/// The service account and the disruption budget of a tier. `unhealthy` says when pods that are not ready may be evicted.
pub(super) fn common(building: &mut Building<'_>, tier: Tier, unhealthy: Unhealthy) {
    let valid = building.valid;
    let account = ServiceAccount {
        metadata: labels::tier_meta(valid, tier),
        automount_service_account_token: Some(false),
        ..Default::default()
    };
    building.add(tier, &account);
    let budget = PodDisruptionBudget {
        metadata: labels::tier_meta(valid, tier),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(labels::label_selector(valid, tier)),
            unhealthy_pod_eviction_policy: Some(unhealthy.name().to_owned()),
            ..Default::default()
        }),
        ..Default::default()
    };
    building.add(tier, &budget);
}

/// When pods that are not ready may be evicted.
#[derive(Clone, Copy)]
pub(super) enum Unhealthy {
    /// Always: they serve nobody.
    Always,
    /// While the others are enough: one that is coming back may complete a quorum.
    IfHealthyBudget,
}

impl Unhealthy {
    fn name(self) -> &'static str {
        match self {
            Self::Always => "AlwaysAllow",
            Self::IfHealthyBudget => "IfHealthyBudget",
        }
    }
}

pub(super) fn service_port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    }
}

/// A Service that gives every pod a name, ready or not.
pub(super) fn headless(building: &mut Building<'_>, tier: Tier, ports: Vec<ServicePort>) {
    let valid = building.valid;
    let service = Service {
        metadata: labels::tier_meta(valid, tier),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(labels::selector(valid.name(), tier)),
            ports: Some(ports),
            ..Default::default()
        }),
        ..Default::default()
    };
    building.add(tier, &service);
}

/// The annotation of a template that says what its pods run with. Left out is what only counts before they run: another
/// image for that, as with another operator, restarts nothing.
pub(crate) const FINGERPRINT: &str = "imcluster.io/template";

/// Writes on a template what its pods run with: `counts`, which is the template itself but for what makes no difference.
fn fingerprint(template: &mut PodTemplateSpec, mut counts: PodTemplateSpec) {
    let init = counts
        .spec
        .iter_mut()
        .flat_map(|spec| spec.init_containers.iter_mut().flatten());
    init.for_each(|container| container.image = None);
    let text = serde_json::to_vec(&counts).unwrap_or_default();
    let sum: String = Sha256::digest(text)
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let annotations = &mut template.metadata.get_or_insert_default().annotations;
    annotations
        .get_or_insert_default()
        .insert(FINGERPRINT.to_owned(), sum);
}

/// A tier's StatefulSet. Its pods are replaced when the operator deletes them: the order matters.
pub(super) struct Stateful<'a> {
    pub(crate) tier: Tier,
    pub(crate) replicas: i32,
    pub(crate) storage: &'a Storage,
    pub(crate) template: PodTemplateSpec,
    /// The template as far as a difference restarts pods; `None`: all of it.
    pub(crate) counts: Option<PodTemplateSpec>,
}

pub(super) fn stateful_set(building: &mut Building<'_>, stateful: Stateful<'_>) {
    let Stateful {
        tier,
        replicas,
        storage,
        mut template,
        counts,
    } = stateful;
    let counts = counts.unwrap_or_else(|| template.clone());
    fingerprint(&mut template, counts);
    let valid = building.valid;
    let deleted = if storage.retain { "Retain" } else { "Delete" };
    let set = StatefulSet {
        metadata: labels::tier_meta(valid, tier),
        spec: Some(StatefulSetSpec {
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_deleted: Some(deleted.to_owned()),
                    when_scaled: Some("Retain".to_owned()),
                },
            ),
            pod_management_policy: Some("Parallel".to_owned()),
            replicas: Some(replicas),
            revision_history_limit: Some(3),
            selector: labels::label_selector(valid, tier),
            service_name: Some(names::object_name(valid.name(), tier)),
            template,
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                rolling_update: None,
            }),
            volume_claim_templates: Some(vec![claim(labels::all(valid, tier), storage)]),
            ..Default::default()
        }),
        ..Default::default()
    };
    building.add(tier, &set);
}

fn claim(labels: BTreeMap<String, String>, storage: &Storage) -> PersistentVolumeClaim {
    let requests = [("storage".to_owned(), storage.size.clone())];
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some("data".to_owned()),
            labels: Some(labels),
            ..Default::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(requests.into()),
                limits: None,
            }),
            storage_class_name: storage.class_name.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}
