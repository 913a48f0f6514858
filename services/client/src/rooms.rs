//! How far each room has come: what makes delivery ordered and once, whichever connection a message arrives on.
//!
//! While a client moves, two connections deliver the same rooms. Each is contiguous from the position it was resumed at;
//! together they are merged by (epoch, seq). A connection whose node has not heard yet that the store lost its tail may
//! still deliver what was taken back, so what it says counts only once it has reached the newer epoch.

use std::collections::{HashMap, HashSet};

use im_wire::ids::{Epoch, RoomId, Seq};
use im_wire::native::{Message, Position};

/// One of the two places a connection can take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    A,
    B,
}

impl Slot {
    pub(crate) const BOTH: [Self; 2] = [Self::A, Self::B];

    pub(crate) fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// What is to be done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Hand it to the application.
    Deliver,
    /// The log beyond `keep` was taken back without a word: say so, then hand the message over.
    DeliverAfterReset { keep: Seq },
    /// It has been handed over before.
    Repeat,
    /// From a connection that lives in a past that another one has left.
    Stale,
    /// Of a room that is not heard (any more).
    NotHeard,
    /// Something before it is missing: ask for the room again.
    Gap,
    /// It was asked again and is still missing.
    GapAgain,
    /// Something before it is missing and has been asked for: wait.
    Repairing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    None,
    Asked,
    Answered,
}

#[derive(Debug)]
struct Room {
    /// The last seq handed over; `None`: from now on, and the head is not known yet.
    seq: Option<Seq>,
    /// The epoch of what was handed over.
    epoch: Epoch,
    /// Per slot: whether the room was asked for on it.
    asked: [bool; 2],
    /// Per slot: the epoch its node is known to be in.
    seen: [Epoch; 2],
    /// Per slot: the epoch of the position it started from, and of what it delivered since.
    content: [Epoch; 2],
    /// Per slot: how far it has come by itself; `None`: not known. What it leaves out, the other must not hide.
    reached: [Option<Seq>; 2],
    /// Per slot: whether the room was asked for again because something was missing.
    repair: [Repair; 2],
    /// Per slot: the greatest epoch that the other slot's node has left for an older one, as the log itself was set back.
    /// What this slot brings of epochs up to it is stale, although they are greater than the one in force. 0: none.
    taken_back: [Epoch; 2],
}

impl Room {
    fn new(seq: Option<Seq>, epoch: Epoch) -> Self {
        let asked = [false; 2];
        let seen = [0; 2];
        let content = [0; 2];
        let reached = [None; 2];
        let repair = [Repair::None; 2];
        let taken_back = [0; 2];
        Self {
            seq,
            epoch,
            asked,
            seen,
            content,
            reached,
            repair,
            taken_back,
        }
    }

    /// Whether an epoch that a slot is in or was in lies in a past that the room has left.
    fn is_past(&self, slot: Slot, epoch: Epoch) -> bool {
        epoch < self.epoch || (epoch > self.epoch && epoch <= self.taken_back[slot.index()])
    }

    fn advance(&mut self, slot: Slot, alone: bool, seq: Seq) {
        let seen = self.seen[slot.index()];
        self.content[slot.index()] = seen;
        self.epoch = if alone { seen } else { self.epoch.max(seen) };
        self.seq = Some(seq);
        self.reach(slot, seq);
    }

    /// A slot has come on by itself.
    fn reach(&mut self, slot: Slot, seq: Seq) {
        let reached = &mut self.reached[slot.index()];
        *reached = (*reached).max(Some(seq));
        self.repair[slot.index()] = Repair::None;
    }

    /// What arrives on a slot belongs to before the question, until that is answered.
    fn repairing(&self, slot: Slot) -> bool {
        self.repair[slot.index()] == Repair::Asked
    }

    fn gap(&mut self, slot: Slot) -> Verdict {
        let repair = &mut self.repair[slot.index()];
        match repair {
            Repair::Answered => Verdict::GapAgain,
            Repair::Asked => Verdict::Repairing,
            Repair::None => {
                *repair = Repair::Asked;
                Verdict::Gap
            }
        }
    }
}

/// Where the server says that a room stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) epoch: Epoch,
    pub(crate) head: Seq,
    /// The head when the user became a member.
    pub(crate) joined: Seq,
}

/// What the answer to a subscription means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The room is heard after this seq.
    pub(crate) after: Seq,
    /// It was not known to be heard before.
    pub(crate) new: bool,
    /// Ask for it again from `after`: it is new, and what happened in it while the client was away is wanted as well.
    pub(crate) fetch: bool,
    /// It is not wanted: unsubscribe.
    pub(crate) unwanted: bool,
}

/// Every room that is heard.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    rooms: HashMap<RoomId, Room>,
    /// Every room of the user is heard, also those that are not in `rooms` yet.
    all: bool,
    /// Under `all`: rooms that the application does not want to hear.
    unwanted: HashSet<RoomId>,
    /// Under `all`: rooms that the user has left; late messages from a slot behind must not revive them.
    left: HashSet<RoomId>,
    /// Under `all`: rooms that the server has begun to deliver, and of which nothing has come.
    begun: HashSet<RoomId>,
    /// Of these, those that were begun on connections that are no more.
    in_doubt: HashSet<RoomId>,
}

