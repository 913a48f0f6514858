//! The hub against a model: a log that grows and loses its tail, a bus that loses, repeats and reorders, fetches that fail
//! or come late, members that come and go at any position. In the end every member's record is the log over its
//! membership, with resets honoured and nothing out of order on the way.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use im_wire::ids::{Epoch, Seq};
use im_wire::native::Message;
use proptest::prelude::*;
use tokio::time::Instant;

use super::super::{Answer, Asker, Effect, Failure, Hub, Item, LogPosition, Member, Part, Turn};
use super::{limits, message, room, typing};

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
    fn head(&self) -> LogPosition {
        LogPosition {
            epoch: self.transitions.last().map_or(0, |(epoch, _)| *epoch),
            seq: self.entries.len() as Seq,
        }
    }

    fn append(&mut self) -> Arc<Message> {
        if self.transitions.is_empty() || std::mem::take(&mut self.lost_tail) {
            self.transitions
                .push((self.spoken + 1, self.entries.len() as Seq));
        }
        self.spoken += 1;
        let epoch = self.head().epoch;
        let seq = self.entries.len() as Seq + 1;
        let (id, client_id) = (self.spoken.to_string(), self.spoken.to_string());
        let message = Arc::new(Message {
            epoch,
            id,
            client_id,
            ..message("r", seq)
        });
        self.entries.push(Arc::clone(&message));
        message
    }

    fn answer(&self, after: LogPosition) -> Answer {
        const PAGE: usize = 3;
        let head = self.head();
        let later = |(epoch, _): &&(Epoch, Seq)| *epoch > after.epoch;
        let known = self
            .transitions
            .iter()
            .any(|(epoch, _)| *epoch == after.epoch);
        let newest = self
            .transitions
            .last()
            .filter(|_| !known)
            .map(|(_, base)| *base);
        let stands = if after.epoch == 0 {
            head.seq
        } else {
            let base = self.transitions.iter().find(later).map(|(_, base)| *base);
            base.or(newest).unwrap_or(head.seq).min(head.seq)
        };
        let reset_to = (after.seq > stands).then_some(stands);
        let from = reset_to.unwrap_or(after.seq) as usize;
        let entries = self.entries.iter().skip(from).take(PAGE).cloned().collect();
        Answer {
            head,
            reset_to,
            truncated: None,
            entries,
        }
    }
}

struct World {
    hub: Hub,
    log: Log,
    bus: VecDeque<Arc<Message>>,
    subscribed: bool,
    hear_wanted: bool,
    asked: VecDeque<(Asker, LogPosition, Option<Answer>)>,
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
                assert_eq!(
                    signal.operation, last as i32,
                    "a signal is heard behind exactly what was said before it"
                );
            }
        }
    }
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
        let Self {
            records, now, hold, ..
        } = self;
        self.hub.deliver(
            Turn {
                members,
                now: *now,
                hold: *hold,
            },
            |_, part| tell(records, &part),
        );
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Subscribe(_) => self.hear_wanted = true,
                Effect::Unsubscribe(_) => (self.hear_wanted, self.subscribed) = (false, false),
                Effect::Fetch { asker, after, .. } => self.asked.push_back((asker, after, None)),
                Effect::Tell { member, items, .. } => {
                    let record = self
                        .records
                        .get_mut(&member)
                        .expect("a member that catches up has joined");
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
                    self.log
                        .transitions
                        .retain(|(_, base)| (*base as usize) < keep || *base == 0);
                    self.log.lost_tail = true;
                }
            }
            Step::Join { member, seq } if !self.records.contains_key(&member) => {
                let head = self.log.head();
                let seq = seq.min(head.seq);
                // The epoch of the entry that the member had last.
                let epoch = seq
                    .checked_sub(1)
                    .and_then(|n| self.log.entries.get(n as usize))
                    .map_or(0, |m| m.epoch);
                self.records.insert(
                    member,
                    Record {
                        from: seq,
                        kept: Vec::new(),
                    },
                );
                self.with(|hub, effects| {
                    hub.join(&room(), member, LogPosition { epoch, seq }, head, effects)
                });
            }
            Step::Leave(member) if self.records.contains_key(&member) => {
                self.records.remove(&member);
                self.hub.leave(&room(), member, now);
                self.asked
                    .retain(|(asker, ..)| *asker != Asker::Member(member));
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
                self.with(|hub, effects| {
                    hub.fetch_failed(&room(), asker, Failure::Passing, now, effects)
                });
            }
            Step::Heard if self.hear_wanted && !self.subscribed => {
                self.subscribed = true;
                self.with(|hub, effects| hub.subscribed(&room(), effects));
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
