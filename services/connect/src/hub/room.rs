//! One room on one shard: its head, and what its live members are handed.

mod repair;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use im_wire::ids::RoomId;
use im_wire::native::Message;
use tokio::time::Instant;

use super::catch_up::CatchUp;
use super::{Asker, Counts, Effect, Item, Limits, LogPosition, Tries};
use crate::translate::Signal;

/// A connection of the shard, by its key.
pub(crate) type Member = u32;

/// Stands in the index for a member that is told its first items when the next batch begins.
const LATE: usize = usize::MAX;

/// What the room is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    /// The bus does not carry it yet.
    AwaitsBus,
    /// Nothing: events are delivered as they come.
    None,
    /// The log has been asked.
    Asked,
    /// The log did not answer; it is asked again then.
    Retry(Instant),
    /// A member found the log as far as this: it is asked then, unless the bus has brought the room there by itself.
    Suspects { at: Instant, seen: LogPosition },
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
    head: LogPosition,
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
    pub(super) fn new(head: LogPosition) -> Self {
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
            repair: Repair::AwaitsBus,
            empty_since: None,
        }
    }

    pub(super) fn head(&self) -> LogPosition {
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
        let until = self
            .began
            .map(|began| began + hold)
            .filter(|until| *until > now);
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
        let Self {
            live, under_way, ..
        } = self;
        let waiting = &live[under_way.handed..under_way.owed];
        let members = &waiting[..limit.min(waiting.len())];
        let last = members.len() == waiting.len();
        deliver(Part {
            members,
            items: &under_way.items,
            last,
        });
        under_way.handed += members.len();
        let handed = joined + members.len();
        if last {
            *under_way = UnderWay::default();
        }
        handed
    }

    /// The items that wait become a batch for those who are live. Who became live among them gets the rest of them first.
    fn begin_batch(&mut self, deliver: &mut impl FnMut(Part<'_>)) {
        let Self {
            live,
            index,
            late,
            items,
            signals,
            under_way,
            ..
        } = self;
        under_way.items = std::mem::take(items);
        under_way.owed = live.len();
        *signals = 0;
        for (member, had) in std::mem::take(late) {
            let items = &under_way.items[had..];
            if !items.is_empty() {
                deliver(Part {
                    members: &[member],
                    items,
                    last: false,
                });
            }
            index.insert(member, live.len());
            live.push(member);
        }
    }

    pub(super) fn is_over(&self, now: Instant, linger: Duration) -> bool {
        self.empty_since
            .is_some_and(|since| now.saturating_duration_since(since) >= linger)
    }

    pub(super) fn join(
        &mut self,
        id: &RoomId,
        member: Member,
        after: LogPosition,
        effects: &mut Vec<Effect>,
    ) {
        self.empty_since = None;
        if self.index.contains_key(&member) || self.behind.contains_key(&member) {
            return;
        }
        if after == self.head {
            self.make_live(member);
        } else {
            self.behind.insert(member, CatchUp::asked(after));
            effects.push(Effect::Fetch {
                room: id.clone(),
                asker: Asker::Member(member),
                after,
            });
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
        let Self {
            live,
            index,
            under_way: UnderWay { handed, owed, .. },
            ..
        } = self;
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
    fn make_live(&mut self, member: Member) {
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

    pub(super) fn awaits_bus(&self) -> bool {
        self.repair == Repair::AwaitsBus
    }

    /// Bytes of the events that wait for the repair.
    pub(super) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }
}
