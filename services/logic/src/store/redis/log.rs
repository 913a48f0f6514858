//! Reading a room's log: the rest after a position, pages of history, heads; and how far somebody has read.

use async_trait::async_trait;
use im_redis_bus::{Call, Lane, script};
use im_wire::ids::{Epoch, RoomId, Seq, UserId};

use super::reply::{self, Fields};
use super::{RedisStore, Shared};
use crate::store::readable::{PAGE_BYTES, Run};
use crate::store::verdict::Transitions;
use crate::store::{Error, History, Page, ReadPosition, Result, Slice, Tail};

/// How often reading goes on where nothing that was read could be decoded.
const READ_ON: usize = 64;

/// What the script reads in one step. The default is what a room that does not exist looks like.
#[derive(Default)]
struct LogSlice {
    head: Seq,
    first: Seq,
    epoch: Epoch,
    transitions: Transitions,
    /// In the order of reading.
    run: Run,
}

#[async_trait]
impl History for RedisStore {
    async fn tail(
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
            let found = self
                .shared
                .log_slice(room, Slice::After(from), limit, max_bytes)
                .await?;
            let reset_to = found.transitions.reset(epoch, seq, found.head);
            let wanted = reset_to.unwrap_or(seq);
            if wanted != from {
                from = wanted;
                continue;
            }
            let truncated = gone_after(from, limit, &found);
            let LogSlice {
                head, epoch, run, ..
            } = found;
            return Ok(Tail {
                epoch,
                head,
                reset_to,
                truncated,
                entries: run.entries,
            });
        }
        Err(Error::Unavailable(format!(
            "{room} changes faster than it can be read"
        )))
    }

    async fn page(&self, room: &RoomId, slice: Slice, limit: usize) -> Result<Page> {
        let mut found = self
            .shared
            .log_slice(room, slice, limit, PAGE_BYTES)
            .await?;
        let truncated = match slice {
            Slice::After(seq) => gone_after(seq, limit, &found),
            Slice::Before(seq) => gone_before(seq.min(found.head + 1), limit, &found),
            Slice::Latest => gone_before(found.head + 1, limit, &found),
        };
        if !matches!(slice, Slice::After(_)) {
            found.run.entries.reverse();
        }
        let LogSlice {
            head, epoch, run, ..
        } = found;
        Ok(Page {
            epoch,
            head,
            truncated,
            entries: run.entries,
        })
    }

    async fn heads(&self, rooms: &[RoomId]) -> Result<Vec<(Epoch, Seq)>> {
        let calls = rooms.iter().map(|room| {
            let keys = self.shared.client.keys().room(room);
            let mut meta = redis::cmd("HMGET");
            meta.arg(keys.meta()).arg(&["e", "h"]);
            Call::new(keys.slot(), meta).repeatable()
        });
        let replies = self.shared.client.calls(Lane::Any, calls.collect()).await;
        replies
            .into_iter()
            .map(|reply| {
                let (epoch, head): (Option<Epoch>, Option<Seq>) = reply::read(reply)?;
                Ok((epoch.unwrap_or(0), head.unwrap_or(0)))
            })
            .collect()
    }

    async fn mark_read(&self, room: &RoomId, user: &UserId, seq: Seq) -> Result<ReadPosition> {
        let keys = self.shared.client.keys().room(room);
        let mut command = script::read().call(3);
        command
            .arg(keys.meta())
            .arg(keys.members())
            .arg(keys.read())
            .arg(user.as_str())
            .arg(seq);
        let call = Call::script(keys.slot(), script::read(), command).repeatable();
        let mut fields = Fields::of(reply::value(
            self.shared.client.call(Lane::Any, call).await,
        )?)?;
        match fields.take::<String>()?.as_str() {
            "none" => Err(Error::NoSuchRoom(room.clone())),
            "stranger" => Err(Error::NotAMember {
                room: room.clone(),
                user: user.clone(),
            }),
            _ => {
                let read = fields.take()?;
                let joined = fields.take()?;
                let head = fields.take()?;
                Ok(ReadPosition {
                    read,
                    joined,
                    head,
                    moved: fields.take::<i64>()? == 1,
                })
            }
        }
    }
}

