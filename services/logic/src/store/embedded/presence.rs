//! Who is connected where, in memory. An entry counts while its node's lease runs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use im_wire::ids::{RoomId, UserId};

use crate::store::{Asserted, Counts, Ended, Presence, Stray};

/// How many leases after the end of its own what is known of a node is removed.
const REMEMBERED: u32 = 40;

#[derive(Debug)]
struct Node {
    until: Instant,
    connections: u64,
    /// Which state of its counts `online` is.
    state: u64,
    online: HashMap<RoomId, u64>,
}

#[derive(Debug, Default)]
struct Pages {
    nodes: HashMap<String, Node>,
    users: HashMap<UserId, Vec<Presence>>,
    /// Of each node: who is at which place, by place and connection.
    held: HashMap<String, BTreeMap<(u64, String), UserId>>,
}

impl Pages {
    fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
        self.held.remove(node);
        self.users.retain(|_, entries| {
            entries.retain(|entry| entry.node != node);
            !entries.is_empty()
        });
    }

    fn has(&self, wanted: &Presence) -> bool {
        self.users.get(&wanted.user).is_some_and(|entries| entries.iter().any(|entry| entry.conn == wanted.conn))
    }

    fn enter(&mut self, presence: Presence) {
        if presence.place > 0 {
            let held = self.held.entry(presence.node.clone()).or_default();
            held.insert((presence.place, presence.conn.clone()), presence.user.clone());
        }
        let entries = self.users.entry(presence.user.clone()).or_default();
        entries.retain(|entry| entry.conn != presence.conn);
        entries.push(presence);
    }
}

/// See the module's top.
#[derive(Debug, Default)]
pub(super) struct PresenceBook(Mutex<Pages>);

impl PresenceBook {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beat(&self, node: &str, lease: Duration, connections: u64, counts: Counts) -> bool {
        let now = Instant::now();
        let mut pages = self.pages();
        let is_lost = |known: &Node| known.until + lease * REMEMBERED < now;
        let lost: Vec<String> =
            pages.nodes.iter().filter(|(_, known)| is_lost(known)).map(|(name, _)| name.clone()).collect();
        lost.iter().for_each(|name| pages.forget(name));
        let fresh = || Node { until: now, connections: 0, state: 0, online: HashMap::new() };
        let known = pages.nodes.entry(node.to_owned()).or_insert_with(fresh);
        (known.until, known.connections) = (now + lease, connections);
        if counts.since == 0 {
            known.online.clear();
        } else if counts.since != known.state {
            return false;
        }
        known.state = counts.state;
        for (room, count) in counts.changed {
            match count {
                0 => known.online.remove(&room),
                count => known.online.insert(room, count),
            };
        }
        true
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
        self.pages().enter(presence);
    }

    /// Whose it was, as far as that is known.
    pub(super) fn disconnected(&self, ended: Ended) -> Option<UserId> {
        let Ended { conn, user, node, place, .. } = ended;
        let mut pages = self.pages();
        let noted = user.as_ref().and_then(|user| pages.users.get(user)).into_iter().flatten();
        let place = noted.filter(|entry| entry.conn == conn).map(|entry| entry.place).next().unwrap_or(place);
        let held = pages.held.get_mut(&node).and_then(|held| held.remove(&(place, conn.clone())));
        let user = user.or(held)?;
        if let Some(entries) = pages.users.get_mut(&user) {
            entries.retain(|entry| entry.conn != conn);
            if entries.is_empty() {
                pages.users.remove(&user);
            }
        }
        Some(user)
    }

    pub(super) fn assert(&self, node: &str, places: Range<u64>, named: Vec<Presence>) -> Asserted {
        let mut pages = self.pages();
        let held = pages.held.get(node).into_iter();
        let held = held.flat_map(|held| held.range((places.start, String::new())..(places.end, String::new())));
        let names: HashSet<&str> = named.iter().map(|one| one.conn.as_str()).collect();
        let strays = held.filter(|((_, conn), _)| !names.contains(conn.as_str()));
        let strays: Vec<_> = strays.map(|((_, conn), user)| Stray { conn: conn.clone(), user: user.clone() }).collect();
        let mut restored = Vec::new();
        for one in named {
            if !pages.has(&one) {
                restored.push(Stray { conn: one.conn.clone(), user: one.user.clone() });
                pages.enter(one);
            }
        }
        Asserted { restored, strays }
    }

    /// The user's connections on living nodes, the oldest first.
    pub(super) fn of(&self, user: &UserId) -> Vec<Presence> {
        let now = Instant::now();
        let pages = self.pages();
        let lives = |entry: &&Presence| pages.nodes.get(&entry.node).is_some_and(|node| node.until > now);
        let entries = pages.users.get(user).into_iter().flatten().filter(lives);
        let mut entries: Vec<_> = entries.map(|entry| Presence { place: 0, ..entry.clone() }).collect();
        entries.sort_by(|one, other| (one.since_ms, &one.conn).cmp(&(other.since_ms, &other.conn)));
        entries
    }
}
