//! One room on one shard: its head, its live members, and the repair of its order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use im_wire::ids::RoomId;
use im_wire::native::Message;

use super::catch_up::CatchUp;
use super::{Answer, Asker, Counts, Effect, Failure, Item, Limits, Place, Tries};
use crate::translate::Signal;

/// A connection of the shard, by its key.
pub(crate) type Member = u32;

/// How often a room asks for what its pending events promise before it leaves them to the comparison of heads.
const FRUITLESS: u32 = 3;
/// Stands in the index for a member that is told its first items when the next batch begins.
const LATE: usize = usize::MAX;

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
    /// A member found the log as far as this: it is asked then, unless the bus has brought the room there by itself.
    Suspects { at: Instant, seen: Place },
}

/// Items of which some live members have been handed all, the others none.
#[derive(Debug, Default)]
struct UnderWay {
    items: Vec<Item>,
    /// How many members, from the beginning of `live`, have been handed them.
    handed: usize,
    /// How many, from the beginning, are to be: those behind joined since.
    owed: usize,
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
    /// Where each live member stands in `live`, or [`LATE`].
    index: HashMap<Member, usize>,
    /// Members that became live while items waited, and how many of these they do not get: they had them.
    late: Vec<(Member, usize)>,
    behind: HashMap<Member, CatchUp>,
    items: Vec<Item>,
    /// How many of the items are signals.
    signals: usize,
    under_way: UnderWay,
    /// It stands in the hub's list of rooms with something to deliver.
    pub(super) listed: bool,
    /// When the last batch of a turn began.
    began: Option<Instant>,
    pending: Vec<Arc<Message>>,
    pending_bytes: usize,
    /// Events were dropped while waiting: ask once more after the answer.
    overflowed: bool,
    fruitless: u32,
    tries: Tries,
    repair: Repair,
    empty_since: Option<Instant>,
}

impl Room {
    pub(super) fn new(head: Place) -> Self {
        Self {
            head,
            live: Vec::new(),
            index: HashMap::new(),
            late: Vec::new(),
            behind: HashMap::new(),
            items: Vec::new(),
            signals: 0,
            under_way: UnderWay::default(),
            listed: false,
            began: None,
            pending: Vec::new(),
            pending_bytes: 0,
            overflowed: false,
            fruitless: 0,
            tries: Tries::default(),
            repair: Repair::Unheard,
            empty_since: None,
        }
    }

