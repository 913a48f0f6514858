//! Appending inside the writer's transaction. The outer result is the database's, the inner one the caller's: a refused
//! write has changed nothing, and the transaction goes on.

use im_proto::v1::Entry;
use im_wire::ids::{Epoch, RoomId, Seq, UserId};
use prost::Message as _;
use redb::{ReadableTable, Table, WriteTransaction};

use super::dedupe::{self, DedupeTable, Generations};
use super::epochs::Epochs;
use super::tables::{
    DEDUPE, EPOCHS, GONE, LOG, MEMBERS, READS, ROOMS, Room, RoomRow, SEEN, USER_ROOMS, role,
};
use super::{DbResult, milliseconds};
use crate::store::readable::decode;
use crate::store::{Access, Append, Appended, Error, Kind, ReadPosition, Result, Retention, Role};

/// Entries removed with one append at most: the work stays bounded, and faster than what is added.
const TRIM: u64 = 16;
/// A message's time may be so far from the machine's clock, in milliseconds; what is further away becomes this.
const SKEW: u64 = 60_000;
/// Client ids forgotten with one transaction at least; more where it stores more.
const FORGET: usize = 512;

pub(super) type Written<T> = DbResult<Result<T>>;

/// What is published once it is on disk.
pub(super) struct Publication {
    pub(super) room: RoomId,
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) entry: Entry,
}

/// The open tables of one transaction.
pub(super) struct Tables<'t> {
    pub(super) transaction: &'t WriteTransaction,
    pub(super) rooms: Table<'t, &'static str, RoomRow>,
    pub(super) log: Table<'t, (&'static str, u64), &'static [u8]>,
    pub(super) dedupe: DedupeTable<'t>,
    pub(super) members: Table<'t, (&'static str, &'static str), (u8, u64)>,
    pub(super) reads: Table<'t, (&'static str, &'static str), u64>,
    pub(super) user_rooms: Table<'t, (&'static str, &'static str), ()>,
    seen: Table<'t, &'static str, u64>,
    noted_epochs: Table<'t, &'static str, &'static str>,
    pub(super) gone: Table<'t, &'static str, ()>,
    epochs: &'t mut Epochs,
    pub(super) retention: &'t Retention,
    generation: u64,
    living: Vec<u64>,
    /// All generations of client ids that may have rows.
    pub(super) generations: Vec<u64>,
    pub(super) now_ms: u64,
    stored: usize,
}

impl<'t> Tables<'t> {
    pub(super) fn open(
        transaction: &'t WriteTransaction,
        epochs: &'t mut Epochs,
        retention: &'t Retention,
        generations: &mut Generations,
        now_ms: u64,
    ) -> DbResult<Self> {
        Ok(Self {
            transaction,
            rooms: transaction.open_table(ROOMS)?,
            log: transaction.open_table(LOG)?,
            dedupe: transaction.open_table(DEDUPE)?,
            members: transaction.open_table(MEMBERS)?,
            reads: transaction.open_table(READS)?,
            user_rooms: transaction.open_table(USER_ROOMS)?,
            seen: transaction.open_table(SEEN)?,
            noted_epochs: transaction.open_table(EPOCHS)?,
            gone: transaction.open_table(GONE)?,
            epochs,
            retention,
            generation: generations.current(now_ms),
            living: generations.living(now_ms),
            generations: generations.all(),
            now_ms,
            stored: 0,
        })
    }

    pub(super) fn room(&self, room: &RoomId) -> DbResult<Option<Room>> {
        Ok(self
            .rooms
            .get(room.as_str())?
            .map(|row| Room::from(row.value())))
    }

    pub(super) fn role(&self, room: &RoomId, user: &UserId) -> DbResult<Option<Role>> {
        Ok(self
            .members
            .get((room.as_str(), user.as_str()))?
            .map(|row| role(row.value().0)))
    }

