//! Sees to it that only one operator manages an ImCluster.

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

use super::outcome::Failure;
use crate::api::ImCluster;
use crate::context::Context;

/// Names who manages an ImCluster: the namespace and the Lease of an operator.
const OPERATOR: &str = "imcluster.io/operator";
/// Who owns the fields of that.
const MANAGER: &str = "im-operator-claim";

/// Writes this operator's name on an ImCluster that has none yet.
///
/// # Errors
/// Another operator manages it, or the API server.
pub(crate) async fn claim(context: &Context, cluster: &ImCluster) -> Result<(), Failure> {
    let ours = format!(
        "{}/{}",
        context.settings.namespace, context.settings.lease_name
    );
    match cluster.annotations().get(OPERATOR) {
        Some(operator) if *operator == ours => return Ok(()),
        Some(other) => return Err(Failure::OwnedByAnother(other.clone())),
        None => {}
    }
    if cluster.spec.paused {
        return Ok(());
    }
    let api: Api<ImCluster> = Api::namespaced(
        context.client.clone(),
        &cluster.namespace().unwrap_or_default(),
    );
    // With the version seen: if two try at once, one of them fails and looks again.
    let patch = json!({
        "apiVersion": "imcluster.io/v1alpha1",
        "kind": "ImCluster",
        "metadata": {
            "name": cluster.name_any(),
            "uid": cluster.uid(),
            "resourceVersion": cluster.resource_version(),
            "annotations": {OPERATOR: ours},
        },
    });
    let claimed = api
        .patch(
            &cluster.name_any(),
            &PatchParams::apply(MANAGER),
            &Patch::Apply(&patch),
        )
        .await;
    let mut claimed =
        claimed.map_err(|error| Failure::api("the ImCluster cannot be claimed", error))?;
    claimed.metadata.managed_fields = None;
    context.stores.clusters.put(claimed);
    Ok(())
}
