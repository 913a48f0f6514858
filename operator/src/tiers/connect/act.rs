//! Does to connect's pods what was decided: which take new clients, and which goes next. What concerns the Deployment goes
//! through `build`.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::decide::{COST, Decision};
use crate::build;
use crate::context::Context;
use crate::kubernetes::key::Key;

/// A pod could not be changed.
#[derive(Debug, thiserror::Error)]
#[error("pod {pod} cannot be changed: {source}")]
pub(crate) struct Error {
    pub(crate) pod: String,
    pub(crate) source: kube::Error,
}

/// Does to pods what was decided; says whether anything was written.
///
/// # Errors
/// The API server.
pub(crate) async fn act(context: &Context, key: &Key, decided: &Decision) -> Result<bool, Error> {
    for (name, accepts) in &decided.accept {
        let value = if *accepts {
            json!(build::ACCEPT_YES)
        } else {
            Value::Null
        };
        patch(
            context,
            key,
            name,
            json!({"labels": {build::ACCEPT: value}}),
        )
        .await?;
        tracing::info!(cluster = %key, pod = name, accepts, "changed whether the pod accepts new clients");
    }
    for (name, cost) in &decided.cost {
        let value = cost.map_or(Value::Null, |cost| json!(cost.to_string()));
        patch(context, key, name, json!({"annotations": {COST: value}})).await?;
        tracing::info!(cluster = %key, pod = name, marked = cost.is_some(), "changed the deletion cost of the pod");
    }
    Ok(!decided.accept.is_empty() || !decided.cost.is_empty())
}

/// A pod that is gone meanwhile needs nothing.
async fn patch(context: &Context, key: &Key, name: &str, metadata: Value) -> Result<(), Error> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &key.namespace);
    match api
        .patch(
            name,
            &PatchParams::default(),
            &Patch::Merge(json!({"metadata": metadata})),
        )
        .await
    {
        Ok(mut pod) => {
            pod.metadata.managed_fields = None;
            context.stores.pods.put(pod);
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => Err(Error {
            pod: name.to_owned(),
            source,
        }),
    }
}
