//! Reading a room's log: what follows a position, pages of history, heads.

use async_trait::async_trait;
use im_wire::ids::{Epoch, RoomId, Seq, UserId};
use redb::ReadTransaction;

use super::tables::{LOG, ROOMS, Room};
use super::write::Write;
use super::{DbResult, EmbeddedStore, epochs};
use crate::store::readable::{PAGE_BYTES, Run};
use crate::store::verdict::Transitions;
use crate::store::{History, Page, ReadPosition, Result, Slice, Tail};

#[async_trait]
impl History for EmbeddedStore {
    async fn tail(
        &self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Tail> {
        let room = room.clone();
        let own = self.epoch;
        self.read(move |snapshot| tail(snapshot, &room, own, (epoch, seq), limit, max_bytes))
            .await
    }

    async fn page(&self, room: &RoomId, slice: Slice, limit: usize) -> Result<Page> {
        let room = room.clone();
        let epoch = self.epoch;
        self.read(move |snapshot| page(snapshot, &room, epoch, slice, limit))
            .await
    }

    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(Epoch, Seq)>> {
        let rooms = rooms.to_vec();
        let epoch = self.epoch;
        self.read(move |snapshot| {
            rooms
                .iter()
                .map(|room| head(snapshot, room, epoch))
                .collect()
        })
        .await
    }

    async fn mark_read(&self, room: &RoomId, user: &UserId, seq: Seq) -> Result<ReadPosition> {
        let room = room.clone();
        let user = user.clone();
        self.write(|done| Write::Read {
            room,
            user,
            seq,
            done,
        })
        .await
    }
}

fn head(snapshot: &ReadTransaction, id: &RoomId, file: Epoch) -> DbResult<(Epoch, Seq)> {
    match snapshot
        .open_table(ROOMS)?
        .get(id.as_str())?
        .map(|row| Room::from(row.value()))
    {
        Some(room) => Ok((epochs::in_force(snapshot, id, file)?, room.head)),
        None => Ok((0, 0)),
    }
}

fn room(snapshot: &ReadTransaction, id: &RoomId) -> DbResult<Option<Room>> {
    Ok(snapshot
        .open_table(ROOMS)?
        .get(id.as_str())?
        .map(|row| Room::from(row.value())))
}

/// See [`History::tail`]; `file`: the epoch of rooms for which none is noted.
fn tail(
    snapshot: &ReadTransaction,
    id: &RoomId,
    file: Epoch,
    (epoch, seq): (Epoch, Seq),
    limit: usize,
    max_bytes: usize,
) -> DbResult<Tail> {
    let room = room(snapshot, id)?;
    let (head, first) = room.map_or((0, 1), |room| (room.head, room.first));
    let (now, transitions) = match room {
        Some(_) => (
            epochs::in_force(snapshot, id, file)?,
            epochs::transitions(snapshot, id, file)?,
        ),
        None => (0, Transitions::default()),
    };
    let reset_to = transitions.reset(epoch, seq, head);
    let after = reset_to.unwrap_or(seq);
    let run = oldest(snapshot, id, (first.max(after + 1), head), limit, max_bytes)?;
    let truncated = gone_after(after, first, &run);
    Ok(Tail {
        epoch: now,
        head,
        reset_to,
        truncated,
        entries: run.entries,
    })
}

/// What retention has removed behind `after`, and what could not be read after that.
fn gone_after(after: Seq, first: Seq, run: &Run) -> Option<(Seq, Seq)> {
    let last = run.gone.map_or(first - 1, |(_, to)| to);
    (after < last).then(|| (after + 1, last))
}

/// See [`History::page`].
fn page(
    snapshot: &ReadTransaction,
    id: &RoomId,
    file: Epoch,
    slice: Slice,
    limit: usize,
) -> DbResult<Page> {
    let Some(Room { head, first, .. }) = room(snapshot, id)? else {
        return Ok(Page {
            epoch: 0,
            head: 0,
            truncated: None,
            entries: Vec::new(),
        });
    };
    let (truncated, run) = match slice {
        Slice::After(seq) if seq >= head => (None, Run::default()),
        Slice::After(seq) => {
            let run = oldest(snapshot, id, (first.max(seq + 1), head), limit, PAGE_BYTES)?;
            (gone_after(seq, first, &run), run)
        }
        Slice::Before(_) | Slice::Latest => {
            let to = if let Slice::Before(seq) = slice {
                head.min(seq.saturating_sub(1))
            } else {
                head
            };
            let run = newest(snapshot, id, (first, to), limit)?;
            let wanted = (to + 1).saturating_sub(limit as u64).max(1);
            // Told by the page that comes to it: a page may end before, where its bytes end.
            let is_reached = run.entries.first().is_none_or(|entry| entry.seq <= first);
            let removed = is_reached && wanted <= to && wanted < first;
            (
                run.gone
                    .or_else(|| removed.then(|| (wanted, to.min(first - 1)))),
                run,
            )
        }
    };
    let epoch = epochs::in_force(snapshot, id, file)?;
    Ok(Page {
        epoch,
        head,
        truncated,
        entries: run.entries,
    })
}

/// The newest entries of from..=to, as many as [`PAGE_BYTES`] take, in order of seq.
fn newest(
    snapshot: &ReadTransaction,
    id: &RoomId,
    (from, to): (Seq, Seq),
    limit: usize,
) -> DbResult<Run> {
    let log = snapshot.open_table(LOG)?;
    let mut run = Run::default();
    if from <= to {
        let rows = log.range((id.as_str(), from)..=(id.as_str(), to))?.rev();
        collect(&mut run, id, rows, limit, PAGE_BYTES)?;
        run.entries.reverse();
    }
    Ok(run)
}

/// The oldest entries of from..=to.
fn oldest(
    snapshot: &ReadTransaction,
    id: &RoomId,
    (from, to): (Seq, Seq),
    limit: usize,
    max_bytes: usize,
) -> DbResult<Run> {
    let log = snapshot.open_table(LOG)?;
    let mut run = Run::default();
    if from <= to {
        collect(
            &mut run,
            id,
            log.range((id.as_str(), from)..=(id.as_str(), to))?,
            limit,
            max_bytes,
        )?;
    }
    Ok(run)
}

type Row<'t> = (
    redb::AccessGuard<'t, (&'static str, u64)>,
    redb::AccessGuard<'t, &'static [u8]>,
);

/// As many entries as may be, and one at least.
fn collect<'t>(
    run: &mut Run,
    id: &RoomId,
    rows: impl Iterator<Item = std::result::Result<Row<'t>, redb::StorageError>>,
    limit: usize,
    max_bytes: usize,
) -> DbResult<()> {
    let mut bytes = 0_usize;
    for row in rows {
        if run.entries.len() >= limit {
            break;
        }
        let (key, value) = row?;
        bytes = bytes.saturating_add(value.value().len());
        if bytes > max_bytes && !run.entries.is_empty() {
            break;
        }
        if !run.take(id, key.value().1, value.value()) {
            break;
        }
    }
    Ok(())
}
