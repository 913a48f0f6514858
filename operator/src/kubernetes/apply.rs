//! Applies what an ImCluster's objects are to be: in order, each by server-side apply and only where it is not so
//! already, then removes what it applied before and wants no longer.

use std::collections::HashSet;

use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use crate::kubernetes::drift;
use crate::kubernetes::key::{CLUSTER, Key};
use crate::kubernetes::object::{Applied, Object, Objects, Prepared};
use crate::kubernetes::stores::Stores;

/// Why an object is not as it is to be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The API server refused, or did not answer.
    #[error("{kind} {name} cannot be {what}: {source}")]
    Api {
        /// What kind of object.
        kind: String,
        /// Its name.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What came of it.
        source: Box<kube::Error>,
    },
    /// The name is taken.
    #[error(
        "{kind} {name} exists and belongs to {owner}: rename or remove it, or give the ImCluster another name"
    )]
    Taken {
        /// What kind of object.
        kind: String,
        /// Its name.
        name: String,
        /// To whom it belongs.
        owner: String,
    },
}

/// For whom objects are applied.
#[derive(Debug, Clone)]
pub(crate) struct Owner {
    /// The ImCluster.
    pub(crate) cluster: Key,
    /// Its UID.
    pub(crate) uid: String,
}

/// Applies all objects and removes what was applied before and is not among them.
///
/// # Errors
/// [`Error`], with what was done before it lost: it shows in the objects.
pub(crate) async fn apply(
    client: &Client,
    stores: &Stores,
    owner: &Owner,
    objects: Objects<Prepared>,
) -> Result<Objects<Applied>, Error> {
    let applied = apply_some(client, stores, owner, objects.list()).await?;
    let removed = prune(client, stores, owner, objects.list()).await?;
    Ok(objects.applied(applied + removed))
}

/// Applies these objects, in their order, and returns how many were written; the first failure ends it, as what follows may
/// rely on it.
///
/// # Errors
/// [`Error`], with what was done before it lost: it shows in the objects.
pub(crate) async fn apply_some<'o>(
    client: &Client,
    stores: &Stores,
    owner: &Owner,
    objects: impl IntoIterator<Item = &'o Object>,
) -> Result<usize, Error> {
    let mut applied = 0;
    for object in objects {
        if apply_one(client, stores, owner, object).await? {
            applied += 1;
        }
    }
    Ok(applied)
}

async fn apply_one(
    client: &Client,
    stores: &Stores,
    owner: &Owner,
    object: &Object,
) -> Result<bool, Error> {
    let resource = &object.resource;
    let mut body = object.body.clone();
    let name = object.name().to_owned();
    let hash = drift::hash(&body);
    body["metadata"]["annotations"][drift::HASH] = Value::String(hash);
    let failed = |what| {
        let (kind, name) = (resource.kind.clone(), name.clone());
        move |source: kube::Error| Error::Api {
            kind,
            name,
            what,
            source: Box::new(source),
        }
    };

    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &owner.cluster.namespace, resource);
    let live = match stores.get(resource, &Key::new(&owner.cluster.namespace, &name)) {
        Some(live) => Some(live.as_ref().clone()),
        // Objects without our label are not watched.
        None => api.get_opt(&name).await.map_err(failed("read"))?,
    };
    if let Some(live) = &live {
        if let Some(foreign_owner) = foreign_owner(live, owner) {
            return Err(Error::Taken {
                kind: resource.kind.clone(),
                name,
                owner: foreign_owner,
            });
        }
        if drift::is_unchanged(live, &body, object.manager) {
            return Ok(false);
        }
    }
    let params = PatchParams::apply(object.manager).force();
    let applied = api.patch(&name, &params, &Patch::Apply(&body)).await;
    if let (Err(kube::Error::Api(status)), Some(live)) = (&applied, &live)
        && status.code == 422
        && is_about_the_whole(status)
        && is_immutable(live, &body)
    {
        let exactly = Preconditions {
            uid: live.uid(),
            resource_version: None,
        };
        let orphaning = DeleteParams {
            preconditions: Some(exactly),
            ..DeleteParams::orphan()
        };
        match api.delete(&name, &orphaning).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(failed("made anew")(error)),
        }
        tracing::info!(cluster = %owner.cluster, kind = resource.kind, name, "recreated without deleting its pods: an immutable field changed");
        stores.remove(resource, &Key::new(&owner.cluster.namespace, &name));
        // Applied once it is gone, which its own watch tells.
        return Ok(true);
    }
    let mut applied = applied.map_err(failed("applied"))?;
    tracing::info!(cluster = %owner.cluster, kind = resource.kind, name, "applied");
    drift::trim(&mut applied);
    stores.put(resource, applied);
    Ok(true)
}

