//! A user's index of rooms: derived from the rooms, kept wide rather than narrow, repaired when it is read.
//!
//! A member is indexed before the membership stands and again after it, and taken out after it has ended: a process that
//! dies between leaves an index that names too much, never too little. A direct room is indexed before the first message
//! that this process stores there, in the same place of the store's queue and as safely as the message; and again when the
//! room's epoch shows that a failover may have lost it.

pub(crate) mod indexed;

use std::sync::Arc;

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use im_proto::v1::{KnownList, KnownRooms, RoomList, RoomLists, RoomsChangedRequest};
use im_wire::ids::{RoomId, Seq, UserId};

use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::store::{Appended, View};

/// Rooms read from the index at once.
const STEP: usize = 500;
/// Repairs at the same time.
const REPAIRS: usize = 16;
/// Lists read at once.
const CONCURRENCY: usize = 16;
/// An answer with lists ends when their names have so many bytes; the rest is asked for anew.
const ANSWER_BYTES: usize = 1 << 20;

/// A list of rooms in a number: the same for the same list, whichever process computes it; never 0.
fn digest(rooms: &[RoomId]) -> u64 {
    // FNV-1a, with a byte between that no id has.
    let bytes = rooms
        .iter()
        .flat_map(|room| room.as_str().bytes().chain([0xff]));
    bytes
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
        .max(1)
}

impl Core {
    /// The members of a direct room that this process has not put into their indexes; otherwise none.
    pub(crate) fn not_indexed(&self, room: &RoomId) -> Vec<UserId> {
        if !room.is_direct() || self.indexed.epoch(room).is_some() {
            return Vec::new();
        }
        room.direct_members()
            .map(|(one, other)| vec![one, other])
            .unwrap_or_default()
    }

    /// After a message in a direct room: remembers that it is indexed, indexes it again where a failover may have lost that,
    /// and tells the members' nodes of a new room.
    pub(crate) async fn said_in_direct(
        self: &Arc<Self>,
        room: &RoomId,
        stored: &Appended,
        indexed: bool,
    ) -> Result<()> {
        let Some((one, other)) = room.is_direct().then(|| room.direct_members()).flatten() else {
            return Ok(());
        };
        let users = [one, other];
        if !indexed && self.indexed.epoch(room) != Some(stored.epoch) {
            self.store.index.index_room(&users, room).await?;
        }
        self.indexed.insert(room, stored.epoch);
        if stored.created || (stored.duplicate && indexed) {
            let room = room.clone();
            self.follow_up(async move |core: Arc<Self>| {
                // Once more, as with groups: the one before may have been at a master that was lost before the message.
                if let Err(error) = core.store.index.index_room(&users, &room).await {
                    tracing::debug!(%room, %error, "failed to index a direct room a second time");
                }
                core.tell_rooms_changed(&users, Some(&room), None, 0).await;
            })
            .await;
        }
        Ok(())
    }

