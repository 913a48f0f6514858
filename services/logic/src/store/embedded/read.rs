//! Reading what rooms are, who is in them, and users' indexes.

use std::ops::Bound;

use im_wire::ids::{Epoch, RoomId, Seq, UserId};
use redb::ReadTransaction;

use super::tables::{MEMBERS, READS, ROOMS, Room, SEEN, USER_ROOMS, role};
use super::{Plain, epochs};
use crate::store::{Member, View, spans};

/// Sorts behind every character that an id may have.
pub(super) const LAST: &str = "\u{10ffff}";

pub(super) fn checked<T>(made: Result<T, im_wire::ids::BadId>) -> Plain<T> {
    made.map_err(|bad| redb::Error::Corrupted(bad.to_string()))
}

pub(super) fn view(snapshot: &ReadTransaction, id: &RoomId, user: &UserId, file: Epoch) -> Plain<Option<View>> {
    let Some(room) = snapshot.open_table(ROOMS)?.get(id.as_str())?.map(|row| Room::from(row.value())) else {
        return Ok(None);
    };
    let key = (id.as_str(), user.as_str());
    let member = snapshot.open_table(MEMBERS)?.get(key)?.map(|row| row.value());
    let read = snapshot.open_table(READS)?.get(key)?.map_or(0, |row| row.value());
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

pub(super) fn head(snapshot: &ReadTransaction, id: &RoomId, file: Epoch) -> Plain<(Epoch, Seq)> {
    match snapshot.open_table(ROOMS)?.get(id.as_str())?.map(|row| Room::from(row.value())) {
        Some(room) => Ok((epochs::in_force(snapshot, id, file)?, room.head)),
        None => Ok((0, 0)),
    }
}

/// The members of a group; `None` where there is no such room.
pub(super) fn members(
    snapshot: &ReadTransaction,
    id: &RoomId,
    after: Option<&UserId>,
    limit: usize,
) -> Plain<Option<Vec<Member>>> {
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
            members.push(Member { user: checked(UserId::known(user))?, role: role(number), joined });
        }
    }
    Ok(Some(members))
}

pub(super) fn user_rooms(
    snapshot: &ReadTransaction,
    user: &UserId,
    after: Option<&RoomId>,
    limit: usize,
) -> Plain<Vec<RoomId>> {
    let table = snapshot.open_table(USER_ROOMS)?;
    let mut rooms = Vec::new();
    for (from, to) in spans(after) {
        let from = match from {
            Bound::Unbounded => Bound::Included((user.as_str(), "")),
            from => from.map(|room| (user.as_str(), room)),
        };
        let to = match to {
            Bound::Unbounded => Bound::Included((user.as_str(), LAST)),
            to => to.map(|room| (user.as_str(), room)),
        };
        for row in table.range((from, to))?.take(limit - rooms.len()) {
            rooms.push(checked(RoomId::known(row?.0.value().1))?);
        }
    }
    Ok(rooms)
}

/// When these users were last seen, in their order; 0: never.
pub(super) fn seen(snapshot: &ReadTransaction, users: &[UserId]) -> Plain<Vec<u64>> {
    let table = snapshot.open_table(SEEN)?;
    users.iter().map(|user| Ok(table.get(user.as_str())?.map_or(0, |row| row.value()))).collect()
}
