//! What a shard asks logic of its own accord, in one place and at a stated pace: rooms to repair, heads to compare, pages
//! for members that catch up. Each room and each member of a room stands here once at most, so an outage adds nothing,
//! however long it lasts. Pure: the shard says what time it is and what came of a question.
//!
//! Each kind has a share of its own, so that none waits for another: so many repairs, one comparison, so many pages, and
//! of these so many for one connection. While nothing at all is answered, one question is asked after a pause that grows;
//! the first answer opens the way again.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::Hash;
use std::rc::Rc;
use std::time::Duration;

use im_wire::ids::RoomId;
use tokio::time::Instant;

use crate::hub::{LogPosition, Member, SPARE};

/// Repairs of rooms that are under way at once.
pub(super) const REPAIRS: usize = 32;
/// Rooms whose heads are asked for in one call; one call at a time.
pub(super) const HEADS: usize = 500;
/// So many questions in a row that nobody answers mean that nobody answers at all.
const UNANSWERED_LIMIT: u32 = 8;
/// The first pause then, and the longest.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// One thing to ask.
#[derive(Debug)]
pub(super) enum Question {
    /// What follows a room's head.
    Repair { room: RoomId, after: LogPosition },
    /// What follows a member's place.
    Page {
        room: RoomId,
        member: Member,
        after: LogPosition,
        in_flight: PageInFlight,
    },
    /// These rooms' heads.
    Heads(Vec<RoomId>),
}

/// A page under way for one connection.
#[derive(Debug)]
pub(super) struct PageInFlight(Rc<Cell<usize>>);

/// Bounds from the settings.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Pages under way at once.
    pub(super) pages: usize,
    /// Of one connection.
    pub(super) pages_each: usize,
}

/// See the module's top.
#[derive(Debug)]
pub(super) struct Questions {
    bounds: Bounds,
    repairs: Line<RoomId, LogPosition>,
    heads: Line<RoomId, ()>,
    readers: HashMap<Member, Reader>,
    /// Connections that may have their next page asked for, one page each and then the next one's turn.
    turns: VecDeque<Member>,
    /// Connections that do not take any more just now.
    stalled: Vec<Member>,
    repairs_under_way: usize,
    pages_under_way: usize,
    heads_under_way: bool,
    /// Which kind comes first next time.
    first: usize,
    /// Questions in a row that nobody answered, and when the next one is asked.
    unanswered: u32,
    not_before: Option<Instant>,
    /// Somebody answers after nobody did.
    recovered: bool,
}

/// A connection that catches up.
#[derive(Debug, Default)]
struct Reader {
    waiting: VecDeque<(RoomId, LogPosition)>,
    under_way: Rc<Cell<usize>>,
    listed: bool,
}

