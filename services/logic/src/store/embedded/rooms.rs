//! Rooms as such: created, changed and deleted by the writer; who is in them, and what a user sees of them.

use async_trait::async_trait;
use im_wire::ids::{Epoch, RoomId, UserId};
use redb::ReadTransaction;

use super::tables::{LAST, MEMBERS, READS, ROOMS, Room, checked, role};
use super::write::Write;
use super::{DbResult, EmbeddedStore, epochs};
use crate::store::{
    Appended, Create, Delete, Deleted, Error, Member, Membership, Result, Rooms, View,
};

#[async_trait]
impl Rooms for EmbeddedStore {
    async fn create(&self, create: Create) -> Result<bool> {
        self.write(|done| Write::Create(create, done)).await
    }

    async fn change_membership(&self, change: Membership) -> Result<Option<Appended>> {
        self.write(|done| Write::Membership(change, done)).await
    }

    async fn delete(&self, delete: Delete) -> Result<Deleted> {
        self.write(|done| Write::Delete(delete, done)).await
    }

    async fn members(
        &self,
        room: &RoomId,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<Member>> {
        let asked = room.clone();
        let after = after.cloned();
        let members = self
            .read(move |snapshot| members(snapshot, &asked, after.as_ref(), limit))
            .await?;
        members.ok_or_else(|| Error::NoSuchRoom(room.clone()))
    }

    async fn views(&self, rooms: &[RoomId], user: &UserId) -> Result<Vec<Option<View>>> {
        let rooms = rooms.to_vec();
        let user = user.clone();
        let epoch = self.epoch;
        self.read(move |snapshot| {
            rooms
                .iter()
                .map(|room| view(snapshot, room, &user, epoch))
                .collect()
        })
        .await
    }
}

fn view(
    snapshot: &ReadTransaction,
    id: &RoomId,
    user: &UserId,
    file: Epoch,
) -> DbResult<Option<View>> {
    let Some(room) = snapshot
        .open_table(ROOMS)?
        .get(id.as_str())?
        .map(|row| Room::from(row.value()))
    else {
        return Ok(None);
    };
    let key = (id.as_str(), user.as_str());
    let member = snapshot
        .open_table(MEMBERS)?
        .get(key)?
        .map(|row| row.value());
    let read = snapshot
        .open_table(READS)?
        .get(key)?
        .map_or(0, |row| row.value());
    Ok(Some(View {
        kind: room.kind,
        epoch: epochs::in_force(snapshot, id, file)?,
        head: room.head,
        role: member.map(|(number, _)| role(number)),
        read,
        joined: member.map_or(0, |(_, joined)| joined),
        created_ms: room.created_ms,
    }))
}

/// The members of a group; `None` where there is no such room.
fn members(
    snapshot: &ReadTransaction,
    id: &RoomId,
    after: Option<&UserId>,
    limit: usize,
) -> DbResult<Option<Vec<Member>>> {
    if snapshot.open_table(ROOMS)?.get(id.as_str())?.is_none() {
        return Ok(None);
    }
    let table = snapshot.open_table(MEMBERS)?;
    let from = after.map_or("", UserId::as_str);
    let rows = table.range((id.as_str(), from)..=(id.as_str(), LAST))?;
    let mut members = Vec::new();
    for row in rows {
        if members.len() >= limit {
            break;
        }
        let (key, value) = row?;
        let user = key.value().1;
        if Some(user) != after.map(UserId::as_str) {
            let (number, joined) = value.value();
            members.push(Member {
                user: checked(UserId::known(user))?,
                role: role(number),
                joined,
            });
        }
    }
    Ok(Some(members))
}
