//! What the pods show that came and went during an event, and whether a rollout was as it must be: without this, an event that
//! did not really happen would pass.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::pod_recorder::PodRecord;
use crate::workload::messages::SendTime;

/// The API server cuts deletion times off to whole seconds.
pub(crate) const WHOLE_SECONDS: f64 = 1.0;
/// A send counts as in flight at a drain's beginning up to this many seconds later.
const DRAIN_START: f64 = 0.05;

/// The pods that came and went during an event.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Measurements {
    /// When the event began, in seconds since 1970.
    pub(crate) from: f64,
    /// Pods whose deletion was requested.
    pub(crate) ended: Vec<PodRecord>,
    /// Pods that became Ready.
    pub(crate) came: Vec<PodRecord>,
    /// For each connect pod that drained, how many sends were in flight when its drain began.
    pub(crate) in_flight: Vec<(String, usize)>,
    /// Restarts of containers, of all pods.
    pub(crate) restarts: usize,
    /// The most connect pods that terminated at the same time.
    pub(crate) most_terminating: usize,
    /// The longest time without the outcome of a send, in seconds.
    pub(crate) silence: f64,
}

impl Measurements {
    /// Of everything since `from` (seconds since 1970).
    pub(crate) fn since(from: f64, pods: &[PodRecord], send_times: &[SendTime]) -> Self {
        let is_since = |time: Option<f64>| time.is_some_and(|time| time >= from);
        let ended: Vec<PodRecord> = pods
            .iter()
            .filter(|pod| is_since(pod.deleted))
            .cloned()
            .collect();
        let came = pods
            .iter()
            .filter(|pod| is_since(pod.ready))
            .cloned()
            .collect();
        let seconds = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs_f64()
        };
        let mut in_flight = Vec::new();
        for pod in &ended {
            if let Some(from) = pod.drain_began {
                let to = from + DRAIN_START;
                let sends = send_times
                    .iter()
                    .filter(|(begun, done)| seconds(*begun) <= to && seconds(*done) >= from);
                in_flight.push((pod.name.clone(), sends.count()));
            }
        }
        let connects: Vec<&PodRecord> = ended.iter().filter(|pod| pod.tier == "connect").collect();
        let terminating = |time: f64| {
            connects
                .iter()
                .filter(|pod| pod.deleted.is_some_and(|at| at <= time))
                .filter(|pod| pod.gone.is_none_or(|at| at > time + WHOLE_SECONDS))
                .count()
        };
        let most_terminating = connects
            .iter()
            .filter_map(|pod| Some(terminating(pod.deleted?)))
            .max()
            .unwrap_or(0);
        let restarts = pods.iter().map(|pod| pod.restarts_since(from)).sum();
        let mut outcomes: Vec<f64> = send_times.iter().map(|(_, done)| seconds(*done)).collect();
        outcomes.sort_by(f64::total_cmp);
        let silence = outcomes
            .windows(2)
            .map(|pair| pair[1] - pair[0])
            .fold(0.0, f64::max);
        Self {
            from,
            ended,
            came,
            in_flight,
            restarts,
            most_terminating,
            silence,
        }
    }

    /// What is wrong with a rollout of `pods` pods of `tier` from one version to another; empty if nothing is.
    pub(crate) fn rollout_problems(
        &self,
        tier: &str,
        from: &str,
        to: &str,
        pods: usize,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        let old: Vec<&PodRecord> = self.ended.iter().filter(|pod| pod.tier == tier).collect();
        let new: Vec<&PodRecord> = self.came.iter().filter(|pod| pod.tier == tier).collect();
        if old.len() != pods || new.len() < pods {
            problems.push(format!(
                "{} pods of {tier} ended and {} came, not {pods} each",
                old.len(),
                new.len()
            ));
        }
        for pod in &old {
            problems.extend(self.old_pod_problems(pod, from));
        }
        for pod in new.iter().filter(|pod| pod.version.as_deref() != Some(to)) {
            problems.push(format!(
                "{} has version {:?}, not {to}",
                pod.name, pod.version
            ));
        }
        for (name, _) in self.in_flight.iter().filter(|(_, sends)| *sends == 0) {
            problems.push(format!("no send was in flight when {name} began to drain"));
        }
        problems
    }

    fn old_pod_problems(&self, pod: &PodRecord, version: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let name = &pod.name;
        if pod.version.as_deref() != Some(version) {
            problems.push(format!(
                "{name} had version {:?}, not {version}",
                pod.version
            ));
        }
        match &pod.end {
            Some(end) if end.code == 0 && end.reason == "Completed" => {
                if pod.deadline.is_some_and(|deadline| end.at >= deadline) {
                    problems.push(format!("{name} terminated at its deadline"));
                }
            }
            other => problems.push(format!("{name} did not complete: {other:?}")),
        }
        if pod.tier == "connect" {
            if pod.connections_at_deletion().unwrap_or(0) == 0 {
                problems.push(format!("{name} had no connections when it was deleted"));
            }
            if pod.forced != Some(0) {
                problems.push(format!(
                    "{name} closed {:?} connections by force",
                    pod.forced
                ));
            }
        }
        let restarts = pod.restarts_since(self.from);
        if restarts > 0 {
            problems.push(format!("{name} was restarted {restarts} times"));
        }
        problems
    }
}

impl fmt::Display for Measurements {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for pod in &self.ended {
            let version = pod.version.as_deref().unwrap_or("?");
            let deleted = pod.deleted.unwrap_or_default();
            let end = pod.end.as_ref().map_or_else(
                || "termination not seen".to_owned(),
                |end| {
                    format!(
                        "{} (exit {}) after {:.1} s",
                        end.reason,
                        end.code,
                        end.at - deleted
                    )
                },
            );
            let allowed = pod.deadline.unwrap_or_default() - deleted;
            let connections = pod.connections_at_deletion();
            let connections =
                connections.map_or_else(String::new, |count| format!(", had {count} connections"));
            let forced = pod
                .forced
                .map_or_else(String::new, |forced| format!(", closed {forced} by force"));
            writeln!(
                out,
                "  - {} {version} on {}{connections}{forced}: {end} of {allowed:.0} s",
                pod.name, pod.node
            )?;
        }
        for pod in &self.came {
            writeln!(
                out,
                "  + {} {} on {}",
                pod.name,
                pod.version.as_deref().unwrap_or("?"),
                pod.node
            )?;
        }
        for (name, sends) in &self.in_flight {
            writeln!(out, "  {sends} sends in flight when {name} began to drain")?;
        }
        write!(
            out,
            "  at most {} connect pods terminating at a time, {} restarts of containers; longest time without an acknowledgement {:.1} s",
            self.most_terminating, self.restarts, self.silence
        )
    }
}
