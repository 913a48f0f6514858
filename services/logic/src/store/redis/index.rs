//! A user's index of rooms: a sorted set with equal scores, so it is in order of id.

use std::ops::Bound;

use im_redis_bus::{Call, Lane, Slot};
use im_wire::ids::{RoomId, UserId};

use super::Shared;
use super::reply;
use crate::store::{Error, Result, spans};

/// A day's counts are kept for two, whatever the clocks of processes say.
const QUOTA_SECONDS: u64 = 2 * 24 * 3600;

fn bound(bound: Bound<&str>, open: &str) -> String {
    match bound {
        Bound::Included(text) => format!("[{text}"),
        Bound::Excluded(text) => format!("({text}"),
        Bound::Unbounded => open.to_owned(),
    }
}

impl Shared {
    pub(super) async fn user_rooms(&self, user: &UserId, after: Option<&RoomId>, limit: usize) -> Result<Vec<RoomId>> {
        let key = self.client.keys().user_rooms(user);
        let calls = spans(after).into_iter().map(|(from, to)| {
            let mut command = redis::cmd("ZRANGEBYLEX");
            command.arg(&key).arg(bound(from, "-")).arg(bound(to, "+")).arg("LIMIT").arg(0).arg(limit);
            Call::new(Slot::of(&key), command).repeatable()
        });
        let mut rooms = Vec::new();
        for reply in self.client.calls(Lane::Any, calls.collect()).await {
            rooms.extend(reply::read::<Vec<String>>(reply)?);
        }
        rooms.truncate(limit);
        rooms.into_iter().map(|room| RoomId::known(room).map_err(|bad| Error::Corrupt(bad.to_string()))).collect()
    }

    pub(super) async fn spend(&self, user: &UserId, what: &str, day: u64, amount: u64, limit: u64) -> Result<bool> {
        let key = self.client.keys().user_quota(user, what, day);
        let change = |command: &str, by: u64| {
            let mut command = redis::cmd(command);
            command.arg(&key).arg(by);
            Call::new(Slot::of(&key), command)
        };
        let mut expiry = redis::cmd("EXPIRE");
        expiry.arg(&key).arg(QUOTA_SECONDS);
        let calls = vec![change("INCRBY", amount), Call::new(Slot::of(&key), expiry)];
        let mut replies = self.client.calls(Lane::Any, calls).await.into_iter();
        let counted: u64 = match replies.next() {
            Some(reply) => reply::read(reply)?,
            None => return Err(Error::Corrupt("too few replies".to_owned())),
        };
        if counted <= limit {
            return Ok(true);
        }
        reply::value(self.client.call(Lane::Any, change("DECRBY", amount)).await)?;
        Ok(false)
    }

    pub(super) async fn index_room(&self, users: &[UserId], room: &RoomId) -> Result<()> {
        let outcomes = self.client.calls(Lane::Any, self.index_calls(users, room).collect()).await;
        outcomes.into_iter().try_for_each(|outcome| reply::value(outcome).map(drop))
    }

    /// One call for each user.
    pub(super) fn index_calls(&self, users: &[UserId], room: &RoomId) -> impl Iterator<Item = Call> {
        users.iter().map(move |user| {
            let key = self.client.keys().user_rooms(user);
            let mut command = redis::cmd("ZADD");
            command.arg(&key).arg(0).arg(room.as_str());
            Call::new(Slot::of(&key), command).repeatable()
        })
    }

    pub(super) async fn unindex_room(&self, user: &UserId, room: &RoomId) -> Result<()> {
        let key = self.client.keys().user_rooms(user);
        let mut command = redis::cmd("ZREM");
        command.arg(&key).arg(room.as_str());
        let call = Call::new(Slot::of(&key), command).repeatable();
        reply::value(self.client.call(Lane::Any, call).await).map(drop)
    }
}
