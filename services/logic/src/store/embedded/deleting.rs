//! The end of rooms, inside the writer's transaction: what a room is goes at once, its rows go in small steps afterwards.
//! Nobody reads them meanwhile, for nobody finds the room; and a room that takes the id begins with none of them.

use im_wire::ids::{Epoch, RoomId, UserId};
use redb::ReadableTable;

use super::DbResult;
use super::apply::{Publication, Tables, Written};
use super::tables::{META, OPENED};
use crate::store::{Delete, Deleted, Error};

/// The smallest text that is greater than an id and no part of another one: no id has a NUL.
fn behind(id: &str) -> String {
    format!("{id}\0")
}

/// Removes up to `left` rows of a range, and says so there. Returns whether nothing is left of it.
macro_rules! remove_range {
    ($table:expr, $range:expr, $left:expr) => {{
        let mut removed = 0;
        for row in $table.extract_from_if($range, |_, _| true)?.take(*$left) {
            row?;
            removed += 1;
        }
        let is_empty = removed < *$left;
        *$left -= removed;
        is_empty
    }};
}

impl Tables<'_> {
    pub(super) fn delete(
        &mut self,
        delete: Delete,
        publications: &mut Vec<Publication>,
    ) -> Written<Deleted> {
        let Delete { room: id, entry } = delete;
        let Some(room) = self.room(&id)? else {
            return Ok(Err(Error::NoSuchRoom(id)));
        };
        let epoch = self.settle_epoch(&id, room.head)?;
        let deleted = Deleted {
            kind: room.kind,
            epoch,
            seq: room.head + 1,
            members: self.all_members(&id)?,
        };
        self.end_room(&id)?;
        publications.push(Publication {
            room: id,
            epoch,
            seq: deleted.seq,
            entry,
        });
        Ok(Ok(deleted))
    }

    fn all_members(&self, id: &RoomId) -> DbResult<Vec<UserId>> {
        let behind = behind(id.as_str());
        let mut members = Vec::new();
        for row in self
            .members
            .range((id.as_str(), "")..(behind.as_str(), ""))?
        {
            let user = UserId::known(row?.0.value().1)
                .map_err(|bad| redb::Error::Corrupted(bad.to_string()))?;
            members.push(user);
        }
        Ok(members)
    }

    /// From now on there is no such room.
    pub(super) fn end_room(&mut self, id: &RoomId) -> DbResult<()> {
        self.rooms.remove(id.as_str())?;
        let newest: Epoch = self.end_epochs(id)?;
        // The next opening of the file begins a greater one.
        self.transaction.open_table(META)?.insert(OPENED, newest)?;
        self.gone.insert(id.as_str(), ())?;
        Ok(())
    }

    /// A room comes into being. What is left of one of the same id goes before that.
    pub(super) fn forget_rows_of(&mut self, id: &RoomId) -> DbResult<()> {
        if self.gone.remove(id.as_str())?.is_some() {
            let mut all = usize::MAX;
            self.remove_rows(id.as_str(), &mut all)?;
        }
        Ok(())
    }

    /// Removes rows of rooms that have ended, up to `left`.
    pub(super) fn forget_rows(&mut self, left: &mut usize) -> DbResult<()> {
        while *left > 0 {
            let Some(id) = self.gone.first()?.map(|(id, _)| id.value().to_owned()) else {
                break;
            };
            if self.remove_rows(&id, left)? {
                self.gone.remove(id.as_str())?;
            }
        }
        Ok(())
    }

    /// Returns whether nothing is left of the room.
    fn remove_rows(&mut self, id: &str, left: &mut usize) -> DbResult<bool> {
        let behind = behind(id);
        let behind = behind.as_str();
        if !remove_range!(self.log, (id, 0_u64)..(behind, 0_u64), left)
            || !remove_range!(self.members, (id, "")..(behind, ""), left)
            || !remove_range!(self.reads, (id, "")..(behind, ""), left)
        {
            return Ok(false);
        }
        for generation in self.generations.clone() {
            if !remove_range!(
                self.dedupe,
                (generation, id, "", "")..(generation, behind, "", ""),
                left
            ) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
