//! Writes inside the writer's transaction. The outer result is the database's, the inner one the caller's: a refused
//! write has changed nothing, and the transaction goes on.

use std::time::{SystemTime, UNIX_EPOCH};

use im_proto::v1::Entry;
use im_wire::ids::{Epoch, RoomId, Seq, UserId};
use prost::Message as _;
use redb::{ReadableTable, Table, WriteTransaction};

use super::tables::{DEDUPE, DEDUPE_AGE, LOG, MEMBERS, READS, ROOMS, Room, RoomRow, USER_ROOMS, role, role_number};
use super::writer::Publication;
use crate::store::{Access, Append, Appended, Create, Error, Kind, Membership, ReadPosition, Result, Retention, Role};

/// Entries removed with one append at most, and dedupe entries with one transaction: the work stays bounded, and faster
/// than what is added.
const TRIM: u64 = 16;
const FORGET: usize = 4_096;

type Written<T> = std::result::Result<Result<T>, redb::Error>;
type Plain<T> = std::result::Result<T, redb::Error>;

/// The open tables of one transaction.
pub(super) struct Sheets<'t> {
    rooms: Table<'t, &'static str, RoomRow>,
    log: Table<'t, (&'static str, u64), &'static [u8]>,
    dedupe: Table<'t, (&'static str, &'static str, &'static str), (u64, u64)>,
    dedupe_age: Table<'t, (u64, u64), (&'static str, &'static str, &'static str)>,
    members: Table<'t, (&'static str, &'static str), (u8, u64)>,
    reads: Table<'t, (&'static str, &'static str), u64>,
    user_rooms: Table<'t, (&'static str, &'static str), ()>,
    epoch: Epoch,
    retention: &'t Retention,
    now_ms: u64,
    number: u64,
}

