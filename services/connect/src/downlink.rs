//! The way down: what happens in rooms, from the bus to the hub's shards.

#[cfg(feature = "cluster")]
pub mod redis;
pub(crate) mod router;

use async_trait::async_trait;
use im_proto::v1::BusEvent;
use im_runtime::limits::queue::{AROUND, Sender, Weigh};
use im_wire::ids::RoomId;
use prost::Message;

/// What a bus sends to the node.
#[derive(Debug)]
pub enum BusNotification {
    /// Something was published to a room the node hears. Per room in the order of publishing; may be lost, may be repeated.
    Event(BusEvent),
    /// The subscription to this room stands: whatever is published from now on comes.
    Subscribed(RoomId),
    /// Events may have been lost (the connection was away): compare heads of every room.
    GapPossible,
}

impl Weigh for BusNotification {
    fn bytes(&self) -> usize {
        match self {
            Self::Event(event) => AROUND + event.encoded_len(),
            Self::Subscribed(_) | Self::GapPossible => 0,
        }
    }
}

/// Carries the rooms that somebody on this node is in. Implementations: redis sharded pub/sub; standalone's own process.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Begins to listen; what comes is sent to `into` (bounded in places and bytes: a full queue makes the bus drop events,
    /// count them and send [`BusNotification::GapPossible`]). Called once.
    async fn run(&self, into: Sender<BusNotification>);
    /// Subscribes to a room; idempotent; [`BusNotification::Subscribed`] follows once it stands. May come before [`Self::run`].
    fn subscribe(&self, room: RoomId);
    /// Unsubscribes from a room; idempotent.
    fn unsubscribe(&self, room: &RoomId);
}
