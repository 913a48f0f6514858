//! Invitations into groups, where users may not simply be added: kept with the user who is invited, taken by joining,
//! declined by leaving. What came of the group and of the inviter's rights is looked at when it is taken.

use std::sync::Arc;

use futures::future::join_all;
use im_proto::v1::{Encoding, Signal};
use im_runtime::clock;
use im_wire::ids::{RoomId, UserId};

use super::{access, role_name};
use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::store::{Invitation, Role};

/// The type of the signal that tells a user of an invitation.
const INVITED: &str = "im.invited";
/// Invitations that a user may have at the same time, and of them those by one inviter.
const MAX_INVITATIONS: usize = 100;
const MAX_FROM_ONE: usize = 10;
/// Invitations noted at the same time.
const CONCURRENCY: usize = 16;

impl Core {
    /// Invites users into a group that has just been made; who could be.
    pub(super) async fn invite_all(
        self: &Arc<Self>,
        who: &Grant,
        room: &RoomId,
        users: &[(UserId, Role)],
    ) -> Vec<UserId> {
        let mut invited = Vec::with_capacity(users.len());
        for some in users.chunks(CONCURRENCY) {
            let outcomes = join_all(
                some.iter()
                    .map(|(user, role)| self.invite(who, room, user, *role)),
            )
            .await;
            for ((user, _), outcome) in some.iter().zip(outcomes) {
                match outcome {
                    Ok(()) => invited.push(user.clone()),
                    Err(error) => tracing::debug!(%room, %user, %error, "a user was not invited"),
                }
            }
        }
        invited
    }

    /// Invites a user into a group. One who has an invitation into it already has this one instead.
    pub(super) async fn invite(
        self: &Arc<Self>,
        who: &Grant,
        room: &RoomId,
        user: &UserId,
        role: Role,
    ) -> Result<()> {
        let by = who.user()?;
        let has = self.store.invitations.invitations(user).await?;
        let by_one = has
            .iter()
            .filter(|one| one.by == by && one.room != *room)
            .count();
        if by_one >= MAX_FROM_ONE {
            return Err(Error::LimitReached {
                what: "invitations by you that a user has not answered",
                limit: MAX_FROM_ONE,
            });
        }
        let invitation = Invitation {
            room: room.clone(),
            by,
            role,
            time_ms: clock::unix_ms(),
        };
        if !self
            .store
            .invitations
            .invite(user, invitation, MAX_INVITATIONS)
            .await?
        {
            return Err(Error::LimitReached {
                what: "invitations that a user has not answered",
                limit: MAX_INVITATIONS,
            });
        }
        let body = serde_json::json!({"room": room, "by": who.user, "role": role_name(role)});
        let signal = Signal {
            r#type: INVITED.to_owned(),
            body: body.to_string().into(),
            encoding: Encoding::Json.into(),
            ..Signal::default()
        };
        let user = user.clone();
        // At most once: the list is what holds.
        self.follow_up(async move |core: Arc<Self>| {
            if let Err(error) = core.push_users(std::slice::from_ref(&user), signal).await {
                tracing::debug!(%user, %error, "a user was not told of an invitation");
            }
        })
        .await;
        Ok(())
    }

    /// The caller's invitations, in order of room id. Those into groups that are no more, or that the caller is in, go.
    pub(crate) async fn invitations(&self, who: &Grant) -> Result<Vec<Invitation>> {
        access::not_a_guest(who)?;
        let user = who.user()?;
        let all = self.store.invitations.invitations(&user).await?;
        let rooms: Vec<RoomId> = all.iter().map(|one| one.room.clone()).collect();
        let views = self.store.rooms.views(&rooms, &user).await?;
        let mut open = Vec::with_capacity(all.len());
        for (invitation, view) in all.into_iter().zip(views) {
            if view.is_some_and(|view| view.role.is_none()) {
                open.push(invitation);
            } else {
                self.store
                    .invitations
                    .uninvite(&user, &invitation.room)
                    .await?;
            }
        }
        Ok(open)
    }

    /// Makes the caller a member of a group by an invitation, as if who wrote it added them now. `None`: there is none.
    pub(super) async fn take_invitation(
        self: &Arc<Self>,
        who: &Grant,
        room: &RoomId,
    ) -> Result<Option<bool>> {
        let user = who.user()?;
        let all = self.store.invitations.invitations(&user).await?;
        let Some(invitation) = all.into_iter().find(|one| one.room == *room) else {
            return Ok(None);
        };
        access::not_a_guest(who)?;
        let inviter = Grant {
            version: Grant::VERSION,
            user: invitation.by.as_str().to_owned(),
            ..Grant::default()
        };
        let joining = async {
            self.may_change(&inviter, room, &user, Some(invitation.role))
                .await?;
            self.put_member(&inviter, room, &user, invitation.role)
                .await
        };
        match joining.await {
            Err(Error::Forbidden(_) | Error::NotAMember(_)) => {
                self.store.invitations.uninvite(&user, room).await?;
                Err(Error::Forbidden(
                    "who invited you may not do so any more: ask for a new invitation",
                ))
            }
            Ok(changed) => {
                self.store.invitations.uninvite(&user, room).await?;
                Ok(Some(changed))
            }
            Err(error) => Err(error),
        }
    }
}
