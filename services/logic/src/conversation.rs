//! The list of a user's conversations.

use std::pin::pin;

use futures::{StreamExt, TryStreamExt};
use im_proto::v1::LogEntry;
use im_wire::ids::RoomId;

use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::store::{Slice, View};

/// Last messages read at once for a list of conversations.
const CONCURRENCY: usize = 16;

/// One of a user's conversations.
pub(crate) struct Conversation {
    pub(crate) room: RoomId,
    pub(crate) view: View,
    pub(crate) last: Option<LogEntry>,
}

impl Core {
    /// The caller's conversations, in the order of [`Core::rooms_of`], from behind `after`; and where to go on. The page ends
    /// early, with one conversation at least, where the last messages in it have about `max_history_bytes`.
    pub(crate) async fn conversations(
        &self,
        who: &Grant,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<(Vec<Conversation>, Option<RoomId>)> {
        let (rooms, mut next) = self.rooms_of(who, after, limit).await?;
        let all = rooms.len();
        let with_last = |(room, view): (RoomId, View)| async move {
            let last = if view.head == 0 {
                None
            } else {
                self.store
                    .history
                    .page(&room, Slice::Latest, 1)
                    .await?
                    .entries
                    .pop()
            };
            Ok::<_, Error>(Conversation { room, view, last })
        };
        let mut reading = pin!(
            futures::stream::iter(rooms)
                .map(with_last)
                .buffered(CONCURRENCY)
        );
        let mut conversations = Vec::new();
        let mut left = self.options.limits.max_history_bytes;
        while left > 0
            && let Some(one) = reading.try_next().await?
        {
            left = left.saturating_sub(one.shown_bytes());
            conversations.push(one);
        }
        if conversations.len() < all {
            next = conversations
                .last()
                .map(|one: &Conversation| one.room.clone());
        }
        Ok((conversations, next))
    }
}

impl Conversation {
    /// About what it takes in an answer.
    pub(crate) fn shown_bytes(&self) -> usize {
        const AROUND: usize = 256;
        let last = self.last.as_ref().and_then(|last| last.entry.as_ref());
        // A control character becomes six bytes.
        let body = last.map_or(0, |last| {
            last.body
                .iter()
                .map(|byte| if *byte < 0x20 { 6 } else { 1 })
                .sum()
        });
        AROUND + 2 * self.room.as_str().len() + body
    }
}
