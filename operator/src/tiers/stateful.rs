//! Pods and volumes of redis and etcd, by number.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::api::{ImCluster, Tier};
use crate::build;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::kubernetes::pod::{is_crashing, is_ending, is_joining, is_outdated, is_ready, revision};

/// The annotation on a volume claim that says: this volume may hold data.
pub(crate) const BOOTSTRAPPED: &str = "imcluster.io/bootstrapped";

/// A pod of a StatefulSet, as the API server last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replica {
    /// It is there and ready, and does not end.
    pub(crate) ready: bool,
    /// It is there and is about to end.
    pub(crate) ending: bool,
    /// It is of an older template, and what it runs with differs.
    pub(crate) outdated: bool,
    /// It is of an older template.
    pub(crate) stale: bool,
    /// It has been in the init container [`build::JOIN`] for so long that its volume must be empty.
    pub(crate) joining: bool,
    /// Its container ends again and again.
    pub(crate) crashing: bool,
    /// Its claim says that it may hold data.
    pub(crate) bootstrapped: bool,
}

fn name(key: &Key, tier: Tier, ordinal: usize) -> String {
    format!("{}-{ordinal}", build::object_name(&key.name, tier))
}

fn claim(key: &Key, tier: Tier, ordinal: usize) -> String {
    format!("{}{ordinal}", claims(key, tier))
}

/// What the names of a tier's volume claims begin with; the pod's number follows.
pub(crate) fn claims(key: &Key, tier: Tier) -> String {
    format!("data-{}-", build::object_name(&key.name, tier))
}

/// The first `count` pods of a tier.
pub(crate) fn replicas(context: &Context, key: &Key, tier: Tier, count: usize) -> Vec<Replica> {
    let now = Timestamp::now();
    let set = context.stores.typed::<StatefulSet>(&Key::new(
        &key.namespace,
        build::object_name(&key.name, tier),
    ));
    let set = set.filter(|set| {
        let seen = set
            .status
            .as_ref()
            .and_then(|status| status.observed_generation);
        seen >= set.metadata.generation
    });
    let newest = set
        .as_ref()
        .and_then(|set| set.status.as_ref()?.update_revision.as_deref());
    let replica = |number| {
        let pod = context
            .stores
            .pods
            .get(&Key::new(&key.namespace, name(key, tier, number)));
        let claim = context
            .stores
            .claims
            .get(&Key::new(&key.namespace, claim(key, tier, number)));
        let outdated = |pod: &Pod| {
            set.as_ref()
                .is_some_and(|set| newest.is_some() && is_outdated(set, newest, pod))
        };
        let stale = |pod: &Pod| newest.is_some_and(|newest| revision(pod) != Some(newest));
        Replica {
            ready: pod
                .as_ref()
                .is_some_and(|pod| is_ready(pod) && !is_ending(pod)),
            ending: pod.as_ref().is_some_and(|pod| is_ending(pod)),
            outdated: pod.as_ref().is_some_and(|pod| outdated(pod)),
            stale: pod.as_ref().is_some_and(|pod| stale(pod)),
            joining: pod.as_ref().is_some_and(|pod| is_joining(pod, now)),
            crashing: pod.as_ref().is_some_and(|pod| is_crashing(pod)),
            bootstrapped: claim.is_some_and(|claim| claim.annotations().contains_key(BOOTSTRAPPED)),
        }
    };
    (0..count).map(replica).collect()
}

/// Whether a pod is there and began before this.
pub(crate) fn is_older(
    context: &Context,
    key: &Key,
    tier: Tier,
    ordinal: usize,
    than: Timestamp,
) -> bool {
    let pod = context
        .stores
        .pods
        .get(&Key::new(&key.namespace, name(key, tier, ordinal)));
    pod.and_then(|pod| pod.creation_timestamp())
        .is_some_and(|created| created.0 < than)
}

/// Writes on a pod's claim that its volume may hold data.
///
/// # Errors
/// The API server.
pub(crate) async fn mark_bootstrapped(
    context: &Context,
    key: &Key,
    tier: Tier,
    ordinal: usize,
) -> Result<(), kube::Error> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = json!({"metadata": {"annotations": {BOOTSTRAPPED: "true"}}});
    let claim = api
        .patch(
            &claim(key, tier, ordinal),
            &PatchParams::default(),
            &Patch::Merge(patch),
        )
        .await?;
    context.stores.claims.put(claim);
    Ok(())
}

/// Takes from the ImCluster what a person has said by an annotation, as it was followed.
///
/// # Errors
/// The API server.
pub(crate) async fn remove_annotation(
    context: &Context,
    key: &Key,
    annotation: &str,
) -> Result<(), kube::Error> {
    let api: Api<ImCluster> = Api::namespaced(context.client.clone(), &key.namespace);
    let patch = json!({"metadata": {"annotations": {annotation: null}}});
    api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
}

/// Ends a pod, so that its StatefulSet makes a new one.
///
/// # Errors
/// The API server. A pod that is gone already is none.
pub(crate) async fn restart(
    context: &Context,
    key: &Key,
    tier: Tier,
    ordinal: usize,
) -> Result<(), kube::Error> {
    let name = name(key, tier, ordinal);
    let Some(pod) = context.stores.pods.get(&Key::new(&key.namespace, &name)) else {
        return Ok(());
    };
    let preconditions = Preconditions {
        uid: pod.uid(),
        resource_version: None,
    };
    let params = DeleteParams {
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    match api.delete(&name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}
