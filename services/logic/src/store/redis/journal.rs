//! Reading a room's log: the rest after a position, and pages of history.

use im_proto::v1::{Entry, LogEntry};
use im_redis_bus::{Call, Lane, script};
use im_wire::ids::{Epoch, RoomId, Seq};
use prost::Message;

use super::Shared;
use super::reply::{self, Fields};
use super::verdict::Transitions;
use crate::store::{Error, Page, Result, Slice, Tail};

/// A page never takes more than this out of redis at once: it is asked on when more is wanted.
const PAGE_BYTES: usize = 4 << 20;

/// What the script reads in one step. The default is what a room that does not exist looks like.
#[derive(Default)]
struct Excerpt {
    head: Seq,
    first: Seq,
    epoch: Epoch,
    transitions: Transitions,
    /// In the order of reading.
    entries: Vec<LogEntry>,
}

impl Shared {
    pub(super) async fn tail(
        &self,
        room: &RoomId,
        epoch: Epoch,
        seq: Seq,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Tail> {
        let mut from = seq;
        // Where the position turns out to be worth less, the rest begins earlier. Each reading is one moment and judged
        // for itself; a room can hardly change its epoch twice meanwhile.
        for _ in 0..4 {
            let excerpt = self.excerpt(room, Slice::After(from), limit, max_bytes).await?;
            let reset_to = excerpt.transitions.reset(epoch, seq, excerpt.head);
            let wanted = reset_to.unwrap_or(seq);
            if wanted != from {
                from = wanted;
                continue;
            }
            let truncated = gone_after(from, limit, &excerpt);
            let Excerpt { head, epoch, entries, .. } = excerpt;
            return Ok(Tail { epoch, head, reset_to, truncated, entries });
        }
        Err(Error::Unavailable(format!("{room} changes faster than it can be read")))
    }

    pub(super) async fn page(&self, room: &RoomId, slice: Slice, limit: usize) -> Result<Page> {
        let mut excerpt = self.excerpt(room, slice, limit, PAGE_BYTES).await?;
        let truncated = match slice {
            Slice::After(seq) => gone_after(seq, limit, &excerpt),
            Slice::Before(seq) => gone_before(seq.min(excerpt.head + 1), limit, &excerpt),
            Slice::Latest => gone_before(excerpt.head + 1, limit, &excerpt),
        };
        if !matches!(slice, Slice::After(_)) {
            excerpt.entries.reverse();
        }
        let Excerpt { head, epoch, entries, .. } = excerpt;
        Ok(Page { epoch, head, truncated, entries })
    }

    async fn excerpt(&self, room: &RoomId, slice: Slice, limit: usize, max_bytes: usize) -> Result<Excerpt> {
        let keys = self.client.keys().room(room);
        let (way, seq) = match slice {
            Slice::After(seq) => ("after", seq),
            Slice::Before(seq) => ("before", seq),
            Slice::Latest => ("latest", 0),
        };
        let mut command = script::log().call(2);
        command.arg(keys.meta()).arg(keys.log()).arg(way).arg(seq).arg(limit).arg(max_bytes);
        let call = Call::script(keys.slot(), script::log(), command).repeatable();
        let mut fields = Fields::of(reply::value(self.client.call(Lane::Any, call).await)?)?;
        if fields.is_empty() {
            return Ok(Excerpt { first: 1, ..Excerpt::default() });
        }
        let (head, first, epoch) = (fields.take()?, fields.take()?, fields.take()?);
        let transitions = Transitions::parse(&fields.take::<String>()?)?;
        let mut entries = Vec::new();
        while !fields.is_empty() {
            let seq = fields.take()?;
            let entry = Entry::decode(fields.take::<Vec<u8>>()?.as_slice());
            let entry = entry.map_err(|error| Error::Corrupt(format!("entry {seq} of {room}: {error}")))?;
            entries.push(LogEntry { seq, entry: Some(entry) });
        }
        Ok(Excerpt { head, first, epoch, transitions, entries })
    }
}

/// What is missing between `seq` and the first entry read after it: what stands in the log counts, not what should.
fn gone_after(seq: Seq, limit: usize, excerpt: &Excerpt) -> Option<(Seq, Seq)> {
    let next = match excerpt.entries.first() {
        Some(entry) => entry.seq,
        None if limit > 0 => excerpt.head + 1,
        None => excerpt.first,
    };
    (next > seq + 1).then(|| (seq + 1, next - 1))
}

/// What is missing of the `limit` entries before `seq`.
fn gone_before(seq: Seq, limit: usize, excerpt: &Excerpt) -> Option<(Seq, Seq)> {
    let oldest_wanted = seq.saturating_sub(limit as u64).max(1);
    (excerpt.first > oldest_wanted && seq > oldest_wanted).then(|| (oldest_wanted, (excerpt.first - 1).min(seq - 1)))
}
