//! Users' indexes of rooms.

use std::ops::Bound;

use async_trait::async_trait;
use im_wire::ids::{RoomId, UserId};
use redb::ReadTransaction;

use super::apply::{Tables, Written};
use super::tables::{LAST, USER_ROOMS, checked};
use super::write::Write;
use super::{DbResult, EmbeddedStore};
use crate::store::index::spans;
use crate::store::{Index, Result};

#[async_trait]
impl Index for EmbeddedStore {
    async fn user_rooms(
        &self,
        user: &UserId,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomId>> {
        let user = user.clone();
        let after = after.cloned();
        self.read(move |snapshot| user_rooms(snapshot, &user, after.as_ref(), limit))
            .await
    }

    async fn index_room(&self, users: &[UserId], room: &RoomId) -> Result<()> {
        let users = users.to_vec();
        let room = room.clone();
        self.write(|done| Write::Index { users, room, done }).await
    }

    async fn unindex_room(&self, user: &UserId, room: &RoomId) -> Result<()> {
        let user = user.clone();
        let room = room.clone();
        self.write(|done| Write::Unindex { user, room, done }).await
    }
}

impl Tables<'_> {
    pub(super) fn index(&mut self, users: &[UserId], room: &RoomId) -> Written<()> {
        for user in users {
            self.user_rooms.insert((user.as_str(), room.as_str()), ())?;
        }
        Ok(Ok(()))
    }

    pub(super) fn unindex(&mut self, user: &UserId, room: &RoomId) -> Written<()> {
        self.user_rooms.remove((user.as_str(), room.as_str()))?;
        Ok(Ok(()))
    }
}

fn user_rooms(
    snapshot: &ReadTransaction,
    user: &UserId,
    after: Option<&RoomId>,
    limit: usize,
) -> DbResult<Vec<RoomId>> {
    let table = snapshot.open_table(USER_ROOMS)?;
    let mut rooms = Vec::new();
    for (from, to) in spans(after) {
        let from = match from {
            Bound::Unbounded => Bound::Included((user.as_str(), "")),
            from => from.map(|room| (user.as_str(), room)),
        };
        let to = match to {
            Bound::Unbounded => Bound::Included((user.as_str(), LAST)),
            to => to.map(|room| (user.as_str(), room)),
        };
        for row in table.range((from, to))?.take(limit - rooms.len()) {
            rooms.push(checked(RoomId::known(row?.0.value().1))?);
        }
    }
    Ok(rooms)
}
