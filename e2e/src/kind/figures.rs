//! What the ends of pods show: the figures (a) to (c) that make a rollout's audit honest.

use std::fmt;
use std::time::UNIX_EPOCH;

use serde::Serialize;

use super::witness::Life;
use crate::crowd::Flight;

/// The API server gives the time of a deletion in whole seconds, cut off.
pub(crate) const WHOLE_SECONDS: f64 = 1.0;
/// How soon after SIGTERM a send counts as under way at it, in seconds.
const MOMENT: f64 = 0.05;

/// The pods that came and went during an event.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    /// When the event began, in seconds since 1970.
    pub from: f64,
    /// Pods whose deletion was asked for during the event.
    pub ended: Vec<Life>,
    /// Pods that became Ready during the event.
    pub came: Vec<Life>,
    /// For each connect that drained, how many sends were under way when it began to.
    pub under_way: Vec<(String, usize)>,
    /// Containers that were started again during the event, of all pods.
    pub restarts: usize,
    /// The greatest number of connect pods that ended at one time.
    pub most_ending: usize,
    /// The longest time in which no send's outcome came, in seconds.
    pub silence: f64,
}

impl Figures {
    /// Of what happened since `from` (seconds since 1970).
    pub fn of(lives: &[Life], from: f64, flights: &[Flight]) -> Self {
        let since = |time: Option<f64>| time.is_some_and(|time| time >= from);
        let ended: Vec<Life> = lives.iter().filter(|life| since(life.deleted)).cloned().collect();
        let came = lives.iter().filter(|life| since(life.ready)).cloned().collect();
        let at = |time: std::time::SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut under_way = Vec::new();
        for life in &ended {
            if let Some(from) = life.drain_began {
                let to = from + MOMENT;
                let count = flights.iter().filter(|(begun, done)| at(*begun) <= to && at(*done) >= from).count();
                under_way.push((life.name.clone(), count));
            }
        }
        let connects: Vec<&Life> = ended.iter().filter(|life| life.tier == "connect").collect();
        let ending = |time: f64| {
            connects
                .iter()
                .filter(|l| l.deleted.is_some_and(|at| at <= time) && l.gone.is_none_or(|at| at > time + WHOLE_SECONDS))
                .count()
        };
        let most_ending = connects.iter().filter_map(|life| Some(ending(life.deleted?))).max().unwrap_or(0);
        let restarts = lives.iter().map(|life| life.restarts_since(from)).sum();
        let mut outcomes: Vec<f64> = flights.iter().map(|(_, done)| at(*done)).collect();
        outcomes.sort_by(f64::total_cmp);
        let silence = outcomes.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
        Self { from, ended, came, under_way, restarts, most_ending, silence }
    }

    /// What is not as a rollout of `tier` from one version to another must be; empty when all is.
    pub fn faults_of_rollout(&self, tier: &str, from: &str, to: &str, pods: usize) -> Vec<String> {
        let mut faults = Vec::new();
        let mut fault = |text: String| faults.push(text);
        let old: Vec<&Life> = self.ended.iter().filter(|life| life.tier == tier).collect();
        let new: Vec<&Life> = self.came.iter().filter(|life| life.tier == tier).collect();
        if old.len() != pods || new.len() < pods {
            fault(format!("{} pods of {tier} ended and {} came, not {pods} each", old.len(), new.len()));
        }
        for life in &old {
            let name = &life.name;
            if life.version.as_deref() != Some(from) {
                fault(format!("{name} said it was {:?}, not {from}", life.version));
            }
            if tier == "connect" && life.held().unwrap_or(0) == 0 {
                fault(format!("{name} held no client when it was deleted"));
            }
            match &life.end {
                Some(end) if end.code == 0 && end.reason == "Completed" => {
                    if life.deadline.is_some_and(|deadline| end.at >= deadline) {
                        fault(format!("{name} ended at its deadline"));
                    }
                }
                other => fault(format!("{name} did not end as it should: {other:?}")),
            }
            if tier == "connect" && life.forced != Some(0) {
                fault(format!("{name} closed {:?} clients by force", life.forced));
            }
            let restarts = life.restarts_since(self.from);
            if restarts > 0 {
                fault(format!("{name} was started {restarts} times again"));
            }
        }
        for life in new.iter().filter(|life| life.version.as_deref() != Some(to)) {
            fault(format!("{} says it is {:?}, not {to}", life.name, life.version));
        }
        for (name, count) in &self.under_way {
            if *count == 0 {
                fault(format!("no send was under way when {name} began to drain"));
            }
        }
        faults
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for life in &self.ended {
            let version = life.version.as_deref().unwrap_or("?");
            let deleted = life.deleted.unwrap_or_default();
            let end = life.end.as_ref().map_or_else(
                || "no end seen".to_owned(),
                |end| format!("{} (exit {}) after {:.1} s", end.reason, end.code, end.at - deleted),
            );
            let allowed = life.deadline.unwrap_or_default() - deleted;
            let held = life.held().map_or_else(String::new, |held| format!(", held {held} clients"));
            let forced = life.forced.map_or_else(String::new, |forced| format!(", closed {forced} by force"));
            writeln!(out, "  - {} {version} on {}{held}{forced}: {end} of {allowed:.0} s", life.name, life.node)?;
        }
        for life in &self.came {
            writeln!(out, "  + {} {} on {}", life.name, life.version.as_deref().unwrap_or("?"), life.node)?;
        }
        for (name, count) in &self.under_way {
            writeln!(out, "  {count} sends under way when {name} began to drain")?;
        }
        write!(
            out,
            "  at most {} connect pods ended at a time, {} restarts of containers; longest time without an acknowledgement {:.1} s",
            self.most_ending, self.restarts, self.silence
        )
    }
}
