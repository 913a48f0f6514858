//! What another build of the operator makes of an ImCluster may replace its pods. So it goes through the ImClusters one after
//! the other: the next one's turn comes when the one before is whole again, and not while it is not.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::api::{ImCluster, ImClusterStatus};
use crate::controller::status::is_whole;
use crate::kubernetes::key::Key;
use crate::metrics;

/// How long an ImCluster that does not become whole keeps the others waiting.
const MAX_WAIT: Duration = Duration::from_secs(1800);

/// Whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Who has it, and since when.
    holder: Option<(Key, Instant)>,
    waiting: HashSet<Key>,
}

/// Whether pods may be changed now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Turn {
    /// They may.
    Now,
    /// Another ImCluster is first.
    After(Key),
}

impl Turns {
    /// Whether this build, which runs as `image`, may change an ImCluster's pods now. What people ask for by its spec never
    /// waits, nor does one that is not whole.
    pub(crate) fn ask(&self, cluster: &ImCluster, all: &[Arc<ImCluster>], image: &str) -> Turn {
        let key = Key::of(cluster);
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = if waits(cluster, image) {
            state.claim(&key, all, image)
        } else {
            Turn::Now
        };
        let changed = match turn {
            Turn::Now => state.waiting.remove(&key),
            Turn::After(_) => state.waiting.insert(key),
        };
        if changed {
            metrics::TURNS_WAITING.set(i64::try_from(state.waiting.len()).unwrap_or(i64::MAX));
        }
        turn
    }

    /// The report of an ImCluster was written: which ones are due because of that.
    pub(crate) fn reported(&self, key: &Key, report: &ImClusterStatus, image: &str) -> Vec<Key> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = state
            .holder
            .as_ref()
            .is_some_and(|(holder, _)| holder == key)
            && is_done(report, image);
        if is_over {
            state.waiting.iter().cloned().collect()
        } else {
            Vec::new()
        }
    }

    /// An ImCluster is no more.
    pub(crate) fn forget(&self, key: &Key) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting
            .remove(key);
    }
}

impl State {
    fn claim(&mut self, key: &Key, all: &[Arc<ImCluster>], image: &str) -> Turn {
        let unfinished = |cluster: &ImCluster| {
            let status = cluster.status.as_ref();
            let began =
                status.is_some_and(|status| status.operator_image.as_deref() == Some(image));
            !cluster.spec.paused && began && !status.is_some_and(|status| is_done(status, image))
        };
        let find = |key: &Key| all.iter().find(|cluster| Key::of(cluster.as_ref()) == *key);
        if let Some((holder, since)) = &self.holder {
            // Until its first report it has begun, too.
            let waits =
                find(holder).is_some_and(|cluster| unfinished(cluster) || waits(cluster, image));
            if holder != key && waits && since.elapsed() < MAX_WAIT {
                return Turn::After(holder.clone());
            }
        } else if let Some(other) = all.iter().find(|cluster| unfinished(cluster)) {
            // The process before this one had begun with it.
            let other = Key::of(other.as_ref());
            self.holder = Some((other.clone(), Instant::now()));
            return Turn::After(other);
        }
        if self.holder.as_ref().is_none_or(|(holder, _)| holder != key) {
            self.holder = Some((key.clone(), Instant::now()));
        }
        Turn::Now
    }
}

/// Whether an ImCluster is whole, as another build of the operator has made it.
fn waits(cluster: &ImCluster, image: &str) -> bool {
    let generation = cluster.metadata.generation;
    cluster.status.as_ref().is_some_and(|status| {
        status.operator_image.as_deref() != Some(image)
            && status.applied_generation == generation
            && is_whole(status)
    })
}

/// Whether an ImCluster is whole, as this build has made it.
fn is_done(status: &ImClusterStatus, image: &str) -> bool {
    status.operator_image.as_deref() == Some(image) && is_whole(status)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const OLD: &str = "imcluster/operator:1";
    const NEW: &str = "imcluster/operator:2";

    fn cluster(name: &str, image: &str, whole: bool) -> Arc<ImCluster> {
        let now = "2026-01-01T00:00:00Z";
        let condition = |kind: &str, holds: bool| {
            let (status, reason) = (if holds { "True" } else { "False" }, "AsExpected");
            json!({"type": kind, "status": status, "reason": reason, "message": "", "lastTransitionTime": now})
        };
        let object = json!({"apiVersion": "imcluster.io/v1alpha1", "kind": "ImCluster",
            "metadata": {"name": name, "namespace": "chat", "generation": 3}, "spec": {"version": "1"},
            "status": {"operatorImage": image, "appliedGeneration": 3,
                "conditions": [condition("Ready", whole), condition("Progressing", !whole)]}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn after(name: &str) -> Turn {
        Turn::After(Key::new("chat", name))
    }

    #[tokio::test(start_paused = true)]
    async fn another_builds_changes_go_from_one_to_the_next_when_it_is_whole() {
        let turns = Turns::default();
        let all = ["a", "b", "c"].map(|name| cluster(name, OLD, true));
        assert_eq!(turns.ask(&all[1], &all, NEW), Turn::Now);
        assert_eq!(
            turns.ask(&all[0], &all, NEW),
            after("b"),
            "asked again before the first report"
        );
        assert_eq!(turns.ask(&all[1], &all, NEW), Turn::Now);
        let moving = [all[0].clone(), cluster("b", NEW, false), all[2].clone()];
        assert_eq!(turns.ask(&moving[0], &moving, NEW), after("b"));
        assert_eq!(turns.ask(&moving[1], &moving, NEW), Turn::Now);
        let done = [all[0].clone(), cluster("b", NEW, true), all[2].clone()];
        let report = done[1].status.clone().unwrap();
        assert_eq!(
            turns.reported(&Key::new("chat", "b"), &report, NEW),
            [Key::new("chat", "a")]
        );
        assert_eq!(
            turns.ask(&done[2], &done, NEW),
            Turn::Now,
            "whoever asks first"
        );
        assert_eq!(turns.ask(&done[0], &done, NEW), after("c"));
        assert_eq!(
            turns.ask(&done[1], &done, NEW),
            Turn::Now,
            "it has had its turn"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_people_ask_for_and_what_is_broken_does_not_wait() {
        let turns = Turns::default();
        let broken = cluster("broken", OLD, false);
        let edited = Arc::new(ImCluster {
            metadata: kube::core::ObjectMeta {
                generation: Some(4),
                ..cluster("edited", OLD, true).metadata.clone()
            },
            ..cluster("edited", OLD, true).as_ref().clone()
        });
        let all = [cluster("a", OLD, true), broken, edited];
        assert_eq!(turns.ask(&all[0], &all, NEW), Turn::Now);
        assert_eq!(turns.ask(&all[1], &all, NEW), Turn::Now);
        assert_eq!(turns.ask(&all[2], &all, NEW), Turn::Now);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stays_broken_keeps_the_others_waiting_for_a_while_also_over_a_new_leader() {
        let turns = Turns::default();
        let all = [cluster("a", OLD, true), cluster("b", NEW, false)];
        assert_eq!(turns.ask(&all[0], &all, NEW), after("b"));
        tokio::time::advance(MAX_WAIT).await;
        assert_eq!(turns.ask(&all[0], &all, NEW), Turn::Now);
        // One that is gone keeps nobody.
        let turns = Turns::default();
        assert_eq!(turns.ask(&all[0], &all, NEW), after("b"));
        assert_eq!(turns.ask(&all[0], &all[..1], NEW), Turn::Now);
    }
}
