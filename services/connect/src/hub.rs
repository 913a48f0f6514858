//! A shard's part of the hub: which rooms its connections are in, how far each room has come, and what is to be done
//! next. Pure: no I/O, no clock of its own, nothing awaits. The shard feeds it what happens and carries out the effects.
//!
//! A room's live members have all been handed everything up to the room's head. Whoever is not there yet catches up by
//! fetches of its own, and becomes live when its position meets the head. What the bus brings is delivered only where it
//! continues the head in the room's epoch; anything else makes the room ask the log.

mod catch_up;
mod room;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::binary_heap::PeekMut;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use im_wire::ids::{Epoch, RoomId, Seq};
use im_wire::native::Message;

pub(crate) use room::{Member, Part, Room};

/// Rooms that a map has places for in any case.
pub(crate) const SPARE: usize = 1024;

/// A place in a room's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Place {
    pub(crate) epoch: Epoch,
    pub(crate) seq: Seq,
}

/// One thing to be told to members, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    Message(Arc<Message>),
    Reset(Place),
    Truncated { from: Seq, to: Seq },
}

/// Who asks the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Asker {
    /// The room, for all its live members.
    Room,
    /// One member that catches up.
    Member(Member),
}

/// What the shard is to do.
#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    /// Hear the room on the bus.
    Hear(RoomId),
    /// No longer.
    Forget(RoomId),
    /// Ask the log what follows, and report with [`Hub::fetched`] or [`Hub::fetch_failed`].
    Fetch { room: RoomId, asker: Asker, after: Place },
    /// Tell one member.
    Tell { room: RoomId, member: Member, items: Vec<Item> },
}

/// What the log answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) head: Place,
    pub(crate) reset_to: Option<Seq>,
    pub(crate) truncated: Option<(Seq, Seq)>,
    pub(crate) entries: Vec<Arc<Message>>,
}

/// Times and bounds.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) pending: usize,
    pub(crate) linger: Duration,
    pub(crate) retry: Duration,
}

/// What one call may hand on, and when it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turn {
    /// About so many members in all.
    pub(crate) members: usize,
    pub(crate) now: Instant,
    /// How long after a room's last batch began its next one begins at the earliest.
    pub(crate) hold: Duration,
}

/// When the next turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// At once: something is left.
    Now,
    /// What is held back is due then.
    At(Instant),
    /// When something has arrived.
    Arrival,
}

/// Figures that the shard copies into its metrics.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) repeats: u64,
    pub(crate) gaps: u64,
    pub(crate) resets: u64,
    pub(crate) overflows: u64,
    pub(crate) repairs: u64,
    /// Batches that were held back.
    pub(crate) held: u64,
}

/// The rooms of one shard.
#[derive(Debug)]
pub(crate) struct Hub {
    rooms: HashMap<RoomId, Room>,
    limits: Limits,
    /// Rooms with something to deliver, and perhaps some that have nothing any more.
    dirty: VecDeque<RoomId>,
    /// Those of them that are held back, and until when.
    held: BinaryHeap<Reverse<(Instant, RoomId)>>,
    pub(crate) counts: Counts,
}

impl Hub {
    pub(crate) fn new(limits: Limits) -> Self {
        let (rooms, dirty, held) = Default::default();
        Self { rooms, limits, dirty, held, counts: Counts::default() }
    }

    /// A member begins to hear a room from a place that it has had; `head` is where logic saw the log's head. Deliver
    /// with [`Hub::deliver_room`] first: who becomes live must not get what is still to be delivered.
    pub(crate) fn join(&mut self, id: &RoomId, member: Member, after: Place, head: Place, effects: &mut Vec<Effect>) {
        debug_assert!(self.rooms.get(id).is_none_or(Room::is_clean), "deliver before anybody joins");
        let room = self.rooms.entry(id.clone()).or_insert_with(|| {
            effects.push(Effect::Hear(id.clone()));
            Room::new(head)
        });
        room.join(id, member, after, effects);
    }

    /// A member no longer hears a room. Deliver with [`Hub::deliver_room`] first.
    pub(crate) fn leave(&mut self, id: &RoomId, member: Member, now: Instant) {
        debug_assert!(!self.rooms.get(id).is_some_and(Room::is_under_way), "deliver before anybody leaves");
        if let Some(room) = self.rooms.get_mut(id) {
            room.leave(member, now);
        }
    }

    /// The bus carries the room from now on: what was said before is asked for.
    pub(crate) fn heard(&mut self, id: &RoomId, effects: &mut Vec<Effect>) {
        if let Some(room) = self.rooms.get_mut(id) {
            room.heard(id, effects);
        }
    }

