//! Logic: a Deployment, and a Service for the HTTP API.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{EnvVar, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::container::{self, Mounted, port, variable};
use super::pod::{DRAIN_RESERVE, Parts, template};
use super::workload::{Unhealthy, common, service_port};
use super::{Building, labels, monitor, names, redis, services};
use crate::api::Tier;

/// Seconds in which a pod that ends finishes what is in flight.
const DRAIN: i64 = 30;
/// Seconds for which it goes on as before, so that Services and connect go elsewhere.
const AT_LEAST: i64 = 5;
const AUTH_FOLDER: &str = "/etc/imcluster/auth";
const KEYS_FOLDER: &str = "/etc/imcluster/keys";

pub(super) fn objects(building: &mut Building<'_>) {
    let (valid, inputs) = (building.valid, building.inputs);
    let logic = &valid.spec().logic;
    common(building, Tier::Logic, Unhealthy::Always);
    let service = Service {
        metadata: labels::tier_meta(valid, Tier::Logic),
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(labels::selector(valid.name(), Tier::Logic)),
            ports: Some(vec![service_port("http", names::HTTP_PORT)]),
            ..Default::default()
        }),
        ..Default::default()
    };
    building.add(Tier::Logic, &service);

    let run = &inputs.runs.logic;
    let mut container = services::process(building, Tier::Logic, run, names::LOGIC_GRPC_PORT);
    container
        .env
        .get_or_insert_default()
        .extend(environment(building));
    container
        .ports
        .get_or_insert_default()
        .insert(0, port("http", names::HTTP_PORT));
    let mut volumes = services::volumes(building, Tier::Logic);
    volumes.extend(credentials(building));
    let template = template(
        building,
        Parts {
            tier: Tier::Logic,
            pod: &logic.pod,
            field: "spec.logic",
            run,
            container,
            init: Vec::new(),
            volumes,
            labels: Default::default(),
            grace: DRAIN + DRAIN_RESERVE,
        },
    );
    let deployment = Deployment {
        metadata: labels::tier_meta(valid, Tier::Logic),
        spec: Some(DeploymentSpec {
            min_ready_seconds: Some(5),
            progress_deadline_seconds: Some(600),
            replicas: inputs.logic_replicas,
            revision_history_limit: Some(3),
            selector: labels::label_selector(valid, Tier::Logic),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template,
            ..Default::default()
        }),
        ..Default::default()
    };
    building.add(Tier::Logic, &deployment);
    monitor::pods(building, Tier::Logic, "admin");
}

fn environment(building: &Building<'_>) -> Vec<EnvVar> {
    let spec = building.valid.spec();
    let mut all = vec![
        variable("IM_DRAIN_DEADLINE", format!("{DRAIN}s")),
        variable("IM_DRAIN_AT_LEAST", format!("{AT_LEAST}s")),
        variable(
            "IM_HISTORY_MAX_ENTRIES",
            spec.history.max_entries.to_string(),
        ),
        variable("IM_HISTORY_MAX_AGE", age(spec.history.max_age_days)),
        variable(
            "IM_REDIS_WAIT_REPLICAS",
            redis::confirming_replicas(&spec.redis).to_string(),
        ),
    ];
    let auth = &spec.auth;
    if auth.hs256_secret.is_some() || auth.is_generated() {
        all.push(variable(
            "IM_AUTH_HS256_SECRET_FILE",
            format!("{AUTH_FOLDER}/hs256-secret"),
        ));
    }
    if let Some(keys) = &auth.public_keys {
        let files: Vec<String> = keys
            .keys
            .iter()
            .map(|key| format!("{KEYS_FOLDER}/{key}"))
            .collect();
        all.push(variable("IM_AUTH_PUBLIC_KEY_FILE", files.join(",")));
    }
    let texts = [
        ("IM_AUTH_JWKS_URL", &auth.jwks_url),
        ("IM_AUTH_ISSUER", &auth.issuer),
        ("IM_AUTH_AUDIENCE", &auth.audience),
    ];
    all.extend(
        texts
            .into_iter()
            .filter_map(|(name, value)| Some(variable(name, value.as_deref()?))),
    );
    all
}

fn age(days: i32) -> String {
    match days {
        0 => "0s".to_owned(),
        days => format!("{days}d"),
    }
}

fn credentials(building: &Building<'_>) -> Vec<Mounted> {
    let valid = building.valid;
    let auth = &valid.spec().auth;
    let mut all = Vec::new();
    if let Some(given) = &auth.hs256_secret {
        all.push(container::secret(
            "auth",
            &given.name,
            &[(&given.key, "hs256-secret")],
            AUTH_FOLDER,
        ));
    } else if auth.is_generated() {
        let own = names::secret_name(valid.name(), "auth");
        all.push(container::secret(
            "auth",
            &own,
            &[("hs256-secret", "hs256-secret")],
            AUTH_FOLDER,
        ));
    }
    if let Some(keys) = &auth.public_keys {
        all.push(container::config_map(
            "keys",
            &keys.config_map,
            &keys.keys,
            KEYS_FOLDER,
        ));
    }
    all
}
