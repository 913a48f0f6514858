//! The nodes: their leases, which redis' own clock ends, and what they count.
//!
//! A node whose lease has ended shows nothing at once. When it has been silent for long it is lost: what it has left behind
//! is removed, a part with every beat of the others. Should it come back, it asserts what it has.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use async_trait::async_trait;
use im_redis_bus::{Call, Lane, Slot, script};
use im_wire::ids::RoomId;
use redis::Cmd;

use super::reply::{self, Fields};
use super::{RedisStore, Shared};
use crate::store::{Counts, Error, Leases, Result};

/// How many leases after the end of its own a node is lost.
const REMEMBERED: u32 = 40;
/// How many rooms are read at once.
const STEP: usize = 1_000;

/// The state of the nodes.
pub(super) struct NodeStates {
    /// Whose lease runs, with how many connections.
    pub(super) living: Vec<(String, u64)>,
    /// Whose lease has ended not long ago.
    pub(super) silent: HashSet<String>,
}

#[async_trait]
impl Leases for RedisStore {
    async fn node_beat(
        &self,
        node: &str,
        lease: Duration,
        connections: u64,
        counts: Counts,
    ) -> Result<bool> {
        let keys = self.shared.client.keys();
        let mut command = script::beat().call(5);
        command
            .arg(keys.node_leases())
            .arg(keys.node_connections())
            .arg(keys.node_online(node));
        command.arg(keys.node_states()).arg(keys.nodes_lost());
        command
            .arg(node)
            .arg(milliseconds(lease))
            .arg(connections)
            .arg(milliseconds(lease * REMEMBERED));
        command.arg(counts.since).arg(counts.state);
        for (room, count) in counts.changed {
            command.arg(room.as_str()).arg(count);
        }
        let call = Call::script(self.shared.nodes_slot(), script::beat(), command).repeatable();
        let (taken, lost): (bool, String) =
            reply::read(self.shared.client.call(Lane::Any, call).await)?;
        if !lost.is_empty()
            && let Err(error) = self.shared.clear_away(&lost).await
        {
            tracing::debug!(node = lost, %error, "failed to clean up after a lost node, will retry");
        }
        Ok(taken)
    }

    async fn node_gone(&self, node: &str) -> Result<()> {
        let keys = self.shared.client.keys();
        let mut commands = ["ZREM", "HDEL", "HDEL", "UNLINK", "SADD"].map(redis::cmd);
        commands[0].arg(keys.node_leases()).arg(node);
        commands[1].arg(keys.node_connections()).arg(node);
        commands[2].arg(keys.node_states()).arg(node);
        commands[3].arg(keys.node_online(node));
        commands[4].arg(keys.nodes_lost()).arg(node);
        self.shared.of_nodes(commands).await
    }

    async fn nodes(&self) -> Result<Vec<(String, u64)>> {
        Ok(self.shared.leases().await?.living)
    }

    async fn online(&self, rooms: &[RoomId]) -> Result<Vec<u64>> {
        if rooms.is_empty() {
            return Ok(Vec::new());
        }
        let living = self.shared.leases().await?.living;
        let calls = living.iter().map(|(node, _)| {
            let mut command = redis::cmd("HMGET");
            command.arg(self.shared.client.keys().node_online(node));
            for room in rooms {
                command.arg(room.as_str());
            }
            Call::new(self.shared.nodes_slot(), command).repeatable()
        });
        let counts = self.shared.client.calls(Lane::Any, calls.collect()).await;
        let mut totals = vec![0; rooms.len()];
        for counted in counts {
            for (total, count) in totals
                .iter_mut()
                .zip(reply::read::<Vec<Option<u64>>>(counted)?)
            {
                *total += count.unwrap_or(0);
            }
        }
        Ok(totals)
    }

    async fn online_rooms(&self) -> Result<Vec<(RoomId, u64)>> {
        let mut totals: HashMap<RoomId, u64> = HashMap::new();
        for (node, _) in self.shared.leases().await?.living {
            for (room, count) in self.shared.counts_of(&node).await? {
                let room = RoomId::known(room).map_err(|bad| Error::Corrupt(bad.to_string()))?;
                *totals.entry(room).or_default() += count;
            }
        }
        let mut totals: Vec<_> = totals.into_iter().filter(|(_, count)| *count > 0).collect();
        totals.sort();
        Ok(totals)
    }
}

impl Shared {
    /// A part of what a lost node has left behind; another beat takes the next.
    async fn clear_away(&self, node: &str) -> Result<()> {
        if !self.sweep(node).await? {
            return Ok(());
        }
        let keys = self.client.keys();
        let mut commands = [redis::cmd("UNLINK"), redis::cmd("SREM")];
        commands[0].arg(keys.node_online(node));
        commands[1].arg(keys.nodes_lost()).arg(node);
        self.of_nodes(commands).await
    }

    async fn of_nodes(&self, commands: impl IntoIterator<Item = Cmd>) -> Result<()> {
        self.all(
            commands
                .into_iter()
                .map(|command| Call::new(self.nodes_slot(), command).repeatable())
                .collect(),
        )
        .await
    }

    pub(super) async fn leases(&self) -> Result<NodeStates> {
        let keys = self.client.keys();
        let mut command = script::nodes().call(2);
        command.arg(keys.node_leases()).arg(keys.node_connections());
        let call = Call::script(self.nodes_slot(), script::nodes(), command).repeatable();
        let mut fields = Fields::of(reply::value(self.client.call(Lane::Any, call).await)?)?;
        let count = fields.take::<usize>()?;
        let living = (0..count)
            .map(|_| Ok((fields.take()?, fields.take()?)))
            .collect::<Result<_>>()?;
        let mut silent = HashSet::new();
        while !fields.is_empty() {
            silent.insert(fields.take()?);
        }
        Ok(NodeStates { living, silent })
    }

    /// In steps: a node may have very many rooms, and redis does nothing else meanwhile.
    async fn counts_of(&self, node: &str) -> Result<HashMap<String, u64>> {
        let key = self.client.keys().node_online(node);
        let mut counts = HashMap::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(&key).arg(&cursor).arg("COUNT").arg(STEP);
            let call = Call::new(self.nodes_slot(), command).repeatable();
            let (next, step): (String, HashMap<String, u64>) =
                reply::read(self.client.call(Lane::Any, call).await)?;
            counts.extend(step);
            if next == "0" {
                return Ok(counts);
            }
            cursor = next;
        }
    }

    fn nodes_slot(&self) -> Slot {
        Slot::of(&self.client.keys().node_leases())
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}
