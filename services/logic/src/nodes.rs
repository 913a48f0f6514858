//! The connect processes, as logic addresses them: what goes to a user, a device or everyone, and not to a room.

use async_trait::async_trait;
use im_proto::v1::{KickRequest, PushRequest, RoomsChangedRequest};

/// Which nodes a request goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// Every node that is known.
    All,
    /// The nodes of these names. One that is not known (it has just ended, its presence not yet) counts as failed.
    Named(Vec<String>),
}

/// What came of a request to nodes. Delivery is at most once: what a failed node would have done is not made up for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// The connections that were reached, over all nodes that answered.
    pub connections: u64,
    /// The nodes that did not answer in time, or are not known.
    pub failed: Vec<String>,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.connections += other.connections;
        self.failed.extend(other.failed);
    }
}

/// What is known of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name, as in presence.
    pub name: String,
    /// The build it runs.
    pub version: String,
    /// Where it stands; empty: unknown.
    pub zone: String,
    /// Where clients reach it over TCP, `host:port`; empty: unknown.
    pub tcp: String,
    /// Where clients reach it over WebSocket, `host:port`; empty: unknown.
    pub ws: String,
    /// Where other services reach it, `host:port`; empty: it is this process.
    pub grpc: String,
    /// It is leaving: clients should not be sent there.
    pub draining: bool,
}

/// Reaches connect nodes. Implementations: gRPC over discovery in a cluster; a call in standalone.
///
/// Promises: each call returns within the implementation's timeout; a node that cannot be reached delays nobody else and
/// is named in [`Tally::failed`].
#[async_trait]
pub trait Nodes: Send + Sync + 'static {
    /// Delivers a signal to connections, at most once.
    async fn push(&self, to: To, request: PushRequest) -> Tally;
    /// Ends connections.
    async fn kick(&self, to: To, request: KickRequest) -> Tally;
    /// Tells that a user's rooms have changed; with no user, that some of all users' may have.
    async fn rooms_changed(&self, to: To, request: RoomsChangedRequest) -> Tally;
    /// The nodes that are known now.
    fn known(&self) -> Vec<Node>;
}
