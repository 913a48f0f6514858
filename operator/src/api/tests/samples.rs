//! ImClusters to test with.

use crate::api::ImCluster;
use crate::build::{Built, Inputs, build};
use crate::validate::{Pods, Valid, validate};
use serde_json::{Value, json};

/// A stored ImCluster with this spec.
pub(crate) fn stored(spec: Value) -> Value {
    json!({
        "apiVersion": "imcluster.io/v1alpha1",
        "kind": "ImCluster",
        "metadata": { "name": "demo", "namespace": "chat", "uid": "6f1f2a52-0000-4000-8000-000000000001" },
        "spec": spec,
    })
}

pub(crate) fn minimal() -> Value {
    json!({ "version": "0.1.0" })
}

pub(crate) fn highly_available() -> Value {
    json!({
        "version": "0.1.0",
        "images": { "registry": "registry.example.com/mirror", "pullSecrets": ["mirror"] },
        "connect": {
            "replicas": 4,
            "drainSeconds": 120,
            "rollout": { "maxDraining": "50%" },
            "service": {
                "type": "LoadBalancer",
                "annotations": { "example.com/load-balancer": "network" },
                "sourceRanges": ["203.0.113.0/24"],
                "nodePorts": { "tcp": 30101 },
            },
            "resources": { "requests": { "cpu": "1", "memory": "1Gi" }, "limits": { "memory": "2Gi" } },
            "extraEnv": [{ "name": "IM_LOG", "value": "debug" }],
            "podOverrides": {
                "metadata": { "annotations": { "example.com/scrape": "yes" } },
                "spec": { "terminationGracePeriodSeconds": 1, "hostAliases": [{ "ip": "10.0.0.1", "hostnames": ["gate"] }] },
            },
        },
        "logic": { "replicas": 2, "tolerations": [{ "key": "chat", "operator": "Exists" }] },
        "redis": {
            "mode": "Sentinel",
            "durability": "Strict",
            "storage": { "size": "20Gi", "className": "fast" },
            "resources": { "limits": { "memory": "4Gi" } },
            "sentinel": { "priorityClassName": "high" },
        },
        "etcd": { "replicas": 3, "storage": { "size": "2Gi", "retain": false } },
        "auth": { "publicKeys": { "configMap": "keys", "keys": ["a.pem", "b.pem"] }, "issuer": "https://id.example.com" },
        "history": { "maxEntries": 500, "maxAgeDays": 0 },
        "monitoring": { "otlpEndpoint": "http://collector.monitoring:4317", "podMonitor": { "labels": { "release": "prom" } } },
        "networkPolicy": { "apiFrom": [{ "podSelector": { "matchLabels": { "app": "shop" } } }] },
    })
}

pub(crate) fn external() -> Value {
    json!({
        "version": "0.2.0",
        "connect": { "service": { "type": "NodePort", "externalTrafficPolicy": "Cluster" } },
        "redis": {
            "mode": "External",
            "external": { "urlSecret": { "name": "our-redis", "key": "uri" }, "prefix": "chat" },
        },
        "etcd": { "mode": "External", "external": { "endpoints": ["http://etcd-0.example.org:2379"] } },
        "auth": { "hs256Secret": { "name": "tokens", "key": "secret" } },
        "networkPolicy": { "enabled": false },
    })
}

/// Reads what was stored, as the operator does.
pub(crate) fn read(spec: Value) -> ImCluster {
    serde_json::from_value(stored(spec)).expect("an ImCluster")
}

pub(crate) fn valid(spec: Value) -> Valid {
    let cluster = read(spec);
    validate(&cluster, Pods::Confined)
        .unwrap_or_else(|problems| panic!("{problems:#?} in {cluster:#?}"))
}

/// All objects, the Prometheus operator's included.
pub(crate) fn built(spec: Value) -> Built {
    let valid = valid(spec);
    let mut inputs = Inputs::wanted(&valid, "im-system", "imcluster/operator:0.1.0");
    inputs.pod_monitors = true;
    build(&valid, &inputs)
}
