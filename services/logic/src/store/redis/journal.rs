//! Reading a room's log: the rest after a position, and pages of history.

use im_redis_bus::{Call, Lane, script};
use im_wire::ids::{Epoch, RoomId, Seq};

use super::Shared;
use super::reply::{self, Fields};
use crate::store::readable::{PAGE_BYTES, Run};
use crate::store::verdict::Transitions;
use crate::store::{Error, Page, Result, Slice, Tail};

/// How often reading goes on where nothing that was read could be decoded.
const READ_ON: usize = 64;

/// What the script reads in one step. The default is what a room that does not exist looks like.
#[derive(Default)]
struct Excerpt {
    head: Seq,
    first: Seq,
    epoch: Epoch,
    transitions: Transitions,
    /// In the order of reading.
    run: Run,
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
            let Excerpt { head, epoch, run, .. } = excerpt;
            return Ok(Tail { epoch, head, reset_to, truncated, entries: run.entries });
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
            excerpt.run.entries.reverse();
        }
        let Excerpt { head, epoch, run, .. } = excerpt;
        Ok(Page { epoch, head, truncated, entries: run.entries })
    }

    /// A part of the log; what cannot be read is gone over.
    async fn excerpt(&self, room: &RoomId, slice: Slice, limit: usize, max_bytes: usize) -> Result<Excerpt> {
        let mut excerpt = self.read_log(room, slice, limit, max_bytes).await?;
        for _ in 0..READ_ON {
            let Some((from, to)) = excerpt.run.gone.filter(|_| excerpt.run.entries.is_empty()) else { break };
            let further = match slice {
                Slice::After(_) => Slice::After(to),
                Slice::Before(_) | Slice::Latest => Slice::Before(from),
            };
            let more = self.read_log(room, further, limit, max_bytes).await?;
            // Another epoch: what was read before may be another log. What is known so far is told.
            if more.epoch != excerpt.epoch || (more.run.entries.is_empty() && more.run.gone.is_none()) {
                break;
            }
            let gone = more.run.gone.map_or((from, to), |(low, high)| (low.min(from), high.max(to)));
            excerpt.run = Run { gone: Some(gone), ..more.run };
        }
        Ok(excerpt)
    }

    async fn read_log(&self, room: &RoomId, slice: Slice, limit: usize, max_bytes: usize) -> Result<Excerpt> {
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
        let mut run = Run::default();
        while !fields.is_empty() {
            let seq = fields.take()?;
            if !run.take(room, seq, &fields.take::<Vec<u8>>()?) {
                break;
            }
        }
        Ok(Excerpt { head, first, epoch, transitions, run })
    }
}

/// What is missing between `seq` and the first entry read after it: what stands in the log counts, not what should.
fn gone_after(seq: Seq, limit: usize, excerpt: &Excerpt) -> Option<(Seq, Seq)> {
    let next = match (excerpt.run.entries.first(), excerpt.run.gone) {
        (Some(entry), _) => entry.seq,
        (None, Some((_, to))) => to + 1,
        (None, None) if limit > 0 => excerpt.head + 1,
        (None, None) => excerpt.first,
    };
    let missing = seq.saturating_add(1);
    (next > missing).then(|| (missing, next - 1))
}

/// What is missing of the `limit` entries before `seq`: what could not be read, or where reading has come to it, what
/// retention has removed.
fn gone_before(seq: Seq, limit: usize, excerpt: &Excerpt) -> Option<(Seq, Seq)> {
    if excerpt.run.gone.is_some() {
        return excerpt.run.gone;
    }
    let oldest_wanted = seq.saturating_sub(limit as u64).max(1);
    let is_reached = excerpt.run.entries.last().is_none_or(|entry| entry.seq <= excerpt.first);
    let is_gone = is_reached && excerpt.first > oldest_wanted && seq > oldest_wanted;
    is_gone.then(|| (oldest_wanted, (excerpt.first - 1).min(seq - 1)))
}
