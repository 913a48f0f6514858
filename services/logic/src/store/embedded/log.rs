//! Reading a room's log: what follows a position, and pages of history.

use im_proto::v1::{Entry, LogEntry};
use im_wire::ids::{Epoch, RoomId, Seq};
use prost::Message as _;
use redb::ReadTransaction;

use super::Reading;
use super::tables::{LOG, ROOMS, Room};
use crate::store::{Page, Slice, Tail};

fn room(snapshot: &ReadTransaction, id: &RoomId) -> Reading<Option<Room>> {
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
) -> Reading<Tail> {
    let room = room(snapshot, id)?;
    let (head, first) = room.map_or((0, 1), |room| (room.head, room.first));
    let now = if room.is_some() { own } else { 0 };
    let stands = if epoch != 0 && epoch != own { 0 } else { head };
    let reset_to = (seq > stands).then_some(stands);
    let after = reset_to.unwrap_or(seq);
    let truncated = (after + 1 < first).then(|| (after + 1, first - 1));
    let from = first.max(after + 1);
    let entries = if from > head { Vec::new() } else { entries(snapshot, id, from, head, limit, max_bytes)? };
    Ok(Tail { epoch: now, head, reset_to, truncated, entries })
}

/// See [`crate::store::Store::page`].
pub(super) fn page(snapshot: &ReadTransaction, id: &RoomId, own: Epoch, slice: Slice, limit: usize) -> Reading<Page> {
    let Some(Room { head, first, .. }) = room(snapshot, id)? else {
        return Ok(Page { epoch: 0, head: 0, truncated: None, entries: Vec::new() });
    };
    let many = limit as u64;
    // Both inclusive, as asked for and before retention.
    let (from, to) = match slice {
        Slice::After(seq) => (seq.saturating_add(1), head.min(seq.saturating_add(many))),
        Slice::Before(seq) => {
            let to = head.min(seq.saturating_sub(1));
            ((to + 1).saturating_sub(many).max(1), to)
        }
        Slice::Latest => ((head + 1).saturating_sub(many).max(1), head),
    };
    let gone = from.max(1) < first && from <= to && !matches!(slice, Slice::Latest);
    let truncated =
        gone.then(|| (from.max(1), (first - 1).min(if matches!(slice, Slice::After(_)) { first - 1 } else { to })));
    let (from, to) = match slice {
        // The oldest that are left, where the beginning is gone.
        Slice::After(_) if gone => (first, head.min(first + many - 1)),
        _ => (from.max(first), to),
    };
    let entries =
        if from > to || limit == 0 { Vec::new() } else { entries(snapshot, id, from, to, limit, usize::MAX)? };
    Ok(Page { epoch: own, head, truncated, entries })
}

fn entries(
    snapshot: &ReadTransaction,
    id: &RoomId,
    from: Seq,
    to: Seq,
    limit: usize,
    max_bytes: usize,
) -> Reading<Vec<LogEntry>> {
    let log = snapshot.open_table(LOG)?;
    let mut entries = Vec::new();
    let mut bytes = 0;
    for row in log.range((id.as_str(), from)..=(id.as_str(), to))?.take(limit) {
        let (key, value) = row?;
        bytes += value.value().len();
        if bytes > max_bytes && !entries.is_empty() {
            break;
        }
        let entry = Entry::decode(value.value()).map_err(|error| redb::Error::Corrupted(error.to_string()))?;
        entries.push(LogEntry { seq: key.value().1, entry: Some(entry) });
    }
    Ok(entries)
}
