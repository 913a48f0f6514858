//! Who is connected where, in memory. An entry counts while its node's lease runs.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use im_wire::ids::{RoomId, UserId};

use crate::store::Presence;

/// How long after its lease has ended a node may come back to its connections.
const REMEMBERED: Duration = Duration::from_secs(600);

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
}

impl Pages {
    fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
        self.users.retain(|_, entries| {
            entries.retain(|entry| entry.node != node);
            !entries.is_empty()
        });
    }
}

/// See the module's top.
#[derive(Debug, Default)]
pub(super) struct PresenceBook(Mutex<Pages>);

impl PresenceBook {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beat(&self, node: &str, lease: Duration, connections: u64, online: Vec<(RoomId, u64)>) {
        let now = Instant::now();
        let mut pages = self.pages();
        let is_lost = |known: &Node| known.until + REMEMBERED < now;
        let lost: Vec<String> =
            pages.nodes.iter().filter(|(_, known)| is_lost(known)).map(|(name, _)| name.clone()).collect();
        lost.iter().for_each(|name| pages.forget(name));
        pages.nodes.insert(node.to_owned(), Node { until: now + lease, connections, online });
    }

    pub(super) fn gone(&self, node: &str) {
        self.pages().forget(node);
    }

    pub(super) fn nodes(&self) -> Vec<(String, u64)> {
        let now = Instant::now();
        let pages = self.pages();
        let living = pages.nodes.iter().filter(|(_, node)| node.until > now);
        let mut living: Vec<_> = living.map(|(name, node)| (name.clone(), node.connections)).collect();
        living.sort();
        living
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

    pub(super) fn disconnected(&self, user: &UserId, conn: &str) {
        let mut pages = self.pages();
        if let Some(entries) = pages.users.get_mut(user) {
            entries.retain(|entry| entry.conn != conn);
            if entries.is_empty() {
                pages.users.remove(user);
            }
        }
    }

    /// The user's connections on living nodes, the oldest first.
    pub(super) fn of(&self, user: &UserId) -> Vec<Presence> {
        let now = Instant::now();
        let pages = self.pages();
        let lives = |entry: &&Presence| pages.nodes.get(&entry.node).is_some_and(|node| node.until > now);
        let mut entries: Vec<_> = pages.users.get(user).into_iter().flatten().filter(lives).cloned().collect();
        entries.sort_by(|one, other| (one.since_ms, &one.conn).cmp(&(other.since_ms, &other.conn)));
        entries
    }
}