impl Rooms {
    pub(crate) fn new(positions: Vec<Position>, all: bool) -> Self {
        let mut rooms = Self {
            all,
            ..Self::default()
        };
        positions
            .into_iter()
            .for_each(|position| rooms.want(position));
        rooms
    }

    pub(crate) fn all(&self) -> bool {
        self.all
    }

    /// The application asks for a room. A room that is heard already keeps its place and is asked for again.
    pub(crate) fn want(&mut self, position: Position) {
        self.unwanted.remove(&position.room);
        self.left.remove(&position.room);
        let room = self
            .rooms
            .entry(position.room)
            .or_insert_with(|| Room::new(position.seq, position.epoch));
        room.asked = [false; 2];
    }

    /// The application asks for every room of the user.
    pub(crate) fn want_all(&mut self) {
        self.all = true;
        self.unwanted.clear();
    }

    /// The application no longer wants a room.
    pub(crate) fn unwant(&mut self, room: &RoomId) {
        self.rooms.remove(room);
        self.settle(room);
        if self.all {
            self.unwanted.insert(room.clone());
        }
    }

    /// The server says that the room is not heard any more.
    pub(crate) fn leave(&mut self, room: &RoomId) -> bool {
        if self.all {
            self.left.insert(room.clone());
        }
        self.settle(room);
        self.rooms.remove(room).is_some()
    }

    /// The server says that the user is a member of the room now; `begun`: and that it is delivered from now on.
    pub(crate) fn join(&mut self, room: &RoomId, begun: bool) {
        self.left.remove(room);
        if begun && self.all && !self.rooms.contains_key(room) {
            self.begun.insert(room.clone());
        }
    }

    /// It shows where the room stands, or that it is heard no more.
    fn settle(&mut self, room: &RoomId) {
        self.begun.remove(room);
        self.in_doubt.remove(room);
    }

    /// All rooms of the user have been told, and these stayed away of those that were begun before.
    pub(crate) fn missing(&mut self) -> Vec<RoomId> {
        let missing: Vec<RoomId> = self.in_doubt.drain().collect();
        missing.iter().for_each(|room| _ = self.begun.remove(room));
        missing
    }

    /// A connection takes a slot anew: nothing is known of its node. `alone`: there is no other.
    pub(crate) fn reset_slot(&mut self, slot: Slot, alone: bool) {
        for room in self.rooms.values_mut() {
            room.asked[slot.index()] = false;
            room.seen[slot.index()] = 0;
            room.content[slot.index()] = 0;
            room.reached[slot.index()] = None;
            room.repair[slot.index()] = Repair::None;
            room.taken_back[slot.index()] = 0;
        }
        if alone {
            self.left.clear();
            self.in_doubt.clone_from(&self.begun);
        }
    }

    /// The positions to ask for on a slot: of rooms that were not asked for on it yet. They count as asked from now on.
    pub(crate) fn ask(&mut self, slot: Slot) -> Vec<Position> {
        let not_asked = self
            .rooms
            .iter_mut()
            .filter(|(_, room)| !room.asked[slot.index()]);
        not_asked
            .map(|(id, room)| {
                room.asked[slot.index()] = true;
                Position {
                    room: id.clone(),
                    epoch: room.epoch,
                    seq: room.seq,
                }
            })
            .collect()
    }

