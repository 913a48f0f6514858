//! Nodes that could not be told that a user's rooms have changed: as soon as they answer again, each is told that it has missed
//! something, and compares the lists of all its users.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use im_proto::v1::RoomsChangedRequest;
use prometheus::{IntGauge, register_int_gauge};
use tokio::time::Instant;

use crate::nodes::To;
use crate::service::Core;

/// How often those that are owed it are tried.
const EVERY: Duration = Duration::from_secs(1);
/// After so long each node has compared all lists of its own accord, or is gone.
const KEPT: Duration = Duration::from_secs(600);
/// Nodes that are remembered at most.
const MOST: usize = 4096;

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

/// See the module's top. Each node with the time of the last change that it was not told of.
#[derive(Debug, Default)]
pub(crate) struct Reminders(Mutex<HashMap<String, Instant>>);

impl Reminders {
    /// These nodes were not told of something.
    pub(crate) fn owe(&self, nodes: &[String]) {
        let mut owed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            if owed.len() < MOST || owed.contains_key(node) {
                owed.insert(node.clone(), Instant::now());
            }
        }
        OWED.set(owed.len() as i64);
    }

    /// All of them, without those that have become too old.
    fn owed(&self) -> HashMap<String, Instant> {
        let mut owed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        owed.retain(|_, since| since.elapsed() < KEPT);
        OWED.set(owed.len() as i64);
        owed.clone()
    }

    /// This node was told, of what it was owed at that time.
    fn paid(&self, node: &str, since: Instant) {
        let mut owed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if owed.get(node) == Some(&since) {
            owed.remove(node);
        }
        OWED.set(owed.len() as i64);
    }
}

/// Tells them, as long as there is a core.
pub(crate) async fn keep(core: Weak<Core>) {
    loop {
        tokio::time::sleep(EVERY.mul_f64(rand::random_range(0.8..1.0))).await;
        let Some(core) = core.upgrade() else { return };
        core.remind().await;
    }
}

impl Core {
    async fn remind(&self) {
        let mut owed = self.reminders.owed();
        if owed.is_empty() {
            return;
        }
        let known: Vec<String> = self.nodes.known().into_iter().map(|node| node.name).collect();
        owed.retain(|node, _| known.contains(node));
        if owed.is_empty() {
            return;
        }
        let to = To::Named(owed.keys().cloned().collect());
        let tally = self.nodes.rooms_changed(to, RoomsChangedRequest::default()).await;
        for (node, since) in owed.iter().filter(|(node, _)| !tally.failed.contains(node)) {
            tracing::info!(node, "told that it has missed changes of users' rooms");
            self.reminders.paid(node, *since);
        }
    }
}
