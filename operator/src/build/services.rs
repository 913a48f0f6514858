//! What connect and logic have in common: where they find redis, etcd and each other, their certificates, their probes.

use k8s_openapi::api::core::v1::{Container, EnvVar, Lifecycle, LifecycleHandler, SleepAction};

use super::access::SECRET_FOLDER;
use super::container::{
    Mounted, TLS_FOLDER, before_end, container, field, http_probe, port, secret, tls, variable,
};
use super::{Building, Run, names};
use crate::api::{RedisMode, Tier};

const PEER_FOLDER: &str = "/etc/imcluster/peer";

/// A container of ours, with what both tiers are told.
pub(super) fn process(building: &Building<'_>, tier: Tier, run: &Run, grpc: i32) -> Container {
    let mut container = container(building, tier, &run.image);
    container.env = Some(environment(building, grpc));
    container.ports = Some(vec![port("grpc", grpc), port("admin", names::ADMIN_PORT)]);
    container.readiness_probe = Some(http_probe("/readyz", "admin", 3, 2));
    container.liveness_probe = Some(http_probe("/healthz", "admin", 10, 6));
    container
}

fn environment(building: &Building<'_>, grpc: i32) -> Vec<EnvVar> {
    let valid = building.valid;
    let spec = valid.spec();
    let mut all = vec![
        field("POD_IP", "status.podIP"),
        variable("IM_ADVERTISE", format!("$(POD_IP):{grpc}")),
        variable("IM_REDIS_URL_FILE", format!("{SECRET_FOLDER}/url")),
        variable("IM_ETCD_ENDPOINTS", names::etcd_endpoints(valid).join(",")),
        variable(
            "IM_ETCD_PREFIX",
            format!("/imcluster/{}/{}", valid.namespace(), valid.name()),
        ),
        variable("IM_PEER_SECRET_FILE", format!("{PEER_FOLDER}/secret")),
        variable("IM_TLS_CERT_FILE", format!("{TLS_FOLDER}/tls.crt")),
        variable("IM_TLS_KEY_FILE", format!("{TLS_FOLDER}/tls.key")),
        variable("IM_TLS_CA_FILE", format!("{TLS_FOLDER}/ca.crt")),
        variable("IM_LOG_FORMAT", "json"),
    ];
    if let Some(external) = &spec.redis.external {
        all.push(variable("IM_REDIS_PREFIX", &external.prefix));
    }
    if let Some(endpoint) = &spec.monitoring.otlp_endpoint {
        all.push(variable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint));
    }
    all
}

/// The certificate, the secret that processes show each other, and the redis URL.
pub(super) fn volumes(building: &Building<'_>, tier: Tier) -> Vec<Mounted> {
    let valid = building.valid;
    let cluster = valid.name();
    let redis = &valid.spec().redis;
    let own = names::secret_name(cluster, "redis");
    let (url_secret, url_key) = match (redis.mode, &redis.external) {
        (RedisMode::External, Some(external)) => {
            (&external.url_secret.name, external.url_secret.key.as_str())
        }
        _ if tier == Tier::Connect => (&own, "connect-url"),
        _ => (&own, "url"),
    };
    vec![
        tls(cluster, tier),
        secret(
            "peer",
            &names::secret_name(cluster, "peer"),
            &[("secret", "secret")],
            PEER_FOLDER,
        ),
        secret("redis", url_secret, &[(url_key, "url")], SECRET_FOLDER),
    ]
}

/// Keeps the process unaware of its end for so long, while Services stop sending it new clients.
pub(super) fn sleep_first(seconds: i64) -> Lifecycle {
    before_end(LifecycleHandler {
        sleep: Some(SleepAction { seconds }),
        ..Default::default()
    })
}
