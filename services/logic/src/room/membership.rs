//! Who is in a group: joining, leaving, being added and removed, roles. Every change is an entry of the room's log, stored
//! in the same atomic step.

use std::sync::Arc;

use im_proto::v1::{Encoding, Entry};
use im_runtime::clock;
use im_wire::ids::{RoomId, Seq, UserId};
use uuid::Uuid;

use super::adding::Brings;
use super::{access, role_name};
use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::store::{Access, Kind, Member, Membership, Role};

/// The type of the entry that tells of a new member or role.
pub(crate) const JOIN: &str = "im.join";
/// The type of the entry that tells that a member is none any more.
pub(crate) const LEAVE: &str = "im.leave";

/// What came of putting somebody into a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    /// It was so already.
    AsBefore,
    /// A new member, or a member with another role.
    Changed,
    /// They are asked.
    Invited,
}

impl Core {
    /// Makes a user a member of a group with a role, or gives a member another role; or invites them.
    pub(crate) async fn set_member(
        self: &Arc<Self>,
        who: &Grant,
        room: &RoomId,
        user: &UserId,
        role: Role,
    ) -> Result<Put> {
        self.may_change(who, room, user, Some(role)).await?;
        match self.bring(who, room, user).await? {
            Brings::Invited => {
                self.invite(who, room, user, role).await?;
                Ok(Put::Invited)
            }
            Brings::Members if self.put_member(who, room, user, role).await? => Ok(Put::Changed),
            Brings::Members => Ok(Put::AsBefore),
        }
    }

    /// Makes a user a member, where it has been looked at that the caller may. `false`: it was so already.
    pub(super) async fn put_member(
        self: &Arc<Self>,
        who: &Grant,
        room: &RoomId,
        user: &UserId,
        role: Role,
    ) -> Result<bool> {
        // Before and after: see the module `index`.
        self.store
            .index
            .index_room(std::slice::from_ref(user), room)
            .await?;
        let changed = match self
            .change(who, access::for_caller(who, room)?, room, user, Some(role))
            .await
        {
            Err(Error::Store(error)) if error.is_refusal() => {
                self.unindex_all(std::slice::from_ref(user), room).await;
                return Err(error.into());
            }
            changed => changed?,
        };
        self.store
            .index
            .index_room(std::slice::from_ref(user), room)
            .await?;
        // Also where it was so already: an earlier try may have been stored and not told.
        self.tell_later(user, room, true, changed).await;
        Ok(changed.is_some())
    }

    /// Whether the caller may make this user a member, who may be one already; counted if not.
    async fn bring(&self, who: &Grant, room: &RoomId, user: &UserId) -> Result<Brings> {
        self.no_guests(std::slice::from_ref(user), "user")?;
        if who.admin || who.user()? == *user {
            return Ok(Brings::Members);
        }
        let now = self
            .store
            .rooms
            .views(std::slice::from_ref(room), user)
            .await?;
        if now.into_iter().flatten().any(|view| view.role.is_some()) {
            return Ok(Brings::Members);
        }
        let brings = self
            .may_bring(who, std::slice::from_ref(user), "user")
            .await?;
        self.spend_adds(who, 1).await?;
        Ok(brings)
    }

    /// Ends a membership, one's own or another's, or takes an invitation back. `false`: there was none.
    pub(crate) async fn end_member(
        self: &Arc<Self>,
        who: &Grant,
        room: &RoomId,
        user: &UserId,
    ) -> Result<bool> {
        self.may_change(who, room, user, None).await?;
        let own = access::for_caller(who, room)?;
        let changed = self.change(who, own, room, user, None).await?;
        if changed.is_none() && self.store.invitations.uninvite(user, room).await? {
            return Ok(true);
        }
        self.tell_ended(user, room, changed).await?;
        Ok(changed.is_some())
    }

    /// Enters a room: a group as a member, by an invitation (only an administrator may bring themselves in), an open room by
    /// its token.
    pub(crate) async fn join(self: &Arc<Self>, who: &Grant, room: &RoomId) -> Result<bool> {
        let view = match self.view(who, room).await {
            Err(Error::NotAMember(room)) => {
                return self
                    .take_invitation(who, &room)
                    .await?
                    .ok_or(Error::NotAMember(room));
            }
            view => view?,
        };
        if view.kind != Kind::Group {
            return Ok(false);
        }
        if view.role.is_some() {
            let user = who.user()?;
            self.store
                .index
                .index_room(std::slice::from_ref(&user), room)
                .await?;
            self.tell_later(&user, room, true, None).await;
            return Ok(false);
        }
        self.put_member(who, room, &who.user()?, Role::Member).await
    }

    /// Leaves a group, or declines an invitation into it. Nobody is a stored member of an open room.
    pub(crate) async fn leave(self: &Arc<Self>, who: &Grant, room: &RoomId) -> Result<bool> {
        let user = who.user()?;
        let view = match self.view(who, room).await {
            Err(Error::NotAMember(room))
                if self.store.invitations.uninvite(&user, &room).await? =>
            {
                return Ok(true);
            }
            Err(Error::NotAMember(room)) => return self.left_before(who, &room, &user).await,
            view => view?,
        };
        if view.kind == Kind::Open {
            return Ok(false);
        }
        self.end_member(who, room, &user).await
    }