    pub(super) fn head(&self) -> Place {
        self.head
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

    /// Hands `deliver` the next part: at most so many members, besides those that joined since the last batch began. Returns
    /// how many.
    pub(super) fn hand_on(&mut self, limit: usize, mut deliver: impl FnMut(Part<'_>)) -> usize {
        let joined = self.late.len();
        if self.under_way.items.is_empty() {
            self.begin_batch(&mut deliver);
        }
        let Self { live, under_way, .. } = self;
        let waiting = &live[under_way.handed..under_way.owed];
        let members = &waiting[..limit.min(waiting.len())];
        let last = members.len() == waiting.len();
        deliver(Part { members, items: &under_way.items, last });
        under_way.handed += members.len();
        let handed = joined + members.len();
        if last {
            *under_way = UnderWay::default();
        }
        handed
    }

    /// The items that wait become a batch for those who are live. Who became live among them gets the rest of them first.
    fn begin_batch(&mut self, deliver: &mut impl FnMut(Part<'_>)) {
        let Self { live, index, late, items, signals, under_way, .. } = self;
        under_way.items = std::mem::take(items);
        under_way.owed = live.len();
        *signals = 0;
        for (member, had) in std::mem::take(late) {
            let items = &under_way.items[had..];
            if !items.is_empty() {
                deliver(Part { members: &[member], items, last: false });
            }
            index.insert(member, live.len());
            live.push(member);
        }
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
        match self.index.remove(&member) {
            Some(LATE) => self.late.retain(|(late, _)| *late != member),
            Some(place) => self.take_out(place),
            None => {}
        }
        if self.index.is_empty() && self.behind.is_empty() {
            self.empty_since.get_or_insert(now);
        }
    }

    /// The last of those who were handed the batch takes the place, the last of those who are owed it takes that one's, and
    /// so on: everybody stays on their side.
    fn take_out(&mut self, place: usize) {
        let Self { live, index, under_way: UnderWay { handed, owed, .. }, .. } = self;
        let mut hole = place;
        for end in [handed, owed] {
            if hole < *end {
                *end -= 1;
                live.swap(hole, *end);
                index.insert(live[hole], hole);
                hole = *end;
            }
        }
        let leaves = live[hole];
        live.swap_remove(hole);
        if let Some(moved) = live.get(hole) {
            index.insert(*moved, hole);
        }
        index.remove(&leaves);
    }

    /// The member has been told everything up to the head, or is at it.
    pub(super) fn make_live(&mut self, member: Member) {
        if self.items.is_empty() {
            self.index.insert(member, self.live.len());
            self.live.push(member);
        } else {
            self.index.insert(member, LATE);
            self.late.push((member, self.items.len()));
        }
    }

    /// A signal to the live members, behind what was said before it. Too many of them at once are dropped.
    pub(super) fn signal(&mut self, signal: Arc<Signal>, limits: &Limits, counts: &mut Counts) {
        if self.index.is_empty() {
            return;
        }
        if self.signals >= limits.signals {
            counts.signals_dropped += 1;
            return;
        }
        self.signals += 1;
        self.items.push(Item::Signal(signal));
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

    /// `left`: bytes that may still wait, of this and all other rooms.
    pub(super) fn logged(
        &mut self,
        id: &RoomId,
        message: Arc<Message>,
        left: usize,
        limits: &Limits,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        if message.epoch == self.head.epoch && message.seq == self.head.seq + 1 {
            // Whatever else the room is waiting for: nothing is missing before this one.
            self.hand_out(message);
            if !self.pending.is_empty() {
                self.settle_pending(counts);
            }
            return;
        }
        if message.epoch == self.head.epoch && message.seq <= self.head.seq {
            counts.repeats += 1;
            return;
        }
        if matches!(self.repair, Repair::None | Repair::Suspects { .. }) {
            counts.gaps += 1;
            counts.repairs += 1;
            self.ask(id, effects);
        }
        let bytes = weight(&message);
        if self.pending.len() < limits.pending && bytes <= left {
            self.pending_bytes += bytes;
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
        let continues =
            asked.epoch == self.head.epoch && answer.head.epoch == self.head.epoch && asked.seq <= self.head.seq;
        if asked != self.head && !continues {
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
            (self.fruitless, self.tries) = (0, Tries::default());
            self.ask(id, effects);
        } else if more {
            // The log says that there is more and does not give it.
            self.failed(id, now, Failure::Lasting, limits, counts);
        } else if self.pending.is_empty() {
            (self.fruitless, self.tries) = (0, Tries::default());
        } else if self.head == before && self.fruitless >= FRUITLESS {
            self.fruitless = 0;
            self.drop_pending();
        } else {
            self.fruitless = if self.head == before { self.fruitless + 1 } else { 0 };
            self.repair = Repair::Retry(now + limits.retry * self.fruitless);
        }
        self.wake_members(id, effects);
    }

    /// The room is asked about again after a pause that grows. What fails for good is left out: who hears the room is told
    /// that there is something that cannot be had, and goes on.
    fn failed(&mut self, id: &RoomId, now: Instant, failure: Failure, limits: &Limits, counts: &mut Counts) {
        self.tries.failed(failure);
        if !self.tries.is_over() {
            self.repair = Repair::Retry(now + limits.pause(id, self.tries));
            return;
        }
        counts.given_up += 1;
        self.tries = Tries::default();
        self.repair = Repair::None;
        let first =
            self.pending.iter().filter(|message| message.epoch == self.head.epoch).map(|message| message.seq).min();
        if let Some(first) = first.filter(|first| *first > self.head.seq + 1) {
            self.items.push(Item::Truncated { from: self.head.seq + 1, to: first - 1 });
            self.head.seq = first - 1;
        }
        self.settle_pending(counts);
        // Of another epoch: what stands before them can only be told by the log.
        self.drop_pending();
    }

    fn drop_pending(&mut self) {
        self.pending.clear();
        self.pending_bytes = 0;
    }

    /// Bytes of the events that wait for the repair.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
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
        self.pending_bytes = 0;
        pending.sort_by_key(|message| (message.epoch, message.seq));
        for message in pending {
            if message.epoch == self.head.epoch && message.seq == self.head.seq + 1 {
                self.hand_out(message);
            } else if message.epoch > self.head.epoch
                || (message.epoch == self.head.epoch && message.seq > self.head.seq)
            {
                self.pending_bytes += weight(&message);
                self.pending.push(message);
            } else {
                counts.repeats += 1;
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    pub(super) fn fetch_failed(
        &mut self,
        id: &RoomId,
        asker: Asker,
        failure: Failure,
        now: Instant,
        limits: &Limits,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        match asker {
            Asker::Room => {
                self.failed(id, now, failure, limits, counts);
                if self.repair == Repair::None {
                    self.wake_members(id, effects);
                }
            }
            Asker::Member(member) => self.member_failed(id, member, failure, now, limits, counts, effects),
        }
    }

    pub(super) fn retry(&mut self, id: &RoomId, now: Instant, effects: &mut Vec<Effect>) {
        match self.repair {
            Repair::Retry(at) if at <= now => self.ask(id, effects),
            Repair::Suspects { at, seen } if at <= now => {
                if self.head.epoch == seen.epoch && self.head.seq >= seen.seq {
                    self.repair = Repair::None;
                    self.wake_members(id, effects);
                } else {
                    self.ask(id, effects);
                }
            }
            _ => {}
        }
        for (member, catch_up) in &mut self.behind {
            if let Some(after) = catch_up.ask_again(now) {
                effects.push(Effect::Fetch { room: id.clone(), asker: Asker::Member(*member), after });
            }
        }
    }

    pub(super) fn end_pauses(&mut self, now: Instant) {
        if let Repair::Retry(at) = &mut self.repair {
            *at = now;
            self.tries.forget_passing();
        }
        self.behind.values_mut().for_each(|catch_up| catch_up.end_pause(now));
    }

    pub(super) fn compared(
        &mut self,
        id: &RoomId,
        stood: Place,
        head: Place,
        counts: &mut Counts,
        effects: &mut Vec<Effect>,
    ) {
        // What has moved since is in order; the next comparison sees it. A room that the bus does not carry yet may wait for
        // that for long, and must not wait for what the log has.
        let idle = matches!(self.repair, Repair::None | Repair::Unheard);
        if idle && self.head == stood && self.head != head {
            counts.repairs += 1;
            self.ask(id, effects);
        }
    }

    /// Asks the room's own question at that time, where a member found the log further than the room.
    pub(super) fn suspect(&mut self, at: Instant, seen: Place) {
        if self.repair == Repair::None {
            self.repair = Repair::Suspects { at, seen };
        }
    }
}

/// What an event takes while it waits.
fn weight(message: &Message) -> usize {
    /// Names, numbers and the place among the others.
    const AROUND: usize = 256;
    AROUND + message.body.bytes().len()
}
