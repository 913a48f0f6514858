//! Who is online, and on which node.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use im_wire::ids::{RoomId, UserId};

use super::error::Result;

/// One connection of one device, as presence knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Which user.
    pub user: UserId,
    /// Which of their devices.
    pub device: String,
    /// The connection's id.
    pub conn: String,
    /// The connect process that holds it.
    pub node: String,
    /// Since when, unix milliseconds.
    pub since_ms: u64,
    /// Where the node keeps it; 0: the node does not assert what it has, and in what the store answers.
    pub place: u64,
}

/// A connection that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The connection's id.
    pub conn: String,
    /// Whose it was; `None`: whoever the store knows at this place of the node.
    pub user: Option<UserId>,
    /// The connect process that held it.
    pub node: String,
    /// Where the node kept it; 0: unknown.
    pub place: u64,
    /// When it ended, unix milliseconds.
    pub at_ms: u64,
}

/// A connection whose presence differs from what its node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// The connection's id.
    pub conn: String,
    /// Whose.
    pub user: UserId,
}

/// What came of a node's naming its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asserted {
    /// Were missing and are there now.
    pub restored: Vec<Stray>,
    /// Are there at these places and were not named.
    pub strays: Vec<Stray>,
}

/// How a node's counts have changed. States are numbers of the node's own; from 0: what was counted before is void.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// The state that the change is from.
    pub since: u64,
    /// The state that it leads to.
    pub state: u64,
    /// Rooms with how many are online in them on the node; 0: nobody any more.
    pub changed: Vec<(RoomId, u64)>,
}

/// Where users' connections are noted.
#[async_trait]
pub trait Connections: Send + Sync + 'static {
    /// A connection has begun.
    async fn connected(&self, presence: Presence) -> Result<()>;
    /// A connection has ended; the time is kept as the user's last seen.
    async fn disconnected(&self, ended: Ended) -> Result<()>;
    /// A node names all connections that it has at these places. Changes nothing where they are as named.
    async fn assert_presence(
        &self,
        node: &str,
        places: Range<u64>,
        named: Vec<Presence>,
    ) -> Result<Asserted>;
    /// The users' connections on living nodes, and when they were last seen (unix milliseconds, 0: never), in order.
    async fn presence(&self, users: &[UserId]) -> Result<Vec<(Vec<Presence>, u64)>>;
}

/// Where nodes say that they live, and how many are online there.
#[async_trait]
pub trait Leases: Send + Sync + 'static {
    /// A node lives for `lease` more, with so many connections and so many online per room. `false`: the store's counts of
    /// the node are not in the state that the change is from, and stay as they are.
    async fn node_beat(
        &self,
        node: &str,
        lease: Duration,
        connections: u64,
        counts: Counts,
    ) -> Result<bool>;
    /// A node has ended: its presence is void at once. Asked also after the node's last connection has ended.
    async fn node_gone(&self, node: &str) -> Result<()>;
    /// The nodes whose lease runs, with their connections.
    async fn nodes(&self) -> Result<Vec<(String, u64)>>;
    /// How many are online in these rooms over all living nodes, in their order.
    async fn online(&self, rooms: &[RoomId]) -> Result<Vec<u64>>;
    /// Every room some living node counts, with how many are online in it.
    async fn online_rooms(&self) -> Result<Vec<(RoomId, u64)>>;
}
