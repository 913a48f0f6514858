//! Which nodes are owed a reminder.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use prometheus::{IntGauge, register_int_gauge};
use tokio::time::Instant;

/// After so long each node has compared all lists of its own accord, or is gone.
const KEPT: Duration = Duration::from_secs(600);
/// Nodes that are remembered at most.
const MAX_NODES: usize = 4096;

static OWED: LazyLock<IntGauge> = LazyLock::new(|| {
    register_int_gauge!(
        "im_logic_nodes_owed",
        "connect processes that were not told of a change of somebody's rooms, and are to be once they answer."
    )
    .expect("registered once")
});

/// So that a scrape shows zero instead of nothing.
pub(crate) fn declare_metrics() {
    LazyLock::force(&OWED);
}

/// Each node with the time of the last change that it was not told of.
#[derive(Debug, Default)]
pub(crate) struct Owed(Mutex<HashMap<String, Instant>>);

impl Owed {
    /// These nodes were not told of something.
    pub(crate) fn add(&self, nodes: &[String]) {
        let mut owed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            if owed.len() < MAX_NODES || owed.contains_key(node) {
                owed.insert(node.clone(), Instant::now());
            }
        }
        OWED.set(owed.len() as i64);
    }

    /// All of them, without those that have become too old.
    pub(super) fn all(&self) -> HashMap<String, Instant> {
        let mut owed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        owed.retain(|_, since| since.elapsed() < KEPT);
        OWED.set(owed.len() as i64);
        owed.clone()
    }

    /// This node was told, of what it was owed at that time.
    pub(super) fn paid(&self, node: &str, since: Instant) {
        let mut owed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if owed.get(node) == Some(&since) {
            owed.remove(node);
        }
        OWED.set(owed.len() as i64);
    }
}
