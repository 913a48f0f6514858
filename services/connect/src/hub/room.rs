//! One room on one shard: its head, its live members, and the repair of its order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use im_wire::ids::RoomId;
use im_wire::native::Message;

use super::catch_up::CatchUp;
use super::{Answer, Asker, Counts, Effect, Item, Limits, Place};

/// A connection of the shard, by its key.
pub(crate) type Member = u32;

/// How often a room asks for what its pending events promise before it leaves them to the comparison of heads.
const FRUITLESS: u32 = 3;

/// What the room is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    /// The bus does not carry it yet.
    Unheard,
    /// Nothing: events are delivered as they come.
    None,
    /// The log has been asked.
    Asked,
    /// The log did not answer; it is asked again then.
    Retry(Instant),
}

/// Items of which some live members have been handed all, the others none.
#[derive(Debug, Default)]
struct UnderWay {
    items: Vec<Item>,
    /// How many members, from the beginning of `live`, have been handed them.
    handed: usize,
}

/// Items, and some of the members that are owed them.
pub(crate) struct Part<'r> {
    pub(crate) members: &'r [Member],
    pub(crate) items: &'r [Item],
    /// Every member has been handed them with this part.
    pub(crate) last: bool,
}

#[derive(Debug)]
pub(crate) struct Room {
    head: Place,
    live: Vec<Member>,
    /// Where each live member stands in `live`.
    index: HashMap<Member, usize>,
    behind: HashMap<Member, CatchUp>,
    items: Vec<Item>,
    under_way: UnderWay,
    /// When the last batch of a turn began.
    began: Option<Instant>,
    pending: Vec<Arc<Message>>,
    /// Events were dropped while waiting: ask once more after the answer.
    overflowed: bool,
    fruitless: u32,
    repair: Repair,
    empty_since: Option<Instant>,
}

impl Room {
    pub(super) fn new(head: Place) -> Self {
        Self {
            head,
            live: Vec::new(),
            index: HashMap::new(),
            behind: HashMap::new(),
            items: Vec::new(),
            under_way: UnderWay::default(),
            began: None,
            pending: Vec::new(),
            overflowed: false,
            fruitless: 0,
            repair: Repair::Unheard,
            empty_since: None,
        }
    }

    pub(super) fn head(&self) -> Place {
        self.head
    }

    pub(super) fn live(&self) -> &[Member] {
        &self.live
    }

    /// Every live member has been handed everything up to the head.
    pub(super) fn is_clean(&self) -> bool {
        self.items.is_empty() && !self.is_under_way()
    }

    /// Some live members have been handed more than others.
    pub(super) fn is_under_way(&self) -> bool {
        !self.under_way.items.is_empty()
    }

    /// Whether the next batch may be handed on: `None`, and it begins now where none is under way. Otherwise until when it is
    /// held back, so that what comes until then joins it: for as long as `hold` after the last one began.
    pub(super) fn begin(&mut self, now: Instant, hold: Duration) -> Option<Instant> {
        if self.is_under_way() {
            return None;
        }
        let until = self.began.map(|began| began + hold).filter(|until| *until > now);
        if until.is_none() {
            self.began = Some(now);
        }
        until
    }