    /// Tells the users' nodes that a room was added or removed, by the entry `seq` of its log (0: not known). At most once, and
    /// not at all where a node has failed a moment ago: it compares its users' lists once it answers again, see
    /// [`crate::reminders`].
    pub(crate) async fn tell_rooms_changed(
        &self,
        users: &[UserId],
        added: Option<&RoomId>,
        removed: Option<&RoomId>,
        seq: Seq,
    ) {
        let names = |room: Option<&RoomId>| {
            room.iter()
                .map(|room| room.as_str().to_owned())
                .collect::<Vec<_>>()
        };
        for chunk in users.chunks(self.options.limits.max_users_per_call.max(1)) {
            let presence = match self.store.connections.presence(chunk).await {
                Ok(presence) => presence,
                Err(error) => {
                    tracing::warn!(%error, "cannot look up the nodes of a user whose rooms changed; they are not notified");
                    continue;
                }
            };
            for (user, (connections, _)) in chunk.iter().zip(presence) {
                let Some(to) = super::push::nodes_of(&connections) else {
                    continue;
                };
                let user = user.as_str().to_owned();
                let request = RoomsChangedRequest {
                    user,
                    added: names(added),
                    removed: names(removed),
                    seq,
                };
                let tally = self.nodes.rooms_changed(to, request).await;
                if !tally.failed.is_empty() {
                    tracing::info!(nodes = ?tally.failed, "failed to notify nodes that a user's rooms changed; will retry");
                    self.owed.add(&tally.failed);
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
        let mut seen = Vec::new();
        let mut after = after.cloned();
        while seen.len() < limit {
            let step = STEP.min(limit - seen.len());
            let rooms = self
                .store
                .index
                .user_rooms(user, after.as_ref(), step)
                .await?;
            let complete = rooms.len() < step;
            let views = self.store.rooms.views(&rooms, user).await?;
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

    /// A change of a group was refused, or the room has been deleted: it is taken out of the users' indexes, unless they are
    /// in it all the same.
    pub(crate) async fn unindex_all(&self, users: &[UserId], room: &RoomId) {
        for some in users.chunks(REPAIRS) {
            join_all(some.iter().map(|user| self.repair(user, room))).await;
        }
    }

    /// Whether users' lists of rooms still are as a node knows them; see `KnownRooms` in `logic.proto`.
    pub(crate) async fn known_rooms(&self, ask: KnownRooms) -> Result<RoomLists> {
        let limits = &self.options.limits;
        if ask.lists.len() > limits.max_rooms_per_call {
            return Err(Error::LimitReached {
                what: "lists of rooms in one comparison",
                limit: limits.max_rooms_per_call,
            });
        }
        let list = |known: KnownList| async move {
            let user = UserId::new(&known.user)?;
            let rooms = self
                .store
                .index
                .user_rooms(&user, None, limits.max_rooms_per_user)
                .await?;
            let digest = digest(&rooms);
            let rooms = if digest == known.digest {
                Vec::new()
            } else {
                rooms
            };
            Ok::<_, Error>(RoomList {
                digest,
                rooms: rooms
                    .into_iter()
                    .map(|room| room.as_str().to_owned())
                    .collect(),
            })
        };
        let lists = futures::stream::iter(ask.lists)
            .map(list)
            .buffered(CONCURRENCY);
        let mut lists = std::pin::pin!(lists);
        let mut answer = RoomLists::default();
        let mut bytes = 0;
        while bytes < ANSWER_BYTES
            && let Some(list) = lists.try_next().await?
        {
            bytes += list.rooms.iter().map(String::len).sum::<usize>();
            answer.lists.push(list);
        }
        Ok(answer)
    }

    /// Puts rooms that a user has named and may hear into the user's index where it lacks them.
    pub(crate) async fn index_missing(self: &Arc<Self>, user: &UserId, rooms: Vec<RoomId>) {
        if rooms.is_empty() {
            return;
        }
        tracing::info!(%user, rooms = rooms.len(), "user index was missing rooms of the user; repairing it");
        let user = user.clone();
        self.follow_up(async move |core: Arc<Self>| {
            for room in rooms {
                let users = room
                    .direct_members()
                    .map_or_else(|| vec![user.clone()], |(one, other)| vec![one, other]);
                if let Err(error) = core.store.index.index_room(&users, &room).await {
                    tracing::debug!(%user, %room, %error, "failed to add a room to a user's index");
                }
            }
        })
        .await;
    }

    /// Takes a room from the index of a user who is not in it. A membership that begins meanwhile is indexed again: its own
    /// indexing may have come before this.
    pub(crate) async fn unindex(&self, user: &UserId, room: &RoomId) -> Result<()> {
        self.store.index.unindex_room(user, room).await?;
        let views = self
            .store
            .rooms
            .views(std::slice::from_ref(room), user)
            .await?;
        match views.into_iter().next().flatten() {
            Some(view) if room.is_direct() || view.role.is_some() => Ok(self
                .store
                .index
                .index_room(std::slice::from_ref(user), room)
                .await?),
            _ => Ok(()),
        }
    }

    async fn repair(&self, user: &UserId, room: &RoomId) {
        if let Err(error) = self.unindex(user, room).await {
            tracing::debug!(%user, %room, %error, "failed to repair a user's index");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_digest_is_that_of_the_list() {
        let list = |names: &[&str]| {
            names
                .iter()
                .map(|name| RoomId::new(*name).unwrap())
                .collect::<Vec<_>>()
        };
        let lists = [
            list(&[]),
            list(&["a"]),
            list(&["a", "b"]),
            list(&["ab"]),
            list(&["b", "a"]),
        ];
        let digests: HashSet<u64> = lists.iter().map(|list| digest(list)).collect();
        assert_eq!(digests.len(), lists.len());
        assert!(!digests.contains(&0));
        assert_eq!(digest(&list(&["a", "b"])), digest(&list(&["a", "b"])));
    }
}
