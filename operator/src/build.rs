//! From what users ask for to the Kubernetes objects that are it: pure, total, and the same for the same input.

mod access;
mod connect;
mod container;
mod etcd;
mod labels;
mod logic;
mod monitor;
mod names;
mod network;
mod overrides;
mod pod;
mod quantity;
mod redis;
mod sentinel;
mod services;
mod workload;

pub use access::redis_secret;
pub(crate) use connect::max_draining;
pub(crate) use container::TLS_FOLDER;
pub(crate) use etcd::JOIN;
pub(crate) use labels::{ACCEPT, ACCEPT_YES, VERSION};
pub(crate) use names::{
    MAX_ETCD_MEMBERS, REDIS_PORT, REDIS_REPLICAS, SENTINEL_PORT, SENTINEL_REPLICAS, etcd_members,
    object_name, pod_host,
};
pub(crate) use overrides::Ignored;
pub(crate) use quantity::bytes;
pub(crate) use redis::confirming_replicas;
pub(crate) use workload::FINGERPRINT;

use crate::api::{EtcdMode, ImageSource, Images, RedisMode, Tier};
use crate::kubernetes::object::{Object, Objects, Prepared};
use crate::validate::Valid;

/// What a tier's pods run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    /// The image, with registry, tag and digest.
    pub(crate) image: String,
    /// The version, for labels: `spec.version`, or the tag of redis' or etcd's image.
    pub(crate) version: String,
}

/// What each tier's pods run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Runs {
    /// Connect.
    pub(crate) connect: Run,
    /// Logic.
    pub(crate) logic: Run,
    /// Redis and Sentinel.
    pub(crate) redis: Run,
    /// Etcd.
    pub(crate) etcd: Run,
}

/// What has been found out and decided, beyond the ImCluster itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inputs {
    /// The operator's namespace, whose pods named `im-operator` may reach every tier.
    pub(crate) operator_namespace: String,
    /// What the names of Services end with.
    pub(crate) cluster_domain: String,
    /// The image with which pods of redis, Sentinel and etcd begin: one that holds `im-operator`.
    pub(crate) init_image: String,
    /// Whether the API of PodMonitors is installed.
    pub(crate) pod_monitors: bool,
    /// What each tier is to run now: during an upgrade not yet all of [`wanted`].
    pub(crate) runs: Runs,
    /// Connect pods there are to be now.
    pub(crate) connect_replicas: i32,
    /// Whether connect's Deployment starts no further replacement for the moment.
    pub(crate) connect_paused: bool,
    /// Logic pods there are to be; `None`: somebody else says how many.
    pub(crate) logic_replicas: Option<i32>,
    /// Whether etcd was formed once, so that a member with an empty volume only ever joins.
    pub(crate) etcd_existing: bool,
    /// The smallest volume of etcd, in bytes, where it is known: what the spec asks for may be still to come.
    pub(crate) etcd_volume: Option<u64>,
}

impl Inputs {
    /// With everything as the spec asks for it: a first start, or no upgrade under way. `operator_image` is the operator's own.
    pub(crate) fn wanted(valid: &Valid, operator_namespace: &str, operator_image: &str) -> Self {
        let images = &valid.spec().images;
        let init = images
            .init
            .as_ref()
            .map(|source| image(images, source, Some(&valid.spec().version)));
        Self {
            operator_namespace: operator_namespace.to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            init_image: init.unwrap_or_else(|| operator_image.to_owned()),
            pod_monitors: false,
            runs: wanted(valid),
            connect_replicas: valid.spec().connect.replicas,
            connect_paused: false,
            logic_replicas: Some(valid.spec().logic.replicas),
            etcd_existing: false,
            etcd_volume: None,
        }
    }
}

/// What is built of an ImCluster.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Built {
    pub(crate) objects: Objects<Prepared>,
    /// Fields of `podOverrides` that say other than the operator does.
    pub(crate) ignored: Vec<Ignored>,
}

/// What the spec asks every tier to run.
pub(crate) fn wanted(valid: &Valid) -> Runs {
    let spec = valid.spec();
    let images = &spec.images;
    let run = |source: &ImageSource, version: Option<&str>| Run {
        image: image(images, source, version),
        version: match version {
            Some(version) => version.to_owned(),
            None => labels::value(
                source
                    .tag
                    .as_deref()
                    .or(source.digest.as_deref())
                    .unwrap_or_default(),
            ),
        },
    };
    Runs {
        connect: run(&images.connect, Some(&spec.version)),
        logic: run(&images.logic, Some(&spec.version)),
        redis: run(&images.redis, None),
        etcd: run(&images.etcd, None),
    }
}

fn image(images: &Images, source: &ImageSource, version: Option<&str>) -> String {
    let mut name = match &images.registry {
        Some(registry) => format!("{registry}/{}", source.repository),
        None => source.repository.clone(),
    };
    if let Some(tag) = source.tag.as_deref().or(version) {
        name.push(':');
        name.push_str(tag);
    }
    if let Some(digest) = &source.digest {
        name.push('@');
        name.push_str(digest);
    }
    name
}

/// Makes every object of an ImCluster. All of them are always there: what is not in the list is not wanted any more.
pub(crate) fn build(valid: &Valid, inputs: &Inputs) -> Built {
    let mut building = Building {
        valid,
        inputs,
        list: Vec::new(),
        ignored: Vec::new(),
    };
    network::policies(&mut building);
    if valid.spec().redis.mode != RedisMode::External {
        redis::objects(&mut building);
    }
    if valid.spec().redis.mode == RedisMode::Sentinel {
        sentinel::objects(&mut building);
    }
    if valid.spec().etcd.mode == EtcdMode::Managed {
        etcd::objects(&mut building);
    }
    logic::objects(&mut building);
    connect::objects(&mut building);
    Built {
        objects: Objects::prepared(building.list),
        ignored: building.ignored,
    }
}

/// The objects so far.
struct Building<'a> {
    valid: &'a Valid,
    inputs: &'a Inputs,
    list: Vec<Object>,
    ignored: Vec<Ignored>,
}

impl Building<'_> {
    /// By what name a redis or Sentinel makes itself known: the full one, as where a pod is gone a shorter one is asked of
    /// servers outside of the cluster too, and Sentinels stand still until they answer.
    fn announced(&self, tier: Tier) -> String {
        let service = names::service_host(self.valid.name(), self.valid.namespace(), tier);
        format!("$(POD_NAME).{service}.{}", self.inputs.cluster_domain)
    }

    fn add<K>(&mut self, tier: Tier, object: &K)
    where
        K: kube::Resource<DynamicType = ()> + serde::Serialize,
    {
        self.list.push(Object::new(tier, object));
    }
}
