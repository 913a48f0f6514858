//! What users write: the `ImCluster` resource, its defaults, bounds and rules, and what the operator reports back.
//!
//! The schema is the only place where defaults and rules stand: the API server applies them to what is written, and
//! `validate` to what is read.

#![allow(
    unreachable_pub,
    reason = "`KubeSchema` repeats every type where nobody can name it"
)]

mod condition;
mod options;
mod pod;
mod schema;
mod status;
mod tiers;
mod verdict;

#[cfg(test)]
mod tests;

pub use condition::{Condition, ConditionStatus, ConditionType, Reason};
pub use options::{
    Auth, ConfigMapKeys, History, ImageSource, Images, Monitoring, NetworkPolicies,
    PodMonitorOptions, PullPolicy, SecretKey,
};
pub use pod::Pod;
pub use schema::crd;
pub use status::{
    ConnectStatus, Drain, Endpoints, EtcdStatus, ImClusterStatus, RedisStatus, TierStatus,
};
pub use tiers::{
    Connect, Durability, Etcd, EtcdMode, ExternalEtcd, ExternalRedis, Logic, NodePorts, Redis,
    RedisMode, Rollout, Sentinel, Service, ServiceType, Storage, TrafficPolicy,
};
pub(crate) use verdict::Verdict;

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

/// The API group of [`ImCluster`].
pub const GROUP: &str = "imcluster.io";

/// Parts of a cluster, in the order in which they are set up and upgraded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// What belongs to no part alone.
    Cluster,
    /// Where rooms are kept.
    Redis,
    /// Who decides which redis is the master.
    Sentinel,
    /// Where processes find each other.
    Etcd,
    /// Decides, stores and publishes.
    Logic,
    /// Holds clients' connections.
    Connect,
}

impl Tier {
    /// Every tier, in order.
    pub const ALL: [Self; 6] = [
        Self::Cluster,
        Self::Redis,
        Self::Sentinel,
        Self::Etcd,
        Self::Logic,
        Self::Connect,
    ];

    /// The name in labels and in the names of objects: `redis`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Redis => "redis",
            Self::Sentinel => "sentinel",
            Self::Etcd => "etcd",
            Self::Logic => "logic",
            Self::Connect => "connect",
        }
    }

    /// Who owns the fields that the operator applies for this tier: `im-operator-redis`.
    pub fn manager(self) -> &'static str {
        match self {
            Self::Cluster => "im-operator-cluster",
            Self::Redis => "im-operator-redis",
            Self::Sentinel => "im-operator-sentinel",
            Self::Etcd => "im-operator-etcd",
            Self::Logic => "im-operator-logic",
            Self::Connect => "im-operator-connect",
        }
    }
}

/// What an ImCluster is to be.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "imcluster.io",
    version = "v1alpha1",
    kind = "ImCluster",
    plural = "imclusters",
    shortname = "imc",
    category = "all",
    namespaced,
    doc = "A messaging cluster: connect and logic processes, redis, etcd, and all that goes with them.",
    status = "ImClusterStatus",
    derive = "PartialEq",
    scale(
        spec_replicas_path = ".spec.connect.replicas",
        status_replicas_path = ".status.connect.replicas",
        label_selector_path = ".status.connect.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether every part serves"
    ),
    printcolumn(
        name = "Connections",
        type_ = "integer",
        json_path = ".status.connect.connections",
        description = "Clients connected, about"
    ),
    printcolumn(
        name = "Connect",
        type_ = "integer",
        json_path = ".status.connect.ready",
        description = "Connect pods that are ready"
    ),
    printcolumn(
        name = "Logic",
        type_ = "integer",
        json_path = ".status.logic.ready",
        description = "Logic pods that are ready"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        description = "The version that all of it runs"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp",
        description = "Since when it exists"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        description = "Why it is ready or not",
        priority = "1"
    ),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name: 1 to 40 of a-z, 0-9 and -, beginning with a letter and ending with a letter or digit, as pods and Services are named after it"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.redis) || !has(oldSelf.status.redis.volumeSize) || quantity(self.spec.redis.storage.size).compareTo(quantity(oldSelf.spec.redis.storage.size)) >= 0 || quantity(self.spec.redis.storage.size).compareTo(quantity(oldSelf.status.redis.volumeSize)) >= 0")
        .message("spec.redis.storage.size: volumes can grow, not shrink: write status.redis.volumeSize or more"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.etcd) || !has(oldSelf.status.etcd.volumeSize) || quantity(self.spec.etcd.storage.size).compareTo(quantity(oldSelf.spec.etcd.storage.size)) >= 0 || quantity(self.spec.etcd.storage.size).compareTo(quantity(oldSelf.status.etcd.volumeSize)) >= 0")
        .message("spec.etcd.storage.size: volumes can grow, not shrink: write status.etcd.volumeSize or more")
)]
#[serde(rename_all = "camelCase")]
pub struct ImClusterSpec {
    /// The version of connect and logic to run: the tag of their images. Changing it upgrades redis, etcd, logic and
    /// connect one after the other, without dropping clients.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = "^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")
    )]
    pub version: String,
    /// Where container images come from.
    #[serde(default)]
    pub images: Images,
    /// The pods that hold clients' connections.
    #[serde(default)]
    pub connect: Connect,
    /// The pods that decide, store and publish, and serve the HTTP API.
    #[serde(default)]
    pub logic: Logic,
    /// Where rooms and messages are kept.
    #[serde(default)]
    pub redis: Redis,
    /// Where connect and logic find each other.
    #[serde(default)]
    pub etcd: Etcd,
    /// Whose tokens are believed. With nothing given the operator makes an HS256 secret and keeps it in the Secret
    /// `NAME-auth` under `hs256-secret`.
    #[serde(default)]
    pub auth: Auth,
    /// How much is kept of each room.
    #[serde(default)]
    pub history: History,
    /// What is measured, and how it is found.
    #[serde(default)]
    pub monitoring: Monitoring,
    /// Who may reach which pod.
    #[serde(default)]
    pub network_policy: NetworkPolicies,
    /// While true the operator changes nothing of this cluster and only reports. The cluster goes on serving.
    #[serde(default)]
    pub paused: bool,
}

impl ImCluster {
    /// Whether a person has asked for something by an annotation, with `true`.
    pub(crate) fn is_asked_for(&self, annotation: &str) -> bool {
        self.metadata
            .annotations
            .iter()
            .flatten()
            .any(|(name, value)| name == annotation && value == "true")
    }
}
