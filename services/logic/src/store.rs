//! Where rooms live. One trait, two implementations (`redis`, `embedded`), one test suite that both pass.
//!
//! What every implementation promises:
//! - [`Store::append`] returns after the entry is stored (redis: and confirmed by the configured replicas; embedded: and
//!   committed to disk). `seq` is contiguous from 1 within a room and given atomically with dedupe and entry.
//! - The same (room, sender, client id) within the dedupe window returns the first entry's position and publishes again.
//! - Whatever is appended is published to the room's channel after it is stored; publishing may be lost, storing not.
//! - Appends of one room that were called in some order (first polls) from one task are stored in that order.
//! - A room's own state (log, dedupe, members, read positions) is atomic, also when it is deleted. A user's index of rooms and presence are
//!   derived, may lag, and are repaired from the rooms.

pub mod embedded;
mod readable;
#[cfg(feature = "cluster")]
pub mod redis;
#[doc(hidden)]
pub mod suite;
mod verdict;

use std::ops::{Bound, Range};
use std::time::Duration;

use crate::auth::seal::Key;
use crate::clock;
use async_trait::async_trait;
use im_proto::v1::{AskBans, Ban, BanChanges, Entry, LogEntry, Signal};
use im_wire::ids::{ClientId, DIRECT_PREFIX, Epoch, RoomId, Seq, UserId};

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

/// An invitation into a group, as the user has it who is invited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invitation {
    /// Into which.
    pub room: RoomId,
    /// By whom.
    pub by: UserId,
    /// As what.
    pub role: Role,
    /// Since when, unix milliseconds.
    pub time_ms: u64,
}

/// An invitation that is not taken ends after this.
const INVITATION_LASTS: Duration = Duration::from_secs(30 * 24 * 3600);

impl Invitation {
    /// Whether it still holds.
    fn holds(&self) -> bool {
        let lasts = u64::try_from(INVITATION_LASTS.as_millis()).unwrap_or(u64::MAX);
        self.time_ms.saturating_add(lasts) > clock::now_ms()
    }
}

/// The log after a position; see `Fetched` in `logic.proto`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tail {
    /// In force.
    pub epoch: Epoch,
    /// The log's last seq.
    pub head: Seq,
    /// Whoever has more than this must forget it.
    pub reset_to: Option<Seq>,
    /// Gone, both inclusive.
    pub truncated: Option<(Seq, Seq)>,
    /// Contiguous; empty where nothing follows.
    pub entries: Vec<LogEntry>,
}

/// Which part of the log to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slice {
    /// The oldest with a greater seq.
    After(Seq),
    /// The newest with a smaller seq.
    Before(Seq),
    /// The newest.
    Latest,
}

/// A part of the log, ascending by seq.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// In force.
    pub epoch: Epoch,
    /// The log's last seq.
    pub head: Seq,
    /// Gone of what was asked for, both inclusive.
    pub truncated: Option<(Seq, Seq)>,
    /// Contiguous.
    pub entries: Vec<LogEntry>,
}

/// A user's read position in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadPosition {
    /// Never moves backwards, never beyond head.
    pub read: Seq,
    /// See [`View::joined`].
    pub joined: Seq,
    /// The log's last seq.
    pub head: Seq,
    /// Whether this call moved it.
    pub moved: bool,
}

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

impl Error {
    /// Whether it is certain that nothing was changed.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::NoSuchRoom(_)
                | Self::NotAMember { .. }
                | Self::Forbidden { .. }
                | Self::Conflict { .. }
                | Self::TooManyMembers { .. }
        )
    }
}

/// Why the store did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no such room, and the access does not allow to create it.
    #[error("no room {0}")]
    NoSuchRoom(RoomId),
    /// The room is a group and the user is not in it.
    #[error("{user} is not a member of {room}")]
    NotAMember {
        /// Which group.
        room: RoomId,
        /// Who.
        user: UserId,
    },
    /// The access does not cover this room, or the role is too small.
    #[error("{user} may not do this in {room}: {why}")]
    Forbidden {
        /// Where.
        room: RoomId,
        /// Who.
        user: UserId,
        /// What would be needed.
        why: &'static str,
    },
    /// The id is taken by a room of another kind, or by a group with other members.
    #[error("{room} exists and is {what}")]
    Conflict {
        /// Which.
        room: RoomId,
        /// What it is.
        what: &'static str,
    },
    /// A group would get more members than the limit.
    #[error("{room} has {limit} members: no more")]
    TooManyMembers {
        /// Which.
        room: RoomId,
        /// How many may be.
        limit: usize,
    },
    /// Not confirmed by `wanted` replicas within the time: it is stored on the master, and may be lost by a failover.
    #[error("confirmed by {confirmed} of {wanted} replicas in time: retry with the same client id")]
    NotReplicated {
        /// By how many.
        confirmed: u64,
        /// By how many it should have been.
        wanted: u64,
    },
    /// The store refuses writes: read-only, out of memory, disk full.
    #[error("the store takes no writes: {0}")]
    Full(String),
    /// The store cannot be reached, or did not answer in time; a write may or may not have happened.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// What the store holds cannot be understood.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(String),
}

