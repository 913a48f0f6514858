//! Rooms created and memberships changed, inside the writer's transaction (see [`super::apply`]).

use im_wire::ids::{RoomId, UserId};
use redb::ReadableTable;

use super::DbResult;
use super::apply::{Publication, Tables, Written};
use super::tables::{Room, role_number};
use crate::store::{Access, Appended, Create, Error, Kind, Membership, Role};

impl Tables<'_> {
    pub(super) fn create(&mut self, create: &Create) -> Written<bool> {
        let id = &create.room;
        if let Some(room) = self.room(id)? {
            let same = room.kind == create.kind
                && (room.kind != Kind::Group || self.has_members(id, &room, create)?);
            let what = match room.kind {
                Kind::Direct => "a direct room",
                Kind::Open => "an open room",
                Kind::Group if create.kind == Kind::Group => "a group with other members",
                Kind::Group => "a group",
            };
            return Ok(if same {
                Ok(false)
            } else {
                Err(Error::Conflict {
                    room: id.clone(),
                    what,
                })
            });
        }
        if create.members.len() > self.retention.max_members {
            return Ok(Err(Error::TooManyMembers {
                room: id.clone(),
                limit: self.retention.max_members,
            }));
        }
        self.forget_rows_of(id)?;
        let mut room = Room::new(create.kind, create.time_ms);
        if create.kind == Kind::Group {
            for (user, role) in &create.members {
                let new = self
                    .members
                    .insert((id.as_str(), user.as_str()), (role_number(*role), 0))?
                    .is_none();
                room.members += u64::from(new);
            }
        }
        // By our own clock, whatever time was named.
        room.oldest_ms = self.now_ms;
        self.rooms.insert(id.as_str(), room.row())?;
        self.settle_epoch(id, 0)?;
        Ok(Ok(true))
    }

    /// Whether the group has exactly these members in these roles. One who is named twice has the last role.
    fn has_members(&self, id: &RoomId, room: &Room, create: &Create) -> DbResult<bool> {
        let named: std::collections::HashMap<_, _> = create
            .members
            .iter()
            .map(|(user, role)| (user, *role))
            .collect();
        for (user, role) in &named {
            if self.role(id, user)? != Some(*role) {
                return Ok(false);
            }
        }
        Ok(room.members == named.len() as u64)
    }

    pub(super) fn change_membership(
        &mut self,
        change: Membership,
        publications: &mut Vec<Publication>,
    ) -> Written<Option<Appended>> {
        let Membership {
            room: id,
            user,
            role: wanted,
            access,
            entry,
        } = change;
        let Some(mut room) = self.room(&id)? else {
            return Ok(Err(Error::NoSuchRoom(id)));
        };
        if room.kind != Kind::Group {
            let what = if room.kind == Kind::Direct {
                "a direct room"
            } else {
                "an open room"
            };
            return Ok(Err(Error::Conflict { room: id, what }));
        }
        let had = self.role(&id, &user)?;
        if let Some(refused) = self.refusal(&id, &access, &user, had, wanted)? {
            return Ok(Err(refused));
        }
        if had == wanted {
            return Ok(Ok(None));
        }
        let key = (id.as_str(), user.as_str());
        match wanted {
            Some(role) => {
                if had.is_none() && room.members >= self.retention.max_members as u64 {
                    return Ok(Err(Error::TooManyMembers {
                        room: id,
                        limit: self.retention.max_members,
                    }));
                }
                // The entry that tells of it is the first one a new member has.
                let joined = self
                    .members
                    .get(key)?
                    .map_or(room.head + 1, |row| row.value().1);
                self.members.insert(key, (role_number(role), joined))?;
                room.members += u64::from(had.is_none());
            }
            None => {
                self.members.remove(key)?;
                self.reads.remove(key)?;
                room.members = room.members.saturating_sub(1);
            }
        }
        Ok(Ok(Some(self.store(&id, room, entry, publications)?)))
    }

    /// Members leave by themselves; admins and owners change others; owners alone make and unmake owners.
    fn refusal(
        &self,
        id: &RoomId,
        access: &Access,
        user: &UserId,
        had: Option<Role>,
        wanted: Option<Role>,
    ) -> DbResult<Option<Error>> {
        if access.system {
            return Ok(None);
        }
        let forbidden = |why| {
            Some(Error::Forbidden {
                room: id.clone(),
                user: access.user.clone(),
                why,
            })
        };
        Ok(match self.role(id, &access.user)? {
            None => Some(Error::NotAMember {
                room: id.clone(),
                user: access.user.clone(),
            }),
            Some(_) if wanted.is_none() && access.user == *user => None,
            Some(Role::Member) => forbidden("only admins and owners change who is a member"),
            Some(Role::Admin) if had.max(wanted) == Some(Role::Owner) => {
                forbidden("only owners make and unmake owners")
            }
            Some(_) => None,
        })
    }
}
