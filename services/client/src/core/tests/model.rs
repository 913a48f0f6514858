//! A model of the server side, driven at random: logs with epochs, retention and deduplication; connections that lose,
//! delay, repeat and refuse. Whatever it does, the application's copy must be the log, and every send must end.

use std::collections::{BTreeMap, HashSet, VecDeque};

use im_wire::native::Response;
use proptest::prelude::*;

use super::*;

/// What may happen next.
#[derive(Debug, Clone)]
enum Happening {
    /// Another user says something in a room.
    Said(u8),
    /// The application sends to a room.
    Send(u8),
    /// The server takes the next request of a connection, and answers it so.
    Serve(bool, Answer),
    /// The next frame of a connection arrives.
    Arrive(bool),
    /// The same frame arrives twice.
    ArriveTwice(bool),
    /// A connection breaks; what was under way in both directions is lost.
    Break(bool),
    /// An attempt to connect succeeds or not.
    Dialled(bool),
    /// The store loses the tail of a room.
    Failover(u8, u8),
    /// Retention removes the beginning of a room.
    Retention(u8, u8),
    /// The server asks a connection to go elsewhere.
    Move(bool),
    /// The server takes a request from a connection that the client believes to be gone.
    ServeGone,
    /// Time passes.
    Wait,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Answer {
    Well,
    /// A send is refused for the moment and not stored.
    Limited,
    /// A send is stored, and the answer says that nobody knows.
    StoredUnsure,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    epoch: Epoch,
    client_id: String,
}

#[derive(Debug, Default)]
struct Log {
    epoch: Epoch,
    /// Of each failover: the epoch it began, and the head it left.
    bases: Vec<(Epoch, Seq)>,
    /// By seq; those that retention removed are missing.
    entries: BTreeMap<Seq, Entry>,
    head: Seq,
    dedupe: HashMap<String, Seq>,
}

impl Log {
    fn append(&mut self, client_id: &str) -> (Seq, bool) {
        if let Some(seq) = self.dedupe.get(client_id) {
            return (*seq, true);
        }
        self.head += 1;
        self.entries.insert(
            self.head,
            Entry {
                epoch: self.epoch,
                client_id: client_id.to_owned(),
            },
        );
        self.dedupe.insert(client_id.to_owned(), self.head);
        (self.head, false)
    }

    fn failover(&mut self, lost: Seq) {
        let oldest = self.entries.keys().next().copied().unwrap_or(self.head + 1);
        self.head = self.head.saturating_sub(lost).max(oldest - 1);
        let taken_back = self.entries.split_off(&(self.head + 1));
        self.dedupe.retain(|_, seq| !taken_back.contains_key(seq));
        self.epoch += 1;
        self.bases.push((self.epoch, self.head));
    }

    fn reset_to(&self, epoch: Epoch, seq: Seq) -> Option<Seq> {
        let bases = self
            .bases
            .iter()
            .filter(|(began, _)| *began > epoch)
            .map(|(_, base)| *base);
        bases.chain([self.head]).filter(|base| seq > *base).min()
    }
}

#[derive(Debug, Default)]
struct Conn {
    requests: VecDeque<Request>,
    frames: VecDeque<Response>,
    /// Rooms that are heard: the epoch known and the last seq queued.
    heard: HashMap<RoomId, (Epoch, Seq)>,
}

struct World {
    play: Play,
    logs: HashMap<RoomId, Log>,
    conns: [Option<Conn>; 2],
    /// Requests of ended connections that the server has not taken yet, per connection.
    gone: Vec<VecDeque<Request>>,
    dialling: [bool; 2],
    copies: HashMap<RoomId, BTreeMap<Seq, Entry>>,
    last: HashMap<RoomId, Seq>,
    tickets: Vec<(String, oneshot::Receiver<Result<Sent, SendError>>)>,
    sent: u32,
}

fn name(room: u8) -> String {
    format!("r{}", room % 2)
}

impl World {
    fn new() -> Self {
        let positions = (0..2)
            .map(|number| Position {
                room: room(&name(number)),
                epoch: 1,
                seq: Some(0),
            })
            .collect();
        let logs = (0..2)
            .map(|number| {
                (
                    room(&name(number)),
                    Log {
                        epoch: 1,
                        ..Log::default()
                    },
                )
            })
            .collect();
        Self {
            play: Play::new(setup(options(), positions, false, false)),
            logs,
            conns: [None, None],
            gone: Vec::new(),
            dialling: [false; 2],
            copies: HashMap::new(),
            last: HashMap::new(),
            tickets: Vec::new(),
            sent: 0,
        }
    }

