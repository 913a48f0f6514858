//! What a user is part of: subscribing to rooms, the list of conversations.

use std::collections::HashSet;

use futures::{StreamExt, TryStreamExt};
use im_proto::v1::{LogEntry, Subscribe, Subscribed, SubscribedRoom};
use im_wire::ids::RoomId;

use crate::auth::grant::Grant;
use crate::error::{Error, Result};
use crate::room::{access, kind_name};
use crate::service::Core;
use crate::store::{Slice, View};

/// Last messages read at once for a list of conversations.
const AT_ONCE: usize = 16;

/// One of a user's conversations.
pub(crate) struct Conversation {
    pub(crate) room: RoomId,
    pub(crate) view: View,
    pub(crate) last: Option<LogEntry>,
}

impl Core {
    /// Which of these rooms the caller may hear, and where each stands.
    pub(crate) async fn subscribe(&self, who: &Grant, ask: Subscribe) -> Result<Subscribed> {
        let limits = &self.options.limits;
        if ask.rooms.len() > limits.max_rooms_per_call {
            return Err(Error::LimitReached { what: "rooms in one subscription", limit: limits.max_rooms_per_call });
        }
        let user = who.user()?;
        let named: Vec<_> = ask.rooms.iter().map(RoomId::new).collect();
        let sound: Vec<RoomId> = named.iter().flatten().cloned().collect();
        let mut views = if sound.is_empty() { Vec::new() } else { self.store.views(&sound, &user).await? }.into_iter();
        let mut rooms = Vec::with_capacity(ask.rooms.len());
        for (name, room) in ask.rooms.into_iter().zip(named) {
            let judged = match &room {
                Ok(room) => access::judge(who, room, views.next().flatten()),
                Err(bad) => Err(bad.clone().into()),
            };
            rooms.push(subscribed(name, judged));
        }
        if ask.all {
            let (mine, more) = self.rooms_of(&user, None, limits.max_rooms_per_user).await?;
            if more.is_some() {
                tracing::warn!(%user, limit = limits.max_rooms_per_user, "a user has more rooms than are subscribed");
            }
            let named: HashSet<_> = sound.iter().collect();
            let mine = mine.into_iter().filter(|(room, _)| !named.contains(room));
            rooms.extend(mine.map(|(room, view)| subscribed(room.as_str().to_owned(), Ok(view))));
        }
        Ok(Subscribed { rooms })
    }

    /// The caller's conversations, in order of room id, from behind `after`; and where to go on.
    pub(crate) async fn conversations(
        &self,
        who: &Grant,
        after: Option<&RoomId>,
        limit: usize,
    ) -> Result<(Vec<Conversation>, Option<RoomId>)> {
        let (rooms, next) = self.rooms_of(&who.user()?, after, limit).await?;
        let with_last = |(room, view): (RoomId, View)| async move {
            let last =
                if view.head == 0 { None } else { self.store.page(&room, Slice::Latest, 1).await?.entries.pop() };
            Ok::<_, Error>(Conversation { room, view, last })
        };
        let conversations = futures::stream::iter(rooms).map(with_last).buffered(AT_ONCE).try_collect().await?;
        Ok((conversations, next))
    }
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
