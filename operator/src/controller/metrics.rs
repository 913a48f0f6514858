//! Metrics of an ImCluster: its conditions, and whether it is another operator's.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

use crate::api::{Condition, ConditionStatus};
use crate::kubernetes::key::Key;
use crate::metrics;

/// What was told of conditions: an ImCluster's types with their reasons.
static CONDITIONS: LazyLock<Mutex<HashMap<Key, Told>>> = LazyLock::new(Mutex::default);
type Told = Vec<(&'static str, &'static str)>;

/// Tells of an ImCluster's conditions; none: it is no more.
pub(crate) fn conditions(key: &Key, conditions: &[Condition]) {
    let now: Told = conditions
        .iter()
        .map(|condition| (condition.kind.name(), condition.reason.name()))
        .collect();
    for condition in conditions {
        let value = match condition.status {
            ConditionStatus::True => 1,
            ConditionStatus::False => 0,
            ConditionStatus::Unknown => -1,
        };
        let labels = [
            key.namespace.as_str(),
            key.name.as_str(),
            condition.kind.name(),
            condition.reason.name(),
        ];
        metrics::CONDITION.with_label_values(&labels).set(value);
    }
    let mut told = CONDITIONS.lock().unwrap_or_else(PoisonError::into_inner);
    let before = if now.is_empty() {
        told.remove(key)
    } else {
        told.insert(key.clone(), now.clone())
    };
    for (kind, reason) in before
        .into_iter()
        .flatten()
        .filter(|before| !now.contains(before))
    {
        let _ = metrics::CONDITION.remove_label_values(&[
            key.namespace.as_str(),
            key.name.as_str(),
            kind,
            reason,
        ]);
    }
}

/// Tells whether an ImCluster is another operator's.
pub(crate) fn foreign(key: &Key, foreign: bool) {
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
    fn every_reason_of_a_condition_shows_as_a_metric_while_it_holds() {
        let key = Key::new("figures", "demo");
        for reason in Reason::ALL {
            conditions(&key, &[condition(ConditionStatus::True, *reason)]);
            let labels = format!(
                "name=\"demo\",namespace=\"figures\",reason=\"{}\",type=\"Degraded\"",
                reason.name()
            );
            assert_eq!(
                told(&key),
                [format!("im_operator_cluster_condition{{{labels}}} 1")]
            );
        }
        conditions(
            &key,
            &[condition(ConditionStatus::Unknown, Reason::Unreachable)],
        );
        assert!(told(&key)[0].ends_with(" -1"));
        conditions(&key, &[]);
        assert_eq!(told(&key), Vec::<String>::new());
    }
}