impl Shared {
    /// A part of the log; what cannot be read is gone over.
    async fn log_slice(
        &self,
        room: &RoomId,
        slice: Slice,
        limit: usize,
        max_bytes: usize,
    ) -> Result<LogSlice> {
        let mut found = self.read_log(room, slice, limit, max_bytes).await?;
        for _ in 0..READ_ON {
            let Some((from, to)) = found.run.gone.filter(|_| found.run.entries.is_empty()) else {
                break;
            };
            let further = match slice {
                Slice::After(_) => Slice::After(to),
                Slice::Before(_) | Slice::Latest => Slice::Before(from),
            };
            let more = self.read_log(room, further, limit, max_bytes).await?;
            // Another epoch: what was read before may be another log. What is known so far is told.
            if more.epoch != found.epoch || (more.run.entries.is_empty() && more.run.gone.is_none())
            {
                break;
            }
            let gone = more
                .run
                .gone
                .map_or((from, to), |(low, high)| (low.min(from), high.max(to)));
            found.run = Run {
                gone: Some(gone),
                ..more.run
            };
        }
        Ok(found)
    }

    async fn read_log(
        &self,
        room: &RoomId,
        slice: Slice,
        limit: usize,
        max_bytes: usize,
    ) -> Result<LogSlice> {
        let keys = self.client.keys().room(room);
        let (way, seq) = match slice {
            Slice::After(seq) => ("after", seq),
            Slice::Before(seq) => ("before", seq),
            Slice::Latest => ("latest", 0),
        };
        let mut command = script::log().call(2);
        command
            .arg(keys.meta())
            .arg(keys.log())
            .arg(way)
            .arg(seq)
            .arg(limit)
            .arg(max_bytes);
        let call = Call::script(keys.slot(), script::log(), command).repeatable();
        let mut fields = Fields::of(reply::value(self.client.call(Lane::Any, call).await)?)?;
        if fields.is_empty() {
            return Ok(LogSlice {
                first: 1,
                ..LogSlice::default()
            });
        }
        let head = fields.take()?;
        let first = fields.take()?;
        let epoch = fields.take()?;
        let transitions = Transitions::parse(&fields.take::<String>()?)?;
        let mut run = Run::default();
        while !fields.is_empty() {
            let seq = fields.take()?;
            if !run.take(room, seq, &fields.take::<Vec<u8>>()?) {
                break;
            }
        }
        Ok(LogSlice {
            head,
            first,
            epoch,
            transitions,
            run,
        })
    }
}

/// What is missing between `seq` and the first entry read after it: what stands in the log counts, not what should.
fn gone_after(seq: Seq, limit: usize, found: &LogSlice) -> Option<(Seq, Seq)> {
    let next = match (found.run.entries.first(), found.run.gone) {
        (Some(entry), _) => entry.seq,
        (None, Some((_, to))) => to + 1,
        (None, None) if limit > 0 => found.head + 1,
        (None, None) => found.first,
    };
    let missing = seq.saturating_add(1);
    (next > missing).then(|| (missing, next - 1))
}

/// What is missing of the `limit` entries before `seq`: what could not be read, or where reading has come to it, what
/// retention has removed.
fn gone_before(seq: Seq, limit: usize, found: &LogSlice) -> Option<(Seq, Seq)> {
    if found.run.gone.is_some() {
        return found.run.gone;
    }
    let oldest_wanted = seq.saturating_sub(limit as u64).max(1);
    let is_reached = found
        .run
        .entries
        .last()
        .is_none_or(|entry| entry.seq <= found.first);
    let is_gone = is_reached && found.first > oldest_wanted && seq > oldest_wanted;
    is_gone.then(|| (oldest_wanted, (found.first - 1).min(seq - 1)))
}
