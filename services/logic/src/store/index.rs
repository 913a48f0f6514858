//! Users' indexes of rooms.

use std::ops::Bound;

use async_trait::async_trait;
use im_wire::ids::{DIRECT_PREFIX, RoomId, UserId};

use super::error::Result;

/// Where users' indexes of rooms are. They are derived, may lag, and are repaired from the rooms.
#[async_trait]
pub trait Index: Send + Sync + 'static {
    /// The user's index of rooms from behind `after`, at most `limit`: direct rooms first, then groups, each in order of id,
    /// so that no number of groups pushes a direct room out of what is read first.
    async fn user_rooms(
        &self,
        user: &UserId,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomId>>;
    /// Puts a room into users' indexes. Idempotent.
    async fn index_room(&self, users: &[UserId], room: &RoomId) -> Result<()>;
    /// Takes a room out of a user's index. Idempotent.
    async fn unindex_room(&self, user: &UserId, room: &RoomId) -> Result<()>;
}

/// The parts of a user's index in their order, each ascending by id: what follows `after` in it.
pub(crate) fn spans(after: Option<&RoomId>) -> Vec<(Bound<&str>, Bound<&str>)> {
    const DIRECT: Bound<&str> = Bound::Excluded(DIRECT_PREFIX);
    /// The smallest text that is greater than all that begin with the prefix.
    const BEHIND: &str = "direct;";
    let before = (Bound::Unbounded, DIRECT);
    let behind = (Bound::Included(BEHIND), Bound::Unbounded);
    let direct_from = |from| (from, Bound::Excluded(BEHIND));
    match after {
        None => vec![direct_from(Bound::Included(DIRECT_PREFIX)), before, behind],
        Some(after) if after.is_direct() => {
            vec![direct_from(Bound::Excluded(after.as_str())), before, behind]
        }
        Some(after) if after.as_str() < DIRECT_PREFIX => {
            vec![(Bound::Excluded(after.as_str()), DIRECT), behind]
        }
        Some(after) => vec![(Bound::Excluded(after.as_str()), Bound::Unbounded)],
    }
}
