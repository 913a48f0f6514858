//! Applies what the hub decides: subscriptions, fetches and comparisons as [`super::questions`] lets them through, and their
//! answers.

use std::rc::Rc;

use im_proto::v1::{Fault, Heads, call};
use im_wire::code::ErrorCode;
use im_wire::ids::RoomId;
use tokio::time::Instant;

use super::Shard;
use super::questions::{PageInFlight, Question};
use crate::connection::Connection;
use crate::hub::{Answer, Asker, Effect, Failure, LogPosition, Member};
use crate::metrics;

/// Why the client no longer hears a room whose log cannot be read.
const UNREADABLE: &str = "unreadable";

impl Shard {
    /// Does what the hub has decided.
    pub(crate) fn apply(self: &Rc<Self>, effects: Vec<Effect>) {
        let mut asks = false;
        for effect in effects {
            match effect {
                Effect::Subscribe(room) => self.router.subscribe(self.number, room),
                Effect::Unsubscribe(room) => {
                    self.questions.borrow_mut().forget_room(&room);
                    self.router.unsubscribe(self.number, &room);
                }
                Effect::Fetch { room, asker, after } => {
                    let mut questions = self.questions.borrow_mut();
                    match asker {
                        Asker::Room => questions.repair(room, after),
                        Asker::Member(member) => questions.page(room, member, after),
                    }
                    asks = true;
                }
                Effect::Tell {
                    room,
                    member,
                    items,
                } => self.tell(&room, member, &items),
                Effect::GiveUp { room, member } => {
                    if let Some(connection) = self.connection(member) {
                        self.drop_room(&connection, &room, UNREADABLE);
                    }
                }
            }
        }
        if asks {
            self.ask_on();
        }
        if self.hub.borrow().is_dirty() {
            self.has_work.notify_one();
        }
    }

    /// Asks whatever may be asked now.
    pub(super) fn ask_on(self: &Rc<Self>) {
        let now = Instant::now();
        loop {
            let next = self
                .questions
                .borrow_mut()
                .next(now, |member| self.pages_taken(member));
            let Some(question) = next else { return };
            let shard = Rc::clone(self);
            match question {
                Question::Repair { room, after } => {
                    drop(tokio::task::spawn_local(shard.ask_repair(room, after)))
                }
                Question::Page {
                    room,
                    member,
                    after,
                    in_flight,
                } => {
                    drop(tokio::task::spawn_local(
                        shard.ask_page(room, member, after, in_flight),
                    ));
                }
                Question::Heads(rooms) => drop(tokio::task::spawn_local(shard.ask_heads(rooms))),
            }
        }
    }

    /// Connections that did not take another page are looked at again, and so is whether somebody answers again.
    pub(super) fn ask_those_that_waited(self: &Rc<Self>) {
        self.questions.borrow_mut().look_again();
        self.ask_on();
    }

    /// How many pages may be under way for a connection. Whether one that comes still fits is looked at then.
    fn pages_taken(&self, member: Member) -> usize {
        let page = self.options.fetch_bytes as usize;
        let connections = self.connections.borrow();
        let connection = connections.get(member as usize).filter(|connection| {
            connection
                .authenticated()
                .is_some_and(|identity| self.paces.may_read(&identity.user))
        });
        connection.map_or(0, |connection| connection.pages(page))
    }

    async fn ask_repair(self: Rc<Self>, room: RoomId, after: LogPosition) {
        let answer = self.logic.fetch(&room, after, true).await;
        let now = Instant::now();
        self.questions
            .borrow_mut()
            .repair_ended(is_answer(&answer), now);
        self.fetched(
            &room,
            Asker::Room,
            after,
            answer.map(|answer| (*answer).clone()),
            now,
        );
    }

