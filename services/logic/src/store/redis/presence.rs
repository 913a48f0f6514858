//! Who is online: connections per user, counted only while the lease of their node runs.
//!
//! redis' own clock ends leases. A connection whose node's lease has ended is not shown at once, and removed only when
//! the node has been silent for long: a node that could not beat for a while comes back with its connections.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use im_redis_bus::{Call, Lane, Slot, script};
use im_wire::ids::{RoomId, UserId};
use redis::{Cmd, Value};

use super::Shared;
use super::reply::{self, Fields};
use crate::store::{Error, Presence, Result};

/// How long after its lease has ended a node may come back to its connections.
const REMEMBERED: Duration = Duration::from_secs(600);

/// The state of the nodes.
pub(super) struct Leases {
    /// Whose lease runs, with how many connections.
    pub(super) living: Vec<(String, u64)>,
    /// Whose lease has ended not long ago.
    silent: HashSet<String>,
}

impl Shared {
    pub(super) async fn node_beat(
        &self,
        node: &str,
        lease: Duration,
        connections: u64,
        online: Vec<(RoomId, u64)>,
    ) -> Result<()> {
        let keys = self.client.keys();
        let mut command = script::beat().call(3);
        command.arg(keys.node_leases()).arg(keys.node_connections()).arg(keys.node_online(node));
        command.arg(node).arg(lease.as_millis().max(1) as u64).arg(connections).arg(REMEMBERED.as_millis() as u64);
        for (room, count) in online {
            command.arg(room.as_str()).arg(count);
        }
        let call = Call::script(self.nodes_slot(), script::beat(), command).repeatable();
        reply::value(self.client.call(Lane::Any, call).await).map(drop)
    }

    pub(super) async fn node_gone(&self, node: &str) -> Result<()> {
        let keys = self.client.keys();
        let mut commands = [redis::cmd("ZREM"), redis::cmd("HDEL"), redis::cmd("DEL")];
        commands[0].arg(keys.node_leases()).arg(node);
        commands[1].arg(keys.node_connections()).arg(node);
        commands[2].arg(keys.node_online(node));
        let calls = commands.map(|command| Call::new(self.nodes_slot(), command).repeatable());
        let outcomes = self.client.calls(Lane::Any, calls.into()).await;
        outcomes.into_iter().try_for_each(|outcome| reply::value(outcome).map(drop))
    }

    pub(super) async fn leases(&self) -> Result<Leases> {
        let keys = self.client.keys();
        let mut command = script::nodes().call(2);
        command.arg(keys.node_leases()).arg(keys.node_connections());
        let call = Call::script(self.nodes_slot(), script::nodes(), command).repeatable();
        let mut fields = Fields::of(reply::value(self.client.call(Lane::Any, call).await)?)?;
        let count = fields.take::<usize>()?;
        let living = (0..count).map(|_| Ok((fields.take()?, fields.take()?))).collect::<Result<_>>()?;
        let mut silent = HashSet::new();
        while !fields.is_empty() {
            silent.insert(fields.take()?);
        }
        Ok(Leases { living, silent })
    }

    pub(super) async fn online(&self, rooms: &[RoomId]) -> Result<Vec<u64>> {
        if rooms.is_empty() {
            return Ok(Vec::new());
        }
        let counts = self.of_living(|key| {
            let mut command = redis::cmd("HMGET");
            command.arg(key);
            for room in rooms {
                command.arg(room.as_str());
            }
            command
        });
        let mut totals = vec![0; rooms.len()];
        for counted in counts.await? {
            for (total, count) in totals.iter_mut().zip(reply::parsed::<Vec<Option<u64>>>(counted)?) {
                *total += count.unwrap_or(0);
            }
        }
        Ok(totals)
    }

    pub(super) async fn online_rooms(&self) -> Result<Vec<(RoomId, u64)>> {
        let counts = self.of_living(|key| {
            let mut command = redis::cmd("HGETALL");
            command.arg(key);
            command
        });
        let mut totals: HashMap<RoomId, u64> = HashMap::new();
        for counted in counts.await? {
            for (room, count) in reply::parsed::<HashMap<String, u64>>(counted)? {
                let room = RoomId::known(room).map_err(|bad| Error::Corrupt(bad.to_string()))?;
                *totals.entry(room).or_default() += count;
            }
        }
        let mut totals: Vec<_> = totals.into_iter().filter(|(_, count)| *count > 0).collect();
        totals.sort();
        Ok(totals)
    }