    /// The caller seems to have left. An earlier try may have done that without the replicas' word, so that a failover could
    /// still take it back, and without telling anybody: the store confirms it now, and the rest is made good.
    async fn left_before(
        self: &Arc<Self>,
        who: &Grant,
        room: &RoomId,
        user: &UserId,
    ) -> Result<bool> {
        // Whoever is no member may change nothing, not even end what has ended: the store is asked in the system's name.
        let system = Access {
            system: true,
            ..access::for_caller(who, room)?
        };
        let changed = self.change(who, system, room, user, None).await?;
        self.tell_ended(user, room, changed).await?;
        if changed.is_some() {
            Ok(true)
        } else {
            Err(Error::NotAMember(room.clone()))
        }
    }

    /// The members of a room that the caller may hear, in order of user id.
    pub(crate) async fn members(
        &self,
        who: &Grant,
        room: &RoomId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>> {
        let view = self.view(who, room).await?;
        match view.kind {
            Kind::Group => Ok(self.store.rooms.members(room, after, limit).await?),
            Kind::Open => Err(Error::Conflict(format!(
                "{room} is open: whoever is connected to it is in it"
            ))),
            Kind::Direct => {
                let (one, other) =
                    access::pair(room)?.ok_or(Error::Internal("a direct room without members"))?;
                let member = |user| Member {
                    user,
                    role: Role::Member,
                    joined: 0,
                };
                let behind = |member: &Member| after.is_none_or(|after| member.user > *after);
                Ok([one, other]
                    .into_iter()
                    .map(member)
                    .filter(behind)
                    .take(limit)
                    .collect())
            }
        }
    }

    /// What the store's rule (a member leaves alone; administrators and owners change others) leaves open: only owners
    /// make and unmake administrators and owners. The roles may change between this look and the change; a role that is
    /// taken away at that very moment counts as still held.
    pub(super) async fn may_change(
        &self,
        who: &Grant,
        room: &RoomId,
        user: &UserId,
        role: Option<Role>,
    ) -> Result<()> {
        if room.is_direct() {
            return Err(Error::Conflict(format!(
                "{room} is direct: its members are its two users, for ever"
            )));
        }
        let view = self.view(who, room).await?;
        if view.kind != Kind::Group {
            return Err(Error::Conflict(format!(
                "{room} is open: nobody is made a member of it"
            )));
        }
        let caller = who.user()?;
        let leaves = caller == *user && role.is_none();
        if who.admin || view.role == Some(Role::Owner) || leaves {
            return Ok(());
        }
        if view.role == Some(Role::Member) && !(caller == *user && role == view.role) {
            return Err(Error::Forbidden(
                "only administrators and owners of a group change who is in it",
            ));
        }
        let now = self
            .store
            .rooms
            .views(std::slice::from_ref(room), user)
            .await?;
        let now = now.into_iter().next().flatten().and_then(|view| view.role);
        if role.max(now) > Some(Role::Member) && role != now {
            return Err(Error::Forbidden(
                "only owners of a group make and unmake its administrators and owners",
            ));
        }
        Ok(())
    }

    /// Where the change stands in the room's log; `None`: it was so already.
    async fn change(
        &self,
        who: &Grant,
        access: Access,
        room: &RoomId,
        user: &UserId,
        role: Option<Role>,
    ) -> Result<Option<Seq>> {
        let change = Membership {
            room: room.clone(),
            user: user.clone(),
            role,
            access,
            entry: entry(who, user, role),
        };
        Ok(self
            .store
            .rooms
            .change_membership(change)
            .await?
            .map(|appended| appended.seq))
    }

    /// A membership has ended, `changed` in the log or before: the member's list and nodes follow.
    async fn tell_ended(
        self: &Arc<Self>,
        user: &UserId,
        room: &RoomId,
        changed: Option<Seq>,
    ) -> Result<()> {
        self.unindex(user, room).await?;
        self.tell_later(user, room, false, changed).await;
        Ok(())
    }

    async fn tell_later(
        self: &Arc<Self>,
        user: &UserId,
        room: &RoomId,
        added: bool,
        seq: Option<Seq>,
    ) {
        let seq = seq.unwrap_or(0);
        let user = user.clone();
        let room = room.clone();
        self.follow_up(async move |core: Arc<Self>| {
            let (added, removed) = if added {
                (Some(&room), None)
            } else {
                (None, Some(&room))
            };
            core.tell_rooms_changed(std::slice::from_ref(&user), added, removed, seq)
                .await;
        })
        .await;
    }
}

fn entry(who: &Grant, user: &UserId, role: Option<Role>) -> Entry {
    let id = Uuid::now_v7().to_string();
    let (kind, body) = match role {
        Some(role) => (
            JOIN,
            serde_json::json!({"user": user, "by": who.user, "role": role_name(role)}),
        ),
        None => (LEAVE, serde_json::json!({"user": user, "by": who.user})),
    };
    Entry {
        client_id: id.clone(),
        id,
        from: who.user.clone(),
        r#type: kind.to_owned(),
        body: body.to_string().into(),
        encoding: Encoding::Json.into(),
        time_ms: clock::unix_ms(),
        device: who.device.clone(),
    }
}
