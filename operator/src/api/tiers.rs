//! The parts of a cluster, as users describe them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pod::Pod;
use super::{SecretKey, schema};

/// The pods that hold clients' connections.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connect {
    /// How many pods. `kubectl scale imc` and a HorizontalPodAutoscaler of the ImCluster change this.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// How long a pod that ends may take to move its clients to other pods, in seconds. Cluster autoscalers often allow
    /// 600 s for the whole end of a pod, spot nodes 30 s; a pod that is cut short loses no message, but its clients
    /// find out late.
    #[serde(default = "drain_seconds")]
    #[schemars(range(min = 5, max = 3600))]
    pub drain_seconds: i32,
    /// How new pods take the place of old ones.
    #[serde(default)]
    pub rollout: Rollout,
    /// How clients get in.
    #[serde(default)]
    pub service: Service,
    /// What goes for the pods.
    #[serde(flatten)]
    pub pod: Pod,
}

/// How new connect pods take the place of old ones.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// How many pods may move their clients away at the same time: a number from 1, or a share of the pods such as
    /// `10%`, rounded down and at least one.
    #[serde(default = "max_draining")]
    #[schemars(schema_with = "schema::max_draining")]
    #[x_kube(validation = Rule::new("string(self).matches('^([1-9][0-9]{0,2}|1000|([1-9][0-9]?|100)%)$')")
        .message("write a number from 1 to 1000, or a share from 1% to 100%"))]
    pub max_draining: IntOrString,
}

/// The Service that clients connect to: `NAME-connect`.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == 'LoadBalancer' || (!has(self.loadBalancerClass) && (!has(self.sourceRanges) || self.sourceRanges.size() == 0))")
        .message("loadBalancerClass and sourceRanges need type: LoadBalancer"),
    validation = Rule::new("self.type != 'ClusterIP' || !has(self.nodePorts)").message("nodePorts need type: NodePort or LoadBalancer"),
    validation = Rule::new("self.type != 'ClusterIP' || !has(self.externalTrafficPolicy)")
        .message("externalTrafficPolicy needs type: NodePort or LoadBalancer"),
    validation = Rule::new("self.type != 'LoadBalancer' || oldSelf.type != 'LoadBalancer' || (has(self.loadBalancerClass) == has(oldSelf.loadBalancerClass) && (!has(self.loadBalancerClass) || self.loadBalancerClass == oldSelf.loadBalancerClass))")
        .message("loadBalancerClass can't be changed in place: write another type first, and this one with the class after it")
)]
pub struct Service {
    /// `ClusterIP`: reachable inside the Kubernetes cluster, and through an Ingress or Gateway. `NodePort`: on a port of
    /// every node. `LoadBalancer`: through the provider's load balancer.
    #[serde(default, rename = "type")]
    pub kind: ServiceType,
    /// Annotations for the Service, as load balancers want them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::annotations")]
    pub annotations: BTreeMap<String, String>,
    /// Which load balancer is to serve it, where the provider has several. Can't be changed on an existing Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub load_balancer_class: Option<String>,
    /// Address ranges that the load balancer lets in, such as `203.0.113.0/24`. Empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::cidrs")]
    pub source_ranges: Vec<String>,
    /// Ports on every node. Left out: Kubernetes chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_ports: Option<NodePorts>,
    /// `Local` keeps clients' addresses and goes to pods of the node reached; `Cluster` goes to any pod but hides
    /// clients' addresses, so that limits per address are off. Left out: `Local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<TrafficPolicy>,
}

/// The kind of a Service.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Inside the Kubernetes cluster.
    #[default]
    ClusterIP,
    /// A port of every node.
    NodePort,
    /// The provider's load balancer.
    LoadBalancer,
}

impl ServiceType {
    /// As a Service says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClusterIP => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
        }
    }
}

/// Where traffic from outside goes.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// To pods of the node reached; clients' addresses are kept.
    Local,
    /// To any pod; clients' addresses are hidden.
    Cluster,
}

impl TrafficPolicy {
    /// As a Service says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "Local",
            Self::Cluster => "Cluster",
        }
    }
}

/// Ports on every node.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodePorts {
    /// For TCP clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub tcp: Option<i32>,
    /// For WebSocket clients.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub ws: Option<i32>,
}

/// The pods that decide, store and publish.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Logic {
    /// How many pods.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// What goes for the pods.
    #[serde(flatten)]
    pub pod: Pod,
}

/// Where rooms and messages are kept.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode == 'External' || !has(self.external)").message("external needs mode: External"),
    validation = Rule::new("self.mode != 'External' || has(self.external)")
        .message("mode: External needs external.urlSecret, which names the Secret with the redis URL")
)]
pub struct Redis {
    /// `Single`: one pod. `Sentinel`: a master, two replicas and three Sentinels that fail over. `External`: yours.
    /// Can't be changed later.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("mode can't be changed: create another ImCluster and move to it"))]
    pub mode: RedisMode,
    /// What an acknowledged message has survived. `Relaxed`: the master's memory, on its disk within a second.
    /// `Standard`: the same, and with Sentinel also one replica has it. `Strict`: on the master's disk, and with
    /// Sentinel both replicas have it; sends fail while a replica is missing. Of no effect on an external redis.
    #[serde(default)]
    pub durability: Durability,
    /// The volume of each pod.
    #[serde(default = "redis_storage")]
    pub storage: Storage,
    /// The Sentinels' pods, with mode `Sentinel`.
    #[serde(default)]
    pub sentinel: Sentinel,
    /// Your redis, with mode `External`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalRedis>,
    /// What goes for the pods.
    #[serde(flatten)]
    pub pod: Pod,
}

