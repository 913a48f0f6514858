//! A user's index of rooms: a sorted set with equal scores, so it is in order of id.

use im_redis_bus::{Call, Lane, Slot};
use im_wire::ids::{RoomId, UserId};

use super::Shared;
use super::reply;
use crate::store::{Error, Result};

impl Shared {
    pub(super) async fn user_rooms(&self, user: &UserId, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomId>> {
        let key = self.client.keys().user_rooms(user);
        let mut command = redis::cmd("ZRANGEBYLEX");
        command.arg(&key).arg(after.map_or_else(|| "-".to_owned(), |room| format!("({room}"))).arg("+");
        command.arg("LIMIT").arg(0).arg(limit);
        let call = Call::new(Slot::of(&key), command).repeatable();
        let rooms: Vec<String> = reply::read(self.client.call(Lane::Any, call).await)?;
        rooms.into_iter().map(|room| RoomId::new(room).map_err(|bad| Error::Corrupt(bad.to_string()))).collect()
    }

    pub(super) async fn index_room(&self, users: &[UserId], room: &RoomId) -> Result<()> {
        let calls = users.iter().map(|user| {
            let key = self.client.keys().user_rooms(user);
            let mut command = redis::cmd("ZADD");
            command.arg(&key).arg(0).arg(room.as_str());
            Call::new(Slot::of(&key), command).repeatable()
        });
        let outcomes = self.client.calls(Lane::Any, calls.collect()).await;
        outcomes.into_iter().try_for_each(|outcome| reply::value(outcome).map(drop))
    }

    pub(super) async fn unindex_room(&self, user: &UserId, room: &RoomId) -> Result<()> {
        let key = self.client.keys().user_rooms(user);
        let mut command = redis::cmd("ZREM");
        command.arg(&key).arg(room.as_str());
        let call = Call::new(Slot::of(&key), command).repeatable();
        reply::value(self.client.call(Lane::Any, call).await).map(drop)
    }
}
