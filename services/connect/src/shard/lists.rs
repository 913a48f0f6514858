//! Which rooms a user has, for connections that follow all of them: told by logic as it changes, and compared now and then
//! with logic's list, because what is told may be lost.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use im_proto::v1::{Fault, KnownList, KnownRooms, RoomList, call, reply};
use im_wire::ids::{RoomId, Seq};
use im_wire::native::ServerOp;

use super::follow::follow;
use super::mailbox::RoomsChange;
use super::{Shard, rights};
use crate::connection::{Client, Connection};
use crate::metrics;
use crate::translate;

/// Lists compared in one call.
const BATCH: usize = 100;
/// After something may have been lost all lists are compared within so many seconds, or sooner where that is the rule.
const HURRY: u64 = 5;
/// Rooms beyond a connection's bound that the client is told of at once.
const MAX_EXCESS: usize = 16;
/// Questions after something that concerns all members of a room are spread over so long.
const SPREAD: Duration = Duration::from_secs(2);

/// How far the comparison of lists has come.
#[derive(Debug, Default)]
pub(super) struct Lists {
    step: Cell<u64>,
    /// Steps that are still to go in a hurry.
    hurry: Cell<u64>,
    /// Calls under way.
    under_way: Cell<usize>,
}

/// Comparisons under way at most; what is due meanwhile waits for its next turn.
const CONCURRENCY: usize = 32;

impl Shard {
    /// The user's rooms have changed, as logic says. Returns how many of their connections are here. Without a user it says that
    /// something could not be told.
    pub(crate) fn rooms_changed(self: &Rc<Self>, change: &RoomsChange) -> u64 {
        if change.user.is_empty() {
            self.hurry_lists();
            return 0;
        }
        let clients: Vec<Client> = self
            .of_user(&change.user)
            .iter()
            .filter_map(Client::of)
            .collect();
        for client in &clients {
            for room in &change.removed {
                self.room_removed(client, room, change.seq);
            }
            self.rooms_added(client, &change.added, change.seq);
        }
        clients.len() as u64
    }

    fn room_removed(self: &Rc<Self>, client: &Client, room: &RoomId, seq: Seq) {
        // Answers under way may be older than this.
        client.note_end(room, if seq == 0 { Seq::MAX } else { seq });
        let Some(subscription) = client.rooms.borrow().get(room).copied() else {
            return;
        };
        if seq == 0 {
            tokio::task::spawn_local(rights::recheck(
                Rc::clone(self),
                client.clone(),
                vec![room.clone()],
            ));
        } else if seq > subscription.checked_at {
            self.drop_room(client, room, "left");
        }
    }

    fn rooms_added(self: &Rc<Self>, client: &Client, rooms: &[RoomId], seq: Seq) {
        let (mut fresh, mut known) = (Vec::new(), Vec::new());
        for room in rooms {
            match client.rooms.borrow().get(room) {
                None => fresh.push(room.clone()),
                // Its log may still have to tell of an end before this beginning.
                Some(subscription) if seq == 0 || seq > subscription.checked_at => {
                    known.push(room.clone())
                }
                Some(_) => {}
            }
        }
        if !known.is_empty() {
            tokio::task::spawn_local(follow(Rc::clone(self), client.clone(), known));
        }
        fresh.retain(|room| !client.note_addition(room));
        if fresh.is_empty() {
            return;
        }
        if client.follows_all.get() {
            fresh.iter().for_each(|room| client.follow_again(room));
            tokio::task::spawn_local(follow(Rc::clone(self), client.clone(), fresh));
        } else if client.encoding.get().is_native() {
            for room in fresh {
                let op = ServerOp::RoomChanged {
                    room,
                    subscribed: false,
                    reason: "joined".to_owned(),
                };
                client.write(&client.encoding.get().response(0, op));
            }
        }
    }

