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
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use im_wire::ids::{Epoch, RoomId, Seq};
use im_wire::native::Message;
use tokio::time::Instant;

use crate::translate::Signal;

pub(crate) use room::{Member, Part, Room};

/// Rooms that a map has places for in any case.
pub(crate) const SPARE: usize = 1024;

/// A position in a room's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct LogPosition {
    pub(crate) epoch: Epoch,
    pub(crate) seq: Seq,
}

/// One thing to be told to members, in this order.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item {
    Message(Arc<Message>),
    Reset(LogPosition),
    Truncated { from: Seq, to: Seq },
    Signal(Arc<Signal>),
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
    /// Subscribe to the room on the bus.
    Subscribe(RoomId),
    /// No longer.
    Unsubscribe(RoomId),
    /// Ask the log what follows, and report with [`Hub::fetched`] or [`Hub::fetch_failed`].
    Fetch {
        room: RoomId,
        asker: Asker,
        after: LogPosition,
    },
    /// Tell one member.
    Tell {
        room: RoomId,
        member: Member,
        items: Vec<Item>,
    },
    /// The log does not give the member what it has missed, now or later: it no longer hears the room.
    GiveUp { room: RoomId, member: Member },
}

/// Why the log did not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It cannot be reached just now.
    Passing,
    /// It answered that it cannot.
    Lasting,
}

/// How often something has been asked in vain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tries {
    failed: u8,
    /// The last ones, one after the other, that look as if asking again does not help.
    lasting: u8,
}

impl Tries {
    /// After so many lasting failures nothing is asked any more.
    const LASTING: u8 = 5;

    fn failed(&mut self, failure: Failure) {
        self.failed = self.failed.saturating_add(1);
        self.lasting = if failure == Failure::Lasting {
            self.lasting + 1
        } else {
            0
        };
    }

    /// Nobody could be reached, and now somebody can: what was asked in vain meanwhile says nothing.
    fn forget_passing(&mut self) {
        self.failed = self.lasting;
    }

    fn is_over(self) -> bool {
        self.lasting >= Self::LASTING
    }
}

/// What the log answered.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) head: LogPosition,
    pub(crate) reset_to: Option<Seq>,
    pub(crate) truncated: Option<(Seq, Seq)>,
    pub(crate) entries: Vec<Arc<Message>>,
}

impl Answer {
    /// Of the entries' bodies.
    pub(crate) fn bytes(&self) -> usize {
        self.entries
            .iter()
            .map(|message| message.body.bytes().len())
            .sum()
    }

    /// Moves a position through what was answered, not beyond `up_to`, and appends what it passes. Returns whether the log
    /// has taken something of it back.
    fn advance(&self, position: &mut LogPosition, up_to: Seq, passed: &mut Vec<Item>) -> bool {
        let reset_to = self.reset_to.filter(|stands| *stands < position.seq);
        if let Some(stands) = reset_to {
            position.seq = stands;
            passed.push(Item::Reset(LogPosition {
                epoch: self.head.epoch,
                seq: stands,
            }));
        }
        position.epoch = self.head.epoch;
        if let Some((from, to)) = self.truncated
            && to > position.seq
        {
            position.seq = to;
            passed.push(Item::Truncated { from, to });
        }
        for message in &self.entries {
            if message.seq == position.seq + 1 && message.seq <= up_to {
                position.seq = message.seq;
                passed.push(Item::Message(Arc::clone(message)));
            }
        }
        reset_to.is_some()
    }

    /// The same with these entries.
    pub(crate) fn with(&self, entries: Vec<Arc<Message>>) -> Self {
        Self { entries, ..*self }
    }
}

/// Times and bounds.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Events of one room that may wait for its repair.
    pub(crate) pending: usize,
    /// Bytes of such events, of all rooms together.
    pub(crate) pending_bytes: usize,
    /// Signals that may wait for a room's next batch.
    pub(crate) signals: usize,
    pub(crate) linger: Duration,
    /// The first pause before something is asked again; each further one is twice as long.
    pub(crate) retry: Duration,
    /// The longest.
    pub(crate) longest: Duration,
    /// Makes the pauses of one shard differ from those of another.
    pub(crate) seed: u64,
}

