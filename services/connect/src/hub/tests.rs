//! The hub against a model: a log that grows and loses its tail, a bus that loses, repeats and reorders, fetches that fail
//! or come late, members that come and go at any position. In the end every member's record is the log over its
//! membership, with resets honoured and nothing out of order on the way.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use im_wire::ids::{Epoch, RoomId, Seq};
use im_wire::native::{Body, Message};
use proptest::prelude::*;

use super::{Answer, Asker, Effect, Failure, Hub, Item, Limits, Member, Next, Part, Place, Turn};
use crate::session::encode::Signal;

#[derive(Debug, Clone)]
enum Step {
    /// Somebody speaks; whether the bus carries it.
    Append {
        carried: bool,
    },
    /// The bus brings the nth of what is on its way.
    Bring(usize),
    /// The bus brings it and will bring it again.
    BringTwice(usize),
    /// The store loses its last entries.
    LoseTail(u64),
    Join {
        member: Member,
        seq: Seq,
    },
    Leave(Member),
    /// The nth fetch under way is answered.
    Answered(usize),
    /// The nth fetch under way fails.
    Failed(usize),
    /// The nth question was read from the log some time ago and is answered now.
    ReadNow(usize),
    Heard,
    /// Somebody types.
    Signal,
    Tick(u64),
    /// The shard is so busy that batches are held back for so many milliseconds.
    Hold(u64),
    Compare,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<bool>().prop_map(|lost| Step::Append { carried: !lost }),
        6 => (0..4_usize).prop_map(Step::Bring),
        1 => (0..4_usize).prop_map(Step::BringTwice),
        1 => (1..4_u64).prop_map(Step::LoseTail),
        3 => (0..4_u32, 0..12_u64).prop_map(|(member, seq)| Step::Join { member, seq }),
        1 => (0..4_u32).prop_map(Step::Leave),
        5 => (0..4_usize).prop_map(Step::Answered),
        1 => (0..4_usize).prop_map(Step::Failed),
        2 => (0..4_usize).prop_map(Step::ReadNow),
        2 => Just(Step::Heard),
        2 => Just(Step::Signal),
        2 => (5..400_u64).prop_map(Step::Tick),
        1 => (0..30_u64).prop_map(Step::Hold),
        1 => Just(Step::Compare),
    ]
}

/// The store: one room, with the rule for positions that the real ones have.
#[derive(Default)]
struct Log {
    entries: Vec<Arc<Message>>,
    transitions: Vec<(Epoch, Seq)>,
    lost_tail: bool,
    spoken: u64,
}

impl Log {
    fn head(&self) -> Place {
        Place { epoch: self.transitions.last().map_or(0, |(epoch, _)| *epoch), seq: self.entries.len() as Seq }
    }

    fn append(&mut self) -> Arc<Message> {
        if self.transitions.is_empty() || std::mem::take(&mut self.lost_tail) {
            self.transitions.push((self.spoken + 1, self.entries.len() as Seq));
        }
        self.spoken += 1;
        let message = Arc::new(Message {
            room: room(),
            epoch: self.head().epoch,
            seq: self.entries.len() as Seq + 1,
            id: self.spoken.to_string(),
            from: "a".to_owned(),
            client_id: self.spoken.to_string(),
            kind: "text".to_owned(),
            body: Body::Text(Default::default()),
            time_ms: 0,
        });
        self.entries.push(Arc::clone(&message));
        message
    }

    fn answer(&self, after: Place) -> Answer {
        const PAGE: usize = 3;
        let head = self.head();
        let later = |(epoch, _): &&(Epoch, Seq)| *epoch > after.epoch;
        let known = self.transitions.iter().any(|(epoch, _)| *epoch == after.epoch);
        let newest = self.transitions.last().filter(|_| !known).map(|(_, base)| *base);
        let stands = if after.epoch == 0 {
            head.seq
        } else {
            let base = self.transitions.iter().find(later).map(|(_, base)| *base);
            base.or(newest).unwrap_or(head.seq).min(head.seq)
        };
        let reset_to = (after.seq > stands).then_some(stands);
        let from = reset_to.unwrap_or(after.seq) as usize;
        let entries = self.entries.iter().skip(from).take(PAGE).cloned().collect();
        Answer { head, reset_to, truncated: None, entries }
    }
}

