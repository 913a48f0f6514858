//! What time does to rooms in which nothing is said: their entries become too old, and rooms that nobody uses end. Now and
//! then the writer looks at some rooms, one after the other and then from the beginning, and takes on no more than a small
//! part of a transaction's work at once.

use im_wire::ids::RoomId;
use redb::{ReadTransaction, ReadableTable};

use super::apply::Tables;
use super::tables::{GONE, LOG, ROOMS, Room};
use super::{DbResult, milliseconds};
use crate::store::readable::decode;
use crate::store::{Kind, Retention};

/// Rooms looked at in one step.
const LOOKS: usize = 1_000;
/// Rows removed in one step.
const ROWS: usize = 512;

/// What a look has found to do.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// With entries that are too old.
    aged: Vec<RoomId>,
    abandoned: Vec<RoomId>,
    /// Rooms that have ended have left rows behind.
    rows: bool,
}

impl Due {
    pub(super) fn is_empty(&self) -> bool {
        self.aged.is_empty() && self.abandoned.is_empty() && !self.rows
    }
}

/// By the machine's clock.
#[derive(Debug, Clone, Copy)]
struct Ages {
    now_ms: u64,
    entries_ms: u64,
    rooms_ms: u64,
}

impl Ages {
    fn new(retention: &Retention, now_ms: u64) -> Self {
        let entries_ms = milliseconds(retention.max_age);
        let rooms_ms = milliseconds(retention.rooms_end_after);
        Self {
            now_ms,
            entries_ms,
            rooms_ms,
        }
    }

    fn is_old(self, time_ms: u64) -> bool {
        self.entries_ms > 0 && self.now_ms.saturating_sub(time_ms) > self.entries_ms
    }

    /// A room that may end, and in which nothing was said for long.
    fn is_abandoned(
        self,
        room: &Room,
        last_ms: impl FnOnce() -> DbResult<Option<u64>>,
    ) -> DbResult<bool> {
        let may_end = match room.kind {
            Kind::Open => true,
            Kind::Group => room.members == 0,
            Kind::Direct => false,
        };
        let is_past = |time_ms: u64| self.now_ms.saturating_sub(time_ms) > self.rooms_ms;
        // The oldest entry, or the last one of an empty log, or where nothing was ever said, when the room was made.
        let begun_ms = if room.oldest_ms > 0 {
            room.oldest_ms
        } else {
            room.created_ms
        };
        if self.rooms_ms == 0 || !may_end || !is_past(begun_ms) {
            return Ok(false);
        }
        if room.first > room.head {
            return Ok(true);
        }
        Ok(last_ms()?.is_none_or(is_past))
    }
}

/// Looks at some rooms from `cursor` on, and moves it.
pub(super) fn look(
    snapshot: &ReadTransaction,
    cursor: &mut String,
    retention: &Retention,
    now_ms: u64,
) -> DbResult<Due> {
    let ages = Ages::new(retention, now_ms);
    let rooms = snapshot.open_table(ROOMS)?;
    let log = snapshot.open_table(LOG)?;
    let time = |id: &RoomId, seq: u64| -> DbResult<Option<u64>> {
        let row = log.get((id.as_str(), seq))?;
        Ok(row
            .and_then(|bytes| decode(id, seq, bytes.value()))
            .map(|entry| entry.time_ms))
    };
    let mut due = Due {
        rows: snapshot.open_table(GONE)?.first()?.is_some(),
        ..Due::default()
    };
    let mut rows = 0;
    let from = std::mem::take(cursor);
    for (looks, row) in rooms.range(from.as_str()..)?.enumerate() {
        let (id, row) = row?;
        if looks >= LOOKS || rows >= ROWS {
            id.value().clone_into(cursor);
            break;
        }
        let (Ok(id), room) = (RoomId::known(id.value()), Room::from(row.value())) else {
            continue;
        };
        if ages.is_abandoned(&room, || time(&id, room.head))? {
            rows += 1;
            due.abandoned.push(id);
        } else if room.first <= room.head
            && ages.is_old(room.oldest_ms)
            && time(&id, room.first)?.is_none_or(|time_ms| ages.is_old(time_ms))
        {
            rows += usize::try_from(room.head - room.first + 1)
                .unwrap_or(usize::MAX)
                .min(ROWS);
            due.aged.push(id);
        }
    }
    Ok(due)
}

impl Tables<'_> {
    /// Does what was found to do, as far as it still is and fits into a step.
    pub(super) fn age(&mut self, due: &Due) -> DbResult<()> {
        let ages = Ages::new(self.retention, self.now_ms);
        let mut left = ROWS;
        for id in &due.abandoned {
            let Some(room) = self.room(id)? else { continue };
            if ages.is_abandoned(&room, || {
                Ok(self.entry(id, room.head)?.map(|entry| entry.time_ms))
            })? {
                self.end_room(id)?;
                tracing::debug!(room = %id, "ended an abandoned room");
            }
        }
        for id in &due.aged {
            self.remove_aged(id, ages, &mut left)?;
        }
        self.forget_rows(&mut left)
    }

    fn remove_aged(&mut self, id: &RoomId, ages: Ages, left: &mut usize) -> DbResult<()> {
        let Some(mut room) = self.room(id)? else {
            return Ok(());
        };
        while room.first <= room.head && *left > 0 {
            // One that cannot be read is as old as the one before it.
            let time_ms = self
                .entry(id, room.first)?
                .map_or(room.oldest_ms, |entry| entry.time_ms);
            room.oldest_ms = room.oldest_ms.max(time_ms);
            if !ages.is_old(time_ms) {
                break;
            }
            self.log.remove((id.as_str(), room.first))?;
            room.first += 1;
            *left -= 1;
        }
        self.rooms.insert(id.as_str(), room.row())?;
        Ok(())
    }
}