    /// A command on what each living node counts.
    async fn of_living(&self, command: impl Fn(String) -> Cmd) -> Result<Vec<Value>> {
        let living = self.leases().await?.living;
        let calls = living.iter().map(|(node, _)| {
            let command = command(self.client.keys().node_online(node));
            Call::new(self.nodes_slot(), command).repeatable()
        });
        self.client.calls(Lane::Any, calls.collect()).await.into_iter().map(reply::value).collect()
    }

    pub(super) async fn connected(&self, presence: Presence) -> Result<()> {
        let key = self.client.keys().user_presence(&presence.user);
        let Presence { user: _, device, conn, node, since_ms } = presence;
        let mut command = redis::cmd("HSET");
        command.arg(&key).arg(conn).arg(format!("{since_ms}\0{node}\0{device}"));
        let call = Call::new(Slot::of(&key), command).repeatable();
        reply::value(self.client.call(Lane::Any, call).await).map(drop)
    }

    pub(super) async fn disconnected(&self, user: &UserId, conn: &str, now_ms: u64) -> Result<()> {
        let (key, seen) = (self.client.keys().user_presence(user), self.client.keys().user_seen(user));
        let mut forget = redis::cmd("HDEL");
        forget.arg(&key).arg(conn);
        let mut note = script::seen().call(1);
        note.arg(&seen).arg(now_ms);
        let forget = Call::new(Slot::of(&key), forget).repeatable();
        let note = Call::script(Slot::of(&seen), script::seen(), note).repeatable();
        let outcomes = self.client.calls(Lane::Any, vec![forget, note]).await;
        outcomes.into_iter().try_for_each(|outcome| reply::value(outcome).map(drop))
    }

    pub(super) async fn presence(&self, users: &[UserId]) -> Result<Vec<(Vec<Presence>, u64)>> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let leases = self.leases().await?;
        let living: HashSet<&str> = leases.living.iter().map(|(node, _)| node.as_str()).collect();
        let calls = users.iter().flat_map(|user| {
            let (key, seen) = (self.client.keys().user_presence(user), self.client.keys().user_seen(user));
            let (mut all, mut last) = (redis::cmd("HGETALL"), redis::cmd("GET"));
            all.arg(&key);
            last.arg(&seen);
            [Call::new(Slot::of(&key), all).repeatable(), Call::new(Slot::of(&seen), last).repeatable()]
        });
        let mut replies = self.client.calls(Lane::Any, calls.collect()).await.into_iter();
        let mut next =
            || replies.next().unwrap_or_else(|| Err(im_redis_bus::Error::Lost("too few replies".to_owned())));
        let mut found = Vec::with_capacity(users.len());
        for user in users {
            let all: HashMap<String, String> = reply::read(next())?;
            let seen: Option<u64> = reply::read(next())?;
            let (mut shown, hidden): (Vec<Presence>, Vec<Presence>) = all
                .into_iter()
                .map(|(conn, text)| entry(user, conn, &text))
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .partition(|one| living.contains(one.node.as_str()));
            shown.sort_by(|one, other| (one.since_ms, &one.conn).cmp(&(other.since_ms, &other.conn)));
            self.forget(user, hidden.iter().filter(|one| !leases.silent.contains(&one.node))).await;
            found.push((shown, seen.unwrap_or(0)));
        }
        Ok(found)
    }

    /// Removes connections of nodes that are long gone. Nothing rests on it: it is tried again when they are next seen.
    async fn forget(&self, user: &UserId, gone: impl Iterator<Item = &Presence>) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        // A connection may be noted before its node's first beat.
        let old = now.saturating_sub(REMEMBERED).as_millis() as u64;
        let key = self.client.keys().user_presence(user);
        let mut command = redis::cmd("HDEL");
        command.arg(&key);
        let mut any = false;
        for one in gone.filter(|one| one.since_ms < old) {
            command.arg(&one.conn);
            any = true;
        }
        if any && let Err(error) = self.client.call(Lane::Any, Call::new(Slot::of(&key), command)).await {
            tracing::debug!(%user, %error, "connections of lost nodes stay for now");
        }
    }

    fn nodes_slot(&self) -> Slot {
        Slot::of(&self.client.keys().node_leases())
    }
}

/// "since NUL node NUL device".
fn entry(user: &UserId, conn: String, text: &str) -> Result<Presence> {
    let parts = text.splitn(3, '\0').collect::<Vec<_>>();
    match parts.as_slice() {
        [since, node, device] if since.parse::<u64>().is_ok() => Ok(Presence {
            user: user.clone(),
            device: (*device).to_owned(),
            conn,
            node: (*node).to_owned(),
            since_ms: since.parse().unwrap_or(0),
        }),
        _ => Err(Error::Corrupt(format!("the connection {conn:?} of {user}"))),
    }
}
