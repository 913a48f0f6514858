//! Why a store did not do something.

use im_wire::ids::{RoomId, UserId};

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

/// The result of a store's call.
pub type Result<T> = std::result::Result<T, Error>;