fn limits() -> Limits {
    Limits {
        pending: 4,
        pending_bytes: 4_000,
        signals: 3,
        linger: Duration::from_secs(1),
        retry: Duration::from_millis(100),
        longest: Duration::from_millis(800),
        seed: 7,
    }
}

fn room() -> RoomId {
    RoomId::new("r").expect("a room id")
}

struct World {
    hub: Hub,
    log: Log,
    bus: VecDeque<Arc<Message>>,
    subscribed: bool,
    hear_wanted: bool,
    asked: VecDeque<(Asker, Place, Option<Answer>)>,
    records: HashMap<Member, Record>,
    now: Instant,
    hold: Duration,
}

/// What a member has been told: its position when it joined, and everything after it that stands.
struct Record {
    from: Seq,
    kept: Vec<(Seq, String)>,
}

impl Record {
    fn tell(&mut self, item: &Item) {
        match item {
            Item::Message(message) => {
                let last = self.kept.last().map_or(self.from, |(seq, _)| *seq);
                assert_eq!(message.seq, last + 1, "{} after {last}", message.seq);
                self.kept.push((message.seq, message.id.clone()));
            }
            Item::Reset(place) => {
                self.kept.retain(|(seq, _)| *seq <= place.seq);
                self.from = self.from.min(place.seq);
            }
            Item::Truncated { .. } => panic!("nothing is ever truncated here"),
            Item::Signal(signal) => {
                let last = self.kept.last().map_or(self.from, |(seq, _)| *seq);
                assert_eq!(signal.operation, last as i32, "a signal is heard behind exactly what was said before it");
            }
        }
    }
}

/// A signal that carries a number.
fn typing(number: Seq) -> Arc<Signal> {
    let (room, from, kind) = ("r".to_owned(), "a".to_owned(), "typing".to_owned());
    Arc::new(Signal { room, from, kind, body: Body::Text(Default::default()), operation: number as i32 })
}

fn tell(records: &mut HashMap<Member, Record>, part: &Part<'_>) {
    for member in part.members {
        let record = records.get_mut(member).expect("a live member has joined");
        part.items.iter().for_each(|item| record.tell(item));
    }
}

impl World {
    fn new() -> Self {
        Self {
            hub: Hub::new(limits()),
            log: Log::default(),
            bus: VecDeque::new(),
            subscribed: false,
            hear_wanted: false,
            asked: VecDeque::new(),
            records: HashMap::new(),
            now: Instant::now(),
            hold: Duration::ZERO,
        }
    }

