//! Sentinels: they alone decide which redis is the master, and remember it on volumes of their own.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::access::SECRET_FOLDER;
use super::container::{self, container, field, mount, port, redis_probe, tls};
use super::pod::{Parts, template};
use super::redis::tls_arguments;
use super::workload::{Stateful, Unhealthy, common, headless, service_port, stateful_set};
use super::{Building, access, names};
use crate::api::{Storage, Tier};

/// A Sentinel's file is a few KiB; no provider's smallest volume is too small for it.
const VOLUME: &str = "64Mi";
const GRACE: i64 = 30;

pub(super) fn objects(building: &mut Building<'_>) {
    let (valid, inputs) = (building.valid, building.inputs);
    let redis = &valid.spec().redis;
    common(building, Tier::Sentinel, Unhealthy::IfHealthyBudget);
    headless(
        building,
        Tier::Sentinel,
        vec![service_port("sentinel", names::SENTINEL_PORT)],
    );

    let mut container = container(building, Tier::Sentinel, &inputs.runs.redis.image);
    container.command = Some(vec!["redis-server".to_owned()]);
    container.args = Some(arguments(building));
    container.ports = Some(vec![port("sentinel", names::SENTINEL_PORT)]);
    container.env = Some(vec![field("POD_NAME", "metadata.name")]);
    container.volume_mounts = Some(vec![mount("data", "/data", false)]);
    container.readiness_probe = Some(redis_probe(names::SENTINEL_PORT, 5, 3));
    container.liveness_probe = Some(redis_probe(names::SENTINEL_PORT, 10, 6));
    let init = vec![container::seed(building, "/data/sentinel.conf", "")];
    let secret = names::secret_name(valid.name(), "redis");
    let template = template(
        building,
        Parts {
            tier: Tier::Sentinel,
            pod: &redis.sentinel.pod,
            field: "spec.redis.sentinel",
            run: &inputs.runs.redis,
            container,
            init,
            volumes: vec![
                tls(valid.name(), Tier::Sentinel),
                container::secret(
                    "secret",
                    &secret,
                    &[
                        ("sentinel.conf", "sentinel.conf"),
                        ("sentinel-users.acl", access::USERS_FILE),
                    ],
                    SECRET_FOLDER,
                ),
            ],
            labels: Default::default(),
            grace: GRACE,
        },
    );
    let storage = Storage {
        size: Quantity(VOLUME.to_owned()),
        class_name: redis.storage.class_name.clone(),
        retain: redis.storage.retain,
    };
    let stateful = Stateful {
        tier: Tier::Sentinel,
        replicas: names::SENTINEL_REPLICAS,
        storage: &storage,
        template,
        counts: None,
    };
    stateful_set(building, stateful);
}

fn arguments(building: &Building<'_>) -> Vec<String> {
    let host = building.announced(Tier::Sentinel);
    let port = names::SENTINEL_PORT.to_string();
    let mut arguments = Vec::new();
    let mut say = |words: &[&str]| arguments.extend(words.iter().map(|&word| word.to_owned()));
    say(&["/data/sentinel.conf", "--sentinel"]);
    say(&["--include", "/etc/imcluster/redis/sentinel.conf"]);
    say(&["--dir", "/data"]);
    say(&["--port", "0", "--tls-port", &port]);
    tls_arguments(&mut say);
    say(&["--sentinel", "resolve-hostnames", "yes"]);
    say(&["--sentinel", "announce-hostnames", "yes"]);
    say(&["--sentinel", "announce-ip", &host]);
    say(&["--sentinel", "announce-port", &port]);
    arguments
}
