//! Network policies: every tier takes connections from those who need it, and from nobody else.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::labels::{self, OPERATOR, texts};
use super::{Building, names};
use crate::api::{EtcdMode, RedisMode, Tier};

pub(super) fn policies(building: &mut Building<'_>) {
    let spec = building.valid.spec();
    if !spec.network_policy.enabled {
        return;
    }
    let tier = |tier| pods_of(building, tier);
    let operator = operator(building);
    let (connect, logic) = (tier(Tier::Connect), tier(Tier::Logic));
    let (redis, sentinel, etcd) = (tier(Tier::Redis), tier(Tier::Sentinel), tier(Tier::Etcd));
    let mut metrics = vec![operator.clone()];
    metrics.extend(spec.network_policy.metrics_from.iter().cloned());

    let mut all = vec![
        (
            Tier::Connect,
            vec![
                rule(&[names::TCP_PORT, names::WS_PORT], Vec::new()),
                rule(&[names::CONNECT_GRPC_PORT], vec![logic.clone()]),
                rule(&[names::ADMIN_PORT], metrics.clone()),
            ],
        ),
        (
            Tier::Logic,
            vec![
                // No peers named: everybody.
                rule(&[names::HTTP_PORT], spec.network_policy.api_from.clone()),
                rule(&[names::LOGIC_GRPC_PORT], vec![connect.clone()]),
                rule(&[names::ADMIN_PORT], metrics.clone()),
            ],
        ),
    ];
    if spec.redis.mode != RedisMode::External {
        let mut clients = vec![connect.clone(), logic.clone(), operator.clone()];
        if spec.redis.mode == RedisMode::Sentinel {
            let watchers = vec![
                connect.clone(),
                logic.clone(),
                sentinel.clone(),
                operator.clone(),
            ];
            clients.extend([redis, sentinel]);
            all.push((
                Tier::Sentinel,
                vec![rule(&[names::SENTINEL_PORT], watchers)],
            ));
        }
        all.push((Tier::Redis, vec![rule(&[names::REDIS_PORT], clients)]));
    }
    if spec.etcd.mode == EtcdMode::Managed {
        all.push((
            Tier::Etcd,
            vec![
                // A member with an empty volume asks the others whether they await it.
                rule(
                    &[names::ETCD_CLIENT_PORT],
                    vec![connect, logic, operator, etcd.clone()],
                ),
                rule(&[names::ETCD_PEER_PORT], vec![etcd]),
                rule(&[names::ETCD_METRICS_PORT], metrics),
            ],
        ));
    }
    all.sort_by_key(|(tier, _)| *tier);
    for (tier, rules) in all {
        let policy = NetworkPolicy {
            metadata: labels::tier_meta(building.valid, tier),
            spec: Some(NetworkPolicySpec {
                pod_selector: Some(labels::label_selector(building.valid, tier)),
                policy_types: Some(vec!["Ingress".to_owned()]),
                ingress: Some(rules),
                egress: None,
            }),
        };
        building.add(tier, &policy);
    }
}

fn rule(ports: &[i32], from: Vec<NetworkPolicyPeer>) -> NetworkPolicyIngressRule {
    let port = |&number: &i32| NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    NetworkPolicyIngressRule {
        ports: Some(ports.iter().map(port).collect()),
        from: (!from.is_empty()).then_some(from),
    }
}

fn pods_of(building: &Building<'_>, tier: Tier) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        pod_selector: Some(labels::label_selector(building.valid, tier)),
        ..Default::default()
    }
}

fn operator(building: &Building<'_>) -> NetworkPolicyPeer {
    let select = |pairs| LabelSelector {
        match_labels: Some(pairs),
        ..Default::default()
    };
    let namespace = building.inputs.operator_namespace.as_str();
    NetworkPolicyPeer {
        namespace_selector: Some(select(texts([("kubernetes.io/metadata.name", namespace)]))),
        pod_selector: Some(select(texts([("app.kubernetes.io/name", OPERATOR)]))),
        ip_block: None,
    }
}
