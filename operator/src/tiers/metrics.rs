//! Metrics of redis, Sentinel and etcd, so that their pods need no exporter beside them.

use prometheus::IntGaugeVec;

use crate::api::Tier;
use crate::kubernetes::key::Key;
use crate::tiers::{etcd, redis};
use crate::{build, metrics};

fn all() -> [&'static IntGaugeVec; 16] {
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
        &metrics::ETCD_SIZE,
        &metrics::ETCD_IN_USE,
        &metrics::ETCD_FULL,
    ]
}

fn pod(key: &Key, tier: Tier, ordinal: usize) -> String {
    format!("{}-{ordinal}", build::object_name(&key.name, tier))
}

fn set(metric: &IntGaugeVec, key: &Key, pod: &str, value: i64) {
    metric
        .with_label_values(&[key.namespace.as_str(), key.name.as_str(), pod])
        .set(value);
}

fn wide(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Tells of redis and Sentinels.
pub(crate) fn redis(key: &Key, seen: &redis::decide::Observed) {
    for (ordinal, server) in seen.servers.iter().enumerate() {
        let pod = pod(key, Tier::Redis, ordinal);
        let set_one = |metric: &IntGaugeVec, value: i64| set(metric, key, &pod, value);
        set_one(&metrics::REDIS_UP, server.answer.is_some().into());
        // What is not known is not told: it would look like a fact.
        let Some(answer) = &server.answer else {
            continue;
        };
        let stats = answer.stats;
        set_one(&metrics::REDIS_MASTER, answer.master.into());
        set_one(
            &metrics::REDIS_REPLICAS,
            i64::try_from(answer.replicas).unwrap_or(i64::MAX),
        );
        set_one(&metrics::REDIS_OFFSET, wide(answer.offset));
        set_one(&metrics::REDIS_KEYS, wide(answer.keys));
        set_one(&metrics::REDIS_MEMORY, stats.used_memory);
        set_one(&metrics::REDIS_MAX_MEMORY, stats.max_memory);
        set_one(&metrics::REDIS_CLIENTS, stats.clients);
        set_one(&metrics::REDIS_COMMANDS, stats.commands);
        set_one(&metrics::REDIS_UPTIME, stats.uptime);
        set_one(&metrics::REDIS_STORED, stats.stored.into());
    }
    for (ordinal, sentinel) in seen.sentinels.iter().enumerate() {
        set(
            &metrics::SENTINEL_UP,
            key,
            &pod(key, Tier::Sentinel, ordinal),
            sentinel.knows_one().into(),
        );
    }
}

/// Tells of etcd's members.
pub(crate) fn etcd(key: &Key, seen: &etcd::decide::Observed) {
    for (ordinal, member) in seen.replicas.iter().enumerate() {
        let pod = pod(key, Tier::Etcd, ordinal);
        set(&metrics::ETCD_VOTES, key, &pod, member.votes().into());
        let Some(answer) = member.answer else {
            continue;
        };
        set(&metrics::ETCD_SIZE, key, &pod, wide(answer.size));
        set(&metrics::ETCD_IN_USE, key, &pod, wide(answer.in_use));
        set(&metrics::ETCD_FULL, key, &pod, answer.full.into());
    }
}

/// Tells nothing more of an ImCluster.
pub(crate) fn forget(key: &Key) {
    for (tier, count) in [
        (Tier::Redis, build::REDIS_REPLICAS),
        (Tier::Sentinel, build::SENTINEL_REPLICAS),
        (Tier::Etcd, build::MAX_ETCD_MEMBERS),
    ] {
        for ordinal in 0..usize::try_from(count).unwrap_or_default() {
            let pod = pod(key, tier, ordinal);
            for metric in all() {
                // One that was never told of is not there to be removed.
                let _ = metric.remove_label_values(&[
                    key.namespace.as_str(),
                    key.name.as_str(),
                    pod.as_str(),
                ]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(key: &Key) -> Vec<String> {
        let text = prometheus::TextEncoder::new()
            .encode_to_string(&prometheus::gather())
            .expect("text");
        let name = format!("namespace=\"{}\"", key.namespace);
        text.lines()
            .filter(|line| line.contains(&name))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn a_redis_that_does_not_answer_is_down_and_nothing_else_is_said_of_it() {
        let key = Key::new("figures-redis", "demo");
        let server = redis::decide::Server {
            host: "h".to_owned(),
            bootstrapped: true,
            ready: false,
            ending: false,
            outdated: false,
            answer: None,
        };
        let seen = redis::decide::Observed {
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            servers: vec![server],
            sentinels: vec![redis::decide::Sentinel::Silent],
            outdated_sentinels: Vec::new(),
            failing_over: false,
            confirming: 0,
            mirrored: true,
            anew: false,
        };
        redis(&key, &seen);
        let lines = told(&key);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|line| line.ends_with(" 0")), "{lines:?}");
        forget(&key);
        assert_eq!(told(&key), Vec::<String>::new());
    }
}