impl Limits {
    /// The pause after so many tries: between half of it and all of it, as the room's name has it, so that rooms that failed
    /// together are not asked about together.
    fn pause(&self, room: &RoomId, tries: Tries) -> Duration {
        let doubled = self
            .retry
            .saturating_mul(1 << u32::from(tries.failed.saturating_sub(1)).min(16));
        let mut hasher = DefaultHasher::new();
        (self.seed, room, tries.failed).hash(&mut hasher);
        let share = (hasher.finish() >> 40) as f64 / f64::from(1 << 24);
        doubled.min(self.longest).mul_f64(0.5 + share / 2.0)
    }
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
    /// Questions that were given up because they failed for good.
    pub(crate) given_up: u64,
    /// Signals beyond what may wait for a room's next batch.
    pub(crate) signals_dropped: u64,
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
    /// Those that are held back, and until when.
    held: BinaryHeap<Reverse<(Instant, RoomId)>>,
    /// Bytes of events that wait for repairs.
    pending_bytes: usize,
    pub(crate) counts: Counts,
}

impl Hub {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            rooms: HashMap::new(),
            limits,
            dirty: VecDeque::new(),
            held: BinaryHeap::new(),
            pending_bytes: 0,
            counts: Counts::default(),
        }
    }

    /// A member begins to hear a room from a place that it has had; `head` is where logic saw the log's head. What is still to
    /// be delivered to the others and lies before that place it does not get.
    pub(crate) fn join(
        &mut self,
        id: &RoomId,
        member: Member,
        after: LogPosition,
        head: LogPosition,
        effects: &mut Vec<Effect>,
    ) {
        let room = self.rooms.entry(id.clone()).or_insert_with(|| {
            effects.push(Effect::Subscribe(id.clone()));
            Room::new(head)
        });
        room.join(id, member, after, effects);
    }

    /// A member no longer hears a room, not even what was still to be delivered.
    pub(crate) fn leave(&mut self, id: &RoomId, member: Member, now: Instant) {
        if let Some(room) = self.rooms.get_mut(id) {
            room.leave(member, now);
        }
    }

    /// The bus carries the room from now on: what was said before is asked for.
    pub(crate) fn subscribed(&mut self, id: &RoomId, effects: &mut Vec<Effect>) {
        if let Some(room) = self.rooms.get_mut(id) {
            room.subscribed(id, effects);
        }
    }

    /// The bus brought a message.
    pub(crate) fn logged(&mut self, message: Arc<Message>, effects: &mut Vec<Effect>) {
        let Some((id, room)) = self
            .rooms
            .get_key_value(&message.room)
            .map(|(id, _)| id.clone())
            .and_then(|id| {
                let room = self.rooms.get_mut(&id)?;
                Some((id, room))
            })
        else {
            return;
        };
        let before = room.pending_bytes();
        let left = self.limits.pending_bytes.saturating_sub(self.pending_bytes);
        room.logged(&id, message, left, &self.limits, &mut self.counts, effects);
        self.pending_bytes = self.pending_bytes + room.pending_bytes() - before;
        list(&mut self.dirty, &id, room);
    }

    /// A signal for the live members of a room: it is delivered behind what the room has put in order before it.
    pub(crate) fn signal(&mut self, id: &RoomId, signal: Arc<Signal>) {
        if let Some(room) = self.rooms.get_mut(id) {
            room.signal(signal, &self.limits, &mut self.counts);
            list(&mut self.dirty, id, room);
        }
    }

    /// The log answered.
    pub(crate) fn fetched(
        &mut self,
        id: &RoomId,
        asker: Asker,
        asked: LogPosition,
        answer: Answer,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Self {
            rooms,
            limits,
            counts,
            dirty,
            pending_bytes,
            ..
        } = self;
        let Some(room) = rooms.get_mut(id) else {
            return;
        };
        let before = room.pending_bytes();
        match asker {
            Asker::Room => room.repaired(id, asked, answer, now, limits, counts, effects),
            Asker::Member(member) => {
                room.caught_up(id, member, asked, answer, now, limits, counts, effects)
            }
        }
        *pending_bytes = *pending_bytes + room.pending_bytes() - before;
        list(dirty, id, room);
    }

    /// The log did not answer: it is asked again at a later [`Hub::tick`], or given up.
    pub(crate) fn fetch_failed(
        &mut self,
        id: &RoomId,
        asker: Asker,
        failure: Failure,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let Self {
            rooms,
            limits,
            counts,
            dirty,
            pending_bytes,
            ..
        } = self;
        if let Some(room) = rooms.get_mut(id) {
            let before = room.pending_bytes();
            room.fetch_failed(id, asker, failure, now, limits, counts, effects);
            *pending_bytes = *pending_bytes + room.pending_bytes() - before;
            list(dirty, id, room);
        }
    }

    /// A room's head as the log tells it, asked when the room stood at `stood`.
    pub(crate) fn compared(
        &mut self,
        id: &RoomId,
        stood: LogPosition,
        head: LogPosition,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(room) = self.rooms.get_mut(id) {
            room.compared(id, stood, head, &mut self.counts, effects);
        }
    }

    /// The log is answered from again: what failed is asked at the next [`Hub::tick`], and its pauses begin anew.
    pub(crate) fn end_pauses(&mut self, now: Instant) {
        self.rooms
            .values_mut()
            .for_each(|room| room.end_pauses(now));
    }

    /// Asks again what failed, and lets go of rooms that have been empty for long.
    pub(crate) fn tick(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let linger = self.limits.linger;
        let pending_bytes = &mut self.pending_bytes;
        self.rooms.retain(|id, room| {
            let keep = !room.is_over(now, linger);
            if keep {
                room.retry(id, now, effects);
            } else {
                *pending_bytes -= room.pending_bytes();
                effects.push(Effect::Unsubscribe(id.clone()));
            }
            keep
        });
        im_runtime::give_back(&mut self.rooms, SPARE);
    }

    /// Whether a room has something to deliver that nothing holds back.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Hands the rooms' new items to `deliver`, with live members that are owed them. A room with more of them than are left
    /// of the turn goes on behind the other rooms.
    pub(crate) fn deliver(
        &mut self,
        turn: Turn,
        mut deliver: impl FnMut(&RoomId, Part<'_>),
    ) -> Next {
        while let Some(held) = self.held.peek_mut().filter(|held| held.0.0 <= turn.now) {
            self.dirty.push_back(PeekMut::pop(held).0.1);
        }
        let mut left = turn.members;
        while left > 0
            && let Some(id) = self.dirty.pop_front()
        {
            let Some(room) = self.rooms.get_mut(&id) else {
                continue;
            };
            if room.is_clean() {
                room.listed = false;
                continue;
            }
            if let Some(until) = room.begin(turn.now, turn.hold) {
                self.counts.held += 1;
                self.held.push(Reverse((until, id)));
                continue;
            }
            let handed = room.hand_on(left, |part| deliver(&id, part));
            // A room without members here takes a moment too.
            left = left.saturating_sub(handed.max(1));
            room.listed = !room.is_clean();
            if room.listed {
                self.dirty.push_back(id);
            }
        }
        match self.held.peek() {
            _ if !self.dirty.is_empty() => Next::Now,
            Some(Reverse((until, _))) => Next::At(*until),
            None => Next::Arrival,
        }
    }

    /// Where each room stands.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (&RoomId, LogPosition)> {
        self.rooms.iter().map(|(id, room)| (id, room.head()))
    }

    /// Where one room stands.
    pub(crate) fn head(&self, id: &RoomId) -> Option<LogPosition> {
        self.rooms.get(id).map(Room::head)
    }

    /// A room that still waits for the bus asks the log without it: the confirmation may have been lost.
    pub(crate) fn unstick(&mut self, id: &RoomId, effects: &mut Vec<Effect>) {
        if let Some(room) = self.rooms.get_mut(id)
            && room.awaits_bus()
        {
            room.subscribed(id, effects);
        }
    }

    /// Bytes of events that wait for repairs of their rooms.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// How many rooms there are.
    pub(crate) fn len(&self) -> usize {
        self.rooms.len()
    }
}

/// Notes that the room has something to deliver, where it does and is not noted already.
fn list(dirty: &mut VecDeque<RoomId>, id: &RoomId, room: &mut Room) {
    if !room.listed && !room.is_clean() {
        room.listed = true;
        dirty.push_back(id.clone());
    }
}