    /// These were not asked for on a slot after all.
    pub(crate) fn not_asked<'a>(&mut self, slot: Slot, rooms: impl Iterator<Item = &'a RoomId>) {
        for id in rooms {
            if let Some(room) = self.rooms.get_mut(id) {
                room.asked[slot.index()] = false;
            }
        }
    }

    /// The position of one room, to ask for it again on a slot.
    pub(crate) fn ask_again(&mut self, slot: Slot, id: &RoomId) -> Option<Position> {
        let room = self.rooms.get_mut(id)?;
        room.asked[slot.index()] = true;
        Some(Position {
            room: id.clone(),
            epoch: room.epoch,
            seq: room.seq,
        })
    }

    /// Where a room stands: its epoch and the last seq handed over.
    #[cfg(test)]
    pub(crate) fn place(&self, room: &RoomId) -> Option<(Epoch, Seq)> {
        let room = self.rooms.get(room)?;
        Some((room.epoch, room.seq?))
    }

    /// A subscription was accepted. `late`: the client has been connected before, so a room that turns up now was joined
    /// while it was away, and everything since `joined` is wanted. `asked`: the position that was asked for; what the slot
    /// brings from now on follows it, whatever it brought before.
    pub(crate) fn subscribed(
        &mut self,
        slot: Slot,
        late: bool,
        id: &RoomId,
        Standing {
            epoch,
            head,
            joined,
        }: Standing,
        asked: Option<&Position>,
    ) -> Heard {
        if self.unwanted.contains(id) || !(self.all || self.rooms.contains_key(id)) {
            return Heard {
                after: head,
                new: false,
                fetch: false,
                unwanted: true,
            };
        }
        self.left.remove(id);
        self.settle(id);
        let start = if late { joined.min(head) } else { head };
        let mut new = false;
        let room = self.rooms.entry(id.clone()).or_insert_with(|| {
            new = true;
            Room::new(Some(start), epoch)
        });
        room.asked[slot.index()] = true;
        room.seen[slot.index()] = room.seen[slot.index()].max(epoch);
        if asked.is_some() || room.reached[slot.index()].is_none() {
            room.content[slot.index()] = asked
                .map(|asked| asked.epoch)
                .filter(|epoch| *epoch != 0)
                .unwrap_or(epoch);
            room.reached[slot.index()] = asked.and_then(|asked| asked.seq).or(Some(head));
        }
        if asked.is_some() {
            room.taken_back[slot.index()] = 0;
        }
        if asked.is_some() && room.repairing(slot) {
            room.repair[slot.index()] = Repair::Answered;
        }
        if room.seq.is_none() {
            room.seq = Some(head);
            room.epoch = epoch;
        }
        let after = room.seq.unwrap_or(head);
        Heard {
            after,
            new,
            fetch: new && after < head,
            unwanted: false,
        }
    }

    /// A message arrived on a slot; `alone`: the other slot has no connection. The place moves with what is delivered.
    pub(crate) fn message(&mut self, slot: Slot, alone: bool, message: &Message) -> Verdict {
        if !self.rooms.contains_key(&message.room) {
            if !self.all
                || self.unwanted.contains(&message.room)
                || self.left.contains(&message.room)
            {
                return Verdict::NotHeard;
            }
            self.settle(&message.room);
            self.rooms
                .insert(message.room.clone(), Room::new(None, message.epoch));
        }
        let Some(room) = self.rooms.get_mut(&message.room) else {
            return Verdict::NotHeard;
        };
        if room.repairing(slot) {
            return Verdict::Repairing;
        }
        let seen = room.seen[slot.index()].max(message.epoch);
        room.seen[slot.index()] = seen;
        // It lives in a past that the other has left. Left alone with it, ask where the log stands now.
        let past = room.is_past(slot, seen);
        if (past && alone)
            || room.reached[slot.index()].is_some_and(|reached| message.seq > reached + 1)
        {
            return room.gap(slot);
        }
        room.reach(slot, message.seq);
        if past {
            return Verdict::Stale;
        }
        match room.seq {
            Some(had) if message.seq <= had && message.epoch > room.epoch && room.epoch != 0 => {
                let keep = message.seq.saturating_sub(1);
                room.advance(slot, alone, message.seq);
                Verdict::DeliverAfterReset { keep }
            }
            Some(had) if message.seq <= had => Verdict::Repeat,
            Some(had) if message.seq > had + 1 => room.gap(slot),
            _ => {
                room.advance(slot, alone, message.seq);
                Verdict::Deliver
            }
        }
    }

    /// The server says that the log ends at `seq` now. True: the application had more and must be told.
    pub(crate) fn reset(
        &mut self,
        slot: Slot,
        alone: bool,
        id: &RoomId,
        epoch: Epoch,
        seq: Seq,
    ) -> bool {
        let Some(room) = self.rooms.get_mut(id) else {
            return false;
        };
        if room.repairing(slot) {
            // What was asked for again comes with its own resets.
            return false;
        }
        let content = std::mem::replace(&mut room.content[slot.index()], epoch);
        room.reached[slot.index()] = Some(seq);
        room.repair[slot.index()] = Repair::None;
        // A slot that was in the room's epoch and is in an older one now: the log itself was set back.
        let outdated = room.is_past(slot, content);
        let set_back = epoch < room.epoch && !outdated;
        room.seen[slot.index()] = epoch;
        if room.is_past(slot, epoch) && !set_back {
            return false;
        }
        if set_back {
            let other = &mut room.taken_back[slot.other().index()];
            *other = (*other).max(room.epoch);
        }
        room.taken_back[slot.index()] = 0;
        // The other slot brought this news before and has gone on since: this slot will repeat what came after.
        let old_news = !alone && epoch == room.epoch && outdated;
        let beyond = room.seq.is_some_and(|had| seq < had);
        if beyond && old_news {
            return false;
        }
        room.epoch = epoch;
        if beyond || room.seq.is_none() {
            room.seq = Some(seq);
        }
        beyond
    }

    /// The server says that `from..=to` is gone. What of it the application had not yet is returned.
    pub(crate) fn truncated(
        &mut self,
        slot: Slot,
        alone: bool,
        id: &RoomId,
        from: Seq,
        to: Seq,
    ) -> Option<(Seq, Seq)> {
        let room = self.rooms.get_mut(id)?;
        if room.repairing(slot) || (!alone && room.is_past(slot, room.seen[slot.index()])) {
            return None;
        }
        room.reach(slot, to);
        match room.seq {
            Some(had) if to <= had || from > had + 1 => None,
            Some(had) => {
                room.advance(slot, alone, to);
                Some((had + 1, to))
            }
            None => {
                room.advance(slot, alone, to);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
