//! What is told of redis, Sentinel and etcd as metrics, so that their pods need no exporter beside them.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use prometheus::IntGaugeVec;

use crate::api::{Condition, ConditionStatus, Tier};
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

fn pod(key: &Key, tier: Tier, place: usize) -> String {
    format!("{}-{place}", build::object_name(&key.name, tier))
}

fn set(metric: &IntGaugeVec, key: &Key, pod: &str, value: i64) {
    metric.with_label_values(&[key.namespace.as_str(), key.name.as_str(), pod]).set(value);
}

fn wide(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Tells of redis and Sentinels.
pub fn redis(key: &Key, seen: &redis::decide::Observed) {
    for (place, server) in seen.servers.iter().enumerate() {
        let pod = pod(key, Tier::Redis, place);
        let tell = |metric: &IntGaugeVec, value: i64| set(metric, key, &pod, value);
        tell(&metrics::REDIS_UP, server.answer.is_some().into());
        // What is not known is not told: it would look like a fact.
        let Some(answer) = &server.answer else { continue };
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
        set(&metrics::SENTINEL_UP, key, &pod(key, Tier::Sentinel, place), sentinel.knows_one().into());
    }
}

/// Tells of etcd's members.
pub fn etcd(key: &Key, seen: &etcd::decide::Observed) {
    for (place, member) in seen.places.iter().enumerate() {
        let pod = pod(key, Tier::Etcd, place);
        set(&metrics::ETCD_VOTES, key, &pod, member.votes().into());
        let Some(answer) = member.answer else { continue };
        set(&metrics::ETCD_SIZE, key, &pod, wide(answer.size));
        set(&metrics::ETCD_IN_USE, key, &pod, wide(answer.in_use));
        set(&metrics::ETCD_FULL, key, &pod, answer.full.into());
    }
}

/// What was told of conditions: an ImCluster's types with their reasons.
static CONDITIONS: LazyLock<Mutex<HashMap<Key, Told>>> = LazyLock::new(Mutex::default);
type Told = Vec<(&'static str, &'static str)>;

/// Tells of an ImCluster's conditions; none: it is no more.
pub fn conditions(key: &Key, conditions: &[Condition]) {
    let now: Told = conditions.iter().map(|condition| (condition.kind.name(), condition.reason.name())).collect();
    for condition in conditions {
        let value = match condition.status {
            ConditionStatus::True => 1,
            ConditionStatus::False => 0,
            ConditionStatus::Unknown => -1,
        };
        let labels = [key.namespace.as_str(), key.name.as_str(), condition.kind.name(), condition.reason.name()];
        metrics::CONDITION.with_label_values(&labels).set(value);
    }
    let mut told = CONDITIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let before = if now.is_empty() { told.remove(key) } else { told.insert(key.clone(), now.clone()) };
    for (kind, reason) in before.into_iter().flatten().filter(|before| !now.contains(before)) {
        let _ = metrics::CONDITION.remove_label_values(&[key.namespace.as_str(), key.name.as_str(), kind, reason]);
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

/// Tells whether an ImCluster is another operator's.
pub fn foreign(key: &Key, foreign: bool) {
    let labels = [key.namespace.as_str(), key.name.as_str()];
    if foreign {
        metrics::FOREIGN.with_label_values(&labels).set(1);
    } else {
        let _ = metrics::FOREIGN.remove_label_values(&labels);
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::{ConditionType, Reason};

    fn condition(status: ConditionStatus, reason: Reason) -> Condition {
        Condition {
            kind: ConditionType::Degraded,
            status,
            observed_generation: None,
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            reason,
            message: String::new(),
        }
    }

    fn told(key: &Key) -> Vec<String> {
        let text = prometheus::TextEncoder::new().encode_to_string(&prometheus::gather()).expect("text");
        let name = format!("namespace=\"{}\"", key.namespace);
        text.lines().filter(|line| line.contains(&name)).map(str::to_owned).collect()
    }

    #[test]
    fn every_reason_of_a_condition_shows_as_a_metric_while_it_holds() {
        let key = Key::new("figures", "demo");
        for reason in Reason::ALL {
            conditions(&key, &[condition(ConditionStatus::True, *reason)]);
            let labels = format!("name=\"demo\",namespace=\"figures\",reason=\"{}\",type=\"Degraded\"", reason.name());
            assert_eq!(told(&key), [format!("im_operator_cluster_condition{{{labels}}} 1")]);
        }
        conditions(&key, &[condition(ConditionStatus::Unknown, Reason::Unreachable)]);
        assert!(told(&key)[0].ends_with(" -1"));
        conditions(&key, &[]);
        assert_eq!(told(&key), Vec::<String>::new());
    }

    #[test]
    fn a_redis_that_does_not_answer_is_down_and_nothing_else_is_said_of_it() {
        let key = Key::new("figures-redis", "demo");
        let server = redis::decide::Server {
            host: "h".to_owned(),
            latched: true,
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
