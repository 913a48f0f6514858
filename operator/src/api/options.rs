//! What users say of the cluster as a whole: images, tokens, history, monitoring, network.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema;

/// Where container images come from.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// What every image's name is preceded by: `registry.example.com/mirror`. Left out: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 200),
        regex(pattern = "^[a-z0-9]([a-z0-9._:/-]*[a-z0-9])?$")
    )]
    pub registry: Option<String>,
    /// When images are pulled.
    #[serde(default)]
    pub pull_policy: PullPolicy,
    /// Names of Secrets of type `kubernetes.io/dockerconfigjson` in the ImCluster's namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::names")]
    pub pull_secrets: Vec<String>,
    /// The image of connect. Its tag is `spec.version` unless given.
    #[serde(default = "connect_image")]
    pub connect: ImageSource,
    /// The image of logic. Its tag is `spec.version` unless given.
    #[serde(default = "logic_image")]
    pub logic: ImageSource,
    /// The image of redis and of Sentinel: 6.2 or newer, with `redis-server` and `redis-cli` on its PATH.
    #[serde(default = "redis_image")]
    #[x_kube(validation = Rule::new("has(self.tag) || has(self.digest)").message("give tag or digest: redis has versions of its own"))]
    pub redis: ImageSource,
    /// The image of etcd: 3.6, with `etcd` on its PATH.
    #[serde(default = "etcd_image")]
    #[x_kube(validation = Rule::new("has(self.tag) || has(self.digest)").message("give tag or digest: etcd has versions of its own"))]
    pub etcd: ImageSource,
    /// What pods of redis, Sentinel and etcd begin with: an image that holds `im-operator`. Its tag is `spec.version` unless
    /// given. Left out: the operator's own image, whose registry these pods must reach too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<ImageSource>,
}

/// When images are pulled.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Where the node has none.
    #[default]
    IfNotPresent,
    /// At every start of a container.
    Always,
    /// Nodes must have it.
    Never,
}

impl PullPolicy {
    /// As a container says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IfNotPresent => "IfNotPresent",
            Self::Always => "Always",
            Self::Never => "Never",
        }
    }
}

/// An image.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// Its name without registry and tag: `imcluster/connect`.
    #[schemars(
        length(min = 1, max = 200),
        regex(pattern = "^[a-z0-9]([a-z0-9._:/-]*[a-z0-9])?$")
    )]
    pub repository: String,
    /// Its tag. May be left out for connect and logic: `spec.version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 128),
        regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    )]
    pub tag: Option<String>,
    /// Its digest, `sha256:…`, which then decides instead of the tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 71, max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,
}

/// Whose tokens are believed.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// Where the secret of HS256 tokens stands: 32 random bytes or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hs256_secret: Option<SecretKey>,
    /// Where public keys of ES256, EdDSA or RS256 tokens stand, as PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public_keys: Option<ConfigMapKeys>,
    /// The URL of a JSON Web Key Set with the public keys of tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 2048), regex(pattern = "^https://"))]
    pub jwks_url: Option<String>,
    /// The `iss` that a token must carry. Left out: any or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub issuer: Option<String>,
    /// The `aud` that a token must carry. Left out: a token must carry none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub audience: Option<String>,
}

impl Auth {
    /// Whether the operator makes an HS256 secret, as nothing else says whose tokens are believed.
    pub fn is_generated(&self) -> bool {
        self.hs256_secret.is_none() && self.public_keys.is_none() && self.jwks_url.is_none()
    }
}

/// A key of a Secret in the ImCluster's namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecretKey {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The key in it.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// Keys of a ConfigMap in the ImCluster's namespace.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ConfigMapKeys {
    /// The ConfigMap's name.
    #[schemars(length(min = 1, max = 253))]
    pub config_map: String,
    /// The keys in it.
    #[schemars(schema_with = "schema::keys")]
    pub keys: Vec<String>,
}

/// How much is kept of each room.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// Messages kept per room at most; older ones go, and clients that missed them are told.
    #[serde(default = "max_entries")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_entries: i64,
    /// Messages older than so many days may go; 0: never by age.
    #[serde(default = "max_age_days")]
    #[schemars(range(min = 0, max = 3650))]
    pub max_age_days: i32,
}

/// What is measured, and how it is found.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// Lets the Prometheus operator find connect, logic and etcd. Of no effect where its API is not installed.
    #[serde(default)]
    pub pod_monitor: PodMonitorOptions,
    /// Where connect and logic send traces over OTLP/gRPC: `http://collector.monitoring:4317`. Left out: nowhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 8, max = 2048), regex(pattern = "^https?://"))]
    pub otlp_endpoint: Option<String>,
}

/// The PodMonitors of connect, logic and etcd.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodMonitorOptions {
    /// Whether they are made.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// How often pods are asked, in seconds.
    #[serde(default = "interval_seconds")]
    #[schemars(range(min = 5, max = 600))]
    pub interval_seconds: i32,
    /// Labels for the PodMonitors, where a Prometheus selects them by label.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub labels: BTreeMap<String, String>,
}

/// Who may reach which pod.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicies {
    /// Whether pods are closed to all but those who need them: clients to connect, connect and logic to each other and
    /// to redis and etcd, the operator, and who is listed below.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Who may call the HTTP API on port 3111. Empty: everybody, with a token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::peers")]
    pub api_from: Vec<NetworkPolicyPeer>,
    /// Who may read metrics on port 9100, such as Prometheus. Left out: pods of the namespace `monitoring`. Empty: the
    /// operator alone.
    #[serde(default = "metrics_from")]
    #[schemars(schema_with = "schema::peers")]
    pub metrics_from: Vec<NetworkPolicyPeer>,
}

fn yes() -> bool {
    true
}

fn max_entries() -> i64 {
    10_000
}

fn max_age_days() -> i32 {
    30
}

fn interval_seconds() -> i32 {
    30
}

fn metrics_from() -> Vec<NetworkPolicyPeer> {
    let labels = [(
        "kubernetes.io/metadata.name".to_owned(),
        "monitoring".to_owned(),
    )]
    .into();
    let namespaces = LabelSelector {
        match_labels: Some(labels),
        ..Default::default()
    };
    vec![NetworkPolicyPeer {
        namespace_selector: Some(namespaces),
        ..Default::default()
    }]
}

fn image(repository: &str, tag: Option<&str>) -> ImageSource {
    ImageSource {
        repository: repository.to_owned(),
        tag: tag.map(str::to_owned),
        digest: None,
    }
}

fn connect_image() -> ImageSource {
    image("imcluster/connect", None)
}

fn logic_image() -> ImageSource {
    image("imcluster/logic", None)
}

fn redis_image() -> ImageSource {
    image("redis", Some("8.2"))
}

fn etcd_image() -> ImageSource {
    image("quay.io/coreos/etcd", Some("v3.6.5"))
}

impl Default for Images {
    fn default() -> Self {
        Self {
            registry: None,
            pull_policy: PullPolicy::default(),
            pull_secrets: Vec::new(),
            connect: connect_image(),
            logic: logic_image(),
            redis: redis_image(),
            etcd: etcd_image(),
            init: None,
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            max_entries: max_entries(),
            max_age_days: max_age_days(),
        }
    }
}

impl Default for PodMonitorOptions {
    fn default() -> Self {
        Self {
            enabled: true,
            interval_seconds: interval_seconds(),
            labels: BTreeMap::new(),
        }
    }
}

impl Default for NetworkPolicies {
    fn default() -> Self {
        Self {
            enabled: true,
            api_from: Vec::new(),
            metrics_from: metrics_from(),
        }
    }
}