impl<'t> Sheets<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction, epoch: Epoch, retention: &'t Retention) -> Plain<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        Ok(Self {
            rooms: transaction.open_table(ROOMS)?,
            log: transaction.open_table(LOG)?,
            dedupe: transaction.open_table(DEDUPE)?,
            dedupe_age: transaction.open_table(DEDUPE_AGE)?,
            members: transaction.open_table(MEMBERS)?,
            reads: transaction.open_table(READS)?,
            user_rooms: transaction.open_table(USER_ROOMS)?,
            epoch,
            retention,
            now_ms: u64::try_from(now).unwrap_or(0),
            number: rand::random(),
        })
    }

    fn room(&self, room: &RoomId) -> Plain<Option<Room>> {
        Ok(self.rooms.get(room.as_str())?.map(|row| Room::from(row.value())))
    }

    fn role(&self, room: &RoomId, user: &UserId) -> Plain<Option<Role>> {
        Ok(self.members.get((room.as_str(), user.as_str()))?.map(|row| role(row.value().0)))
    }

    pub(super) fn append(&mut self, append: Append, publications: &mut Vec<Publication>) -> Written<Appended> {
        let Append { room: id, access, client_id, entry } = append;
        let (room, created) = match self.admit(&id, &access)? {
            Ok(admitted) => admitted,
            Err(refused) => return Ok(Err(refused)),
        };
        if let Some(first) = self.known(&id, &entry.from, client_id.as_str())? {
            publications.push(Publication { room: id, seq: first.0.seq, entry: first.1 });
            return Ok(Ok(first.0));
        }
        let appended = self.store(&id, room, entry, Some(client_id.as_str()), publications)?;
        Ok(Ok(Appended { created, ..appended }))
    }

    /// Whether the access covers the room; one that may come into being with this append is made up here.
    fn admit(&self, id: &RoomId, access: &Access) -> Plain<Result<(Room, bool)>> {
        let user = &access.user;
        let Some(room) = self.room(id)? else {
            let kind = match access {
                Access { direct: true, .. } => Kind::Direct,
                Access { open: true, .. } => Kind::Open,
                _ => return Ok(Err(Error::NoSuchRoom(id.clone()))),
            };
            return Ok(Ok((Room::new(kind, self.now_ms), true)));
        };
        let forbidden = |why| Error::Forbidden { room: id.clone(), user: user.clone(), why };
        let refused = match room.kind {
            _ if access.system => None,
            Kind::Direct => (!access.direct).then(|| forbidden("a direct room is for its two members")),
            Kind::Open => (!access.open).then(|| forbidden("the token's rooms must cover it")),
            Kind::Group if self.role(id, user)?.is_some() => None,
            Kind::Group => Some(Error::NotAMember { room: id.clone(), user: user.clone() }),
        };
        Ok(refused.map_or(Ok((room, false)), Err))
    }

    /// The entry that was stored under this client id within the window.
    fn known(&self, id: &RoomId, from: &str, client_id: &str) -> Plain<Option<(Appended, Entry)>> {
        let Some(row) = self.dedupe.get((id.as_str(), from, client_id))? else { return Ok(None) };
        let (seq, stored_ms) = row.value();
        let window = u64::try_from(self.retention.dedupe_window.as_millis()).unwrap_or(u64::MAX);
        if self.now_ms.saturating_sub(stored_ms) > window {
            return Ok(None);
        }
        // Retention may have removed the entry; then nothing tells that it was there.
        let Some(bytes) = self.log.get((id.as_str(), seq))? else { return Ok(None) };
        let entry = Entry::decode(bytes.value()).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
        let (id, time_ms) = (entry.id.clone(), entry.time_ms);
        Ok(Some((Appended { id, epoch: self.epoch, seq, time_ms, duplicate: true, created: false }, entry)))
    }

    /// The one place that adds to a log.
    fn store(
        &mut self,
        id: &RoomId,
        mut room: Room,
        entry: Entry,
        client_id: Option<&str>,
        publications: &mut Vec<Publication>,
    ) -> Plain<Appended> {
        room.head += 1;
        let seq = room.head;
        self.log.insert((id.as_str(), seq), entry.encode_to_vec().as_slice())?;
        if let Some(client_id) = client_id {
            let key = (id.as_str(), entry.from.as_str(), client_id);
            self.dedupe.insert(key, (seq, self.now_ms))?;
            self.number = self.number.wrapping_add(1);
            self.dedupe_age.insert((self.now_ms, self.number), key)?;
        }
        self.trim(id, &mut room)?;
        self.rooms.insert(id.as_str(), room.row())?;
        let appended = Appended {
            id: entry.id.clone(),
            epoch: self.epoch,
            seq,
            time_ms: entry.time_ms,
            duplicate: false,
            created: false,
        };
        publications.push(Publication { room: id.clone(), seq, entry });
        Ok(appended)
    }

    fn trim(&mut self, id: &RoomId, room: &mut Room) -> Plain<()> {
        let max_age = u64::try_from(self.retention.max_age.as_millis()).unwrap_or(u64::MAX);
        for _ in 0..TRIM {
            let too_many = room.head + 1 - room.first > self.retention.max_entries.max(1);
            if room.first >= room.head || !(too_many || max_age > 0 && self.is_old(id, room.first, max_age)?) {
                break;
            }
            self.log.remove((id.as_str(), room.first))?;
            room.first += 1;
        }
        Ok(())
    }

    fn is_old(&self, id: &RoomId, seq: Seq, max_age: u64) -> Plain<bool> {
        let Some(bytes) = self.log.get((id.as_str(), seq))? else { return Ok(true) };
        let entry = Entry::decode(bytes.value()).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
        Ok(self.now_ms.saturating_sub(entry.time_ms) > max_age)
    }

    /// Forgets client ids whose window is over.
    pub(super) fn forget_old(&mut self) -> Plain<()> {
        let window = u64::try_from(self.retention.dedupe_window.as_millis()).unwrap_or(u64::MAX);
        let before = self.now_ms.saturating_sub(window);
        let mut old = Vec::new();
        for row in self.dedupe_age.range(..(before, 0))?.take(FORGET) {
            let (age, key) = row?;
            let (room, from, client_id) = key.value();
            old.push((age.value(), room.to_owned(), from.to_owned(), client_id.to_owned()));
        }
        for (age, room, from, client_id) in old {
            self.dedupe_age.remove(age)?;
            let key = (room.as_str(), from.as_str(), client_id.as_str());
            // The same client id may have been stored anew since: that one's own age row forgets it.
            let stored_ms = self.dedupe.get(key)?.map(|row| row.value().1);
            if stored_ms.is_some_and(|stored_ms| stored_ms <= age.0) {
                self.dedupe.remove(key)?;
            }
        }
        Ok(())
    }

    pub(super) fn create(&mut self, create: &Create) -> Written<bool> {
        let id = &create.room;
        if let Some(room) = self.room(id)? {
            let same = room.kind == create.kind && (room.kind != Kind::Group || self.has_members(id, &room, create)?);
            let what = match room.kind {
                Kind::Direct => "a direct room",
                Kind::Open => "an open room",
                Kind::Group if create.kind == Kind::Group => "a group with other members",
                Kind::Group => "a group",
            };
            return Ok(if same { Ok(false) } else { Err(Error::Conflict { room: id.clone(), what }) });
        }
        if create.members.len() > self.retention.max_members {
            return Ok(Err(Error::TooManyMembers { room: id.clone(), limit: self.retention.max_members }));
        }
        let mut room = Room::new(create.kind, create.time_ms);
        if create.kind == Kind::Group {
            for (user, role) in &create.members {
                let new = self.members.insert((id.as_str(), user.as_str()), (role_number(*role), 0))?.is_none();
                room.members += u64::from(new);
            }
        }
        self.rooms.insert(id.as_str(), room.row())?;
        Ok(Ok(true))
    }

    fn has_members(&self, id: &RoomId, room: &Room, create: &Create) -> Plain<bool> {
        for (user, _) in &create.members {
            if self.role(id, user)?.is_none() {
                return Ok(false);
            }
        }
        let named: std::collections::HashSet<_> = create.members.iter().map(|(user, _)| user).collect();
        Ok(room.members == named.len() as u64)
    }

    pub(super) fn change_membership(
        &mut self,
        change: Membership,
        publications: &mut Vec<Publication>,
    ) -> Written<Option<Appended>> {
        let Membership { room: id, user, role: wanted, access, entry } = change;
        let Some(mut room) = self.room(&id)? else { return Ok(Err(Error::NoSuchRoom(id))) };
        if room.kind != Kind::Group {
            let what = if room.kind == Kind::Direct { "a direct room" } else { "an open room" };
            return Ok(Err(Error::Conflict { room: id, what }));
        }
        if let Some(refused) = self.may_change(&id, &user, &access)? {
            return Ok(Err(refused));
        }
        let had = self.role(&id, &user)?;
        if had == wanted {
            return Ok(Ok(None));
        }
        let key = (id.as_str(), user.as_str());
        match wanted {
            Some(role) => {
                if had.is_none() && room.members >= self.retention.max_members as u64 {
                    return Ok(Err(Error::TooManyMembers { room: id, limit: self.retention.max_members }));
                }
                let joined = match self.members.get(key)?.map(|row| row.value().1) {
                    Some(joined) => joined,
                    None => room.head,
                };
                self.members.insert(key, (role_number(role), joined))?;
                room.members += u64::from(had.is_none());
            }
            None => {
                self.members.remove(key)?;
                self.reads.remove(key)?;
                room.members -= 1;
            }
        }
        Ok(Ok(Some(self.store(&id, room, entry, None, publications)?)))
    }

    fn may_change(&self, id: &RoomId, user: &UserId, access: &Access) -> Plain<Option<Error>> {
        if access.system || access.user == *user && self.role(id, user)?.is_some() && !self.raises(id, user)? {
            return Ok(None);
        }
        Ok(match self.role(id, &access.user)? {
            Some(Role::Admin | Role::Owner) => None,
            Some(Role::Member) => {
                let why = "only an admin or the owner changes others' membership";
                Some(Error::Forbidden { room: id.clone(), user: access.user.clone(), why })
            }
            None => Some(Error::NotAMember { room: id.clone(), user: access.user.clone() }),
        })
    }

    /// Members may leave by themselves, not promote themselves; who may do more anyway is asked by role.
    fn raises(&self, id: &RoomId, user: &UserId) -> Plain<bool> {
        Ok(matches!(self.role(id, user)?, Some(Role::Admin | Role::Owner)))
    }

    pub(super) fn mark_read(&mut self, id: &RoomId, user: &UserId, seq: Seq) -> Written<ReadPosition> {
        let Some(room) = self.room(id)? else { return Ok(Err(Error::NoSuchRoom(id.clone()))) };
        let key = (id.as_str(), user.as_str());
        let joined = self.members.get(key)?.map_or(0, |row| row.value().1);
        let before = self.reads.get(key)?.map_or(0, |row| row.value());
        let read = before.max(seq.min(room.head));
        if read > before {
            self.reads.insert(key, read)?;
        }
        Ok(Ok(ReadPosition { read, joined, head: room.head, moved: read > before }))
    }

    pub(super) fn index(&mut self, users: &[UserId], room: &RoomId) -> Written<()> {
        for user in users {
            self.user_rooms.insert((user.as_str(), room.as_str()), ())?;
        }
        Ok(Ok(()))
    }

    pub(super) fn unindex(&mut self, user: &UserId, room: &RoomId) -> Written<()> {
        self.user_rooms.remove((user.as_str(), room.as_str()))?;
        Ok(Ok(()))
    }
}