    fn slot(which: bool) -> Slot {
        if which { Slot::B } else { Slot::A }
    }

    /// Carries out what the core wishes and takes what it delivers.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        while let Some(action) = self.play.core.action() {
            match action {
                Action::Dial { slot, .. } => self.dialling[slot.index()] = true,
                Action::Write { slot, request } => {
                    if let Some(conn) = &mut self.conns[slot.index()] {
                        conn.requests.push_back(request);
                    }
                }
                Action::Hangup { slot } => {
                    self.gone
                        .extend(self.conns[slot.index()].take().map(|conn| conn.requests));
                    self.dialling[slot.index()] = false;
                }
                Action::FetchToken { .. } => prop_assert!(false, "a fixed token is not renewed"),
            }
        }
        for event in self.play.events() {
            self.hear(event)?;
        }
        Ok(())
    }

    fn hear(&mut self, event: Event) -> Result<(), TestCaseError> {
        match event {
            Event::Message(message) => {
                let last = self.last.entry(message.room.clone()).or_default();
                prop_assert_eq!(message.seq, *last + 1, "room {}", message.room);
                *last = message.seq;
                let entry = Entry {
                    epoch: message.epoch,
                    client_id: message.client_id,
                };
                self.copies
                    .entry(message.room)
                    .or_default()
                    .insert(message.seq, entry);
            }
            Event::Reset { room, seq, .. } => {
                let last = self.last.entry(room.clone()).or_default();
                prop_assert!(seq < *last, "a reset that takes nothing back");
                *last = seq;
                self.copies.entry(room).or_default().split_off(&(seq + 1));
            }
            Event::Truncated { room, from, to } => {
                let last = self.last.entry(room).or_default();
                prop_assert_eq!(from, *last + 1);
                *last = to;
            }
            Event::Ended(end) => prop_assert!(false, "ended: {end}"),
            _ => {}
        }
        Ok(())
    }

    fn happen(&mut self, happening: &Happening) -> Result<(), TestCaseError> {
        let now = self.play.now;
        match happening {
            Happening::Said(number) => {
                self.sent += 1;
                let said = format!("other-{}", self.sent);
                self.log(&name(*number)).append(&said);
                self.publish();
            }
            Happening::Send(number) => {
                self.sent += 1;
                let client_id = format!("mine-{:06}", self.sent);
                let answer = self.play.send(&name(*number), &client_id);
                self.tickets.push((client_id, answer));
            }
            Happening::Serve(which, answer) => self.serve(Self::slot(*which), *answer),
            Happening::Arrive(which) => self.arrive(Self::slot(*which), false),
            Happening::ArriveTwice(which) => self.arrive(Self::slot(*which), true),
            Happening::Break(which) => {
                if let Some(conn) = self.conns[usize::from(*which)].take() {
                    self.gone.push(conn.requests);
                    self.play.core.lost(
                        Self::slot(*which),
                        Loss {
                            code: None,
                            reason: "broken".to_owned(),
                        },
                        now,
                    );
                }
            }
            Happening::Dialled(well) => self.dialled(*well),
            Happening::Failover(number, lost) => {
                self.log(&name(*number)).failover(u64::from(*lost));
                self.publish();
            }
            Happening::Retention(number, kept) => {
                let log = self.log(&name(*number));
                let first = (log.head + 1).saturating_sub(u64::from(*kept));
                log.entries = log.entries.split_off(&first);
            }
            Happening::Move(which) => {
                if let Some(conn) = &mut self.conns[usize::from(*which)]
                    && !conn.heard.is_empty()
                {
                    let op = ServerOp::Move {
                        after_ms: 50,
                        deadline_ms: 1_000,
                        to: Vec::new(),
                        reason: "draining".to_owned(),
                    };
                    conn.frames.push_back(Response { req: 0, op });
                }
            }
            Happening::ServeGone => {
                let sends = self
                    .gone
                    .iter_mut()
                    .find_map(VecDeque::pop_front)
                    .map(|request| request.op);
                if let Some(ClientOp::Send {
                    room, client_id, ..
                }) = sends
                {
                    self.logs.get_mut(&room).unwrap().append(&client_id);
                    self.publish();
                }
            }
            Happening::Wait => {
                if self.play.core.timer().is_some() {
                    self.play.wait();
                }
            }
        }
        self.settle()
    }

    fn log(&mut self, name: &str) -> &mut Log {
        self.logs.get_mut(&room(name)).unwrap()
    }

    fn dialled(&mut self, well: bool) {
        for slot in Slot::BOTH {
            if !std::mem::take(&mut self.dialling[slot.index()]) {
                continue;
            }
            if well {
                self.conns[slot.index()] = Some(Conn::default());
                self.play
                    .core
                    .dialled(slot, "token".to_owned(), self.play.now);
            } else {
                self.play.core.lost(
                    slot,
                    Loss {
                        code: None,
                        reason: "refused".to_owned(),
                    },
                    self.play.now,
                );
            }
        }
    }

    fn arrive(&mut self, slot: Slot, twice: bool) {
        let Some(frame) = self.conns[slot.index()]
            .as_mut()
            .and_then(|conn| conn.frames.pop_front())
        else {
            return;
        };
        self.play.core.frame(slot, frame.clone(), self.play.now);
        let repeatable = matches!(frame.op, ServerOp::Message(_) | ServerOp::Ack { .. });
        if twice && repeatable && self.conns[slot.index()].is_some() {
            self.play.core.frame(slot, frame, self.play.now);
        }
    }

    fn serve(&mut self, slot: Slot, answer: Answer) {
        let welcome = self.play.welcome(0);
        let Some(conn) = &mut self.conns[slot.index()] else {
            return;
        };
        let Some(Request { req, op }) = conn.requests.pop_front() else {
            return;
        };
        let mut say = |op| conn.frames.push_back(Response { req, op });
        match op {
            ClientOp::Auth { resume, .. } => {
                say(welcome);
                self.subscribe(slot, req, resume);
            }
            ClientOp::Subscribe { rooms, .. } => self.subscribe(slot, req, rooms),
            ClientOp::Send {
                room, client_id, ..
            } => {
                if answer == Answer::Limited {
                    return say(ServerOp::Error(error(ErrorCode::RateLimited)));
                }
                let log = self.logs.get_mut(&room).unwrap();
                let (seq, duplicate) = log.append(&client_id);
                let epoch = log.epoch;
                say(match answer {
                    Answer::StoredUnsure => ServerOp::Error(error(ErrorCode::Unavailable)),
                    _ => ServerOp::Ack {
                        room,
                        client_id,
                        id: String::new(),
                        epoch,
                        seq,
                        time_ms: 0,
                        duplicate,
                    },
                });
                self.publish();
            }
            ClientOp::Unsubscribe { rooms } => {
                say(ServerOp::Done);
                conn.heard.retain(|room, _| !rooms.contains(room));
            }
            ClientOp::Ping => say(ServerOp::Pong { time_ms: 0 }),
            other => panic!("not asked for here: {other:?}"),
        }
    }

    fn subscribe(&mut self, slot: Slot, req: u32, positions: Vec<Position>) {
        let Some(conn) = &mut self.conns[slot.index()] else {
            return;
        };
        let rooms = positions.iter().map(|position| {
            let log = &self.logs[&position.room];
            heard(position.room.as_str(), log.epoch, log.head)
        });
        conn.frames.push_back(Response {
            req,
            op: ServerOp::Subscribed {
                rooms: rooms.collect(),
            },
        });
        for Position { room, epoch, seq } in positions {
            conn.heard.insert(room, (epoch, seq.unwrap_or(0)));
        }
        self.publish();
    }

    /// Brings every connection to the head of what it hears.
    fn publish(&mut self) {
        for conn in self.conns.iter_mut().flatten() {
            let Conn { heard, frames, .. } = conn;
            for (room, (epoch, seq)) in heard {
                let log = &self.logs[room];
                let mut say = |op| frames.push_back(Response { req: 0, op });
                if let Some(base) = log.reset_to(*epoch, *seq) {
                    say(ServerOp::Reset {
                        room: room.clone(),
                        epoch: log.epoch,
                        seq: base,
                    });
                    *seq = base;
                }
                *epoch = log.epoch;
                let first = log.entries.keys().next().copied().unwrap_or(log.head + 1);
                if first > *seq + 1 {
                    say(ServerOp::Truncated {
                        room: room.clone(),
                        from: *seq + 1,
                        to: first - 1,
                    });
                    *seq = first - 1;
                }
                for (next, entry) in log.entries.range(*seq + 1..) {
                    let mut message = message(room.as_str(), entry.epoch, *next);
                    message.client_id.clone_from(&entry.client_id);
                    say(ServerOp::Message(message));
                    *seq = *next;
                }
            }
        }
    }

    /// From now on everything goes well, until nothing is left to do.
    fn heal(&mut self) -> Result<(), TestCaseError> {
        let calm = [
            Happening::Dialled(true),
            Happening::Serve(false, Answer::Well),
            Happening::Arrive(false),
            Happening::Serve(true, Answer::Well),
            Happening::Arrive(true),
        ];
        let end = self.play.now + Duration::from_secs(120);
        while self.play.now < end {
            for _ in 0..40 {
                calm.iter()
                    .try_for_each(|happening| self.happen(happening))?;
            }
            self.happen(&Happening::Wait)?;
        }
        Ok(())
    }

    /// `in_order`: nothing happened that may let a send overtake another.
    fn judge(&mut self, in_order: bool) -> Result<(), TestCaseError> {
        let mut acknowledged = HashSet::new();
        for (client_id, answer) in &mut self.tickets {
            match answer.try_recv() {
                Ok(Ok(_)) => drop(acknowledged.insert(client_id.clone())),
                Ok(Err(SendError::Unknown { .. } | SendError::NotStored { .. })) => {}
                other => prop_assert!(false, "{} has no end: {:?}", client_id, other),
            }
        }
        for (id, log) in &self.logs {
            let copy = self.copies.entry(id.clone()).or_default();
            prop_assert_eq!(
                self.last.get(id).copied().unwrap_or(0),
                log.head,
                "room {} is not at its head",
                id
            );
            let kept = |entries: &BTreeMap<Seq, Entry>,
                        in_too: &BTreeMap<Seq, Entry>|
             -> BTreeMap<Seq, Entry> {
                entries
                    .iter()
                    .filter(|(seq, _)| in_too.contains_key(seq))
                    .map(|(seq, entry)| (*seq, entry.clone()))
                    .collect()
            };
            prop_assert_eq!(kept(&log.entries, copy), kept(copy, &log.entries));
            let mine = log
                .entries
                .values()
                .map(|entry| &entry.client_id)
                .filter(|id| id.starts_with("mine"));
            let mine: Vec<_> = mine
                .filter(|client_id| acknowledged.contains(*client_id))
                .collect();
            prop_assert_eq!(
                mine.iter().collect::<HashSet<_>>().len(),
                mine.len(),
                "stored twice"
            );
            prop_assert!(!in_order || mine.is_sorted(), "overtaken: {:?}", mine);
        }
        Ok(())
    }
}

