//! Labels of every object and pod, and the selectors made of them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource;

use super::names;
use crate::api::{ImCluster, Tier};
use crate::validate::Valid;

/// Names the ImCluster an object belongs to.
pub(crate) const CLUSTER: &str = crate::kubernetes::key::CLUSTER;
/// Names the tier a pod belongs to.
pub(crate) const COMPONENT: &str = "app.kubernetes.io/component";
/// Names who manages an object.
pub(crate) const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`], and the name that the operator's own pods are labelled with.
pub(crate) const OPERATOR: &str = "im-operator";
/// Names the version that a pod runs.
pub(crate) const VERSION: &str = "app.kubernetes.io/version";
/// On connect pods that new clients are sent to. The client Service selects it.
pub(crate) const ACCEPT: &str = "imcluster.io/accept";
/// The value of [`ACCEPT`].
pub(crate) const ACCEPT_YES: &str = "true";

const NAME: &str = "app.kubernetes.io/name";
const INSTANCE: &str = "app.kubernetes.io/instance";
const PART_OF: &str = "app.kubernetes.io/part-of";

/// Selects a tier's pods.
pub(crate) fn selector(cluster: &str, tier: Tier) -> BTreeMap<String, String> {
    texts([(CLUSTER, cluster), (COMPONENT, tier.name())])
}

pub(super) fn label_selector(valid: &Valid, tier: Tier) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector(valid.name(), tier)),
        ..Default::default()
    }
}

pub(super) fn all(valid: &Valid, tier: Tier) -> BTreeMap<String, String> {
    let own = [
        (NAME, "imcluster"),
        (INSTANCE, valid.name()),
        (PART_OF, "imcluster"),
        (MANAGED_BY, OPERATOR),
    ];
    let mut labels = texts(own);
    labels.extend(selector(valid.name(), tier));
    labels
}

/// The metadata of a tier's object of this name.
pub(super) fn meta(valid: &Valid, tier: Tier, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(valid.namespace().to_owned()),
        labels: Some(all(valid, tier)),
        owner_references: Some(vec![owner(valid)]),
        ..Default::default()
    }
}

/// The metadata of a tier's main objects.
pub(super) fn tier_meta(valid: &Valid, tier: Tier) -> ObjectMeta {
    meta(valid, tier, names::object_name(valid.name(), tier))
}

fn owner(valid: &Valid) -> OwnerReference {
    OwnerReference {
        api_version: ImCluster::api_version(&()).into_owned(),
        kind: ImCluster::kind(&()).into_owned(),
        name: valid.name().to_owned(),
        uid: valid.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A text as a label may hold it.
pub(super) fn value(text: &str) -> String {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') {
            c
        } else {
            '-'
        }
    };
    let short: String = text.chars().map(plain).take(63).collect();
    short
        .trim_matches(|c: char| !c.is_ascii_alphanumeric())
        .to_owned()
}

pub(super) fn texts<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
