//! Connect: a Deployment whose pods hand their clients over before they end, and the Service that clients connect to.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{EnvVar, Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::container::{port, variable};
use super::labels::{ACCEPT, ACCEPT_YES, texts};
use super::pod::{DRAIN_RESERVE, Parts, some, template};
use super::workload::{Unhealthy, common, service_port};
use super::{Building, labels, monitor, names, services};
use crate::api::{Rollout, ServiceType, Tier, TrafficPolicy};

/// Seconds between a pod's deletion and the process's hearing of it, in which Services forget the pod.
const SLEEP: i64 = 5;
/// Seconds that a new pod is watched before an old one goes.
const MIN_READY: i32 = 10;
/// What limits by address are set to where every client has a node's address.
const NO_LIMIT: &str = "10000000";

/// How many pods may drain at once: the number, or the share of the pods rounded down, at least one.
pub(crate) fn max_draining(rollout: &Rollout, replicas: i32) -> i32 {
    let number = match &rollout.max_draining {
        IntOrString::Int(number) => *number,
        IntOrString::String(share) => match share
            .strip_suffix('%')
            .and_then(|share| share.parse::<i32>().ok())
        {
            Some(percent) => replicas.saturating_mul(percent) / 100,
            None => 1,
        },
    };
    number.max(1)
}

pub(super) fn objects(building: &mut Building<'_>) {
    let (valid, inputs) = (building.valid, building.inputs);
    let connect = &valid.spec().connect;
    common(building, Tier::Connect, Unhealthy::Always);
    let service = service(building);
    building.add(Tier::Connect, &service);

    let run = &inputs.runs.connect;
    let mut container = services::process(building, Tier::Connect, run, names::CONNECT_GRPC_PORT);
    container
        .env
        .get_or_insert_default()
        .extend(environment(building));
    let clients = [port("tcp", names::TCP_PORT), port("ws", names::WS_PORT)];
    container
        .ports
        .get_or_insert_default()
        .splice(0..0, clients);
    container.lifecycle = Some(services::sleep_first(SLEEP));
    let volumes = services::volumes(building, Tier::Connect);
    let template = template(
        building,
        Parts {
            tier: Tier::Connect,
            pod: &connect.pod,
            field: "spec.connect",
            run,
            container,
            init: Vec::new(),
            volumes,
            labels: texts([(ACCEPT, ACCEPT_YES)]),
            grace: SLEEP + i64::from(connect.drain_seconds) + DRAIN_RESERVE,
        },
    );
    let deployment = Deployment {
        metadata: labels::tier_meta(valid, Tier::Connect),
        spec: Some(DeploymentSpec {
            min_ready_seconds: Some(MIN_READY),
            paused: Some(inputs.connect_paused),
            progress_deadline_seconds: Some(600),
            replicas: Some(inputs.connect_replicas),
            revision_history_limit: Some(3),
            selector: labels::label_selector(valid, Tier::Connect),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(max_draining(
                        &connect.rollout,
                        connect.replicas,
                    ))),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template,
        }),
        ..Default::default()
    };
    building.add(Tier::Connect, &deployment);
    monitor::pods(building, Tier::Connect, "admin");
}

fn environment(building: &Building<'_>) -> Vec<EnvVar> {
    let valid = building.valid;
    let mut all = vec![variable(
        "IM_DRAIN_DEADLINE",
        format!("{}s", valid.spec().connect.drain_seconds),
    )];
    if valid.hides_addresses() {
        let given = &valid.spec().connect.pod.extra_env;
        let limits = [
            "IM_MAX_CONNECTIONS_PER_IP",
            "IM_IP_REQUESTS_PER_SECOND",
            "IM_ACCEPTS_PER_SECOND_PER_IP",
            "IM_AUTH_FAILURES_PER_IP",
        ];
        let open = limits
            .into_iter()
            .filter(|name| given.iter().all(|variable| variable.name != *name));
        all.extend(open.map(|name| variable(name, NO_LIMIT)));
    }
    all
}

fn service(building: &Building<'_>) -> Service {
    let valid = building.valid;
    let given = &valid.spec().connect.service;
    let mut metadata = labels::tier_meta(valid, Tier::Connect);
    if !given.annotations.is_empty() {
        metadata.annotations = Some(given.annotations.clone());
    }
    let mut selector = labels::selector(valid.name(), Tier::Connect);
    selector.extend(texts([(ACCEPT, ACCEPT_YES)]));
    let node_ports = given.node_ports.as_ref();
    let mut tcp = service_port("tcp", names::TCP_PORT);
    tcp.node_port = node_ports.and_then(|ports| ports.tcp);
    let mut ws = service_port("ws", names::WS_PORT);
    ws.node_port = node_ports.and_then(|ports| ports.ws);
    let policy = match given.kind {
        ServiceType::ClusterIP => None,
        ServiceType::NodePort | ServiceType::LoadBalancer => Some(
            given
                .external_traffic_policy
                .unwrap_or(TrafficPolicy::Local)
                .name(),
        ),
    };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(given.kind.name().to_owned()),
            selector: Some(selector),
            ports: Some(vec![tcp, ws]),
            external_traffic_policy: policy.map(str::to_owned),
            load_balancer_class: given.load_balancer_class.clone(),
            load_balancer_source_ranges: some(given.source_ranges.clone()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_draining_pods_is_rounded_down_and_at_least_one() {
        let rollout = |max_draining| Rollout { max_draining };
        let share = |text: &str| rollout(IntOrString::String(text.to_owned()));
        assert_eq!(max_draining(&share("10%"), 0), 1);
        assert_eq!(max_draining(&share("10%"), 9), 1);
        assert_eq!(max_draining(&share("10%"), 39), 3);
        assert_eq!(max_draining(&share("100%"), 1000), 1000);
        assert_eq!(max_draining(&rollout(IntOrString::Int(4)), 2), 4);
    }
}
