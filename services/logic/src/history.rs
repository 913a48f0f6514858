//! Reading a room's log: pages for people, tails for nodes, and how far somebody has read.

use std::sync::Arc;

use im_proto::v1::{
    Encoding, Fetch, Fetched, Head, HeadList, Heads, History, HistoryPage, LogEntry, ReadState,
    SeqRange, Signal,
};
use im_wire::ids::{RoomId, Seq};

use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::room::unread;
use crate::store::{Page, Slice};

/// Entries are read in steps of so many, so that a page of long messages is not read whole to be cut afterwards.
const STEP: usize = 100;

/// What the signal is called that tells a user's other devices what one of them has read.
pub(crate) const READ_SIGNAL: &str = "read";

impl Core {
    /// A page of history for somebody who may hear the room.
    pub(crate) async fn history(&self, who: &Grant, ask: History) -> Result<HistoryPage> {
        let room = RoomId::new(&ask.room)?;
        let slice = match (ask.after, ask.before) {
            (Some(_), Some(_)) => {
                return Err(Error::bad(
                    "before",
                    "stands beside \"after\": give one of the two",
                ));
            }
            (Some(after), None) => Slice::After(after),
            (None, Some(before)) => Slice::Before(before),
            (None, None) => Slice::Latest,
        };
        let view = self.view(who, &room).await?;
        if view.head == 0 {
            return Ok(HistoryPage {
                epoch: view.epoch,
                ..HistoryPage::default()
            });
        }
        let page = self.page(&room, slice, ask.limit as usize).await?;
        let truncated = page.truncated.map(|(from, to)| SeqRange { from, to });
        Ok(HistoryPage {
            epoch: page.epoch,
            head: page.head,
            truncated,
            entries: page.entries,
        })
    }

    /// The same over HTTP, where nobody else looks at how much a user reads.
    ///
    /// # Errors
    /// The user has read too much.
    pub(crate) async fn history_at_pace(&self, who: &Grant, ask: History) -> Result<HistoryPage> {
        self.may_read_on(who)?;
        let page = self.history(who, ask).await?;
        self.has_read(who, page.entries.iter().map(size).sum());
        Ok(page)
    }

    /// Whether the caller may read more over HTTP.
    pub(crate) fn may_read_on(&self, who: &Grant) -> Result<()> {
        let limited = |wait| Error::TooManyBytes {
            whose: "are read by you",
            wait,
        };
        if who.admin {
            Ok(())
        } else {
            self.user_reads.check(&who.user).map_err(limited)
        }
    }

    /// The caller has read so many bytes over HTTP.
    pub(crate) fn has_read(&self, who: &Grant, bytes: usize) {
        if !who.admin {
            self.user_reads.owe(&who.user, bytes);
        }
    }

    /// A part of the log within the limits; `limit` 0: as many as are usual.
    pub(crate) async fn page(&self, room: &RoomId, slice: Slice, limit: usize) -> Result<Page> {
        let limits = &self.options.limits;
        let wanted = if limit == 0 {
            limits.history_limit
        } else {
            limit.min(limits.max_history_limit)
        };
        let backwards = !matches!(slice, Slice::After(_));
        let mut page = self
            .store
            .history
            .page(room, slice, wanted.min(STEP))
            .await?;
        let mut bytes: usize = page.entries.iter().map(size).sum();
        while page.entries.len() < wanted
            && bytes < limits.max_history_bytes
            && page.truncated.is_none()
        {
            let Some(next) = further(&page, backwards) else {
                break;
            };
            let more = self
                .store
                .history
                .page(room, next, (wanted - page.entries.len()).min(STEP))
                .await?;
            if more.epoch != page.epoch || (more.entries.is_empty() && more.truncated.is_none()) {
                break;
            }
            bytes += more.entries.iter().map(size).sum::<usize>();
            join(&mut page, more, backwards);
        }
        cut(&mut page, backwards, limits.max_history_bytes);
        Ok(page)
    }

    /// The oldest seq of a room's log that retention has left: 1 where nothing was removed, head + 1 where nothing is left.
    pub(crate) async fn first(&self, room: &RoomId) -> Result<Seq> {
        let page = self.store.history.page(room, Slice::After(0), 0).await?;
        Ok(page.truncated.map_or(1, |(_, last)| last + 1))
    }

    /// The log after a position, for a node.
    pub(crate) async fn fetch(&self, ask: Fetch) -> Result<Fetched> {
        let limits = &self.options.limits;
        let after = ask
            .after
            .ok_or_else(|| Error::bad("after", "is missing: say from where"))?;
        let room = RoomId::new(&after.room)?;
        let within = |asked: u32, limit: usize| {
            if asked == 0 {
                limit
            } else {
                limit.min(asked as usize)
            }
        };
        let limit = within(ask.limit, limits.max_fetch_limit);
        let max_bytes = within(ask.max_bytes, limits.max_fetch_bytes);
        let tail = self
            .store
            .history
            .tail(&room, after.epoch, after.seq, limit, max_bytes)
            .await?;
        Ok(Fetched {
            epoch: tail.epoch,
            head: tail.head,
            reset_to: tail.reset_to,
            truncated: tail.truncated.map(|(from, to)| SeqRange { from, to }),
            entries: tail.entries,
        })
    }

