//! PodMonitors, by which the Prometheus operator finds pods.

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::json;

use super::{Building, labels};
use crate::api::Tier;
use crate::kubernetes::object::Object;

/// The kind of the Prometheus operator's PodMonitors.
pub(crate) fn pod_monitor_resource() -> ApiResource {
    ApiResource::from_gvk_with_plural(
        &GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor"),
        "podmonitors",
    )
}

pub(super) fn pods(building: &mut Building<'_>, tier: Tier, port: &str) {
    let valid = building.valid;
    let wanted = &valid.spec().monitoring.pod_monitor;
    if !building.inputs.pod_monitors || !wanted.enabled {
        return;
    }
    let mut metadata = labels::tier_meta(valid, tier);
    let mut all = wanted.labels.clone();
    all.extend(metadata.labels.take().unwrap_or_default());
    metadata.labels = Some(all);
    let body = json!({
        "metadata": metadata,
        "spec": {
            "selector": { "matchLabels": labels::selector(valid.name(), tier) },
            "podTargetLabels": [labels::VERSION],
            "podMetricsEndpoints": [{ "port": port, "path": "/metrics", "interval": format!("{}s", wanted.interval_seconds) }],
        },
    });
    building
        .list
        .push(Object::dynamic(tier, pod_monitor_resource(), body));
}