    async fn ask_page(
        self: Rc<Self>,
        room: RoomId,
        member: Member,
        after: LogPosition,
        in_flight: PageInFlight,
    ) {
        let answer = self.logic.fetch(&room, after, false).await;
        let now = Instant::now();
        let wanted =
            self.questions
                .borrow_mut()
                .page_ended(member, &in_flight, is_answer(&answer), now);
        let connection = self.connection(member).filter(|_| wanted);
        if let (Ok(answer), Some(identity)) = (
            &answer,
            connection.as_ref().and_then(|one| one.authenticated()),
        ) {
            self.paces.has_read(&identity.user, answer.bytes());
        }
        let answer = match (answer, connection) {
            (_, None) => return self.ask_on(),
            (Err(fault), _) => Err(fault),
            (Ok(answer), Some(connection)) => match fitting(&connection, &answer) {
                Some(answer) => Ok(answer),
                None => {
                    // What was said meanwhile has filled the outbox: asked again when there is room.
                    self.questions.borrow_mut().page_again(room, member, after);
                    return self.ask_on();
                }
            },
        };
        self.questions.borrow_mut().page_taken(member);
        self.fetched(&room, Asker::Member(member), after, answer, now);
    }

    fn fetched(
        self: &Rc<Self>,
        room: &RoomId,
        asker: Asker,
        after: LogPosition,
        answer: Result<Answer, Fault>,
        now: Instant,
    ) {
        let mut effects = Vec::new();
        match answer {
            Ok(answer) => {
                self.hub
                    .borrow_mut()
                    .fetched(room, asker, after, answer, now, &mut effects)
            }
            Err(fault) => {
                let failure = failure(&fault);
                tracing::debug!(%room, ?asker, code = fault.code, text = fault.text, "cannot read the log");
                self.hub
                    .borrow_mut()
                    .fetch_failed(room, asker, failure, now, &mut effects);
            }
        }
        self.apply(effects);
        self.ask_on();
    }

    /// The rooms' heads are to be compared with the log's.
    pub(super) fn compare(self: &Rc<Self>, rooms: impl IntoIterator<Item = RoomId>) {
        {
            let mut questions = self.questions.borrow_mut();
            rooms.into_iter().for_each(|room| questions.compare(room));
        }
        self.ask_on();
    }

    async fn ask_heads(self: Rc<Self>, rooms: Vec<RoomId>) {
        let stands: Vec<(RoomId, LogPosition)> = {
            let hub = self.hub.borrow();
            rooms
                .into_iter()
                .filter_map(|room| hub.head(&room).map(|place| (room, place)))
                .collect()
        };
        metrics::COMPARED.inc_by(stands.len() as u64);
        let names = stands.iter().map(|(room, _)| room.to_string()).collect();
        let answer = self
            .logic
            .heads(call::Op::Heads(Heads { rooms: names }))
            .await;
        self.questions
            .borrow_mut()
            .heads_ended(is_answer(&answer), Instant::now());
        match answer {
            Ok(heads) => {
                let mut effects = Vec::new();
                for ((room, stood), head) in stands.iter().zip(heads) {
                    self.hub
                        .borrow_mut()
                        .compared(room, *stood, head, &mut effects);
                }
                self.apply(effects);
                self.ask_on();
            }
            // Behind those that wait: what was to be compared must not be forgotten.
            Err(_) => self.compare(stands.into_iter().map(|(room, _)| room)),
        }
    }
}

/// Whether somebody was there to answer, be it with a refusal.
fn is_answer<T>(answer: &Result<T, Fault>) -> bool {
    answer
        .as_ref()
        .map_or_else(|fault| failure(fault) == Failure::Lasting, |_| true)
}

/// A defect may be over with the next process that is asked, but is not expected to be.
fn failure(fault: &Fault) -> Failure {
    let lasting = !fault.retryable || fault.code == ErrorCode::Internal.name();
    if lasting {
        Failure::Lasting
    } else {
        Failure::Passing
    }
}

/// As much of an answer as the connection's outbox has room for; `None`: it has room for nothing of it.
fn fitting(connection: &Connection, answer: &Answer) -> Option<Answer> {
    let encoding = connection.encoding.get();
    let mut room = connection.room();
    let fits = answer.entries.iter().take_while(|message| {
        let weight = encoding.weight(message);
        let fits = weight <= room;
        room = room.saturating_sub(weight);
        fits
    });
    let mut fits = fits.count();
    if fits == 0 && !answer.entries.is_empty() {
        if connection.has_waiting() {
            return None;
        }
        // A message that is longer than the outbox goes by itself.
        fits = 1;
    }
    Some(answer.with(answer.entries[..fits].to_vec()))
}