fn happening() -> impl Strategy<Value = Happening> {
    let answer = prop_oneof![8 => Just(Answer::Well), 1 => Just(Answer::Limited), 1 => Just(Answer::StoredUnsure)];
    prop_oneof![
        6 => any::<u8>().prop_map(Happening::Said),
        6 => any::<u8>().prop_map(Happening::Send),
        12 => (any::<bool>(), answer).prop_map(|(which, answer)| Happening::Serve(which, answer)),
        24 => any::<bool>().prop_map(Happening::Arrive),
        2 => any::<bool>().prop_map(Happening::ArriveTwice),
        2 => any::<bool>().prop_map(Happening::Break),
        8 => prop::bool::weighted(0.8).prop_map(Happening::Dialled),
        1 => (any::<u8>(), 0..5_u8).prop_map(|(room, lost)| Happening::Failover(room, lost)),
        1 => (any::<u8>(), 0..5_u8).prop_map(|(room, kept)| Happening::Retention(room, kept)),
        2 => any::<bool>().prop_map(Happening::Move),
        2 => Just(Happening::ServeGone),
        3 => Just(Happening::Wait),
    ]
}

fn run(happenings: &[Happening]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new();
        world.settle()?;
        for happening in happenings {
            world.happen(happening)?;
        }
        world.heal()?;
        let overtaking = |happening: &Happening| {
            matches!(
                happening,
                Happening::Serve(_, Answer::Limited | Answer::StoredUnsure)
                    | Happening::Failover(..)
            )
        };
        world.judge(!happenings.iter().any(overtaking))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Repeats, resets, truncation, moves, and breaks between a send and its acknowledgement: each room is delivered in
    /// order and once, is the log in the end, and every send ends.
    #[test]
    fn delivery_is_in_order_and_once_and_every_send_ends(happenings in prop::collection::vec(happening(), 1..250)) {
        run(&happenings)?;
    }

    /// Without failovers and refusals the order of the sends is the order of the log.
    #[test]
    fn sends_are_stored_in_the_order_in_which_they_were_made(
        happenings in prop::collection::vec(happening().prop_filter("may overtake", |happening| {
            !matches!(happening, Happening::Serve(_, Answer::Limited | Answer::StoredUnsure) | Happening::Failover(..))
        }), 1..250),
    ) {
        run(&happenings)?;
    }
}
