//! The controller of ImClusters: what it remembers of each, and who may work on one. `workers` run it; `reconcile` is one pass.

mod claim;
mod metrics;
pub(crate) mod outcome;
mod plan;
pub(crate) mod queue;
mod reconcile;
mod report;
pub(crate) mod status;
pub(crate) mod turns;
mod workers;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use self::status::Writer;
use self::turns::Turns;
use crate::context::Context;
use crate::kubernetes::key::Key;
use crate::metrics::{BACKING_OFF, DRAINS, PICKED_OTHERWISE};
use crate::tiers::supervisor::Supervisors;

pub(crate) use workers::work;

/// Reconciles ImClusters.
#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) context: Arc<Context>,
    /// The tasks that look after redis and etcd.
    supervisors: Supervisors,
    /// Whose pods this build of the operator may change.
    turns: Turns,
    /// One per reconciliation, and one per failover of redis: what is not to be cut short.
    permits: Arc<Semaphore>,
    /// When it began to read.
    begun: Instant,
    ending: AtomicBool,
    memories: Mutex<HashMap<Key, Memory>>,
    unreadable: Mutex<HashMap<Key, (Option<i64>, String)>>,
}

/// What is remembered of an ImCluster from one reconciliation to the next. Losing it costs a call or two, never more.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// Failures in a row.
    failures: u32,
    /// When the status was last written.
    writer: Writer,
    /// Pods that ended though another was marked to go, as long as they are there.
    picked_otherwise: BTreeSet<String>,
}

impl Controller {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        let permits = Arc::new(Semaphore::new(context.settings.visits));
        Self {
            supervisors: Supervisors::new(Arc::clone(&permits)),
            turns: Turns::default(),
            permits,
            begun: Instant::now(),
            ending: AtomicBool::new(false),
            memories: Mutex::default(),
            unreadable: Mutex::default(),
            context,
        }
    }

    /// Whether no further reconciliation is to begin.
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Begins no further reconciliation and waits for those under way.
    pub(crate) async fn finish(&self, remaining: Duration) {
        self.ending.store(true, Ordering::Relaxed);
        self.supervisors.end();
        let all = u32::try_from(self.context.settings.visits).unwrap_or(u32::MAX);
        // The Lease must be given back within what is left.
        if timeout(remaining.mul_f64(0.7), self.permits.acquire_many(all))
            .await
            .is_err()
        {
            tracing::warn!("shutting down before all reconciliations finished");
        }
    }

    fn memory(&self, key: &Key) -> Memory {
        self.memories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
            .unwrap_or_default()
    }

    fn remember(&self, key: &Key, memory: Memory) {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        memories.insert(key.clone(), memory);
        let failing = memories
            .values()
            .filter(|memory| memory.failures > 0)
            .count();
        BACKING_OFF.set(i64::try_from(failing).unwrap_or(i64::MAX));
    }

    /// Counts pods that Kubernetes ended though another was marked to go, each once.
    fn note_picked_otherwise(&self, key: &Key, pods: &[String]) {
        let now: BTreeSet<String> = pods.iter().cloned().collect();
        let mut memory = self.memory(key);
        if memory.picked_otherwise == now {
            return;
        }
        for pod in now.difference(&memory.picked_otherwise) {
            PICKED_OTHERWISE.inc();
            tracing::info!(cluster = %key, pod, "Kubernetes ended this pod instead of the one marked for deletion");
        }
        memory.picked_otherwise = now;
        self.remember(key, memory);
    }

    /// Whether this is not what was last found of an ImCluster that cannot be read.
    fn is_new_unreadable(&self, key: &Key, generation: Option<i64>, error: &str) -> bool {
        let mut unreadable = self
            .unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = (generation, error.to_owned());
        unreadable.insert(key.clone(), found.clone()) != Some(found)
    }

    /// Forgets an ImCluster that is no more.
    fn forget(&self, key: &Key) {
        self.memories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        self.supervisors.forget(key);
        self.turns.forget(key);
        metrics::conditions(key, &[]);
        metrics::foreign(key, false);
        let _ = DRAINS.remove_label_values(&[key.namespace.as_str(), key.name.as_str()]);
    }
}