/// Whether no single field is wrong: what would be refused of a new one too is no reason to delete the old.
fn is_about_the_whole(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().all(|cause| cause.field == "spec")
}

/// Whether what is to be differs from what is in something that a StatefulSet keeps for ever. Its pods and volumes outlive it
/// and are taken up by the next one of its name.
fn is_immutable(live: &DynamicObject, body: &Value) -> bool {
    let differs = |field: &str| {
        let (live, wanted) = (live.data.pointer(field), body.pointer(field));
        wanted.is_some_and(|wanted| live.is_none_or(|live| !drift::says(live, wanted)))
    };
    body.get("kind").and_then(Value::as_str) == Some("StatefulSet")
        && [
            "/spec/volumeClaimTemplates",
            "/spec/serviceName",
            "/spec/podManagementPolicy",
            "/spec/selector",
        ]
        .into_iter()
        .any(differs)
}

/// To whom an object belongs, if not to this ImCluster.
fn foreign_owner(live: &DynamicObject, owner: &Owner) -> Option<String> {
    let controller = live
        .owner_references()
        .iter()
        .find(|reference| reference.controller == Some(true));
    if let Some(controller) = controller {
        // One of the same name that was deleted: its objects are about to go.
        let ours = controller.uid == owner.uid;
        return (!ours).then(|| {
            format!(
                "{} {} (uid {})",
                controller.kind, controller.name, controller.uid
            )
        });
    }
    match live.labels().get(CLUSTER) {
        Some(cluster) if *cluster == owner.cluster.name => None,
        Some(cluster) => Some(format!("ImCluster {cluster}")),
        None => Some("somebody else (it lacks the label imcluster.io/cluster)".to_owned()),
    }
}

/// Removes what was applied for this ImCluster before and is not among `objects`: only what carries its label and its UID as
/// controller.
async fn prune(
    client: &Client,
    stores: &Stores,
    owner: &Owner,
    objects: &[Object],
) -> Result<usize, Error> {
    let wanted: HashSet<(&str, &str)> = objects
        .iter()
        .map(|object| (object.resource.kind.as_str(), object.name()))
        .collect();
    let mut removed = 0;
    for (resource, live) in stores.of_cluster(&owner.cluster) {
        let name = live.name_any();
        let ours = live
            .owner_references()
            .iter()
            .any(|reference| reference.controller == Some(true) && reference.uid == owner.uid);
        let applied = live.annotations().contains_key(drift::HASH);
        if !ours
            || !applied
            || live.metadata.deletion_timestamp.is_some()
            || wanted.contains(&(resource.kind.as_str(), name.as_str()))
        {
            continue;
        }
        remove(client, &resource, &owner.cluster.namespace, &live).await?;
        stores.remove(&resource, &Key::new(&owner.cluster.namespace, &name));
        removed += 1;
        tracing::info!(cluster = %owner.cluster, kind = resource.kind, name, "removed");
    }
    Ok(removed)
}

/// Removes exactly this state of an object.
async fn remove(
    client: &Client,
    resource: &ApiResource,
    namespace: &str,
    live: &DynamicObject,
) -> Result<(), Error> {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
    let exactly = Preconditions {
        uid: live.uid(),
        resource_version: None,
    };
    let params = DeleteParams {
        preconditions: Some(exactly),
        ..DeleteParams::background()
    };
    match api.delete(&live.name_any(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(Error::Api {
            kind: resource.kind.clone(),
            name: live.name_any(),
            what: "removed",
            source: Box::new(source),
        }),
    }
}
