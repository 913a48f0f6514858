//! Subscribing to rooms: named ones, or all that a user is in.

use std::collections::HashSet;
use std::sync::Arc;

use im_proto::v1::{Subscribe, Subscribed, SubscribedRoom};
use im_wire::ids::RoomId;

use crate::auth::grant::Grant;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::room::{access, kind_name};
use crate::store::View;

/// About so many bytes a room takes in the answer to a subscription, besides its id.
const ROOM_BYTES: usize = 120;

impl Core {
    /// Which of these rooms the caller may hear, and where each stands.
    pub(crate) async fn subscribe(
        self: &Arc<Self>,
        who: &Grant,
        ask: Subscribe,
    ) -> Result<Subscribed> {
        let limits = &self.options.limits;
        if ask.rooms.len() > limits.max_rooms_per_call {
            return Err(Error::LimitReached {
                what: "rooms in one subscription",
                limit: limits.max_rooms_per_call,
            });
        }
        let user = who.user()?;
        let named: Vec<_> = ask.rooms.iter().map(RoomId::new).collect();
        let sound: Vec<RoomId> = named.iter().flatten().cloned().collect();
        // Before the named ones are judged: this may take long, and what is judged should not be old when it is answered.
        let mut mine = Vec::new();
        let mut indexed = None::<HashSet<RoomId>>;
        if ask.all {
            let (mut rooms, more) = self.rooms_of(who, None, limits.max_rooms_per_user).await?;
            indexed = more
                .is_none()
                .then(|| rooms.iter().map(|(room, _)| room.clone()).collect());
            let all = rooms.len();
            let mut left = limits.max_subscribed_bytes;
            let fits = |(room, _): &&(RoomId, View)| {
                left = left.saturating_sub(ROOM_BYTES + 2 * room.as_str().len());
                left > 0
            };
            let covered = rooms.iter().take_while(fits).count();
            if more.is_some() || covered < all {
                tracing::warn!(%user, covered, "user has more rooms than one subscription covers; the rest are left out");
            }
            rooms.truncate(covered);
            mine = rooms;
        }
        let mut views = if sound.is_empty() {
            Vec::new()
        } else {
            self.store.rooms.views(&sound, &user).await?
        }
        .into_iter();
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
}

/// Whether a room that the user may hear belongs into the user's index.
fn is_listed(room: &RoomId, view: &View) -> bool {
    if room.is_direct() {
        view.head > 0
    } else {
        view.role.is_some()
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
        Err(error) => SubscribedRoom {
            room,
            fault: Some(error.fault()),
            ..SubscribedRoom::default()
        },
    }
}