    pub(super) fn append(
        &mut self,
        append: Append,
        publications: &mut Vec<Publication>,
    ) -> Written<Appended> {
        let Append {
            room: id,
            access,
            client_id,
            entry,
            index,
        } = append;
        let (room, created) = match self.admit(&id, &access, entry.time_ms)? {
            Ok(admitted) => admitted,
            Err(refused) => return Ok(Err(refused)),
        };
        if created {
            self.forget_rows_of(&id)?;
        }
        for user in &index {
            self.user_rooms.insert((user.as_str(), id.as_str()), ())?;
        }
        if let Some(first) = self.known(&id, &access.user, client_id.as_str())? {
            // What retention has removed is not published again, and still known.
            if let Some(entry) = self.entry(&id, first.seq)? {
                publications.push(Publication {
                    room: id,
                    epoch: first.epoch,
                    seq: first.seq,
                    entry,
                });
            }
            return Ok(Ok(first));
        }
        let appended = self.store(&id, room, entry, publications)?;
        let key = (
            self.generation,
            id.as_str(),
            access.user.as_str(),
            client_id.as_str(),
        );
        self.dedupe
            .insert(key, (appended.seq, appended.time_ms, appended.id.as_str()))?;
        Ok(Ok(Appended {
            created,
            ..appended
        }))
    }

    /// Whether the access covers the room; one that may come into being with this append is made up here.
    fn admit(&self, id: &RoomId, access: &Access, time_ms: u64) -> DbResult<Result<(Room, bool)>> {
        let user = &access.user;
        let Some(room) = self.room(id)? else {
            let kind = match access {
                Access { direct: true, .. } => Kind::Direct,
                Access { open: true, .. } => Kind::Open,
                _ => return Ok(Err(Error::NoSuchRoom(id.clone()))),
            };
            return Ok(Ok((Room::new(kind, time_ms), true)));
        };
        let forbidden = |why| Error::Forbidden {
            room: id.clone(),
            user: user.clone(),
            why,
        };
        let refused = match room.kind {
            _ if access.system => None,
            Kind::Direct => {
                (!access.direct).then(|| forbidden("a direct room is for its two members"))
            }
            Kind::Open => (!access.open).then(|| forbidden("the token's rooms must cover it")),
            Kind::Group if self.role(id, user)?.is_some() => None,
            Kind::Group => Some(Error::NotAMember {
                room: id.clone(),
                user: user.clone(),
            }),
        };
        Ok(refused.map_or(Ok((room, false)), Err))
    }

    /// What was stored under this client id within the window.
    fn known(&mut self, id: &RoomId, user: &UserId, client_id: &str) -> DbResult<Option<Appended>> {
        for generation in &self.living {
            if let Some(row) =
                self.dedupe
                    .get((*generation, id.as_str(), user.as_str(), client_id))?
            {
                let (seq, time_ms, entry) = row.value();
                let epoch = self.epochs.in_force(&self.noted_epochs, id)?;
                let id = entry.to_owned();
                return Ok(Some(Appended {
                    id,
                    epoch,
                    seq,
                    time_ms,
                    duplicate: true,
                    created: false,
                }));
            }
        }
        Ok(None)
    }

    /// `None`: it is gone, or cannot be read, which is as good as gone.
    pub(super) fn entry(&self, id: &RoomId, seq: Seq) -> DbResult<Option<Entry>> {
        Ok(self
            .log
            .get((id.as_str(), seq))?
            .and_then(|bytes| decode(id, seq, bytes.value())))
    }

    /// Before an entry of a log that ends at `head`: the epoch that it is in. A room that comes into being begins its first.
    pub(super) fn settle_epoch(&mut self, id: &RoomId, head: Seq) -> DbResult<Epoch> {
        self.epochs.settle(&mut self.noted_epochs, id, head)
    }

