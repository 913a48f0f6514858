//! Invitations into groups, kept with the users who are invited.

use async_trait::async_trait;
use im_wire::ids::{RoomId, UserId};
use redb::{ReadTransaction, ReadableTable};

use super::apply::{Tables, Written};
use super::tables::{INVITATIONS, InvitationRow, LAST, checked, role, role_number};
use super::write::Write;
use super::{DbResult, EmbeddedStore};
use crate::store::{Invitation, Invitations, Result};

fn invitation(room: &str, (number, time_ms, by): InvitationRow<'_>) -> DbResult<Invitation> {
    Ok(Invitation {
        room: checked(RoomId::known(room))?,
        by: checked(UserId::known(by))?,
        role: role(number),
        time_ms,
    })
}

/// All of a user's, whether they hold or not.
fn all(
    table: &impl ReadableTable<(&'static str, &'static str), InvitationRow<'static>>,
    user: &UserId,
) -> DbResult<Vec<Invitation>> {
    let rows = table.range((user.as_str(), "")..=(user.as_str(), LAST))?;
    rows.map(|row| {
        let (key, value) = row?;
        invitation(key.value().1, value.value())
    })
    .collect()
}

fn of(snapshot: &ReadTransaction, user: &UserId) -> DbResult<Vec<Invitation>> {
    let mut all = all(&snapshot.open_table(INVITATIONS)?, user)?;
    all.retain(Invitation::holds);
    Ok(all)
}

#[async_trait]
impl Invitations for EmbeddedStore {
    async fn invite(&self, user: &UserId, invitation: Invitation, max: usize) -> Result<bool> {
        let user = user.clone();
        self.write(|done| Write::Invite {
            user,
            invitation,
            max,
            done,
        })
        .await
    }

    async fn invitations(&self, user: &UserId) -> Result<Vec<Invitation>> {
        let user = user.clone();
        self.read(move |snapshot| of(snapshot, &user)).await
    }

    async fn uninvite(&self, user: &UserId, room: &RoomId) -> Result<bool> {
        let user = user.clone();
        let room = room.clone();
        self.write(|done| Write::Uninvite { user, room, done })
            .await
    }
}

impl Tables<'_> {
    pub(super) fn invite(&mut self, user: &UserId, new: &Invitation, max: usize) -> Written<bool> {
        let mut table = self.transaction.open_table(INVITATIONS)?;
        let mut others = 0;
        for one in all(&table, user)?.iter().filter(|one| one.room != new.room) {
            if one.holds() {
                others += 1;
            } else {
                table.remove((user.as_str(), one.room.as_str()))?;
            }
        }
        if others >= max {
            return Ok(Ok(false));
        }
        table.insert(
            (user.as_str(), new.room.as_str()),
            (role_number(new.role), new.time_ms, new.by.as_str()),
        )?;
        Ok(Ok(true))
    }

    pub(super) fn uninvite(&mut self, user: &UserId, room: &RoomId) -> Written<bool> {
        let mut table = self.transaction.open_table(INVITATIONS)?;
        let removed = table.remove((user.as_str(), room.as_str()))?.is_some();
        Ok(Ok(removed))
    }
}
