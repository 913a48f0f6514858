//! Who is connected where, in memory. An entry counts while its node's lease runs.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use im_wire::ids::{RoomId, UserId};
use redb::ReadTransaction;

use super::tables::SEEN;
use super::write::Write;
use super::{DbResult, EmbeddedStore};
use crate::store::{Asserted, Connections, Counts, Ended, Leases, Presence, Result, Stray};

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
struct Inner {
    nodes: HashMap<String, Node>,
    users: HashMap<UserId, Vec<Presence>>,
    /// Of each node: who is at which place, by place and connection.
    held: HashMap<String, BTreeMap<(u64, String), UserId>>,
}

impl Inner {
    fn forget(&mut self, node: &str) {
        self.nodes.remove(node);
        self.held.remove(node);
        self.users.retain(|_, entries| {
            entries.retain(|entry| entry.node != node);
            !entries.is_empty()
        });
    }

    fn has(&self, wanted: &Presence) -> bool {
        self.users
            .get(&wanted.user)
            .is_some_and(|entries| entries.iter().any(|entry| entry.conn == wanted.conn))
    }

    fn enter(&mut self, presence: Presence) {
        if presence.place > 0 {
            let held = self.held.entry(presence.node.clone()).or_default();
            held.insert(
                (presence.place, presence.conn.clone()),
                presence.user.clone(),
            );
        }
        let entries = self.users.entry(presence.user.clone()).or_default();
        entries.retain(|entry| entry.conn != presence.conn);
        entries.push(presence);
    }
}

/// See the module's top.
#[derive(Debug, Default)]
pub(super) struct PresenceRegistry(Mutex<Inner>);

impl PresenceRegistry {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn beat(
        &self,
        node: &str,
        lease: Duration,
        connections: u64,
        counts: Counts,
    ) -> bool {
        let now = Instant::now();
        let mut inner = self.inner();
        let is_lost = |known: &Node| known.until + lease * REMEMBERED < now;
        let lost: Vec<String> = inner
            .nodes
            .iter()
            .filter(|(_, known)| is_lost(known))
            .map(|(name, _)| name.clone())
            .collect();
        lost.iter().for_each(|name| inner.forget(name));
        let fresh = || Node {
            until: now,
            connections: 0,
            state: 0,
            online: HashMap::new(),
        };
        let known = inner.nodes.entry(node.to_owned()).or_insert_with(fresh);
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
        self.inner().forget(node);
    }

    pub(super) fn nodes(&self) -> Vec<(String, u64)> {
        let now = Instant::now();
        let inner = self.inner();
        let living = inner.nodes.iter().filter(|(_, node)| node.until > now);
        let mut living: Vec<_> = living
            .map(|(name, node)| (name.clone(), node.connections))
            .collect();
        living.sort();
        living
    }

    pub(super) fn online(&self) -> HashMap<RoomId, u64> {
        let now = Instant::now();
        let mut all = HashMap::new();
        for node in self.inner().nodes.values().filter(|node| node.until > now) {
            for (room, count) in &node.online {
                *all.entry(room.clone()).or_insert(0) += count;
            }
        }
        all
    }

    pub(super) fn connected(&self, presence: Presence) {
        self.inner().enter(presence);
    }

    /// Whose it was, as far as that is known.
    pub(super) fn disconnected(&self, ended: Ended) -> Option<UserId> {
        let Ended {
            conn,
            user,
            node,
            place,
            ..
        } = ended;
        let mut inner = self.inner();
        let noted = user
            .as_ref()
            .and_then(|user| inner.users.get(user))
            .into_iter()
            .flatten();
        let place = noted
            .filter(|entry| entry.conn == conn)
            .map(|entry| entry.place)
            .next()
            .unwrap_or(place);
        let held = inner
            .held
            .get_mut(&node)
            .and_then(|held| held.remove(&(place, conn.clone())));
        let user = user.or(held)?;
        if let Some(entries) = inner.users.get_mut(&user) {
            entries.retain(|entry| entry.conn != conn);
            if entries.is_empty() {
                inner.users.remove(&user);
            }
        }
        Some(user)
    }

