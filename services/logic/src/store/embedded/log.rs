//! Reading a room's log: what follows a position, and pages of history.

use im_proto::v1::{Entry, LogEntry};
use im_wire::ids::{Epoch, RoomId, Seq};
use prost::Message as _;
use redb::ReadTransaction;

use super::Plain;
use super::tables::{LOG, ROOMS, Room};
use crate::store::{Page, Slice, Tail};

fn room(snapshot: &ReadTransaction, id: &RoomId) -> Plain<Option<Room>> {
    Ok(snapshot.open_table(ROOMS)?.get(id.as_str())?.map(|row| Room::from(row.value())))
}

/// See [`crate::store::Store::tail`]. The file has one epoch: a position of another one is of another file, of which
/// nothing stands.
pub(super) fn tail(
    snapshot: &ReadTransaction,
    id: &RoomId,
    own: Epoch,
    (epoch, seq): (Epoch, Seq),
    limit: usize,
    max_bytes: usize,
) -> Plain<Tail> {
    let room = room(snapshot, id)?;
    let (head, first) = room.map_or((0, 1), |room| (room.head, room.first));
    let now = if room.is_some() { own } else { 0 };
    let stands = if epoch != 0 && epoch != own { 0 } else { head };
    let reset_to = (seq > stands).then_some(stands);
    let after = reset_to.unwrap_or(seq);
    let truncated = (after + 1 < first).then(|| (after + 1, first - 1));
    let entries = entries(snapshot, id, (first.max(after + 1), head), limit, max_bytes)?;
    Ok(Tail { epoch: now, head, reset_to, truncated, entries })
}

/// A page never takes more than this at once: it is asked on when more is wanted.
const PAGE_BYTES: usize = 4 << 20;

/// See [`crate::store::Store::page`].
pub(super) fn page(snapshot: &ReadTransaction, id: &RoomId, own: Epoch, slice: Slice, limit: usize) -> Plain<Page> {
    let Some(Room { head, first, .. }) = room(snapshot, id)? else {
        return Ok(Page { epoch: 0, head: 0, truncated: None, entries: Vec::new() });
    };
    let many = limit as u64;
    let (wanted, entries) = match slice {
        Slice::After(seq) => {
            let from = seq.saturating_add(1);
            let entries = entries(snapshot, id, (first.max(from), head), limit, PAGE_BYTES)?;
            ((from, head), entries)
        }
        Slice::Before(_) | Slice::Latest => {
            let to = if let Slice::Before(seq) = slice { head.min(seq.saturating_sub(1)) } else { head };
            let from = (to + 1).saturating_sub(many).max(1);
            let entries = newest(snapshot, id, (first.max(from), to), limit)?;
            ((from, to), entries)
        }
    };
    let (from, to) = wanted;
    let truncated = (from <= to && from < first).then(|| (from, to.min(first - 1)));
    Ok(Page { epoch: own, head, truncated, entries })
}

/// The newest entries from..=to, as many as [`PAGE_BYTES`] take, in order of seq.
fn newest(snapshot: &ReadTransaction, id: &RoomId, (from, to): (Seq, Seq), limit: usize) -> Plain<Vec<LogEntry>> {
    let log = snapshot.open_table(LOG)?;
    let mut entries = Vec::new();
    if from > to {
        return Ok(entries);
    }
    let mut bytes = 0;
    for row in log.range((id.as_str(), from)..=(id.as_str(), to))?.rev().take(limit) {
        let (key, value) = row?;
        bytes += value.value().len();
        if bytes > PAGE_BYTES && !entries.is_empty() {
            break;
        }
        entries.push(entry(key.value().1, value.value())?);
    }
    entries.reverse();
    Ok(entries)
}

/// The oldest entries of from..=to.
fn entries(
    snapshot: &ReadTransaction,
    id: &RoomId,
    (from, to): (Seq, Seq),
    limit: usize,
    max_bytes: usize,
) -> Plain<Vec<LogEntry>> {
    let log = snapshot.open_table(LOG)?;
    let mut entries = Vec::new();
    if from > to {
        return Ok(entries);
    }
    let mut bytes = 0;
    for row in log.range((id.as_str(), from)..=(id.as_str(), to))?.take(limit) {
        let (key, value) = row?;
        bytes += value.value().len();
        if bytes > max_bytes && !entries.is_empty() {
            break;
        }
        entries.push(entry(key.value().1, value.value())?);
    }
    Ok(entries)
}

fn entry(seq: Seq, bytes: &[u8]) -> Plain<LogEntry> {
    let entry = Entry::decode(bytes).map_err(|error| redb::Error::Corrupted(format!("entry {seq}: {error}")))?;
    Ok(LogEntry { seq, entry: Some(entry) })
}