    /// Hands `deliver` the next part: at most so many members. Returns how many.
    pub(super) fn hand_on(&mut self, limit: usize, deliver: impl FnOnce(Part<'_>)) -> usize {
        let Self { live, items, under_way, .. } = self;
        if under_way.items.is_empty() {
            under_way.items = std::mem::take(items);
        }
        let waiting = &live[under_way.handed..];
        let members = &waiting[..limit.min(waiting.len())];
        let last = members.len() == waiting.len();
        deliver(Part { members, items: &under_way.items, last });
        under_way.handed += members.len();
        if last {
            *under_way = UnderWay::default();
        }
        members.len()
    }

    pub(super) fn is_over(&self, now: Instant, linger: Duration) -> bool {
        self.empty_since.is_some_and(|since| now.saturating_duration_since(since) >= linger)
    }

    pub(super) fn join(&mut self, id: &RoomId, member: Member, after: Place, effects: &mut Vec<Effect>) {
        self.empty_since = None;
        if self.index.contains_key(&member) || self.behind.contains_key(&member) {
            return;
        }
        if after == self.head {
            self.make_live(member);
        } else {
            self.behind.insert(member, CatchUp::asked(after));
            effects.push(Effect::Fetch { room: id.clone(), asker: Asker::Member(member), after });
        }
    }

    pub(super) fn leave(&mut self, member: Member, now: Instant) {
        self.behind.remove(&member);
        if let Some(place) = self.index.remove(&member) {
            self.live.swap_remove(place);
            if let Some(moved) = self.live.get(place) {
                self.index.insert(*moved, place);
            }
        }
        if self.live.is_empty() && self.behind.is_empty() {
            self.empty_since.get_or_insert(now);
        }
    }

    pub(super) fn make_live(&mut self, member: Member) {
        self.index.insert(member, self.live.len());
        self.live.push(member);
    }

    pub(super) fn behind(&mut self) -> &mut HashMap<Member, CatchUp> {
        &mut self.behind
    }

    /// The bus carries the room: whatever was said between the head we know and now must be asked for.
    pub(super) fn heard(&mut self, id: &RoomId, effects: &mut Vec<Effect>) {
        if self.repair != Repair::Asked {
            self.ask(id, effects);
        } else {
            // The answer under way may be older than the subscription.
            self.overflowed = true;
        }
    }

    pub(super) fn is_unheard(&self) -> bool {
        self.repair == Repair::Unheard
    }

    fn ask(&mut self, id: &RoomId, effects: &mut Vec<Effect>) {
        self.repair = Repair::Asked;
        effects.push(Effect::Fetch { room: id.clone(), asker: Asker::Room, after: self.head });
    }

    pub(super) fn logged(
        &mut self,
        id: &RoomId,
        message: Arc<Message>,
        limits: &Limits,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        if self.repair == Repair::None {
            if message.epoch == self.head.epoch && message.seq == self.head.seq + 1 {
                self.hand_out(message);
                return;
            }
            if message.epoch == self.head.epoch && message.seq <= self.head.seq {
                counts.repeats += 1;
                return;
            }
            counts.gaps += 1;
            counts.repairs += 1;
            self.ask(id, effects);
        }
        if self.pending.len() < limits.pending {
            self.pending.push(message);
        } else {
            counts.overflows += 1;
            self.overflowed = true;
        }
    }

    fn hand_out(&mut self, message: Arc<Message>) {
        self.head = Place { epoch: message.epoch, seq: message.seq };
        self.items.push(Item::Message(message));
    }

    /// What the log says follows the head.
    #[allow(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    pub(super) fn repaired(
        &mut self,
        id: &RoomId,
        asked: Place,
        answer: Answer,
        now: Instant,
        limits: &Limits,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        if asked != self.head {
            // Something else moved the head meanwhile; what follows it is asked anew.
            self.ask(id, effects);
            return;
        }
        let before = self.head;
        self.apply(&answer, counts);
        self.repair = Repair::None;
        let more = self.head.seq < answer.head.seq;
        self.settle_pending(counts);
        if (more && self.head != before) || std::mem::take(&mut self.overflowed) {
            self.fruitless = 0;
            self.ask(id, effects);
        } else if more {
            self.repair = Repair::Retry(now + limits.retry);
        } else if self.pending.is_empty() {
            self.fruitless = 0;
        } else if self.head == before && self.fruitless >= FRUITLESS {
            self.fruitless = 0;
            self.pending.clear();
        } else {
            self.fruitless = if self.head == before { self.fruitless + 1 } else { 0 };
            self.repair = Repair::Retry(now + limits.retry * self.fruitless);
        }
        self.wake_members(id, effects);
    }

    fn apply(&mut self, answer: &Answer, counts: &mut Counts) {
        if let Some(stands) = answer.reset_to
            && stands < self.head.seq
        {
            counts.resets += 1;
            self.head.seq = stands;
            self.items.push(Item::Reset(Place { epoch: answer.head.epoch, seq: stands }));
        }
        self.head.epoch = answer.head.epoch;
        if let Some((from, to)) = answer.truncated
            && to > self.head.seq
        {
            self.head.seq = to;
            self.items.push(Item::Truncated { from, to });
        }
        for message in &answer.entries {
            if message.seq == self.head.seq + 1 {
                self.head.seq = message.seq;
                self.items.push(Item::Message(Arc::clone(message)));
            }
        }
    }

    /// Delivers what has been waiting as far as it continues the head; keeps what still has a gap before it.
    fn settle_pending(&mut self, counts: &mut Counts) {
        let mut pending = std::mem::take(&mut self.pending);
        pending.sort_by_key(|message| (message.epoch, message.seq));
        for message in pending {
            if message.epoch == self.head.epoch && message.seq == self.head.seq + 1 {
                self.hand_out(message);
            } else if message.epoch > self.head.epoch
                || (message.epoch == self.head.epoch && message.seq > self.head.seq)
            {
                self.pending.push(message);
            } else {
                counts.repeats += 1;
            }
        }
    }

    pub(super) fn fetch_failed(&mut self, asker: Asker, again: Instant) {
        match asker {
            Asker::Room => self.repair = Repair::Retry(again),
            Asker::Member(member) => {
                if let Some(catch_up) = self.behind.get_mut(&member) {
                    catch_up.failed(again);
                }
            }
        }
    }

    pub(super) fn retry(&mut self, id: &RoomId, now: Instant, effects: &mut Vec<Effect>) {
        if matches!(self.repair, Repair::Retry(at) if at <= now) {
            self.ask(id, effects);
        }
        for (member, catch_up) in &mut self.behind {
            if let Some(after) = catch_up.ask_again(now) {
                effects.push(Effect::Fetch { room: id.clone(), asker: Asker::Member(*member), after });
            }
        }
    }

    pub(super) fn compared(
        &mut self,
        id: &RoomId,
        stood: Place,
        head: Place,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        // What has moved since is in order; the next comparison sees it.
        if self.repair == Repair::None && self.head == stood && self.head != head {
            counts.repairs += 1;
            self.ask(id, effects);
        }
    }

    /// Asks the room's own question where a member found the log further than the room.
    pub(super) fn suspect(&mut self, now: Instant, limits: &Limits) {
        if self.repair == Repair::None {
            self.repair = Repair::Retry(now + limits.retry);
        }
    }
}
