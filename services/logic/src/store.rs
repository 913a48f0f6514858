//! Where rooms live. A trait for each of a store's parts, two implementations of all (`redis`, `embedded`), one test suite
//! that both pass.
//!
//! What every implementation promises:
//! - [`Messages::append`] returns after the entry is stored (redis: and confirmed by the configured replicas; embedded: and
//!   committed to disk). `seq` is contiguous from 1 within a room and given atomically with dedupe and entry.
//! - The same (room, sender, client id) within the dedupe window returns the first entry's position and publishes again.
//! - Whatever is appended is published to the room's channel after it is stored; publishing may be lost, storing not.
//! - Appends of one room that were called in some order (first polls) from one task are stored in that order.
//! - A room's own state (log, dedupe, members, read positions) is atomic, also when it is deleted. A user's index of rooms
//!   and presence are derived, may lag, and are repaired from the rooms.

mod bans;
pub mod embedded;
mod error;
mod history;
mod index;
mod invitations;
mod messages;
mod presence;
mod readable;
#[cfg(feature = "cluster")]
pub mod redis;
mod rooms;
#[doc(hidden)]
pub mod suite;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use im_proto::v1::{Entry, Signal};
use im_wire::ids::{Epoch, RoomId, Seq};

pub use bans::{Bans, FORGET_BATCH, GrantKey, GrantKeys};
pub use error::{Error, Result};
pub use history::{History, Page, ReadPosition, Slice, Tail};
pub use index::Index;
pub use invitations::{Invitation, Invitations, Quotas};
pub use messages::{Access, Append, Appended, Messages};
pub use presence::{Asserted, Connections, Counts, Ended, Leases, Presence, Stray};
pub use rooms::{Create, Delete, Deleted, Kind, Member, Membership, Role, Rooms, View};

/// A store, as logic uses it: each part by its trait.
#[derive(Clone)]
#[expect(missing_docs, reason = "each part is described by its trait")]
pub struct Store {
    pub messages: Arc<dyn Messages>,
    pub rooms: Arc<dyn Rooms>,
    pub history: Arc<dyn History>,
    pub index: Arc<dyn Index>,
    pub invitations: Arc<dyn Invitations>,
    pub quotas: Arc<dyn Quotas>,
    pub connections: Arc<dyn Connections>,
    pub leases: Arc<dyn Leases>,
    pub bans: Arc<dyn Bans>,
    pub grant_keys: Arc<dyn GrantKeys>,
}

impl Store {
    /// All parts of one store.
    pub fn new<S>(store: Arc<S>) -> Self
    where
        S: Messages
            + Rooms
            + History
            + Index
            + Invitations
            + Quotas
            + Connections
            + Leases
            + Bans
            + GrantKeys,
    {
        Self {
            messages: store.clone(),
            rooms: store.clone(),
            history: store.clone(),
            index: store.clone(),
            invitations: store.clone(),
            quotas: store.clone(),
            connections: store.clone(),
            leases: store.clone(),
            bans: store.clone(),
            grant_keys: store,
        }
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