/// Bans that are over and are removed in one step at most.
pub const FORGET_AT_ONCE: usize = 100;

/// The result of a store's call.
pub type Result<T> = std::result::Result<T, Error>;

/// See the module's top for what every implementation promises.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Stores and publishes a message.
    async fn append(&self, append: Append) -> Result<Appended>;
    /// Creates a room. Asked again with the same kind and (group) the same members: `false`, nothing changes.
    async fn create(&self, create: Create) -> Result<bool>;
    /// Changes a membership and tells the room. Returns `None` where it was so already.
    async fn change_membership(&self, change: Membership) -> Result<Option<Appended>>;
    /// Deletes a room with its log, members, client ids and read positions, and tells whoever hears it. Afterwards there is
    /// no such room; one that takes its id begins at seq 1 in a greater epoch, and knows nothing of it.
    async fn delete(&self, delete: Delete) -> Result<Deleted>;
    /// A group's members in order of user id, from behind `after`, at most `limit`.
    async fn members(&self, room: &RoomId, after: Option<&UserId>, limit: usize) -> Result<Vec<Member>>;
    /// What `user` sees of these rooms, in their order; `None` where there is no such room.
    async fn views(&self, rooms: &[RoomId], user: &UserId) -> Result<Vec<Option<View>>>;
    /// The log after (epoch, seq), with the verdict on what that position still is worth. No such room: an empty log.
    async fn tail(&self, room: &RoomId, epoch: Epoch, seq: Seq, limit: usize, max_bytes: usize) -> Result<Tail>;
    /// A part of the log, at most `limit` entries.
    async fn page(&self, room: &RoomId, slice: Slice, limit: usize) -> Result<Page>;
    /// (epoch, head) of these rooms, in their order; (0, 0) where there is no such room.
    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(Epoch, Seq)>>;
    /// Moves a read position forward.
    async fn mark_read(&self, room: &RoomId, user: &UserId, seq: Seq) -> Result<ReadPosition>;
    /// Publishes to the room's channel without storing.
    async fn signal(&self, room: &RoomId, signal: Signal) -> Result<()>;

    /// The user's index of rooms from behind `after`, at most `limit`: direct rooms first, then groups, each in order of id,
    /// so that no number of groups pushes a direct room out of what is read first.
    async fn user_rooms(&self, user: &UserId, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomId>>;
    /// Puts a room into users' indexes. Idempotent.
    async fn index_room(&self, users: &[UserId], room: &RoomId) -> Result<()>;
    /// Takes a room out of a user's index. Idempotent.
    async fn unindex_room(&self, user: &UserId, room: &RoomId) -> Result<()>;

    /// Notes an invitation for a user, in the place of one into the same room. `false`: the user has `max` already.
    async fn invite(&self, user: &UserId, invitation: Invitation, max: usize) -> Result<bool>;
    /// A user's invitations that hold, in order of room id.
    async fn invitations(&self, user: &UserId) -> Result<Vec<Invitation>>;
    /// Takes a user's invitation into a room away; whether there was one.
    async fn uninvite(&self, user: &UserId, room: &RoomId) -> Result<bool>;

    /// Counts `amount` of something (a short name) for a user on a day, where no more than `limit` come together then;
    /// `false`: they would, and nothing is counted. A process that dies, or embedded is started anew, may count less.
    async fn spend(&self, user: &UserId, what: &'static str, day: u64, amount: u64, limit: u64) -> Result<bool>;

    /// A node lives for `lease` more, with so many connections and so many online per room. `false`: the store's counts of
    /// the node are not in the state that the change is from, and stay as they are.
    async fn node_beat(&self, node: &str, lease: Duration, connections: u64, counts: Counts) -> Result<bool>;
    /// A node has ended: its presence is void at once. Asked also after the node's last connection has ended.
    async fn node_gone(&self, node: &str) -> Result<()>;
    /// The nodes whose lease runs, with their connections.
    async fn nodes(&self) -> Result<Vec<(String, u64)>>;
    /// How many are online in these rooms over all living nodes, in their order.
    async fn online(&self, rooms: &[RoomId]) -> Result<Vec<u64>>;
    /// Every room some living node counts, with how many are online in it.
    async fn online_rooms(&self) -> Result<Vec<(RoomId, u64)>>;
    /// A connection has begun.
    async fn connected(&self, presence: Presence) -> Result<()>;
    /// A connection has ended; the time is kept as the user's last seen.
    async fn disconnected(&self, ended: Ended) -> Result<()>;
    /// A node names all connections that it has at these places. Changes nothing where they are as named.
    async fn assert_presence(&self, node: &str, places: Range<u64>, named: Vec<Presence>) -> Result<Asserted>;
    /// The users' connections on living nodes, and when they were last seen (unix milliseconds, 0: never), in order.
    async fn presence(&self, users: &[UserId]) -> Result<Vec<(Vec<Presence>, u64)>>;

    /// Notes a ban in the place of one of the same id and gives it a version. `false`: there are `max` already.
    async fn ban(&self, ban: Ban, max: usize) -> Result<bool>;
    /// Lifts the ban of this id; whether there was one.
    async fn lift_ban(&self, id: &str) -> Result<bool>;
    /// Removes bans that are over, [`FORGET_AT_ONCE`] at most; how many. A ban that is over refuses nobody before that.
    async fn forget_bans(&self) -> Result<usize>;
    /// What has changed in the list of bans after a version.
    async fn bans(&self, ask: AskBans) -> Result<BanChanges>;

    /// The key of grants: the one that is kept, or this one, which is kept from now on.
    async fn grant_key(&self, proposed: Key) -> Result<Key>;

    /// Whether the store answers: for metrics and start-up, never for readiness.
    async fn ping(&self) -> Result<()>;
    /// Ends background work after everything accepted has been stored.
    async fn close(&self);
}

/// The parts of a user's index in their order, each ascending by id: what follows `after` in it.
pub(crate) fn spans(after: Option<&RoomId>) -> Vec<(Bound<&str>, Bound<&str>)> {
    const DIRECT: Bound<&str> = Bound::Excluded(DIRECT_PREFIX);
    /// The smallest text that is greater than all that begin with the prefix.
    const BEHIND: &str = "direct;";
    let (before, behind) = ((Bound::Unbounded, DIRECT), (Bound::Included(BEHIND), Bound::Unbounded));
    let direct_from = |from| (from, Bound::Excluded(BEHIND));
    match after {
        None => vec![direct_from(Bound::Included(DIRECT_PREFIX)), before, behind],
        Some(after) if after.is_direct() => vec![direct_from(Bound::Excluded(after.as_str())), before, behind],
        Some(after) if after.as_str() < DIRECT_PREFIX => vec![(Bound::Excluded(after.as_str()), DIRECT), behind],
        Some(after) => vec![(Bound::Excluded(after.as_str()), Bound::Unbounded)],
    }
}

/// Where an embedded store publishes: the process's own bus.
pub trait Publish: Send + Sync + 'static {
    /// A new entry (or a repeated one, see dedupe), in order of seq per room.
    fn logged(&self, room: &RoomId, epoch: Epoch, seq: Seq, entry: &Entry);
    /// A signal.
    fn signal(&self, room: &RoomId, signal: &Signal);
}

/// How much of a log is kept, how long a retry is recognised, when a room that nobody uses ends.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Entries per room at most.
    pub max_entries: u64,
    /// Entries older than this may be removed, also while nothing is said; zero: never by age.
    pub max_age: Duration,
    /// An open room that nothing was said in for so long, and a group that had no member for so long (and in which nothing
    /// was said), may end as if it were deleted, but untold; zero: never.
    pub rooms_end_after: Duration,
    /// A retry with the same client id within this is stored once.
    pub dedupe_window: Duration,
    /// Members of a group at most.
    pub max_members: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            max_entries: 10_000,
            max_age: Duration::from_secs(30 * 24 * 3600),
            rooms_end_after: Duration::from_secs(180 * 24 * 3600),
            dedupe_window: Duration::from_secs(30 * 60),
            max_members: 10_000,
        }
    }
}