impl Questions {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            repairs: Line::default(),
            heads: Line::default(),
            readers: HashMap::new(),
            turns: VecDeque::new(),
            stalled: Vec::new(),
            repairs_under_way: 0,
            pages_under_way: 0,
            heads_under_way: false,
            first: 0,
            unanswered: 0,
            not_before: None,
            recovered: false,
        }
    }

    /// What follows the room's head is to be asked.
    pub(super) fn repair(&mut self, room: RoomId, after: LogPosition) {
        self.repairs.push(room, after);
    }

    /// The room's head is to be asked.
    pub(super) fn compare(&mut self, room: RoomId) {
        self.heads.push(room, ());
    }

    /// A member's next page is to be asked for.
    pub(super) fn page(&mut self, room: RoomId, member: Member, after: LogPosition) {
        let reader = self.readers.entry(member).or_default();
        reader.waiting.push_back((room, after));
        list(&mut self.turns, member, reader);
    }

    /// The same, before its others: it has been asked for, and the connection could not take it.
    pub(super) fn page_again(&mut self, room: RoomId, member: Member, after: LogPosition) {
        let reader = self.readers.entry(member).or_default();
        reader.waiting.push_front((room, after));
        if !reader.listed {
            self.stalled.push(member);
        }
    }

    /// The shard no longer has the room.
    pub(super) fn forget_room(&mut self, room: &RoomId) {
        self.repairs.remove(room);
        self.heads.remove(room);
    }

    /// The member no longer hears the room.
    pub(super) fn leave(&mut self, room: &RoomId, member: Member) {
        if let Some(reader) = self.readers.get_mut(&member) {
            reader.waiting.retain(|(waiting, _)| waiting != room);
        }
    }

    /// The connection is gone.
    pub(super) fn forget_member(&mut self, member: Member) {
        self.readers.remove(&member);
        im_runtime::give_back(&mut self.readers, SPARE);
    }

    /// The connections that did not take any more are looked at again.
    pub(super) fn look_again(&mut self) {
        for member in std::mem::take(&mut self.stalled) {
            if let Some(reader) = self.readers.get_mut(&member) {
                list(&mut self.turns, member, reader);
            }
        }
    }

    /// What may be asked now. `takes`: how many pages may be under way for a connection, as its outbox has room for them.
    pub(super) fn next(
        &mut self,
        now: Instant,
        takes: impl Fn(Member) -> usize,
    ) -> Option<Question> {
        let under_way =
            self.repairs_under_way + self.pages_under_way + usize::from(self.heads_under_way);
        if self.unanswered >= UNANSWERED_LIMIT
            && (under_way > 0 || self.not_before.is_some_and(|at| now < at))
        {
            return None;
        }
        for _ in 0..3 {
            self.first = (self.first + 1) % 3;
            let question = match self.first {
                0 => self.next_repair(),
                1 => self.next_heads(),
                _ => self.next_page(&takes),
            };
            if question.is_some() {
                return question;
            }
        }
        None
    }

    fn next_repair(&mut self) -> Option<Question> {
        if self.repairs_under_way >= REPAIRS {
            return None;
        }
        let (room, after) = self.repairs.pop()?;
        self.repairs_under_way += 1;
        Some(Question::Repair { room, after })
    }

    fn next_heads(&mut self) -> Option<Question> {
        if self.heads_under_way {
            return None;
        }
        let rooms: Vec<RoomId> = std::iter::from_fn(|| self.heads.pop())
            .take(HEADS)
            .map(|(room, ())| room)
            .collect();
        if rooms.is_empty() {
            return None;
        }
        self.heads_under_way = true;
        Some(Question::Heads(rooms))
    }

    fn next_page(&mut self, takes: &impl Fn(Member) -> usize) -> Option<Question> {
        if self.pages_under_way >= self.bounds.pages {
            return None;
        }
        while let Some(member) = self.turns.pop_front() {
            let Some(reader) = self.readers.get_mut(&member) else {
                continue;
            };
            reader.listed = false;
            let under_way = reader.under_way.get();
            if reader.waiting.is_empty() {
                if under_way == 0 {
                    self.forget_member(member);
                }
                continue;
            }
            if under_way >= self.bounds.pages_each.min(takes(member)) {
                // Its turn comes with the answer to one of those under way, or when the outbox has room.
                self.stalled.push(member);
                continue;
            }
            let Some((room, after)) = reader.waiting.pop_front() else {
                continue;
            };
            reader.under_way.set(under_way + 1);
            let in_flight = PageInFlight(Rc::clone(&reader.under_way));
            list(&mut self.turns, member, reader);
            self.pages_under_way += 1;
            return Some(Question::Page {
                room,
                member,
                after,
                in_flight,
            });
        }
        None
    }

    /// A repair has its answer, or none.
    pub(super) fn repair_ended(&mut self, answered: bool, now: Instant) {
        self.repairs_under_way -= 1;
        self.ended(answered, now);
    }

    /// So has a comparison. Without an answer the rooms are asked about again behind the others.
    pub(super) fn heads_ended(&mut self, answered: bool, now: Instant) {
        self.heads_under_way = false;
        self.ended(answered, now);
    }

    /// So has a page. `false`: the connection is gone, and with it whoever wanted the page.
    pub(super) fn page_ended(
        &mut self,
        member: Member,
        in_flight: &PageInFlight,
        answered: bool,
        now: Instant,
    ) -> bool {
        self.pages_under_way -= 1;
        in_flight.0.set(in_flight.0.get() - 1);
        self.ended(answered, now);
        self.readers
            .get(&member)
            .is_some_and(|reader| Rc::ptr_eq(&reader.under_way, &in_flight.0))
    }

    /// The connection has taken its page, or there was none: its next one's turn comes.
    pub(super) fn page_taken(&mut self, member: Member) {
        if let Some(reader) = self.readers.get_mut(&member) {
            list(&mut self.turns, member, reader);
        }
    }

    fn ended(&mut self, answered: bool, now: Instant) {
        if answered {
            self.recovered |= self.unanswered >= UNANSWERED_LIMIT;
            (self.unanswered, self.not_before) = (0, None);
            return;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        let doublings = self.unanswered.saturating_sub(UNANSWERED_LIMIT).min(10);
        let pause = (PAUSE * (1 << doublings)).min(MAX_PAUSE);
        self.not_before = Some(now + pause.mul_f64(rand::random_range(0.5..1.0)));
    }

    /// Whether somebody has begun to answer again since this was asked last: what waits for its pause need not any more.
    pub(super) fn has_recovered(&mut self) -> bool {
        std::mem::take(&mut self.recovered)
    }

    /// Things that wait to be asked.
    pub(super) fn waiting(&self) -> usize {
        let pages: usize = self
            .readers
            .values()
            .map(|reader| reader.waiting.len())
            .sum();
        self.repairs.len() + self.heads.len() + pages
    }
}