    /// A room ends. Returns an epoch that is greater than all of its own, in which rooms come into being from now on.
    pub(super) fn end_epochs(&mut self, id: &RoomId) -> DbResult<Epoch> {
        self.epochs.end(&mut self.noted_epochs, id, self.now_ms)
    }

    /// The one place that adds to a log.
    pub(super) fn store(
        &mut self,
        id: &RoomId,
        mut room: Room,
        mut entry: Entry,
        publications: &mut Vec<Publication>,
    ) -> DbResult<Appended> {
        let epoch = self.settle_epoch(id, room.head)?;
        room.head += 1;
        entry.time_ms = entry.time_ms.clamp(
            self.now_ms.saturating_sub(SKEW),
            self.now_ms.saturating_add(SKEW),
        );
        let seq = room.head;
        let time_ms = entry.time_ms;
        self.log
            .insert((id.as_str(), seq), entry.encode_to_vec().as_slice())?;
        if room.first == seq {
            room.oldest_ms = time_ms;
        }
        self.trim(id, &mut room)?;
        self.rooms.insert(id.as_str(), room.row())?;
        self.stored += 1;
        let appended = Appended {
            id: entry.id.clone(),
            epoch,
            seq,
            time_ms,
            duplicate: false,
            created: false,
        };
        publications.push(Publication {
            room: id.clone(),
            epoch,
            seq,
            entry,
        });
        Ok(appended)
    }

    /// Removes what retention no longer keeps, never what was appended just now. Age counts by the machine's clock, whatever
    /// time a message names. `oldest_ms` is of the oldest entry or of one before it, so that an entry is looked at only
    /// when that age is reached.
    fn trim(&mut self, id: &RoomId, room: &mut Room) -> DbResult<()> {
        let now_ms = self.now_ms;
        let max_age = milliseconds(self.retention.max_age);
        let is_old = |time_ms: u64| max_age > 0 && now_ms.saturating_sub(time_ms) > max_age;
        for _ in 0..TRIM {
            if room.first >= room.head {
                break;
            }
            if room.head - room.first < self.retention.max_entries.max(1) {
                if !is_old(room.oldest_ms) {
                    break;
                }
                room.oldest_ms = self.entry(id, room.first)?.map_or(0, |entry| entry.time_ms);
                if !is_old(room.oldest_ms) {
                    break;
                }
            }
            self.log.remove((id.as_str(), room.first))?;
            room.first += 1;
        }
        Ok(())
    }

    /// Forgets client ids of a generation that is over. Returns whether none is left.
    pub(super) fn forget(&mut self, generation: u64) -> DbResult<bool> {
        dedupe::sweep(&mut self.dedupe, generation, FORGET.max(4 * self.stored))
    }

    pub(super) fn mark_read(
        &mut self,
        id: &RoomId,
        user: &UserId,
        seq: Seq,
    ) -> Written<ReadPosition> {
        let Some(room) = self.room(id)? else {
            return Ok(Err(Error::NoSuchRoom(id.clone())));
        };
        let key = (id.as_str(), user.as_str());
        let member = self.members.get(key)?.map(|row| row.value().1);
        if room.kind == Kind::Group && member.is_none() {
            return Ok(Err(Error::NotAMember {
                room: id.clone(),
                user: user.clone(),
            }));
        }
        let before = self.reads.get(key)?.map_or(0, |row| row.value());
        let read = before.max(seq.min(room.head));
        if read > before {
            self.reads.insert(key, read)?;
        }
        Ok(Ok(ReadPosition {
            read,
            joined: member.unwrap_or(0),
            head: room.head,
            moved: read > before,
        }))
    }

    pub(super) fn note_seen(&mut self, user: &UserId, at_ms: u64) -> Written<()> {
        let before = self.seen.get(user.as_str())?.map_or(0, |row| row.value());
        if at_ms > before {
            self.seen.insert(user.as_str(), at_ms)?;
        }
        Ok(Ok(()))
    }
}
