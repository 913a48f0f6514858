//! What a user is part of: subscribing to rooms, the list of conversations.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use im_proto::v1::{LogEntry, Subscribe, Subscribed, SubscribedRoom};
use im_wire::ids::RoomId;

use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::room::{access, kind_name};
use crate::store::{Slice, View};

/// Last messages read at once for a list of conversations.
const AT_ONCE: usize = 16;

/// About so many bytes a room takes in the answer to a subscription, besides its id.
const SHOWN: usize = 120;

/// One of a user's conversations.
pub(crate) struct Conversation {
    pub(crate) room: RoomId,
    pub(crate) view: View,
    pub(crate) last: Option<LogEntry>,
}

impl Core {
    /// Which of these rooms the caller may hear, and where each stands.
    pub(crate) async fn subscribe(self: &Arc<Self>, who: &Grant, ask: Subscribe) -> Result<Subscribed> {
        let limits = &self.options.limits;
        if ask.rooms.len() > limits.max_rooms_per_call {
            return Err(Error::LimitReached { what: "rooms in one subscription", limit: limits.max_rooms_per_call });
        }
        let user = who.user()?;
        let named: Vec<_> = ask.rooms.iter().map(RoomId::new).collect();
        let sound: Vec<RoomId> = named.iter().flatten().cloned().collect();
        // Before the named ones are judged: this may take long, and what is judged should not be old when it is answered.
        let (mut mine, mut indexed) = (Vec::new(), None::<HashSet<RoomId>>);
        if ask.all {
            let (mut rooms, more) = self.rooms_of(who, None, limits.max_rooms_per_user).await?;
            indexed = more.is_none().then(|| rooms.iter().map(|(room, _)| room.clone()).collect());
            let (all, mut left) = (rooms.len(), limits.max_subscribed_bytes);
            let fits = |(room, _): &&(RoomId, View)| {
                left = left.saturating_sub(SHOWN + 2 * room.as_str().len());
                left > 0
            };
            let covered = rooms.iter().take_while(fits).count();
            if more.is_some() || covered < all {
                tracing::warn!(%user, covered, "a user has more rooms than are subscribed");
            }
            rooms.truncate(covered);
            mine = rooms;
        }
        let mut views = if sound.is_empty() { Vec::new() } else { self.store.views(&sound, &user).await? }.into_iter();
        let mut rooms = Vec::with_capacity(ask.rooms.len());
        let mut lacking = Vec::new();
        for (name, room) in ask.rooms.into_iter().zip(named) {
            let judged = match &room {
                Ok(room) => access::judge(who, room, views.next().flatten()),
                Err(bad) => Err(bad.clone().into()),
            };
            if let (Some(indexed), Ok(room), Ok(view)) = (&indexed, &room, &judged)
                && is_listed(room, view)
                && !indexed.contains(room)
            {
                lacking.push(room.clone());
            }
            rooms.push(subscribed(name, judged));
        }
        let named: HashSet<_> = sound.iter().collect();
        let mine = mine.into_iter().filter(|(room, _)| !named.contains(room));
        rooms.extend(mine.map(|(room, view)| subscribed(room.as_str().to_owned(), Ok(view))));
        self.index_missing(&user, lacking).await;
        Ok(Subscribed { rooms })
    }

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
            let last =
                if view.head == 0 { None } else { self.store.page(&room, Slice::Latest, 1).await?.entries.pop() };
            Ok::<_, Error>(Conversation { room, view, last })
        };
        let mut reading = pin!(futures::stream::iter(rooms).map(with_last).buffered(AT_ONCE));
        let (mut conversations, mut left) = (Vec::new(), self.options.limits.max_history_bytes);
        while left > 0
            && let Some(one) = reading.try_next().await?
        {
            left = left.saturating_sub(one.shown_bytes());
            conversations.push(one);
        }
        if conversations.len() < all {
            next = conversations.last().map(|one: &Conversation| one.room.clone());
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
        let body = last.map_or(0, |last| last.body.iter().map(|byte| if *byte < 0x20 { 6 } else { 1 }).sum());
        AROUND + 2 * self.room.as_str().len() + body
    }
}

/// Whether a room that the user may hear belongs into the user's index.
fn is_listed(room: &RoomId, view: &View) -> bool {
    if room.is_direct() { view.head > 0 } else { view.role.is_some() }
}

fn subscribed(room: String, judged: Result<View>) -> SubscribedRoom {
    match judged {
        Ok(view) => SubscribedRoom {
            room,
            fault: None,
            kind: kind_name(view.kind).to_owned(),
            epoch: view.epoch,
            head: view.head,
            read: view.read,
            joined: view.joined,
        },
        Err(error) => SubscribedRoom { room, fault: Some(error.fault()), ..SubscribedRoom::default() },
    }
}
