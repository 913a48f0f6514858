//! What things are called and where they are found.

use crate::api::{EtcdMode, Tier};
use crate::kubernetes::key::Key;
use crate::validate::Valid;

/// Redis pods with Sentinel.
pub(crate) const REDIS_REPLICAS: i32 = 3;
/// Sentinels.
pub(crate) const SENTINEL_REPLICAS: i32 = 3;
/// Etcd members at most.
pub(crate) const MAX_ETCD_MEMBERS: i32 = 5;
/// Where redis serves, over TLS.
pub(crate) const REDIS_PORT: i32 = 6379;
/// Where Sentinels serve, over TLS.
pub(crate) const SENTINEL_PORT: i32 = 26379;
/// Where etcd serves clients, over TLS.
pub(crate) const ETCD_CLIENT_PORT: i32 = 2379;
/// Where etcd's members meet, over TLS.
pub(crate) const ETCD_PEER_PORT: i32 = 2380;
/// Where etcd serves `/readyz`, `/livez` and `/metrics`, in plain text.
pub(crate) const ETCD_METRICS_PORT: i32 = 2381;

pub(super) const TCP_PORT: i32 = 3101;
pub(super) const WS_PORT: i32 = 3102;
pub(super) const CONNECT_GRPC_PORT: i32 = 3109;
pub(super) const HTTP_PORT: i32 = 3111;
pub(super) const LOGIC_GRPC_PORT: i32 = 3119;
pub(super) const ADMIN_PORT: i32 = 9100;

/// The name of a tier's Deployment or StatefulSet, of its Service and of all that there is once: `demo-redis`.
pub(crate) fn object_name(cluster: &str, tier: Tier) -> String {
    format!("{cluster}-{}", tier.name())
}

/// The Secret of a cluster for this: `auth`, `peer`, `redis`, `ca`.
pub(crate) fn secret_name(cluster: &str, what: &str) -> String {
    format!("{cluster}-{what}")
}

/// The Secret with a tier's certificate: `demo-redis-tls`.
pub(crate) fn tls_name(cluster: &str, tier: Tier) -> String {
    format!("{cluster}-{}-tls", tier.name())
}

/// A tier's Service: `demo-logic.chat.svc`.
pub(crate) fn service_host(cluster: &str, namespace: &str, tier: Tier) -> String {
    format!("{}.{namespace}.svc", object_name(cluster, tier))
}

/// A pod of a tier's StatefulSet: `demo-redis-0.demo-redis.chat.svc`.
pub(crate) fn pod_host(cluster: &str, namespace: &str, tier: Tier, ordinal: i32) -> String {
    format!(
        "{}-{ordinal}.{}",
        object_name(cluster, tier),
        service_host(cluster, namespace, tier)
    )
}

/// Where clients find etcd.
pub(crate) fn etcd_endpoints(valid: &Valid) -> Vec<String> {
    let etcd = &valid.spec().etcd;
    match (etcd.mode, &etcd.external) {
        (EtcdMode::External, Some(external)) => external.endpoints.clone(),
        _ => {
            let members = etcd_members(
                &Key::of(valid.cluster()),
                usize::try_from(etcd.replicas).unwrap_or_default(),
            );
            members.into_iter().map(|member| member.client).collect()
        }
    }
}

/// Where an etcd member is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EtcdMember {
    /// By clients.
    pub(crate) client: String,
    /// By the other members.
    pub(crate) peer: String,
}

/// The first `count` etcd members of an ImCluster, by their pods' numbers.
pub(crate) fn etcd_members(cluster: &Key, count: usize) -> Vec<EtcdMember> {
    let member = |ordinal| {
        let host = pod_host(&cluster.name, &cluster.namespace, Tier::Etcd, ordinal);
        EtcdMember {
            client: format!("https://{host}:{ETCD_CLIENT_PORT}"),
            peer: format!("https://{host}:{ETCD_PEER_PORT}"),
        }
    };
    (0..i32::try_from(count).unwrap_or(i32::MAX))
        .map(member)
        .collect()
}
