//! What waits to be written.

use im_proto::v1::Ban;
use im_wire::ids::{RoomId, Seq, UserId};
use tokio::sync::oneshot;

use super::aging::Due;
use crate::store::{
    Append, Appended, Create, Delete, Deleted, Invitation, Membership, ReadPosition, Result,
};

/// Tells the caller what became of a write.
pub(super) type Done<T> = oneshot::Sender<Result<T>>;

/// One thing to write, and whom to tell.
pub(super) enum Write {
    Append(Append, Done<Appended>),
    Create(Create, Done<bool>),
    Membership(Membership, Done<Option<Appended>>),
    Read {
        room: RoomId,
        user: UserId,
        seq: Seq,
        done: Done<ReadPosition>,
    },
    Index {
        users: Vec<UserId>,
        room: RoomId,
        done: Done<()>,
    },
    Unindex {
        user: UserId,
        room: RoomId,
        done: Done<()>,
    },
    Invite {
        user: UserId,
        invitation: Invitation,
        max: usize,
        done: Done<bool>,
    },
    Uninvite {
        user: UserId,
        room: RoomId,
        done: Done<bool>,
    },
    Seen {
        user: UserId,
        at_ms: u64,
        done: Done<()>,
    },
    Bans(BansWrite, Done<()>),
    Delete(Delete, Done<Deleted>),
    /// What time has done to some rooms.
    Age(Due),
    Close(Done<()>),
}

impl Write {
    /// A message or a change for which nobody waits any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match self {
            Self::Append(_, done) => done.is_closed(),
            Self::Membership(_, done) => done.is_closed(),
            Self::Delete(_, done) => done.is_closed(),
            _ => false,
        }
    }
}

/// One change of the table of bans.
pub(super) struct BansWrite {
    pub(super) put: Option<Ban>,
    pub(super) remove: Vec<String>,
}
