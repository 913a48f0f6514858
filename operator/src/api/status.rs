//! What the operator reports of an ImCluster.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::Condition;

/// What the operator last saw of an ImCluster.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImClusterStatus {
    /// The `metadata.generation` that this was written for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The `metadata.generation` whose spec was last applied in full: less than that of the ImCluster while its spec is not, be
    /// it wrong, refused or paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_generation: Option<i64>,
    /// The version that all of the cluster runs. While it is being upgraded: the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The image of the operator that last applied all of the spec. What another build makes of it comes one ImCluster after
    /// the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operator_image: Option<String>,
    /// What is true of the cluster now; docs/conditions.md lists types and reasons.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Where clients and backends of the Kubernetes cluster find it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Endpoints>,
    /// Connect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<ConnectStatus>,
    /// Logic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logic: Option<TierStatus>,
    /// Redis, unless it is external.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisStatus>,
    /// Etcd, unless it is external.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etcd: Option<EtcdStatus>,
}

/// Where a cluster is found, as `host:port` or URL.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoints {
    /// For TCP clients: `demo-connect.chat.svc:3101`.
    pub tcp: String,
    /// For WebSocket clients: `ws://demo-connect.chat.svc:3102/ws`.
    pub ws: String,
    /// For backends: `http://demo-logic.chat.svc:3111`.
    pub http: String,
    /// Addresses of the load balancer, where there is one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub external: Vec<String>,
    /// How to get a first token, where the operator generated the secret that signs them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_token: Option<String>,
}

/// A tier's pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TierStatus {
    /// Pods there are, without those that end.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// The version all of them run; absent while they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The label selector of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// Connect's pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectStatus {
    /// Pods there are, without those that end.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// The version all of them run; absent while they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The label selector of the pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Clients connected to the pods that answered; absent while none does. Rewritten when it moved by 5 % or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<i64>,
    /// Pods that are moving their clients away.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<Drain>,
}

/// A pod that is moving its clients away.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// The pod's name.
    pub pod: String,
    /// Clients it had when it began; absent until it answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<i64>,
    /// Clients it has; absent while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<i64>,
    /// Clients told to move per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<i64>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// When the rest is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
}

/// Redis' and Sentinel's pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisStatus {
    /// Redis pods there are.
    pub replicas: i32,
    /// Redis pods that are ready.
    pub ready: i32,
    /// Sentinel pods that are ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinels_ready: Option<i32>,
    /// The image they all run; absent while they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The pod that is the master, as Sentinel last said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<String>,
    /// Whether data may exist, so that no empty redis is ever made the master. The volumes say the same.
    #[serde(default)]
    pub bootstrapped: bool,
    /// What the largest claim of a volume asks for; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::volume_size")]
    pub volume_size: Option<Quantity>,
}

/// Etcd's pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EtcdStatus {
    /// Pods there are.
    pub replicas: i32,
    /// Pods that are ready.
    pub ready: i32,
    /// The image they all run; absent while they differ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether the cluster was formed once, so that no member ever forms a second one. The volumes say the same.
    #[serde(default)]
    pub bootstrapped: bool,
    /// What the largest claim of a volume asks for; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "super::schema::volume_size")]
    pub volume_size: Option<Quantity>,
}
