//! Rooms as such: created, changed, deleted, seen, their members listed.

use async_trait::async_trait;
use im_redis_bus::{Call, Lane, script};
use im_wire::ids::{RoomId, Seq, UserId};
use redis::Value;

use super::job::Job;
use super::letters::{kind_letter, kind_of, role_letter, role_of};
use super::reply::{self, Fields};
use super::{RedisStore, queue};
use crate::store::{
    Appended, Create, Delete, Deleted, Error, Member, Membership, Result, Role, Rooms, View,
};

#[async_trait]
impl Rooms for RedisStore {
    async fn create(&self, create: Create) -> Result<bool> {
        let Create {
            room,
            kind,
            members,
            time_ms,
        } = create;
        let keys = self.shared.client.keys().room(&room);
        let limit = self.shared.options.retention.max_members;
        let mut command = script::create().call(3);
        command
            .arg(keys.meta())
            .arg(keys.members())
            .arg(keys.order())
            .arg(kind_letter(kind))
            .arg(time_ms)
            .arg(limit);
        command.arg(self.shared.rooms_end_after_ms());
        for (user, role) in &members {
            command.arg(user.as_str()).arg(role_letter(*role));
        }
        let call = Call::script(keys.slot(), script::create(), command);
        let (lane, call) = match self.shared.options.wait_replicas {
            0 => (Lane::Any, call),
            // The append queues have the blocking connections before this one.
            _ => (
                Lane::Blocking(self.shared.options.append_workers.max(1)),
                self.shared.waiting(call),
            ),
        };
        let (reply, replicated) = self
            .shared
            .replicated(self.shared.client.call(lane, call).await)?;
        let created = match reply::parsed::<i64>(reply)? {
            0 => false,
            1 => true,
            im_redis_bus::answer::FULL => return Err(Error::TooManyMembers { room, limit }),
            im_redis_bus::answer::FORBIDDEN => {
                return Err(Error::Conflict {
                    room,
                    what: "a group with other members",
                });
            }
            _ => {
                return Err(Error::Conflict {
                    room,
                    what: "of another kind",
                });
            }
        };
        replicated.map(|()| created)
    }

    async fn change_membership(&self, change: Membership) -> Result<Option<Appended>> {
        let place = queue::place(&change.room);
        self.queue
            .run(place, |answer| Job::Membership(change, answer))
            .await
    }

    async fn delete(&self, delete: Delete) -> Result<Deleted> {
        let place = queue::place(&delete.room);
        self.queue
            .run(place, |answer| Job::Delete(delete, answer))
            .await
    }

    async fn members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>> {
        let keys = self.shared.client.keys().room(room);
        let mut command = script::members().call(3);
        command
            .arg(keys.meta())
            .arg(keys.members())
            .arg(keys.order())
            .arg(after.map_or("", UserId::as_str))
            .arg(limit);
        let call = Call::script(keys.slot(), script::members(), command).repeatable();
        let mut fields = Fields::of(reply::value(
            self.shared.client.call(Lane::Any, call).await,
        )?)?;
        if fields.take::<String>()?.is_empty() {
            return Err(Error::NoSuchRoom(room.clone()));
        }
        let mut members = Vec::new();
        while !fields.is_empty() {
            let user: String = fields.take()?;
            let (role, joined) = membership(&fields.take::<String>()?)?;
            let user = UserId::known(user).map_err(|bad| Error::Corrupt(bad.to_string()))?;
            members.push(Member { user, role, joined });
        }
        Ok(members)
    }

    async fn views(&self, rooms: &[RoomId], user: &UserId) -> Result<Vec<Option<View>>> {
        let calls = rooms.iter().flat_map(|room| {
            let keys = self.shared.client.keys().room(room);
            let mut meta = redis::cmd("HMGET");
            let mut member = redis::cmd("HGET");
            let mut read = redis::cmd("HGET");
            meta.arg(keys.meta()).arg(&["k", "e", "h", "c"]);
            member.arg(keys.members()).arg(user.as_str());
            read.arg(keys.read()).arg(user.as_str());
            [meta, member, read].map(|command| Call::new(keys.slot(), command).repeatable())
        });
        let mut replies = self
            .shared
            .client
            .calls(Lane::Any, calls.collect())
            .await
            .into_iter()
            .map(reply::value);
        let mut next = || {
            replies
                .next()
                .unwrap_or_else(|| Err(Error::Corrupt("too few replies".to_owned())))
        };
        rooms
            .iter()
            .map(|_| view(next()?, next()?, next()?))
            .collect()
    }
}

fn view(meta: Value, member: Value, read: Value) -> Result<Option<View>> {
    let mut meta = Fields::of(meta)?;
    let Some(kind) = meta.take::<Option<String>>()? else {
        return Ok(None);
    };
    let mut number = || meta.take::<Option<u64>>();
    let epoch = number()?.unwrap_or(0);
    let head = number()?.unwrap_or(0);
    let created_ms = number()?.unwrap_or(0);
    let member = reply::parsed::<Option<String>>(member)?;
    let (role, joined) = match member.as_deref().map(membership).transpose()? {
        Some((role, joined)) => (Some(role), joined),
        None => (None, 0),
    };
    // The three replies are not one moment: a position read after the head may be beyond it.
    let read = reply::parsed::<Option<u64>>(read)?.unwrap_or(0).min(head);
    Ok(Some(View {
        kind: kind_of(&kind)?,
        epoch,
        head,
        role,
        read,
        joined: joined.min(head),
        created_ms,
    }))
}

/// "role:joined".
fn membership(text: &str) -> Result<(Role, Seq)> {
    let parts = text
        .split_once(':')
        .and_then(|(role, joined)| Some((role_of(role)?, joined.parse().ok()?)));
    parts.ok_or_else(|| Error::Corrupt(format!("the membership {text:?}")))
}
