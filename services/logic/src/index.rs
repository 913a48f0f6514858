//! A user's index of rooms: derived from the rooms, kept wide rather than narrow, repaired when it is read.
//!
//! A member is indexed before the membership stands and again after it, and taken out after it has ended: a process that
//! dies between leaves an index that names too much, never too little. Direct rooms are indexed after their first message
//! that this process sees.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use im_proto::v1::RoomsChangedRequest;
use im_wire::ids::{RoomId, UserId};

use crate::auth::grant::Grant;
use crate::error::Result;
use crate::service::Core;
use crate::store::View;

/// So many direct rooms are remembered twice over, 16 bytes each.
const REMEMBERED: usize = 100_000;
/// Rooms read from the index at once.
const STEP: usize = 500;
/// Repairs at the same time.
const REPAIRS: usize = 16;

/// Direct rooms that this process has indexed: two generations of hashes, the older forgotten when the younger is full.
/// Forgetting, and the rare two rooms of one hash, cost one needless or one missing repeat of an idempotent write.
#[derive(Default)]
pub(crate) struct Indexed {
    generations: Mutex<[HashSet<u64>; 2]>,
}

impl Indexed {
    fn hash(room: &RoomId) -> u64 {
        let mut hasher = DefaultHasher::new();
        room.hash(&mut hasher);
        hasher.finish()
    }

    fn has(&self, room: &RoomId) -> bool {
        let hash = Self::hash(room);
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.iter().any(|generation| generation.contains(&hash))
    }

    fn put(&self, room: &RoomId) {
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if generations[0].len() >= REMEMBERED {
            generations.swap(0, 1);
            generations[0].clear();
        }
        generations[0].insert(Self::hash(room));
    }
}

impl Core {
    /// After a message in a direct room: puts it into both users' indexes and tells their nodes, unless that was done.
    pub(crate) async fn index_direct(self: &Arc<Self>, room: &RoomId, again: bool) {
        if !room.is_direct() || (!again && self.indexed.has(room)) {
            return;
        }
        let Some((one, other)) = room.direct_members() else { return };
        let room = room.clone();
        self.follow_up(async move |core: Arc<Self>| {
            let users = [one, other];
            match core.store.index_room(&users, &room).await {
                Ok(()) => core.indexed.put(&room),
                Err(error) => tracing::warn!(%room, %error, "a direct room is not in its users' lists yet"),
            }
            core.tell_rooms_changed(&users, Some(&room), None).await;
        })
        .await;
    }

    /// Tells the users' nodes that a room was added or removed. At most once: whoever misses it learns it from the room's
    /// own log or on the next connection.
    pub(crate) async fn tell_rooms_changed(&self, users: &[UserId], added: Option<&RoomId>, removed: Option<&RoomId>) {
        let names = |room: Option<&RoomId>| room.iter().map(|room| room.as_str().to_owned()).collect::<Vec<_>>();
        for chunk in users.chunks(self.options.limits.max_users_per_call.max(1)) {
            let presence = match self.store.presence(chunk).await {
                Ok(presence) => presence,
                Err(error) => {
                    tracing::warn!(%error, "the nodes of a user whose rooms changed are not known");
                    continue;
                }
            };
            for (user, (connections, _)) in chunk.iter().zip(presence) {
                let Some(to) = super::push::nodes_of(&connections) else { continue };
                let user = user.as_str().to_owned();
                let request = RoomsChangedRequest { user, added: names(added), removed: names(removed) };
                let tally = self.nodes.rooms_changed(to, request).await;
                if !tally.failed.is_empty() {
                    tracing::info!(nodes = ?tally.failed, "nodes were not told that a user's rooms changed");
                }
            }
        }
    }

    /// The user's rooms with what the user sees of each, direct rooms first and each kind in order of id, from behind
    /// `after`, about `limit`; what the user is in no more is left out and taken from the index. The second part is where to go on; `None` at the end.
    pub(crate) async fn rooms_of(
        &self,
        who: &Grant,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<(Vec<(RoomId, View)>, Option<RoomId>)> {
        // A guest's direct rooms are what others have written to them: not for guests.
        if who.guest {
            return Ok((Vec::new(), None));
        }
        let user = &who.user()?;
        let (mut seen, mut after) = (Vec::new(), after.cloned());
        while seen.len() < limit {
            let step = STEP.min(limit - seen.len());
            let rooms = self.store.user_rooms(user, after.as_ref(), step).await?;
            let complete = rooms.len() < step;
            let views = self.store.views(&rooms, user).await?;
            after = rooms.last().cloned().or(after);
            let mut stale = Vec::new();
            for (room, view) in rooms.into_iter().zip(views) {
                match view.filter(|view| room.is_direct() || view.role.is_some()) {
                    Some(view) => seen.push((room, view)),
                    None => stale.push(room),
                }
            }
            for some in stale.chunks(REPAIRS) {
                join_all(some.iter().map(|room| self.repair(user, room))).await;
            }
            if complete {
                return Ok((seen, None));
            }
        }
        Ok((seen, after))
    }

    /// A change of a group was refused: what was indexed for it is taken out again, unless the user is in it all the same.
    pub(crate) async fn index_of_refused(&self, users: &[UserId], room: &RoomId) {
        for some in users.chunks(REPAIRS) {
            join_all(some.iter().map(|user| self.repair(user, room))).await;
        }
    }

    /// Takes a room from the index of a user who is not in it, unless that has just changed.
    async fn repair(&self, user: &UserId, room: &RoomId) {
        let repaired = async {
            self.store.unindex_room(user, room).await?;
            let views = self.store.views(std::slice::from_ref(room), user).await?;
            match views.into_iter().next().flatten() {
                Some(view) if room.is_direct() || view.role.is_some() => {
                    self.store.index_room(std::slice::from_ref(user), room).await
                }
                _ => Ok(()),
            }
        };
        if let Err(error) = repaired.await {
            tracing::debug!(%user, %room, %error, "an index was not repaired");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_indexed_is_remembered_until_two_generations_later() {
        let indexed = Indexed::default();
        let room = |number: usize| RoomId::new(format!("direct:1:a:{number}")).unwrap();
        assert!(!indexed.has(&room(0)));
        indexed.put(&room(0));
        assert!(indexed.has(&room(0)));
        for number in 1..=REMEMBERED {
            indexed.put(&room(number));
        }
        assert!(indexed.has(&room(0)), "in the older generation");
        for number in REMEMBERED..=2 * REMEMBERED {
            indexed.put(&room(number));
        }
        assert!(!indexed.has(&room(0)), "forgotten");
        assert!(indexed.has(&room(2 * REMEMBERED)));
    }
}
