//! Invitations into groups: a hash of the user who is invited, by room. It goes when its newest would.

use async_trait::async_trait;
use im_redis_bus::{Call, Lane, Slot};
use im_wire::ids::{RoomId, UserId};

use super::letters::{role_letter, role_of};
use super::reply;
use super::{RedisStore, Shared};
use crate::store::invitations::INVITATION_LASTS;
use crate::store::{Error, Invitation, Invitations, Result};

fn written(invitation: &Invitation) -> String {
    format!(
        "{}:{}:{}",
        role_letter(invitation.role),
        invitation.time_ms,
        invitation.by
    )
}

fn read(room: &str, text: &str) -> Option<Invitation> {
    let mut parts = text.splitn(3, ':');
    let role = role_of(parts.next()?)?;
    let time_ms = parts.next()?.parse().ok()?;
    let by = UserId::known(parts.next()?).ok()?;
    Some(Invitation {
        room: RoomId::known(room).ok()?,
        by,
        role,
        time_ms,
    })
}

#[async_trait]
impl Invitations for RedisStore {
    async fn invite(&self, user: &UserId, invitation: Invitation, max: usize) -> Result<bool> {
        let key = self.shared.client.keys().user_invitations(user);
        let mut put = redis::cmd("HSET");
        put.arg(&key)
            .arg(invitation.room.as_str())
            .arg(written(&invitation));
        let mut number = redis::cmd("HLEN");
        number.arg(&key);
        let mut expiry = redis::cmd("EXPIRE");
        expiry.arg(&key).arg(INVITATION_LASTS.as_secs());
        let calls =
            [put, number, expiry].map(|command| Call::new(Slot::of(&key), command).repeatable());
        let mut replies = self
            .shared
            .client
            .calls(Lane::Any, calls.into())
            .await
            .into_iter();
        let mut next = || {
            replies
                .next()
                .ok_or_else(|| Error::Corrupt("too few replies".to_owned()))
        };
        let is_new: u64 = reply::read(next()?)?;
        let number: usize = reply::read(next()?)?;
        if is_new == 0 || number <= max {
            return Ok(true);
        }
        self.uninvite(user, &invitation.room).await?;
        // Those that hold no more are taken away for the next.
        self.invitations(user).await?;
        Ok(false)
    }

    async fn invitations(&self, user: &UserId) -> Result<Vec<Invitation>> {
        let key = self.shared.client.keys().user_invitations(user);
        let mut command = redis::cmd("HGETALL");
        command.arg(&key);
        let call = Call::new(Slot::of(&key), command).repeatable();
        let all: Vec<(String, String)> =
            reply::read(self.shared.client.call(Lane::Any, call).await)?;
        let mut invitations = Vec::with_capacity(all.len());
        for (room, text) in &all {
            match read(room, text).filter(Invitation::holds) {
                Some(invitation) => invitations.push(invitation),
                None => _ = self.shared.forget_invitation(&key, room).await?,
            }
        }
        invitations.sort_by(|one, other| one.room.cmp(&other.room));
        Ok(invitations)
    }

    async fn uninvite(&self, user: &UserId, room: &RoomId) -> Result<bool> {
        self.shared
            .forget_invitation(
                &self.shared.client.keys().user_invitations(user),
                room.as_str(),
            )
            .await
    }
}

impl Shared {
    async fn forget_invitation(&self, key: &str, room: &str) -> Result<bool> {
        let mut command = redis::cmd("HDEL");
        command.arg(key).arg(room);
        let removed: u64 = reply::read(
            self.client
                .call(Lane::Any, Call::new(Slot::of(key), command).repeatable())
                .await,
        )?;
        Ok(removed > 0)
    }
}