    /// Asks after a moment whether the client's user still may hear the room.
    pub(super) fn recheck_soon(&self, connection: &Rc<Connection>, room: &RoomId) {
        let (Some(shard), Some(client)) = (self.me.upgrade(), Client::of(connection)) else {
            return;
        };
        let room = room.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(SPREAD.mul_f64(rand::random())).await;
            if client.rooms.borrow().contains_key(&room) {
                rights::recheck(shard, client, vec![room]).await;
            }
        });
    }

    /// Notifications may have been lost: all lists are compared soon.
    pub(super) fn hurry_lists(&self) {
        self.lists
            .hurry
            .set(HURRY.min(self.options.rooms_compare.as_secs().max(1)));
    }

    /// A part of the connections each second, so that each one's turn comes once in `rooms_compare`.
    pub(super) fn compare_lists(self: &Rc<Self>) {
        let slow = self.options.rooms_compare.as_secs().max(1);
        let parts = match self.lists.hurry.get() {
            0 => slow,
            left => {
                self.lists.hurry.set(left - 1);
                HURRY.min(slow)
            }
        };
        let step = self.lists.step.get();
        self.lists.step.set(step.wrapping_add(1));
        let connections = self.connections.borrow();
        let due = connections.iter().filter(|(key, connection)| {
            *key as u64 % parts == step % parts && connection.follows_all.get()
        });
        let due: Vec<Client> = due
            .filter_map(|(_, connection)| Client::of(connection))
            .collect();
        drop(connections);
        for some in due.chunks(BATCH) {
            if self.lists.under_way.get() >= CONCURRENCY {
                return;
            }
            self.lists.under_way.set(self.lists.under_way.get() + 1);
            let shard = Rc::clone(self);
            let some = some.to_vec();
            tokio::task::spawn_local(async move {
                if let Err(fault) = shard.compare_lists_of(&some).await {
                    // Each has its turn again.
                    tracing::debug!(code = fault.code, "cannot compare room lists, will retry");
                }
                shard.lists.under_way.set(shard.lists.under_way.get() - 1);
            });
        }
    }

    async fn compare_lists_of(self: &Rc<Self>, mut clients: &[Client]) -> Result<(), Fault> {
        while !clients.is_empty() {
            let known = |client: &Client| KnownList {
                user: client.user().to_string(),
                digest: client.list_digest.get(),
            };
            let asked: Vec<KnownList> = clients.iter().map(known).collect();
            let op = call::Op::KnownRooms(KnownRooms {
                lists: asked.clone(),
            });
            let reply::Result::RoomLists(answer) =
                self.logic.call(bytes::Bytes::new(), "", op).await?
            else {
                return Err(translate::unexpected());
            };
            let answered = answer.lists.len().min(clients.len());
            if answered == 0 {
                return Err(translate::unexpected());
            }
            metrics::LISTS_COMPARED.inc_by(answered as u64);
            for ((client, asked), list) in clients.iter().zip(asked).zip(answer.lists) {
                // Something may have become unsure meanwhile.
                let same = client.list_digest.get() == asked.digest;
                if same && list.digest != asked.digest && !self.is_gone(&client.connection) {
                    self.list_changed(client, list);
                }
            }
            clients = &clients[answered..];
        }
        Ok(())
    }

    fn list_changed(self: &Rc<Self>, client: &Client, list: RoomList) {
        metrics::LISTS_CHANGED.inc();
        client.list_digest.set(list.digest);
        let rooms: Vec<RoomId> = list
            .rooms
            .into_iter()
            .filter_map(|room| RoomId::new(room).ok())
            .collect();
        let heard = client.rooms.borrow();
        // A list in order of bytes, as stores give it, would do for a search; nothing promises that.
        let listed: std::collections::HashSet<&RoomId> = rooms.iter().collect();
        let lost: Vec<RoomId> = heard
            .keys()
            .filter(|room| !listed.contains(room))
            .cloned()
            .collect();
        let unheard = |room: &&RoomId| !heard.contains_key(*room) && !client.has_unfollowed(room);
        let mut found: Vec<RoomId> = rooms.iter().filter(unheard).cloned().collect();
        let free = self.options.max_rooms.saturating_sub(heard.len());
        drop(heard);
        found.truncate(free.saturating_add(MAX_EXCESS));
        if !lost.is_empty() {
            tokio::task::spawn_local(rights::recheck(Rc::clone(self), client.clone(), lost));
        }
        if !found.is_empty() {
            metrics::LIST_ROOMS_FOUND.inc_by(found.len() as u64);
            tokio::task::spawn_local(follow(Rc::clone(self), client.clone(), found));
        }
    }
}
