//! A user's index of rooms: a sorted set with equal scores, so it is in order of id.

use std::ops::Bound;

use async_trait::async_trait;
use im_redis_bus::{Call, Lane, Slot};
use im_wire::ids::{RoomId, UserId};

use super::reply;
use super::{RedisStore, Shared};
use crate::store::index::spans;
use crate::store::{Error, Index, Result};

fn bound(bound: Bound<&str>, open: &str) -> String {
    match bound {
        Bound::Included(text) => format!("[{text}"),
        Bound::Excluded(text) => format!("({text}"),
        Bound::Unbounded => open.to_owned(),
    }
}

#[async_trait]
impl Index for RedisStore {
    async fn user_rooms(
        &self,
        user: &UserId,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<Vec<RoomId>> {
        let key = self.shared.client.keys().user_rooms(user);
        let calls = spans(after).into_iter().map(|(from, to)| {
            let mut command = redis::cmd("ZRANGEBYLEX");
            command
                .arg(&key)
                .arg(bound(from, "-"))
                .arg(bound(to, "+"))
                .arg("LIMIT")
                .arg(0)
                .arg(limit);
            Call::new(Slot::of(&key), command).repeatable()
        });
        let mut rooms = Vec::new();
        for reply in self.shared.client.calls(Lane::Any, calls.collect()).await {
            rooms.extend(reply::read::<Vec<String>>(reply)?);
        }
        rooms.truncate(limit);
        rooms
            .into_iter()
            .map(|room| RoomId::known(room).map_err(|bad| Error::Corrupt(bad.to_string())))
            .collect()
    }

    async fn index_room(&self, users: &[UserId], room: &RoomId) -> Result<()> {
        let outcomes = self
            .shared
            .client
            .calls(Lane::Any, self.shared.index_calls(users, room).collect())
            .await;
        outcomes
            .into_iter()
            .try_for_each(|outcome| reply::value(outcome).map(drop))
    }

    async fn unindex_room(&self, user: &UserId, room: &RoomId) -> Result<()> {
        let key = self.shared.client.keys().user_rooms(user);
        let mut command = redis::cmd("ZREM");
        command.arg(&key).arg(room.as_str());
        let call = Call::new(Slot::of(&key), command).repeatable();
        reply::value(self.shared.client.call(Lane::Any, call).await).map(drop)
    }
}

impl Shared {
    /// One call for each user.
    pub(super) fn index_calls(
        &self,
        users: &[UserId],
        room: &RoomId,
    ) -> impl Iterator<Item = Call> {
        users.iter().map(move |user| {
            let key = self.client.keys().user_rooms(user);
            let mut command = redis::cmd("ZADD");
            command.arg(&key).arg(0).arg(room.as_str());
            Call::new(Slot::of(&key), command).repeatable()
        })
    }
}
