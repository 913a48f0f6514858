//! The tables of the file, and what their rows hold.

use im_wire::ids::Seq;
use redb::TableDefinition;

use super::DbResult;
use crate::store::{Kind, Role};

/// Facts about the file itself: its layout, the epoch in which it was made, and the last opening's.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Room → what it is.
pub(super) const ROOMS: TableDefinition<'_, &str, RoomRow> = TableDefinition::new("rooms");
/// (room, seq) → the entry as protobuf.
pub(super) const LOG: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("log");
/// Room → its epochs with their bases, see [`super::epochs`]; none: see [`super::epochs::Epochs::of_the_file`].
pub(super) const EPOCHS: TableDefinition<'_, &str, &str> = TableDefinition::new("epochs");
/// See [`super::dedupe`].
pub(super) const DEDUPE: TableDefinition<'_, DedupeKey<'_>, (u64, u64, &str)> =
    TableDefinition::new("dedupe");
/// (room, user) → role and the head at joining.
pub(super) const MEMBERS: TableDefinition<'_, (&str, &str), (u8, u64)> =
    TableDefinition::new("members");
/// (room, user) → read position.
pub(super) const READS: TableDefinition<'_, (&str, &str), u64> = TableDefinition::new("reads");
/// (user, room): the user's index.
pub(super) const USER_ROOMS: TableDefinition<'_, (&str, &str), ()> =
    TableDefinition::new("user_rooms");
/// Rooms that have ended and of which rows are left, see [`super::deleting`].
pub(super) const GONE: TableDefinition<'_, &str, ()> = TableDefinition::new("gone");
/// User → when last seen, unix milliseconds.
pub(super) const SEEN: TableDefinition<'_, &str, u64> = TableDefinition::new("seen");
/// (user, room) → role, time, who invites.
pub(super) const INVITATIONS: TableDefinition<'_, (&str, &str), InvitationRow<'_>> =
    TableDefinition::new("invitations");

/// In [`META`]: the last opening's epoch, or one that has begun since.
pub(super) const OPENED: &str = "opened";

/// (generation, room, sender, client id).
pub(super) type DedupeKey<'k> = (u64, &'k str, &'k str, &'k str);

/// (kind, created, head, first, members, time of the oldest entry or of one before it; of an empty log: of the last entry, or
/// when the room was made).
pub(super) type RoomRow = (u8, u64, u64, u64, u64, u64);

/// (role, time, who invites).
pub(super) type InvitationRow<'r> = (u8, u64, &'r str);

/// What a room is, read from its row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) kind: Kind,
    pub(super) created_ms: u64,
    pub(super) head: Seq,
    pub(super) first: Seq,
    pub(super) members: u64,
    pub(super) oldest_ms: u64,
}

impl Room {
    pub(super) fn new(kind: Kind, created_ms: u64) -> Self {
        Self {
            kind,
            created_ms,
            head: 0,
            first: 1,
            members: 0,
            oldest_ms: 0,
        }
    }

    pub(super) fn row(&self) -> RoomRow {
        let kind = match self.kind {
            Kind::Direct => 0,
            Kind::Group => 1,
            Kind::Open => 2,
        };
        (
            kind,
            self.created_ms,
            self.head,
            self.first,
            self.members,
            self.oldest_ms,
        )
    }
}

impl From<RoomRow> for Room {
    fn from((kind, created_ms, head, first, members, oldest_ms): RoomRow) -> Self {
        let kind = match kind {
            0 => Kind::Direct,
            1 => Kind::Group,
            _ => Kind::Open,
        };
        Self {
            kind,
            created_ms,
            head,
            first,
            members,
            oldest_ms,
        }
    }
}

pub(super) fn role_number(role: Role) -> u8 {
    match role {
        Role::Member => 0,
        Role::Admin => 1,
        Role::Owner => 2,
    }
}

pub(super) fn role(number: u8) -> Role {
    match number {
        2 => Role::Owner,
        1 => Role::Admin,
        _ => Role::Member,
    }
}

/// Sorts behind every character that an id may have.
pub(super) const LAST: &str = "\u{10ffff}";

pub(super) fn checked<T>(made: Result<T, im_wire::ids::BadId>) -> DbResult<T> {
    made.map_err(|bad| redb::Error::Corrupted(bad.to_string()))
}
