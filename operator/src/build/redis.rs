//! Redis: one pod, or a master and two replicas that Sentinel watches.
//!
//! With Sentinel a pod whose volume is empty starts as a replica of nobody: it takes no writes and gives no data, so a
//! master that lost its volume can't empty the replicas that have the data. Only the operator, once, and then Sentinel
//! make a redis the master, and redis writes that down in the file on its volume.

use k8s_openapi::api::core::v1::LifecycleHandler;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::access::{self, SECRET_FOLDER};
use super::container::{self, container, field, mount, port, redis_cli, redis_probe, tls};
use super::pod::{Parts, template};
use super::workload::{Stateful, Unhealthy, common, headless, service_port, stateful_set};
use super::{Building, names, quantity};
use crate::api::{Durability, Pod, Redis, RedisMode, Tier};

/// How long redis may take to hand over and to write everything down at its end.
const GRACE: i64 = 60;
/// At its end a master waits for more replicas than there are, in vain, for 15 s at most or until it is a master no more: time
/// for the operator to see to its succession. A replica waits for nothing.
const HAND_OVER: [&str; 3] = ["wait", "1000", "15000"];
/// Where the spec says nothing: what a redis may take before it refuses writes, instead of taking the node's memory …
const MEMORY_LIMIT: &str = "2Gi";
/// … and what is set aside for it.
const MEMORY_REQUEST: &str = "256Mi";
/// Of a memory limit, how much data may take; the rest is for buffers and for the copy while the log is rewritten.
const DATA_PERCENT: u64 = 75;

/// Replicas that must have a message before it is acknowledged, and be there for a write to be taken at all.
pub(crate) fn confirming_replicas(redis: &Redis) -> i32 {
    match (redis.mode, redis.durability) {
        (RedisMode::Sentinel, Durability::Standard) => 1,
        (RedisMode::Sentinel, Durability::Strict) => 2,
        _ => 0,
    }
}

pub(super) fn objects(building: &mut Building<'_>) {
    let (valid, inputs) = (building.valid, building.inputs);
    let redis = &valid.spec().redis;
    let pod = limited(&redis.pod);
    let with_sentinel = redis.mode == RedisMode::Sentinel;
    common(building, Tier::Redis, Unhealthy::Always);
    headless(
        building,
        Tier::Redis,
        vec![service_port("redis", names::REDIS_PORT)],
    );

    let mut container = container(building, Tier::Redis, &inputs.runs.redis.image);
    container.command = Some(vec!["redis-server".to_owned()]);
    container.args = Some(arguments(building, redis, &pod));
    container.ports = Some(vec![port("redis", names::REDIS_PORT)]);
    container.env = Some(vec![field("POD_NAME", "metadata.name")]);
    container.volume_mounts = Some(vec![mount("data", "/data", false)]);
    container.readiness_probe = Some(redis_probe(names::REDIS_PORT, 5, 3));
    container.liveness_probe = Some(redis_probe(names::REDIS_PORT, 10, 6));
    let init = match with_sentinel {
        true => vec![container::seed(
            building,
            "/data/redis.conf",
            "replicaof nobody.invalid 6379",
        )],
        false => Vec::new(),
    };
    let secret = names::secret_name(valid.name(), "redis");
    if with_sentinel {
        container
            .env
            .get_or_insert_default()
            .push(container::from_secret("REDISCLI_AUTH", &secret, "password"));
        container.lifecycle = Some(container::before_end(LifecycleHandler {
            exec: Some(redis_cli(names::REDIS_PORT, &HAND_OVER)),
            ..Default::default()
        }));
    }
    let template = template(
        building,
        Parts {
            tier: Tier::Redis,
            pod: &pod,
            field: "spec.redis",
            run: &inputs.runs.redis,
            container,
            init,
            volumes: vec![
                tls(valid.name(), Tier::Redis),
                container::secret(
                    "secret",
                    &secret,
                    &[
                        ("redis.conf", "redis.conf"),
                        ("redis-users.acl", access::USERS_FILE),
                    ],
                    SECRET_FOLDER,
                ),
            ],
            labels: Default::default(),
            grace: GRACE,
        },
    );
    let replicas = if with_sentinel {
        names::REDIS_REPLICAS
    } else {
        1
    };
    let stateful = Stateful {
        tier: Tier::Redis,
        replicas,
        storage: &redis.storage,
        template,
        counts: None,
    };
    stateful_set(building, stateful);
}

fn arguments(building: &Building<'_>, redis: &Redis, pod: &Pod) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut say = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
    if redis.mode == RedisMode::Sentinel {
        say(&["/data/redis.conf"]);
    }
    say(&["--include", "/etc/imcluster/redis/redis.conf"]);
    say(&["--dir", "/data"]);
    say(&["--port", "0", "--tls-port", &names::REDIS_PORT.to_string()]);
    tls_arguments(&mut say);
    let fsync = if redis.durability == Durability::Strict {
        "always"
    } else {
        "everysec"
    };
    say(&["--save", "", "--appendonly", "yes", "--appendfsync", fsync]);
    say(&["--maxmemory-policy", "noeviction"]);
    if let Some(data) = memory(pod) {
        say(&["--maxmemory", &data.to_string()]);
    }
    if redis.mode == RedisMode::Sentinel {
        let host = building.announced(Tier::Redis);
        say(&["--replica-announce-ip", &host]);
        say(&["--repl-backlog-size", "64mb"]);
        // Two replicas: there is nobody to wait for with a copy.
        say(&["--repl-diskless-sync-delay", "0"]);
        say(&[
            "--min-replicas-to-write",
            &confirming_replicas(redis).to_string(),
        ]);
    }
    arguments
}

/// With a limit of memory, be it that nobody has said one.
fn limited(pod: &Pod) -> Pod {
    let mut pod = pod.clone();
    let resources = pod.resources.get_or_insert_default();
    let limits = resources.limits.get_or_insert_default();
    if !limits.contains_key("memory") {
        limits.insert("memory".to_owned(), Quantity(MEMORY_LIMIT.to_owned()));
        let requests = resources.requests.get_or_insert_default();
        requests
            .entry("memory".to_owned())
            .or_insert_with(|| Quantity(MEMORY_REQUEST.to_owned()));
    }
    pod
}

/// What redis and Sentinel are told of their certificates.
pub(super) fn tls_arguments(say: &mut impl FnMut(&[&str])) {
    let folder = container::TLS_FOLDER;
    say(&["--tls-cert-file", &format!("{folder}/tls.crt")]);
    say(&["--tls-key-file", &format!("{folder}/tls.key")]);
    say(&["--tls-ca-cert-file", &format!("{folder}/ca.crt")]);
    say(&["--tls-auth-clients", "yes", "--tls-replication", "yes"]);
}

/// Bytes that data may take: beyond them redis refuses writes, which is better than being killed.
fn memory(pod: &Pod) -> Option<u64> {
    let limits = pod.resources.as_ref()?.limits.as_ref()?;
    Some(quantity::bytes(limits.get("memory")?)? / 100 * DATA_PERCENT)
}