    pub(super) fn assert(&self, node: &str, places: Range<u64>, named: Vec<Presence>) -> Asserted {
        let mut inner = self.inner();
        let held = inner.held.get(node).into_iter();
        let held = held.flat_map(|held| {
            held.range((places.start, String::new())..(places.end, String::new()))
        });
        let names: HashSet<&str> = named.iter().map(|one| one.conn.as_str()).collect();
        let strays = held.filter(|((_, conn), _)| !names.contains(conn.as_str()));
        let strays: Vec<_> = strays
            .map(|((_, conn), user)| Stray {
                conn: conn.clone(),
                user: user.clone(),
            })
            .collect();
        let mut restored = Vec::new();
        for one in named {
            if !inner.has(&one) {
                restored.push(Stray {
                    conn: one.conn.clone(),
                    user: one.user.clone(),
                });
                inner.enter(one);
            }
        }
        Asserted { restored, strays }
    }

    /// The user's connections on living nodes, the oldest first.
    pub(super) fn of(&self, user: &UserId) -> Vec<Presence> {
        let now = Instant::now();
        let inner = self.inner();
        let lives = |entry: &&Presence| {
            inner
                .nodes
                .get(&entry.node)
                .is_some_and(|node| node.until > now)
        };
        let entries = inner.users.get(user).into_iter().flatten().filter(lives);
        let mut entries: Vec<_> = entries
            .map(|entry| Presence {
                place: 0,
                ..entry.clone()
            })
            .collect();
        entries.sort_by(|one, other| (one.since_ms, &one.conn).cmp(&(other.since_ms, &other.conn)));
        entries
    }
}

#[async_trait]
impl Connections for EmbeddedStore {
    async fn connected(&self, presence: Presence) -> Result<()> {
        self.presence.connected(presence);
        Ok(())
    }

    async fn disconnected(&self, ended: Ended) -> Result<()> {
        let at_ms = ended.at_ms;
        match self.presence.disconnected(ended) {
            Some(user) => self.write(|done| Write::Seen { user, at_ms, done }).await,
            None => Ok(()),
        }
    }

    async fn assert_presence(
        &self,
        node: &str,
        places: Range<u64>,
        named: Vec<Presence>,
    ) -> Result<Asserted> {
        Ok(self.presence.assert(node, places, named))
    }

    async fn presence(&self, users: &[UserId]) -> Result<Vec<(Vec<Presence>, u64)>> {
        let asked = users.to_vec();
        let seen = self.read(move |snapshot| seen(snapshot, &asked)).await?;
        Ok(users
            .iter()
            .map(|user| self.presence.of(user))
            .zip(seen)
            .collect())
    }
}

#[async_trait]
impl Leases for EmbeddedStore {
    async fn node_beat(
        &self,
        node: &str,
        lease: Duration,
        connections: u64,
        counts: Counts,
    ) -> Result<bool> {
        Ok(self.presence.beat(node, lease, connections, counts))
    }

    async fn node_gone(&self, node: &str) -> Result<()> {
        self.presence.gone(node);
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<(String, u64)>> {
        Ok(self.presence.nodes())
    }

    async fn online(&self, rooms: &[RoomId]) -> Result<Vec<u64>> {
        let all = self.presence.online();
        Ok(rooms
            .iter()
            .map(|room| all.get(room).copied().unwrap_or(0))
            .collect())
    }

    async fn online_rooms(&self) -> Result<Vec<(RoomId, u64)>> {
        let mut rooms: Vec<_> = self
            .presence
            .online()
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .collect();
        rooms.sort();
        Ok(rooms)
    }
}

/// When these users were last seen, in their order; 0: never.
fn seen(snapshot: &ReadTransaction, users: &[UserId]) -> DbResult<Vec<u64>> {
    let table = snapshot.open_table(SEEN)?;
    users
        .iter()
        .map(|user| Ok(table.get(user.as_str())?.map_or(0, |row| row.value())))
        .collect()
}
