//! Nodes that could not be told that a user's rooms have changed: as soon as they answer again, each is told that it has missed
//! something, and compares the lists of all its users.

pub(crate) mod owed;

use std::sync::Weak;
use std::time::Duration;

use im_proto::v1::RoomsChangedRequest;

use crate::core::Core;
use crate::nodes::To;

/// How often those that are owed it are tried.
const EVERY: Duration = Duration::from_secs(1);

/// Tells them, as long as there is a core.
pub(crate) async fn run(core: Weak<Core>) {
    loop {
        tokio::time::sleep(EVERY.mul_f64(rand::random_range(0.8..1.0))).await;
        let Some(core) = core.upgrade() else { return };
        core.remind().await;
    }
}

impl Core {
    async fn remind(&self) {
        let mut owed = self.owed.all();
        if owed.is_empty() {
            return;
        }
        let known: Vec<String> = self
            .nodes
            .known()
            .into_iter()
            .map(|node| node.name)
            .collect();
        owed.retain(|node, _| known.contains(node));
        if owed.is_empty() {
            return;
        }
        let to = To::Named(owed.keys().cloned().collect());
        let tally = self
            .nodes
            .rooms_changed(to, RoomsChangedRequest::default())
            .await;
        for (node, since) in owed.iter().filter(|(node, _)| !tally.failed.contains(node)) {
            tracing::info!(
                node,
                "notified a node that it missed changes of users' rooms"
            );
            self.owed.paid(node, *since);
        }
    }
}
