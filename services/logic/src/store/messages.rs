//! Appending messages and publishing signals.

use async_trait::async_trait;
use im_proto::v1::{Entry, Signal};
use im_wire::ids::{ClientId, Epoch, RoomId, Seq, UserId};

use super::error::Result;

/// Under which right something is appended. Checked by the store in the same atomic step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who; must be a member where the room is a group.
    pub user: UserId,
    /// The caller has checked that the user is one of the two of this direct room: it may be created.
    pub direct: bool,
    /// The user's token covers this id as an open room: it may be created, and spoken in without membership.
    pub open: bool,
    /// An administrator or a backend: no membership needed; still no such room where none exists.
    pub system: bool,
}

/// A message to be stored.
#[derive(Debug, Clone)]
pub struct Append {
    /// Where.
    pub room: RoomId,
    /// By what right.
    pub access: Access,
    /// What makes a retry recognisable.
    pub client_id: ClientId,
    /// What; `entry.id` is used if it is new.
    pub entry: Entry,
    /// A direct room's two members, where the room is to be in their indexes before the message is stored, and as safely:
    /// where that fails, nothing is stored. Empty: nothing is indexed.
    pub index: Vec<UserId>,
}

/// Where a message came to stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Of the first time, where it is a duplicate.
    pub id: String,
    /// In force in the room.
    pub epoch: Epoch,
    /// Its place.
    pub seq: Seq,
    /// Of the first time, where it is a duplicate; unix milliseconds.
    pub time_ms: u64,
    /// Stored before under the same client id.
    pub duplicate: bool,
    /// The room came into being with this append.
    pub created: bool,
}

/// Where messages go.
#[async_trait]
pub trait Messages: Send + Sync + 'static {
    /// Stores and publishes a message.
    async fn append(&self, append: Append) -> Result<Appended>;
    /// Publishes to the room's channel without storing.
    async fn signal(&self, room: &RoomId, signal: Signal) -> Result<()>;
}
