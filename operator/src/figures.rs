//! What is told of redis, Sentinel and etcd as metrics, so that their pods need no exporter beside them.

use prometheus::IntGaugeVec;

use crate::api::Tier;
use crate::key::Key;
use crate::redis::Sentinel;
use crate::{build, etcd, metrics, redis};

fn all() -> [&'static IntGaugeVec; 13] {
    [
        &metrics::REDIS_UP,
        &metrics::REDIS_MASTER,
        &metrics::REDIS_REPLICAS,
        &metrics::REDIS_OFFSET,
        &metrics::REDIS_KEYS,
        &metrics::REDIS_MEMORY,
        &metrics::REDIS_MAX_MEMORY,
        &metrics::REDIS_CLIENTS,
        &metrics::REDIS_COMMANDS,
        &metrics::REDIS_UPTIME,
        &metrics::REDIS_STORED,
        &metrics::SENTINEL_UP,
        &metrics::ETCD_VOTES,
    ]
}

fn pod(key: &Key, tier: Tier, place: usize) -> String {
    format!("{}-{place}", build::object_name(&key.name, tier))
}

fn set(metric: &IntGaugeVec, key: &Key, pod: &str, value: i64) {
    metric.with_label_values(&[key.namespace.as_str(), key.name.as_str(), pod]).set(value);
}

/// Tells of redis and Sentinels.
pub fn redis(key: &Key, seen: &redis::Observed) {
    for (place, server) in seen.servers.iter().enumerate() {
        let pod = pod(key, Tier::Redis, place);
        let tell = |metric: &IntGaugeVec, value: i64| set(metric, key, &pod, value);
        tell(&metrics::REDIS_UP, server.answer.is_some().into());
        // What is not known is not told: it would look like a fact.
        let Some(answer) = &server.answer else { continue };
        let wide = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let figures = answer.figures;
        tell(&metrics::REDIS_MASTER, answer.master.into());
        tell(&metrics::REDIS_REPLICAS, i64::try_from(answer.replicas).unwrap_or(i64::MAX));
        tell(&metrics::REDIS_OFFSET, wide(answer.offset));
        tell(&metrics::REDIS_KEYS, wide(answer.keys));
        tell(&metrics::REDIS_MEMORY, figures.used_memory);
        tell(&metrics::REDIS_MAX_MEMORY, figures.max_memory);
        tell(&metrics::REDIS_CLIENTS, figures.clients);
        tell(&metrics::REDIS_COMMANDS, figures.commands);
        tell(&metrics::REDIS_UPTIME, figures.uptime);
        tell(&metrics::REDIS_STORED, figures.stored.into());
    }
    for (place, sentinel) in seen.sentinels.iter().enumerate() {
        let knows = matches!(sentinel, Sentinel::Knows(Some(_)));
        set(&metrics::SENTINEL_UP, key, &pod(key, Tier::Sentinel, place), knows.into());
    }
}

/// Tells of etcd's members.
pub fn etcd(key: &Key, seen: &etcd::Observed) {
    for (place, member) in seen.places.iter().enumerate() {
        set(&metrics::ETCD_VOTES, key, &pod(key, Tier::Etcd, place), member.votes().into());
    }
}

/// Tells nothing more of an ImCluster.
pub fn forget(key: &Key) {
    for (tier, count) in [
        (Tier::Redis, build::REDIS_REPLICAS),
        (Tier::Sentinel, build::SENTINEL_REPLICAS),
        (Tier::Etcd, build::ETCD_MEMBERS_MOST),
    ] {
        for place in 0..usize::try_from(count).unwrap_or_default() {
            let pod = pod(key, tier, place);
            for metric in all() {
                // One that was never told of is not there to be removed.
                let _ = metric.remove_label_values(&[key.namespace.as_str(), key.name.as_str(), pod.as_str()]);
            }
        }
    }
}