    fn deliver(&mut self, members: usize) {
        let Self { records, now, hold, .. } = self;
        self.hub.deliver(Turn { members, now: *now, hold: *hold }, |_, part| tell(records, &part));
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Hear(_) => self.hear_wanted = true,
                Effect::Forget(_) => (self.hear_wanted, self.subscribed) = (false, false),
                Effect::Fetch { asker, after, .. } => self.asked.push_back((asker, after, None)),
                Effect::Tell { member, items, .. } => {
                    let record = self.records.get_mut(&member).expect("a member that catches up has joined");
                    items.iter().for_each(|item| record.tell(item));
                }
                Effect::GiveUp { .. } => panic!("nothing fails for good here"),
            }
        }
    }

    fn with(&mut self, act: impl FnOnce(&mut Hub, &mut Vec<Effect>)) {
        let mut effects = Vec::new();
        act(&mut self.hub, &mut effects);
        // To one member after the other.
        self.deliver(1);
        self.carry_out(effects);
    }

    fn take(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Append { carried } => {
                let message = self.log.append();
                if carried && self.subscribed {
                    self.bus.push_back(message);
                }
            }
            Step::Bring(n) | Step::BringTwice(n) if n < self.bus.len() => {
                let message = self.bus.remove(n).expect("just checked");
                if matches!(step, Step::BringTwice(_)) {
                    self.bus.push_back(Arc::clone(&message));
                }
                self.with(|hub, effects| hub.logged(message, effects));
            }
            Step::LoseTail(n) => {
                let keep = self.log.entries.len().saturating_sub(n as usize);
                if keep < self.log.entries.len() {
                    self.log.entries.truncate(keep);
                    // Transitions are written with entries: those of lost entries are lost too.
                    self.log.transitions.retain(|(_, base)| (*base as usize) < keep || *base == 0);
                    self.log.lost_tail = true;
                }
            }
            Step::Join { member, seq } if !self.records.contains_key(&member) => {
                let head = self.log.head();
                let seq = seq.min(head.seq);
                // The epoch of the entry that the member had last.
                let epoch = seq.checked_sub(1).and_then(|n| self.log.entries.get(n as usize)).map_or(0, |m| m.epoch);
                self.records.insert(member, Record { from: seq, kept: Vec::new() });
                self.with(|hub, effects| hub.join(&room(), member, Place { epoch, seq }, head, effects));
            }
            Step::Leave(member) if self.records.contains_key(&member) => {
                self.records.remove(&member);
                self.hub.leave(&room(), member, now);
                self.asked.retain(|(asker, ..)| *asker != Asker::Member(member));
            }
            Step::ReadNow(n) if n < self.asked.len() => {
                let after = self.asked[n].1;
                self.asked[n].2 = Some(self.log.answer(after));
            }
            Step::Answered(n) if n < self.asked.len() => {
                let (asker, after, read) = self.asked.remove(n).expect("just checked");
                let answer = read.unwrap_or_else(|| self.log.answer(after));
                self.with(|hub, effects| hub.fetched(&room(), asker, after, answer, now, effects));
            }
            Step::Failed(n) if n < self.asked.len() => {
                let (asker, ..) = self.asked.remove(n).expect("just checked");
                self.with(|hub, effects| hub.fetch_failed(&room(), asker, Failure::Passing, now, effects));
            }
            Step::Heard if self.hear_wanted && !self.subscribed => {
                self.subscribed = true;
                self.with(|hub, effects| hub.heard(&room(), effects));
            }
            Step::Signal => {
                let stands = self.hub.head(&room()).unwrap_or_default().seq;
                self.with(|hub, _| hub.signal(&room(), typing(stands)));
            }
            Step::Tick(ms) => {
                self.now += Duration::from_millis(ms);
                let now = self.now;
                self.with(|hub, effects| hub.tick(now, effects));
            }
            Step::Hold(ms) => self.hold = Duration::from_millis(ms),
            Step::Compare => {
                let head = self.log.head();
                if let Some(stood) = self.hub.head(&room()) {
                    self.with(|hub, effects| hub.compared(&room(), stood, head, effects));
                }
            }
            _ => {}
        }
    }

    /// Everything on its way arrives, every question is answered: then nothing more may be missing.
    fn settle(&mut self) {
        // What was taken back shows with the next message at the latest.
        self.log.append();
        for _ in 0..200 {
            self.take(&Step::Heard);
            while !self.bus.is_empty() {
                self.take(&Step::Bring(0));
            }
            while !self.asked.is_empty() {
                self.take(&Step::Answered(0));
            }
            self.take(&Step::Compare);
            self.take(&Step::Tick(100));
            self.deliver(usize::MAX);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_member_has_the_log_over_its_membership(steps in prop::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        for one in &steps {
            world.take(one);
        }
        world.settle();
        let log: Vec<(Seq, String)> = world.log.entries.iter().map(|message| (message.seq, message.id.clone())).collect();
        for (member, record) in &world.records {
            let owed: Vec<_> = log.iter().filter(|(seq, _)| *seq > record.from).cloned().collect();
            prop_assert_eq!(&record.kept, &owed, "member {} from {}", member, record.from);
        }
    }
}

#[test]
fn a_room_that_stays_empty_is_forgotten() {
    let mut world = World::new();
    world.take(&Step::Join { member: 1, seq: 0 });
    world.take(&Step::Heard);
    world.take(&Step::Leave(1));
    world.take(&Step::Tick(500));
    assert_eq!(world.hub.len(), 1);
    world.take(&Step::Tick(600));
    assert_eq!((world.hub.len(), world.hear_wanted), (0, false));
}

#[test]
fn rooms_that_everybody_has_left_cost_nothing() {
    let (mut hub, mut effects, now) = (Hub::new(limits()), Vec::new(), Instant::now());
    let rooms: Vec<RoomId> = (0..100_000).map(|number| RoomId::new(format!("r-{number}")).unwrap()).collect();
    let start = Place { epoch: 1, seq: 0 };
    for room in &rooms {
        hub.join(room, 1, start, start, &mut effects);
        hub.leave(room, 1, now);
    }
    hub.join(&rooms[7], 2, start, start, &mut effects);
    assert_eq!(hub.len(), rooms.len());
    effects.clear();
    hub.tick(now + Duration::from_secs(2), &mut effects);
    assert_eq!(effects.len(), rooms.len() - 1, "all but one are forgotten");
    assert_eq!(hub.len(), 1);
    assert!(hub.rooms.capacity() < 2_000, "room for {}", hub.rooms.capacity());
}

#[test]
fn a_large_room_lets_others_pass() {
    let mut hub = hub_of(&[("large", 1_000), ("small", 2)]);
    for seq in 1..=2 {
        ["large", "small"].into_iter().for_each(|room| hear(&mut hub, room, seq));
    }
    let mut turns = Vec::new();
    let mut next = Next::Now;
    while next == Next::Now {
        let note = |room: &RoomId, part: Part<'_>| (room.to_string(), part.members.len(), part.items.len(), part.last);
        let turn = Turn { members: 300, now: Instant::now(), hold: Duration::ZERO };
        next = hub.deliver(turn, |room, part| turns.push(note(room, part)));
    }
    let turn = |room: &str, members, last| (room.to_owned(), members, 2, last);
    let large = |last| turn("large", if last { 102 } else { 300 }, last);
    let expected = [large(false), turn("small", 2, true), turn("large", 298, false), large(false), large(true)];
    assert_eq!(turns, expected);
}

/// Rooms with so many members each, heard from the beginning.
fn hub_of(rooms: &[(&str, u32)]) -> Hub {
    let (mut hub, mut effects, start) = (Hub::new(limits()), Vec::new(), Place { epoch: 1, seq: 0 });
    for (room, members) in rooms {
        let room = RoomId::new(*room).unwrap();
        (0..*members).for_each(|member| hub.join(&room, member, start, start, &mut effects));
        hub.heard(&room, &mut effects);
        let nothing = Answer { head: start, ..Answer::default() };
        hub.fetched(&room, Asker::Room, start, nothing, Instant::now(), &mut effects);
    }
    hub
}

/// The bus brings a room's next message.
fn hear(hub: &mut Hub, room: &str, seq: Seq) {
    let message = Message { room: RoomId::new(room).unwrap(), epoch: 1, seq, ..(*Log::default().append()).clone() };
    let mut effects = Vec::new();
    hub.logged(Arc::new(message), &mut effects);
    assert!(effects.is_empty(), "{effects:?}");
}

#[test]
fn a_busy_room_of_a_busy_shard_is_held_back_and_an_idle_one_never() {
    let mut hub = hub_of(&[("busy", 3), ("idle", 2)]);
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let deliver = |hub: &mut Hub, now| {
        let mut told = Vec::new();
        let turn = Turn { members: 64, now, hold: Duration::from_millis(20) };
        let next = hub.deliver(turn, |room, part| told.push((room.to_string(), part.items.len())));
        (told, next)
    };
    let told = |room: &str, items| (room.to_owned(), items);

    hear(&mut hub, "busy", 1);
    assert_eq!(deliver(&mut hub, at(0)), (vec![told("busy", 1)], Next::Arrival), "the first waits for nothing");
    hear(&mut hub, "busy", 2);
    assert_eq!(deliver(&mut hub, at(5)), (vec![], Next::At(at(20))));
    hear(&mut hub, "busy", 3);
    hear(&mut hub, "idle", 1);
    assert_eq!(deliver(&mut hub, at(6)), (vec![told("idle", 1)], Next::At(at(20))), "another room passes");
    assert_eq!(deliver(&mut hub, at(19)), (vec![], Next::At(at(20))));
    assert_eq!(deliver(&mut hub, at(20)), (vec![told("busy", 2)], Next::Arrival), "both in one batch");
    assert_eq!(hub.counts.held, 1);

    hear(&mut hub, "busy", 4);
    assert_eq!(deliver(&mut hub, at(25)), (vec![], Next::At(at(40))));
    // Neither who types nor who comes and goes makes the room hurry; signals beyond their bound are dropped.
    let busy = RoomId::new("busy").unwrap();
    (0..5).for_each(|number| hub.signal(&busy, typing(number)));
    let (mut effects, head) = (Vec::new(), hub.head(&busy).unwrap());
    hub.join(&busy, 70, head, head, &mut effects);
    hub.leave(&busy, 2, at(26));
    assert_eq!((deliver(&mut hub, at(26)), effects), ((vec![], Next::At(at(40))), vec![]));
    assert_eq!(deliver(&mut hub, at(40)), (vec![told("busy", 4)], Next::Arrival));
    assert_eq!(hub.counts.signals_dropped, 2);
    hear(&mut hub, "busy", 5);
    assert_eq!(deliver(&mut hub, at(60)), (vec![told("busy", 1)], Next::Arrival));
}

#[test]
fn who_comes_and_goes_while_a_large_room_is_delivered_changes_nothing_for_the_others() {
    let mut hub = hub_of(&[("large", 500)]);
    let large = RoomId::new("large").unwrap();
    let mut heard: HashMap<Member, Vec<Seq>> = HashMap::new();
    let deliver = |hub: &mut Hub, heard: &mut HashMap<Member, Vec<Seq>>| {
        hub.deliver(Turn { members: 64, now: Instant::now(), hold: Duration::ZERO }, |_, part| {
            let seqs = part.items.iter().map(|item| match item {
                Item::Message(message) => message.seq,
                other => panic!("{other:?}"),
            });
            let seqs: Vec<Seq> = seqs.collect();
            part.members.iter().for_each(|member| heard.entry(*member).or_default().extend(&seqs));
        })
    };
    let (mut effects, now) = (Vec::new(), Instant::now());
    hear(&mut hub, "large", 1);
    for round in 0..4_u32 {
        deliver(&mut hub, &mut heard);
        // Of those who were handed it, of those who are still owed it, and of those who joined since.
        for member in [round, 499 - round, 60 + round * 30, 1_000 + round] {
            hub.leave(&large, member, now);
            heard.remove(&member);
        }
        let head = hub.head(&large).unwrap();
        hub.join(&large, 1_001 + round, head, head, &mut effects);
        hear(&mut hub, "large", head.seq + 1);
        hub.join(&large, 2_001 + round, Place { epoch: 1, seq: head.seq + 1 }, head, &mut effects);
    }
    while deliver(&mut hub, &mut heard) == Next::Now {}
    assert!(effects.is_empty(), "{effects:?}");
    let head = hub.head(&large).unwrap().seq;
    for member in 0..500 {
        let gone = (0..4).any(|round| [round, 499 - round, 60 + round * 30].contains(&member));
        let expected = (!gone).then(|| (1..=head).collect::<Vec<Seq>>());
        assert_eq!(heard.get(&member).cloned(), expected, "member {member}");
    }
    assert_eq!(heard[&1_004], [5], "who came while something waited hears what came after");
    assert_eq!((heard.get(&2_001).cloned(), heard.get(&2_004).cloned()), (Some(vec![3, 4, 5]), None));
}

fn answer(head: Seq, entries: impl IntoIterator<Item = Seq>) -> Answer {
    let entry = |seq| Arc::new(Message { seq, ..(*Log::default().append()).clone() });
    let entries = entries.into_iter().map(entry).collect();
    Answer { head: Place { epoch: 1, seq: head }, entries, ..Answer::default() }
}

#[test]
fn what_continues_the_head_is_delivered_whatever_the_room_waits_for() {
    let mut hub = hub_of(&[("r", 2)]);
    let (mut effects, now) = (Vec::new(), Instant::now());
    let place = |seq| Place { epoch: 1, seq };
    let deliver = |hub: &mut Hub| {
        let mut told = 0;
        let turn = Turn { members: usize::MAX, now, hold: Duration::ZERO };
        hub.deliver(turn, |_, part| told += part.members.len() * part.items.len());
        told
    };
    hear(&mut hub, "r", 1);
    assert_eq!(deliver(&mut hub), 2);
    // Somebody joins and sees that the log is further than the bus: the room is not held up by that.
    hub.join(&room(), 9, place(0), place(1), &mut effects);
    hub.fetched(&room(), Asker::Member(9), place(0), answer(2, 1..=2), now, &mut effects);
    effects.clear();
    hear(&mut hub, "r", 2);
    assert_eq!(deliver(&mut hub), 3, "at once, to all three");
    // What was suspected has come by itself: nobody is asked.
    hub.tick(now + limits().retry, &mut effects);
    assert_eq!(effects, []);
    // The same while the log is asked; its answer is good for what it still adds.
    hub.heard(&room(), &mut effects);
    assert_eq!(effects, [Effect::Fetch { room: room(), asker: Asker::Room, after: place(2) }]);
    hear(&mut hub, "r", 3);
    assert_eq!(deliver(&mut hub), 3);
    effects.clear();
    hub.fetched(&room(), Asker::Room, place(2), answer(4, 3..=4), now, &mut effects);
    assert_eq!((deliver(&mut hub), effects), (3, vec![]));
}

#[test]
fn a_room_that_the_bus_does_not_carry_yet_is_compared_like_any_other() {
    let (mut hub, mut effects, start) = (Hub::new(limits()), Vec::new(), Place { epoch: 1, seq: 0 });
    hub.join(&room(), 1, start, start, &mut effects);
    effects.clear();
    hub.compared(&room(), start, Place { epoch: 1, seq: 1 }, &mut effects);
    assert_eq!(effects, [Effect::Fetch { room: room(), asker: Asker::Room, after: start }]);
    hub.fetched(&room(), Asker::Room, start, answer(1, [1]), Instant::now(), &mut effects);
    assert_eq!(hub.head(&room()), Some(Place { epoch: 1, seq: 1 }));
}

/// Fails whatever is asked, and says after how long it was asked again each time.
fn pauses(hub: &mut Hub, asker: Asker, failure: Failure, times: usize) -> Vec<Duration> {
    let (mut now, mut effects, mut pauses) = (Instant::now(), Vec::new(), Vec::new());
    for _ in 0..times {
        let failed = now;
        hub.fetch_failed(&room(), asker, failure, now, &mut effects);
        while !effects.iter().any(|effect| matches!(effect, Effect::Fetch { .. })) {
            if effects.iter().any(|effect| matches!(effect, Effect::GiveUp { .. })) || now - failed > limits().longest {
                return pauses;
            }
            now += Duration::from_millis(5);
            hub.tick(now, &mut effects);
        }
        effects.clear();
        pauses.push(now - failed);
    }
    pauses
}

#[test]
fn what_is_not_answered_is_asked_again_after_growing_pauses() {
    for asker in [Asker::Room, Asker::Member(5)] {
        let mut hub = hub_of(&[("r", 1)]);
        hear(&mut hub, "r", 1);
        hub.join(&room(), 5, Place { epoch: 1, seq: 0 }, Place { epoch: 1, seq: 1 }, &mut Vec::new());
        let pauses = pauses(&mut hub, asker, Failure::Passing, 12);
        assert_eq!(pauses.len(), 12, "for as long as nobody answers");
        // Once anything is answered again nobody waits for their pause.
        let (mut effects, now) = (Vec::new(), Instant::now());
        hub.fetch_failed(&room(), asker, Failure::Passing, now, &mut effects);
        hub.tick(now, &mut effects);
        assert_eq!(effects, []);
        hub.end_pauses(now);
        hub.tick(now, &mut effects);
        assert!(matches!(effects[..], [Effect::Fetch { .. }]), "{effects:?}");
        for (tries, pause) in pauses.iter().enumerate() {
            let whole = limits().longest.min(limits().retry * (1 << tries.min(8)));
            assert!((whole / 2..=whole + Duration::from_millis(5)).contains(pause), "{pauses:?}");
        }
    }
}

#[test]
fn what_fails_for_good_is_given_up_and_said() {
    // A member that cannot be told what it has missed no longer hears the room.
    let mut hub = hub_of(&[("r", 1)]);
    hear(&mut hub, "r", 1);
    hub.join(&room(), 5, Place { epoch: 1, seq: 0 }, Place { epoch: 1, seq: 1 }, &mut Vec::new());
    assert_eq!(pauses(&mut hub, Asker::Member(5), Failure::Lasting, 20).len(), 4);
    assert_eq!(hub.counts.given_up, 1);

    // A room whose gap cannot be filled says so, and goes on behind it.
    let mut hub = hub_of(&[("r", 2)]);
    let mut effects = Vec::new();
    let message = Message { seq: 3, ..(*Log::default().append()).clone() };
    hub.logged(Arc::new(message), &mut effects);
    assert_eq!(pauses(&mut hub, Asker::Room, Failure::Lasting, 20).len(), 4);
    let mut told = Vec::new();
    hub.deliver(Turn { members: 64, now: Instant::now(), hold: Duration::ZERO }, |_, part| {
        told.extend(part.items.to_vec())
    });
    assert!(matches!(told[..], [Item::Truncated { from: 1, to: 2 }, Item::Message(_)]), "{told:?}");
    hear(&mut hub, "r", 4);

    // So does an answer that names more than it gives, again and again.
    let mut hub = hub_of(&[("r", 1)]);
    let (mut now, mut asked) = (Instant::now(), 0);
    let start = Place { epoch: 1, seq: 0 };
    hub.compared(&room(), start, Place { epoch: 1, seq: 9 }, &mut effects);
    for _ in 0..200 {
        for effect in std::mem::take(&mut effects) {
            assert!(matches!(effect, Effect::Fetch { .. }));
            asked += 1;
            hub.fetched(&room(), Asker::Room, start, answer(9, []), now, &mut effects);
        }
        now += Duration::from_millis(100);
        hub.tick(now, &mut effects);
    }
    assert_eq!((asked, hub.counts.given_up), (5, 1));
}

#[test]
fn what_waits_for_repairs_is_bounded_in_bytes_over_all_rooms() {
    let mut hub = hub_of(&[("a", 1), ("b", 1)]);
    let mut effects = Vec::new();
    let long = |room: &str, seq| {
        let (room, body) = (RoomId::new(room).unwrap(), Body::Binary(vec![0; 1_000].into()));
        Arc::new(Message { room, epoch: 1, seq, body, ..(*Log::default().append()).clone() })
    };
    for seq in 2..=3 {
        ["a", "b"].into_iter().for_each(|room| hub.logged(long(room, seq), &mut effects));
    }
    assert_eq!((hub.pending_bytes(), hub.counts.overflows), (3 * 1_256, 1));
    // What was dropped is fetched, and what has waited leaves its place to others.
    for name in ["a", "b"] {
        let (room, start, now) = (RoomId::new(name).unwrap(), Place { epoch: 1, seq: 0 }, Instant::now());
        let missing = Answer { head: Place { epoch: 1, seq: 3 }, entries: vec![long(name, 1)], ..Answer::default() };
        hub.fetched(&room, Asker::Room, start, missing, now, &mut effects);
    }
    assert_eq!(hub.pending_bytes(), 0);
    assert!(matches!(effects.last(), Some(Effect::Fetch { after: Place { seq: 2, .. }, .. })), "{effects:?}");
}