/// Who runs redis, and how many.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RedisMode {
    /// One pod.
    #[default]
    Single,
    /// A master, two replicas, three Sentinels.
    Sentinel,
    /// Not run by the operator.
    External,
}

/// What an acknowledged message has survived.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// In the master's memory; on its disk within a second.
    Relaxed,
    /// As `Relaxed`, and with Sentinel in one replica's memory.
    #[default]
    Standard,
    /// On the master's disk, and with Sentinel in both replicas' memory.
    Strict,
}

/// The Sentinels' pods.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sentinel {
    /// What goes for the pods.
    #[serde(flatten)]
    pub pod: Pod,
}

/// A redis that the operator does not run.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExternalRedis {
    /// Where its URL stands: `redis://`, `rediss://`, `redis+sentinel://host:port,host:port/service` or
    /// `redis+cluster://`, with user and password.
    pub url_secret: SecretKey,
    /// What every key and channel begins with: 1 to 32 letters, digits, `-`, `_`, `.` or `:`. ImClusters that share a
    /// redis need different ones. Can't be changed later.
    #[serde(default = "redis_prefix")]
    #[schemars(length(min = 1, max = 32), regex(pattern = "^[-A-Za-z0-9_.:]+$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("prefix can't be changed: nothing would be found under another one"))]
    pub prefix: String,
}

/// Where connect and logic find each other.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode == 'External' || !has(self.external)").message("external needs mode: External"),
    validation = Rule::new("self.mode != 'External' || has(self.external)").message("mode: External needs external.endpoints")
)]
pub struct Etcd {
    /// `Managed`: run by the operator. `External`: yours. Can't be changed later.
    #[serde(default)]
    #[x_kube(validation = Rule::new("self == oldSelf").message("mode can't be changed: create another ImCluster and move to it"))]
    pub mode: EtcdMode,
    /// How many members: 1 or 3. Can't be changed later.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 3))]
    #[x_kube(
        validation = Rule::new("self == 1 || self == 3").message("replicas: write 1 or 3, as an even number survives no more failures than one less"),
        validation = Rule::new("self == oldSelf").message("replicas of etcd can't be changed: create another ImCluster and move to it")
    )]
    pub replicas: i32,
    /// The volume of each member.
    #[serde(default = "etcd_storage")]
    pub storage: Storage,
    /// Your etcd, with mode `External`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalEtcd>,
    /// What goes for the pods.
    #[serde(flatten)]
    pub pod: Pod,
}

/// Who runs etcd.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EtcdMode {
    /// The operator.
    #[default]
    Managed,
    /// Somebody else.
    External,
}

/// An etcd that the operator does not run.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExternalEtcd {
    /// Its members, such as `http://etcd-0.example.org:2379`.
    #[schemars(schema_with = "schema::endpoints")]
    pub endpoints: Vec<String>,
}

/// A volume of each pod of a tier.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.className) == has(oldSelf.className) && (!has(self.className) || self.className == oldSelf.className)")
        .message("className can't be changed: volumes stay where they are")
)]
pub struct Storage {
    /// How large: `8Gi`. More than before makes the volumes grow, where their StorageClass has `allowVolumeExpansion`; less
    /// than the volumes have is refused.
    #[schemars(schema_with = "schema::size")]
    #[x_kube(
        validation = Rule::new("quantity(self).compareTo(quantity('64Mi')) >= 0").message("size: at least 64Mi")
    )]
    pub size: Quantity,
    /// The StorageClass. Left out: the default one. Can't be changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
    /// Whether volumes, and the Secrets without which they can't be read, outlive the ImCluster. Another ImCluster of
    /// the same name and namespace then finds its data. `false`: they go with it.
    #[serde(default = "yes")]
    pub retain: bool,
}

fn one() -> i32 {
    1
}

fn yes() -> bool {
    true
}

fn drain_seconds() -> i32 {
    240
}

fn max_draining() -> IntOrString {
    IntOrString::String("10%".to_owned())
}

fn redis_prefix() -> String {
    "im".to_owned()
}

fn redis_storage() -> Storage {
    Storage {
        size: Quantity("8Gi".to_owned()),
        class_name: None,
        retain: true,
    }
}

fn etcd_storage() -> Storage {
    Storage {
        size: Quantity("1Gi".to_owned()),
        class_name: None,
        retain: true,
    }
}

impl Default for Connect {
    fn default() -> Self {
        Self {
            replicas: one(),
            drain_seconds: drain_seconds(),
            rollout: Rollout::default(),
            service: Service::default(),
            pod: Pod::default(),
        }
    }
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            max_draining: max_draining(),
        }
    }
}

impl Default for Service {
    fn default() -> Self {
        Self {
            kind: ServiceType::ClusterIP,
            annotations: BTreeMap::new(),
            load_balancer_class: None,
            source_ranges: Vec::new(),
            node_ports: None,
            external_traffic_policy: None,
        }
    }
}

impl Default for Logic {
    fn default() -> Self {
        Self {
            replicas: one(),
            pod: Pod::default(),
        }
    }
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            mode: RedisMode::default(),
            durability: Durability::default(),
            storage: redis_storage(),
            sentinel: Sentinel::default(),
            external: None,
            pod: Pod::default(),
        }
    }
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            mode: EtcdMode::default(),
            replicas: one(),
            storage: etcd_storage(),
            external: None,
            pod: Pod::default(),
        }
    }
}

impl Service {
    /// Whether it hides clients' addresses, so that limits by address can't hold.
    pub(crate) fn hides_addresses(&self) -> bool {
        self.kind != ServiceType::ClusterIP
            && self.external_traffic_policy == Some(TrafficPolicy::Cluster)
    }
}