    /// How far rooms have come, for a node.
    pub(crate) async fn heads(&self, ask: Heads) -> Result<HeadList> {
        let limit = self.options.limits.max_rooms_per_call;
        if ask.rooms.len() > limit {
            return Err(Error::LimitReached {
                what: "rooms in one comparison",
                limit,
            });
        }
        let rooms = ask
            .rooms
            .iter()
            .map(RoomId::new)
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let heads = self.store.history.heads(&rooms).await?;
        let named = ask.rooms.into_iter().zip(heads);
        Ok(HeadList {
            heads: named
                .map(|(room, (epoch, seq))| Head { room, epoch, seq })
                .collect(),
        })
    }

    /// Moves the caller's read position, and tells their other devices where it moved.
    pub(crate) async fn read(
        self: &Arc<Self>,
        who: &Grant,
        room: &RoomId,
        seq: Seq,
    ) -> Result<ReadState> {
        let view = self.view(who, room).await?;
        if view.head == 0 {
            return Ok(ReadState::default());
        }
        let position = self
            .store
            .history
            .mark_read(room, &who.user()?, seq)
            .await?;
        let unread = unread(position.head, position.read, position.joined);
        let state = ReadState {
            read: position.read,
            joined: position.joined,
            head: position.head,
            unread,
        };
        if position.moved {
            let (room, signal) = (room.clone(), read_signal(who, room, &state));
            self.follow_up(async move |core: Arc<Self>| {
                if let Err(error) = core.store.messages.signal(&room, signal).await {
                    tracing::debug!(%room, %error, "a read position was not told to the user's other devices");
                }
            })
            .await;
        }
        Ok(state)
    }
}

fn read_signal(who: &Grant, room: &RoomId, state: &ReadState) -> Signal {
    let body = serde_json::json!({"room": room, "read": state.read, "head": state.head, "unread": state.unread});
    Signal {
        r#type: READ_SIGNAL.to_owned(),
        body: body.to_string().into(),
        encoding: Encoding::Json.into(),
        to_user: who.user.clone(),
        ..Signal::default()
    }
}

fn size(entry: &LogEntry) -> usize {
    entry.entry.as_ref().map_or(0, |entry| entry.body.len())
}

/// Where a page goes on in its direction; `None` at the log's end.
fn further(page: &Page, backwards: bool) -> Option<Slice> {
    if backwards {
        let first = page.entries.first()?.seq;
        (first > 1).then_some(Slice::Before(first))
    } else {
        let last = page.entries.last()?.seq;
        (last < page.head).then_some(Slice::After(last))
    }
}

fn join(page: &mut Page, mut more: Page, backwards: bool) {
    page.head = page.head.max(more.head);
    page.truncated = more.truncated;
    if backwards {
        more.entries.append(&mut page.entries);
        page.entries = more.entries;
    } else {
        page.entries.append(&mut more.entries);
    }
}

/// Leaves so many bytes of bodies, and one entry at least, at the end where reading began.
fn cut(page: &mut Page, backwards: bool, max_bytes: usize) {
    let mut left = max_bytes;
    let fits = |entry: &&LogEntry| match left.checked_sub(size(entry)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    let all = page.entries.len();
    let kept = if backwards {
        page.entries.iter().rev().take_while(fits).count()
    } else {
        page.entries.iter().take_while(fits).count()
    };
    let kept = kept.max(1).min(all);
    if kept == all {
        return;
    }
    if backwards {
        page.entries.drain(..all - kept);
        // What is gone lies before what was cut: whoever asks further will be told.
        page.truncated = None;
    } else {
        page.entries.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use im_proto::v1::Entry;

    use super::*;

    fn page(sizes: &[usize]) -> Page {
        let entry = |(at, size): (usize, &usize)| {
            let entry = Entry {
                body: vec![b'a'; *size].into(),
                ..Entry::default()
            };
            LogEntry {
                seq: at as u64 + 1,
                entry: Some(entry),
            }
        };
        let entries: Vec<_> = sizes.iter().enumerate().map(entry).collect();
        Page {
            epoch: 1,
            head: sizes.len() as u64,
            truncated: None,
            entries,
        }
    }

    fn seqs(page: &Page) -> Vec<u64> {
        page.entries.iter().map(|entry| entry.seq).collect()
    }

    #[test]
    fn a_page_is_cut_where_its_bytes_end() {
        let table: &[(&[usize], bool, usize, &[u64])] = &[
            (&[10, 10, 10], false, 25, &[1, 2]),
            (&[10, 10, 10], true, 25, &[2, 3]),
            (&[10, 10, 10], true, 30, &[1, 2, 3]),
            (&[100, 10], false, 25, &[1]),
            (&[10, 100], true, 25, &[2]),
            (&[], true, 25, &[]),
        ];
        for (sizes, backwards, bytes, left) in table {
            let mut page = page(sizes);
            cut(&mut page, *backwards, *bytes);
            assert_eq!(seqs(&page), *left, "{sizes:?} {backwards} {bytes}");
        }
    }

    #[test]
    fn what_is_gone_is_not_said_of_a_page_that_does_not_reach_it() {
        let mut cut_short = Page {
            truncated: Some((1, 5)),
            ..page(&[10, 10])
        };
        cut(&mut cut_short, true, 10);
        assert_eq!(cut_short.truncated, None);
    }
}
