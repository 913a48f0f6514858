//! Rooms as such: created, changed, deleted, seen.

use async_trait::async_trait;
use im_proto::v1::Entry;
use im_wire::ids::{Epoch, RoomId, Seq, UserId};

use super::error::Result;
use super::messages::{Access, Appended};

/// What a room is; never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Exactly the two users that the id names. Exists from the first append on.
    Direct,
    /// Stored membership.
    Group,
    /// Whoever may enter by token; membership is the connection.
    Open,
}

/// What a member may do in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Speak, hear, leave.
    Member,
    /// And add and remove members.
    Admin,
    /// And everything else; the creator.
    Owner,
}

/// A change of membership: stored as an entry of the log (`im.join`, `im.leave`) in the same atomic step.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Which group.
    pub room: RoomId,
    /// Whose membership changes.
    pub user: UserId,
    /// `Some`: becomes a member with this role (a member's role changes); `None`: is one no longer.
    pub role: Option<Role>,
    /// The right under which: who does it, see [`Access`]. One who is not `system` may leave by themselves, and needs
    /// the role `Admin` or `Owner` for anyone else.
    pub access: Access,
    /// The entry that tells the room.
    pub entry: Entry,
}

/// A room to be created.
#[derive(Debug, Clone)]
pub struct Create {
    /// Its id.
    pub room: RoomId,
    /// What it is to be.
    pub kind: Kind,
    /// Group: who is in it, with roles. Empty for the other kinds.
    pub members: Vec<(UserId, Role)>,
    /// Unix milliseconds.
    pub time_ms: u64,
}

/// A room to be deleted.
#[derive(Debug, Clone)]
pub struct Delete {
    /// Which.
    pub room: RoomId,
    /// The entry that tells whoever hears the room, its last one. Published only: no log keeps it.
    pub entry: Entry,
}

/// A room that has been deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// What it was.
    pub kind: Kind,
    /// In force in its log.
    pub epoch: Epoch,
    /// The place of the entry that tells of it.
    pub seq: Seq,
    /// Who was in it where it was a group. Their indexes still name it.
    pub members: Vec<UserId>,
}

/// What a user sees of a room before entering it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// What it is.
    pub kind: Kind,
    /// In force.
    pub epoch: Epoch,
    /// The log's last seq.
    pub head: Seq,
    /// The user's membership where it is a group.
    pub role: Option<Role>,
    /// The user's read position.
    pub read: Seq,
    /// The seq of the log when the user joined: what stood before does not count as unread.
    pub joined: Seq,
    /// When it was created, unix milliseconds.
    pub created_ms: u64,
}

/// One member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// With what rights.
    pub role: Role,
    /// See [`View::joined`].
    pub joined: Seq,
}

/// Where rooms and memberships are.
#[async_trait]
pub trait Rooms: Send + Sync + 'static {
    /// Creates a room. Asked again with the same kind and (group) the same members: `false`, nothing changes.
    async fn create(&self, create: Create) -> Result<bool>;
    /// Changes a membership and tells the room. Returns `None` where it was so already.
    async fn change_membership(&self, change: Membership) -> Result<Option<Appended>>;
    /// Deletes a room with its log, members, client ids and read positions, and tells whoever hears it. Afterwards there is
    /// no such room; one that takes its id begins at seq 1 in a greater epoch, and knows nothing of it.
    async fn delete(&self, delete: Delete) -> Result<Deleted>;
    /// A group's members in order of user id, from behind `after`, at most `limit`.
    async fn members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>>;
    /// What `user` sees of these rooms, in their order; `None` where there is no such room.
    async fn views(&self, rooms: &[RoomId], user: &UserId) -> Result<Vec<Option<View>>>;
}