    /// The bus brought a message.
    pub(crate) fn logged(&mut self, message: Arc<Message>, effects: &mut Vec<Effect>) {
        let Some((id, room)) = self.rooms.get_key_value(&message.room).map(|(id, _)| id.clone()).and_then(|id| {
            let room = self.rooms.get_mut(&id)?;
            Some((id, room))
        }) else {
            return;
        };
        let was_clean = room.is_clean();
        room.logged(&id, message, &self.limits, &mut self.counts, effects);
        if was_clean && !room.is_clean() {
            self.dirty.push_back(id);
        }
    }

    /// The log answered. Deliver with [`Hub::deliver_room`] first.
    pub(crate) fn fetched(
        &mut self,
        id: &RoomId,
        asker: Asker,
        asked: Place,
        answer: Answer,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        debug_assert!(self.rooms.get(id).is_none_or(Room::is_clean), "deliver before an answer is taken");
        let Some(room) = self.rooms.get_mut(id) else { return };
        match asker {
            Asker::Room => room.repaired(id, asked, answer, now, &self.limits, &mut self.counts, effects),
            Asker::Member(member) => room.caught_up(id, member, asked, answer, now, &self.limits, effects),
        }
        if !room.is_clean() {
            self.dirty.push_back(id.clone());
        }
    }

    /// The log did not answer: it is asked again at a later [`Hub::tick`].
    pub(crate) fn fetch_failed(&mut self, id: &RoomId, asker: Asker, now: Instant) {
        if let Some(room) = self.rooms.get_mut(id) {
            room.fetch_failed(asker, now + self.limits.retry);
        }
    }

    /// A room's head as the log tells it, asked when the room stood at `stood`.
    pub(crate) fn compared(&mut self, id: &RoomId, stood: Place, head: Place, effects: &mut Vec<Effect>) {
        if let Some(room) = self.rooms.get_mut(id) {
            room.compared(id, stood, head, &mut self.counts, effects);
        }
    }

    /// Asks again what failed, and lets go of rooms that have been empty for long.
    pub(crate) fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let linger = self.limits.linger;
        self.rooms.retain(|id, room| {
            let keep = !room.is_over(now, linger);
            if keep {
                room.retry(id, now, effects);
            } else {
                effects.push(Effect::Forget(id.clone()));
            }
            keep
        });
        im_runtime::give_back(&mut self.rooms, SPARE);
        // Those that were delivered on their own.
        let Self { rooms, dirty, .. } = self;
        dirty.retain(|id| rooms.get(id).is_some_and(|room| !room.is_clean()));
    }

    /// Hands the rooms' new items to `deliver`, with live members that are owed them. A room with more of them than are left
    /// of the turn goes on behind the other rooms.
    pub(crate) fn deliver(&mut self, turn: Turn, mut deliver: impl FnMut(&RoomId, Part<'_>)) -> Next {
        while let Some(held) = self.held.peek_mut().filter(|held| held.0.0 <= turn.now) {
            self.dirty.push_back(PeekMut::pop(held).0.1);
        }
        let mut left = turn.members;
        while left > 0
            && let Some(id) = self.dirty.pop_front()
        {
            let Some(room) = self.rooms.get_mut(&id).filter(|room| !room.is_clean()) else { continue };
            if let Some(until) = room.begin(turn.now, turn.hold) {
                self.counts.held += 1;
                self.held.push(Reverse((until, id)));
                continue;
            }
            let handed = room.hand_on(left, |part| deliver(&id, part));
            // A room without members here takes a moment too.
            left = left.saturating_sub(handed.max(1));
            if !room.is_clean() {
                self.dirty.push_back(id);
            }
        }
        match self.held.peek() {
            _ if !self.dirty.is_empty() => Next::Now,
            Some(Reverse((until, _))) => Next::At(*until),
            None => Next::Arrival,
        }
    }

    /// Hands all of one room's new items to `deliver`.
    pub(crate) fn deliver_room(&mut self, id: &RoomId, mut deliver: impl FnMut(Part<'_>)) {
        if let Some(room) = self.rooms.get_mut(id) {
            while !room.is_clean() {
                room.hand_on(usize::MAX, &mut deliver);
            }
        }
    }

    /// The live members of a room: signals go to them.
    pub(crate) fn live(&self, id: &RoomId) -> &[Member] {
        self.rooms.get(id).map_or(&[], Room::live)
    }

    /// Where each room stands.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (&RoomId, Place)> {
        self.rooms.iter().map(|(id, room)| (id, room.head()))
    }

    /// Where one room stands.
    pub(crate) fn head(&self, id: &RoomId) -> Option<Place> {
        self.rooms.get(id).map(Room::head)
    }

    /// A room that still waits for the bus asks the log without it: the word that it is heard may have been lost.
    pub(crate) fn unstick(&mut self, id: &RoomId, effects: &mut Vec<Effect>) {
        if let Some(room) = self.rooms.get_mut(id)
            && room.is_unheard()
        {
            room.heard(id, effects);
        }
    }

    /// How many rooms there are.
    pub(crate) fn len(&self) -> usize {
        self.rooms.len()
    }
}
