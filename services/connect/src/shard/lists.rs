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
use crate::connection::Connection;
use crate::metrics;
use crate::translate;

/// Lists compared in one call.
const AT_ONCE: usize = 100;
/// After something may have been lost all lists are compared within so many seconds, or sooner where that is the rule.
const HURRY: u64 = 5;
/// Rooms beyond a connection's bound that the client is told of at once.
const TOLD: usize = 16;
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
const UNDER_WAY: usize = 32;

impl Shard {
    /// The user's rooms have changed, as logic says. Returns how many of their connections are here. Without a user it says that
    /// something could not be told.
    pub(crate) fn rooms_changed(self: &Rc<Self>, change: &RoomsChange) -> u64 {
        if change.user.is_empty() {
            self.hurry_lists();
            return 0;
        }
        let connections = self.of_user(&change.user);
        for connection in &connections {
            for room in &change.removed {
                self.room_removed(connection, room, change.seq);
            }
            self.rooms_added(connection, &change.added, change.seq);
        }
        connections.len() as u64
    }

    fn room_removed(self: &Rc<Self>, connection: &Rc<Connection>, room: &RoomId, seq: Seq) {
        // Answers under way may be older than this.
        connection.note_end(room, if seq == 0 { Seq::MAX } else { seq });
        let Some(hearing) = connection.rooms.borrow().get(room).copied() else { return };
        if seq == 0 {
            tokio::task::spawn_local(rights::recheck(Rc::clone(self), Rc::clone(connection), vec![room.clone()]));
        } else if seq > hearing.checked_at {
            self.drop_room(connection, room, "left");
        }
    }

    fn rooms_added(self: &Rc<Self>, connection: &Rc<Connection>, rooms: &[RoomId], seq: Seq) {
        let (mut fresh, mut known) = (Vec::new(), Vec::new());
        for room in rooms {
            match connection.rooms.borrow().get(room) {
                None => fresh.push(room.clone()),
                // Its log may still have to tell of an end before this beginning.
                Some(hearing) if seq == 0 || seq > hearing.checked_at => known.push(room.clone()),
                Some(_) => {}
            }
        }
        if !known.is_empty() {
            tokio::task::spawn_local(follow(Rc::clone(self), Rc::clone(connection), known));
        }
        fresh.retain(|room| !connection.note_addition(room));
        if fresh.is_empty() {
            return;
        }
        if connection.follows_all.get() {
            fresh.iter().for_each(|room| connection.follow_again(room));
            tokio::task::spawn_local(follow(Rc::clone(self), Rc::clone(connection), fresh));
        } else if connection.encoding.get().is_native() {
            for room in fresh {
                let op = ServerOp::RoomChanged { room, subscribed: false, reason: "joined".to_owned() };
                connection.write(&connection.encoding.get().response(0, op));
            }
        }
    }

    /// Asks after a moment whether the connection's user still may hear the room.
    pub(super) fn recheck_soon(&self, connection: &Rc<Connection>, room: &RoomId) {
        let Some(shard) = self.me.upgrade() else { return };
        let (connection, room) = (Rc::clone(connection), room.clone());
        tokio::task::spawn_local(async move {
            tokio::time::sleep(SPREAD.mul_f64(rand::random())).await;
            if connection.rooms.borrow().contains_key(&room) {
                rights::recheck(shard, connection, vec![room]).await;
            }
        });
    }

    /// Notifications may have been lost: all lists are compared soon.
    pub(super) fn hurry_lists(&self) {
        self.lists.hurry.set(HURRY.min(self.options.rooms_compare.as_secs().max(1)));
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
            *key as u64 % parts == step % parts && connection.follows_all.get() && connection.user().is_some()
        });
        let due: Vec<Rc<Connection>> = due.map(|(_, connection)| Rc::clone(connection)).collect();
        drop(connections);
        for some in due.chunks(AT_ONCE) {
            if self.lists.under_way.get() >= UNDER_WAY {
                return;
            }
            self.lists.under_way.set(self.lists.under_way.get() + 1);
            let (shard, some) = (Rc::clone(self), some.to_vec());
            tokio::task::spawn_local(async move {
                if let Err(fault) = shard.compare_lists_of(&some).await {
                    // Each has its turn again.
                    tracing::debug!(code = fault.code, "lists of rooms were not compared");
                }
                shard.lists.under_way.set(shard.lists.under_way.get() - 1);
            });
        }
    }

    async fn compare_lists_of(self: &Rc<Self>, mut connections: &[Rc<Connection>]) -> Result<(), Fault> {
        while !connections.is_empty() {
            let known = |connection: &Rc<Connection>| {
                let user = connection.user().map(|user| user.as_str().to_owned()).unwrap_or_default();
                KnownList { user, digest: connection.list_digest.get() }
            };
            let asked: Vec<KnownList> = connections.iter().map(known).collect();
            let op = call::Op::KnownRooms(KnownRooms { lists: asked.clone() });
            let reply::Result::RoomLists(answer) = self.logic.call(bytes::Bytes::new(), "", op).await? else {
                return Err(translate::unexpected());
            };
            let answered = answer.lists.len().min(connections.len());
            if answered == 0 {
                return Err(translate::unexpected());
            }
            metrics::LISTS_COMPARED.inc_by(answered as u64);
            for ((connection, asked), list) in connections.iter().zip(asked).zip(answer.lists) {
                // Something may have become unsure meanwhile.
                let same = connection.list_digest.get() == asked.digest;
                if same && list.digest != asked.digest && !self.is_gone(connection) {
                    self.list_changed(connection, list);
                }
            }
            connections = &connections[answered..];
        }
        Ok(())
    }

    fn list_changed(self: &Rc<Self>, connection: &Rc<Connection>, list: RoomList) {
        metrics::LISTS_CHANGED.inc();
        connection.list_digest.set(list.digest);
        let rooms: Vec<RoomId> = list.rooms.into_iter().filter_map(|room| RoomId::new(room).ok()).collect();
        let heard = connection.rooms.borrow();
        // A list in order of bytes, as stores give it, would do for a search; nothing promises that.
        let listed: std::collections::HashSet<&RoomId> = rooms.iter().collect();
        let lost: Vec<RoomId> = heard.keys().filter(|room| !listed.contains(room)).cloned().collect();
        let unheard = |room: &&RoomId| !heard.contains_key(*room) && !connection.has_unfollowed(room);
        let mut found: Vec<RoomId> = rooms.iter().filter(unheard).cloned().collect();
        let free = self.options.max_rooms.saturating_sub(heard.len());
        drop(heard);
        found.truncate(free.saturating_add(TOLD));
        if !lost.is_empty() {
            tokio::task::spawn_local(rights::recheck(Rc::clone(self), Rc::clone(connection), lost));
        }
        if !found.is_empty() {
            metrics::LIST_ROOMS_FOUND.inc_by(found.len() as u64);
            tokio::task::spawn_local(follow(Rc::clone(self), Rc::clone(connection), found));
        }
    }
}
