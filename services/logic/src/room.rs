//! Rooms as such: what somebody may do in one, how one comes into being and ends, who is in it.

pub(crate) mod access;
pub(crate) mod adding;
pub(crate) mod create;
pub(crate) mod delete;
mod invitation;
pub(crate) mod membership;

use im_wire::ids::RoomId;

use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::store::{Kind, Role, View};

/// The kind's name in answers.
pub(crate) fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Direct => "direct",
        Kind::Group => "group",
        Kind::Open => "open",
    }
}

/// The role's name in answers.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Admin => "admin",
        Role::Owner => "owner",
    }
}

/// The role of this name.
pub(crate) fn role_of(name: &str) -> Result<Role> {
    match name {
        "member" => Ok(Role::Member),
        "admin" => Ok(Role::Admin),
        "owner" => Ok(Role::Owner),
        _ => Err(Error::bad(
            "role",
            "is none: use \"member\", \"admin\" or \"owner\"",
        )),
    }
}

/// What a user has not read of a room.
pub(crate) fn unread(head: u64, read: u64, joined: u64) -> u64 {
    head.saturating_sub(read.max(joined))
}

impl Core {
    /// What the caller sees of a room that they may hear.
    pub(crate) async fn view(&self, who: &Grant, room: &RoomId) -> Result<View> {
        let user = who.user()?;
        let mut views = self
            .store
            .rooms
            .views(std::slice::from_ref(room), &user)
            .await?;
        access::judge(who, room, views.pop().flatten())
    }
}
