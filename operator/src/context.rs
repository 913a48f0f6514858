//! What everything in a leading operator shares.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use crate::api::Tier;
use crate::build;
use crate::controller::queue::Queue;
use crate::controller::status::Writer;
use crate::controller::turns::Turns;
use crate::kubernetes::calls::Gate;
use crate::kubernetes::events::Events;
use crate::kubernetes::key::Key;
use crate::kubernetes::stores::Stores;
use crate::settings::Settings;
use crate::tiers::connect::drains::{Asking, Readings};
use crate::tiers::metrics as figures;
use crate::tiers::supervisor::Keepers;

/// What everything in a leading operator shares.
pub struct Context {
    /// To the API server.
    pub client: Client,
    /// Whether this replica may change anything: the API server's objects, redis and etcd alike.
    pub gate: Gate,
    /// What the operator is told.
    pub settings: Settings,
    /// What the API server has told.
    pub stores: Stores,
    /// Visits to come.
    pub queue: Arc<Queue>,
    /// What connect pods say.
    pub readings: Readings,
    /// How they are asked.
    pub asking: Asking,
    /// What redis and etcd say, and who sees to them.
    pub keepers: Keepers,
    /// Tells people.
    pub events: Events,
    /// Which ImCluster is changed by another build of the operator.
    pub turns: Turns,
    /// Places for visits.
    pub places: Arc<Semaphore>,
    /// When it began to read.
    pub begun: Instant,
    ending: AtomicBool,
    memories: Mutex<HashMap<Key, Memory>>,
    unreadable: Mutex<HashMap<Key, (Option<i64>, String)>>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Context").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// What is remembered of an ImCluster from visit to visit. Losing it costs a call or two, never more.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Visits that failed in a row.
    pub failures: u32,
    /// When the report was last written.
    pub writer: Writer,
    /// Pods that ended though another was marked to go, as long as they are there.
    pub picked_otherwise: BTreeSet<String>,
}

impl Context {
    /// Of this replica.
    pub fn new(client: Client, gate: Gate, settings: Settings, replica: &str) -> Self {
        Self {
            gate,
            stores: Stores::new(&settings.watch_namespaces),
            queue: Arc::default(),
            readings: Readings::default(),
            asking: Asking::default(),
            keepers: Keepers::default(),
            events: Events::new(client.clone(), replica),
            turns: Turns::default(),
            places: Arc::new(Semaphore::new(settings.visits)),
            begun: Instant::now(),
            ending: AtomicBool::new(false),
            memories: Mutex::default(),
            unreadable: Mutex::default(),
            client,
            settings,
        }
    }

    /// A pod of redis or Sentinel by its full name: resolvers that find no such name ask no server outside of the cluster.
    pub fn pod_host(&self, key: &Key, tier: Tier, ordinal: i32) -> String {
        format!("{}.{}", build::pod_host(&key.name, &key.namespace, tier, ordinal), self.settings.cluster_domain)
    }

    /// Whether no further visit is to begin.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Begins no further visit and waits for those under way.
    pub async fn finish(&self, patience: Duration) {
        self.ending.store(true, Ordering::Relaxed);
        self.keepers.end();
        let all = u32::try_from(self.settings.visits).unwrap_or(u32::MAX);
        // The Lease must be given back within what is left.
        if timeout(patience.mul_f64(0.7), self.places.acquire_many(all)).await.is_err() {
            tracing::warn!("visits under way are cut short");
        }
    }

    /// What is remembered of an ImCluster.
    pub fn memory(&self, key: &Key) -> Memory {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned().unwrap_or_default()
    }

    /// Remembers.
    pub fn remember(&self, key: &Key, memory: Memory) {
        let mut memories = self.memories.lock().unwrap_or_else(PoisonError::into_inner);
        memories.insert(key.clone(), memory);
        let failing = memories.values().filter(|memory| memory.failures > 0).count();
        crate::metrics::BACKING_OFF.set(i64::try_from(failing).unwrap_or(i64::MAX));
    }

    /// Whether this was not said of an ImCluster last.
    pub fn is_new_unreadable(&self, key: &Key, generation: Option<i64>, error: &str) -> bool {
        let mut unreadable = self.unreadable.lock().unwrap_or_else(PoisonError::into_inner);
        let said = (generation, error.to_owned());
        unreadable.insert(key.clone(), said.clone()) != Some(said)
    }

    /// Forgets an ImCluster that is no more.
    pub fn forget(&self, key: &Key) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.keepers.forget(key);
        self.turns.forget(key);
        figures::conditions(key, &[]);
        figures::foreign(key, false);
        let _ = crate::metrics::DRAINS.remove_label_values(&[key.namespace.as_str(), key.name.as_str()]);
    }
}
