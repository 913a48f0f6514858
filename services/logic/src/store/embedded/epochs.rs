//! Rooms' epochs. Each opening of the file begins one for every room that is appended to, with the room's head as its
//! base: what a later opening finds missing (an older copy of the file was put back, the machine was rolled back to a
//! snapshot of its disk) is what positions of the earlier one had beyond that base. After an ordinary restart the base is
//! the head that everybody knows, and nobody is reset.

use std::collections::HashMap;

use im_wire::ids::{Epoch, RoomId, Seq};
use redb::{ReadTransaction, ReadableTable, Table};

use super::DbResult;
use super::tables::EPOCHS;
use crate::store::verdict::{Transitions, last_epoch, next_epoch};

/// Rooms whose epoch is remembered at most; beyond it all are looked up again.
const REMEMBERED: usize = 65_536;

/// What the writer knows of epochs.
#[derive(Debug)]
pub(super) struct Epochs {
    /// Of rooms for which nothing is noted: they have been there since the file was made, in one epoch.
    file: Epoch,
    /// Begun by this opening.
    opening: Epoch,
    /// Of rooms that come into being: greater than all that rooms had which have ended.
    fresh: Epoch,
    in_force: HashMap<RoomId, Epoch>,
}

impl Epochs {
    pub(super) fn new(file: Epoch, opening: Epoch) -> Self {
        Self {
            file,
            opening,
            fresh: opening,
            in_force: HashMap::new(),
        }
    }

    /// Of rooms for which nothing is noted.
    pub(super) fn of_the_file(&self) -> Epoch {
        self.file
    }

    /// The one in which a room's log stands.
    pub(super) fn in_force(
        &mut self,
        noted: &Table<'_, &'static str, &'static str>,
        room: &RoomId,
    ) -> DbResult<Epoch> {
        if let Some(epoch) = self.in_force.get(room) {
            return Ok(*epoch);
        }
        let epoch = noted
            .get(room.as_str())?
            .and_then(|row| last_epoch(row.value()))
            .unwrap_or(self.file);
        self.remember(room, epoch);
        Ok(epoch)
    }

    /// Before an append to a log that ends at `head`: the epoch that the entry is in.
    pub(super) fn settle(
        &mut self,
        noted: &mut Table<'_, &'static str, &'static str>,
        room: &RoomId,
        head: Seq,
    ) -> DbResult<Epoch> {
        let epoch = self.in_force(noted, room)?;
        if epoch >= self.opening && (head > 0 || noted.get(room.as_str())?.is_some()) {
            return Ok(epoch);
        }
        let (mut transitions, begins) = match noted.get(room.as_str())? {
            Some(row) => (parse(row.value())?, self.opening),
            None if head > 0 => (since(self.file), self.opening),
            None => (Transitions::default(), self.fresh),
        };
        transitions.begin(begins, head);
        noted.insert(room.as_str(), transitions.text().as_str())?;
        self.remember(room, begins);
        Ok(begins)
    }

    /// A room ends, and nothing is kept of it: all that come into being later begin in a greater epoch than any that it had.
    /// Returns that epoch, which the file must note.
    pub(super) fn end(
        &mut self,
        noted: &mut Table<'_, &'static str, &'static str>,
        room: &RoomId,
        now_ms: u64,
    ) -> DbResult<Epoch> {
        noted.remove(room.as_str())?;
        self.in_force.remove(room);
        self.fresh = next_epoch(self.fresh, now_ms, rand::random());
        Ok(self.fresh)
    }

    /// After a transaction that failed: what it noted is not there.
    pub(super) fn look_again(&mut self) {
        self.in_force.clear();
    }

    fn remember(&mut self, room: &RoomId, epoch: Epoch) {
        if self.in_force.len() >= REMEMBERED {
            self.in_force.clear();
        }
        self.in_force.insert(room.clone(), epoch);
    }
}

fn since(epoch: Epoch) -> Transitions {
    let mut transitions = Transitions::default();
    transitions.begin(epoch, 0);
    transitions
}

fn parse(text: &str) -> DbResult<Transitions> {
    Transitions::parse(text).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

/// The epoch of a room that is there; `file`: see [`Epochs::of_the_file`].
pub(super) fn in_force(snapshot: &ReadTransaction, room: &RoomId, file: Epoch) -> DbResult<Epoch> {
    let row = snapshot.open_table(EPOCHS)?.get(room.as_str())?;
    Ok(row.and_then(|row| last_epoch(row.value())).unwrap_or(file))
}

/// The epochs of a room that is there.
pub(super) fn transitions(
    snapshot: &ReadTransaction,
    room: &RoomId,
    file: Epoch,
) -> DbResult<Transitions> {
    snapshot
        .open_table(EPOCHS)?
        .get(room.as_str())?
        .map_or_else(|| Ok(since(file)), |row| parse(row.value()))
}
