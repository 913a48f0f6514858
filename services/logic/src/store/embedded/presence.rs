//! Who is connected where, in memory. An entry counts while its node's lease runs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use im_wire::ids::{RoomId, UserId};

use crate::store::Presence;

/// Users whose last time is remembered; beyond it all are forgotten.
const SEEN: usize = 1_000_000;

#[derive(Debug)]
struct Node {
    until: Instant,
    connections: u64,
    online: Vec<(RoomId, u64)>,
}

#[derive(Debug, Default)]
struct Pages {
    nodes: HashMap<String, Node>,
    users: HashMap<UserId, Vec<Presence>>,
    seen: HashMap<UserId, u64>,
}

/// See the module's top.
#[derive(Debug, Default)]
pub(super) struct PresenceBook(Mutex<Pages>);

impl PresenceBook {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beat(&self, node: &str, lease: Duration, connections: u64, online: Vec<(RoomId, u64)>) {
        let node_state = Node { until: Instant::now() + lease, connections, online };
        let mut pages = self.pages();
        pages.nodes.insert(node.to_owned(), node_state);
    }

    pub(super) fn gone(&self, node: &str) {
        let mut pages = self.pages();
        pages.nodes.remove(node);
        pages.users.retain(|_, entries| {
            entries.retain(|entry| entry.node != node);
            !entries.is_empty()
        });
    }

    pub(super) fn nodes(&self) -> Vec<(String, u64)> {
        let now = Instant::now();
        let pages = self.pages();
        let living = pages.nodes.iter().filter(|(_, node)| node.until > now);
        living.map(|(name, node)| (name.clone(), node.connections)).collect()
    }

    pub(super) fn online(&self) -> HashMap<RoomId, u64> {
        let now = Instant::now();
        let mut all = HashMap::new();
        for node in self.pages().nodes.values().filter(|node| node.until > now) {
            for (room, count) in &node.online {
                *all.entry(room.clone()).or_insert(0) += count;
            }
        }
        all
    }

    pub(super) fn connected(&self, presence: Presence) {
        let mut pages = self.pages();
        let entries = pages.users.entry(presence.user.clone()).or_default();
        entries.retain(|entry| entry.conn != presence.conn);
        entries.push(presence);
    }

    pub(super) fn disconnected(&self, user: &UserId, conn: &str, now_ms: u64) {
        let mut pages = self.pages();
        if let Some(entries) = pages.users.get_mut(user) {
            entries.retain(|entry| entry.conn != conn);
            if entries.is_empty() {
                pages.users.remove(user);
            }
        }
        if pages.seen.len() >= SEEN {
            pages.seen.clear();
        }
        pages.seen.insert(user.clone(), now_ms);
    }

    pub(super) fn of(&self, user: &UserId) -> (Vec<Presence>, u64) {
        let now = Instant::now();
        let pages = self.pages();
        let lives = |entry: &&Presence| pages.nodes.get(&entry.node).is_some_and(|node| node.until > now);
        let entries = pages.users.get(user).into_iter().flatten().filter(lives).cloned().collect();
        (entries, pages.seen.get(user).copied().unwrap_or(0))
    }
}