fn list(turns: &mut VecDeque<Member>, member: Member, reader: &mut Reader) {
    if !reader.listed {
        reader.listed = true;
        turns.push_back(member);
    }
}

/// First in, first out, each key once; taken out of the middle as well.
#[derive(Debug)]
struct Line<K, V> {
    order: BTreeMap<u64, (K, V)>,
    places: HashMap<K, u64>,
    next: u64,
}

impl<K, V> Default for Line<K, V> {
    fn default() -> Self {
        Self {
            order: BTreeMap::new(),
            places: HashMap::new(),
            next: 0,
        }
    }
}

impl<K: Clone + Eq + Hash, V> Line<K, V> {
    /// Puts the key at the end, or leaves it where it stands with another value.
    fn push(&mut self, key: K, value: V) {
        if let Some(place) = self.places.get(&key) {
            self.order.insert(*place, (key, value));
            return;
        }
        self.places.insert(key.clone(), self.next);
        self.order.insert(self.next, (key, value));
        self.next += 1;
    }

    fn pop(&mut self) -> Option<(K, V)> {
        let (_, (key, value)) = self.order.pop_first()?;
        self.places.remove(&key);
        im_runtime::give_back(&mut self.places, SPARE);
        Some((key, value))
    }

    fn remove(&mut self, key: &K) {
        if let Some(place) = self.places.remove(key) {
            self.order.remove(&place);
        }
    }

    fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        pages: 16,
        pages_each: 4,
    };

    fn room(number: usize) -> RoomId {
        RoomId::new(format!("r-{number}")).unwrap()
    }

    fn anything(_: Member) -> usize {
        usize::MAX
    }

    /// Everything that may be asked now.
    fn ask(questions: &mut Questions, now: Instant) -> Vec<Question> {
        std::iter::from_fn(|| questions.next(now, anything)).collect()
    }

    fn end(
        questions: &mut Questions,
        question: Question,
        answered: bool,
        now: Instant,
    ) -> Option<Vec<RoomId>> {
        match question {
            Question::Repair { .. } => questions.repair_ended(answered, now),
            Question::Page {
                member, in_flight, ..
            } => {
                questions.page_ended(member, &in_flight, answered, now);
                questions.page_taken(member);
            }
            Question::Heads(rooms) => {
                questions.heads_ended(answered, now);
                return Some(rooms);
            }
        }
        None
    }

    #[test]
    fn an_outage_costs_the_same_however_long_it_lasts_and_recovery_goes_at_a_pace() {
        let mut questions = Questions::new(BOUNDS);
        let start = Instant::now();
        let mut asked_by = Vec::new();
        let mut asked = 0;
        // A second is ten looks, as housekeeping has it. Every second a part of the rooms is to be compared, some are to be
        // repaired, and each question fails at once.
        for look in 0..6_000_u32 {
            let now = start + Duration::from_millis(100) * look;
            if look % 10 == 0 {
                (0..2_000).for_each(|number| questions.compare(room(number)));
                (0..500).for_each(|number| questions.repair(room(number), LogPosition::default()));
            }
            loop {
                let now_asked = ask(&mut questions, now);
                if now_asked.is_empty() {
                    break;
                }
                asked += now_asked.len();
                for question in now_asked {
                    for room in end(&mut questions, question, false, now)
                        .into_iter()
                        .flatten()
                    {
                        questions.compare(room);
                    }
                }
            }
            if look % 600 == 599 {
                asked_by.push((asked, questions.waiting()));
                asked = 0;
            }
        }
        for (asked, waiting) in &asked_by {
            assert!((1..=130).contains(asked), "in each minute: {asked_by:?}");
            assert!(*waiting <= 2_500, "{waiting} wait");
        }
        // Somebody answers again: everything is asked, so many at a time.
        let mut now = start + Duration::from_secs(700);
        let (mut repaired, mut compared) = (0, 0);
        for _ in 0..1_000 {
            let batch = ask(&mut questions, now);
            let repairs = batch
                .iter()
                .filter(|question| matches!(question, Question::Repair { .. }))
                .count();
            assert!(
                repairs <= REPAIRS && batch.len() - repairs <= 1,
                "{} at once",
                batch.len()
            );
            repaired += repairs;
            now += Duration::from_millis(1);
            for question in batch {
                compared += end(&mut questions, question, true, now).map_or(0, |rooms| rooms.len());
            }
        }
        assert!(
            repaired >= 490 && compared >= 1_500,
            "{repaired} and {compared}"
        );
        assert_eq!(questions.waiting(), 0);
        assert_eq!(
            (questions.has_recovered(), questions.has_recovered()),
            (true, false)
        );
    }

    #[test]
    fn a_connection_has_a_few_pages_under_way_and_all_take_turns() {
        let mut questions = Questions::new(BOUNDS);
        let now = Instant::now();
        for member in 0..10 {
            (0..1_000)
                .for_each(|number| questions.page(room(number), member, LogPosition::default()));
        }
        let mut under_way = ask(&mut questions, now);
        assert_eq!(under_way.len(), BOUNDS.pages);
        let of = |under_way: &[Question], wanted: Member| {
            under_way
                .iter()
                .filter(|q| matches!(q, Question::Page { member, .. } if *member == wanted))
                .count()
        };
        for member in 0..10 {
            assert!((1..=4).contains(&of(&under_way, member)), "member {member}");
        }
        // Repairs and comparisons go on meanwhile.
        questions.repair(room(7), LogPosition::default());
        questions.compare(room(8));
        let own = ask(&mut questions, now);
        assert_eq!((own.len(), of(&own, 0)), (2, 0));
        // A connection that has gone leaves its places to the others.
        (1..10).for_each(|member| questions.forget_member(member));
        for question in under_way.drain(..).chain(own) {
            end(&mut questions, question, true, now);
        }
        under_way = ask(&mut questions, now);
        assert_eq!(
            (under_way.len(), of(&under_way, 0)),
            (4, 4),
            "alone it has no more than its own"
        );
    }

    #[test]
    fn a_connection_whose_outbox_is_full_waits_and_others_do_not() {
        let mut questions = Questions::new(BOUNDS);
        let now = Instant::now();
        for member in [1, 2] {
            (0..3).for_each(|number| questions.page(room(number), member, LogPosition::default()));
        }
        let takes = |member| if member == 1 { 0 } else { 1 };
        let Some(Question::Page {
            member: 2,
            in_flight,
            ..
        }) = questions.next(now, takes)
        else {
            panic!("2 is asked for")
        };
        assert!(questions.next(now, takes).is_none());
        assert!(questions.page_ended(2, &in_flight, true, now));
        questions.page_taken(2);
        assert!(matches!(
            questions.next(now, takes),
            Some(Question::Page { member: 2, .. })
        ));
        questions.look_again();
        assert!(matches!(
            questions.next(now, anything),
            Some(Question::Page { .. })
        ));
        questions.leave(&room(0), 1);
        questions.leave(&room(1), 1);
        questions.leave(&room(2), 1);
        questions.forget_member(2);
        questions.look_again();
        while let Some(question) = questions.next(now, anything) {
            assert!(!matches!(question, Question::Page { member: 2, .. }));
        }
        assert_eq!(questions.waiting(), 0);
    }

    #[test]
    fn what_is_asked_stands_in_line_once() {
        let mut line = Line::default();
        for (key, value) in [(1, 'a'), (2, 'b'), (1, 'c'), (3, 'd')] {
            line.push(key, value);
        }
        line.remove(&2);
        assert_eq!(
            (line.pop(), line.pop(), line.pop(), line.len()),
            (Some((1, 'c')), Some((3, 'd')), None, 0)
        );
    }
}
